"""All that the database role `ocsp_reader` does: read issuers and the batch log."""

from dataclasses import dataclass
from datetime import datetime

from ca.process.postgres import Pool

_ISSUERS = "SELECT id, name, certificate FROM issuers ORDER BY id"
_BATCHES = """
SELECT id, issuer_id, count, payload FROM ocsp_batches
WHERE id > $1 AND next_update > $2 ORDER BY id LIMIT $3
"""
_NEWEST = "SELECT coalesce(max(id), 0) FROM ocsp_batches"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIssuer:
    """A row of `issuers`."""

    id: int
    name: str
    certificate: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A row of the batch log."""

    id: int
    issuer_id: int
    count: int
    payload: bytes


async def issuers(pool: Pool) -> list[StoredIssuer]:
    """Every issuer."""
    return [StoredIssuer(id=row["id"], name=row["name"], certificate=row["certificate"])
            for row in await pool.fetch(_ISSUERS)]


async def batches_after(pool: Pool, last_id: int, *, now: datetime, limit: int) -> list[StoredBatch]:
    """The next batches of the log that still hold an unexpired response, in order."""
    rows = await pool.fetch(_BATCHES, last_id, now, limit)
    return [StoredBatch(id=row["id"], issuer_id=row["issuer_id"], count=row["count"], payload=row["payload"])
            for row in rows]


async def newest_batch_id(pool: Pool) -> int:
    """The end of the log, 0 when it is empty."""
    return int(await pool.fetchval(_NEWEST))
