"""The other half of the role ca_issuer: carry out revocations, read what a CRL lists, store CRLs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from ca.pki.crl import CrlEntry
from ca.pki.revocation import Authority, Revocation
from ca.process.postgres import Connection, Pool

# One process at a time carries out revocations, so that what it reads stays true until its commit.
LOCK_REVOCATIONS: Final = "SELECT pg_try_advisory_xact_lock(hashtext('chancery revocations'))"
ANY_WORK: Final = """
SELECT EXISTS (SELECT FROM revocation_requests) OR EXISTS (SELECT FROM operator_acts WHERE recorded_at IS NULL)
    OR EXISTS (SELECT FROM exposed_keys) OR EXISTS (SELECT FROM blocked_keys WHERE sweep_at <= $1)
    OR EXISTS (SELECT FROM mass_revocations WHERE finished_at IS NULL AND NOT halted AND (
        worked_at IS NULL OR worked_at <= $2
        OR (SELECT count(*) < $3 FROM (SELECT FROM ocsp_requests WHERE version > 0 LIMIT $3))))
"""
# The oldest mass revocation that may go on: the pre-signer has not much to do, or a while has passed all the same.
MASS: Final = """
SELECT incident, reason, through FROM mass_revocations WHERE finished_at IS NULL AND NOT halted AND (worked_at IS NULL
    OR worked_at <= $1 OR (SELECT count(*) < $2 FROM (SELECT FROM ocsp_requests WHERE version > 0 LIMIT $2)))
ORDER BY requested_at LIMIT 1
"""
# Two statements: joined, the planner would read all certificates of the month for each batch.
MASS_SERIALS: Final = """
SELECT serial FROM incident_serials WHERE incident = $1 AND serial > $2 ORDER BY serial LIMIT $3
"""
LIVING: Final = """
SELECT serial, issuer_id, request_id, spki_sha256, has_ocsp FROM certificates
WHERE serial = ANY($1) AND serial >= $2 AND serial <= $3 AND not_after >= $4 ORDER BY serial
"""
MASS_IS_OPEN: Final = "SELECT EXISTS (SELECT FROM mass_revocations WHERE finished_at IS NULL AND NOT halted)"
ADVANCE_MASS: Final = """
UPDATE mass_revocations SET through = $2, examined = examined + $3, changed = changed + $4, worked_at = $5,
    finished_at = $6
