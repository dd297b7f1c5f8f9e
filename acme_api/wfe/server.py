"""The HTTP server under the application: aiohttp's, with bounded waiting and problem documents for broken HTTP.

aiohttp waits as long as a keep-alive connection may live for the rest of a header, for ever for a client that does not
read its answers, and answers broken HTTP with text; all of that is changed here (rows T11, E4 to E6). Connections are
accepted one at a time (accept.py), so that workers which share a listening socket share its connections too.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiohttp import http_exceptions, web
from aiohttp.web_protocol import RequestHandler

from acme_api.protocol.problem import Problem, malformed
from acme_api.wfe.accept import Acceptor, ProxyProtocol
from acme_api.wfe.app import MAX_HEADER_BYTES, App, origin_form, unknown_method
from ca.process.client_address import IpAddress, parse_address

_KEEP_ALIVE_S: Final = 75.0
_LINGER_S: Final = 1.0
_MAX_HEADER_LINES: Final = 100
_MAX_LINE_BYTES: Final = 8_190
_TICK_S: Final = 0.02
_TARGET: Final = re.compile(r"b'[!-~]+ ([!-~]+) HTTP/1\\?\.")


class HttpServer(web.Server):
    """Makes a connection object for each connection."""

    def __init__(self, app: App, *, read_timeout_s: float) -> None:
        super().__init__(self._handle, keepalive_timeout=_KEEP_ALIVE_S, lingering_time=_LINGER_S, access_log=None,
                         auto_decompress=False, max_line_size=_MAX_LINE_BYTES, max_field_size=MAX_HEADER_BYTES,
                         max_headers=_MAX_HEADER_LINES)
        self.app = app
        self.read_timeout_s = read_timeout_s

    def connection(self, client: IpAddress | None, lost: Callable[[], None]) -> RequestHandler:
        """A new connection; `client` is whose it is by the word of a proxy, None when it speaks for itself; `lost` is
        called when it is over."""
        return _Connection(self, client=client, lost=lost, loop=self._loop, **self._kwargs)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        return await self.app.handle(request, connection.client if isinstance(connection, _Connection) else None)


class _Connection(RequestHandler):
    """One connection. A header that is begun, or awaited for the first time, has ten seconds to arrive; a client that
    does not take what it asked for has as long."""

    __slots__ = ("_app", "_header_timer", "_lost", "_patience_s", "_write_timer", "client")

    def __init__(
        self, server: HttpServer, *, client: IpAddress | None, lost: Callable[[], None],
        loop: asyncio.AbstractEventLoop, **options: Any,
    ) -> None:
        super().__init__(server, loop=loop, **options)
        self._app = server.app
        self._patience_s = server.read_timeout_s
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._lost = lost
        self.client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.client is None:
            # Asked for now, because a connection that was reset has no address any more.
            peer = transport.get_extra_info("peername")
            self.client = parse_address(peer[0]) if isinstance(peer, tuple) else None
        self._header_timer = self._loop.call_later(self._patience_s, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        self._lost()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done() or self._messages:
            self._stop_timer()
        elif self._header_timer is None:
            self._header_timer = self._loop.call_later(self._patience_s, self.force_close)

    def pause_writing(self) -> None:
        """The transport's buffer is full: the client reads too slowly, or not at all."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self._loop.call_later(self._patience_s, self._give_up_writing)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _give_up_writing(self) -> None:
        if self.transport is not None:
            self.transport.abort()      # to close would be to wait for the client once more

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What was no HTTP request becomes a problem document, without a word of what was sent."""
        return self._app.unparsable(_fault_of(exc))

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def _fault_of(exc: BaseException | None) -> Problem:
    if isinstance(exc, http_exceptions.BadHttpMethod):
        # The parser shows the line that it did not understand.
        shown = _TARGET.search(str(exc))
        return malformed("this is not an HTTP request") if shown is None else unknown_method(origin_form(shown[1]))
    if isinstance(exc, http_exceptions.LineTooLong):
        if _MAX_LINE_BYTES in exc.args or str(_MAX_LINE_BYTES) in exc.args:
            return malformed("the URL is too long", status=414)
        return malformed("a header is too long", status=431)
    if isinstance(exc, http_exceptions.BadHttpMessage) and "too many" in str(exc).lower():
        return malformed("there are too many headers", status=431)
    return malformed("this is not an HTTP request")


class Listening:
    """The server on its sockets, until `drain`."""

    def __init__(self, app: App, server: HttpServer, acceptors: Sequence[Acceptor]) -> None:
        self._app = app
        self._server = server
        self._acceptors = acceptors

    @classmethod
    def start(
        cls, app: App, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None, *, read_timeout_s: float = 10.0,
        max_connections: int = 8_192, proxy_protocol: ProxyProtocol | None = None,
    ) -> "Listening":
        """Takes connections from now on; with `tls` None a proxy has ended TLS."""
        server = HttpServer(app, read_timeout_s=read_timeout_s)
        share = max(1, max_connections // len(sockets))
        return cls(app, server, [
            Acceptor(each, server.connection, tls=tls, max_connections=share, proxy_protocol=proxy_protocol,
                     patience_s=read_timeout_s) for each in sockets])

    async def drain(self, *, timeout_s: float, idle_s: float = 0.0) -> None:
        """Takes no new connections, answers what has begun and what comes on connections that exist, and closes each
        with its answer. Who says nothing for `idle_s` is closed without one; `timeout_s` more is for the rest."""
        await asyncio.gather(*(acceptor.stop() for acceptor in self._acceptors))
        self._app.close_with_answers()
        loop = asyncio.get_running_loop()
        until_s = loop.time() + idle_s
        while self._server.connections and loop.time() < until_s:  # noqa: ASYNC110 - nothing tells of the last one
            await asyncio.sleep(_TICK_S)
        self._server.pre_shutdown()
        await self._server.shutdown(timeout_s)
