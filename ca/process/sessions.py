"""Database sessions that keep their prepared statements, taken from a pool and not given back between uses.

Taking a connection from asyncpg's pool, finding the statement again and giving it back costs as much processor time as
the query itself, two or three times a request. Here a session stays with us until it fails; then the pool replaces it,
so that a restart of the database is survived as with the pool.
"""

import asyncio
from typing import Any, Protocol

from ca.process.postgres import Pool, PostgresError, Record


class _Statement(Protocol):
    async def fetch(self, *arguments: Any) -> list[Record]: ...


class _Session:
    """One connection (asyncpg's proxy of it) with the statements that it has prepared."""

    __slots__ = ("connection", "statements")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.statements: dict[str, _Statement] = {}

    async def statement(self, sql: str) -> _Statement:
        found = self.statements.get(sql)
        if found is None:
            found = self.statements[sql] = await self.connection.prepare(sql)
        return found


class Sessions:
    """Single statements, each its own transaction, on at most `size` connections of a pool that has as many."""

    def __init__(self, pool: Pool, *, size: int) -> None:
        self._pool = pool
        self._room = asyncio.Semaphore(size)
        self._idle: list[_Session] = []

    async def fetch(self, sql: str, *arguments: Any) -> list[Record]:
        """All rows; also for a statement that has none."""
        async with self._room:
            session = await self._take()
            try:
                statement = session.statements.get(sql) or await session.statement(sql)
                rows = await statement.fetch(*arguments)
            except BaseException as fault:
                # What the server itself refused, one statement that is its own transaction, leaves the session whole.
                if isinstance(fault, PostgresError) and not session.connection.is_closed():
                    self._idle.append(session)
                else:
                    await self._discard(session)
                raise
            self._idle.append(session)
            return rows

    async def fetchrow(self, sql: str, *arguments: Any) -> Record | None:
        """The first row. The others are fetched too: a statement that writes is never stopped half-way."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        rows = await self.fetch(sql, *arguments)
        return rows[0][0] if rows else None

    async def _take(self) -> _Session:
        while self._idle:
            session = self._idle.pop()
            if not session.connection.is_closed():
                return session
            await self._discard(session)
        return _Session(await self._pool.acquire())

    async def _discard(self, session: _Session) -> None:
        """Back to the pool, which closes what is broken and rolls back what was cut off."""
        await asyncio.shield(self._pool.release(session.connection))
