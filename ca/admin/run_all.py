"""`chancery run all`: the database if it is ours to run, then every process of this machine, until a signal."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from ca.admin.embedded_postgres import SUPERUSER, EmbeddedPostgres
from ca.admin.migrate import make_embedded_database, make_password, migrate
from ca.admin.supervise import DirectoryLock, Supervisor
from ca.process.ambient import Ambient, system_ambient
from ca.process.http import require_free
from ca.process.lifecycle import StartupError, run_process
from ca.process.settings import Settings

_EMBEDDED_SETTINGS: dict[str, str] = {}


def main(settings: Settings, config: Path) -> int:
    """Runs everything that the configuration names; returns the exit code. SIGHUP replaces the processes one by one, so
    that a new version or configuration comes into force without a pause."""
    log = structlog.get_logger()
    place = config.resolve()

    async def run(stop: asyncio.Event) -> None:
        restart = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, restart.set)
        await run_all(settings, place, stop, on_progress=lambda text: log.info(text), on_ready=lambda: None,
                      restart=restart)

    return run_process("supervisor", run, prompt=True)


async def run_all(
    settings: Settings,
    config: Path,
    stop: asyncio.Event,
    *,
    on_progress: Callable[[str], None],
    on_ready: Callable[[], None],
    restart: asyncio.Event | None = None,
) -> None:
    """Locks the data directory, starts the embedded database, migrates it, and supervises. Raises StartupError.

    `<data_dir>/ready` exists from the moment that everything serves until the stop.
    """
    ready = settings.data_dir / "ready"
    with DirectoryLock(settings.data_dir):
        ready.unlink(missing_ok=True)
        for section in (settings.acme, settings.ocsp, settings.distribution, settings.admin):
            require_free(section.listen)
        server = embedded_server(settings)
        try:
            if server is not None:
                on_progress("starting PostgreSQL")
                await start_database(server, settings, system_ambient())

            def announce() -> None:
                ready.touch()
                on_ready()

            on_progress("starting processes")
            await Supervisor(settings, config, on_progress=on_progress).run(
                stop, on_ready=announce, restart=restart)
        finally:
            ready.unlink(missing_ok=True)
            if server is not None:
                await asyncio.to_thread(server.stop)


def embedded_server(settings: Settings) -> EmbeddedPostgres | None:
    """The server in the data directory, or None when `[database] url` names another."""
    if settings.database.url:
        return None
    return EmbeddedPostgres(directory=settings.data_dir / "postgres", secrets_dir=settings.database.secrets_dir,
                            settings=_EMBEDDED_SETTINGS)


async def start_database(server: EmbeddedPostgres, settings: Settings, ambient: Ambient) -> None:
    """Starts the embedded server and brings its database to this version."""
    password = make_password(settings.database, SUPERUSER, ambient)
    await asyncio.to_thread(server.start, password)
    await make_embedded_database(settings.database, ambient)
    await migrate(settings.database, ambient)


@asynccontextmanager
async def database_at_hand(settings: Settings, ambient: Ambient) -> AsyncIterator[None]:
    """Before the first start of a CA its embedded server does not run: here it does, with a database of this version.
    A server of the operator's own, and one that `run all` has started, are left alone. Raises StartupError."""
    server = embedded_server(settings)
    async with AsyncExitStack() as stack:
        if server is not None:
            try:
                stack.enter_context(DirectoryLock(settings.data_dir))
            except StartupError:
                server = None       # Somebody has it running.
        if server is not None:
            stack.push_async_callback(asyncio.to_thread, server.stop)
            await start_database(server, settings, ambient)
        yield
