"""Rows E82 to E95 from newOrder to the problem that the subscriber reads: hostile web servers, zones and TLS servers.

Every variant of a row is tried on its method in `tests/acme_api/va/`; here the whole way is, with what holds after it.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.acme_api.hostile.ground import Ground
from tests.acme_api.va.hostile import HostileServer, serve
from tests.acme_api.va.test_perform import performing
from tests.acme_api.wfe.certificates import self_signed_pair
from tests.acme_client import b64
from tests.mock_dns import MockDns

_STORED = ("orders", "authorizations", "validations", "validation_requests", "rate_limits", "caa_checks")
_OK = "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}"
_REDIRECT = "HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def _web(answers: dict[str, bytes]) -> AsyncIterator[HostileServer]:
    """A web server that answers each host with bytes of its own."""
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        host = head.lower().partition("\r\nhost: ")[2].partition("\r\n")[0].partition(":")[0]
        writer.write(answers.get(host, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
        await writer.drain()

    async with serve(handler) as server:
        yield server


async def _tried(ground: Ground, expected: dict[str, set[str]], method: str = "http-01") -> list[dict[str, Any]]:
    """Orders all names, answers their challenges, and waits: each ends invalid with one of its types of error."""
    order = (await ground.attacker.order(*expected)).require(201)
    found = []
    for url in order.json["authorizations"]:
        challenges = (await ground.attacker.post(url)).json["challenges"]
        chosen = next(each["url"] for each in challenges if each["type"] == method)
        (await ground.attacker.post(chosen, {})).require(200)
    for url, (name, types) in zip(order.json["authorizations"], expected.items(), strict=True):
        async with asyncio.timeout(90):
            while (shown := (await ground.attacker.post(url)).json)["status"] == "pending":  # noqa: ASYNC110 - a poll
                await asyncio.sleep(0.05)
        assert shown["status"] == "invalid", (name, shown)
        error = shown["challenges"][0]["error"]
        assert error["type"].rpartition(":")[2] in types, (name, error)
        found.append(error)
    return found


async def test_e82_to_e87_web_servers(ground: Ground, mock_dns: MockDns) -> None:
    """Rows E82 to E87: redirects, statuses, bodies, leaks and addresses."""
    mock_dns.default["A"] = ["127.0.0.1"]
    connection, different = {"connection"}, {"incorrectResponse"}
    inside = ("http://169.254.169.254/latest/", "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::a00:1]/", "http://10.0.0.1/",
              "http://2130706433/", "http://0/", "http://localhost/")
    odd = ("file:///etc/passwd", "ftp://x.example/", "gopher://x.example/", "javascript:x", "http://a.example:22/",
           "http://a.example:8080/", "http://a.example:0/", "http://a.example:65536/", "http://u:p@a.example/",
           "http://h%00.example/", "http://a.example/" + "x" * 2_001, "")
    bodies = ("x", "root:x:0:0:root", "<script>alert(1)</script>", "\ufeffx", "SSH-2.0-OpenSSH")
    answers: dict[str, bytes] = {}
    for prefix, targets in (("inside", inside), ("odd", odd)):
        for number, target in enumerate(targets):
            answers[f"{prefix}{number}.example"] = _REDIRECT.format(target).encode()
    for status in (303, 300, 206, 204, 404, 500):
        answers[f"status{status}.example"] = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    for number, text in enumerate(bodies):
        answers[f"body{number}.example"] = _OK.format(len(text.encode()), text).encode()
    answers["declared.example"] = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n" + b"x" * 1_000
    answers["chunk.example"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx"
    answers["header.example"] = b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n"
    answers["banner.example"] = b"SSH-2.0-OpenSSH_9.2\r\n\r\n"

    def all_of(prefix: str, types: set[str]) -> dict[str, set[str]]:
        return {name: types for name in answers if name.startswith(prefix)}

    mock_dns.set("private.example", "A", "10.0.0.1")
    mock_dns.set("zero.example", "A", "0.0.0.0")
    mock_dns.set("many.example", "A", *[f"10.0.{number // 250}.{number % 250 + 1}" for number in range(500)])
    async with _web(answers) as server, performing(
            ground.others.database, server.port, resolver=mock_dns.address):
        async with ground.row("E82", stores=_STORED):
            await _tried(ground, all_of("inside", connection | {"dns"}))
        async with ground.row("E83", stores=_STORED):
            await _tried(ground, all_of("odd", connection))
        async with ground.row("E84", stores=_STORED):
            await _tried(ground, all_of("status", different))
        async with ground.row("E85", stores=_STORED):
            await _tried(ground, dict.fromkeys(("declared.example", "chunk.example"), different | connection))
        async with ground.row("E86", stores=_STORED):
            errors = await _tried(ground, all_of("body", different) | {
                "header.example": different | connection, "banner.example": connection})
            for word in ("root:x", "<script", "SSH-2.0", "yyyy"):
                assert word not in str(errors)
        async with ground.row("E87", stores=_STORED):
            await _tried(ground, {name: connection | {"dns"} for name in (
                "private.example", "zero.example", "many.example")})


async def test_e88_to_e90_and_e93_to_e95_zones(ground: Ground, mock_dns: MockDns) -> None:
    """Rows E88 to E90 and E93 to E95: broken zones, values that nearly match, CAA that does not permit."""
    mock_dns.misbehave("_acme-challenge.servfail.example", "servfail", rdtype="TXT")
    mock_dns.misbehave("_acme-challenge.drop.example", "drop", rdtype="TXT")
    mock_dns.set("_acme-challenge.loop.example", "CNAME", "_acme-challenge.loop.example.")
    for name, value in (("quoted", '"AAAA"'), ("lower", "a" * 43), ("padded", "A" * 43 + "="), ("raw", "token.print")):
        mock_dns.set(f"_acme-challenge.{name}.example", "TXT", value)
    mock_dns.set("_acme-challenge.crowd.example", "TXT", *[f"{number:043}" for number in range(99)])
    mock_dns.set("_acme-challenge.foreign.example", "TXT", "B" * 43)
    mock_dns.set("_acme-challenge.example", "TXT", "B" * 43)
    caa = {"critical": '128 foo "x"', "nobody": '0 issue ";"', "empty": '0 issue ""', "bad": '0 issue "%%"',
           "other": '0 issue "other.example"', "accounts": '0 issue "ca.example; accounturi=a; accounturi=b"',
           "account": '0 issue "ca.example; accounturi=https://evil.example/1"',
           "method": '0 issue "ca.example; validationmethods=dns-01"',
           "syntax": '0 issue "ca.example; validationmethods=dns_01"', "parameter": '0 issue "ca.example; accounturi"'}
    for name, record in caa.items():
        mock_dns.set(f"{name}.caa.example", "A", "127.0.0.1")
        mock_dns.set(f"{name}.caa.example", "CAA", record)
    mock_dns.set("www.alias.example", "CNAME", "good.elsewhere.example.")
    mock_dns.set("good.elsewhere.example", "A", "127.0.0.1")
    mock_dns.set("alias.example", "CAA", '0 issue "other.example"')
    mock_dns.misbehave("broken.example", "servfail", rdtype="CAA")
    mock_dns.set("www.broken.example", "A", "127.0.0.1")
    async with _key_authorizations(ground) as server, performing(
            ground.others.database, server.port, resolver=mock_dns.address):
        async with ground.row("E88", stores=_STORED):
            broken = ("servfail", "drop", "loop", "nxdomain")
            await _tried(ground, {f"{name}.example": {"dns"} for name in broken}, "dns-01")
        async with ground.row("E89", stores=_STORED):
            await _tried(ground, {f"{name}.example": {"incorrectResponse"} for name in (
                "quoted", "lower", "padded", "raw", "crowd")}, "dns-01")
        async with ground.row("E90", stores=_STORED):
            await _tried(ground, {"foreign.example": {"incorrectResponse"}, "parent.example": {"dns"}}, "dns-01")
        async with ground.row("E93", stores=_STORED):
            await _tried(ground, {"www.broken.example": {"dns"}})
        async with ground.row("E94", stores=_STORED):
            await _tried(ground, {f"{name}.caa.example": {"caa"} for name in caa})
        async with ground.row("E95", stores=_STORED):
            await _tried(ground, {"www.alias.example": {"caa"}})


@asynccontextmanager
async def _key_authorizations(ground: Ground) -> AsyncIterator[HostileServer]:
    """A web server that answers every token rightly, so that CAA alone decides."""


    thumbprint = b64(ground.attacker.key.thumbprint)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        token = (await reader.readuntil(b"\r\n\r\n")).split()[1].rpartition(b"/")[2].decode()
        body = f"{token}.{thumbprint}"
        writer.write(_OK.format(len(body), body).encode())
        await writer.drain()

    async with serve(handler) as server:
        yield server


async def test_e91_e92_tls_servers(ground: Ground, mock_dns: MockDns, tmp_path: Path) -> None:
    """Rows E91, E92: a TLS server without the protocol, and plain HTTP in its place."""
    mock_dns.default["A"] = ["127.0.0.1"]
    pair = self_signed_pair(tmp_path, "noalpn.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    for row, name, tls, types in (("E91", "noalpn.example", context, {"incorrectResponse", "tls"}),
                                  ("E92", "plain.example", None, {"tls", "connection"})):
        async with serve(silent if tls else _plain, tls=tls) as server, performing(
                ground.others.database, server.port, resolver=mock_dns.address), ground.row(row, stores=_STORED):
            await _tried(ground, {name: types}, "tls-alpn-01")


async def _plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
