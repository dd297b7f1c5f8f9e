"""The rounds of the pre-signer: what was revoked, what is new, and, range by range, what is due again.

A round is one transaction: claim (row locks), sign, publish. Each kind has a lane with at most two rounds at a time, so
that one is signed while the other is published; the gate shares the token between the lanes. In bulk, a round begins
when the one before is nearly signed, and takes no more than its share of what waits, so that all pre-signers end
together.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from ocsp.presign.store import NOTHING, Claim, ClaimedRequest, Shard, StatusOfCertificate
from ocsp.protocol.batch import HASHES
from ocsp.protocol.schedule import (
    SHORTEST_LIFE,
    SerialRange,
    is_settled,
    may_begin_by_hour,
    moment,
    split_after,
    warning_age,
)

_ROUNDS_AT_ONCE: Final = 2
_LARGEST_BATCH: Final = 4_000
_SMALLEST_BATCH: Final = 50
_FIRST_BATCH: Final = 1_000
_ROUND_S: Final = 0.8
# Of a batch, what a share of little is at least.
_SMALLEST_SHARE: Final = 16
# A claim, its line in the audit log and what is to be signed take so long to be ready on busy processors.
_AHEAD_S: Final = 0.25
_LAST_SERIAL: Final = b"\xff" * SERIAL_BYTES


@dataclass(frozen=True, slots=True)
class Claimed:
    """How many things a round has locked, and of how many that it would have."""

    count: int
    wanted: int


class Round(Protocol):
    """The work of one transaction."""

    async def claim(self, connection: Connection, limit: int) -> "Claimed":
        """Locks at most `limit` things to do."""

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
    is taken up at once. `left_s` says how long the token will be busy with what is claimed already: the next claim
    waits until that is little, so that others may have what this process would only begin later.
    """

    def __init__(self, pool: Pool, make_round: Callable[[], Round], *, gather_s: float = 0.0,
                 left_s: Callable[[], float] = lambda: 0.0) -> None:
        self.wake = asyncio.Event()
        self._pool = pool
        self._make_round = make_round
        self._gather_s = gather_s
        self._left_s = left_s
        self._next_s = 0.0              # of the event loop's clock
        self._running: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._limit = _FIRST_BATCH

    async def step(self) -> bool:
        """Begins a round; returns whether there was anything to do. Raises what an earlier one failed with."""
        return (await self._begin()).count > 0

    async def full_step(self) -> bool:
        """As `step`, but returns whether there may be more than was taken: a look in vain costs three statements, and
        whoever queues something else wakes the lane."""
        claimed = await self._begin()
        return claimed.count >= claimed.wanted

    async def _begin(self) -> Claimed:
        """What a new round claimed."""
        while len(self._running) >= _ROUNDS_AT_ONCE:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        while self._running and (early_s := self._left_s() - _AHEAD_S) > 0.0:
            await asyncio.wait(self._running, timeout=early_s, return_when=asyncio.FIRST_COMPLETED)
        self._raise_fault()
        now_s = asyncio.get_running_loop().time()
        if now_s < self._next_s:
            await asyncio.sleep(self._next_s - now_s)
            self.wake.clear()           # whoever woke it meanwhile is served by this claim
        self._next_s = asyncio.get_running_loop().time() + self._gather_s
        claiming: asyncio.Future[Claimed] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._run(self._limit, claiming))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        claimed = await claiming
        if not 0 < claimed.count < claimed.wanted:
            self._next_s = 0.0
        return claimed

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

    async def _run(self, limit: int, claiming: "asyncio.Future[Claimed]") -> None:
        loop = asyncio.get_running_loop()
        this = self._make_round()
        try:
            async with self._pool.acquire() as connection:
                async with connection.transaction():
                    claimed = await this.claim(connection, limit)
                    claiming.set_result(claimed)
                    if not claimed.count:
                        return
                    started = loop.time()
                    await this.work(connection)
                    self._adapt(claimed.count, limit, loop.time() - started)
                if this.committed():
                    self.wake.set()
        except Exception as fault:
            if claiming.done():
                self._fault = fault
            else:
                claiming.set_exception(fault)

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
        self.by_hour = may_begin_by_hour(age=self.resigning.age, jitter=self.resigning.jitter)
        self.scheduled: set[tuple[int, bytes]] = set()
        self.sharers = 1        # pre-signers that run, this one included
        changed, new = Queue(store.claim_changed), Queue(store.claim_new, store.last_new)
        self.changed = Lane(pool, lambda: RequestRound(self, LaneName.CHANGED, changed),
                            left_s=lambda: gate.left_s(LaneName.CHANGED))
        self.new = Lane(pool, lambda: RequestRound(self, LaneName.NEW, new), gather_s=settings.gather_ms / 1_000,
                        left_s=lambda: gate.left_s(LaneName.NEW))
        self.due = Lane(pool, lambda: DueRound(self), left_s=lambda: gate.left_s(LaneName.DUE))

    def able(self, now: datetime) -> list[int]:
        """Issuers that may sign: an issuer's last hours are too short for a response (BR 4.9.9)."""
        return [signer.id for signer in self.signers.values()
                if signer.not_after - now > SHORTEST_LIFE]

    async def sign(self, lane: LaneName, statuses: Sequence[StatusOfCertificate], now: datetime) -> list[SignedBatch]:
        """A batch for each issuer; `now` is before the statuses were read."""
        by_issuer: dict[int, list[StatusOfCertificate]] = defaultdict(list)
        for status in statuses:
            by_issuer[status.issuer_id].append(status)
        by_hour = lane is LaneName.DUE and self.by_hour
        return [await sign_batch(self.gate, lane, self.signers[issuer_id], items, now=now, life=self.life,
                                 by_hour=by_hour)
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


_ClaimOf = Callable[[Connection, Sequence[int], int, SerialRange], Awaitable[Claim]]
_LastOf = Callable[[Connection, Sequence[int], bytes], Awaitable[bytes | None]]


class Queue:
    """Requests of one kind. While there are many, each claim goes on behind the one before: from the beginning it would
    walk over what is locked, by this process and others, and over what has just been deleted.

    Several pre-signers share what waits, where `last` finds its end: each takes a part of the rest, so that the last
    batches are small, and none signs for long while the others have nothing left to do. To count the rest would cost
    more than it gains; but serial numbers are random, so it is as dense as what was claimed before it.
    """

    def __init__(self, claim: _ClaimOf, last: _LastOf | None = None) -> None:
        self._claim = claim
        self._last = last
        self._behind = b""
        self._density = 0.0         # requests by the distance of their serial numbers

    async def claim(self, connection: Connection, issuer_ids: Sequence[int], limit: int, *, sharers: int = 1) -> Claim:
        """Locks at most `limit` of them, or this pre-signer's share; fewer when there are no more anywhere."""
        behind, self._behind = self._behind, b""
        limit = await self._share(connection, issuer_ids, limit, behind, sharers)
        found = await self._claim(connection, issuer_ids, limit, SerialRange(first=behind, last=_LAST_SERIAL))
        if found.count == limit:
            self._behind = found.last
            if found.statuses and found.statuses[0].serial < found.last:
                self._density = found.count / _distance(found.statuses[0].serial, found.last)
        elif behind:
            skipped = await self._claim(
                connection, issuer_ids, limit - found.count, SerialRange(first=b"", last=behind))
            found = skipped.before(found)
        return replace(found, wanted=limit)

    async def _share(self, connection: Connection, issuer_ids: Sequence[int], limit: int, behind: bytes,
                     sharers: int) -> int:
        """How much to claim. Half of what would be a fair part of the rest, because others have locked some of it. A
        first claim mostly finds little, and is only kept from taking nearly all of what is not very much."""
        if self._last is None or sharers == 1:
            return limit
        if not behind:
            return min(limit, _FIRST_BATCH)
        last = await self._last(connection, issuer_ids, behind)
        rest = 0.0 if last is None else self._density * _distance(behind, last)
        return min(limit, max(int(rest / (2 * sharers)), limit // _SMALLEST_SHARE, 1))


def _distance(first: bytes, last: bytes) -> int:
    """How many serial numbers there could be."""
    return int.from_bytes(last, "big") - int.from_bytes(first, "big")


class RequestRound:
    """New certificates, or changed statuses."""

    def __init__(self, presigner: Presigner, lane: LaneName, queue: Queue) -> None:
        self._presigner = presigner
        self._lane = lane
        self._queue = queue
        self._now = presigner.ambient.now()
        self._claimed = NOTHING
        self._published: list[PublishedBatch] = []
        self._scheduled: set[tuple[int, bytes]] = set()
        self._dropped = False

    async def claim(self, connection: Connection, limit: int) -> Claimed:
        """Locks requests, and reads what they are about."""
        self._claimed = await self._queue.claim(connection, self._presigner.able(self._now), limit,
                                                sharers=self._presigner.sharers)
        return Claimed(self._claimed.count, self._claimed.wanted)

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

    async def claim(self, connection: Connection, limit: int) -> Claimed:
        """Locks the range that has been due the longest."""
        self._shard = await store.claim_shard(connection, self._presigner.able(self._now), now=self._now)
        return Claimed(0 if self._shard is None else 1, limit)

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
