"""Upkeep by the role ca_admin: partitions made and dropped, old CRLs pruned; the anchored heads of audit logs."""

from datetime import date, datetime

from ca.admin.records import Partition
from ca.process.postgres import Connection

PARTITIONS = """
SELECT p.relname AS table, c.relname AS name, greatest(c.reltuples::bigint, s.n_live_tup, 0) AS rows,
    pg_total_relation_size(c.oid) AS size_bytes
FROM partitioned_tables t
JOIN pg_class p ON p.oid = t.name::regclass
JOIN pg_inherits h ON h.inhparent = p.oid
JOIN pg_class c ON c.oid = h.inhrelid
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
ORDER BY p.relname, c.relname
"""
# A partition cannot be made or dropped while a transaction uses its parent, and while we wait for that one, all others
# wait behind us: so we do not wait for long, and try again later.
SHORT_LOCK_WAIT = "SET LOCAL lock_timeout = '3s'"
CREATE_PARTITIONS = "SELECT create_partitions($1)"
DROP_PARTITIONS = "SELECT drop_expired_partitions($1)"
PARTITIONS_UNTIL = "SELECT partitions_until()"
PRUNE_CRLS = "SELECT prune_crls($1)"
AUDIT_HEADS = "SELECT chain, number, digest FROM audit_heads ORDER BY chain, number"


async def partitions(connection: Connection) -> list[Partition]:
    """Every partition of every table."""
    return [Partition(**row) for row in await connection.fetch(PARTITIONS)]


async def partitions_until(connection: Connection) -> date | None:
    """The day up to which every table has a partition."""
    until: date | None = await connection.fetchval(PARTITIONS_UNTIL)
    return until


async def create_partitions(connection: Connection, now: datetime) -> int:
    """Makes the partitions that will be needed next; how many were missing."""
    async with connection.transaction():
        await connection.execute(SHORT_LOCK_WAIT)
        made: int = await connection.fetchval(CREATE_PARTITIONS, now)
    return made


async def drop_expired_partitions(connection: Connection, now: datetime) -> list[str]:
    """Drops the partitions whose keeping time is over; their names."""
    async with connection.transaction():
        await connection.execute(SHORT_LOCK_WAIT)
        rows = await connection.fetch(DROP_PARTITIONS, now)
    return [row[0] for row in rows]


async def prune_crls(connection: Connection, *, keep_days: int) -> int:
    """Deletes CRLs older than `keep_days`, never the newest five of a shard; how many."""
    pruned: int = await connection.fetchval(PRUNE_CRLS, keep_days)
    return pruned


async def audit_heads(connection: Connection) -> dict[str, dict[int, bytes]]:
    """Chain -> number of a record -> its digest, as the processes anchored them."""
    found: dict[str, dict[int, bytes]] = {}
    for row in await connection.fetch(AUDIT_HEADS):
        found.setdefault(row["chain"], {})[row["number"]] = row["digest"]
    return found
