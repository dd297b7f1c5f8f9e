"""The two rounds of the pre-signer: what is new or changed, at once; what is due, range by range.

A round claims, signs and publishes. Publishing is one transaction under the log's lock: the batch row, the end of the
requests that it answers, the schedule, and the wake-ups. A status that changed while it was signed is not published.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from structlog.typing import FilteringBoundLogger

from ca.process.ambient import Ambient
from ca.process.postgres import Connection, Pool
from ca.process.settings import OcspSettings
from ca.process.worker import is_dead, worker_name
from hsm.thread import HsmThread
from ocsp.presign import store
from ocsp.presign.signer import IssuerSigner, SignedBatch, sign_batch
from ocsp.presign.store import ClaimedRequest, ClaimedShard
from ocsp.protocol.batch import encode_batch
from ocsp.protocol.schedule import ScheduleError, due_at, moment, parts_of_day

_LEASE: Final = timedelta(seconds=30)
_BATCH: Final = 2_000
_FIRST_BATCH: Final = 500


class Presigner:
    """State of one process: its issuers, and which days are scheduled already."""

    def __init__(
        self,
        *,
        pool: Pool,
        thread: HsmThread,
        signers: Mapping[int, IssuerSigner],
        settings: OcspSettings,
        ambient: Ambient,
        log: FilteringBoundLogger,
    ) -> None:
        self._pool = pool
        self._thread = thread
        self._signers = signers
        self._life = timedelta(seconds=settings.response_life_s)
        self._age = timedelta(seconds=settings.resign_age_s)
        self._jitter = timedelta(seconds=settings.resign_jitter_s)
        self._ambient = ambient
        self._log = log
        self._worker = worker_name()
        self._scheduled: set[tuple[int, bytes]] = set()

    async def free_dead_leases(self) -> None:
        """Takes back what a killed process of this host was signing."""
        holders = await store.lease_holders(self._pool, now=self._ambient.now())
        dead = [worker for worker in holders if is_dead(worker)]
        if dead:
            await store.free_leases(self._pool, dead)

    async def sign_requested(self) -> bool:
        """One round over new and changed certificates; returns whether there were any."""
        now = self._ambient.now()
        claimed = await store.claim(self._pool, worker=self._worker, now=now, until=now + _LEASE, limit=_FIRST_BATCH)
        if not claimed:
            return False
        statuses = await store.statuses(self._pool, sorted({item.serial for item in claimed}))
        by_issuer: dict[int, list[store.StoredStatus]] = defaultdict(list)
        for status in statuses:
            by_issuer[status.issuer_id].append(status)
        batches = [batch for issuer_id, items in by_issuer.items()
                   if (batch := await self._sign(issuer_id, items)) is not None]
        if batches:
            await self._publish(batches, claimed)
        return True

    async def sign_due(self) -> bool:
        """One range of the schedule; returns whether one was due."""
        now = self._ambient.now()
        shard = await store.claim_shard(self._pool, worker=self._worker, now=now, until=now + _LEASE)
        if shard is None:
            return False
        after, signed, oldest = shard.first, 0, now
        while True:
            now = self._ambient.now()
            statuses = await store.statuses_of_range(self._pool, first=after, last=shard.last, now=now, limit=_BATCH,
                                                     issuer_id=shard.issuer_id)
            if not statuses:
                break
            batch = await self._sign(shard.issuer_id, statuses)
            if batch is None:
                return True  # the lease runs out; the reason is logged and shows in the status
            await self._publish([batch], [])
            signed += len(statuses)
            if len(statuses) < _BATCH or statuses[-1].serial >= shard.last:
                break
            after = _next(statuses[-1].serial)
            await store.extend_shard(self._pool, shard, worker=self._worker, until=now + _LEASE)
        await self._finish(shard, signed=signed, signed_at=oldest.replace(second=0, microsecond=0))
        return True

    async def _finish(self, shard: ClaimedShard, *, signed: int, signed_at: datetime) -> None:
        if signed:
            due = due_at(signed_at, age=self._age, jitter=self._jitter, random4=self._ambient.random_bytes(4))
            await store.finish_shard(self._pool, shard, worker=self._worker, due_at=due, signed_at=signed_at)
        else:
            await store.drop_shard(self._pool, shard, worker=self._worker)

    async def _sign(self, issuer_id: int, statuses: Sequence[store.StoredStatus]) -> SignedBatch | None:
        signer = self._signers.get(issuer_id)
        if signer is None:
            self._log.error("no key for this issuer in the token; restart after adding it", issuer_id=issuer_id)
            return None
        now = self._ambient.now()
        self._log.debug("signing", audit=True, issuer=signer.name, count=len(statuses))
        try:
            batch = await sign_batch(self._thread, signer, statuses, now=now, life=self._life)
        except ScheduleError as fault:
            self._log.error("not signed", issuer=signer.name, reason=str(fault))
            return None
        # BR 5.4.1: OCSP signing is logged, a line a batch.
        self._log.info("signed", audit=True, issuer=signer.name, count=len(statuses),
                       first=statuses[0].serial.hex(), last=statuses[-1].serial.hex(),
                       revoked=sum(1 for status in statuses if status.revoked_at is not None))
        return batch

    async def _publish(self, batches: Sequence[SignedBatch], claimed: Sequence[ClaimedRequest]) -> None:
        """Everything of one round in one transaction.

        A certificate whose status changed while it was signed is left out: its change has a request of its own.
        """
        scheduled: set[tuple[int, bytes]] = set()
        published: dict[bytes, int] = {}
        async with self._pool.acquire() as connection, connection.transaction():
            await store.lock_log(connection)
            for batch in batches:
                newer = await store.newer_versions(connection, [item.serial for item in batch.records])
                records = [item for item in batch.records if newer.get(item.serial, 0) <= item.version]
                if not records:
                    continue
                await store.insert_batch(
                    connection, issuer_id=batch.issuer_id, produced_at=batch.produced_at, count=len(records),
                    next_update=moment(batch.times.next_update_s), payload=encode_batch(batch.times, records))
                published |= {item.serial: item.version for item in records}
                for serial in {item.serial[:2]: item.serial for item in records}.values():
                    if (batch.issuer_id, serial[:2]) not in self._scheduled:
                        await self._schedule(connection, batch, serial)
                        scheduled.add((batch.issuer_id, serial[:2]))
            await store.finish_requests(
                connection, [item for item in claimed if published.get(item.serial, -1) >= item.version])
            await store.wake_responders(connection)
        self._scheduled |= scheduled

    async def _schedule(self, connection: Connection, batch: SignedBatch, serial: bytes) -> None:
        """The first response of a day's serial number schedules all 64 parts of that day, each at its own time."""
        signed_at = batch.produced_at.replace(second=0, microsecond=0)
        shards = [(part.first, part.last, due_at(signed_at, age=self._age, jitter=self._jitter,
                                                 random4=self._ambient.random_bytes(4)))
                  for part in parts_of_day(serial)]
        await store.insert_shards(connection, batch.issuer_id, shards, signed_at=signed_at)


def _next(serial: bytes) -> bytes:
    """The smallest serial number above."""
    return (int.from_bytes(serial, "big") + 1).to_bytes(len(serial), "big")
