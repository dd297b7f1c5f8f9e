"""The audit log of a process that signs: an append-only chain of lines in files, apart from the database it is about.

A line is one JSON object; its `prev` is the SHA-256 of the line before, so that a line which is changed, taken out or
put in later shows (BR 5.4, spec/pki.md 8.5). Lines are gathered and forced to disk together: `flush` returns when all
that was appended before it is on disk, and however many wait for it share one fsync. A writer that cannot write raises,
and the caller must not sign then. Each writer has a directory of its own, `<process>.<number>/`, locked while it lives,
with segments `00000001.log`, ...; the chain goes on through segments and restarts. audit_reader.py reads and verifies.
"""

import asyncio
import fcntl
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

_Result = TypeVar("_Result")
_Run = Callable[[Callable[[], _Result]], Awaitable[_Result]]

SEGMENT_BYTES: Final = 64 * 1024 * 1024
_MOST_WRITERS: Final = 256
_LAZY_S: Final = 0.2
_TAIL_BYTES: Final = 1 << 20
_CHAIN_BYTES: Final = 8


class AuditLogError(Exception):
    """The log cannot be opened or written; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last line that is on disk: who has it can tell that a shortened chain is shortened."""

    chain: str
    number: int
    digest: bytes


class AuditLog:
    """One chain, open for appending. Made by `AuditLog.open`; used by one event loop."""

    def __init__(self, directory: Path, lock: int, now: Callable[[], datetime]) -> None:
        self._directory = directory
        self._lock = lock
        self._now = now
        self._encoder = msgspec.json.Encoder()
        self._chain = ""
        self._number = 0
        self._digest = ""
        self._lines: list[bytes] = []
        self._segment = 0
        self._file = -1
        self._size = 0
        self._durable = Head(chain="", number=0, digest=b"")
        self._flushing: asyncio.Future[None] | None = None
        self._lazy: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def open(cls, root: Path, process: str, *, now: Callable[[], datetime], random_bytes: Callable[[int], bytes],
             **about: Any) -> "AuditLog":
        """The first chain of this process under `root` that no living process has; made when there is none.

        `about` goes into the line that says that the log was opened. Raises AuditLogError.
        """
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory, lock = _claim(root, process)
        except OSError as fault:
            raise AuditLogError(f"{root} cannot be used for audit logs: {fault.strerror}") from fault
        try:
            log = cls(directory, lock, now)
            torn = log._take_up()
            if not log._chain:
                log._chain = f"{socket.gethostname()}/{directory.name}/{random_bytes(_CHAIN_BYTES).hex()}"
            if torn:
                log.append("torn line removed", bytes=len(torn), sha256=hashlib.sha256(torn).hexdigest())
            log.append("opened", chain=log._chain, pid=os.getpid(), **about)
            log._write(log._take())
        except OSError as fault:
            raise AuditLogError(f"the audit log {fault.filename or root} cannot be written: {fault.strerror}; nothing "
                                "is signed without it") from fault
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as fault:
            raise AuditLogError(f"the audit log in {directory} does not end with a record: move the directory away for "
                                "those who look into it, and start again") from fault
        return log

    @property
    def head(self) -> Head:
        """The last line on disk."""
        return self._durable

    def append(self, event: str, **values: Any) -> None:
        """Adds a line; it is on disk after the next `flush`, or a fifth of a second later by itself."""
        self._number += 1
        line = self._encoder.encode({"n": self._number, "at": self._now().astimezone(UTC).isoformat(),
                                     "prev": self._digest, "event": event, **values})
        self._digest = hashlib.sha256(line).hexdigest()
        self._lines.append(line)
        if self._lazy is None:
            try:
                self._lazy = asyncio.get_running_loop().call_later(_LAZY_S, self._flush_lazily)
            except RuntimeError:
                return      # no loop yet: the log is being opened

    async def flush(self) -> None:
        """Returns when every line appended so far is on disk. Raises AuditLogError; the lines are kept then, and
        written before any later one."""
        wanted = self._number
        while self._durable.number < wanted:
            if self._flushing is None or self._flushing.done():
                self._flushing = asyncio.create_task(self._flush_once())
            # Whoever is cancelled leaves the others their flush.
            await asyncio.shield(self._flushing)

    async def flush_before(self, run: _Run[_Result], act: Callable[[], _Result]) -> _Result:
        """What `act` returns, which is called when every line appended so far is on disk. `run` has it called in
        another thread, and the lines are written there, too, just before: one way there instead of two.

        Raises AuditLogError as `flush` does; then `act` has not been called.
        """
        wanted = self._number
        while self._flushing is not None and not self._flushing.done():
            await asyncio.shield(self._flushing)
        if self._durable.number >= wanted:
            return await run(act)
        written = self._flushing = asyncio.get_running_loop().create_future()
        # Whoever is cancelled leaves the others their flush.
        return await asyncio.shield(asyncio.create_task(self._write_before(self._take(), written, run, act)))

    async def _write_before(
        self, taken: tuple[list[bytes], Head], written: asyncio.Future[None], run: _Run[_Result],
        act: Callable[[], _Result],
    ) -> _Result:
        loop = asyncio.get_running_loop()

        def write_and_act() -> _Result:
            self._write(taken)
            # Who waits for the lines alone does not wait for what follows them.
            loop.call_soon_threadsafe(written.set_result, None)
            return act()

        try:
            return await run(write_and_act)
        except Exception as fault:
            if written.done():
                raise
            unwritten = self._unwritten(taken, fault)
            written.set_exception(unwritten)
            written.exception()     # perhaps nobody waits for the lines alone
            raise unwritten from fault

    async def close(self) -> None:
        """Says so in the log, writes what is left, and gives the chain free."""
        try:
            self.append("closed")
            await self.flush()
        finally:
            if self._lazy is not None:
                self._lazy.cancel()
            os.close(self._file)
            os.close(self._lock)

    def _flush_lazily(self) -> None:
        self._lazy = None
        task = asyncio.create_task(self._try_flush())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try_flush(self) -> None:
        """Nobody waits for these lines; who signs next finds out by its own flush that they cannot be written."""
        try:
            await self.flush()
        except AuditLogError:
            return

    async def _flush_once(self) -> None:
        taken = self._take()
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._write, taken)
        except OSError as fault:
            raise self._unwritten(taken, fault) from fault

    def _unwritten(self, taken: tuple[list[bytes], Head], fault: BaseException) -> AuditLogError:
        """Keeps the lines for the next attempt; what to raise."""
        self._lines[:0] = taken[0]
        why = fault.strerror if isinstance(fault, OSError) else repr(fault)
        return AuditLogError(f"the audit log in {self._directory} cannot be written: {why}; nothing is signed without "
                             "it")

    def _take(self) -> tuple[list[bytes], Head]:
        lines, self._lines = self._lines, []
        return lines, Head(chain=self._chain, number=self._number, digest=bytes.fromhex(self._digest))

    def _write(self, taken: tuple[list[bytes], Head]) -> None:
        """Appends lines and forces them to disk. What an earlier attempt left behind its last good byte is cut off."""
        lines, head = taken
        if self._file < 0 or self._size >= SEGMENT_BYTES:
            self._next_segment()
        data = b"".join(line + b"\n" for line in lines)
        os.ftruncate(self._file, self._size)
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self._size + written)
        os.fdatasync(self._file)
        self._size += len(data)
        self._durable = head

    def _next_segment(self) -> None:
        if self._file >= 0:
            os.fchmod(self._file, 0o400)
            os.close(self._file)
        self._segment += 1
        path = self._directory / segment_name(self._segment)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._size = 0
        _sync_directory(self._directory)

    def _take_up(self) -> bytes:
        """Goes on behind the last whole line of the last segment; returns what a crash left behind it."""
        segments = sorted(self._directory.glob("*.log"))
        torn = b""
        while segments:
            path = segments.pop()
            self._segment = self._segment or int(path.stem)
            size = path.stat().st_size
            if path.stem == f"{self._segment:08d}":
                self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                torn = self._torn_end(size)
            last = _last_line(path)
            if last is not None:
                record = msgspec.json.decode(last)
                self._number, self._digest = record["n"], hashlib.sha256(last).hexdigest()
                self._chain = _chain_of(self._directory)
                break
        return torn

    def _torn_end(self, size: int) -> bytes:
        tail = os.pread(self._file, min(size, _TAIL_BYTES), max(0, size - _TAIL_BYTES))
        torn = tail[tail.rfind(b"\n") + 1:]
        self._size = size - len(torn)
        os.ftruncate(self._file, self._size)
        return torn


def segment_name(number: int) -> str:
    """The file of a chain's n-th segment."""
    return f"{number:08d}.log"


def _claim(root: Path, process: str) -> tuple[Path, int]:
    for number in range(_MOST_WRITERS):
        directory = root / f"{process}.{number}"
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return directory, lock
    raise AuditLogError(f"{_MOST_WRITERS} processes {process} write audit logs in {root} already")


def _last_line(path: Path) -> bytes | None:
    """The last whole line of a segment; None when it has none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    return lines[-2] if len(lines) > 1 else None


def _chain_of(directory: Path) -> str:
    """What the chain calls itself in its first line."""
    with (directory / segment_name(1)).open("rb") as file:
        return str(msgspec.json.decode(file.readline())["chain"])


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
