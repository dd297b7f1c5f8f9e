"""HTTP/1.0 and 1.1 for OCSP on a bare asyncio protocol (RFC 9919, RFC 9110): the hot path of the responder.

A general server spends more on a request than the lookup does. This one knows GET, HEAD and POST, answers pipelined
requests in order, and refuses what it does not need (chunked bodies, upgrades) by closing. Times and headers that many
responses share are made once a second.
"""

import asyncio
import binascii
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, cast

from ocsp.protocol.request import MAX_PATH_BYTES, MAX_REQUEST_BYTES, decode_path
from ocsp.protocol.response import Times
from ocsp.responder.lookup import INTERNAL, MALFORMED, Answer, ResponseLookup

MAX_HEAD_BYTES: Final = 8_192
_IDLE_TIMEOUT_S: Final = 60
_REQUEST_TIMEOUT_S: Final = 10
_MAX_CONNECTIONS: Final = 20_000
_CACHE_CAP_S: Final = 3_600
_CACHE_MARGIN_S: Final = 3_600
_BUFFER_LIMIT_BYTES: Final = MAX_HEAD_BYTES + MAX_REQUEST_BYTES + 4
_ERROR_HEADERS: Final = b"Content-Type: application/ocsp-response\r\nCache-Control: max-age=0, no-cache\r\n"
_ALLOW: Final = b"Allow: GET, HEAD, POST\r\n"


class _HttpFault(Exception):
    """An answer without OCSP in it; the connection ends with it."""

    def __init__(self, status: bytes, headers: bytes = b"") -> None:
        super().__init__(status.decode("ascii"))
        self.status = status
        self.headers = headers


class OcspServer:
    """What all connections of a worker share: the lookup, this second's headers, and the sweep of slow clients."""

    def __init__(self, lookup: ResponseLookup, *, now: Callable[[], datetime]) -> None:
        self.lookup = lookup
        self._now = now
        self.connections: set[OcspConnection] = set()
        self.now_s = 0
        self.date = b""
        self.requests = 0
        self._headers: dict[Times, bytes] = {}
        self.tick()

    def tick(self) -> None:
        """Called every second: the date, and the end of what is too slow."""
        now = self._now()
        self.now_s = int(now.timestamp())
        self.date = b"Date: " + _http_date(self.now_s) + b"\r\n"
        self._headers.clear()
        for connection in tuple(self.connections):
            connection.close_if_late(self.now_s)

    def headers(self, times: Times) -> bytes:
        """Everything between status line and ETag for responses with these times."""
        found = self._headers.get(times)
        if found is None:
            max_age_s = max(0, min(_CACHE_CAP_S, times.next_update_s - self.now_s - _CACHE_MARGIN_S))
            found = self._headers[times] = b"".join((
                b"Content-Type: application/ocsp-response\r\n", self.date,
                b"Last-Modified: ", _http_date(times.this_update_s), b"\r\n",
                b"Expires: ", _http_date(times.next_update_s), b"\r\n",
                b"Cache-Control: max-age=%d, public, no-transform, must-revalidate\r\n" % max_age_s))
        return found


