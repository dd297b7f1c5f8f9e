"""The responder's store: an LMDB file that every worker of the machine maps and one of them writes.

It is derived data. What is in it was signed, so damage cannot make a wrong answer, only none; a file that cannot be
read is left for a new, empty one, which is filled again from the batch log. Each such file is a generation with a
directory of its own; the file `current` names the one in use, so that all workers move on together.

    serial number and issuer id (20 octets) -> value of ocsp.protocol.batch; shorter keys are our own.

Beside it is a copy in which values are found faster (shortcut.py), which may be incomplete or missing at any time.
"""

import fcntl
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb

from ocsp.protocol.batch import KEY_BYTES, VALUE_FORMAT, VALUE_NOT_AFTER, replaces
from ocsp.responder.shortcut import EMPTY_VIEW, Shortcut, ShortcutFault, View
from ocsp.responder.shortcut_keeper import ShortcutKeeper

MemoryFault = lmdb.Error
MemoryFull = lmdb.MapFullError
# After these the file is not to be trusted; others (no reader slot left, map resized) go away by opening it again.
_DAMAGE: Final = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PanicError,
                  lmdb.VersionMismatchError, lmdb.BadTxnError)
_MARK: Final = b"mark"
_COMPLETE: Final = b"complete"
_ISSUERS: Final = b"issuers"
_RESPONDERS: Final = b"responders"
_FORMAT: Final = b"format"
_MARK_FORM: Final = struct.Struct(">QQ")
_MAX_READERS: Final = 512
_WARM_UP_CHUNK: Final = 4 << 20
_SHORTCUT: Final = "shortcut"


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the log has been applied: the last batch's id, and its time, which another log's batch would not have."""

    batch_id: int = 0
    produced_at_us: int = 0


class ResponseMemory:
    """Opened once a process. `get` reads what was there at the last `renew`, without a system call; `view` has the same
    values or newer ones, but not all of them."""

    def __init__(self, directory: Path, *, map_size_gib: int) -> None:
        self._directory = directory
        self._map_bytes = map_size_gib << 30
        self._environment: Any = None
        self._reader: Any = None
        self._generation = ""
        self._distrusted = False
        # Held while a thread works on the file, which must not be closed then.
        self._in_use = threading.Lock()
        self.get: Callable[[bytes], bytes | None] = _unreadable
        self.view: View = EMPTY_VIEW
        self._shortcut: Shortcut | None = None
        self._keeper: ShortcutKeeper        # of the file that is open
        self.complete = False
        self._move_on(damaged=False)

    def renew(self) -> None:
        """From now on `get` sees what has been written until now, in the generation that is current now."""
        if self._distrusted and self._in_use.acquire(blocking=False):
            with _held(self._in_use):
                self._move_on(damaged=True)
            return
        self.get = _unreadable
        self._reader.abort()
        self._read_with(self._environment.begin())
        self._follow_shortcut()

    def follow(self) -> None:
        """Moves to the current generation if another worker has begun one."""
        if _text_of(self._directory / "current") != self._generation and self._in_use.acquire(blocking=False):
            with _held(self._in_use):
                self._move_on(damaged=False)

    def distrust(self) -> None:
        """A read failed: the next `renew` opens the file again, or begins a new one."""
        self._distrusted = True

    def mark(self) -> Mark:
        """How far the log has been applied here; batch 0 when nothing has."""
        with self._environment.begin() as transaction:
            found = transaction.get(_MARK)
        return Mark(*_MARK_FORM.unpack(found)) if found else Mark()

    def warm_up(self, stopped: Callable[[], bool]) -> int:
        """Reads the files once from beginning to end, in a thread: seconds, where each first look at a page would wait
        for the disk. Returns how much was read; nothing when it would not fit into the memory that is free.
        """
        directory, done = self._directory / self._generation, 0
        try:
            paths = [path for path in (directory / "data.mdb", directory / _SHORTCUT) if path.exists()]
            if sum(path.stat().st_size for path in paths) > _available_bytes():
                return 0
            chunk = bytearray(_WARM_UP_CHUNK)
            for path in paths:
                with path.open("rb", buffering=0) as file:
                    while not stopped() and (count := file.readinto(chunk)):
                        done += count
        except OSError:
            return done         # what is wrong with it shows where it is read
        return done

    def read_to_the_end(self, at_s: float) -> None:
        """Says that at this moment nothing was missing of the log. Only the writer calls this."""
        path = self._directory / "read"
        path.touch(mode=0o600)
        os.utime(path, (at_s, at_s))

    def read_at_s(self) -> float:
        """When nothing was missing of the log for the last time, whichever worker reads it; Unix seconds, 0 never."""
        try:
            return (self._directory / "read").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def issuers(self) -> bytes:
        """What `set_issuers` was given last, so that a responder starts while the database is away."""
        with self._environment.begin() as transaction:
            return bytes(transaction.get(_ISSUERS) or b"")

    def responders(self) -> bytes:
        """The delegated responders, in the same way."""
        with self._environment.begin() as transaction:
            return bytes(transaction.get(_RESPONDERS) or b"")

    def set_issuers(self, encoded: bytes, responders: bytes = b"") -> None:
        """Only the writer calls this."""
        with self._write() as transaction:
            transaction.put(_ISSUERS, encoded)
            transaction.put(_RESPONDERS, responders)

    def apply(self, items: Iterable[tuple[bytes, bytes]], *, mark: Mark, complete: bool = False) -> int:
        """Stores what is newer than what is there, and how far the log is applied, in one write. Returns the count.

        Only the writer calls this. `complete` says once that the end of the log has been reached. All is looked up and
        written in the order of the keys, in two calls: half of the processor time of going through them one by one.
        """
        latest = _latest(items)
        with self._write() as transaction:
            with transaction.cursor() as cursor:
                for key, old in cursor.getmulti(sorted(latest)):
                    if not replaces(latest[key], old):
                        del latest[key]
                cursor.putmulti(sorted(latest.items()))
            self._keeper.put(latest.items())
            transaction.put(_MARK, _MARK_FORM.pack(mark.batch_id, mark.produced_at_us))
            if complete:
                transaction.put(_COMPLETE, b"1")
        self.complete = self.complete or complete
        return len(latest)

    def fill(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Stores what is newer than anything that may be there, without looking: the whole log is read from its
        beginning. How far it is applied stays what it was. Only the writer calls this."""
        latest = _latest(items)
        with self._write() as transaction, transaction.cursor() as cursor:
            cursor.putmulti(sorted(latest.items()))
            self._keeper.put(latest.items())

    def forget_expired(self, after: bytes, *, now_s: int, limit: int) -> bytes:
        """Looks at `limit` entries behind `after` and removes those whose certificate has expired.

        Returns the key to go on behind, or nothing when the end is reached. Only the writer calls this.
        """
        now = now_s.to_bytes(4, "big")
        expired: list[bytes] = []
        last = b""
        with self._in_use, self._environment.begin() as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(after + b"\0")
            for _ in range(limit):
                if not found:
                    last = b""
                    break
                last = cursor.key()
                if len(last) == KEY_BYTES and cursor.value()[VALUE_NOT_AFTER] < now:
                    expired.append(last)
                found = cursor.next()
        if expired:
            with self._write() as transaction:
                for key in expired:
                    transaction.delete(key)
        return last

    def tend_shortcut(self, *, limit: int) -> bool:
        """A step of giving the shortcut what it may not have. Returns whether there is more to do. Only the writer
        calls this."""
        with self._in_use:
            return self._keeper.tend(limit=limit)

    def begin_anew(self) -> None:
        """Leaves this generation: it is of another log. Only the writer calls this."""
        with self._in_use:
            self._move_on(damaged=True)

    def free_dead_readers(self) -> None:
        """Gives back the reader slots of workers that were killed, which would keep old pages from being used again."""
        self._environment.reader_check()

    @property
    def has_all_at_hand(self) -> bool:
        """Whether `view` has everything, so that nothing has to be looked up in LMDB."""
        return self._shortcut is not None and self._shortcut.is_complete

    def entries(self) -> int:
        """How many values there are, our own few included."""
        return int(self._environment.stat()["entries"])

    def close(self) -> None:
        """Unmaps the file."""
        self.get = _unreadable
        self._leave_shortcut()
        if self._environment is not None:
            self._keeper.close()
            if self._reader is not None:
                self._reader.abort()
            self._environment.close()
            self._environment = self._reader = None

    @contextmanager
    def _write(self) -> Iterator[Any]:
        try:
            with self._in_use, self._environment.begin(write=True) as transaction:
                self._keeper.begins(transaction.id())
                yield transaction
                self._keeper.commits(transaction.id())
        except _DAMAGE:
            self._distrusted = True
            raise

    def _read_with(self, reader: Any) -> None:
        self._reader = reader
        self.get = reader.get
        self.complete = self.complete or reader.get(_COMPLETE) is not None

    def _follow_shortcut(self) -> None:
        """Uses it when it has all that was committed."""
        committed = self._environment.info()["last_txnid"]      # first: what is committed from now on is noted before
        if self._shortcut is not None and not self._shortcut.has_all(committed):
            self._leave_shortcut()
        if self._shortcut is None:      # there may be another one already
            with suppress(ShortcutFault):
                self._shortcut = Shortcut(self._directory / self._generation / _SHORTCUT)
                if not self._shortcut.has_all(committed):
                    self._leave_shortcut()
        if self._shortcut is not None:
            self.view = self._shortcut.view

    def _leave_shortcut(self) -> None:
        self.view = EMPTY_VIEW
        if self._shortcut is not None:
            self._shortcut.close()
            self._shortcut = None

    def _move_on(self, *, damaged: bool) -> None:
        """Opens the current generation; begins a new one if it cannot be read, or if it is ours and `damaged`."""
        left, self.complete, self._distrusted = self._generation, False, False
        self.close()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._directory / "open.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            current = _text_of(self._directory / "current")
            if current and not (damaged and current == left):
                try:
                    self._open(current)
                    return
                except (*_DAMAGE, _Unusable, FileNotFoundError):
                    self.close()
            self._open(self._begin_generation(current))

    def _begin_generation(self, left: str) -> str:
        """Names a new directory as the current one and removes all others, whose maps stay with those who use them."""
        number = int(left.removeprefix("responses-")) + 1 if left else 1
        name = f"responses-{number}"
        for old in self._directory.glob("responses-*"):
            shutil.rmtree(old, ignore_errors=True)
        (self._directory / name).mkdir(mode=0o700)
        pointer = self._directory / "current.new"
        pointer.write_text(name, "ascii")
        pointer.replace(self._directory / "current")
        return name

    def _open(self, generation: str) -> None:
        path = self._directory / generation
        if not path.is_dir():
            raise FileNotFoundError(path)
        # metasync off: after a power failure the last moments are read again from the log.
        self._environment = lmdb.open(str(path), map_size=self._map_bytes, max_readers=_MAX_READERS, metasync=False,
                                      readahead=False)
        self._keeper = ShortcutKeeper(path / _SHORTCUT, self._environment)
        _require_whole(path / "data.mdb", self._environment)
        _require_format(self._environment)
        self._environment.reader_check()
        self._generation = generation
        self._read_with(self._environment.begin())


