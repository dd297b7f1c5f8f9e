"""`chancery run crl`: serves CRLs and CA certificates over HTTP, and goes on serving when the database is away."""

import asyncio

import structlog
from aiohttp import web

from ca.distribution.refresh import refresh
from ca.distribution.server import Distribution
from ca.process import lifecycle
from ca.process.ambient import Ambient, system_ambient
from ca.process.http import bind_sockets
from ca.process.postgres import Listener, create_pool
from ca.process.settings import Settings
from ca.process.worker import run_claim_loop

ROLE = "ca_reader"
PROCESS = "crl"
_POLL_S = 2.0
_KEEP_ALIVE_S = 30.0
_DRAIN_S = 5.0


def main(settings: Settings) -> int:
    """Runs the server until SIGTERM; the exit code."""
    return lifecycle.run_process(PROCESS, lambda stop: serve(settings, system_ambient(), stop))


async def serve(settings: Settings, ambient: Ambient, stop: asyncio.Event) -> None:
    """Loads everything once, then serves and refreshes until `stop`. Raises StartupError."""
    sockets = bind_sockets(settings.distribution.listen)
    distribution = Distribution(ambient.now)
    runner = web.ServerRunner(
        web.Server(distribution.handle, access_log=None, keepalive_timeout=_KEEP_ALIVE_S),
        shutdown_timeout=_DRAIN_S)
    pool = await create_pool(settings.database, ROLE, process=PROCESS, max_size=2)
    wake = asyncio.Event()

    async def step() -> bool:
        await refresh(pool, distribution, settings.ca)
        return False

    try:
        async with Listener(settings.database, ROLE, PROCESS, {"crl": lambda _payload: wake.set()}):
            await refresh(pool, distribution, settings.ca)
            await runner.setup()
            for listener in sockets:
                await web.SockSite(runner, listener).start()
            lifecycle.ready()
            await run_claim_loop(wake=wake, poll_s=_POLL_S, stop=stop, step=step, log=structlog.get_logger())
    finally:
        await runner.cleanup()
        # A pool whose server is away may wait for ever to say goodbye.
        pool.terminate()
