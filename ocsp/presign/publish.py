"""Publishing: what was signed becomes visible in one transaction, under the log's lock.

The lock makes ids of the batch log visible in their order, so that responders can follow it. Under it the statuses are
looked at again: nothing is published for a status that has changed since, and everything that is published later was
looked at later, so no `good` can follow a `revoked` (the responder's version rule is the second line). The database
does all of it in one call, the last one of the transaction, so that others wait for the lock as little as may be.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ca.process.ambient import Ambient
from ca.process.postgres import Connection
from ocsp.presign import store
from ocsp.presign.signer import SignedBatch
from ocsp.presign.store import ClaimedRequest
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
    count: int
    revoked: int
    first: bytes
    last: bytes
    dropped: int


async def publish(
    connection: Connection, batch: SignedBatch, *, is_new: bool = False, requests: Sequence[ClaimedRequest] = ()
) -> PublishedBatch | None:
    """Appends a batch to the log, without what has changed meanwhile; the log's lock is held until the commit. None
    when all of it has changed.

    Requests that it answers end: the first ones of what is good, if they are new, and those of `requests`.
    """
    dropped: Collection[bytes] = ()
    while True:
        records = [record for record in batch.records if record.serial not in dropped] if dropped else batch.records
        if not records:
            return None
        # The database looks for revocations between the first and the last.
        good = sorted(record.serial for record in records if not record.version)
        revoked = {record.serial: record.version for record in records if record.version} if (
            len(good) < len(records)) else {}
        batch_id, changed = await store.publish_batch(
            connection, issuer_id=batch.issuer_id, produced_at=batch.produced_at, good=good, is_new=is_new,
            revoked=revoked, next_update=moment(batch.times.next_update_s),
            ended=[request for request in requests if revoked.get(request.serial, -1) >= request.version],
            payload=encode_batch(batch.times, records, responder_id=batch.responder_id))
        if batch_id is not None:
            return PublishedBatch(
                id=batch_id, issuer_id=batch.issuer_id, count=len(records), revoked=len(revoked),
                first=records[0].serial, last=records[-1].serial, dropped=len(batch.records) - len(records))
        dropped = {*dropped, *changed}


async def schedule_day(
    connection: Connection, batch: SignedBatch, serial: bytes, resigning: Resigning, ambient: Ambient
) -> None:
    """The first response of a day's serial number schedules the parts of that day, each at its own time."""
    signed_at = moment(batch.times.this_update_s)
    await store.insert_shards(
        connection, batch.issuer_id, [(part.first, part.last, resigning.due_at(signed_at, ambient))
                                      for part in parts_of_day(serial)], signed_at=signed_at)
