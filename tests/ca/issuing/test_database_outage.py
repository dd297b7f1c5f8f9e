"""The database crashes, stops and comes back under a CA process that works (spec A.5, scenario 3)."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from ca.admin.embedded_postgres import SUPERUSER, EmbeddedPostgres
from ca.admin.migrate import make_embedded_database, make_password, migrate
from ca.issuing.__main__ import IssuanceTurns
from ca.process.ambient import system_ambient
from ca.process.postgres import embedded_socket_directory
from ca.process.settings import DatabaseSettings
from tests.ca.issuing.world import TestOrder, make_world
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase

_STEPS = (1, 4, 5, 7, 14)
_PATIENCE_S = 120


@dataclass
class _OwnServer:
    """A PostgreSQL that this test may stop and crash; what is committed is on its disk."""

    postgres: EmbeddedPostgres
    database: TestDatabase
    password: str

    async def fetch(self, statement: str, *, crash: bool = False) -> "list[asyncpg.Record]":
        """Rows, asked for until the server answers; with `crash` the session that asked is killed then."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                try:
                    connection = await self.database.connect()
                    try:
                        rows = list(await connection.fetch(statement))
                        if crash:
                            os.kill(rows[0]["pid"], signal.SIGKILL)
                        return rows
                    finally:
                        connection.terminate()
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await asyncio.sleep(0.1)

    async def crash(self) -> None:
        """kill -9 of one session: the server ends all others and recovers."""
        await self.fetch("SELECT pg_backend_pid() AS pid", crash=True)

    async def restart(self) -> None:
        """Every session ends; the server is there again."""
        await asyncio.to_thread(self.postgres.stop)
        await asyncio.to_thread(self.postgres.start, self.password)


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[_OwnServer]:
    """A server of the test's own."""
    settings = DatabaseSettings(secrets_dir=tmp_path / "secrets")
    ambient = system_ambient()
    postgres = EmbeddedPostgres(directory=tmp_path / "pg", secrets_dir=settings.secrets_dir, settings={})
    password = make_password(settings, SUPERUSER, ambient)
    await asyncio.to_thread(postgres.start, password)
    try:
        await make_embedded_database(settings, ambient)
        await migrate(settings, ambient)
        url = f"postgresql:///chancery?host={embedded_socket_directory(settings)}&port=5432"
        yield _OwnServer(postgres, TestDatabase(
            settings=DatabaseSettings(url=url, secrets_dir=Path(settings.secrets_dir)), name="chancery"), password)
    finally:
        await asyncio.to_thread(postgres.stop)


@pytest.mark.parametrize("stops", [False, True], ids=["crash", "stop"])
async def test_the_database_goes_in_mid_cycle(
    own: _OwnServer, softhsm_token: SoftHsm, issuing_certificates: tuple[bytes, dict[str, bytes]], stops: bool
) -> None:
    """After each step that writes or signs, PostgreSQL crashes (kill -9 of a session: what is not on disk is forgotten)
    or is stopped and started: the process goes on by itself, every order ends with one certificate, with the serial
    number that was committed if one was, and nothing was signed that has no intent."""
    orders: list[TestOrder] = []
    committed: dict[bytes, bytes] = {}
    async with make_world(own.database, softhsm_token, *issuing_certificates) as world:
        for number in range(len(_STEPS)):
            orders.append(await world.ordered(f"n{number}.example.com"))
        ca, steps = world.process(), list(_STEPS)
        turns = IssuanceTurns(ca)

        async def go_away(step: int) -> None:
            if steps and step == steps[0]:
                del steps[0]
                for row in await own.fetch("SELECT request_id, serial FROM issuances"):
                    assert committed.setdefault(row["request_id"], row["serial"]) == row["serial"]
                await (own.restart() if stops else own.crash())

        ca.after_step = go_away
        async with asyncio.timeout(_PATIENCE_S):
            while (await own.fetch("SELECT count(*) AS left FROM issuance_requests"))[0]["left"]:
                try:
                    await turns.step()
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await own.fetch("SELECT 1")
                    await own.fetch("UPDATE issuance_requests SET leased_until = '-infinity' RETURNING id")
        assert steps == []
    async with make_world(own.database, softhsm_token, *issuing_certificates) as world:
        for order in orders:
            await world.issued(order.id)
            serial = await world.serial(order.id)
            assert committed.get(order.id, serial) == serial
        assert await world.owner.fetchval("SELECT count(DISTINCT serial) FROM certificates") == len(orders)
        assert await world.owner.fetchval("SELECT count(*) FROM refusals") == 0
        await world.check()
