"""HTTP below ACME: paths, methods, media types, sizes, CORS, broken requests (rows T, N1, N2, N10, E1 to E8, E10)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog

from ca.process.log import set_up_logging
from tests.acme_api.wfe.running import BASE, OtherProcesses, RunningWfe, ready_order
from tests.acme_client import JOSE_JSON

_SIGNED = ["/acme/new-account", "/acme/new-order", "/acme/revoke-cert", "/acme/key-change", "/acme/account/" + "A" * 30,
           "/acme/account/" + "A" * 30 + "/orders", "/acme/order/" + "A" * 30, "/acme/order/" + "A" * 30 + "/finalize",
           "/acme/authz/" + "A" * 30, "/acme/challenge/" + "A" * 30 + "/dns-01",
           "/acme/cert/" + "ab" * 18 + "/" + "A" * 30]


async def _raw(wfe: RunningWfe, data: bytes, *, timeout_s: float = 5.0) -> bytes:
    """Sends bytes and reads until the server closes."""
    url = urlsplit(wfe.address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), timeout_s)
    finally:
        writer.close()


def _problem(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert head.lower().count(b"replay-nonce:") == 1
    assert b'rel="index"' in head
    return int(head.split()[1]), json.loads(body)


async def test_d1_the_directory(wfe: RunningWfe) -> None:
    """Rows D1 to D3, N10, PR1: absolute URLs, no nonce, no index link, newAuthz absent, profiles in meta."""
    client = wfe.client()
    answer = (await client.send("GET", "/directory")).require(200)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.links == []
    found = answer.json
    meta = found.pop("meta")
    assert sorted(found) == ["keyChange", "newAccount", "newNonce", "newOrder", "renewalInfo", "revokeCert"]
    assert all(url.startswith(BASE + "/") for url in found.values())
    assert meta["caaIdentities"] == ["ca.example"]
    assert set(meta["profiles"]) == {"classic", "tlsserver", "shortlived"}
    assert meta["externalAccountRequired"] is False
    assert "termsOfService" not in meta
    assert (await client.send("HEAD", "/directory")).require(200).body == b""


async def test_n1_n2_new_nonce(wfe: RunningWfe) -> None:
    """Rows N1, N2: HEAD 200, GET 204, both empty, with nonce, no-store and index link."""
    client = wfe.client()
    for method, status in (("HEAD", 200), ("GET", 204)):
        answer = (await client.send(method, "/acme/new-nonce")).require(status)
        assert answer.body == b""
        assert len(answer.nonces) == 1
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.link("index") == [f"{BASE}/directory"]


@pytest.mark.parametrize("path", _SIGNED)
async def test_e1_signed_endpoints_take_post_alone(wfe: RunningWfe, path: str) -> None:
    """Rows T5, T8, E1: 405 malformed with Allow."""
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE"):
        answer = await wfe.client().send(method, path)
        assert answer.status == 405
        assert answer.headers["Allow"] == "POST, OPTIONS"
        if method != "HEAD":
            answer.require(405, "malformed")


async def test_e1_other_methods(wfe: RunningWfe) -> None:
    """Rows T8, E1: directory and newNonce are read, and nothing else; an unknown method is 405 too."""
    for path in ("/directory", "/acme/new-nonce"):
        answer = (await wfe.client().send("DELETE", path)).require(405, "malformed")
        assert answer.headers["Allow"] == "GET, HEAD, POST, OPTIONS"
    status, document = _problem(await _raw(wfe, b"FOO /acme/new-order HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert (status, document["type"].rpartition(":")[2]) == (405, "malformed")


@pytest.mark.parametrize("path", ["/", "/nope", "//acme/new-order", "/acme/../admin", "/%2e%2e", "/acme/%6eew-order",
                                  "/acme/new-order/", "/acme/new-order;x", "/acme/order/" + "A" * 7_000])
async def test_e8_unknown_paths(wfe: RunningWfe, path: str) -> None:
    """Rows T10, E8: 404 malformed problem+json for every method, nothing is folded or decoded."""
    for method in ("GET", "POST"):
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        answer = await _raw(wfe, head.encode())
        status, document = _problem(answer)
        assert (status, document["type"].rpartition(":")[2]) == (404, "malformed")


@pytest.mark.parametrize("media_type", [None, "application/json", "application/jose", "text/plain",
                                        "multipart/form-data"])
async def test_t4_other_media_types(wfe: RunningWfe, media_type: str | None) -> None:
    """Rows T4, E2: 415 malformed."""
    client = await wfe.subscriber()
    body = await client.signed("/acme/new-order", {})
    headers = {"Content-Type": media_type or ""}
    (await client.send("POST", "/acme/new-order", data=body, headers=headers)).require(415, "malformed")


async def test_e2_nothing_is_inflated(wfe: RunningWfe) -> None:
    """Row E2: a Content-Encoding is 415, whatever is inside."""
    client = await wfe.subscriber()
    headers = JOSE_JSON | {"Content-Encoding": "gzip"}
    (await client.send("POST", "/acme/new-order", data=b"\x1f\x8b" + bytes(100), headers=headers)).require(
        415, "malformed")


async def test_t4_media_types_that_are_fine(wfe: RunningWfe) -> None:
    """Row T4: case and parameters do not matter."""
    client = await wfe.subscriber()
    for media_type in ("application/jose+json; charset=utf-8", "Application/JOSE+JSON"):
        body = await client.signed(client.kid)
        (await client.send("POST", client.kid, data=body, headers={"Content-Type": media_type})).require(200)


async def test_t2_cors(wfe: RunningWfe) -> None:
    """Rows T2, E10: fixed headers on answers, errors and preflights of a browser, none otherwise."""
    client = await wfe.subscriber()
    origin = {"Origin": "null", "Access-Control-Request-Headers": "X-Evil", "Access-Control-Request-Method": "PUT"}
    for method, path, data in (("GET", "/directory", None), ("HEAD", "/acme/new-nonce", None), ("GET", "/nope", None),
                               ("POST", client.kid, await client.signed(client.kid)),
                               ("POST", client.kid, b"{}"), ("OPTIONS", "/acme/new-order", None)):
        answer = await client.send(method, path, data=data, headers=JOSE_JSON | origin)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Expose-Headers"] == "Link, Location, Replay-Nonce, Retry-After"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "X-Evil" not in str(answer.headers)
    for path, methods in (("/acme/new-order", "POST, OPTIONS"), ("/directory", "GET, HEAD, POST, OPTIONS")):
        preflight = (await client.send("OPTIONS", path, headers=origin)).require(204)
        assert preflight.headers["Access-Control-Allow-Methods"] == methods
        assert preflight.headers["Access-Control-Allow-Headers"] == "Content-Type"
        assert int(preflight.headers["Access-Control-Max-Age"]) > 0
    assert "Access-Control-Allow-Origin" not in (await client.send("GET", "/directory")).headers
    (await client.send("OPTIONS", "/nope", headers=origin)).require(404, "malformed")


async def test_e7_headers_never_make_urls(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row E7: Host, X-Forwarded-* and an absolute target change no URL that is given out."""
    evil = (b"GET https://evil.example/directory HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\n"
            b"X-Forwarded-Proto: http\r\nForwarded: host=evil.example\r\nConnection: close\r\n\r\n")
    head, _, body = (await _raw(wfe, evil)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"evil" not in head + body
    client = await wfe.subscriber()
    order = await ready_order(client, others, "a.example.com")
    data = await client.signed(order.location)
    headers = JOSE_JSON | {"X-Forwarded-Host": "evil.example"}
    answer = await client.send("POST", order.location, data=data, headers=headers)
    assert "evil" not in str(answer.headers) + answer.require(200).body.decode()


async def test_e3_bodies_over_the_limit(wfe: RunningWfe) -> None:
    """Rows T11, E3: 413 malformed before the rest is read, and the connection is closed."""
    head = b"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose+json\r\n"
    endless = b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65_536 + b"\r\n") * 2
    for rest in (b"Content-Length: 65537\r\n\r\n" + b"x" * 65_537, b"Content-Length: 10000000000\r\n\r\n", endless):
        status, document = _problem(await _raw(wfe, head + rest))
        assert (status, document["type"].rpartition(":")[2]) == (413, "malformed")