def _latest(items: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Of the values of each key the one that replaces all others."""
    found = list(items)
    latest = dict(found)
    if len(latest) < len(found):
        latest = {}
        for key, value in found:
            other = latest.get(key)
            if other is None or replaces(value, other):
                latest[key] = value
    return latest


class _Unusable(Exception):
    """The file ends before its last page, so that reading it would kill the process (SIGBUS); or another version of
    this program wrote it."""


def _require_whole(path: Path, environment: Any) -> None:
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if os.stat(path).st_size < needed:
        raise _Unusable(path)


def _require_format(environment: Any) -> None:
    """An empty file gets the mark of this version."""
    with environment.begin() as transaction:
        found = transaction.get(_FORMAT)
    if found is None and not environment.stat()["entries"]:
        with environment.begin(write=True) as transaction:
            transaction.put(_FORMAT, VALUE_FORMAT)
    elif found != VALUE_FORMAT:
        raise _Unusable(environment.path())


@contextmanager
def _held(lock: threading.Lock) -> Iterator[None]:
    """A lock that was acquired before."""
    try:
        yield
    finally:
        lock.release()


def _unreadable(_key: bytes) -> bytes | None:
    raise MemoryFault("the memory is not open")


def _available_bytes() -> int:
    """Memory that the system could give, caches that nobody needs included; 0 when it does not say."""
    lines = _text_of(Path("/proc/meminfo")).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def _text_of(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def encode_issuers(certificates: Sequence[tuple[int, bytes]]) -> bytes:
    """(id, certificate) of every issuer, for `set_issuers`."""
    return b"".join(issuer_id.to_bytes(2, "big") + len(der).to_bytes(4, "big") + der for issuer_id, der in certificates)


def decode_issuers(encoded: bytes) -> list[tuple[int, bytes]]:
    """What `encode_issuers` was given."""
    found, offset = [], 0
    while offset < len(encoded):
        end = offset + 6 + int.from_bytes(encoded[offset + 2:offset + 6], "big")
        found.append((int.from_bytes(encoded[offset:offset + 2], "big"), encoded[offset + 6:end]))
        offset = end
    return found
