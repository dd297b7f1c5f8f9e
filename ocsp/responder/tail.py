"""Follows the batch log into the memory. One worker of a machine writes; the lock of a dead one is free at once."""

import asyncio
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from structlog.typing import FilteringBoundLogger

from ca.pki.issuer import read_issuer
from ca.process.ambient import Ambient
from ca.process.lifecycle import StartupError
from ca.process.postgres import UNAVAILABLE, Listener, Pool, PostgresError, create_pool
from ca.process.settings import DatabaseSettings
from ca.process.worker import wait_any
from ocsp.protocol.batch import BatchError, responder_of_batch, split_batch
from ocsp.responder import store
from ocsp.responder.memory import Mark, MemoryFault, MemoryFull, ResponseMemory, decode_issuers, encode_issuers
from ocsp.responder.spool import Spool
from ocsp.responder.store import StoredBatch

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

ROLE: Final = "ocsp_reader"
_CURRENT: Final = b"current"
_POLL_S: Final = 1.0
# Batches of single new certificates come one by one, by the hundred a second: each look at the log and each write of
# the memory costs the same, however much it brings.
_GATHER_S: Final = 0.05
# A standby takes no LISTEN, so it is asked often: a revocation is to be seen within a second.
_STANDBY_POLL_S: Final = 0.1
_REPLICATION_EVERY_S: Final = 1.0
_TAKE_OVER_S: Final = 0.25
_DATABASE_PATIENCE_S: Final = 3.0
_ISSUERS_EVERY_S: Final = 10.0
_FORGET_EVERY_S: Final = 1.0
_FORGET_AT_ONCE: Final = 2_000
# A slice takes a thousandth of a second, in which no client is answered; three times as long everything else may go on,
# so that a store of ten million has its shortcut in a minute or two, and answers go on at three quarters of their rate.
_TENDED_AT_ONCE: Final = 500
_REST: Final = 3.0
_TENDED_FOR_S: Final = 0.2              # then the log is looked at
# Batches are kept at least this long (deploy/migrations/0002): a mark that is younger must still be in the log.
_KEPT: Final = timedelta(days=9)


