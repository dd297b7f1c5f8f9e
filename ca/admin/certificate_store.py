"""What the role ca_admin reads of certificates, and its request to revoke one.

Nothing here changes a certificate: the role may not.
"""

from collections.abc import Sequence
from datetime import datetime

from ca.admin.records import Certificate, Revocation
from ca.process.postgres import Connection, Record

CERTIFICATES = """
SELECT c.serial, c.request_id, c.account_id, c.issuer_id, i.name AS issuer_name, i.crl_shards, c.profile, c.not_before,
    c.not_after, c.spki_sha256, coalesce(f.tbs, c.tbs) AS tbs, c.has_ocsp, c.created_at, s.signed_at, s.signature,
    r.revoked_at, r.reason, r.version, r.authority, r.evidence
FROM certificates c
JOIN issuers i ON i.id = c.issuer_id
LEFT JOIN final_certificates f ON f.serial = c.serial
LEFT JOIN certificate_signatures s ON s.serial = c.serial
LEFT JOIN revocations r ON r.serial = c.serial
WHERE c.serial = ANY($1::bytea[])
ORDER BY c.created_at DESC, c.serial
"""
# A name itself, and every name under it: 'moc.elpmaxe', and from 'moc.elpmaxe.' up to 'moc.elpmaxe/'.
SERIALS_BY_NAME = """
SELECT DISTINCT serial FROM certificate_names
WHERE reversed_name = $1 OR (reversed_name >= $2 AND reversed_name < $3)
ORDER BY serial DESC LIMIT $4
"""
SERIALS_BY_ACCOUNT = "SELECT serial FROM certificates WHERE account_id = $1 ORDER BY serial DESC LIMIT $2"
SERIALS_BY_KEY = "SELECT serial FROM certificates WHERE spki_sha256 = $1 ORDER BY serial DESC LIMIT $2"
SERIALS_BY_RANGE = "SELECT serial FROM certificates WHERE serial BETWEEN $1 AND $2 ORDER BY serial DESC LIMIT $3"
OCSP_WAITS_SINCE = "SELECT min(requested_at) FROM ocsp_requests WHERE serial = $1"
REVOCATION_WAITS_SINCE = "SELECT min(requested_at) FROM revocation_requests WHERE serial = $1"
REQUEST_REVOCATION = """
INSERT INTO revocation_requests (id, serial, reason, authority, evidence, requested_at)
VALUES ($1, $2, $3, 'operator', $4, $5)
"""
NOTIFY_CA = "SELECT pg_notify('revocation', '')"
REVOCATION_PROGRESS = """
SELECT EXISTS (SELECT FROM revocation_requests WHERE id = $1) AS is_queued,
    (SELECT reason FROM revocations WHERE serial = $2) AS reason,
    EXISTS (SELECT FROM ocsp_requests WHERE serial = $2) AS ocsp_waits
"""


async def certificates(connection: Connection, serials: Sequence[bytes]) -> list[Certificate]:
    """The certificates with these serial numbers, newest first."""
    return [_certificate(row) for row in await connection.fetch(CERTIFICATES, serials)]


def _certificate(row: Record) -> Certificate:
    revocation = None
    if row["revoked_at"] is not None:
        revocation = Revocation(revoked_at=row["revoked_at"], reason=row["reason"], version=row["version"],
                                authority=row["authority"], evidence=row["evidence"])
    columns = ("serial", "request_id", "account_id", "issuer_id", "issuer_name", "crl_shards", "profile", "not_before",
               "not_after", "spki_sha256", "tbs", "has_ocsp", "created_at", "signed_at", "signature")
    return Certificate(revocation=revocation, **{name: row[name] for name in columns})


async def serials_by_name(connection: Connection, *, name: str, limit: int) -> list[bytes]:
    """Serial numbers of certificates for a name or any name under it, newest first."""
    reverse = name[::-1]
    rows = await connection.fetch(SERIALS_BY_NAME, reverse, reverse + ".", reverse + "/", limit)
    return [row["serial"] for row in rows]


async def serials_by_account(connection: Connection, *, account_id: bytes, limit: int) -> list[bytes]:
    """Serial numbers of an account's certificates, newest first."""
    return [row["serial"] for row in await connection.fetch(SERIALS_BY_ACCOUNT, account_id, limit)]


async def serials_by_key(connection: Connection, *, spki_sha256: bytes, limit: int) -> list[bytes]:
    """Serial numbers of certificates with a public key, newest first."""
    return [row["serial"] for row in await connection.fetch(SERIALS_BY_KEY, spki_sha256, limit)]


async def serials_between(connection: Connection, *, first: bytes, last: bytes, limit: int) -> list[bytes]:
    """Serial numbers that were given to certificates, of an inclusive range."""
    return [row["serial"] for row in await connection.fetch(SERIALS_BY_RANGE, first, last, limit)]


async def ocsp_waits_since(connection: Connection, serial: bytes) -> datetime | None:
    """Since when the responders wait for a response about this serial number; None when they have it."""
    since: datetime | None = await connection.fetchval(OCSP_WAITS_SINCE, serial)
    return since


async def revocation_waits_since(connection: Connection, serial: bytes) -> datetime | None:
    """Since when a request to revoke this certificate waits for the CA."""
    since: datetime | None = await connection.fetchval(REVOCATION_WAITS_SINCE, serial)
    return since


async def request_revocation(
    connection: Connection, *, request_id: bytes, serial: bytes, reason: int, evidence: object, now: datetime
) -> None:
    """Puts an operator's request into the CA's queue and wakes the CA."""
    async with connection.transaction():
        await connection.execute(REQUEST_REVOCATION, request_id, serial, reason, evidence, now)
        await connection.execute(NOTIFY_CA)


async def revocation_progress(
    connection: Connection, request_id: bytes, serial: bytes
) -> tuple[bool, int | None, bool]:
    """Whether the request still waits, the reason that is in force, and whether OCSP still waits for its response."""
    row = await connection.fetchrow(REVOCATION_PROGRESS, request_id, serial)
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return row["is_queued"], row["reason"], row["ocsp_waits"]
