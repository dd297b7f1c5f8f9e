"""Rows of the validation queue, inserted under the front end's role as the front end does."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from acme_api.protocol import base64url
from acme_api.protocol.challenge import key_authorization, type_bits
from ca.pki.object_id import object_id
from tests.fixtures_postgres import TestDatabase

TOKEN = "t" * 42 + "s"
THUMBPRINT = b"\x07" * 32
EXPECTED = key_authorization(TOKEN, THUMBPRINT)


def thumbprint_of(account_id: bytes) -> bytes:
    """The thumbprint of the key that an account is opened with."""
    return account_id.ljust(32, b"\0")


def new_id() -> bytes:
    """A fresh object id."""
    return object_id(datetime.now(UTC), os.urandom(16))


@dataclass(slots=True)
class Queue:
    """Puts requests into the queue of a database, and reads what became of them."""

    database: TestDatabase
    wfe: "asyncpg.Connection[asyncpg.Record]"
    owner: "asyncpg.Connection[asyncpg.Record]"
    account_id: bytes = field(default_factory=new_id)

    @classmethod
    async def open(cls, database: TestDatabase) -> "Queue":
        """A queue with one account in it."""
        queue = cls(database, await database.connect("acme_wfe"), await database.connect())
        await queue.add_account(queue.account_id)
        return queue

    async def close(self) -> None:
        """Closes both connections."""
        await self.wfe.close()
        await self.owner.close()

    async def add_account(self, account_id: bytes) -> None:
        """One account; its thumbprint is made of its id."""
        await self.wfe.execute("INSERT INTO accounts (id, created_at, thumbprint, jwk) VALUES ($1, now(), $2, '{}')",
                               account_id, thumbprint_of(account_id))

    async def add(self, identifier: str = "a.localhost", **options: Any) -> bytes:
        """An authorization with a request about it; returns the authorization's id."""
        return (await self.add_many([identifier], **options))[0]

    async def add_many(
        self,
        identifiers: list[str],
        *,
        kind: str = "challenge",
        method: str = "http-01",
        identifier_type: str = "dns",
        wildcard: bool = False,
        account_id: bytes | None = None,
        token: str = TOKEN,
        expires_in_s: float = 3600,
        subdomains: bool = False,
    ) -> list[bytes]:
        """As `add`, many at once."""
        account_id = account_id or self.account_id
        expires_at = datetime.now(UTC) + timedelta(seconds=expires_in_s)
        ids = [new_id() for _ in identifiers]
        async with self.wfe.transaction():
            await self.wfe.executemany(
                "INSERT INTO authorizations (id, account_id, identifier_type, identifier_value, wildcard, expires_at,"
                " challenge_types, challenge_tokens, subdomains) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                [(authorization_id, account_id, identifier_type, identifier, wildcard, expires_at,
                  type_bits(["http-01", "dns-01", "tls-alpn-01", "dns-persist-01"]), base64url.decode(token) * 3,
                  subdomains)
                 for authorization_id, identifier in zip(ids, identifiers, strict=True)])
            for authorization_id in ids:
                await self.request(authorization_id, kind=kind, method=method, account_id=account_id)
        return ids

    async def request(
        self, authorization_id: bytes, *, kind: str = "challenge", method: str = "http-01",
        account_id: bytes | None = None, caa_name: str = "",
    ) -> None:
        """One request, and the notification that goes with it."""
        await self.wfe.execute(
            "INSERT INTO validation_requests (id, kind, authorization_id, account_id, challenge_type, thumbprint,"
            " requested_at, caa_name) VALUES ($1, $2, $3, $4, $5, $6, now(), $7)",
            new_id(), kind, authorization_id, account_id or self.account_id, method, THUMBPRINT, caa_name)
        await self.wfe.execute("SELECT pg_notify('validation', '')")

    async def validated(self, authorization_id: bytes, *, method: str = "http-01") -> None:
        """An authorization that was validated before."""
        await self.owner.execute(
            "INSERT INTO validations (authorization_id, account_id, identifier_type, identifier_value, wildcard,"
            " challenge_type, thumbprint, validated_at, valid_until, caa_checked_at, evidence, subdomains)"
            " SELECT id, account_id, identifier_type, identifier_value, wildcard, $2, $3, now(),"
            " now() + interval '1 day', now(), '\\x007b7d', subdomains FROM authorizations WHERE id = $1",
            authorization_id, method, THUMBPRINT)

    async def validation(self, authorization_id: bytes) -> asyncpg.Record | None:
        """What the VA stored about an authorization."""
        return await self.owner.fetchrow("SELECT * FROM validations WHERE authorization_id = $1", authorization_id)

    async def waiting(self) -> int:
        """How many requests are in the queue."""
        count: int = await self.owner.fetchval("SELECT count(*) FROM validation_requests")
        return count

    async def finished(self, done: Callable[[int], bool] = lambda left: left == 0, *, timeout_s: float = 60) -> None:
        """Returns when the number of requests in the queue satisfies `done`."""
        async with asyncio.timeout(timeout_s):
            while not done(await self.waiting()):  # noqa: ASYNC110 - another process empties it
                await asyncio.sleep(0.02)
