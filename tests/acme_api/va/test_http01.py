"""Promises of http-01 against hostile servers: rows H1-H5, SF1-SF6, E82-E87, IP2."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from acme_api.protocol.challenge import key_authorization
from acme_api.va.address import AddressPolicy
from acme_api.va.dial import Dialer
from acme_api.va.failure import ValidationFailure
from acme_api.va.http01 import Http01, Http01Ports
from acme_api.va.resolver import Resolver, servers_of
from ca.pki.identifier import Identifier
from tests.acme_api.va.hostile import (
    certificate,
    new_evidence,
    open_policy,
    serve,
    serve_bytes,
    serve_stream,
    server_context,
)
from tests.mock_dns import MockDns

TOKEN = "A" * 43
EXPECTED = key_authorization(TOKEN, b"\x07" * 32)
WELL_KNOWN = f"/.well-known/acme-challenge/{TOKEN}"
NAME = Identifier(type="dns", value="a.example")


def reply(body: str | bytes = EXPECTED, *, status: str = "200 OK", fields: str = "") -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{fields}\r\n".encode() + data


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


def validator(mock_dns: MockDns, *, http: int, https: int = 443, policy: AddressPolicy | None = None) -> Http01:
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom, localhost_names=True)
    dialer = Dialer(resolver=resolver, policy=policy or open_policy())
    return Http01(dialer=dialer, ports=Http01Ports(http=http, https=https), user_agent="Chancery-VA/test",
                  refused_hosts=frozenset({"ca.example"}))


async def validate(mock_dns: MockDns, port: int, *, identifier: Identifier = NAME, https: int = 443,
                   policy: AddressPolicy | None = None) -> None:
    """One try as the checker makes it, its deadline included."""
    mock_dns.default.setdefault("A", ["127.0.0.1"])
    async with asyncio.timeout(10):
        await validator(mock_dns, http=port, https=https, policy=policy).validate(
            identifier, TOKEN, EXPECTED, new_evidence())


async def failure(mock_dns: MockDns, response: bytes | Callable[[bytes], bytes]) -> ValidationFailure:
    """The failure of validating against a server that answers so."""
    async with serve_bytes(response) as server:
        with pytest.raises(ValidationFailure) as caught:
            await validate(mock_dns, server.port)
    return caught.value


async def test_h1_request_is_exactly_what_the_rfc_says(mock_dns: MockDns) -> None:
    """H1, SF5: one GET with Host, Accept */*, identity encoding, a User-Agent that identifies us, and no cookie."""
    async with serve_bytes(reply()) as server:
        await validate(mock_dns, server.port)
    assert server.requests == [
        f"GET {WELL_KNOWN} HTTP/1.1\r\nHost: a.example\r\nUser-Agent: Chancery-VA/test\r\nAccept: */*\r\n"
        "Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode()]


async def test_sf5_no_proxy_of_the_environment_is_used(mock_dns: MockDns, monkeypatch: pytest.MonkeyPatch) -> None:
    """SF5: whatever proxies the environment names, the connection goes to the judged address and nowhere else."""
    async with serve_bytes(reply()) as server, serve_bytes(reply()) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await validate(mock_dns, server.port)
        assert (server.connections, proxy.connections) == (1, 0)


ACCEPTED = {
    "plain": reply(),
    "CR LF after it (E85)": reply(EXPECTED + "\r\n"),
    "much white space after it": reply(EXPECTED + " \t\r\n\v\f" * 70),
    "until close": b"HTTP/1.0 200 OK\r\n\r\n" + EXPECTED.encode(),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2b\r\n" + EXPECTED[:43].encode()
               + f"\r\n{len(EXPECTED) - 43:x};ext=1\r\n".encode() + EXPECTED[43:].encode() + b"\r\n0\r\n\r\n",
    "lines ended by LF alone": b"HTTP/1.1 200 OK\nX: y\n\n" + EXPECTED.encode(),
    "interim response first": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + reply(),
    "no reason phrase": reply(status="200"),
    "content type of its own": reply(fields="Content-Type: image/png\r\n"),
}


