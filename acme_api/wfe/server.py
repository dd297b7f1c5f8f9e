"""The HTTP server under the application: aiohttp's, with bounded waiting and problem documents for broken HTTP.

aiohttp waits as long as a keep-alive connection may live for the rest of a header, and answers broken HTTP with text;
both are changed here (rows T11, E4 to E6). Everything else of it stays.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import http_exceptions, web
from aiohttp.web_protocol import RequestHandler

from acme_api.protocol.problem import Problem, malformed
from acme_api.wfe.app import MAX_HEADER_BYTES, App

_HEADER_TIMEOUT_S: Final = 10.0
_KEEP_ALIVE_S: Final = 75.0
_HANDSHAKE_TIMEOUT_S: Final = 10.0
_LINGER_S: Final = 1.0
_MAX_HEADER_LINES: Final = 100
_MAX_LINE_BYTES: Final = 8_190
_BACKLOG: Final = 4_096


class HttpServer(web.Server):
    """Makes a connection object for each connection."""

    def __init__(self, app: App) -> None:
        super().__init__(app.handle, keepalive_timeout=_KEEP_ALIVE_S, lingering_time=_LINGER_S, access_log=None,
                         auto_decompress=False, max_line_size=_MAX_LINE_BYTES, max_field_size=MAX_HEADER_BYTES,
                         max_headers=_MAX_HEADER_LINES)
        self.app = app

    def __call__(self) -> RequestHandler:
        """Called by the event loop for a new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    """One connection. A header that is begun, or awaited for the first time, has ten seconds to arrive."""

    __slots__ = ("_app", "_header_timer")

    def __init__(self, server: HttpServer, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self._app = server.app
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._header_timer = self._loop.call_later(_HEADER_TIMEOUT_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done() or self._messages:
            self._stop_timer()
        elif self._header_timer is None:
            self._header_timer = self._loop.call_later(_HEADER_TIMEOUT_S, self.force_close)

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
        return Problem("malformed", "the method is unknown", status=405, allow="GET, HEAD, POST, OPTIONS")
    if isinstance(exc, http_exceptions.LineTooLong):
        return malformed("the request line or a header is too long", status=431)
    if isinstance(exc, http_exceptions.BadHttpMessage) and "too many" in str(exc).lower():
        return malformed("there are too many headers", status=431)
    return malformed("this is not an HTTP request")


class Listening:
    """The server on its sockets, until `drain`."""

    def __init__(self, server: HttpServer, listeners: Sequence[asyncio.AbstractServer]) -> None:
        self._server = server
        self._listeners = listeners

    @classmethod
    async def start(cls, app: App, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None) -> "Listening":
        """Takes connections from now on; with `tls` None a proxy has ended TLS."""
        server = HttpServer(app)
        loop = asyncio.get_running_loop()
        timeout_s = None if tls is None else _HANDSHAKE_TIMEOUT_S
        listeners = [await loop.create_server(server, sock=each, ssl=tls, backlog=_BACKLOG,
                                              ssl_handshake_timeout=timeout_s) for each in sockets]
        return cls(server, listeners)

    async def drain(self, *, timeout_s: float) -> None:
        """Takes no new connections, lets requests that have begun end, and closes."""
        for listener in self._listeners:
            listener.close()
        self._server.pre_shutdown()
        await self._server.shutdown(timeout_s)
