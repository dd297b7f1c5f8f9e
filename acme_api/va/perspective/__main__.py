"""`chancery run perspective`: looks at names for a validation authority elsewhere, by the same code."""

import asyncio

from acme_api.va.look import Looker
from acme_api.va.perspective_server import PerspectiveServer, serve
from acme_api.va.perspective_tls import server_context
from acme_api.va.wiring import make_lanes, make_methods, max_open, remote
from ca.process.ambient import system_ambient
from ca.process.http import bind_sockets
from ca.process.lifecycle import ready, run_process
from ca.process.settings import PerspectiveSettings


def main(settings: PerspectiveSettings) -> int:
    """Answers until it is told to stop; the exit code."""
    return run_process("perspective", lambda stop: _run(settings, stop))


async def _run(settings: PerspectiveSettings, stop: asyncio.Event) -> None:
    ambient = system_ambient()
    host = settings.perspective
    context = server_context(certificate=host.certificate, key=host.key, clients=host.va_certificates)
    lanes = make_lanes(settings.va)
    looker = Looker(methods=make_methods(remote(settings), ambient), lanes=lanes, retry_delays_s=())
    server = PerspectiveServer(name=host.name, looker=looker, lanes=lanes, ambient=ambient,
                               max_looks=max_open(settings.va.concurrency))
    sockets = bind_sockets(host.listen, reuse_port=False)
    ready()
    await serve(server, sockets, context, stop)