class Tail:
    """The writer's work, done by whichever worker holds the lock.

    `current` is set when the memory is as new as the log was after this worker's start, so that a restarted worker does
    not give older answers than it gave before. The writer tells the others through the lock's file.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        memory: ResponseMemory,
        directory: Path,
        *,
        ambient: Ambient,
        log: FilteringBoundLogger,
    ) -> None:
        self._database = database
        self._memory = memory
        self._directory = directory
        self._ambient = ambient
        self._log = log
        self._wake = asyncio.Event()
        self.current = asyncio.Event()
        self._lock = -1
        self._writes = self._connected = False
        # Its own thread, so that no other blocking call of the process stands before a revocation.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tail")
        self._issuers_due_at = 0.0
        self._forget_behind = b""
        self._forget_due_at = 0.0
        self._tends = True
        self._responders: frozenset[int] = frozenset()
        self._is_standby = False
        self._replication_due_at = 0.0
        self._begun_s = 0.0
        self._applied_at = float("-inf")
        self._read = 0                  # responses since then
        self._ahead: tuple[int, asyncio.Task[tuple[list[StoredBatch], bool]]] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Waits for the writer's lock, then applies the log until `stop`. Raises StartupError.

        A worker that finds responses of an earlier run serves them while the database is away.
        """
        self._lock = os.open(self._directory / "writer.lock", os.O_RDWR | os.O_CREAT, 0o600)
        given_up = asyncio.get_running_loop().call_later(_DATABASE_PATIENCE_S, self._give_up_waiting)
        try:
            while not stop.is_set() and not _locked(self._lock):
                if os.pread(self._lock, len(_CURRENT), 0) == _CURRENT:
                    self.current.set()
                await wait_any(stop, timeout_s=_TAKE_OVER_S)
            self._writes = True
            if not self.current.is_set():
                os.ftruncate(self._lock, 0)
            while not stop.is_set():
                try:
                    await self._write(stop)
                except StartupError as fault:
                    if not self._memory.complete:
                        raise
                    self._log.warning("serving what is here", reason=str(fault))
                    self._set_current()
        finally:
            given_up.cancel()
            self._thread.shutdown(wait=True)
            os.close(self._lock)

    def _give_up_waiting(self) -> None:
        """Old answers are better than none: the database is away, and they have their nextUpdate."""
        if self._writes and not self._connected and self._memory.complete:
            self._log.warning("the database is away; serving what is here")
            self._set_current()

    def _set_current(self) -> None:
        if not self.current.is_set():
            os.pwrite(self._lock, _CURRENT, 0)
            self.current.set()

    async def _write(self, stop: asyncio.Event) -> None:
        self._log.info("this worker writes the memory")
        self._begun_s, self._read, self._connected = asyncio.get_running_loop().time(), 0, False
        pool = await create_pool(self._database, ROLE, process="ocsp", max_size=2)
        self._connected = True
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(pool)
            self._replication_due_at = 0.0
            await self._see_replication(pool)
            if self._is_standby:
                self._log.info("the batch log is read from a standby")
            else:
                await stack.enter_async_context(Listener(
                    self._database, ROLE, "ocsp", {"ocsp_batch": lambda _: self._wake.set()}))
            mark: Mark | None = None
            while not stop.is_set():
                self._wake.clear()
                try:
                    if mark is None:
                        await self._read_issuers(pool)
                        mark = await self._starting_point(pool)
                        if not mark.batch_id:
                            mark = await self._fill(pool, stop)
                    mark, at_end = await self._step(pool, mark)
                    waiting = at_end and not self._tends
                except (*UNAVAILABLE, PostgresError, TimeoutError) as fault:
                    self._log.warning("the batch log cannot be read; serving what is here", fault=repr(fault))
                    mark, at_end, waiting = None, True, True
                except MemoryFull:
                    self._log.error("the memory is full: raise ocsp.map_size_gib and restart")
                    at_end = waiting = True
                except (MemoryFault, OSError) as fault:
                    self._log.error("the memory cannot be written", fault=repr(fault))
                    mark, at_end, waiting = None, True, True
                if waiting:
                    await wait_any(self._wake, stop, timeout_s=_STANDBY_POLL_S if self._is_standby else _POLL_S)
                if at_end:
                    await self._gather(stop)
            self._fetch_no_more()

    async def _gather(self, stop: asyncio.Event) -> None:
        """Until a moment has passed since batches were applied: those that have come meanwhile are taken together. One
        that comes after a pause does not wait."""
        left_s = self._applied_at + _GATHER_S - asyncio.get_running_loop().time()
        if left_s > 0:
            await wait_any(stop, timeout_s=left_s)

    async def _fill(self, pool: Pool, stop: asyncio.Event) -> Mark:
        """An empty memory from a long log, up to its present end; a short one needs nothing of it. Returns the mark.

        Until the end the mark stays at the beginning: whoever dies on the way does it again.
        """
        batches, at_end = await self._following(pool, Mark())
        if at_end:
            return Mark()
        with Spool(self._directory / "filling") as spool:
            while batches and not stop.is_set():
                mark = Mark(batches[-1].id, _microseconds(batches[-1].produced_at))
                self._read += await self._in_thread(self._set_apart, spool, batches)
                batches, at_end = ([], True) if at_end else await self._following(pool, mark)
            self._issuers_due_at = 0.0
            await self._read_issuers(pool)      # responders that came meanwhile
            buckets = spool.buckets()
            while not stop.is_set():
                items = await self._in_thread(next, buckets, None)
                if items is None:
                    await self._in_thread(self._memory.apply, (), mark=mark)
                    return mark
                await self._in_thread(self._memory.fill, items)
        return Mark()

    async def _step(self, pool: Pool, mark: Mark) -> tuple[Mark, bool]:
        """Applies what is next in the log. Returns the mark, and whether the end was reached."""
        if self._memory.mark() != mark:     # another generation was begun
            self._issuers_due_at = 0.0
            await self._read_issuers(pool)
            return await self._starting_point(pool), False
        batches, at_end = await self._following(pool, mark)
        if batches:
            mark = Mark(batches[-1].id, _microseconds(batches[-1].produced_at))
        if not self._responders.issuperset(_responders_of(batches)):
            self._issuers_due_at = 0.0
            await self._read_issuers(pool)
        if batches or not self._memory.complete:
            self._read += await self._in_thread(self._apply, batches, mark, at_end)
        if batches:
            self._applied_at = asyncio.get_running_loop().time()
        if not at_end:
            return mark, False
        if not self.current.is_set():
            self._log.info("the log has been read", responses=self._read, batch_id=mark.batch_id,
                           took_s=round(asyncio.get_running_loop().time() - self._begun_s, 3))
        self._set_current()
        await self._see_replication(pool)
        await self._look_after(pool)
        return mark, True

    async def _following(self, pool: Pool, mark: Mark) -> tuple[list[StoredBatch], bool]:
        """What is next in the log, and whether that is its end. While it is applied, what follows is fetched."""
        if self._ahead is not None and self._ahead[0] == mark.batch_id:
            fetching = self._ahead[1]
            self._ahead = None
        else:
            self._fetch_no_more()
            fetching = self._fetch(pool, mark.batch_id)
        batches, at_end = await fetching
        if not at_end:
            self._ahead = batches[-1].id, self._fetch(pool, batches[-1].id)
        return batches, at_end

    def _fetch(self, pool: Pool, after_id: int) -> asyncio.Task[tuple[list[StoredBatch], bool]]:
        return asyncio.create_task(store.batches_after(pool, after_id, now=self._ambient.now()))

    def _fetch_no_more(self) -> None:
        if self._ahead is not None:
            # A fault of it is nobody's any more: the batches will be asked for again.
            self._ahead[1].add_done_callback(lambda task: task.cancelled() or task.exception())
            self._ahead[1].cancel()
            self._ahead = None

    def _apply(self, batches: list[StoredBatch], mark: Mark, at_end: bool) -> int:
        """In the thread: all in one write, in the order of the log. Returns how many responses there were."""
        items = self._records(batches)
        self._memory.apply(items, mark=mark, complete=at_end)
        return len(items)

    def _set_apart(self, spool: Spool, batches: list[StoredBatch]) -> int:
        return spool.add(self._records(batches))

    def _records(self, batches: list[StoredBatch]) -> list[tuple[bytes, bytes]]:
        items: list[tuple[bytes, bytes]] = []
        for batch in batches:
            try:
                items += split_batch(batch.payload, batch.issuer_id)
            except BatchError as fault:
                self._log.error("a batch cannot be read and is left out", batch_id=batch.id, fault=str(fault))
        return items

    async def _starting_point(self, pool: Pool) -> Mark:
        """Where the log was left; its beginning, with an empty memory, when the memory is of another log."""
        mark = self._memory.mark()
        if not mark.batch_id:
            return mark
        made_at = await store.batch_time(pool, mark.batch_id)
        if made_at is None:
            recent = mark.produced_at_us > _microseconds(self._ambient.now() - _KEPT)
            foreign = recent or mark.batch_id > await store.last_batch_id(pool) > 0
        else:
            foreign = _microseconds(made_at) != mark.produced_at_us
        if not foreign:
            return mark
        # Another database, or one that lost what was not replicated: its ids name other batches now.
        self._log.warning("the memory is of another batch log; filling it anew", batch_id=mark.batch_id)
        self._memory.begin_anew()
        self._issuers_due_at = 0.0
        await self._read_issuers(pool)
        return Mark()

    async def _see_replication(self, pool: Pool) -> None:
        """Notes as of when nothing is missing here. What a standby has not got yet is missing, too."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._replication_due_at:
            return
        found = await store.replication(pool, now=self._ambient.now())
        self._is_standby = found.is_standby
        if found.as_of is not None and self.current.is_set():
            self._memory.read_to_the_end(found.as_of.timestamp())
        self._replication_due_at = loop.time() + _REPLICATION_EVERY_S

    async def _look_after(self, pool: Pool) -> None:
        """What is done when there is nothing to do; `_tends` says whether there is more of it."""
        await self._read_issuers(pool)
        loop = asyncio.get_running_loop()
        if loop.time() >= self._forget_due_at:
            self._tends = True
            now_s = int(self._ambient.now().timestamp())
            self._forget_behind = await self._in_thread(
                self._memory.forget_expired, self._forget_behind, now_s=now_s, limit=_FORGET_AT_ONCE)
            self._forget_due_at = loop.time() + _FORGET_EVERY_S
        until_s = loop.time() + _TENDED_FOR_S
        while self._tends and not self._wake.is_set() and (begun_s := loop.time()) < until_s:
            self._tends = await self._in_thread(lambda: self._memory.tend_shortcut(limit=_TENDED_AT_ONCE))
            await asyncio.sleep(_REST * (loop.time() - begun_s))

    async def _read_issuers(self, pool: Pool) -> None:
        """Hands the issuers to all workers, through the memory. Other certificates under known ids: another CA."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._issuers_due_at:
            return
        found = [(issuer.id, issuer.certificate) for issuer in await store.issuers(pool)]
        known = dict(decode_issuers(self._memory.issuers()))
        if any(issuer_id in known and not _same_key(known[issuer_id], der) for issuer_id, der in found):
            self._log.warning("the memory is of another CA; filling it anew")
            self._memory.begin_anew()
        responders = await store.responders(pool)
        encoded = encode_issuers(found), encode_issuers(responders)
        if (self._memory.issuers(), self._memory.responders()) != encoded:
            await self._in_thread(self._memory.set_issuers, *encoded)
        self._responders = frozenset(responder_id for responder_id, _ in responders) | {0}
        self._memory.free_dead_readers()
        self._issuers_due_at = loop.time() + _ISSUERS_EVERY_S

    async def _in_thread(
        self, act: Callable[_Parameters, _Result], *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: act(*args, **kwargs))


def _responders_of(batches: list[StoredBatch]) -> set[int]:
    found = set()
    for batch in batches:
        with suppress(BatchError):      # said where it is applied
            found.add(responder_of_batch(batch.payload))
    return found


def _locked(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _same_key(one_der: bytes, other_der: bytes) -> bool:
    """Whether two issuing certificates have the same CertIDs; a renewed one has."""
    one, other = read_issuer(one_der), read_issuer(other_der)
    return (one.subject_der, one.key_bits) == (other.subject_der, other.key_bits)


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)
