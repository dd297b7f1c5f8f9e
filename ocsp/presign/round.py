"""The rounds of the pre-signer: what was revoked, what is new, and, range by range, what is due again.

A round is one transaction: claim (row locks), sign, publish. Each kind has a lane with at most two rounds at a time, so
that one is signed while the other is published; the gate shares the token between the lanes.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from ca.pki.serial import SERIAL_BYTES
from ca.process.ambient import Ambient
from ca.process.postgres import Connection, Pool
from ca.process.settings import OcspSettings
from ocsp.presign import store
from ocsp.presign.gate import LaneName, SigningGate
from ocsp.presign.publish import PublishedBatch, Resigning, publish, schedule_day
from ocsp.presign.signer import IssuerSigner, SignedBatch, sign_batch
from ocsp.presign.store import Claim, ClaimedRequest, Shard, StatusOfCertificate
from ocsp.protocol.batch import HASHES
from ocsp.protocol.schedule import SHORTEST_LIFE, SerialRange, is_settled, moment, split_after, warning_age

_ROUNDS_AT_ONCE: Final = 2
_LARGEST_BATCH: Final = 4_000
_SMALLEST_BATCH: Final = 50
_FIRST_BATCH: Final = 1_000
_ROUND_S: Final = 0.8
_LAST_SERIAL: Final = b"\xff" * SERIAL_BYTES


class Round(Protocol):
    """The work of one transaction."""

    async def claim(self, connection: Connection, limit: int) -> int:
        """Locks at most `limit` things to do; returns how many."""

    async def work(self, connection: Connection) -> None:
        """Signs and publishes."""

    def committed(self) -> bool:
        """Does what is known and logged only when the transaction has ended. Returns whether it left something to do
        that nobody could claim before."""


class Lane:
    """Rounds of one kind, one behind the other, the next one beginning while the last one is published.

    `wake` is set by whoever knows of work, and by a round that left some (a range was split, a status changed).

    A round that did not find all that it would have taken is followed by another one `gather_s` seconds after its
    beginning at the earliest, because a round costs the same for one thing to do as for many; what comes after a pause
    is taken up at once.
    """

    def __init__(self, pool: Pool, make_round: Callable[[], Round], *, gather_s: float = 0.0) -> None:
        self.wake = asyncio.Event()
        self._pool = pool
        self._make_round = make_round
        self._gather_s = gather_s
        self._next_s = 0.0              # of the event loop's clock
        self._running: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._limit = _FIRST_BATCH

    async def step(self) -> bool:
        """Begins a round; returns whether there was anything to do. Raises what an earlier one failed with."""
        count, _ = await self._begin()
        return count > 0

    async def full_step(self) -> bool:
        """As `step`, but returns whether there may be more than was taken: a look in vain costs three statements, and
        whoever queues something else wakes the lane."""
        count, limit = await self._begin()
        return count >= limit

    async def _begin(self) -> tuple[int, int]:
        """How many things a new round claimed, and how many it would have."""
        while len(self._running) >= _ROUNDS_AT_ONCE:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        self._raise_fault()
        now_s = asyncio.get_running_loop().time()
        if now_s < self._next_s:
            await asyncio.sleep(self._next_s - now_s)
            self.wake.clear()           # whoever woke it meanwhile is served by this claim
        self._next_s = asyncio.get_running_loop().time() + self._gather_s
        limit = self._limit             # rounds that end in the meantime change it
        claimed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._run(limit, claimed))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        count = await claimed
        if not 0 < count < limit:
            self._next_s = 0.0
        return count, limit

    async def drain(self) -> None:
        """Waits for the rounds that have begun. Raises what one of them failed with."""
        while self._running:
            await asyncio.wait(self._running)
        self._raise_fault()

    def _raise_fault(self) -> None:
        """Once."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    async def _run(self, limit: int, claimed: "asyncio.Future[int]") -> None:
        loop = asyncio.get_running_loop()
        this = self._make_round()
        try:
            async with self._pool.acquire() as connection:
                async with connection.transaction():
                    count = await this.claim(connection, limit)
                    claimed.set_result(count)
                    if not count:
                        return
                    started = loop.time()
                    await this.work(connection)
                    self._adapt(count, limit, loop.time() - started)
                if this.committed():
                    self.wake.set()
        except Exception as fault:
            if claimed.done():
                self._fault = fault
            else:
                claimed.set_exception(fault)

    def _adapt(self, count: int, limit: int, took_s: float) -> None:
        """Batches take about a second with every kind of key, so that what comes next does not wait for long."""
        if count == limit or took_s > _ROUND_S:
            wanted = int(count * _ROUND_S / max(took_s, 0.001))
            self._limit = min(_LARGEST_BATCH, max(_SMALLEST_BATCH, wanted))


