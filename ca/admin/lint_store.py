"""What the role ca_admin does to look at stored certificates with linters again, and to keep what they find."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca.process.postgres import Connection

_WANTED: Final = """
FROM certificates c
LEFT JOIN final_certificates f ON f.serial = c.serial
LEFT JOIN certificate_signatures s ON s.serial = c.serial
LEFT JOIN precertificate_signatures p ON p.serial = c.serial
WHERE c.serial > $1 AND c.not_after >= $2
    AND ($3::text IS NULL OR c.issuer_id = (SELECT id FROM issuers WHERE name = $3))
    AND ($4::text IS NULL OR c.profile = $4)
    AND ($5::timestamptz IS NULL OR c.created_at >= $5) AND ($6::timestamptz IS NULL OR c.created_at < $6)
    AND (s.signature IS NOT NULL OR p.signature IS NOT NULL)
"""
COUNT_WANTED: Final = "SELECT count(*)" + _WANTED
# A precertificate stands for a certificate that was never finished (RFC 6962 3.1: a promise to issue it).
NEXT_CERTIFICATES: Final = f"""
SELECT c.serial, c.issuer_id, c.profile, coalesce(f.tbs, c.tbs) AS tbs,
    CASE WHEN s.signature IS NULL THEN p.signature ELSE s.signature END AS signature
{_WANTED} ORDER BY c.serial LIMIT $7
"""
# Their certificates were dropped with their partition.
PRUNE_FINDINGS: Final = """
DELETE FROM lint_findings f WHERE NOT EXISTS (SELECT FROM certificates c WHERE c.serial = f.serial)
"""
FORGET_FINDINGS: Final = "DELETE FROM lint_findings WHERE serial = ANY($1::bytea[])"
INSERT_FINDINGS: Final = """
INSERT INTO lint_findings (serial, code, severity, detail, found_at)
SELECT serial, code, severity, detail, $5
FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[]) AS t (serial, code, severity, detail)
ON CONFLICT (serial, code) DO NOTHING
"""
FINDINGS: Final = """
SELECT f.code, min(f.severity) AS severity, count(*) AS certificates, count(r.serial) AS revoked,
    (array_agg(f.serial ORDER BY f.serial DESC))[1] AS example, max(f.found_at) AS found_at,
    (array_agg(f.detail ORDER BY f.serial DESC))[1] AS detail
FROM lint_findings f JOIN certificates c ON c.serial = f.serial LEFT JOIN revocations r ON r.serial = f.serial
WHERE c.not_after >= $1 GROUP BY f.code ORDER BY certificates DESC, f.code
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which certificates are looked at; None: any."""

    not_after: datetime
    issuer: str | None = None
    profile: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def values(self) -> tuple[object, ...]:
        """In the order of the statements, behind the serial number."""
        return self.not_after, self.issuer, self.profile, self.since, self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCertificate:
    """A certificate or precertificate in its parts."""

    serial: bytes
    issuer_id: int
    profile: str
    tbs: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFinding:
    """What a linter has against a certificate."""

    serial: bytes
    code: str
    severity: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingCount:
    """How many unexpired certificates have a finding; the newest of them is the example."""

    code: str
    severity: str
    certificates: int
    revoked: int
    example: bytes
    found_at: datetime
    detail: str


async def count_wanted(connection: Connection, wanted: Wanted) -> int:
    """How many certificates there are to look at."""
    count: int = await connection.fetchval(COUNT_WANTED, b"", *wanted.values(), timeout=600)
    return count


async def next_certificates(
    connection: Connection, wanted: Wanted, *, after: bytes, limit: int
) -> list[SignedCertificate]:
    """The next ones behind a serial number, in order."""
    rows = await connection.fetch(NEXT_CERTIFICATES, after, *wanted.values(), limit, timeout=600)
    return [SignedCertificate(**dict(row)) for row in rows]


async def replace_findings(
    connection: Connection, serials: Sequence[bytes], found: Sequence[StoredFinding], *, now: datetime
) -> None:
    """What was found about these certificates before makes room for what is found now."""
    async with connection.transaction():
        await connection.execute(FORGET_FINDINGS, list(serials))
        await connection.execute(
            INSERT_FINDINGS, [each.serial for each in found], [each.code for each in found],
            [each.severity for each in found], [each.detail for each in found], now)


async def prune_findings(connection: Connection) -> None:
    """Forgets what was found about certificates that are not kept any more."""
    await connection.execute(PRUNE_FINDINGS, timeout=600)


async def findings(connection: Connection, *, now: datetime) -> list[FindingCount]:
    """What is known, by code, the most frequent first."""
    return [FindingCount(**dict(row)) for row in await connection.fetch(FINDINGS, now, timeout=600)]
