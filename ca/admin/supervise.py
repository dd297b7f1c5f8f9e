"""Starts every process of one machine, restarts what ends, and stops all of it together.

Each child is a process of its own, in its own session (Ctrl-C reaches only the supervisor, which stops them in order),
under its own database role. A child that ends before it was ever ready is a fault of the set-up and stops everything; a
child that ends later is restarted with back-off, because its work is in the database.

The front end's listening sockets are the supervisor's: its workers accept from them together, and while one of them, or
the only one, is restarted, connections wait in the kernel and none is refused.
"""

import asyncio
import fcntl
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import structlog

from ca.process.http import SOCKETS_VARIABLE, bind_sockets, socket_names
from ca.process.lifecycle import NO_RETRY_EXIT_CODE, READY_VARIABLE, SUPERVISOR_VARIABLE, StartupError
from ca.process.settings import Settings
from ca.process.worker import wait_any

_READY_PATIENCE_S = 90.0
_STOP_PATIENCE_S = 15.0
_FIRST_RESTART_S = 0.1
_LONGEST_RESTART_S = 5.0
_HEALTHY_AFTER_S = 30.0
_TICK_S = 0.05
_SIGNING_ROLES = frozenset(("ca", "presign"))


class DirectoryLock:
    """One supervisor a data directory, for as long as this object is entered; the kernel frees it whatever happens."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> "DirectoryLock":
        try:
            self._file = self._path.open("a+", encoding="ascii")
        except OSError as fault:
            raise StartupError(f"{self._path.parent} is not writable: {fault.strerror}; choose another --data DIR"
                               ) from fault
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise StartupError(f"{self._path.parent} is in use by the Chancery with process id {holder}: stop "
                               "that one, or choose another --data DIR and --port-base") from fault
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


@dataclass(slots=True, kw_only=True)
class Child:
    """One process: its unique name (`wfe-2`), its role (`wfe`), and what runs now."""

    name: str
    role: str
    process: asyncio.subprocess.Process | None = None
    was_ready: bool = False
    restarts: int = 0
    is_planned: bool = False
    restart_s: float = field(default=_FIRST_RESTART_S)


def children_of(settings: Settings) -> list[Child]:
    """The processes of one machine as the configuration counts them."""
    counts = {"ca": settings.ca.workers, "presign": settings.ocsp.presign_workers, "ocsp": settings.ocsp.workers,
              "va": settings.va.workers, "publisher": int(settings.ct_enabled), "crl": 1,
              "wfe": settings.acme.workers, "admin": 1}
    return [Child(name=f"{role}-{number + 1}" if count > 1 else role, role=role)
            for role, count in counts.items() for number in range(count)]


class Supervisor:
    """Runs the children of one configuration file. Logs of children go to `<data_dir>/log/<name>.log`."""

    def __init__(self, settings: Settings, config: Path, *, on_progress: Callable[[str], None]) -> None:
        self._config = config
        self._listen = {"wfe": settings.acme.listen}
        self._sockets: dict[str, list[socket.socket]] = {}
        self._children = children_of(settings)
        self._run_dir = settings.data_dir / "run"
        self._log_dir = settings.data_dir / "log"
        self._on_progress = on_progress
        self._log = structlog.get_logger()

    async def run(
        self, stop: asyncio.Event, *, on_ready: Callable[[], None], restart: asyncio.Event | None = None
    ) -> None:
        """Starts all, calls `on_ready` when each has said that it works, and stops all when `stop` is set; when
        `restart` is set, each is replaced by a new process, one after the other.

        Raises StartupError with the child's own line when one cannot start.
        """
        self._run_dir.mkdir(mode=0o700, exist_ok=True)
        self._log_dir.mkdir(mode=0o700, exist_ok=True)
        failed = asyncio.Event()
        failures: list[str] = []

        async def keep(child: Child) -> None:
            try:
                await self._keep_running(child, stop)
            except StartupError as fault:
                failures.append(str(fault))
                failed.set()

        roles = {child.role for child in self._children}
        self._sockets = {role: bind_sockets(listen, reuse_port=False) for role, listen in self._listen.items()
                         if role in roles}
        keepers = [asyncio.create_task(keep(child)) for child in self._children]
        restarter = asyncio.create_task(self._restart_when(restart, stop)) if restart is not None else None
        try:
            await self._wait_until_ready(stop, failed)
            if not failed.is_set() and not stop.is_set():
                on_ready()
            await wait_any(stop, failed)
        finally:
            stop.set()
            if restarter is not None:
                restarter.cancel()
            await self._stop_children()
            await asyncio.gather(*keepers)
            for each in itertools.chain.from_iterable(self._sockets.values()):
                each.close()
        if failures:
            raise StartupError(failures[0])

    async def _wait_until_ready(self, stop: asyncio.Event, failed: asyncio.Event) -> None:
        waited_s = 0.0
        shown: set[str] = set()
        while not stop.is_set() and not failed.is_set():
            for child in self._children:
                if child.was_ready and child.name not in shown:
                    shown.add(child.name)
                    self._on_progress(f"{child.name} is ready")
            if len(shown) == len(self._children):
                return
            if waited_s > _READY_PATIENCE_S:
                missing = ", ".join(child.name for child in self._children if not child.was_ready)
                raise StartupError(f"not ready after {_READY_PATIENCE_S:.0f} s: {missing}; see {self._log_dir}")
            await asyncio.sleep(_TICK_S)
            waited_s += _TICK_S

    async def _restart_when(self, restart: asyncio.Event, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await wait_any(restart, stop)
            restart.clear()
            if not stop.is_set():
                await self._restart_all(stop)

    async def _restart_all(self, stop: asyncio.Event) -> None:
        """Replaces the processes one by one. When one does not come back, the others stay as they are."""
        for child in self._children:
            old, ready_file = child.process, self._run_dir / f"{child.name}.ready"
            if old is None or old.returncode is not None:
                continue
            child.is_planned = True
            _signal(old, signal.SIGTERM)
            try:
                async with asyncio.timeout(_READY_PATIENCE_S):
                    while not stop.is_set() and (child.process is old or not ready_file.exists()):  # noqa: ASYNC110
                        await asyncio.sleep(_TICK_S)
            except TimeoutError:
                self._log.error("a restarted process is not ready, so the others are not restarted", child=child.name)
                return
            self._log.info("restarted", child=child.name)

    async def _keep_running(self, child: Child, stop: asyncio.Event) -> None:
        ready_file = self._run_dir / f"{child.name}.ready"
        sockets = self._sockets.get(child.role, [])
        environment = {SOCKETS_VARIABLE: socket_names(self._listen[child.role], sockets)} if sockets else {}
        clock = asyncio.get_running_loop()
        while not stop.is_set():
            ready_file.unlink(missing_ok=True)
            started_s = clock.time()
            with (self._log_dir / f"{child.name}.log").open("ab") as log_file:
                child.process = await asyncio.create_subprocess_exec(
                    *_command(child.role, self._config), stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file,
                    start_new_session=True,
                    pass_fds=[each.fileno() for each in sockets],
                    env=environment_of(child.role) | os.environ | environment | {
                        SUPERVISOR_VARIABLE: str(os.getpid()), READY_VARIABLE: str(ready_file)})
            exit_code = await self._wait_for(child, ready_file)
            if stop.is_set():
                break
            if not child.was_ready:
                raise StartupError(self._last_words(child, exit_code))
            if exit_code == NO_RETRY_EXIT_CODE:
                self._log.error("process ended and is not restarted", child=child.name,
                                reason=self._last_words(child, exit_code))
                break
            child.restarts += 1
            if child.is_planned:
                child.is_planned = False
                continue
            if clock.time() - started_s > _HEALTHY_AFTER_S:
                child.restart_s = _FIRST_RESTART_S
            self._log.warning("process ended, restarting", child=child.name, exit_code=exit_code,
                              restart_in_s=child.restart_s)
            await wait_any(stop, timeout_s=child.restart_s)
            child.restart_s = min(child.restart_s * 2, _LONGEST_RESTART_S)
        ready_file.unlink(missing_ok=True)

    async def _wait_for(self, child: Child, ready_file: Path) -> int:
        assert child.process is not None  # noqa: S101 - set by the only caller
        ending = asyncio.ensure_future(child.process.wait())
        while not child.was_ready and not ending.done():
            child.was_ready = ready_file.exists()  # noqa: ASYNC240 - one stat call
            await asyncio.wait([ending], timeout=_TICK_S)
        return await ending

    def _last_words(self, child: Child, exit_code: int) -> str:
        """The one clear line that the child wrote, or where its log is."""
        path = self._log_dir / f"{child.name}.log"
        for line in reversed(path.read_text("utf-8", errors="replace").splitlines()):
            if line.startswith("chancery "):
                return line.partition(": ")[2]
        return f"{child.name} ended with exit code {exit_code} before it was ready; its log is {path}"

    async def _stop_children(self) -> None:
        running = [child.process for child in self._children if child.process and child.process.returncode is None]
        for process in running:
            _signal(process, signal.SIGTERM)
        waiters = [asyncio.ensure_future(process.wait()) for process in running]
        if waiters:
            await asyncio.wait(waiters, timeout=_STOP_PATIENCE_S)
        for process in running:
            if process.returncode is None:
                self._log.warning("process did not stop, killing it", pid=process.pid)
                _signal(process, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return


def environment_of(role: str) -> dict[str, str]:
    """What a process has in its environment unless the operator says otherwise.

    One that signs: a module allocates so many small objects for each signature that the seven of a size which glibc
    keeps ready for a thread are used up, and the lock of all is taken. With 127 (as many as every glibc has room for) a
    P-256 signature of SoftHSM takes 7 % less. Other C libraries do not know the variable. The responder finds its
    records with numpy and calculates nothing: no threads that wait for linear algebra.
    """
    if role in _SIGNING_ROLES:
        return {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=127"}
    return {"OPENBLAS_NUM_THREADS": "1"} if role == "ocsp" else {}


def _command(role: str, config: Path) -> Sequence[str]:
    return [sys.executable, "-m", "ca.admin.cli", "run", role, "--config", str(config)]
