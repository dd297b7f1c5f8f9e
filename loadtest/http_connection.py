"""One keep-alive HTTP/1.1 connection to a server on loopback.

The load generator shares two cores with what it measures. aiohttp's client costs 0.2 ms a request there, about a tenth
of a whole order at Pebble's speed, and would press every ratio towards 1; this costs a fifth of that. It knows what
an ACME client needs (Content-Length, chunked bodies, no redirects, no pipelining) and nothing else.
"""

import asyncio
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

_HEAD_LIMIT_BYTES = 65_536


class HttpFault(Exception):
    """The server closed the connection, or did not speak HTTP."""


class NotLoopbackError(Exception):
    """Traffic is generated on this machine alone; anything else is refused before a packet is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Scheme, host and port of a server, and a loopback address that its host has."""

    scheme: str
    host: str
    port: int
    address: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        return f"{self.host}:{self.port}"


def loopback_origin(url: str) -> Origin:
    """The origin of a URL whose host resolves to loopback addresses only. Raises NotLoopbackError otherwise."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        raise NotLoopbackError(f"{url} is not an http or https URL")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = sorted({str(one[4][0]) for one in found})
    outside = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    if outside or not addresses:
        raise NotLoopbackError(f"{parts.hostname} has the address {', '.join(outside) or 'none'}: "
                               "load is only sent to loopback")
    ipv4 = [address for address in addresses if "." in address]
    return Origin(scheme=parts.scheme, host=parts.hostname, port=port, address=(ipv4 or addresses)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """Status, headers by lower-case name (the last of equal names), whole body."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Exchange(asyncio.Protocol):
    """Reads one response at a time from the connection."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.waiter: asyncio.Future[HttpResponse] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's TLS transport has another base class

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.waiter is None or self.waiter.done():
            return
        try:
            response = take_response(self.buffer)
        except HttpFault as fault:
            self.waiter.set_exception(fault)
            return
        if response is not None:
            self.waiter.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(HttpFault(f"the server closed the connection: {exc or 'end of stream'}"))


class HttpConnection:
    """Sends one request after another; connects when it has to."""

    def __init__(self, origin: Origin, tls: ssl.SSLContext | None) -> None:
        self._origin = origin
        self._tls = tls
        self._exchange: _Exchange | None = None

    async def request(self, method: str, path: str, body: bytes | None, *, content_type: str,
                      timeout_s: float) -> HttpResponse:
        """One exchange. Raises HttpFault, OSError or TimeoutError; the connection is not used again then."""
        exchange = await self._connected()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._origin.authority}\r\nUser-Agent: chancery-loadtest\r\n"
        if body is not None:
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        exchange.waiter = asyncio.get_running_loop().create_future()
        assert exchange.transport is not None
        exchange.transport.write(head.encode("ascii") + b"\r\n" + (body or b""))
        try:
            async with asyncio.timeout(timeout_s):
                response = await exchange.waiter
        except BaseException:
            self.close()
            raise
        if response.headers.get("connection", "").lower() == "close":
            self.close()
        return response

    def close(self) -> None:
        """Ends the connection; the next request opens another."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.transport is not None:
            exchange.transport.abort()

    async def _connected(self) -> _Exchange:
        if self._exchange is not None and self._exchange.transport is not None \
                and not self._exchange.transport.is_closing():
            return self._exchange
        _, exchange = await asyncio.get_running_loop().create_connection(
            _Exchange, self._origin.address, self._origin.port, ssl=self._tls,
            server_hostname=self._origin.host if self._tls is not None else None)
        self._exchange = exchange
        return exchange


def take_response(buffer: bytearray) -> HttpResponse | None:
    """Removes one whole response from the buffer and returns it; None while it is incomplete. Raises HttpFault."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > _HEAD_LIMIT_BYTES:
            raise HttpFault("the response head has no end")
        return None
    lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    status_line = lines[0].split(" ", 2)
    if len(status_line) < 2 or not status_line[0].startswith("HTTP/1.") or not status_line[1].isdigit():
        raise HttpFault(f"not a status line: {lines[0]!r}")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    status = int(status_line[1])
    found = _take_body(buffer, end + 4, status, headers)
    if found is None:
        return None
    body, consumed = found
    del buffer[:consumed]
    return HttpResponse(status=status, headers=headers, body=body)


def _take_body(buffer: bytearray, start: int, status: int, headers: dict[str, str]) -> tuple[bytes, int] | None:
    if status in (204, 304):
        return b"", start
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _take_chunks(buffer, start)
    length = headers.get("content-length", "")
    if not length.isdigit():
        raise HttpFault("a response with neither Content-Length nor chunks")
    stop = start + int(length)
    return (bytes(buffer[start:stop]), stop) if len(buffer) >= stop else None


def _take_chunks(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    body = bytearray()
    while True:
        line_end = buffer.find(b"\r\n", start)
        if line_end < 0:
            return None
        size_text = bytes(buffer[start:line_end]).split(b";")[0].strip()
        try:
            size = int(size_text, 16)
        except ValueError as fault:
            raise HttpFault(f"not a chunk size: {size_text!r}") from fault
        start = line_end + 2
        if len(buffer) < start + size + 2:
            return None
        body += buffer[start:start + size]
        start += size + 2
        if size == 0:
            return bytes(body), start
