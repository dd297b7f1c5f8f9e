"""Publishing: what was signed becomes visible in one transaction, under the log's lock.

The lock makes ids of the batch log visible in their order, so that responders can follow it. Under it the statuses are
looked at again: nothing is published for a status that has changed since, and everything that is published later was
looked at later, so no `good` can follow a `revoked` (the responder's version rule is the second line).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ca.process.ambient import Ambient
from ca.process.postgres import Connection
from ocsp.presign import store
from ocsp.presign.signer import SignedBatch
from ocsp.protocol.batch import encode_batch
from ocsp.protocol.schedule import due_at, moment, parts_of_day


@dataclass(frozen=True, slots=True, kw_only=True)
class Resigning:
    """When responses are signed again."""

    age: timedelta
    jitter: timedelta

    def due_at(self, this_update: datetime, ambient: Ambient) -> datetime:
        """A moment by chance."""
        return due_at(this_update, age=self.age, jitter=self.jitter, random4=ambient.random_bytes(4))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedBatch:
    """What the audit log says of a batch (BR 5.4.1), once it is committed."""

    id: int
    issuer_id: int
    versions: Mapping[bytes, int]
    dropped: int


async def publish(connection: Connection, batches: Sequence[SignedBatch]) -> list[PublishedBatch]:
    """Appends the batches to the log, without what has changed meanwhile; the lock is held until the commit."""
    await store.lock_log(connection)
    published = []
    for batch in batches:
        now = await store.versions(connection, [record.serial for record in batch.records])
        records = [record for record in batch.records if now.get(record.serial, 0) == record.version]
        if records:
            batch_id = await store.insert_batch(
                connection, issuer_id=batch.issuer_id, produced_at=batch.produced_at, count=len(records),
                next_update=moment(batch.times.next_update_s),
                payload=encode_batch(batch.times, records, responder_id=batch.responder_id))
            published.append(PublishedBatch(id=batch_id, issuer_id=batch.issuer_id,
                                            versions={record.serial: record.version for record in records},
                                            dropped=len(batch.records) - len(records)))
    await store.wake_responders(connection)
    return published


async def schedule_day(
    connection: Connection, batch: SignedBatch, serial: bytes, resigning: Resigning, ambient: Ambient
) -> None:
    """The first response of a day's serial number schedules the parts of that day, each at its own time."""
    signed_at = moment(batch.times.this_update_s)
    await store.insert_shards(
        connection, batch.issuer_id, [(part.first, part.last, resigning.due_at(signed_at, ambient))
                                      for part in parts_of_day(serial)], signed_at=signed_at)
