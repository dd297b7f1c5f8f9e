"""All that the database role `ocsp_reader` does: read issuers and the batch log."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca.process.postgres import Pool

_ISSUERS: Final = "SELECT id, certificate FROM issuers ORDER BY id"
# The primary key is (id, produced_at): each partition's index gives its next rows in order.
_BATCHES: Final = """
SELECT id, produced_at, issuer_id, payload FROM ocsp_batches
WHERE id > $1 AND next_update > $2 ORDER BY id LIMIT $3
"""
_BATCH_TIME: Final = "SELECT produced_at FROM ocsp_batches WHERE id = $1"
_LAST_ID: Final = "SELECT max(id) FROM ocsp_batches"


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


async def batches_after(pool: Pool, last_id: int, *, now: datetime, limit: int) -> list[StoredBatch]:
    """The next batches of the log that still hold an unexpired response, in order."""
    rows = await pool.fetch(_BATCHES, last_id, now, limit)
    return [StoredBatch(id=row["id"], produced_at=row["produced_at"], issuer_id=row["issuer_id"],
                        payload=row["payload"]) for row in rows]


async def batch_time(pool: Pool, batch_id: int) -> datetime | None:
    """When a batch was made; None when the log does not hold it (any more)."""
    found: datetime | None = await pool.fetchval(_BATCH_TIME, batch_id)
    return found


async def last_batch_id(pool: Pool) -> int:
    """The end of the log, 0 when it is empty."""
    return await pool.fetchval(_LAST_ID) or 0
