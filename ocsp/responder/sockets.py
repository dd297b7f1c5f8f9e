"""Non-blocking sockets of many clients below one epoll, for Linux: what a plain request costs besides its answer.

A general event loop calls a protocol for each client that sent something, which calls a transport, which queues the
answer. Here the loop is woken once for all clients that sent something; those whose requests are plain are answered in
three rounds, receive, look up, send, without a call for each but those of the socket itself. Everything else goes
through the connection as from any asyncio transport, and `EpollTransport` is that transport. Sending comes last, so
that a client on this machine that waits is woken once and not by every answer.
"""

import asyncio
import errno
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ocsp.responder.connection import OcspConnection

if TYPE_CHECKING:
    from ocsp.responder.server import OcspServer

# Room for most requests, and with a bytes object's own 33 octets as much as Python keeps at hand for small objects.
_RECEIVED_AT_ONCE: Final = 479
_MOST_RECEIVED_AT_ONCE: Final = 65_536
_EVENTS_AT_ONCE: Final = 512
_ACCEPTED_AT_ONCE: Final = 64
# What came meanwhile is taken without a turn of the event loop, for as long as the clock need not be read again.
_ROUNDS_AT_ONCE: Final = 8
_HIGH_WATER: Final = 65_536
_LOW_WATER: Final = 16_384
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_ROOM_PAUSE_S: Final = 1.0

_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET if hasattr(select, "epoll") else 0

_Send = Callable[[bytes], int]
_Client = tuple[OcspConnection, "EpollTransport", Callable[[int], bytes], _Send]


class AsyncioSockets:
    """The same by the event loop's own transports, where there is no epoll."""

    def __init__(self, servers: Sequence[asyncio.Server]) -> None:
        self._servers = servers

    def close_listeners(self) -> None:
        """Takes no more clients."""
        for server in self._servers:
            server.close()

    def close(self) -> None:
        """Nothing is left behind when all clients are gone."""


async def listen_by_asyncio(server: "OcspServer", listeners: Sequence[socket.socket]) -> AsyncioSockets:
    """Takes clients from now on."""
    loop = asyncio.get_running_loop()
    return AsyncioSockets([await loop.create_server(lambda: OcspConnection(server), sock=one) for one in listeners])


async def listen_by_epoll(server: "OcspServer", listeners: Sequence[socket.socket]) -> "EpollSockets":
    """Takes clients from now on."""
    return EpollSockets(server, listeners)


listen: Final = listen_by_epoll if hasattr(select, "epoll") else listen_by_asyncio


class EpollSockets:
    """All clients of one worker, and the sockets on which they come."""

    def __init__(self, server: "OcspServer", listeners: Sequence[socket.socket]) -> None:
        self._server = server
        self._listeners = list(listeners)
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._loop.add_reader(self._epoll.fileno(), self._take_events)
        for listener in listeners:
            listener.setblocking(False)
            # Taken over by the sockets that are accepted.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def close_listeners(self) -> None:
        """Takes no more clients."""
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners = []

    def close(self) -> None:
        """Ends it, after all clients."""
        self.close_listeners()
        for _, transport, _, _ in tuple(self._clients.values()):
            transport.abort()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def watch(self, descriptor: int, *, writable: bool) -> None:
        """Whether to say that a client reads again."""
        self._epoll.modify(descriptor, _EVENTS | select.EPOLLOUT if writable else _EVENTS)

    def forget(self, descriptor: int) -> None:
        """Before a client's socket is closed, which takes it from the epoll, too."""
        del self._clients[descriptor]

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as fault:
                if fault.errno not in _NO_ROOM:
                    raise
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(_NO_ROOM_PAUSE_S, self._accept_again, listener)
                return
            client.setblocking(False)
            connection = OcspConnection(self._server)
            transport = EpollTransport(self, client, connection)
            self._clients[client.fileno()] = connection, transport, client.recv, client.send
            self._epoll.register(client, _EVENTS)
            connection.connection_made(transport)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _take_events(self) -> None:
        server = self._server
        if monotonic() >= server.stale_at:
            server.refresh()
        for _ in range(_ROUNDS_AT_ONCE):
            events = self._epoll.poll(0, _EVENTS_AT_ONCE)
            if not events:
                return
            self._take_round(events)

    def _take_round(self, events: list[tuple[int, int]]) -> None:
        clients, plain, received = self._clients, select.EPOLLIN, list[bytes]()
        senders: list[_Client] = []
        for descriptor, event in events:
            client = clients.get(descriptor)
            if client is None:      # ended in this round by what another one sent
                continue
            connection, transport, receive, _ = client
            try:
                if event == plain and connection.is_quick:
                    data = receive(_RECEIVED_AT_ONCE)
                    if len(data) == _RECEIVED_AT_ONCE:
                        with suppress(BlockingIOError):
                            data += receive(_MOST_RECEIVED_AT_ONCE)
                    if len(data) < _MOST_RECEIVED_AT_ONCE:
                        received.append(data)
                        senders.append(client)
                    else:
                        transport.act(event, data)
                else:
                    transport.act(event)
            except BlockingIOError:
                continue
            except OSError:
                transport.abort()
            except Exception as fault:
                self._end(transport, fault)
        if received:
            self._answer(received, senders)

    def _answer(self, received: list[bytes], senders: list[_Client]) -> None:
        """What these clients sent. Those who are not answered in the short way are dealt with one by one."""
        now_s, plain = self._server.second.now_s, select.EPOLLIN
        try:
            answers = self._server.answer_plain(received)
        except Exception as fault:      # of one of them, which will meet it again alone
            self._server.say_fault(fault)
            answers = [None] * len(received)
        for (connection, transport, _, send), data, answer in zip(senders, received, answers, strict=True):
            try:
                if answer is None:
                    transport.act(plain, data)
                    continue
                connection.since_s = now_s
                try:
                    sent = send(answer)
                except BlockingIOError:
                    sent = 0
                if sent != len(answer):
                    transport.write(answer[sent:])
            except OSError:
                transport.abort()
            except Exception as fault:
                self._end(transport, fault)

    def _end(self, transport: "EpollTransport", fault: Exception) -> None:
        """A fault met by one client: the others have been woken for as well, and only once."""
        self._server.say_fault(fault)
        transport.abort()