class OcspConnection(asyncio.Protocol):
    """One client. `_since_s` is when the connection became idle, or when its unfinished request began."""

    __slots__ = ("_buffer", "_closing", "_paused", "_server", "_since_s", "_transport")

    def __init__(self, server: OcspServer) -> None:
        self._server = server
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._since_s = server.now_s
        self._closing = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Registers the connection, or refuses it when there are too many."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the class
        if len(self._server.connections) >= _MAX_CONNECTIONS:
            transport.close()
            return
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._server.connections.discard(self)
        self._transport = None

    def pause_writing(self) -> None:
        """A client that does not read gets no more answers until it does."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()
            self._serve()

    def data_received(self, data: bytes) -> None:
        """Answers every whole request in the buffer."""
        if self._buffer:
            self._buffer += data
        else:
            self._buffer = data
            self._since_s = self._server.now_s
        self._serve()

    def eof_received(self) -> bool:
        """The client has sent all; what was whole has been answered."""
        return False

    def close_if_late(self, now_s: int) -> None:
        """Ends a connection that is idle or unfinished for too long."""
        limit_s = _REQUEST_TIMEOUT_S if self._buffer or self._paused else _IDLE_TIMEOUT_S
        if now_s - self._since_s > limit_s and self._transport is not None:
            self._transport.abort() if self._paused else self._transport.close()

    def _serve(self) -> None:
        transport = self._transport
        if transport is None or self._closing:
            return
        answers: list[bytes] = []
        had_buffer = bool(self._buffer)
        try:
            while self._buffer and not self._closing and not self._paused:
                before = len(self._buffer)
                answer = self._next_answer()
                if answer is None:
                    break
                answers.append(answer)
                self._since_s = self._server.now_s
                if len(self._buffer) >= before:
                    break
        except _HttpFault as fault:
            self._closing = True
            answers.append(b"".join((b"HTTP/1.1 ", fault.status, b"\r\n", self._server.date, fault.headers,
                                     b"Content-Length: 0\r\nConnection: close\r\n\r\n")))
        if answers:
            transport.write(b"".join(answers) if len(answers) > 1 else answers[0])
        elif had_buffer and len(self._buffer) > _BUFFER_LIMIT_BYTES:
            self._closing = True
        if self._closing:
            self._buffer = b""
            transport.close()

    def _next_answer(self) -> bytes | None:
        """Takes one request off the buffer and makes its answer; None when it is not whole yet. Raises _HttpFault."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise _HttpFault(b"431 Request Header Fields Too Large")
            return None
        if end > MAX_HEAD_BYTES:
            raise _HttpFault(b"431 Request Header Fields Too Large")
        line_end = buffer.find(b"\r\n")
        method, _, rest = buffer[:line_end].partition(b" ")
        target, _, version = rest.partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise _HttpFault(b"505 HTTP Version Not Supported" if version.startswith(b"HTTP/") else b"400 Bad Request")
        head = buffer[line_end:end + 2].lower()
        if b"\0" in head or b"\ntransfer-encoding:" in head:
            raise _HttpFault(b"400 Bad Request")
        keep = _keeps_open(head, version)
        body_start = end + 4
        if method == b"GET" or method == b"HEAD":
            if b"\ncontent-length:" in head and _content_length(head) != 0:
                raise _HttpFault(b"400 Bad Request")
            self._buffer = buffer[body_start:]
            answer = self._get(target, head)
        elif method == b"POST":
            length = _content_length(head)
            if length > MAX_REQUEST_BYTES:
                raise _HttpFault(b"413 Content Too Large")
            if len(buffer) < body_start + length:
                self._continue(head)
                return None
            self._buffer = buffer[body_start + length:]
            _require_ocsp_type(head)
            answer = self._answer(self._server.lookup.answer(buffer[body_start:body_start + length],
                                                             self._server.now_s), b"")
        else:
            raise _HttpFault(b"405 Method Not Allowed", _ALLOW)
        if not keep:
            self._closing = True
            answer = answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        elif version == b"HTTP/1.0":
            answer = answer.replace(b"\r\n", b"\r\nConnection: keep-alive\r\n", 1)
        self._server.requests += 1
        return answer[:answer.index(b"\r\n\r\n") + 4] if method == b"HEAD" else answer

    def _continue(self, head: bytes) -> None:
        """A client that waits for leave to send its body gets it, once."""
        if b"\nexpect: 100-continue" in head and self._transport is not None and self._buffer.endswith(b"\r\n\r\n"):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _get(self, target: bytes, head: bytes) -> bytes:
        if target == b"/healthz":
            return b"".join((b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n", self._server.date,
                             b"Content-Length: 3\r\n\r\nok\n"))
        path = target.partition(b"?")[0]
        if len(path) > MAX_PATH_BYTES:
            raise _HttpFault(b"414 URI Too Long")
        request = _canonical(path)
        if request is None:
            request = decode_path(path)
        answer = MALFORMED if request is None else self._server.lookup.answer(request, self._server.now_s)
        return self._answer(answer, head)

    def _answer(self, answer: Answer, head: bytes) -> bytes:
        body, times = answer.body, answer.times
        if times is None:
            status = b"400 Bad Request" if answer is MALFORMED else (
                b"500 Internal Server Error" if answer is INTERNAL else b"200 OK")
            return b"".join((b"HTTP/1.1 ", status, b"\r\n", _ERROR_HEADERS, self._server.date,
                             b"Content-Length: %d\r\n\r\n" % len(body), body))
        tag = b'"' + hashlib.sha256(body).hexdigest().encode("ascii") + b'"'
        headers = self._server.headers(times)
        if head and _is_fresh(head, tag, times):
            return b"".join((b"HTTP/1.1 304 Not Modified\r\n", headers, b"ETag: ", tag, b"\r\n\r\n"))
        return b"".join((b"HTTP/1.1 200 OK\r\n", headers, b"ETag: ", tag,
                         b"\r\nContent-Length: %d\r\n\r\n" % len(body), body))


def _canonical(path: bytes) -> bytes | None:
    """The request of a path that is '/' and plain base64; None for every other form."""
    if path[:2] != b"/M" or b"%" in path:
        return None
    try:
        return binascii.a2b_base64(path[1:], strict_mode=True)
    except binascii.Error:
        return None


def _keeps_open(head: bytes, version: bytes) -> bool:
    start = head.find(b"\nconnection:")
    if start < 0:
        return version == b"HTTP/1.1"
    value = head[start + 12:head.index(b"\r", start)]
    return b"close" not in value and (version == b"HTTP/1.1" or b"keep-alive" in value)


def _content_length(head: bytes) -> int:
    """Raises _HttpFault unless there is exactly one, of digits only (a second one is how requests are smuggled)."""
    parts = head.split(b"\ncontent-length:")
    if len(parts) != 2:
        raise _HttpFault(b"411 Length Required" if len(parts) == 1 else b"400 Bad Request")
    value = parts[1][:parts[1].index(b"\r")].strip(b" \t")
    if not value.isdigit() or len(value) > 10:
        raise _HttpFault(b"400 Bad Request")
    return int(value)


def _require_ocsp_type(head: bytes) -> None:
    start = head.find(b"\ncontent-type:")
    if start >= 0:
        value = head[start + 14:head.index(b"\r", start)].partition(b";")[0].strip(b" \t")
        if value != b"application/ocsp-request":
            raise _HttpFault(b"415 Unsupported Media Type")


def _is_fresh(head: bytes, tag: bytes, times: Times) -> bool:
    """RFC 9110 13.2.2: If-None-Match decides; If-Modified-Since only where it is absent."""
    start = head.find(b"\nif-none-match:")
    if start >= 0:
        value = head[start + 15:head.index(b"\r", start)].strip(b" \t")
        return value == b"*" or tag in value
    start = head.find(b"\nif-modified-since:")
    if start < 0:
        return False
    text = head[start + 19:head.index(b"\r", start)].strip(b" \t").decode("latin-1")
    try:
        since = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S gmt").replace(tzinfo=UTC)
    except ValueError:
        return False
    return since.timestamp() >= times.this_update_s


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _http_date(unix_s: int) -> bytes:
    """IMF-fixdate, whatever the locale is."""
    at = datetime.fromtimestamp(unix_s, UTC)
    return (f"{_DAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at.year:04d} "
            f"{at:%H:%M:%S} GMT").encode("ascii")
