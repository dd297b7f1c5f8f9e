"""What the role ca_admin does about incidents: select their certificates, foretell, order a mass revocation, watch."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca.admin.selection import Selection
from ca.process.postgres import Connection

OPEN_INCIDENT: Final = """
INSERT INTO incidents (name, opened_at, operator, comment, explanation_url, query) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) DO NOTHING RETURNING name
"""
# What has expired needs neither a revocation nor a renewal.
_SELECT: Final = """
INSERT INTO incident_serials (incident, serial)
SELECT $1, c.serial FROM certificates c
WHERE c.not_after >= $2
    AND ($3::bytea IS NULL OR c.spki_sha256 = $3)
    AND ($4::text IS NULL OR c.issuer_id = (SELECT id FROM issuers WHERE name = $4))
    AND ($5::timestamptz IS NULL OR c.created_at >= $5) AND ($6::timestamptz IS NULL OR c.created_at < $6)
    AND ($7::bytea IS NULL OR c.account_id = $7)
    AND ($8::text IS NULL OR c.profile = $8)
"""
SELECT_CERTIFICATES: Final = _SELECT
SELECT_BY_SERIALS: Final = _SELECT + "    AND c.serial = ANY($9::bytea[])"
_UNDER_NAME: Final = """    AND c.serial IN (SELECT n.serial FROM certificate_names n
                     WHERE n.reversed_name = $9 OR (n.reversed_name >= $9 || '.' AND n.reversed_name < $9 || '/'))
"""
SELECT_BY_NAME: Final = _SELECT + _UNDER_NAME
_WITH_FINDING: Final = "    AND EXISTS (SELECT FROM lint_findings f WHERE f.serial = c.serial AND f.code LIKE $9)"
SELECT_BY_FINDING: Final = _SELECT + _WITH_FINDING
SELECT_BY_NAME_AND_FINDING: Final = SELECT_BY_NAME + _WITH_FINDING.replace("$9", "$10")
# By issuer and CRL shard: how many certificates, how many of them are revoked, and how many OCSP responses change.
CENSUS: Final = """
SELECT i.name AS issuer, i.key_type, get_byte(s.serial, 17) % i.crl_shards AS shard, i.id AS issuer_id,
    count(*) AS certificates, count(r.serial) AS revoked,
    count(*) FILTER (WHERE r.serial IS NULL AND c.has_ocsp) AS responses
