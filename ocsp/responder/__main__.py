"""`chancery run ocsp`: one worker of the responder. Several share the port and the store."""

import asyncio

import structlog

from ca.process.ambient import Ambient, system_ambient
from ca.process.http import bind_sockets
from ca.process.lifecycle import StartupError, ready, run_process
from ca.process.postgres import Listener, create_pool
from ca.process.settings import Settings
from ocsp.responder import store
from ocsp.responder.lookup import ResponseLookup
from ocsp.responder.memory import ResponseMemory
from ocsp.responder.server import OcspConnection, OcspServer
from ocsp.responder.tail import tail

_ROLE = "ocsp_reader"


def main(settings: Settings) -> int:
    """Runs one worker; returns the exit code."""

    async def run(stop: asyncio.Event) -> None:
        await _respond(settings, system_ambient(), stop)

    return run_process("ocsp", run)


async def _respond(settings: Settings, ambient: Ambient, stop: asyncio.Event) -> None:
    sockets = bind_sockets(settings.ocsp.listen)
    directory = settings.ocsp.store_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as fault:
        raise StartupError(f"the store directory {directory} cannot be made: {fault.strerror}") from fault
    memory = ResponseMemory(directory, map_size_gib=settings.ocsp.map_size_gib)
    pool = await create_pool(settings.database, _ROLE, process="ocsp", max_size=2)
    issuers = await store.issuers(pool)
    if not issuers:
        raise StartupError("the database names no issuer: hold the ceremony first (`chancery ceremony run`)")
    server = OcspServer(ResponseLookup(issuers, memory), now=ambient.now)
    wake, current = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    async with pool, Listener(settings.database, _ROLE, "ocsp", {"ocsp_batch": lambda _: wake.set()}):
        tailing = asyncio.create_task(tail(pool, memory, directory, ambient=ambient, wake=wake, stop=stop,
                                           current=current, log=structlog.get_logger()))
        tailing.add_done_callback(lambda _: stop.set())
        # Nothing is answered before the store is as new as the log: a restarted worker never gives an older answer.
        await current.wait()
        listeners = [await loop.create_server(lambda: OcspConnection(server), sock=item) for item in sockets]
        ticking = asyncio.create_task(_tick(server))
        ready()
        await stop.wait()
        ticking.cancel()
        for listener in listeners:
            listener.close()
        await tailing
    memory.close()


async def _tick(server: OcspServer) -> None:
    while True:
        await asyncio.sleep(1.0)
        server.tick()
