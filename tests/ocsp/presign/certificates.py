"""Certificates in the database, as the CA's role puts them there, and what has been published for them."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import asyncpg

from ca.pki.serial import serial_number
from ocsp.protocol.batch import StoredResponse, read_value, split_batch
from tests.fixtures_postgres import TestDatabase

DAY = timedelta(days=1)


@dataclass(slots=True, kw_only=True)
class Certificates:
    """The CA's side of the queue, and a look at the batch log."""

    ca: "asyncpg.Connection[asyncpg.Record]"
    owner: "asyncpg.Connection[asyncpg.Record]"
    told: list[str] = field(default_factory=list)

    async def add(self, count: int, *, issuer_id: int = 1, at: datetime | None = None, life: timedelta = 60 * DAY,
                  asked: bool = True, serials: Sequence[bytes] | None = None, has_ocsp: bool = True) -> list[bytes]:
        """Issued at a moment; with a request for their first response, unless they had it long ago."""
        now = at or datetime.now(UTC)
        made = sorted(serials or (serial_number(now, os.urandom(16)) for _ in range(count)))
        async with self.ca.transaction():
            await self.ca.copy_records_to_table("certificates", columns=[
                "serial", "request_id", "account_id", "issuer_id", "profile", "not_before", "not_after", "spki_sha256",
                "tbs", "created_at", "has_ocsp"], records=[
                    (serial, serial + b"reqs", None, issuer_id, "classic", now, now + life, bytes(32), b"tbs", now,
                     has_ocsp) for serial in made])
            if asked:
                await self.ca.copy_records_to_table("ocsp_requests", columns=[
                    "serial", "version", "issuer_id", "request_id", "requested_at", "not_after"], records=[
                        (serial, 0, issuer_id, serial + b"reqs", now, now + life if has_ocsp else None)
                        for serial in made])
                await self.ca.execute("NOTIFY ocsp_due, 'new'")
        return made

    async def ask(self, serials: Sequence[bytes], *, version: int = 0, issuer_id: int = 1) -> None:
        """Queues requests that do not say when their certificates end, and wakes the pre-signer."""
        await self.ca.executemany(
            "INSERT INTO ocsp_requests (serial, version, issuer_id, request_id, requested_at) VALUES ($1, $2, $3, $4,"
            " now())", [(serial, version, issuer_id, serial + b"reqs") for serial in serials])
        await self.ca.execute(f"NOTIFY ocsp_due, '{'changed' if version else 'new'}'")

    async def revoke(self, serials: Sequence[bytes], *, reason: int = 4, version: int = 1, issuer_id: int = 1) -> None:
        """As the CA revokes: the fact and the request in one transaction."""
        async with self.ca.transaction():
            await self.ca.executemany(
                "INSERT INTO revocations VALUES ($1, $2, $3, $4, 'operator', '{}') ON CONFLICT (serial) DO UPDATE SET"
                " reason = excluded.reason, version = excluded.version",
                [(serial, datetime.now(UTC), reason, version) for serial in serials])
            await self.ask(serials, version=version, issuer_id=issuer_id)

    async def waiting(self) -> int:
        """Requests that are not answered yet."""
        return int(await self.owner.fetchval("SELECT count(*) FROM ocsp_requests"))

    async def until_answered(self, *, patience_s: float = 30.0) -> None:
        """Until no request waits."""
        async with asyncio.timeout(patience_s):
            while await self.waiting():  # noqa: ASYNC110 - a row of a database is waited for
                await asyncio.sleep(0.01)

    async def batches(self) -> list[tuple[int, dict[bytes, StoredResponse]]]:
        """(id, serial -> response) of every batch, in the order of the log."""
        rows = await self.owner.fetch("SELECT id, issuer_id, count, payload FROM ocsp_batches ORDER BY id")
        found = []
        for row in rows:
            read = {key[:-2]: read_value(value) for key, value in split_batch(row["payload"], row["issuer_id"])}
            assert len(read) == row["count"]
            found.append((row["id"], read))
        return found

    async def shards(self) -> "list[asyncpg.Record]":
        """The schedule."""
        return await self.owner.fetch("SELECT * FROM ocsp_shards ORDER BY issuer_id, first_serial")


@asynccontextmanager
async def certificates_in(database: TestDatabase) -> AsyncIterator[Certificates]:
    """Connections under ca_issuer and the owner; listens for what waiting orders are told."""
    ca, owner = await database.connect("ca_issuer"), await database.connect()
    made = Certificates(ca=ca, owner=owner)
    await owner.add_listener("changed", lambda *arguments: made.told.extend(str(arguments[-1]).split(",")))
    try:
        yield made
    finally:
        await ca.close()
        await owner.close()
