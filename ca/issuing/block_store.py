"""What the role ca_issuer does about what is never certified, and about what operators did (see revoke.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from ca.issuing.revocation_store import IssuedCertificate
from ca.pki.revocation import Authority
from ca.process.postgres import Connection

# A proof by the key itself counts for more than an operator's word that was there before.
BLOCK: Final = """
INSERT INTO blocked_keys (spki_sha256, thumbprint, blocked_at, authority, evidence, sweep_at)
SELECT spki_sha256, thumbprint, $5, authority, evidence, $5
FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::jsonb[]) AS t (spki_sha256, thumbprint, authority, evidence)
ON CONFLICT (spki_sha256) DO UPDATE
SET authority = excluded.authority, evidence = excluded.evidence, sweep_at = excluded.sweep_at
WHERE blocked_keys.authority = 'operator' AND excluded.authority <> 'operator' RETURNING spki_sha256
"""
# A block that rests on a proof stays: the CA has been told that the key is lost (BR 6.1.1.3 (4)).
UNBLOCK: Final = """
DELETE FROM blocked_keys WHERE spki_sha256 = $1 AND authority = 'operator' AND NOT evidence ? 'proof'
RETURNING spki_sha256
"""
SWEEPS: Final = """
SELECT spki_sha256, authority, evidence FROM blocked_keys WHERE sweep_at <= $1 ORDER BY sweep_at LIMIT $2
"""
# Certificates with the keys that are not revoked for their loss yet.
WITH_KEYS: Final = """
SELECT c.serial, c.issuer_id, c.request_id, c.spki_sha256, c.has_ocsp
FROM certificates c LEFT JOIN revocations r ON r.serial = c.serial
WHERE c.spki_sha256 = ANY($1) AND c.not_after >= $2 AND r.reason IS DISTINCT FROM 1 LIMIT $3
"""
SWEPT: Final = """
UPDATE blocked_keys SET sweep_at = CASE WHEN blocked_at + $2 > $3 THEN blocked_at + $2 END WHERE spki_sha256 = ANY($1)
"""
CLOSE_ACCOUNTS: Final = "SELECT id FROM close_accounts_with_blocked_keys() AS t (id)"
TBS_WITH_KEYS: Final = """
SELECT DISTINCT ON (spki_sha256) spki_sha256, tbs FROM certificates WHERE spki_sha256 = ANY($1)
"""
EXPOSED: Final = "SELECT spki_sha256, proof FROM exposed_keys ORDER BY shown_at LIMIT $1"
END_EXPOSED: Final = "DELETE FROM exposed_keys WHERE spki_sha256 = ANY($1)"
OPEN_ACTS: Final = """
SELECT id, acted_at, operator, act, subject, detail FROM operator_acts WHERE recorded_at IS NULL ORDER BY id LIMIT $1
"""
RECORD_ACTS: Final = "UPDATE operator_acts SET recorded_at = $2 WHERE id = ANY($1)"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedKey:
    """A key that is never certified, and who showed that it must not be."""

    spki_sha256: bytes
    thumbprint: bytes | None        # RFC 7638, when the key itself is known
    authority: Authority
    evidence: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A blocked key whose certificates are being revoked."""

    spki_sha256: bytes
    authority: Authority
    evidence: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorAct:
    """What an operator did, or asks of the CA."""

    id: bytes
    acted_at: datetime
    operator: str
    act: str
    subject: str
    detail: dict[str, Any]


async def block(connection: Connection, keys: Sequence[BlockedKey], *, now: datetime) -> set[bytes]:
    """Blocks keys; the SPKI hashes of those that were not blocked before, or with less right."""
    rows = await connection.fetch(BLOCK, [key.spki_sha256 for key in keys], [key.thumbprint for key in keys],
                                  [key.authority for key in keys], [key.evidence for key in keys], now)
    return {row["spki_sha256"] for row in rows}


async def unblock(connection: Connection, spki_sha256: bytes) -> bool:
    """Takes a block back that rests on nothing but an operator's word; False when there is none."""
    return await connection.fetchval(UNBLOCK, spki_sha256) is not None


async def sweeps(connection: Connection, limit: int, *, now: datetime) -> list[Sweep]:
    """Blocked keys whose certificates are to be looked for now."""
    return [Sweep(spki_sha256=row["spki_sha256"], authority=cast("Authority", row["authority"]),
                  evidence=row["evidence"]) for row in await connection.fetch(SWEEPS, now, limit)]


async def with_keys(
    connection: Connection, spki_hashes: Sequence[bytes], limit: int, *, now: datetime
) -> list[IssuedCertificate]:
    """Unexpired certificates with the keys that are not revoked for keyCompromise."""
    return [IssuedCertificate(**dict(row))
            for row in await connection.fetch(WITH_KEYS, list(spki_hashes), now, limit)]


async def swept(connection: Connection, spki_hashes: Sequence[bytes], *, again: timedelta, now: datetime) -> None:
    """The keys' certificates are revoked; they are looked for once more, `again` after the block."""
    await connection.execute(SWEPT, list(spki_hashes), again, now)


async def close_accounts(connection: Connection) -> list[bytes]:
    """Closes the accounts whose key has been blocked of late; their ids."""
    return [row["id"] for row in await connection.fetch(CLOSE_ACCOUNTS)]


async def tbs_with_keys(connection: Connection, spki_hashes: Sequence[bytes]) -> dict[bytes, bytes]:
    """A TBSCertificate for each of the keys that we have certified, by SPKI hash."""
    return {row["spki_sha256"]: row["tbs"] for row in await connection.fetch(TBS_WITH_KEYS, list(spki_hashes))}


async def exposed(connection: Connection, limit: int) -> dict[bytes, bytes]:
    """Proofs that keys are lost, by SPKI hash, as the front end says; the oldest first."""
    return {row["spki_sha256"]: row["proof"] for row in await connection.fetch(EXPOSED, limit)}


async def end_exposed(connection: Connection, spki_hashes: Sequence[bytes]) -> None:
    """These are dealt with."""
    await connection.execute(END_EXPOSED, list(spki_hashes))


async def open_acts(connection: Connection, limit: int) -> list[OperatorAct]:
    """Acts that are not in the audit log yet, in their order."""
    return [OperatorAct(**dict(row)) for row in await connection.fetch(OPEN_ACTS, limit)]


async def record_acts(connection: Connection, ids: Sequence[bytes], *, now: datetime) -> None:
    """Says that acts are in the audit log, and carried out."""
    await connection.execute(RECORD_ACTS, list(ids), now)