async def test_e4_a_body_that_does_not_come(start: Callable[..., Awaitable[RunningWfe]]) -> None:
    """Row E4: 408 and close, and others are served meanwhile."""
    wfe = await start(read_timeout_s=0.3)
    head = b"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose+json\r\n"
    slow = asyncio.create_task(_raw(wfe, head + b"Content-Length: 10\r\n\r\nx"))
    (await wfe.client().send("GET", "/directory")).require(200)
    status, document = _problem(await slow)
    assert (status, document["type"].rpartition(":")[2]) == (408, "malformed")


async def test_e4_five_hundred_headers_that_do_not_come(start: Callable[..., Awaitable[RunningWfe]]) -> None:
    """Row E4: half a header, or none at all, is closed after the timeout; others are served meanwhile."""
    wfe = await start(read_timeout_s=1.0)
    beginnings = [b"GET /direct", b"", b"GET / HTTP/1.1\r\nHost: x\r\n"] * 166
    halves = [asyncio.create_task(_raw(wfe, data)) for data in beginnings]
    client = wfe.client()
    for _ in range(5):
        (await client.send("GET", "/directory")).require(200)
    assert set(await asyncio.gather(*halves)) == {b""}
    # A header that is begun later on the same connection has the same time.
    url = urlsplit(wfe.address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(b"GET /directory HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    await reader.readexactly(length)
    await asyncio.sleep(1.2)
    writer.write(b"GET /dir")
    started = asyncio.get_running_loop().time()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert 0.5 < asyncio.get_running_loop().time() - started < 3
    writer.close()


@pytest.mark.parametrize(("request_bytes", "statuses"), [
    (b"GET /directory HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 17_000 + b"\r\n\r\n", {431}),
    (b"GET /directory HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 500 + b"\r\n", {431}),
    (b"GET /directory HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9_000 + b"\r\nY: " + b"y" * 9_000 + b"\r\n\r\n", {431}),
    (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414}),
    (b"GET /directory HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", {400}),
    (b"GET /directory HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", {400}),
    (b"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     {400}),
    (b"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", {400}),
    (b"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\nabcd", {400}),
    (b"GET /directory HTTP/9.9\r\n\r\n", {400}),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400, 405}),
    (b"GET http://[::1/directory HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
], ids=["long header", "many headers", "large header", "long path", "NUL", "bare CR", "CL and TE", "two CL", "xchunked",
        "version", "TLS", "bad target"])
async def test_e5_e6_broken_http(wfe: RunningWfe, request_bytes: bytes, statuses: set[int]) -> None:
    """Rows E5, E6: 431 or 400 as a problem document, the connection closed, no second request out of the rest."""
    smuggled = b"GET /directory HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await _raw(wfe, request_bytes + smuggled, timeout_s=15)
    status, document = _problem(answer)
    assert status in statuses
    assert document["type"].rpartition(":")[2] == "malformed"
    assert answer.count(b"HTTP/1.") == 1
    assert b"newNonce" not in answer


async def test_expect_100_continue(wfe: RunningWfe) -> None:
    """Old curl waits for 100 Continue before it sends a larger body."""
    client = await wfe.subscriber()
    body = await client.signed(client.kid)
    url = urlsplit(wfe.address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    path = client.kid.removeprefix(BASE)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose+json\r\nConnection: close\r\n"
                 f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_e12_log_lines_stay_lines(wfe: RunningWfe, capsys: pytest.CaptureFixture[str]) -> None:
    """Row E12: what strangers write into headers and contacts does not break a log line."""
    set_up_logging("wfe")
    structlog.get_logger().info("request", agent="x\r\ny\x1b[31m${jndi:ldap://x}" + "A" * 5_000)
    lines = capsys.readouterr().err.splitlines()
    structlog.reset_defaults()
    assert len(lines) == 1
    assert len(lines[0]) < 2_000
    assert "\x1b" not in lines[0]
    json.loads(lines[0])


async def test_overload_is_503(start: Callable[..., Awaitable[RunningWfe]]) -> None:
    """Row P6: 503 rateLimited with a Retry-After that acme.sh honours."""
    client = (await start(max_in_flight=0)).client()
    answer = (await client.send("POST", "/acme/new-order", data=b"{}", headers=JOSE_JSON)).require(503, "rateLimited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 600