WHERE incident = $1
"""
REQUESTS: Final = """
SELECT id, serial, reason, authority, evidence FROM revocation_requests ORDER BY requested_at, id LIMIT $1
"""
CERTIFICATES: Final = """
SELECT serial, issuer_id, request_id, spki_sha256, has_ocsp FROM certificates WHERE serial = ANY($1)
"""
REVOCATIONS: Final = "SELECT serial, revoked_at, reason, version FROM revocations WHERE serial = ANY($1)"
# A revocation is never undone, and its time never moves; its reason may become keyCompromise.
REVOKE: Final = """
INSERT INTO revocations (serial, revoked_at, reason, version, authority, evidence)
SELECT * FROM unnest($1::bytea[], $2::timestamptz[], $3::smallint[], $4::smallint[], $5::text[], $6::jsonb[])
ON CONFLICT (serial) DO UPDATE SET reason = excluded.reason, version = excluded.version, evidence = excluded.evidence
WHERE revocations.version < excluded.version
"""
ASK_FOR_OCSP: Final = """
INSERT INTO ocsp_requests (serial, version, issuer_id, request_id, requested_at)
SELECT serial, version, issuer_id, request_id, $5
FROM unnest($1::bytea[], $2::smallint[], $3::smallint[], $4::bytea[]) AS t (serial, version, issuer_id, request_id)
ON CONFLICT (serial, version) DO NOTHING
"""
END_REQUESTS: Final = "DELETE FROM revocation_requests WHERE id = ANY($1)"
# One step down the primary key for each shard, however many old CRLs the table keeps.
LATEST_CRLS: Final = """
SELECT wanted.issuer_id, wanted.shard, latest.number, latest.this_update
FROM unnest($1::smallint[], $2::smallint[]) AS wanted (issuer_id, shard)
CROSS JOIN LATERAL (
    SELECT number, this_update FROM crls WHERE crls.issuer_id = wanted.issuer_id AND crls.shard = wanted.shard
    ORDER BY number DESC LIMIT 1
) AS latest
"""
LATEST_CRL: Final = """
SELECT number, this_update, der FROM crls WHERE issuer_id = $1 AND shard = $2 ORDER BY number DESC LIMIT 1
"""
# The last byte of a serial number says the shard, whatever number of shards the issuer has.
REVOKED_SINCE: Final = """
SELECT c.issuer_id, get_byte(r.serial, 17) AS last_byte, count(*) AS revoked
FROM revocations r JOIN certificates c ON c.serial = r.serial
WHERE r.revoked_at >= $1 GROUP BY 1, 2
"""
LOCK_SHARD: Final = "SELECT pg_try_advisory_xact_lock(hashtext('chancery crl'), $1)"
ENTRIES: Final = """
SELECT r.serial, r.revoked_at, r.reason FROM revocations r JOIN certificates c ON c.serial = r.serial
WHERE get_byte(r.serial, 17) = ANY($2::integer[]) AND c.issuer_id = $1 AND c.not_after >= $3
"""
EXPIRED_AMONG: Final = "SELECT serial FROM certificates WHERE serial = ANY($1) AND not_after < $2"
INSERT_CRL: Final = """
INSERT INTO crls (issuer_id, shard, number, this_update, next_update, entries, der) VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_SERIAL_VALUES: Final = 256
# So many changed statuses may wait to be signed before a mass revocation goes on, so that one subscriber's revocation
# does not wait behind thousands. It never stands still for longer than the pause, though: CRLs need no pre-signer.
MASS_BACKLOG: Final = 4_000
MASS_PAUSE: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRequest:
    """What somebody with the right to it asks for."""

    id: bytes
    serial: bytes
    reason: int
    authority: Authority
    evidence: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A serial number that was given out, signed or only intended."""

    serial: bytes
    issuer_id: int
    request_id: bytes
    spki_sha256: bytes
    has_ocsp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRevocation:
    """A revocation with what it is stored with."""

    revocation: Revocation
    authority: Authority
    evidence: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class MassRevocation:
    """An order to revoke an incident's certificates; `through`: up to this serial number it has been carried out."""

    incident: str
    reason: int
    through: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestCrl:
    """The newest CRL of a shard."""

    number: int
    this_update: datetime
    der: bytes


async def lock_revocations(connection: Connection) -> bool:
    """Whether this transaction alone carries out revocations now."""
    return bool(await connection.fetchval(LOCK_REVOCATIONS))


async def is_asked(pool: Pool, *, now: datetime) -> bool:
    """Whether there is anything to do at all: a look that costs next to nothing."""
    return bool(await pool.fetchval(ANY_WORK, now, now - MASS_PAUSE, MASS_BACKLOG))


async def mass_is_open(pool: Pool) -> bool:
    """Whether a mass revocation goes on, be it that it waits for the pre-signer at the moment."""
    return bool(await pool.fetchval(MASS_IS_OPEN))


async def mass_revocation(connection: Connection, *, now: datetime) -> MassRevocation | None:
    """The mass revocation that goes on now."""
    row = await connection.fetchrow(MASS, now - MASS_PAUSE, MASS_BACKLOG)
    return None if row is None else MassRevocation(**dict(row))


async def mass_certificates(
    connection: Connection, mass: MassRevocation, limit: int, *, now: datetime
) -> tuple[list[bytes], list[IssuedCertificate]]:
    """The next serial numbers of a mass revocation in their order, and those of unexpired certificates among them."""
    serials = [row["serial"] for row in await connection.fetch(MASS_SERIALS, mass.incident, mass.through, limit)]
    if not serials:
        return [], []
    return serials, [IssuedCertificate(**dict(row))
                     for row in await connection.fetch(LIVING, serials, serials[0], serials[-1], now)]


async def advance_mass(
    connection: Connection, mass: MassRevocation, *, through: bytes, examined: int, changed: int, now: datetime,
    finished: bool,
) -> None:
    """Says how far a mass revocation has come."""
    await connection.execute(ADVANCE_MASS, mass.incident, through, examined, changed, now, now if finished else None)


