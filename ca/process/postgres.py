"""PostgreSQL: every connection under the role of its process, and one LISTEN connection that never misses a wake-up."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg
import msgspec
import structlog

from ca.process.lifecycle import StartupError
from ca.process.settings import DatabaseSettings

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:  # generic in the stubs alone
    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool
Record: TypeAlias = asyncpg.Record
_Result = TypeVar("_Result")
PostgresError = asyncpg.PostgresError
UniqueViolation = asyncpg.UniqueViolationError
# What a statement raises while the server is away or restarting: a fault that passes, never the client's mistake.
# InternalClientError is asyncpg's when the server ends a connection that a statement is about to be sent on.
UNAVAILABLE = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError,
               asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError,
               asyncpg.TooManyConnectionsError, OSError)

SOCKET_DIRECTORY_FILE = "socket-directory"
_START_PATIENCE_S = 20.0
_RETRY_S = 0.25
_RECONNECT_S = 1.0


def role_password(settings: DatabaseSettings, role: str) -> str:
    """The password of a role from its file. Raises StartupError when this user may not read it."""
    path = settings.secrets_dir / f"{role}.password"
    try:
        return path.read_text("ascii").strip()
    except OSError as fault:
        raise StartupError(f"the password file of database role {role} cannot be read: {fault}") from fault


def connect_arguments(settings: DatabaseSettings, role: str, *, process: str) -> dict[str, Any]:
    """Arguments of asyncpg.connect for a role: of `url`, or of the embedded server's socket directory."""
    arguments: dict[str, Any] = {
        "user": role,
        "password": role_password(settings, role),
        "server_settings": {"application_name": f"chancery-{process}", "timezone": "UTC"},
        "timeout": 5.0,
    }
    if settings.url:
        arguments["dsn"] = settings.url
    else:
        arguments |= {"host": embedded_socket_directory(settings), "port": 5432, "database": "chancery"}
    return arguments


def embedded_socket_directory(settings: DatabaseSettings) -> str:
    """Where the embedded server's socket is; its supervisor leaves the path beside the passwords."""
    path = settings.secrets_dir / SOCKET_DIRECTORY_FILE
    try:
        return str(Path(path.read_text("utf-8").strip()))
    except OSError as fault:
        raise StartupError("the embedded PostgreSQL is not running: start it with `chancery demo` or `chancery run all`"
                           ) from fault


async def set_up_connection(connection: Connection) -> None:
    """jsonb columns are Python objects on both sides."""
    await connection.set_type_codec("jsonb", schema="pg_catalog", format="text",
                                    encoder=lambda value: msgspec.json.encode(value).decode(),
                                    decoder=msgspec.json.decode)


async def _leave_session(_connection: Connection) -> None:
    """Nothing of ours changes a session beyond its transaction (an open one is rolled back all the same), so the reset
    query that asyncpg sends after each use would double the round trips for nothing."""


async def create_pool(
    settings: DatabaseSettings,
    role: str,
    *,
    process: str,
    min_size: int = 1,
    max_size: int = 4,
    options: Mapping[str, str] | None = None,
) -> Pool:
    """A pool under `role`; `options` are session settings. Waits 20 s for a server that is starting.

    Raises StartupError with one line when the server stays away or refuses the role.
    """
    arguments = connect_arguments(settings, role, process=process)
    arguments["server_settings"] |= dict(options or {})
    return await _patiently(lambda: asyncpg.create_pool(min_size=min_size, max_size=max_size, init=set_up_connection,
                                                        reset=_leave_session, command_timeout=30.0, **arguments))


async def connect(
    settings: DatabaseSettings, role: str, *, process: str, database: str | None = None
) -> "asyncpg.Connection[asyncpg.Record]":
    """One connection under `role`, for a command or a LISTEN. Raises StartupError like `create_pool`."""
    arguments = connect_arguments(settings, role, process=process)
    if database is not None:
        arguments["database"] = database

    async def attempt() -> "asyncpg.Connection[asyncpg.Record]":
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(**arguments)
        await set_up_connection(connection)
        return connection

    return await _patiently(attempt)


async def _patiently(attempt: Callable[[], Awaitable[_Result]]) -> _Result:
    give_up_at = asyncio.get_running_loop().time() + _START_PATIENCE_S
    while True:
        try:
            return await attempt()
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as fault:
            raise StartupError(f"the database refuses the connection: {fault}; `chancery db migrate` makes the roles "
                               "and tables") from fault
        except (*UNAVAILABLE, TimeoutError, asyncpg.ConnectionDoesNotExistError, ssl.SSLError) as fault:
            if asyncio.get_running_loop().time() > give_up_at:
                raise StartupError(f"the database cannot be reached: {fault or type(fault).__name__}; is PostgreSQL "
                                   "running, and is [database] url right?") from fault
            await asyncio.sleep(_RETRY_S)


def _payload_only(callback: Callable[[str], None]) -> Callable[..., None]:
    return lambda _connection, _pid, _channel, payload: callback(payload)


class Listener:
    """Keeps one LISTEN connection while it is entered, and calls a channel's callback with each payload.

    After every (re)connection each callback is called once with "", because a notification may have been missed.
    """

    def __init__(
        self, settings: DatabaseSettings, role: str, process: str, callbacks: Mapping[str, Callable[[str], None]]
    ) -> None:
        self._settings = settings
        self._role = role
        self._process = f"{process}-listen"
        self._callbacks = callbacks
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Listener":
        listening = asyncio.Event()
        self._task = asyncio.create_task(self._keep_listening(listening))
        waiter = asyncio.ensure_future(listening.wait())
        await asyncio.wait([self._task, waiter], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            waiter.cancel()
            self._task.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _keep_listening(self, listening: asyncio.Event) -> None:
        log = structlog.get_logger()
        while True:
            try:
                await self._listen(listening)
                log.warning("listen connection lost")
            except (StartupError, PostgresError, TimeoutError, *UNAVAILABLE) as fault:
                if isinstance(fault, StartupError) and not listening.is_set():
                    raise
                log.warning("listen connection failed", error=str(fault) or type(fault).__name__,
                            retry_in_s=_RECONNECT_S)
                await asyncio.sleep(_RECONNECT_S)

    async def _listen(self, listening: asyncio.Event) -> None:
        """Returns when the connection is lost, raises what stops it from being made."""
        connection = await connect(self._settings, self._role, process=self._process)
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda *_: lost.set())
            for channel, callback in self._callbacks.items():
                await connection.add_listener(channel, _payload_only(callback))
            for callback in self._callbacks.values():
                callback("")
            listening.set()
            await lost.wait()
        finally:
            connection.terminate()
