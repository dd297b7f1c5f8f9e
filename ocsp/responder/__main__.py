"""`chancery run ocsp`: one worker of the responder. Several share the port and the memory."""

import asyncio
from contextlib import suppress

import msgspec
import structlog

from ca.process.ambient import Ambient, system_ambient
from ca.process.http import bind_sockets, raise_descriptor_limit
from ca.process.lifecycle import StartupError, ready, run_process
from ca.process.settings import Settings
from ca.process.worker import wait_any, worker_name
from ocsp.responder.live import LiveDesk
from ocsp.responder.memory import MemoryFault, ResponseMemory
from ocsp.responder.server import MAX_CONNECTIONS, OcspServer
from ocsp.responder.sockets import listen
from ocsp.responder.tail import Tail
from ocsp.responder.tally import Tally

_STOP_PATIENCE_S = 2.0
_RENEW_EVERY_S = 0.05
# Of the store, the database, the log, and the few that are taken before a connection is refused.
_OTHER_DESCRIPTORS = 128


def main(settings: Settings) -> int:
    """Runs one worker; returns the exit code."""

    async def run(stop: asyncio.Event) -> None:
        await respond(settings, system_ambient(), stop)

    return run_process("ocsp", run, prompt=True)


async def respond(settings: Settings, ambient: Ambient, stop: asyncio.Event) -> None:
    """Reads the log to its end, then takes connections until `stop`. Raises StartupError."""
    directory = settings.ocsp.store_dir
    log = structlog.get_logger()
    try:
        memory = ResponseMemory(directory, map_size_gib=settings.ocsp.map_size_gib)
    except (MemoryFault, OSError) as fault:
        raise StartupError(f"the responder's store {directory} cannot be opened: {fault}") from fault
    database = (msgspec.structs.replace(settings.database, url=settings.ocsp.database_url)
                if settings.ocsp.database_url else settings.database)
    tail = Tail(database, memory, directory, ambient=ambient, log=log)
    tailing = asyncio.create_task(tail.run(stop))
    tailing.add_done_callback(lambda _: stop.set())
    while not (stop.is_set() or tail.current.is_set()):
        await wait_any(stop, tail.current, timeout_s=_RENEW_EVERY_S)
        # Whoever looks at an old state keeps its pages from being used again: the file would grow with every write.
        try:
            memory.renew()
        except (MemoryFault, OSError):
            memory.distrust()
    if not stop.is_set():
        # Not earlier: the kernel would hand this worker its share of the connections while it cannot answer.
        live = LiveDesk(settings.ocsp, ambient=ambient, log=log) if settings.ocsp.live else None
        asking = None if live is None else asyncio.create_task(live.run(settings.database, stop))
        server = OcspServer(memory, now=ambient.now, max_age_s=settings.ocsp.max_age_s, log=log, live=live,
                            tally=Tally(directory, worker_name()),
                            max_connections=min(MAX_CONNECTIONS, raise_descriptor_limit() - _OTHER_DESCRIPTORS))
        await server.start(bind_sockets(settings.ocsp.listen), listen)
        ready()
        warming = asyncio.create_task(asyncio.to_thread(memory.warm_up, stop.is_set))
        await stop.wait()
        await warming
        await server.stop()
        if asking is not None:
            await _end(asking)
    try:
        await _end(tailing)
    finally:
        memory.close()


async def _end(task: "asyncio.Task[None]") -> None:
    """Waits for what has been told to stop, not for long: it may be waiting for a database that is away."""
    await asyncio.wait([task], timeout=_STOP_PATIENCE_S)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
