"""HTTP/1.0 and 1.1 for OCSP on a bare asyncio protocol (RFC 9919, RFC 9112).

A general server spends more on a request than the lookup does. This one knows GET, HEAD and POST, answers pipelined
requests in order, and refuses what it does not need by closing. Most requests are answered before they come here, by
quick.py, which is told here which heads have been read and are plain.
"""

import asyncio
from time import monotonic
from typing import Final, cast

from ocsp.protocol.request import MAX_PATH_BYTES, MAX_REQUEST_BYTES, decode_path
from ocsp.responder.answers import LATER, LENGTH_LINE, MALFORMED, NOT_YET_KNOWN, SUCCESS_LINES, Answer
from ocsp.responder.head import MAX_HEAD_BYTES, BadHead, Head, read_head
from ocsp.responder.http_text import read_http_date
from ocsp.responder.live import LiveDesk, Refusal, Ticket
from ocsp.responder.server import OcspServer

_IDLE_LIMIT_S: Final = 60
_REQUEST_LIMIT_S: Final = 10
# Of what a client sends behind a request whose answer is being signed.
_MOST_BEHIND_BYTES: Final = 65_536
_END_OF_HEAD: Final = b"\r\n\r\n"
_REQUEST_TYPE: Final = b"application/ocsp-request"
_ERROR_HEADERS: Final = b"Content-Type: application/ocsp-response\r\nCache-Control: max-age=0, no-cache\r\n"
_LIVE_HEADERS: Final = b"Content-Type: application/ocsp-response\r\nCache-Control: no-store\r\n"
_ALLOW: Final = b"Allow: GET, HEAD, POST\r\n"
_PREFIX: Final = b"/ocsp/"


class _NotYet(Exception):
    """The request stays where it is: its answer may be there in a moment."""