class Presigner:
    """State of one process: its issuers, and which days are scheduled already."""

    def __init__(
        self,
        *,
        pool: Pool,
        gate: SigningGate,
        signers: Mapping[int, IssuerSigner],
        settings: OcspSettings,
        ambient: Ambient,
        log: FilteringBoundLogger,
    ) -> None:
        self.gate = gate
        self.signers = signers
        self.ambient = ambient
        self.log = log
        self.life = timedelta(seconds=settings.response_life_s)
        self.resigning = Resigning(age=timedelta(seconds=settings.resign_age_s),
                                   jitter=timedelta(seconds=settings.resign_jitter_s))
        self.scheduled: set[tuple[int, bytes]] = set()
        changed, new = Queue(store.claim_changed), Queue(store.claim_new)
        self.changed = Lane(pool, lambda: RequestRound(self, LaneName.CHANGED, changed))
        self.new = Lane(pool, lambda: RequestRound(self, LaneName.NEW, new), gather_s=settings.gather_ms / 1_000)
        self.due = Lane(pool, lambda: DueRound(self))

    def able(self, now: datetime) -> list[int]:
        """Issuers that may sign: an issuer's last hours are too short for a response (BR 4.9.9)."""
        return [signer.id for signer in self.signers.values()
                if signer.not_after - now > SHORTEST_LIFE]

    async def sign(self, lane: LaneName, statuses: Sequence[StatusOfCertificate], now: datetime) -> list[SignedBatch]:
        """A batch for each issuer; `now` is before the statuses were read."""
        by_issuer: dict[int, list[StatusOfCertificate]] = defaultdict(list)
        for status in statuses:
            by_issuer[status.issuer_id].append(status)
        return [await sign_batch(self.gate, lane, self.signers[issuer_id], items, now=now, life=self.life)
                for issuer_id, items in by_issuer.items()]

    def speeds(self) -> list[tuple[int, int, float | None]]:
        """(issuer, responder, seconds a certificate) as measured in the token; None before the first signature."""
        return [(signer.id, signer.responder_id, self.gate.signature_s(signer.key.label, len(HASHES)))
                for signer in self.signers.values()]

    def log_published(self, lane: LaneName, published: Sequence[PublishedBatch]) -> None:
        """BR 5.4.1: OCSP signing is logged, a line a batch; the batch itself says which status each serial got."""
        for batch in published:
            self.log.info("signed", audit=True, lane=lane.name.lower(), batch_id=batch.id,
                          issuer=self.signers[batch.issuer_id].name, count=batch.count, first=batch.first.hex(),
                          last=batch.last.hex(), revoked=batch.revoked, dropped=batch.dropped)


class Queue:
    """Requests of one kind. While there are many, each claim goes on behind the one before: from the beginning it would
    walk over what is locked, by this process and others, and over what has just been deleted."""

    def __init__(self, claim: Callable[[Connection, Sequence[int], int, SerialRange], Awaitable[Claim]]) -> None:
        self._claim = claim
        self._behind = b""

    async def claim(self, connection: Connection, issuer_ids: Sequence[int], limit: int) -> Claim:
        """Locks at most `limit` of them; fewer when there are no more anywhere."""
        behind, self._behind = self._behind, b""
        found = await self._claim(connection, issuer_ids, limit, SerialRange(first=behind, last=_LAST_SERIAL))
        if found.count == limit:
            self._behind = found.last
        elif behind:
            skipped = await self._claim(
                connection, issuer_ids, limit - found.count, SerialRange(first=b"", last=behind))
            found = skipped.before(found)
        return found


