"""A remote perspective's server: one question a request, one finding a response, nothing stored.

Who reaches the application holds the VA's key (perspective_tls). It is not believed all the same: bodies are bounded,
questions are strict, and what is dialled is judged here again.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Final

import structlog
from aiohttp import web

from acme_api.va import perspective_message as message
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.lanes import Lanes
from acme_api.va.look import Looker
from acme_api.va.perspective_client import HEALTH_PATH, LOOK_PATH
from acme_api.va.perspective_message import Failure, Finding, Health, MessageError
from ca.process.ambient import Ambient

HANDSHAKE_TIMEOUT_S: Final = 5.0
_BODY_TIMEOUT_S: Final = 5.0
_KEEP_ALIVE_S: Final = 60.0
_CLIENT: Final = b"va"


class PerspectiveServer:
    """Answers for the perspective `name`, at most `max_looks` questions at once."""

    def __init__(self, *, name: str, looker: Looker, lanes: Lanes, max_looks: int, ambient: Ambient) -> None:
        self._name = name
        self._looker = looker
        self._lanes = lanes
        self._max_looks = max_looks
        self._ambient = ambient
        self._log = structlog.get_logger()

    def application(self) -> web.Application:
        """The two paths; everything else is 404."""
        application = web.Application(client_max_size=message.MAX_QUESTION_BYTES)
        application.add_routes([web.post(LOOK_PATH, self._look), web.get(HEALTH_PATH, self._health)])
        return application

    async def _health(self, _request: web.Request) -> web.Response:
        return _json(200, message.encode(Health(perspective=self._name)))

    async def _look(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                asked = message.decode_question(await request.read())
        except TimeoutError:
            return _json(408, b'{"error": "the question came too slowly"}')
        except web.HTTPRequestEntityTooLarge:
            return _json(413, b'{"error": "the question is too long"}')
        except MessageError as fault:
            self._log.warning("question refused", why=str(fault))
            return _json(400, message.encode({"error": str(fault)}))
        if self._lanes.in_flight >= self._max_looks:
            return _json(503, b'{"error": "too many questions at once"}')
        async with self._lanes.flight(_CLIENT):
            finding = await self._find(asked)
        return _json(200, message.encode(finding))

    async def _find(self, asked: message.QuestionMessage) -> Finding:
        evidence = Evidence(self._ambient.now)
        failure: Failure | None = None
        try:
            await self._looker.look(asked.kind, message.question_of(asked, self._ambient.now()), evidence)
        except ValidationFailure as fault:
            failure = Failure(type=fault.type, detail=_printable(fault.detail), transient=fault.transient)
        except Exception:
            self._log.exception("a look broke", method=asked.method, identifier=asked.identifier_value)
            failure = Failure(type="serverInternal", detail="the look broke", transient=True)
        self._log.info("looked", kind=asked.kind, method=asked.method, identifier=asked.identifier_value,
                       confirms=failure is None, type=failure and failure.type, detail=failure and failure.detail)
        return Finding(perspective=self._name, failure=failure, evidence=evidence.to_json())


async def serve(
    server: PerspectiveServer, sockets: Sequence[socket.socket], context: ssl.SSLContext, stop: asyncio.Event,
    *, handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
) -> None:
    """Serves on the sockets until `stop` is set; a look that is going on is given up when its asker has gone."""
    runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True,
                           keepalive_timeout=_KEEP_ALIVE_S, shutdown_timeout=1.0)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - set by setup()
    loop = asyncio.get_running_loop()
    listening = [await loop.create_server(runner.server, sock=each, ssl=context,
                                          ssl_handshake_timeout=handshake_timeout_s) for each in sockets]
    try:
        await stop.wait()
    finally:
        for each in listening:
            each.close()
        await runner.cleanup()


def _printable(detail: str) -> str:
    ascii_text = detail.encode("ascii", "backslashreplace").decode()
    return "".join(character if character.isprintable() else "?" for character in ascii_text)[:1_024]


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")
