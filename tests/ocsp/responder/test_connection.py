"""HTTP as clients, proxies and hostile hands use it."""

import asyncio
import base64
import random
import select
from pathlib import Path
from unittest.mock import ANY

import pytest

from ocsp.protocol.batch import encode_batch, split_batch
from ocsp.protocol.response import MALFORMED_REQUEST, HashName, ResponseTemplate
from ocsp.responder.http_text import http_date, read_http_date
from ocsp.responder.memory import Mark
from ocsp.responder.sockets import EpollSockets
from tests.ocsp.protocol.test_request import FORMS
from tests.ocsp.responder.known import BODY, OWN, RECORD, REQUEST
from tests.ocsp.responder.serving import ISSUER_ID, Serving, get, post, read_reply, request_for, serving
from tests.ocsp.signing import NOW_S, TIMES, serial_of, signed


async def test_the_headers_of_a_success_are_those_that_clients_compare(service: Serving) -> None:
    """Content-Type without parameters (nginx, HAProxy), GMT dates, a strong ETag (spec 5.5)."""
    for raw in (get(REQUEST), get(REQUEST), post(REQUEST)):
        reply, = await service.ask(raw)
        assert reply.headers == {
            "Content-Type": "application/ocsp-response", "Content-Length": str(len(BODY)),
            "Date": "Tue, 24 Nov 2026 12:00:00 GMT", "Last-Modified": "Tue, 24 Nov 2026 11:59:00 GMT",
            "Expires": "Tue, 01 Dec 2026 11:58:59 GMT", "ETag": ANY,
            "Cache-Control": "max-age=3600, public, no-transform, must-revalidate"}
        assert reply.headers["ETag"].strip('"').isalnum()
        assert len(reply.headers["ETag"]) == 34
        assert reply.body == BODY


async def test_the_date_moves_with_the_clock(service: Serving) -> None:
    """Remembered forms do not hold an old Date."""
    await service.ask(get(REQUEST), get(REQUEST))
    service.clock.now_s += 61
    service.server.refresh()
    reply, = await service.ask(get(REQUEST))
    assert reply.headers["Date"] == "Tue, 24 Nov 2026 12:01:01 GMT"


@pytest.mark.parametrize("form", sorted(FORMS))
async def test_each_form_of_a_get_is_answered(service: Serving, form: str) -> None:
    """The ten forms of A.2, each twice: unknown and known header. The request has all that is escaped in some."""
    text = base64.b64encode(REQUEST)
    assert all(one in text for one in (b"+", b"/", b"="))
    path = b"/" + FORMS[form](text)
    for _ in range(2):
        for query in (b"", b"?x=y"):
            reply, = await service.ask(b"GET " + path + query + b" HTTP/1.1\r\nHost: ocsp.example\r\n\r\n")
            assert (reply.status, reply.body) == (200, BODY)


