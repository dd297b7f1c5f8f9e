"""Answers http-01 challenges inside the load generator (RFC 8555 8.3), for as little processor time as it can."""

import asyncio
from typing import cast

_PREFIX = b"GET /.well-known/acme-challenge/"
HANGING_HOSTS = "hang"
"""Host names that begin so are taken and never answered."""
TRICKLING_HOSTS = "trickle"
"""Host names that begin so get an octet a second."""
_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class ChallengeServer:
    """Serves the key authorizations that it is told, on one port of both loopback addresses."""

    def __init__(self) -> None:
        self._answers: dict[bytes, bytes] = {}
        self._servers: list[asyncio.Server] = []
        self.served = 0
        self.port = 0

    async def start(self, port: int) -> None:
        """Listens. Raises OSError when 127.0.0.1 is taken; a machine without IPv6 is fine."""
        loop = asyncio.get_running_loop()
        self.port = port
        self._servers = [await loop.create_server(lambda: _Answer(self), "127.0.0.1", port, backlog=1024)]
        try:
            self._servers.append(await loop.create_server(lambda: _Answer(self), "::1", port, backlog=1024))
        except OSError:
            return

    async def stop(self) -> None:
        """Closes the sockets."""
        for server in self._servers:
            server.close()
            await server.wait_closed()
        self._servers = []

    def publish(self, token: str, key_authorization: str) -> None:
        """From now on `token` is answered."""
        self._answers[token.encode("ascii")] = key_authorization.encode("ascii")

    def withdraw(self, token: str) -> None:
        """The challenge is over."""
        self._answers.pop(token.encode("ascii"), None)

    def answer(self, head: bytes) -> bytes:
        """The whole response to a request head."""
        token = head[len(_PREFIX):].split(b" ", 1)[0] if head.startswith(_PREFIX) else b""
        body = self._answers.get(token)
        if body is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        self.served += 1
        return (b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\nContent-Length: "
                + str(len(body)).encode("ascii") + b"\r\n\r\n" + body)


class _Answer(asyncio.Protocol):
    def __init__(self, server: ChallengeServer) -> None:
        self._server = server
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        assert self._transport is not None
        if f"\r\nHost: {HANGING_HOSTS}".encode() in self._head:
            return
        if f"\r\nHost: {TRICKLING_HOSTS}".encode() in self._head:
            self._transport.write(_HEAD)
            asyncio.get_running_loop().call_later(1.0, self._trickle)
        elif b"\r\n\r\n" in self._head:
            self._transport.write(self._server.answer(bytes(self._head)))
            self._transport.close()
        elif len(self._head) > 8192:
            self._transport.abort()

    def _trickle(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"x")
            asyncio.get_running_loop().call_later(1.0, self._trickle)
