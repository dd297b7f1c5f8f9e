"""Accepts connections of a listening socket, one at a time, with the PROXY header of those that have one.

Several processes may accept from one socket that their supervisor holds open: then a connection waits in the kernel
while a process is restarted, and none is lost. What arrives before a process stops is served by it or left to the
others.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from acme_api.wfe.proxy_protocol import MAX_BYTES, ProxyHeaderError, parse_header
from ca.process.client_address import IpAddress, IpNetwork, is_trusted, parse_address

_PAUSE_S: Final = 0.05
_LAST_HANDSHAKES_S: Final = 2.0
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyProtocol:
    """Connections from these networks begin with a PROXY header, and no others do."""

    trusted: Sequence[IpNetwork]


ProtocolFactory = Callable[[IpAddress | None, Callable[[], None]], asyncio.Protocol]
"""From the client's address, if a proxy told it, and what the protocol calls once when the connection is lost."""


class Acceptor:
    """Takes connections from a listening socket until `stop`, at most `max_connections` at a time."""

    def __init__(
        self, listener: socket.socket, protocol: ProtocolFactory, *,
        tls: ssl.SSLContext | None, max_connections: int, proxy_protocol: ProxyProtocol | None, patience_s: float,
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._tls = tls
        self._proxy_protocol = proxy_protocol
        self._patience_s = patience_s
        self._room = asyncio.Semaphore(max_connections)
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()
        self._task = asyncio.create_task(self._accept())

    async def stop(self) -> None:
        """Takes no more connections, but serves those that wait now. The socket is closed: with other processes that
        hold it, or with none, what comes from now on is theirs or refused."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        with suppress(BlockingIOError, OSError):
            while True:
                self._take(self._listener.accept()[0])
        self._listener.close()
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=_LAST_HANDSHAKES_S)
            for task in self._beginning:
                task.cancel()

    async def _accept(self) -> None:
        while True:
            await self._room.acquire()
            try:
                accepted, _ = await self._loop.sock_accept(self._listener)
            except OSError as fault:
                self._room.release()
                if fault.errno in _OUT_OF_DESCRIPTORS:
                    self._log.warning("a connection cannot be taken", fault=fault.strerror)
                await asyncio.sleep(_PAUSE_S)
                continue
            except BaseException:
                self._room.release()
                raise
            self._take(accepted, has_room=True)

    def _take(self, accepted: socket.socket, *, has_room: bool = False) -> None:
        accepted.setblocking(False)
        task = asyncio.create_task(self._begin(accepted, has_room=has_room))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _begin(self, accepted: socket.socket, *, has_room: bool) -> None:
        """From the accepted socket to the protocol that serves it; whatever goes wrong closes the connection."""
        def lost() -> None:
            nonlocal has_room
            if has_room:
                has_room = False
                self._room.release()

        try:
            client = None if self._proxy_protocol is None else await self._client_of(accepted, self._proxy_protocol)
            await self._loop.connect_accepted_socket(
                lambda: self._protocol(client, lost), accepted, ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else self._patience_s)
        except (OSError, ProxyHeaderError) as fault:
            self._log.debug("a connection did not begin", fault=str(fault) or type(fault).__name__)
            accepted.close()
            lost()
        except BaseException:
            accepted.close()
            lost()
            raise

    async def _client_of(self, accepted: socket.socket, proxy_protocol: ProxyProtocol) -> IpAddress | None:
        """The client that a listed proxy names, having taken its header off the socket and nothing else; None for a
        connection that speaks for itself. Raises ProxyHeaderError, TimeoutError, OSError."""
        peer = parse_address(accepted.getpeername()[0])
        if peer is None or not is_trusted(peer, proxy_protocol.trusted):
            return None
        taken = b""
        async with asyncio.timeout(self._patience_s):
            while True:
                await self._readable(accepted)
                seen = accepted.recv(MAX_BYTES, socket.MSG_PEEK)
                header = parse_header(taken + seen)
                if header is not None:
                    accepted.recv(header.length - len(taken))
                    return header.client
                if not seen:
                    raise ProxyHeaderError("the connection ended within its PROXY header")
                taken += accepted.recv(len(seen))

    async def _readable(self, accepted: socket.socket) -> None:
        readable = self._loop.create_future()
        self._loop.add_reader(accepted.fileno(), _set, readable)
        try:
            await readable
        finally:
            self._loop.remove_reader(accepted.fileno())


def _set(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