async def test_a_path_prefix_is_taken_off(service: Serving) -> None:
    """/ocsp/ in front, for CAs whose certificates name such a URL; POST goes anywhere."""
    text = base64.b64encode(REQUEST)
    reply, = await service.ask(b"GET /ocsp/" + text + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert reply.body == BODY
    reply, = await service.ask(post(REQUEST, path="/ocsp"))
    assert reply.body == BODY


async def test_head_has_the_headers_of_get_and_no_body(service: Serving) -> None:
    """RFC 9110 9.3.2."""
    head, got = await service.ask(get(REQUEST, method="HEAD"), get(REQUEST))
    assert (head.status, head.headers, head.body) == (200, got.headers, b"")


@pytest.mark.parametrize(("raw", "says", "closes"), [
    (get(REQUEST, version="1.0"), "close", True),
    (get(REQUEST, "Connection: keep-alive", version="1.0"), "keep-alive", False),
    (get(REQUEST, "Connection: close"), "close", True),
    (get(REQUEST), None, False), (post(REQUEST), None, False), (post(REQUEST, version="1.0"), "close", True),
], ids=["1.0", "1.0-keep-alive", "1.1-close", "1.1", "post", "post-1.0"])
async def test_connections_end_as_agreed(service: Serving, raw: bytes, says: str | None, closes: bool) -> None:
    """HTTP/1.0 closes unless asked, 1.1 stays open unless asked; never chunked (nginx stapling)."""
    reader, writer = await service.connect()
    writer.write(raw)
    reply = await read_reply(reader)
    assert (reply.body, reply.headers.get("Connection")) == (BODY, says)
    if closes:
        assert await asyncio.wait_for(reader.read(), 2) == b""
    else:
        writer.write(raw)
        assert (await read_reply(reader)).body == BODY
    writer.close()


async def test_pipelined_requests_are_answered_in_order(service: Serving) -> None:
    """GET, POST, HEAD and errors mixed, in one packet and in many."""
    other = signed(OWN, serial_of(2))
    service.store([other])
    requests = [get(REQUEST), post(request_for(OWN, other.serial)), get(b"junk"), get(REQUEST, method="HEAD"),
                post(REQUEST, "X-Y: z"), get(request_for(OWN, serial_of(3))), get(REQUEST)] * 20
    whole = [(reply.status, reply.body) for reply in await service.ask(*requests)]
    assert [status for status, _ in whole[:7]] == [200, 200, 400, 200, 200, 200, 200]
    assert whole[0] == whole[6] == (200, BODY)
    for pieces in (2, 7, 300):
        split = [(reply.status, reply.body) for reply in await service.ask(*requests, pieces=pieces)]
        assert split == whole


@pytest.mark.parametrize("raw", [get(REQUEST), post(REQUEST)], ids=["get", "post"])
async def test_a_request_byte_by_byte_is_answered(service: Serving, raw: bytes) -> None:
    """Any split of the packets."""
    reply, = await service.ask(raw, pieces=len(raw))
    assert reply.body == BODY


async def test_an_empty_line_between_requests_is_skipped(service: Serving) -> None:
    """RFC 9112 2.2: old clients send CRLF behind a body."""
    reader, writer = await service.connect()
    writer.write(post(REQUEST) + b"\r\n\r\n" + get(REQUEST))
    assert [(await read_reply(reader)).body for _ in range(2)] == [BODY, BODY]
    writer.close()


async def test_a_client_that_waits_for_leave_gets_it(service: Serving) -> None:
    """Expect: 100-continue, once, before the body."""
    reader, writer = await service.connect()
    raw = post(REQUEST, "Expect: 100-continue")
    writer.write(raw[:-len(REQUEST)])
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2) == b"HTTP/1.1 100 Continue\r\n\r\n"
    for octet in REQUEST:
        writer.write(bytes([octet]))
        await writer.drain()
    assert (await read_reply(reader)).body == BODY
    writer.close()


@pytest.mark.parametrize(("header", "status"), [
    ('If-None-Match: "ETAG"', 304), ('If-None-Match: W/"ETAG"', 304), ('If-None-Match: "other", "ETAG"', 304),
    ("If-None-Match: *", 304), ('If-None-Match: "other"', 200), ("If-None-Match: ETAG", 200),
    ("If-Modified-Since: Tue, 24 Nov 2026 11:59:00 GMT", 304),
    ("If-Modified-Since: Tue, 24 Nov 2026 12:30:00 GMT", 304),
    ("If-Modified-Since: Tue, 24 Nov 2026 11:58:59 GMT", 200), ("If-Modified-Since: yesterday", 200),
    ("If-Modified-Since: Tuesday, 24-Nov-26 12:00:00 GMT", 304), ("If-Modified-Since: Tue Nov 24 12:00:00 2026", 304),
    ('If-None-Match: "other"\r\nIf-Modified-Since: Tue, 24 Nov 2026 12:30:00 GMT', 200),
])
async def test_a_known_response_is_not_sent_again(service: Serving, header: str, status: int) -> None:
    """304 with the same cache headers; If-None-Match goes before If-Modified-Since (RFC 9110 13.2.2)."""
    full, = await service.ask(get(REQUEST))
    raw = get(REQUEST, header.replace("ETAG", full.headers["ETag"].strip('"')))
    for _ in range(2):
        reply, = await service.ask(raw)
        assert reply.status == status
        assert reply.body == (BODY if status == 200 else b"")
        kept = {name: value for name, value in full.headers.items()
                if status == 200 or name not in ("Content-Type", "Content-Length")}
        assert reply.headers == kept