class RequestRound:
    """New certificates, or changed statuses."""

    def __init__(self, presigner: Presigner, lane: LaneName, queue: Queue) -> None:
        self._presigner = presigner
        self._lane = lane
        self._queue = queue
        self._now = presigner.ambient.now()
        self._claimed = Claim(count=0, last=b"", statuses=[], others=[])
        self._published: list[PublishedBatch] = []
        self._scheduled: set[tuple[int, bytes]] = set()
        self._dropped = False

    async def claim(self, connection: Connection, limit: int) -> int:
        """Locks requests, and reads what they are about."""
        self._claimed = await self._queue.claim(connection, self._presigner.able(self._now), limit)
        return self._claimed.count

    async def work(self, connection: Connection) -> None:
        """Signs, publishes and ends the requests that are answered by it, or by the certificate's end."""
        claimed, now_s = self._claimed, self._now.timestamp()
        living = [status for status in claimed.statuses if status.not_after_s >= now_s]
        batches = await self._presigner.sign(self._lane, living, self._now)
        if len(living) < claimed.count:
            await self._end_without_response(connection, living)
        for batch in batches:
            await self._schedule(connection, batch)
        for batch in batches:
            published = await publish(connection, batch, is_new=self._lane is LaneName.NEW, requests=claimed.others)
            if published is not None:
                self._published.append(published)
            self._dropped |= published is None or published.dropped > 0

    def committed(self) -> bool:
        """The days of these serial numbers are scheduled. What was dropped has to be signed again."""
        self._presigner.scheduled |= self._scheduled
        self._presigner.log_published(self._lane, self._published)
        return self._dropped

    async def _end_without_response(self, connection: Connection, living: Sequence[StatusOfCertificate]) -> None:
        """Certificates that have expired need none any more; those that are not known never get one."""
        known, alive = ({status.serial for status in some} for some in (self._claimed.statuses, living))
        ended = [request for request in self._claimed.others if request.serial not in alive]
        ended += [ClaimedRequest(status.serial, 0) for status in self._claimed.statuses
                  if not status.version and status.serial not in alive]
        if ended:
            await store.end_requests(connection, ended)
        for request in self._claimed.others:
            if request.serial not in known:
                self._presigner.log.error("a response is asked for without a certificate", serial=request.serial.hex())

    async def _schedule(self, connection: Connection, batch: SignedBatch) -> None:
        days = {record.serial[:2]: record.serial for record in batch.records}
        for day, serial in days.items():
            if (batch.issuer_id, day) not in self._presigner.scheduled:
                await schedule_day(connection, batch, serial, self._presigner.resigning, self._presigner.ambient)
                if not is_settled(serial, self._now):      # later its ranges may be dropped by another process
                    self._scheduled.add((batch.issuer_id, day))


class DueRound:
    """One range of the schedule: its first few thousand certificates; the rest becomes a range of its own."""

    def __init__(self, presigner: Presigner) -> None:
        self._presigner = presigner
        self._now = presigner.ambient.now()
        self._shard: Shard | None = None
        self._published: list[PublishedBatch] = []

    async def claim(self, connection: Connection, limit: int) -> int:
        """Locks the range that has been due the longest."""
        self._shard = await store.claim_shard(connection, self._presigner.able(self._now), now=self._now)
        return 0 if self._shard is None else 1

    async def work(self, connection: Connection) -> None:
        """Signs what has not expired, and sets the time for the next time."""
        shard, presigner = self._shard, self._presigner
        assert shard is not None  # noqa: S101 - claimed before
        if self._now - shard.signed_at > warning_age(life=presigner.life, age=presigner.resigning.age):
            presigner.log.warning("responses are signed late", issuer_id=shard.issuer_id, first=shard.first.hex(),
                                  age_h=(self._now - shard.signed_at) // timedelta(hours=1))
        statuses = await store.statuses_of_shard(connection, shard, now=self._now, limit=_LARGEST_BATCH)
        if not statuses and is_settled(shard.first, self._now):
            await store.drop_shard(connection, shard)
            return
        batches = await presigner.sign(LaneName.DUE, statuses, self._now)
        signed_at, last = self._now, shard.last
        if batches:
            signed_at = moment(batches[0].times.this_update_s)
        if len(statuses) == _LARGEST_BATCH:
            rest = split_after(SerialRange(first=shard.first, last=shard.last), statuses[-1].serial)
            if rest is not None:
                last = statuses[-1].serial
                await store.insert_shards(connection, shard.issuer_id, [(rest.first, rest.last, shard.due_at)],
                                          signed_at=shard.signed_at)
        await store.reschedule_shard(connection, Shard(
            issuer_id=shard.issuer_id, first=shard.first, last=last, signed_at=signed_at,
            due_at=presigner.resigning.due_at(signed_at, presigner.ambient)), certificates=len(statuses))
        for batch in batches:
            published = await publish(connection, batch)
            self._published += [published] if published is not None else []

    def committed(self) -> bool:
        """The audit line. The rest of the range, and whatever was due behind it, may be claimed."""
        self._presigner.log_published(LaneName.DUE, self._published)
        return True
