"""`chancery run admin`: the operators' page, /healthz and /metrics on loopback, and the database's hourly upkeep."""

import asyncio
import functools

from aiohttp import web

from ca.admin.context import ROLE
from ca.admin.maintenance import Maintenance
from ca.admin.notices import notices
from ca.admin.page.crl_watch import CrlWatch
from ca.admin.page.server import application, require_loopback
from ca.admin.page.watch import Watch
from ca.process import lifecycle
from ca.process.ambient import Ambient, system_ambient
from ca.process.http import bind_sockets
from ca.process.postgres import create_pool
from ca.process.settings import Settings

PROCESS = "admin"
_STATEMENT_TIMEOUT = "20s"
_DRAIN_S = 3.0


def main(settings: Settings) -> int:
    """Runs until SIGTERM; the exit code."""
    return lifecycle.run_process(PROCESS, lambda stop: serve(settings, system_ambient(), stop))


async def serve(settings: Settings, ambient: Ambient, stop: asyncio.Event) -> None:
    """Serves the page and keeps the database until `stop`. Raises StartupError."""
    require_loopback(settings.admin.listen)
    sockets = bind_sockets(settings.admin.listen, reuse_port=False)
    pool = await create_pool(settings.database, ROLE, process=PROCESS, max_size=3,
                             options={"statement_timeout": _STATEMENT_TIMEOUT})
    maintenance = Maintenance(pool, ambient.now)
    crls = CrlWatch(pool, settings.ca.crl_base_url, ambient.now)
    watch = Watch(pool, settings.ocsp, maintenance, ambient.now, settings.ct_enabled, crls,
                  notices=functools.partial(notices, settings))
    runner = web.AppRunner(application(watch, settings), access_log=None, shutdown_timeout=_DRAIN_S)
    keepers = [asyncio.create_task(maintenance.run(stop)), asyncio.create_task(crls.run(stop))]
    try:
        await runner.setup()
        for listener in sockets:
            await web.SockSite(runner, listener).start()
        lifecycle.ready()
        await stop.wait()
    finally:
        await runner.cleanup()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        pool.terminate()
