"""All that the database role `ocsp_signer` does: claim what needs a response, publish batches, keep the schedule."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ca.process.postgres import Connection, Pool, Record

_ISSUERS = "SELECT id, name, certificate FROM issuers ORDER BY id"
# Revoked ones first: they are few and must be seen within a second.
_CLAIM = """
UPDATE ocsp_requests SET leased_by = $1, leased_until = $2
WHERE (serial, version) IN (SELECT serial, version FROM ocsp_requests WHERE leased_until < $3
                            ORDER BY version = 0, requested_at LIMIT $4 FOR UPDATE SKIP LOCKED)
RETURNING serial, version, request_id
"""
_STATUSES = """
SELECT c.serial, c.issuer_id, c.not_after, r.revoked_at, r.reason, coalesce(r.version, 0) AS version
FROM certificates c LEFT JOIN revocations r ON r.serial = c.serial WHERE c.serial = ANY($1)
"""
_STATUSES_OF_RANGE = """
SELECT c.serial, c.issuer_id, c.not_after, r.revoked_at, r.reason, coalesce(r.version, 0) AS version
FROM certificates c LEFT JOIN revocations r ON r.serial = c.serial
WHERE c.serial >= $1 AND c.serial <= $2 AND c.issuer_id = $3 AND c.not_after >= $4 ORDER BY c.serial LIMIT $5
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('chancery ocsp batches'))"
_NEWER = "SELECT serial, version FROM revocations WHERE serial = ANY($1)"
_INSERT_BATCH = """
INSERT INTO ocsp_batches (id, produced_at, issuer_id, count, next_update, payload)
VALUES (nextval('ocsp_batch_id'), $1, $2, $3, $4, $5)
"""
_DELETE_REQUESTS = """
DELETE FROM ocsp_requests q USING unnest($1::bytea[], $2::smallint[]) AS t (serial, version)
WHERE q.serial = t.serial AND q.version = t.version
"""
_LEASE_HOLDERS = """
SELECT DISTINCT leased_by FROM ocsp_requests WHERE leased_by IS NOT NULL AND leased_until > $1
UNION SELECT DISTINCT leased_by FROM ocsp_shards WHERE leased_by IS NOT NULL AND leased_until > $1
"""
_FREE_REQUESTS = "UPDATE ocsp_requests SET leased_until = '-infinity' WHERE leased_by = ANY($1)"
_FREE_SHARDS = "UPDATE ocsp_shards SET leased_until = '-infinity' WHERE leased_by = ANY($1)"
_INSERT_SHARDS = """
INSERT INTO ocsp_shards (issuer_id, first_serial, last_serial, due_at, signed_at)
SELECT $1, first_serial, last_serial, due_at, $5
FROM unnest($2::bytea[], $3::bytea[], $4::timestamptz[]) AS t (first_serial, last_serial, due_at)
ON CONFLICT (issuer_id, first_serial) DO NOTHING
"""
_CLAIM_SHARD = """
UPDATE ocsp_shards SET leased_by = $1, leased_until = $2
WHERE (issuer_id, first_serial) = (
    SELECT issuer_id, first_serial FROM ocsp_shards WHERE due_at <= $3 AND leased_until < $3
    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING issuer_id, first_serial, last_serial
"""
_EXTEND_SHARD = "UPDATE ocsp_shards SET leased_until = $3 WHERE issuer_id = $1 AND first_serial = $2 AND leased_by = $4"
_FINISH_SHARD = """
UPDATE ocsp_shards SET due_at = $3, signed_at = $4, leased_until = '-infinity'
WHERE issuer_id = $1 AND first_serial = $2 AND leased_by = $5
"""
_DROP_SHARD = "DELETE FROM ocsp_shards WHERE issuer_id = $1 AND first_serial = $2 AND leased_by = $3"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIssuer:
    """A row of `issuers`: `name` is the label of its key."""

    id: int
    name: str
    certificate: bytes


@dataclass(frozen=True, slots=True)
class ClaimedRequest:
    """A serial number that has no response for its present status; `request_id` is the order that waits."""

    serial: bytes
    version: int
    request_id: bytes


@dataclass(frozen=True, slots=True)
class StoredStatus:
    """The authority on one certificate."""

    serial: bytes
    issuer_id: int
    not_after: datetime
    revoked_at: datetime | None
    reason: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedShard:
    """A range of serial numbers whose responses are due."""

    issuer_id: int
    first: bytes
    last: bytes


async def issuers(pool: Pool) -> list[StoredIssuer]:
    """Every issuer."""
    return [StoredIssuer(id=row["id"], name=row["name"], certificate=row["certificate"])
            for row in await pool.fetch(_ISSUERS)]