FROM incident_serials s JOIN certificates c ON c.serial = s.serial JOIN issuers i ON i.id = c.issuer_id
LEFT JOIN revocations r ON r.serial = s.serial
WHERE s.incident = $1 GROUP BY 1, 2, 3, 4 ORDER BY 1, 3
"""
CRL_SIZES: Final = """
SELECT wanted.issuer_id, wanted.shard, latest.entries, octet_length(latest.der) AS size
FROM unnest($1::smallint[], $2::smallint[]) AS wanted (issuer_id, shard)
CROSS JOIN LATERAL (
    SELECT entries, der FROM crls WHERE crls.issuer_id = wanted.issuer_id AND crls.shard = wanted.shard
    ORDER BY number DESC LIMIT 1
) AS latest
"""
ORDER_REVOCATION: Final = """
INSERT INTO mass_revocations (incident, reason, operator, comment, requested_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (incident) DO NOTHING RETURNING incident
"""
HALT: Final = """
UPDATE mass_revocations SET halted = $2 WHERE incident = $1 AND finished_at IS NULL AND halted <> $2 RETURNING incident
"""
CLOSE_INCIDENT: Final = """
UPDATE incidents SET closed_at = $2 WHERE name = $1 AND closed_at IS NULL RETURNING name
"""
INCIDENTS: Final = """
SELECT i.name, i.opened_at, i.operator, i.comment, i.explanation_url, i.query, i.closed_at, m.reason, m.requested_at,
    m.halted, m.examined, m.changed, m.finished_at,
    (SELECT count(*) FROM incident_serials s WHERE s.incident = i.name) AS certificates
FROM incidents i LEFT JOIN mass_revocations m ON m.incident = i.name
WHERE $1::text IS NULL OR i.name = $1 ORDER BY i.opened_at DESC LIMIT $2
"""
PROGRESS: Final = """
SELECT examined, changed, halted, finished_at,
    (SELECT count(*) FROM (SELECT FROM ocsp_requests WHERE version > 0 LIMIT 1000000)) AS ocsp_waiting
FROM mass_revocations WHERE incident = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """An incident with its mass revocation, if one was ordered (`reason` is not None)."""

    name: str
    opened_at: datetime
    operator: str
    comment: str
    explanation_url: str
    query: str
    closed_at: datetime | None
    reason: int | None
    requested_at: datetime | None
    halted: bool | None
    examined: int | None
    changed: int | None
    finished_at: datetime | None
    certificates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCensus:
    """The certificates of an incident that one CRL shard would list."""

    issuer: str
    key_type: str
    shard: int
    issuer_id: int
    certificates: int
    revoked: int
    responses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a mass revocation has come; `ocsp_waiting` changed statuses of all kinds wait for the pre-signer."""

    examined: int
    changed: int
    halted: bool
    finished_at: datetime | None
    ocsp_waiting: int


async def open_incident(
    connection: Connection, name: str, selection: Selection, *, operator: str, comment: str, explanation_url: str,
    now: datetime,
) -> int | None:
    """Stores an incident with its certificates; how many, None when the name is taken."""
    if await connection.fetchval(OPEN_INCIDENT, name, now, operator, comment, explanation_url, selection.text) is None:
        return None
    statement, values = SELECT_CERTIFICATES, [name, now, selection.key, selection.issuer, selection.since,
                                              selection.until, selection.account, selection.profile]
    if selection.serials is not None:
        statement, values = SELECT_BY_SERIALS, [*values, list(selection.serials)]
    elif selection.name is not None and selection.finding is not None:
        statement = SELECT_BY_NAME_AND_FINDING
        values += [selection.name[::-1], _pattern(selection.finding)]
    elif selection.name is not None:
        statement, values = SELECT_BY_NAME, [*values, selection.name[::-1]]
    elif selection.finding is not None:
        statement, values = SELECT_BY_FINDING, [*values, _pattern(selection.finding)]
    done = await connection.execute(statement, *values, timeout=600)
    return int(done.rpartition(" ")[2])


def _pattern(code: str) -> str:
    """For LIKE: * stands for anything, everything else for itself."""
    return re.sub(r"([\\%_])", r"\\\1", code).replace("*", "%")


async def census(connection: Connection, name: str) -> list[ShardCensus]:
    """The certificates of an incident by issuer and shard."""
    return [ShardCensus(**dict(row)) for row in await connection.fetch(CENSUS, name, timeout=600)]


async def crl_sizes(connection: Connection, shards: list[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """(entries, bytes) of the newest CRL of each (issuer id, shard)."""
    rows = await connection.fetch(CRL_SIZES, [issuer_id for issuer_id, _ in shards], [shard for _, shard in shards])
    return {(row["issuer_id"], row["shard"]): (row["entries"], row["size"]) for row in rows}


async def order_revocation(
    connection: Connection, name: str, *, reason: int, operator: str, comment: str, now: datetime
) -> bool:
    """Orders the CA to revoke an incident's certificates; False when that was ordered before."""
    return await connection.fetchval(ORDER_REVOCATION, name, reason, operator, comment, now) is not None


async def halt(connection: Connection, name: str, *, halted: bool) -> bool:
    """Halts a mass revocation or lets it go on; False when there is nothing to change."""
    return await connection.fetchval(HALT, name, halted) is not None


async def close_incident(connection: Connection, name: str, *, now: datetime) -> bool:
    """Ends what the incident says about renewal; False when it was closed before."""
    return await connection.fetchval(CLOSE_INCIDENT, name, now) is not None


async def incidents(connection: Connection, name: str | None, limit: int) -> list[Incident]:
    """The newest incidents, or the one with a name."""
    return [Incident(**dict(row)) for row in await connection.fetch(INCIDENTS, name, limit)]


async def progress(connection: Connection, name: str) -> Progress | None:
    """How far a mass revocation has come."""
    row = await connection.fetchrow(PROGRESS, name)
    return None if row is None else Progress(**dict(row))
