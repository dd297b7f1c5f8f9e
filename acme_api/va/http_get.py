"""One GET over one connection: HTTP/1.1 as small as a validation needs it, strict in what it counts (rows H1, H4, H5).

No proxy, no cookie, no cache, no content decoding, no second request. The head of the response is at most 16 KiB,
interim responses included; of the body nothing beyond `max_body_bytes` is accepted, whether it is declared, chunked or
ended by closing.
"""

import re
from dataclasses import dataclass
from typing import Final, Protocol

from acme_api.va.dial import Endpoint
from acme_api.va.failure import ValidationFailure

MAX_HEAD_BYTES: Final = 16_384
MAX_RESPONSE_BYTES: Final = 65_536
"""Of everything that is read from one connection, TLS and chunk framing included (E85)."""

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9][0-9])(?: [^\r\n]*)?", re.ASCII)
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?", re.ASCII)
_CONTENT_LENGTH: Final = re.compile(rb"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Status and fields of the final response; field names in lower case, in the order received."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]

    def values(self, name: bytes) -> list[bytes]:
        """Every value of one field."""
        return [value for field, value in self.fields if field == name]


class BodyTooLong(Exception):
    """The body is longer than what is read; `declared_bytes` when it says so itself."""

    def __init__(self, declared_bytes: int | None = None) -> None:
        super().__init__("body too long")
        self.declared_bytes = declared_bytes


class Stream(Protocol):
    """What an exchange needs of a connection. `receive` gives b"" at the end of the stream."""

    @property
    def endpoint(self) -> Endpoint: ...

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes: ...


class Exchange:
    """A request that was sent, and its response as far as it was asked for."""

    def __init__(self, connection: Stream) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._ended = False

    async def get(self, *, target: str, host: str, user_agent: str) -> Head:
        """Sends the request and reads the head of the final response. Raises ValidationFailure (connection)."""
        await self._connection.send(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {user_agent}\r\nAccept: */*\r\n"
            "Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode("ascii"))
        left_bytes = MAX_HEAD_BYTES
        while True:
            lines, used_bytes = await self._head_lines(left_bytes)
            left_bytes -= used_bytes
            head = self._parse_head(lines)
            # 101 is final for us: nothing was asked to be upgraded. Other 1xx are interim and within the same bound.
            if head.status >= 200 or head.status == 101:
                return head

    async def body(self, head: Head, *, max_bytes: int) -> bytes:
        """The whole body. Raises BodyTooLong, or ValidationFailure (connection) when it is broken or breaks off."""
        codings = head.values(b"transfer-encoding")
        lengths = head.values(b"content-length")
        if codings:
            if [coding.lower() for coding in codings] != [b"chunked"] or lengths:
                raise self._invalid("a transfer coding that was not asked for")
            return await self._chunked(max_bytes)
        if lengths:
            if len(set(lengths)) > 1 or not _CONTENT_LENGTH.fullmatch(lengths[0]):
                raise self._invalid("a Content-Length that is not a number")
            declared_bytes = int(lengths[0])
            if declared_bytes > max_bytes:
                raise BodyTooLong(declared_bytes)
            return await self._exactly(declared_bytes)
        while not self._ended:
            if len(self._buffer) > max_bytes:
                raise BodyTooLong
            await self._more()
        if len(self._buffer) > max_bytes:
            raise BodyTooLong
        return bytes(self._buffer)

    async def _head_lines(self, max_bytes: int) -> tuple[list[bytes], int]:
        lines: list[bytes] = []
        used_bytes = 0
        while True:
            line, length_bytes = await self._line(max_bytes - used_bytes)
            used_bytes += length_bytes
            if not line and lines:
                return lines, used_bytes
            lines.append(line)

    async def _line(self, max_bytes: int) -> tuple[bytes, int]:
        """One line without its end, and how many octets it took. A lone LF ends a line, too (RFC 9112 2.2)."""
        scanned = 0
        while True:
            end = self._buffer.find(b"\n", scanned, max(max_bytes, 0))
            if end >= 0:
                break
            scanned = len(self._buffer)
            if scanned >= max_bytes:
                raise self._invalid(f"a header of more than {MAX_HEAD_BYTES} bytes, or an endless line")
            if self._ended:
                raise self._broken_off()
            await self._more()
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[:end + 1]
        return line, end + 1

    def _parse_head(self, lines: list[bytes]) -> Head:
        status = _STATUS_LINE.fullmatch(lines[0])
        if status is None:
            raise self._invalid("no HTTP/1 status line")
        fields = []
        for line in lines[1:]:
            name, separator, value = line.partition(b":")
            if not separator or not _FIELD_NAME.fullmatch(name) or b"\r" in value or b"\0" in value:
                raise self._invalid("a malformed header line")
            fields.append((name.lower(), value.strip(b" \t")))
        return Head(status=int(status[1]), fields=tuple(fields))

    async def _chunked(self, max_bytes: int) -> bytes:
        body = bytearray()
        while True:
            line, _ = await self._line(256)
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise self._invalid("a malformed chunk")
            length_bytes = int(size[1], 16)
            if length_bytes == 0:
                return bytes(body)
            if len(body) + length_bytes > max_bytes:
                raise BodyTooLong
            body += await self._exactly(length_bytes)
            end, _ = await self._line(2)
            if end:
                raise self._invalid("a malformed chunk")

    async def _exactly(self, length_bytes: int) -> bytes:
        while len(self._buffer) < length_bytes:
            if self._ended:
                raise self._broken_off()
            await self._more()
        data = bytes(self._buffer[:length_bytes])
        del self._buffer[:length_bytes]
        return data

    async def _more(self) -> None:
        data = await self._connection.receive()
        self._buffer += data
        self._ended = not data

    def _invalid(self, what: str) -> ValidationFailure:
        return ValidationFailure("connection", f"{self._connection.endpoint} did not answer in valid HTTP: {what}")

    def _broken_off(self) -> ValidationFailure:
        detail = f"{self._connection.endpoint} closed the connection in the middle of the response"
        return ValidationFailure("connection", detail, transient=True)