async def claim(pool: Pool, *, worker: str, now: datetime, until: datetime, limit: int) -> list[ClaimedRequest]:
    """Takes requests, revoked ones first."""
    rows = await pool.fetch(_CLAIM, worker, until, now, limit)
    return [ClaimedRequest(row["serial"], row["version"], row["request_id"]) for row in rows]


async def statuses(pool: Pool, serials: Sequence[bytes]) -> list[StoredStatus]:
    """What each certificate's status is now."""
    return [_status(row) for row in await pool.fetch(_STATUSES, list(serials))]


async def statuses_of_range(
    pool: Pool, *, first: bytes, last: bytes, issuer_id: int, now: datetime, limit: int
) -> list[StoredStatus]:
    """The unexpired certificates of a range, in order."""
    rows = await pool.fetch(_STATUSES_OF_RANGE, first, last, issuer_id, now, limit)
    return [_status(row) for row in rows]


def _status(row: Record) -> StoredStatus:
    return StoredStatus(row["serial"], row["issuer_id"], row["not_after"], row["revoked_at"], row["reason"] or 0,
                        row["version"])


async def newer_versions(connection: Connection, serials: Sequence[bytes]) -> dict[bytes, int]:
    """Versions of the statuses of those that are revoked."""
    return {row["serial"]: row["version"] for row in await connection.fetch(_NEWER, list(serials))}


async def lock_log(connection: Connection) -> None:
    """Until the transaction ends nobody else takes an id of the batch log, so ids become visible in their order."""
    await connection.execute(_LOCK)


async def insert_batch(
    connection: Connection, *, issuer_id: int, produced_at: datetime, next_update: datetime, count: int, payload: bytes
) -> None:
    """Appends to the batch log; the caller holds its lock."""
    await connection.execute(_INSERT_BATCH, produced_at, issuer_id, count, next_update, payload)


async def finish_requests(connection: Connection, done: Sequence[ClaimedRequest]) -> None:
    """Ends requests whose responses are published in this transaction, and tells the orders that wait."""
    if done:
        await connection.execute(_DELETE_REQUESTS, [item.serial for item in done], [item.version for item in done])
        await connection.execute("SELECT pg_notify('changed', payload) FROM unnest($1::text[]) AS t (payload)",
                                 sorted({item.request_id.hex() for item in done}))


async def wake_responders(connection: Connection) -> None:
    """NOTIFY at the end of the transaction."""
    await connection.execute("SELECT pg_notify('ocsp_batch', '')")


async def lease_holders(pool: Pool, *, now: datetime) -> list[str]:
    """Who holds leases that have not run out."""
    return [row["leased_by"] for row in await pool.fetch(_LEASE_HOLDERS, now)]


async def free_leases(pool: Pool, workers: Sequence[str]) -> None:
    """Gives back what dead workers held."""
    await pool.execute(_FREE_REQUESTS, list(workers))
    await pool.execute(_FREE_SHARDS, list(workers))


async def insert_shards(
    connection: Connection,
    issuer_id: int,
    shards: Sequence[tuple[bytes, bytes, datetime]],
    *,
    signed_at: datetime,
) -> None:
    """Schedules (first, last, due) ranges; those that are there already stay as they are."""
    await connection.execute(_INSERT_SHARDS, issuer_id, [first for first, _, _ in shards],
                             [last for _, last, _ in shards], [due for _, _, due in shards], signed_at)


async def claim_shard(pool: Pool, *, worker: str, now: datetime, until: datetime) -> ClaimedShard | None:
    """The range that has been due the longest."""
    row = await pool.fetchrow(_CLAIM_SHARD, worker, until, now)
    return None if row is None else ClaimedShard(issuer_id=row["issuer_id"], first=row["first_serial"],
                                                 last=row["last_serial"])


async def extend_shard(pool: Pool, shard: ClaimedShard, *, worker: str, until: datetime) -> None:
    """Keeps the lease of a large range."""
    await pool.execute(_EXTEND_SHARD, shard.issuer_id, shard.first, until, worker)


async def finish_shard(
    pool: Pool, shard: ClaimedShard, *, worker: str, due_at: datetime, signed_at: datetime
) -> None:
    """The whole range has new responses."""
    await pool.execute(_FINISH_SHARD, shard.issuer_id, shard.first, due_at, signed_at, worker)


async def drop_shard(pool: Pool, shard: ClaimedShard, *, worker: str) -> None:
    """Every certificate of the range has expired."""
    await pool.execute(_DROP_SHARD, shard.issuer_id, shard.first, worker)
