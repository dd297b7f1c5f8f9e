"""The other half of `ca_issuer`: carry out revocations, read what a CRL lists, store CRLs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from ca.issuing.store import ask_for_ocsp
from ca.process.postgres import Connection, Pool, Record

_Executor: TypeAlias = Connection | Pool

# Deleting is claiming: a second worker waits for the first one's commit and then finds the row gone.
_TAKE = """
DELETE FROM revocation_requests
WHERE id IN (SELECT id FROM revocation_requests ORDER BY requested_at LIMIT $1)
RETURNING id, serial, reason, authority, evidence
"""
# A revocation is never undone, and its time never moves; its reason may become keyCompromise later (spec 7).
_REVOKE = """
INSERT INTO revocations (serial, revoked_at, reason, version, authority, evidence) VALUES ($1, $2, $3, 1, $4, $5)
ON CONFLICT (serial) DO UPDATE SET reason = excluded.reason, version = 2, evidence = excluded.evidence
WHERE revocations.reason <> 1 AND excluded.reason = 1
RETURNING version
"""
_CERTIFICATES = "SELECT serial, issuer_id, request_id FROM certificates WHERE serial = ANY($1)"
_LATEST_CRLS = """
SELECT DISTINCT ON (issuer_id, shard) issuer_id, shard, number, this_update, next_update, entries
FROM crls ORDER BY issuer_id, shard, number DESC
"""
_REVOKED_SINCE = """
SELECT c.issuer_id, get_byte(r.serial, 17) AS last_byte, max(r.revoked_at) AS revoked_at
FROM revocations r JOIN certificates c ON c.serial = r.serial WHERE r.revoked_at >= $1 GROUP BY 1, 2
"""
_LOCK_SHARD = "SELECT pg_try_advisory_xact_lock(hashtext('chancery crl'), $1)"
_LATEST_OF_SHARD = """
SELECT number, this_update, entries FROM crls WHERE issuer_id = $1 AND shard = $2 ORDER BY number DESC LIMIT 1
"""
_ENTRIES = """
SELECT r.serial, r.revoked_at, r.reason FROM revocations r JOIN certificates c ON c.serial = r.serial
WHERE c.issuer_id = $1 AND get_byte(r.serial, 17) % $2 = $3 AND c.not_after >= $4 ORDER BY r.serial
"""
_INSERT_CRL = """
INSERT INTO crls (issuer_id, shard, number, this_update, next_update, entries, der) VALUES ($1, $2, $3, $4, $5, $6, $7)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRequest:
    """What somebody with the right to it asks for."""

    id: bytes
    serial: bytes
    reason: int
    authority: str
    evidence: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedEntry:
    """A line of a CRL."""

    serial: bytes
    revoked_at: datetime
    reason: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestCrl:
    """The newest CRL of a shard, without its bytes."""

    number: int
    this_update: datetime
    entries: int


async def take_requests(connection: Connection, limit: int) -> list[RevocationRequest]:
    """Takes the oldest requests out of the queue, in the caller's transaction, which also carries them out."""
    return [RevocationRequest(id=row["id"], serial=row["serial"], reason=row["reason"], authority=row["authority"],
                              evidence=row["evidence"]) for row in await connection.fetch(_TAKE, limit)]


async def certificates(connection: Connection, serials: Sequence[bytes]) -> dict[bytes, tuple[int, bytes]]:
    """(issuer id, request id) of each serial number that was ever given out, signed or only intended."""
    return {row["serial"]: (row["issuer_id"], row["request_id"])
            for row in await connection.fetch(_CERTIFICATES, list(serials))}


async def revoke(connection: Connection, request: RevocationRequest, *, now: datetime) -> int | None:
    """Stores a revocation; its version (1, or 2 when a reason became keyCompromise), None when nothing changed."""
    version: int | None = await connection.fetchval(_REVOKE, request.serial, now, request.reason, request.authority,
                                                    request.evidence)
    return version


async def announce(
    connection: Connection,
    request_ids: Sequence[bytes],
    ocsp: Sequence[tuple[bytes, int, int, bytes]],
    *,
    now: datetime,
) -> None:
    """Queues the new OCSP responses and tells who asked, in the caller's transaction."""
    if ocsp:
        await ask_for_ocsp(connection, ocsp, now=now)
    for request_id in request_ids:
        await connection.execute("SELECT pg_notify('changed', $1)", request_id.hex())


async def latest_crls(pool: _Executor) -> dict[tuple[int, int], LatestCrl]:
    """The newest CRL of each (issuer id, shard)."""
    return {(row["issuer_id"], row["shard"]): _latest(row) for row in await pool.fetch(_LATEST_CRLS)}


async def revoked_since(pool: _Executor, since: datetime) -> list[tuple[int, int, datetime]]:
    """(issuer id, last byte of the serial number, latest revocation) since a moment."""
    return [(row["issuer_id"], row["last_byte"], row["revoked_at"]) for row in await pool.fetch(_REVOKED_SINCE, since)]


async def lock_shard(connection: Connection, issuer_id: int, shard: int) -> bool:
    """Whether this transaction alone may make the shard's next CRL."""
    return bool(await connection.fetchval(_LOCK_SHARD, issuer_id * 256 + shard))


async def latest_of_shard(connection: Connection, issuer_id: int, shard: int) -> LatestCrl | None:
    """The newest CRL of one shard."""
    row = await connection.fetchrow(_LATEST_OF_SHARD, issuer_id, shard)
    return None if row is None else _latest(row)


async def crl_entries(
    connection: Connection, *, issuer_id: int, shard: int, shards: int, expired_after: datetime
) -> list[RevokedEntry]:
    """What a CRL lists, by serial number: revoked, and not expired when the last CRL before it was made."""
    rows = await connection.fetch(_ENTRIES, issuer_id, shards, shard, expired_after)
    return [RevokedEntry(serial=row["serial"], revoked_at=row["revoked_at"], reason=row["reason"]) for row in rows]


async def insert_crl(
    connection: Connection,
    *,
    issuer_id: int,
    shard: int,
    number: int,
    this_update: datetime,
    next_update: datetime,
    entries: int,
    der: bytes,
) -> None:
    """Stores a signed CRL and wakes the servers; part of the caller's transaction."""
    await connection.execute(_INSERT_CRL, issuer_id, shard, number, this_update, next_update, entries, der)
    await connection.execute("SELECT pg_notify('crl', '')")


def _latest(row: Record) -> LatestCrl:
    return LatestCrl(number=int(row["number"]), this_update=row["this_update"], entries=row["entries"])
