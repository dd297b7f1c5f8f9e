"""All that the database role `ocsp_reader` does: read issuers and the batch log."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca.process.postgres import Pool

_ISSUERS: Final = "SELECT id, certificate FROM issuers ORDER BY id"
_RESPONDERS: Final = "SELECT id, certificate FROM ocsp_responders WHERE certificate IS NOT NULL ORDER BY id"
# The primary key is (id, produced_at): each partition's index gives its next rows in order. Payloads are out of line,
# so counting ahead does not read them. Batches hold one response or thousands: both are bounded in what is taken.
_BATCHES: Final = """
SELECT b.id, b.produced_at, b.issuer_id, b.payload, n.found
FROM (SELECT id, produced_at, sum(count) OVER (ORDER BY id) - count AS before, count(*) OVER () AS found
      FROM (SELECT id, produced_at, count FROM ocsp_batches WHERE id > $1 AND next_update > $2 ORDER BY id LIMIT $3
           ) AS following) AS n
JOIN ocsp_batches b ON b.id = n.id AND b.produced_at = n.produced_at
WHERE n.before < $4 ORDER BY b.id
"""
# Whether a standby has everything that it was sent is known only while it is connected to its primary.
_REPLICATION: Final = """
SELECT pg_is_in_recovery() AS is_standby, EXISTS (SELECT FROM pg_stat_wal_receiver) AS streams,
    pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AS is_replayed,
    pg_last_xact_replay_timestamp() AS replayed_at
"""
_BATCH_TIME: Final = "SELECT produced_at FROM ocsp_batches WHERE id = $1"
_LAST_ID: Final = "SELECT max(id) FROM ocsp_batches"


_BATCHES_AT_ONCE: Final = 512
# More would not be faster, and what is held of them in between is most of a worker's memory.
_RESPONSES_AT_ONCE: Final = 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIssuer:
    """A row of `issuers`."""

    id: int
    certificate: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A row of the batch log."""

    id: int
    produced_at: datetime
    issuer_id: int
    payload: bytes


async def issuers(pool: Pool) -> list[StoredIssuer]:
    """Every issuer."""
    return [StoredIssuer(id=row["id"], certificate=row["certificate"]) for row in await pool.fetch(_ISSUERS)]


async def responders(pool: Pool) -> list[tuple[int, bytes]]:
    """(id, certificate) of every delegated responder."""
    return [(row["id"], row["certificate"]) for row in await pool.fetch(_RESPONDERS)]


async def batches_after(pool: Pool, last_id: int, *, now: datetime) -> tuple[list[StoredBatch], bool]:
    """The next batches of the log that still hold an unexpired response, in order, and whether those are the last."""
    rows = await pool.fetch(_BATCHES, last_id, now, _BATCHES_AT_ONCE, _RESPONSES_AT_ONCE)
    found = [StoredBatch(id=row["id"], produced_at=row["produced_at"], issuer_id=row["issuer_id"],
                         payload=row["payload"]) for row in rows]
    return found, not rows or len(rows) == rows[0]["found"] < _BATCHES_AT_ONCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """Of the server that is read: whether it is a standby, and until when it has what its primary has. None: it is cut
    off, so nobody knows; `now` when nothing is missing."""

    is_standby: bool
    as_of: datetime | None


async def replication(pool: Pool, *, now: datetime) -> Replication:
    """The state of the server."""
    row = await pool.fetchrow(_REPLICATION)
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    if not row["is_standby"]:
        return Replication(is_standby=False, as_of=now)
    if not row["streams"]:
        return Replication(is_standby=True, as_of=None)
    return Replication(is_standby=True, as_of=now if row["is_replayed"] else row["replayed_at"])


async def batch_time(pool: Pool, batch_id: int) -> datetime | None:
    """When a batch was made; None when the log does not hold it (any more)."""
    found: datetime | None = await pool.fetchval(_BATCH_TIME, batch_id)
    return found


async def last_batch_id(pool: Pool) -> int:
    """The end of the log, 0 when it is empty."""
    return await pool.fetchval(_LAST_ID) or 0