async def requests(connection: Connection, limit: int) -> list[RevocationRequest]:
    """The oldest requests of the queue."""
    return [RevocationRequest(id=row["id"], serial=row["serial"], reason=row["reason"],
                              authority=cast("Authority", row["authority"]), evidence=row["evidence"])
            for row in await connection.fetch(REQUESTS, limit)]


async def certificates(connection: Connection, serials: Sequence[bytes]) -> dict[bytes, IssuedCertificate]:
    """Those of the serial numbers that were ever given out."""
    return {row["serial"]: IssuedCertificate(**dict(row))
            for row in await connection.fetch(CERTIFICATES, list(serials))}


async def revocations(connection: Connection, serials: Sequence[bytes]) -> dict[bytes, Revocation]:
    """What is known of these serial numbers."""
    return {row["serial"]: Revocation(**dict(row)) for row in await connection.fetch(REVOCATIONS, list(serials))}


async def revoke(connection: Connection, changes: Sequence[StoredRevocation]) -> None:
    """Stores revocations and upgrades, one for each serial number."""
    await connection.execute(
        REVOKE, [change.revocation.serial for change in changes], [change.revocation.revoked_at for change in changes],
        [change.revocation.reason for change in changes], [change.revocation.version for change in changes],
        [change.authority for change in changes], [change.evidence for change in changes])


async def ask_for_ocsp(
    connection: Connection, wanted: Sequence[tuple[IssuedCertificate, int]], *, now: datetime
) -> None:
    """Queues a new OCSP response for each (certificate, version of its revocation) that has OCSP."""
    asked = [(certificate, version) for certificate, version in wanted if certificate.has_ocsp]
    await connection.execute(
        ASK_FOR_OCSP, [certificate.serial for certificate, _ in asked], [version for _, version in asked],
        [certificate.issuer_id for certificate, _ in asked], [certificate.request_id for certificate, _ in asked], now)


async def end_requests(connection: Connection, ids: Sequence[bytes]) -> None:
    """Takes requests off the queue."""
    await connection.execute(END_REQUESTS, list(ids))


async def latest_crls(pool: Pool, shards: Sequence[tuple[int, int]]) -> dict[tuple[int, int], datetime]:
    """When the newest CRL of each (issuer id, shard) was made; those without one are missing."""
    rows = await pool.fetch(LATEST_CRLS, [issuer_id for issuer_id, _ in shards], [shard for _, shard in shards])
    return {(row["issuer_id"], row["shard"]): row["this_update"] for row in rows}


async def revoked_since(pool: Pool, since: datetime) -> list[tuple[int, int, int]]:
    """(issuer id, last byte of the serial number, how many) of the revocations since a moment."""
    return [(row["issuer_id"], row["last_byte"], row["revoked"]) for row in await pool.fetch(REVOKED_SINCE, since)]


async def lock_shard(connection: Connection, issuer_id: int, shard: int) -> bool:
    """Whether this transaction alone makes the shard's next CRL."""
    return bool(await connection.fetchval(LOCK_SHARD, issuer_id * _SERIAL_VALUES + shard))


async def latest_crl(connection: Connection, issuer_id: int, shard: int) -> LatestCrl | None:
    """The newest CRL of one shard."""
    row = await connection.fetchrow(LATEST_CRL, issuer_id, shard)
    return None if row is None else LatestCrl(number=int(row["number"]), this_update=row["this_update"], der=row["der"])


async def crl_entries(
    connection: Connection, *, issuer_id: int, shard: int, shards: int, not_expired_at: datetime
) -> list[CrlEntry]:
    """The revoked certificates of a shard that had not expired at a moment. `shards` divides 256."""
    last_bytes = list(range(shard, _SERIAL_VALUES, shards))
    return [CrlEntry(serial=row["serial"], revoked_at=row["revoked_at"], reason=row["reason"])
            for row in await connection.fetch(ENTRIES, issuer_id, last_bytes, not_expired_at)]


async def expired_among(connection: Connection, serials: Sequence[bytes], moment: datetime) -> set[bytes]:
    """Those of the serial numbers whose certificates had expired at a moment."""
    return {row["serial"] for row in await connection.fetch(EXPIRED_AMONG, list(serials), moment)}


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
    """Stores a signed CRL."""
    await connection.execute(INSERT_CRL, issuer_id, shard, number, this_update, next_update, entries, der)