@pytest.mark.parametrize("response", ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_h4_the_key_authorization_is_accepted_in_every_valid_framing(mock_dns: MockDns, response: bytes) -> None:
    """H4: status 200 and the exact bytes, trailing white space aside, however HTTP carries them."""
    async with serve_bytes(response) as server:
        await validate(mock_dns, server.port)


REFUSED_CONTENT = {
    "513 bytes declared": reply(EXPECTED + " " * (513 - len(EXPECTED))),
    "513 bytes until close": b"HTTP/1.0 200 OK\r\n\r\n" + EXPECTED.encode() + b" " * (513 - len(EXPECTED)),
    "513 bytes chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n201\r\n" + b"x" * 513,
    "10 GB declared (E85)": b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n" + EXPECTED.encode(),
    "one byte more (E85)": reply(EXPECTED + "x"),
    "one byte less": reply(EXPECTED[:-1]),
    "BOM first (E85)": reply("\ufeff" + EXPECTED),
    "white space first": reply(" " + EXPECTED),
    "other case (E85)": reply(EXPECTED.lower()),
    "token only (E85)": reply(TOKEN),
    "empty": reply(b""),
    "another account's": reply(key_authorization(TOKEN, b"\x08" * 32)),
    "NUL after it": reply(EXPECTED + "\0"),
    "gzip (E85)": reply(b"\x1f\x8b\x08\x00" + b"\0" * 40, fields="Content-Encoding: gzip\r\n"),
    "html with it inside": reply(f"<html>{EXPECTED}</html>"),
}


@pytest.mark.parametrize("response", REFUSED_CONTENT.values(), ids=REFUSED_CONTENT.keys())
async def test_h4_other_content_fails_at_once(mock_dns: MockDns, response: bytes) -> None:
    """H4, E85: anything else is incorrectResponse, is not tried again, and says address and length."""
    caught = await failure(mock_dns, response)
    assert (caught.type, caught.transient) == ("incorrectResponse", False)
    assert "127.0.0.1 port" in caught.detail


@pytest.mark.parametrize(
    "status", [101, 201, 204, 206, 300, 303, 304, 305, 306, 400, 401, 403, 404, 410, 500, 503, 999])
async def test_e84_any_other_status_is_incorrect(mock_dns: MockDns, status: int) -> None:
    """H2, H4, E84: with the right body and a Location, too; 404, 429 and server errors may pass (CH5)."""
    response = reply(status=f"{status} X", fields=f"Location: {WELL_KNOWN}x\r\n")
    caught = await failure(mock_dns, response)
    assert caught.type == "incorrectResponse"
    assert f"status {status}" in caught.detail
    assert caught.transient == (status in (404, 500, 503))


INVALID_HTTP = {
    "1xx flood (E84)": b"HTTP/1.1 100 Continue\r\n\r\n" * 2000,
    "20 KiB header (E86)": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_480 + b"\r\n\r\n",
    "20 KiB of header lines": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000 + b"\r\n",
    "SSH banner (E86)": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "HTTP/2 preface": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18,
    "HTTP/0.9": EXPECTED.encode(),
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status in Arabic digits": "HTTP/1.1 ٢٠٠ OK\r\n\r\n".encode(),
    "header without colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "header name with a space": b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
    "folded header": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
    "bare CR in a header": b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +87\r\n\r\n" + EXPECTED.encode(),
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 87\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + EXPECTED.encode(),
    "chunk ffffffffffffffff (E85)": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    "chunk of nonsense": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "chunk without an end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    "body that breaks off": b"HTTP/1.1 200 OK\r\nContent-Length: 87\r\n\r\nshort",
}


@pytest.mark.parametrize("response", INVALID_HTTP.values(), ids=INVALID_HTTP.keys())
async def test_h5_what_is_no_valid_http_is_a_connection_failure(mock_dns: MockDns, response: bytes) -> None:
    """H5, E84, E85, E86: invalid HTTP is type connection."""
    assert (await failure(mock_dns, response)).type == "connection"


@pytest.mark.parametrize("body", ["root:x:0:0:root:/root:/bin/sh", "<script>alert(1)</script>", "secret-metadata-toke"])
@pytest.mark.parametrize("where", ["body", "header", "reason", "banner"])
async def test_sf4_nothing_that_was_served_is_repeated(mock_dns: MockDns, body: str, where: str) -> None:
    """SF4, E86: neither body nor header nor reason phrase nor banner comes back in the detail."""
    response = {"body": reply(body), "header": reply("x", fields=f"X-Secret: {body}\r\n"),
                "reason": reply(status=f"403 {body}"), "banner": body.encode() + b"\r\n"}[where]
    caught = await failure(mock_dns, response)
    assert body not in caught.detail
    assert body[:12] not in caught.detail


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_h2_redirects_of_four_kinds_are_followed(mock_dns: MockDns, status: int) -> None:
    """H2, H3: 301, 302, 307, 308; the query is kept, the fragment dropped, the new host is in Host."""

    def respond(head: bytes) -> bytes:
        return reply() if b"GET /x?q=1 HTTP" in head else redirect("http://b.example/x?q=1#frag", status)

    async with serve_bytes(respond) as server:
        await validate(mock_dns, server.port)
    assert b"GET /x?q=1 HTTP/1.1\r\nHost: b.example\r\n" in server.requests[1]
    assert mock_dns.asked("A") == ["a.example", "b.example"]


@pytest.mark.parametrize("location", ["/x", "x", "//a.example/x", "HTTP://A.EXAMPLE/x", "http://a.example:/x",
                                      "http://127.0.0.1/x", "http://[::1]/x", "?q", "http://b.localhost/x"])
async def test_h3_relative_and_literal_targets_are_resolved(mock_dns: MockDns, location: str) -> None:
    """H3: relative references count from the URL that redirects; allowed literal addresses are dialled."""

    def respond(head: bytes) -> bytes:
        return redirect(location) if head.startswith(f"GET {WELL_KNOWN} ".encode()) else reply()

    host = "::1" if "[" in location else "127.0.0.1"
    async with serve_bytes(respond) as server, serve_bytes(respond, host="::1", port=server.port) as other:
        await validate(mock_dns, server.port)
    assert len(server.requests) + len(other.requests) == 2
    assert len(other.requests) == (1 if host == "::1" or location == "http://b.localhost/x" else 0)


REFUSED_REDIRECTS = [
    "file:///etc/passwd", "ftp://a.example/", "gopher://a.example/", "javascript:alert(1)", "data:,x", "ws://a.example/",
    "http://a.example:22/", "http://a.example:8080/", "http://a.example:0/", "http://a.example:65536/",
    "http://a.example:-1/", "http://a.example:8o/", "http://u:p@a.example/", "http://@a.example/", "http://a%00.example/",
    "http://a.example\\@b.example/", "http:///x", "http://", "http://[::1%25eth0]/", "http://[::1/", "http://2130706433/",
    "http://0/", "http://localhost/", "http://0x7f.1/", "http://127.1/", "http://0177.0.0.1/", "http://a.example./",
    "http://a_b.example/", "http://*.example.com/", "http://bücher.example/", "http://ca.example/", "https://ca.example/x",
    "/" + "x" * 2000, "http://a.example/" + "x" * 9000, "/a\tb", "/a b", "", "http://-a.example/",
]


@pytest.mark.parametrize("location", REFUSED_REDIRECTS, ids=[repr(location[:40]) for location in REFUSED_REDIRECTS])
async def test_e83_redirects_elsewhere_are_not_followed(mock_dns: MockDns, location: str) -> None:
    """H3, E82, E83: other schemes, ports, user information, strange hosts: connection, nothing dialled, silent."""
    async with serve_bytes(redirect(location)) as server:
        with pytest.raises(ValidationFailure) as caught:
            await validate(mock_dns, server.port)
        assert server.connections == 1
    assert (caught.value.type, caught.value.transient) == ("connection", False)
    assert "redirect 1" in caught.value.detail
    assert len(mock_dns.asked("A")) == 1


@pytest.mark.parametrize("location", [b"/x\r\nEvil: 1\rSet: 2", b"/x\x00y", b"/x\ry"])
async def test_e83_crlf_in_a_location_is_not_injected(mock_dns: MockDns, location: bytes) -> None:
    """E83: what follows the line end is another header line or invalid HTTP, never part of our next request."""
    async with serve_bytes(b"HTTP/1.1 302 X\r\nLocation: " + location + b"\r\n\r\n") as server:
        with pytest.raises(ValidationFailure) as caught:
            await validate(mock_dns, server.port)
        assert server.connections == 1
    assert caught.value.type == "connection"


async def test_h3_missing_slash_is_hinted_at(mock_dns: MockDns) -> None:
    """H3: a host that ends in .well-known comes from a redirect rule that lacks a slash; we say so."""
    caught = await failure(mock_dns, redirect("http://b.example.well-known/acme-challenge/x"))
    assert "is a slash missing" in caught.detail


@pytest.mark.parametrize("target", ["http://127.0.0.1{port}/", "http://169.254.169.254/latest/", "http://10.0.0.1/",
                                    "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::a00:1]/", "http://[::1]/",
                                    "http://[::ffff:127.0.0.1]/", "https://127.0.0.1{port}/"])
async def test_e82_redirects_to_forbidden_addresses_send_no_packet(mock_dns: MockDns, target: str) -> None:
    """SF1, SF2, E82: the hop is judged like the first one: type connection, and the server there sees nobody."""
    async with (
        serve_bytes(lambda _head: redirect(target.format(port="")), host="127.0.0.5") as server,
        serve_bytes(reply(), host="127.0.0.1", port=server.port) as canary,
        serve_bytes(reply(), host="::1", port=server.port) as canary6,
    ):
        mock_dns.default["A"] = ["127.0.0.5"]
        with pytest.raises(ValidationFailure) as caught:
            await validate(mock_dns, server.port, https=server.port, policy=open_policy("127.0.0.5/32"))
    assert caught.value.type == "connection"
    assert "not allowed" in caught.value.detail
    assert (canary.connections, canary6.connections) == (0, 0)


async def test_e87_rebinding_between_hops_is_judged_again(mock_dns: MockDns) -> None:
    """SF1, E87: the name answers with an allowed address first and loopback at the redirect: the hop is refused."""

    def respond(_head: bytes) -> bytes:
        mock_dns.set("a.example", "A", "127.0.0.1")
        return redirect("http://a.example/x")

    mock_dns.set("a.example", "A", "127.0.0.5")
    async with (serve_bytes(respond, host="127.0.0.5") as server,
                serve_bytes(reply(), host="127.0.0.1", port=server.port) as canary):
        with pytest.raises(ValidationFailure) as caught:
            await validate(mock_dns, server.port, policy=open_policy("127.0.0.5/32"))
    assert caught.value.type == "dns"
    assert canary.connections == 0


async def test_e83_loops_and_long_chains_end(mock_dns: MockDns) -> None:
    """H2, E83: a loop fails when it closes, ten redirects are followed, the eleventh is not."""
    assert "loop" in (await failure(mock_dns, redirect(WELL_KNOWN))).detail
    assert "loop" in (await failure(mock_dns, lambda head: redirect("/b" if b"GET /a " in head else "/a"))).detail

    def chain(last: int) -> Callable[[bytes], bytes]:
        def respond(head: bytes) -> bytes:
            hop = int(head.split(b" ")[1][2:]) if head.startswith(b"GET /h") else 0
            return reply() if hop == last else redirect(f"/h{hop + 1}")
        return respond

    async with serve_bytes(chain(10)) as server:
        await validate(mock_dns, server.port)
    assert len(server.requests) == 11
    caught = await failure(mock_dns, chain(11))
    assert (caught.type, caught.detail) == ("connection", "more than 10 redirects")


async def test_h2_redirect_without_location_fails(mock_dns: MockDns) -> None:
    """E83: no Location, nowhere to go."""
    assert (await failure(mock_dns, b"HTTP/1.1 302 Found\r\n\r\n")).type == "connection"


async def test_h3_tls_redirect_is_not_verified_but_must_be_tls(mock_dns: MockDns, tmp_path: Path) -> None:
    """H3, H5: a redirect to https accepts any certificate and sends SNI; what is no TLS there is type tls."""

    async def answer_anything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(reply())
        await writer.drain()

    key = ec.generate_private_key(ec.SECP256R1())
    context = server_context(tmp_path, [certificate(key, [], extensions=[])], key)
    names: list[str | None] = []
    context.sni_callback = lambda _tls, name, _context: names.append(name)
    async with serve_bytes(redirect("https://b.example/x")) as plain:
        async with serve_bytes(reply(), tls=context) as secure:
            await validate(mock_dns, plain.port, https=secure.port)
            assert b"GET /x HTTP/1.1\r\nHost: b.example\r\n" in secure.requests[0]
        async with serve(answer_anything) as insecure:
            with pytest.raises(ValidationFailure, match="TLS handshake") as caught:
                await validate(mock_dns, plain.port, https=insecure.port)
    assert names == ["b.example"]
    assert caught.value.type == "tls"


@pytest.mark.parametrize(("address", "host_field"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_ip2_addresses_are_dialled_without_dns(mock_dns: MockDns, address: str, host_field: str) -> None:
    """IP2: no DNS, the address itself in Host, IPv6 in brackets."""
    async with serve_bytes(reply(), host=address) as server:
        await validate(mock_dns, server.port, identifier=Identifier(type="ip", value=address))
    assert f"\r\nHost: {host_field}\r\n".encode() in server.requests[0]
    assert mock_dns.queries == []


async def test_sf3_an_ip_identifier_is_judged_like_any_address(mock_dns: MockDns) -> None:
    """SF3: an address identifier that may not be dialled is type connection, without a packet."""
    async with serve_bytes(reply()) as server:
        with pytest.raises(ValidationFailure, match="not allowed") as caught:
            await validate(mock_dns, server.port, identifier=Identifier(type="ip", value="127.0.0.1"),
                           policy=AddressPolicy())
    assert (caught.value.type, server.connections) == ("connection", 0)


async def test_h5_refused_and_reset_connections(mock_dns: MockDns) -> None:
    """H5, CH5: nobody listens, or the connection is reset: connection, and it may pass."""

    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with serve(reset) as server:
        with pytest.raises(ValidationFailure) as caught:
            await validate(mock_dns, server.port)
    assert (caught.value.type, caught.value.transient) == ("connection", True)
    with pytest.raises(ValidationFailure, match="connection refused") as caught:
        await validate(mock_dns, server.port)
    assert (caught.value.type, caught.value.transient) == ("connection", True)


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                                   b"HTTP/1.1 200 OK\r\nX: ", b""], ids=["body", "chunks", "header", "anything"])
async def test_e85_endless_answers_are_cut_within_64_kib(mock_dns: MockDns, first: bytes) -> None:
    """E85: an endless body, header or stream ends the try at once, after at most 64 KiB."""
    began_s = time.monotonic()
    async with serve_stream(first, b"1\r\nx\r\n" * 700) as server:
        with pytest.raises(ValidationFailure):
            await validate(mock_dns, server.port)
    assert time.monotonic() - began_s < 9


async def test_e85_one_byte_a_second_ends_at_the_deadline(mock_dns: MockDns) -> None:
    """SF6, E85: a body that trickles is left when the ten seconds of the try are over (here the try's own timeout)."""
    async with serve_stream(b"HTTP/1.1 200 OK\r\n\r\n", b"x", pause_s=0.2) as server:
        http01 = validator(mock_dns, http=server.port)
        mock_dns.default["A"] = ["127.0.0.1"]
        evidence = new_evidence()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await http01.validate(NAME, TOKEN, EXPECTED, evidence)
    assert evidence.phase == f"reading the response body of 127.0.0.1 port {server.port}"