class EpollTransport(asyncio.Transport):
    """One client's socket. Events come once (EPOLLET), so what is there is read until nothing is left."""

    __slots__ = ("_closing", "_connection", "_paused", "_socket", "_sockets", "_unsent")

    def __init__(self, sockets: EpollSockets, client: socket.socket, connection: OcspConnection) -> None:
        super().__init__()
        self._sockets = sockets
        self._socket: socket.socket | None = client
        self._connection = connection
        self._unsent = b""
        self._closing = False
        self._paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peername` alone."""
        if name == "peername" and self._socket is not None:
            with suppress(OSError):
                return self._socket.getpeername()
        return default

    def get_write_buffer_size(self) -> int:
        """What the client has not taken yet."""
        return len(self._unsent)

    def is_closing(self) -> bool:
        """Nothing more is read."""
        return self._closing

    def pause_reading(self) -> None:
        """Leaves with the kernel what comes."""
        self._paused = True

    def resume_reading(self) -> None:
        """Reads again, what came meanwhile at once."""
        if self._paused:
            self._paused = False
            asyncio.get_running_loop().call_soon(self.read)

    def close(self) -> None:
        """Ends it when all is sent."""
        self._closing = True
        if not self._unsent:
            self.abort()

    def abort(self) -> None:
        """Ends it now."""
        if self._socket is not None:
            self._closing = True
            self._unsent = b""
            self._sockets.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
            self._connection.connection_lost(None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends what the client takes now, and the rest when it takes more."""
        if self._socket is None:
            return
        if self._unsent:
            self._unsent += data
        else:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.abort()
                return
            if sent == len(data):
                return
            self._unsent = bytes(data[sent:])
            self._connection.is_quick = False       # until `resume_writing`
            self._sockets.watch(self._socket.fileno(), writable=True)
        if len(self._unsent) > _HIGH_WATER:
            self._connection.pause_writing()

    def act(self, events: int, data: bytes | None = None) -> None:
        """What epoll says; `data` is what has been read already."""
        if events & select.EPOLLOUT:
            self._flush()
        if events & select.EPOLLERR:
            self.abort()
        elif events & ~select.EPOLLOUT:
            self.read(data)

    def read(self, data: bytes | None = None) -> None:
        """Hands over all that has come; at its end the connection ends, after its answers."""
        while self._socket is not None and not (self._paused or self._closing):
            if data is None:
                try:
                    data = self._socket.recv(_MOST_RECEIVED_AT_ONCE)
                except BlockingIOError:
                    return
                except OSError:
                    self.abort()
                    return
            if not data:
                self._connection.eof_received()
                self.close()
                return
            self._connection.data_received(data)
            data = None

    def _flush(self) -> None:
        if self._socket is None or not self._unsent:
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            if self._closing:
                self.abort()
                return
            self._sockets.watch(self._socket.fileno(), writable=False)
        if len(self._unsent) <= _LOW_WATER:
            self._connection.resume_writing()