async def test_validators_do_not_hide_a_post(service: Serving) -> None:
    """Conditional requests are for GET and HEAD."""
    reply, = await service.ask(post(REQUEST, "If-None-Match: *"))
    assert (reply.status, reply.body) == (200, BODY)


@pytest.mark.parametrize(("raw", "status", "header"), [
    (b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "Allow: GET, HEAD, POST"),
    (b"DELETE /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 405, "Allow: GET, HEAD, POST"),
    (b"GET /" + b"M" * 1001 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, None),
    (b"GET /" + b"M" * 9000, 414, None),
    (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000, 431, None),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10001\r\n\r\n", 413, None),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n", 413, None),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n", 400, None),
    (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 411, None),
    (post(REQUEST, content_type="text/plain"), 415, None),
    (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, None),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, None),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n55\r\n", 411, None),
    (b"GET / HTTP/1.1\r\n\r\n", 400, None),
], ids=["put", "delete", "long-path", "endless-path", "endless-head", "body-10001", "body-huge", "length-huge",
        "no-length", "type", "http-3", "tls", "chunked", "no-host"])
async def test_what_is_not_served_is_refused_and_the_connection_ends(
    service: Serving, raw: bytes, status: int, header: str | None
) -> None:
    """The right status, malformedRequest as the body, no caching, and nothing behind it is read as a request."""
    answer = await service.raw(raw + (get(REQUEST) if raw.endswith(b"\r\n\r\n") else b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in head
    assert b"Cache-Control: max-age=0, no-cache" in head
    assert header is None or header.encode() in head
    assert body == MALFORMED_REQUEST


async def test_the_largest_body_is_read(service: Serving) -> None:
    """10,000 octets are taken; that they are no request is another matter."""
    reply, = await service.ask(post(bytes(10_000)))
    assert (reply.status, reply.body) == (400, MALFORMED_REQUEST)


@pytest.mark.parametrize("content_type", [None, "application/ocsp-request", "Application/OCSP-Request; x=y"])
async def test_a_missing_content_type_is_tolerated(service: Serving, content_type: str | None) -> None:
    """Some clients leave it out (spec 5.5)."""
    for _ in range(2):
        reply, = await service.ask(post(REQUEST, content_type=content_type))
        assert reply.body == BODY


async def test_a_refused_type_stays_refused(service: Serving) -> None:
    """What is remembered of a head never includes one that was refused."""
    await service.ask(post(REQUEST))
    for _ in range(3):
        assert (await service.raw(post(REQUEST, content_type="text/plain"))).startswith(b"HTTP/1.1 415 ")


async def test_a_stored_value_that_cannot_be_read_ends_one_connection_only(service: Serving) -> None:
    """Whoever asks for it gets no answer; who asks at the same moment for something else gets theirs."""
    spoilt = signed(OWN, serial_of(5))
    (key, value), = split_batch(encode_batch(TIMES, [spoilt]), ISSUER_ID)
    service.memory.apply([(key, value[:4] + b"\0\1" + value[6:])], mark=Mark(5, 1))
    service.server.refresh()
    for make in (get, post):
        await service.ask(make(REQUEST))        # so that its header is known
        clients = [await service.connect() for _ in range(9)]
        for number, (_, writer) in enumerate(clients):
            writer.write(make(request_for(OWN, spoilt.serial) if number % 3 == 1 else REQUEST))
        for number, (reader, writer) in enumerate(clients):
            if number % 3 == 1:
                assert await asyncio.wait_for(reader.read(), 30) == b""
            else:
                assert (await read_reply(reader)).body == BODY
            writer.close()


async def test_clients_of_one_round_get_each_their_own_answer(service: Serving) -> None:
    """Forty at once, plain and not, known and unknown, whole and in pieces, among them some that are refused (A.2)."""
    records = [signed(OWN, serial_of(number)) for number in range(100, 140)]
    template = ResponseTemplate(OWN.issuer, HashName.SHA1)
    service.store(records)
    await service.ask(get(REQUEST), post(REQUEST))      # from now on these heads are known
    clients = [await service.connect() for _ in records]
    for number, ((_, writer), record) in enumerate(zip(clients, records, strict=True)):
        known, unknown = (request_for(OWN, serial) for serial in (record.serial, serial_of(number)))
        writer.write((get(known), post(known), get(known, escaped=True), get(unknown), get(known)[:-3],
                      get(known, "X-Other: 1"), get(known)[:40] + b"*" + get(known)[41:])[number % 7])
    for number, ((reader, writer), record) in enumerate(zip(clients, records, strict=True)):
        if number % 7 == 4:
            writer.write(b"\n\r\n")
        reply = await read_reply(reader)
        if number % 7 in (3, 6):
            assert (reply.status, len(reply.body)) == (200 if number % 7 == 3 else 400, 5)
        else:
            assert reply.body == template.response(record.serial, record.status, TIMES, record.signatures[0])
        writer.close()


async def test_a_client_that_has_ended_in_a_round_does_no_harm_to_others(tmp_path: Path) -> None:
    """epoll has said that two have sent something; one of them is closed before its turn comes."""
    async with serving(tmp_path, OWN) as service:
        service.store([RECORD])
        reader, writer = await service.connect()
        writer.write(get(REQUEST))
        await read_reply(reader)
        sockets = service.server._sockets
        assert isinstance(sockets, EpollSockets)
        writer.write(get(REQUEST))
        ended = max(sockets._clients) + 1
        sockets._take_round([(ended, select.EPOLLIN), *((one, select.EPOLLIN) for one in sockets._clients)])
        assert (await read_reply(reader)).body == BODY
        writer.close()


async def test_random_bytes_never_break_the_server(service: Serving) -> None:
    """Damaged requests get some answer or a closed connection, and the next client is served."""
    source = random.Random(5019)
    seeds = [get(REQUEST), post(REQUEST), get(REQUEST, escaped=True), get(REQUEST, "If-None-Match: *")]
    for _ in range(400):
        data = bytearray(source.choice(seeds) * source.randrange(1, 4))
        for _ in range(source.randrange(1, 6)):
            at = source.randrange(len(data))
            data[at:at + source.randrange(3)] = source.randbytes(source.randrange(3))
        reader, writer = await service.connect()
        writer.write(bytes(data))
        writer.write_eof()
        found = await asyncio.wait_for(reader.read(), 5)
        assert not found or found.startswith(b"HTTP/1.1 ")
        writer.close()
    reply, = await service.ask(get(REQUEST))
    assert reply.body == BODY


@pytest.mark.parametrize("text", [b"", b"0", b"Tue, 24 Nov", b"\xff", b"Tue, 99 Nov 2026 12:00:00 GMT",
                                  b"Tue, 24 Nov 999999 12:00:00 GMT"])
def test_a_date_that_is_none_is_ignored(text: bytes) -> None:
    """If-Modified-Since with anything else than a date has no effect."""
    assert read_http_date(text) is None


def test_dates_read_back() -> None:
    """IMF-fixdate both ways."""
    assert read_http_date(http_date(NOW_S)) == NOW_S