class OcspConnection(asyncio.Protocol):
    """One client. `since_s` is when it became idle, when its unfinished request began, or when it stopped reading;
    `is_quick` says that nothing of it is waiting, so that what comes next may be answered without this object.
    """

    __slots__ = ("_closing", "_continued", "_has_ended", "_paused", "_pending", "_server", "_ticket", "_transport",
                 "_waits", "_waits_no_more", "_write", "is_quick", "since_s")

    def __init__(self, server: OcspServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._pending = b""
        self.since_s = server.second.now_s
        self._closing = self._has_ended = False
        self._continued = False
        self._paused = False
        self._waits = self._waits_no_more = False
        self._ticket: Ticket | None = None      # of the first pending request, while it is asked of the live signer
        self.is_quick = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Registers the connection, or refuses it when there are too many."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the class
        self._write = self._transport.write
        if not self._server.admit(self):
            self._closing, self.is_quick = True, False
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._server.forget(self)
        self._transport = None
        if self._ticket is not None and self._server.live is not None:
            self._server.live.give_up(self._ticket)

    def data_received(self, data: bytes) -> None:
        """Answers every whole request."""
        server = self._server
        if monotonic() >= server.stale_at:
            server.refresh()
        if not self._pending:
            self.since_s = server.second.now_s
            answer = None if self._closing else server.quick(data)
            if answer is not None:
                self._write(answer)
                return
        self._pending += data
        if self._ticket is None:
            self._serve()
        elif len(self._pending) > _MOST_BEHIND_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client has sent all; what was whole has been answered. Who waits for a signature may have left, and is
        answered without one."""
        self._has_ended = True
        if self._ticket is not None and self._server.live is not None:
            self._server.live.give_up(self._ticket)
            self._serve()
        return False

    def pause_writing(self) -> None:
        """A client that does not read gets no more answers until it does."""
        self._paused, self.is_quick = True, False
        self.since_s = self._server.second.now_s
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._paused = False
        if self._transport is not None and not self._closing:
            if not self._waits:
                self._transport.resume_reading()
            self._serve()

    def look_again(self, *, is_last: bool) -> None:
        """The memory may have what is waited for; the last time the request is answered in any case."""
        self._waits_no_more = is_last
        self._serve()

    def end_if_late(self, now_s: int, limit_s: int | None = None) -> bool:
        """Ends a connection that is idle, unfinished or not read from for too long; whether it did."""
        if limit_s is None:
            limit_s = _REQUEST_LIMIT_S if self._pending or self._paused or self._closing else _IDLE_LIMIT_S
        if now_s - self.since_s <= limit_s or self._transport is None:
            return False
        self._transport.abort()
        return True

    def end_if_idle(self) -> None:
        """The server stops: nothing new is taken; what is being written is finished."""
        self._closing, self.is_quick = True, False
        if self._transport is not None:
            self._transport.close()

    def _serve(self) -> None:
        transport = self._transport
        if transport is None:
            return
        try:
            while self._pending and not self._closing and not self._paused and self._take_request():
                self.since_s = self._server.second.now_s
        except BadHead as fault:
            self._write(b"HTTP/1.1 %b\r\n%b%b%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (
                fault.status, _ERROR_HEADERS, self._server.second.date, fault.headers, len(MALFORMED.body),
                MALFORMED.body))
            self._closing = True
        if self._closing:
            self._pending = b""
            transport.close()
        self.is_quick = not (self._pending or self._closing or self._paused or transport.get_write_buffer_size())

    def _take_request(self) -> bool:
        """Answers one request of the pending bytes; False when it is not whole yet. Raises BadHead."""
        pending = self._pending
        if pending.startswith(b"\r\n"):         # RFC 9112 2.2: one line too many behind the last body
            self._pending = pending = pending.lstrip(b"\r\n")
        end = pending.find(_END_OF_HEAD)
        if end > MAX_HEAD_BYTES or (end < 0 and len(pending) > MAX_HEAD_BYTES):
            raise BadHead(b"431 Request Header Fields Too Large" if b"\r\n" in pending[:MAX_HEAD_BYTES]
                          else b"414 URI Too Long")
        if end < 0:
            return False
        head = read_head(pending[:end])
        body_at = end + 4
        if head.method not in (b"GET", b"HEAD", b"POST"):
            raise BadHead(b"405 Method Not Allowed", _ALLOW)
        if head.method == b"POST" and head.content_length is None:
            raise BadHead(b"411 Length Required")
        length = head.content_length or 0
        if length > MAX_REQUEST_BYTES:
            raise BadHead(b"413 Content Too Large")
        if len(pending) < body_at + length:
            if head.expects_continue and not self._continued:
                self._continued = True
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return False
        try:
            self._answer(head, pending[body_at:body_at + length])
        except _NotYet:
            return False
        self._wait_no_more()
        self._continued = False
        self._pending = pending[body_at + length:]
        self._remember(head, pending[:body_at])
        return True

    def _ask(self, head: Head, request: bytes) -> Answer:
        """The answer, for which a client has to wait if the certificate may be new, or if it has to be signed. Raises
        _NotYet."""
        answer = self._server.answer(request)
        if answer is NOT_YET_KNOWN and not (self._waits_no_more or self._ticket) and (
                self._waits or self._server.hold(self)):
            if not self._waits and self._transport is not None:
                self._transport.pause_reading()
            self._waits = True
            raise _NotYet
        live = self._server.live
        if live is None or head.method == b"HEAD" or (self._has_ended and self._ticket is None):
            return answer
        return self._ask_live(live, head, request, answer)

    def _ask_live(self, live: LiveDesk, head: Head, request: bytes, answer: Answer) -> Answer:
        """A response that is made for this request, or, where there is none, `answer`. Raises _NotYet."""
        if self._ticket is None:
            question = self._server.question(request, answer)
            if question is None or self._transport is None:
                return answer
            peer = self._transport.get_extra_info("peername")
            client = live.client(peer[0], head.forwarded_for) if isinstance(peer, tuple) else None
            ticket = live.ask(question, client, self._serve_live)
            if isinstance(ticket, Refusal):
                return LATER if ticket is Refusal.QUEUE else answer
            if self._waits:
                self._waits = False
                self._server.release(self)
            self._ticket = ticket
            self._transport.resume_reading()    # so that it is seen when the client leaves
        if not self._ticket.is_done:
            raise _NotYet
        if self._ticket.response is not None:
            return Answer(self._ticket.response, None, is_live=True)
        return LATER if self._ticket.refusal is Refusal.QUEUE else answer

    def _serve_live(self) -> None:
        try:
            self._serve()
        except Exception as fault:
            self._server.say_fault(fault)
            if self._transport is not None:
                self._transport.abort()

    def _wait_no_more(self) -> None:
        if self._ticket is not None:
            self._ticket = None
            if self._transport is not None and not (self._paused or self._waits):
                self._transport.resume_reading()
        if self._waits:
            # Who has waited in vain does not wait again: made-up serial numbers behind each other would hold a place.
            self._waits = False
            self._server.release(self)
            if self._transport is not None and not self._paused:
                self._transport.resume_reading()

    def _remember(self, head: Head, raw: bytes) -> None:
        if head.is_plain:
            if head.method == b"GET" and not head.content_length:
                self._server.known.remember_tail(raw[raw.index(b" ", 4) + 1:])
            elif head.method == b"POST" and head.content_length is not None and _is_request_type(head.content_type):
                self._server.known.remember_post(raw[:-4], head.content_length)

    def _answer(self, head: Head, body: bytes) -> None:
        if head.method == b"POST":
            if not _is_request_type(head.content_type):
                raise BadHead(b"415 Unsupported Media Type")
            text, content = self._render(head, self._ask(head, body))
        else:
            path = head.target.partition(b"?")[0]
            if path == b"/healthz":
                text, content = self._server.health()
            elif path == b"/metrics" and self._is_local():
                text, content = self._server.metrics()
            else:
                if path.startswith(_PREFIX):
                    path = path[len(_PREFIX) - 1:]
                if len(path) - 1 > MAX_PATH_BYTES:
                    raise BadHead(b"414 URI Too Long")
                request = decode_path(path[1:])
                text, content = self._render(head, MALFORMED if request is None else self._ask(head, request))
        if head.method == b"HEAD":
            content = b""
        if not head.persistent:
            self._closing = True
            text += b"Connection: close\r\n"
        elif head.minor_version == 0:
            text += b"Connection: keep-alive\r\n"
        self._write(b"".join((text, b"\r\n", content)))

    def _is_local(self) -> bool:
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return peer is not None and peer[0] in ("127.0.0.1", "::1", "::ffff:127.0.0.1")

    def _render(self, head: Head, answer: Answer) -> tuple[bytes, bytes]:
        """Header lines without the empty one, and the content."""
        second = self._server.second
        if answer.times is None:
            return b"HTTP/1.1 %b\r\n%b%b%bContent-Length: %d\r\n" % (
                answer.status, _LIVE_HEADERS if answer.is_live else _ERROR_HEADERS, second.date, answer.headers,
                len(answer.body)), answer.body
        etag = answer.etag
        validators = b"%b%bETag: %b\r\n" % (second.cache_headers(answer.times), second.date, etag)
        if head.method != b"POST" and _is_known(head, etag, answer):
            return b"HTTP/1.1 304 Not Modified\r\n" + validators, b""
        return SUCCESS_LINES + validators + LENGTH_LINE % len(answer.body), answer.body


def _is_request_type(content_type: bytes | None) -> bool:
    """A missing type is tolerated (spec/pki.md 5.5)."""
    return content_type is None or content_type.partition(b";")[0].strip(b" \t").lower() == _REQUEST_TYPE


def _is_known(head: Head, etag: bytes, answer: Answer) -> bool:
    """RFC 9110 13.2.2: If-None-Match decides; If-Modified-Since only where it is absent.

    thisUpdate is a begun minute or hour, in which a certificate may have been good before it was revoked: by the date
    alone nobody is told that he knows a revoked one already.
    """
    if head.if_none_match is not None:
        named = {name.strip(b" \t").removeprefix(b"W/") for name in head.if_none_match.split(b",")}
        return b"*" in named or etag in named
    if head.if_modified_since is None or answer.times is None or answer.is_revoked:
        return False
    since_s = read_http_date(head.if_modified_since)
    return since_s is not None and answer.times.this_update_s <= since_s
