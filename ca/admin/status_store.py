"""What the role ca_admin reads to say how everything is."""

from datetime import datetime

from ca.admin.records import (
    CertificateCounts,
    CrlFreshness,
    Facts,
    Issuer,
    OcspFreshness,
    Perspective,
    ProcessConnections,
    Queue,
)
from ca.admin.upkeep_store import partitions_until
from ca.process.postgres import Connection

SERVER = "SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS size"
PROCESSES = """
SELECT substring(application_name from '^chancery-(.*?)(-listen)?$') AS process, count(*) AS connections,
    min(backend_start) AS connected_since
FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'chancery-%'
GROUP BY 1 ORDER BY 1
"""
ISSUERS = "SELECT id, name, key_type, certificate, crl_shards, active FROM issuers ORDER BY id"
QUEUES = """
SELECT 'validation' AS name, count(*) AS depth, min(requested_at) AS oldest_at FROM validation_requests
UNION ALL SELECT 'issuance', count(*), min(requested_at) FROM issuance_requests
UNION ALL SELECT 'revocation', count(*), min(requested_at) FROM revocation_requests
UNION ALL SELECT 'ocsp', count(*), min(requested_at) FROM ocsp_requests
UNION ALL SELECT 'transparency', count(*), min(requested_at) FROM ct_submissions WHERE kind = 'precertificate'
"""
# The planner's count is durable, the statistics' is fresh; both may lag behind by a little.
PERSPECTIVES = """
SELECT perspective AS name, min(rir) AS rir, max(answered_at) AS answered_at, max(lag_ms) AS lag_ms,
    max(failures) AS failures, max(retry_at) AS retry_at, max(fault) AS fault
FROM perspective_health WHERE seen_at > now() - interval '2 minutes' GROUP BY perspective ORDER BY min(position)
"""
SIGNED_ESTIMATE = """
SELECT coalesce(sum(greatest(c.reltuples::bigint, s.n_live_tup, 0)), 0)::bigint
FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE h.inhparent = 'certificate_signatures'::regclass
"""
SIGNED_COUNT = "SELECT count(*) FROM certificate_signatures"
SIGNED_SINCE = "SELECT count(*) FROM certificate_signatures WHERE serial >= $1 AND signed_at > $2"
OCSP_FRESHNESS = """
SELECT count(*) AS shards, count(*) FILTER (WHERE due_at < $1) AS overdue, min(signed_at) AS oldest_signed_at
FROM ocsp_shards
"""
CRL_FRESHNESS = """
SELECT issuers.name AS issuer_name, issuers.crl_shards AS shards, count(latest.this_update) AS published,
    coalesce(sum(latest.entries), 0)::bigint AS entries, min(latest.this_update) AS oldest_this_update,
    min(latest.next_update) AS first_next_update
FROM issuers
CROSS JOIN generate_series(0, issuers.crl_shards - 1) AS wanted (shard)
LEFT JOIN LATERAL (
    SELECT this_update, next_update, entries FROM crls
    WHERE crls.issuer_id = issuers.id AND crls.shard = wanted.shard ORDER BY number DESC LIMIT 1
) AS latest ON true
GROUP BY issuers.id, issuers.name, issuers.crl_shards ORDER BY issuers.id
"""
_COUNTED_UP_TO = 50_000


async def issuers(connection: Connection) -> list[Issuer]:
    """Every issuer."""
    return [Issuer(**row) for row in await connection.fetch(ISSUERS)]


async def facts(connection: Connection, *, now: datetime, serials_from: bytes, signed_after: datetime) -> Facts:
    """One look at everything. `serials_from` is the smallest serial number that can be signed after `signed_after`."""
    server = await connection.fetchrow(SERVER)
    ocsp = await connection.fetchrow(OCSP_FRESHNESS, now)
    assert server is not None  # noqa: S101 - one row
    assert ocsp is not None  # noqa: S101 - an aggregate without GROUP BY has one row
    return Facts(
        database_version=server["version"].split()[0],
        database_size_bytes=server["size"],
        processes=tuple(ProcessConnections(**row) for row in await connection.fetch(PROCESSES)),
        issuers=tuple(await issuers(connection)),
        queues=tuple(Queue(**row) for row in await connection.fetch(QUEUES)),
        certificates=await _counts(connection, serials_from, signed_after),
        ocsp=OcspFreshness(**ocsp),
        crls=tuple(CrlFreshness(**row) for row in await connection.fetch(CRL_FRESHNESS)),
        partitions_until=await partitions_until(connection),
        perspectives=tuple(Perspective(**row) for row in await connection.fetch(PERSPECTIVES)),
    )


async def _counts(connection: Connection, serials_from: bytes, signed_after: datetime) -> CertificateCounts:
    stored = await connection.fetchval(SIGNED_ESTIMATE)
    exact = stored <= _COUNTED_UP_TO
    if exact:
        stored = await connection.fetchval(SIGNED_COUNT)
    return CertificateCounts(stored=stored, exact=exact,
                             last_24_h=await connection.fetchval(SIGNED_SINCE, serials_from, signed_after))
