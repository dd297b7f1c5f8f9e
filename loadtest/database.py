"""The database of the Chancery under test, seen from outside: its schema is known here, none of its code."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import asyncpg

from loadtest.chancery_process import Chancery
from loadtest.program import ProgramFault

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_OWNER = "chancery_owner"
_SUPERUSER = "postgres"


@asynccontextmanager
async def connected(chancery: Chancery, *, superuser: bool = False) -> AsyncIterator[Connection]:
    """A connection as the owner of the tables, or as the embedded server's superuser. Raises ProgramFault."""
    directory = chancery.require_data_dir()
    database = chancery.settings()["database"]
    if superuser and database["url"]:
        raise ProgramFault("the database is not the embedded one, so its server cannot be looked into")
    secrets_dir = directory / str(database["secrets_dir"])
    role = _SUPERUSER if superuser else _OWNER
    try:
        password = (secrets_dir / f"{role}.password").read_text("ascii").strip()
        place = ({"dsn": database["url"]} if database["url"] else
                 {"host": (secrets_dir / "socket-directory").read_text("utf-8").strip(), "port": 5432,
                  "database": "chancery"})
        connection: Connection = await asyncpg.connect(user=role, password=password, timeout=10.0, **place)
    except (OSError, asyncpg.PostgresError) as fault:
        raise ProgramFault(f"the database in {directory} cannot be reached as {role}: {fault}") from fault
    try:
        yield connection
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """Bytes of a table with its partitions: rows, out-of-line values, indexes."""

    heap: int
    toast: int
    indexes: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.heap + self.toast + self.indexes

    def minus(self, other: "TableSize | None") -> "TableSize":
        """What was added since `other`."""
        if other is None:
            return self
        return TableSize(heap=self.heap - other.heap, toast=self.toast - other.toast,
                         indexes=self.indexes - other.indexes)


async def table_sizes(connection: Connection) -> dict[str, TableSize]:
    """By table; partitions count for the table that they belong to."""
    rows = await connection.fetch("""
        SELECT COALESCE(root.relname, part.relname) AS name,
               sum(pg_relation_size(part.oid) + pg_relation_size(part.oid, 'fsm')
                   + pg_relation_size(part.oid, 'vm'))::bigint AS heap,
               sum(CASE WHEN part.reltoastrelid = 0 THEN 0
                        ELSE pg_total_relation_size(part.reltoastrelid) END)::bigint AS toast,
               sum(pg_indexes_size(part.oid))::bigint AS indexes
        FROM pg_class part
        LEFT JOIN pg_class root ON part.relispartition AND root.oid = pg_partition_root(part.oid)
        WHERE part.relkind = 'r' AND part.relnamespace = 'public'::regnamespace
        GROUP BY 1""")
    return {row["name"]: TableSize(heap=row["heap"], toast=row["toast"], indexes=row["indexes"]) for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCounters:
    """What the server counts from its start."""

    transactions: int
    wal_bytes: int
    wal_syncs: int

    def minus(self, other: "ServerCounters") -> "ServerCounters":
        """What was added since `other`."""
        return ServerCounters(transactions=self.transactions - other.transactions,
                              wal_bytes=self.wal_bytes - other.wal_bytes, wal_syncs=self.wal_syncs - other.wal_syncs)


async def server_counters(connection: Connection) -> ServerCounters:
    """Transactions, bytes of write-ahead log, and how often it was forced to disk (PostgreSQL 18 counts that)."""
    syncs = 0
    if connection.get_server_version().major >= 18:
        syncs = await connection.fetchval(
            "SELECT COALESCE(sum(fsyncs), 0)::bigint FROM pg_stat_io WHERE object = 'wal'")
    row = await connection.fetchrow("""
        SELECT (SELECT sum(xact_commit)::bigint FROM pg_stat_database) AS transactions,
               pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal_bytes""")
    assert row is not None
    return ServerCounters(transactions=row["transactions"], wal_bytes=row["wal_bytes"], wal_syncs=syncs)


def server_log(chancery: Chancery) -> Path:
    """Where the embedded server logs."""
    return chancery.require_data_dir() / "postgres" / "server.log"
