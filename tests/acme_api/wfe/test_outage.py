"""A database that goes away, crashes and comes back under a running server (rows N9, P8, E78)."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ca.admin.embedded_postgres import SUPERUSER, EmbeddedPostgres
from ca.admin.migrate import make_embedded_database, make_password, migrate
from ca.process.ambient import system_ambient
from ca.process.settings import DatabaseSettings
from tests.acme_api.wfe.running import Clock, OtherProcesses, RunningWfe, make_settings, start_wfe
from tests.acme_client import JOSE_JSON, AcmeClient
from tests.fixtures_postgres import TestDatabase


@dataclass
class _OwnServer:
    """A PostgreSQL that this test may stop and crash."""

    postgres: EmbeddedPostgres
    database: TestDatabase
    password: str
    wfe: RunningWfe
    others: OtherProcesses

    async def stop(self) -> None:
        await asyncio.to_thread(self.postgres.stop)

    async def start(self) -> None:
        await asyncio.to_thread(self.postgres.start, self.password)

    async def answers(self, expected: int, **members: Any) -> None:
        """Waits until the server answers a new request with a status."""
        client = self.wfe.client(**members)
        for _ in range(600):
            client.nonces.clear()
            if (await client.post("/acme/new-account", {})).status == expected:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never {expected}")

    async def refuses_nonce(self, wfe: RunningWfe, path: str, body: bytes) -> None:
        """Waits until the nonce of a request is judged, which has to be badNonce: after a crash, sessions that were cut
        off answer 500 once each."""
        for _ in range(600):
            answer = await wfe.client().send("POST", path, data=body, headers=JOSE_JSON)
            if answer.status != 500:
                answer.require(400, "badNonce")
                return
            await asyncio.sleep(0.05)
        raise AssertionError("never judged")

    async def serves(self, client: AcmeClient) -> None:
        """Waits until an account is served; nonces of the second of a reconnection are refused, as a client knows."""
        for _ in range(600):
            client.nonces.clear()
            answer = await client.post(client.kid)
            if answer.status == 200:
                return
            answer.require(400, "badNonce")
            await asyncio.sleep(0.05)
        raise AssertionError("never 200")


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[_OwnServer]:
    """A WFE on a PostgreSQL of its own."""
    settings = DatabaseSettings(secrets_dir=tmp_path / "secrets")
    ambient = system_ambient()
    postgres = EmbeddedPostgres(directory=tmp_path / "pg", secrets_dir=settings.secrets_dir, settings={"fsync": "off"})
    password = make_password(settings, SUPERUSER, ambient)
    await asyncio.to_thread(postgres.start, password)
    await make_embedded_database(settings, ambient)
    await migrate(settings, ambient)
    database = TestDatabase(settings=settings, name="chancery")
    clock = Clock()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, postgres.stop)
        wfe = await start_wfe(stack, make_settings(database, tmp_path), clock)
        yield _OwnServer(postgres, database, password, wfe, OtherProcesses(database, clock))


async def test_a_stop_interrupts_nothing_that_needs_a_session(database: TestDatabase, tmp_path: Path) -> None:
    """A server that is stopped while it reads the overrides of limits ends that first, and logs nothing of sessions
    that are gone."""
    locker = await database.connect()
    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            wfe = await start_wfe(stack, make_settings(database, tmp_path), Clock())
            async with locker.transaction():
                await locker.execute("LOCK TABLE limit_overrides IN ACCESS EXCLUSIVE MODE")
                wfe.context.limits.changed("")
                while not await locker.fetchval(  # noqa: ASYNC110 - nothing tells
                        "SELECT EXISTS (SELECT FROM pg_locks"
                        " WHERE relation = 'limit_overrides'::regclass AND NOT granted)"):
                    await asyncio.sleep(0.01)
                await stack.aclose()
        await asyncio.sleep(0)
    await locker.close()
    assert [each["event"] for each in logs if each["log_level"] in ("warning", "error")] == []
    assert [each for each in asyncio.all_tasks() if "keep_fresh" in repr(each)] == []


async def test_p8_a_database_that_is_away(own: _OwnServer) -> None:
    """Rows P8, E78: 500 serverInternal with Retry-After and a nonce while it is away, service again when it is back.

    Nonces made before the restart are refused: what was spent just before a crash may not have reached the disk.
    """
    client = await own.wfe.subscriber()
    spent = await client.signed(client.kid)
    (await client.send("POST", client.kid, data=spent, headers=JOSE_JSON)).require(200)
    unspent = await client.signed(client.kid)
    await own.stop()
    (await client.send("GET", "/directory")).require(200)
    for _ in range(3):
        answer = (await client.post(client.kid)).require(500, "serverInternal")
        assert int(answer.headers["Retry-After"]) >= 1
        assert "asyncpg" not in answer.body.decode().lower()
    await own.start()
    await own.answers(201)
    for body in (spent, unspent):
        await own.refuses_nonce(own.wfe, client.kid, body)
    await own.serves(client)


async def test_n9_asking_for_nonces_needs_no_database(own: _OwnServer) -> None:
    """Rows N9, E9: a thousand nonces are given out while the database is stopped: nothing is written for one that is
    not used, whoever asks for how many."""
    client = own.wfe.client()
    await own.stop()
    nonces = set()
    for number in range(1_000):
        answer = await client.send("HEAD" if number % 2 else "GET", "/acme/new-nonce")
        answer.require(200 if number % 2 else 204)
        nonces.update(answer.nonces)
    assert len(nonces) == 1_000
    await own.start()
    await own.answers(201)


async def test_n9_a_crash_of_the_database(own: _OwnServer) -> None:
    """Row N9: kill -9 of one backend makes PostgreSQL recover; nonces from before are refused, later ones are fine.

    The postmaster survives such a crash, so that its start time says nothing; the forgotten rows are simulated.
    """
    client = await own.wfe.subscriber()
    body = await client.signed(client.kid)
    (await client.send("POST", client.kid, data=body, headers=JOSE_JSON)).require(200)
    await asyncio.sleep(1.1)
    victim = int(await own.others.value("SELECT pid FROM pg_stat_activity WHERE usename = 'acme_wfe' LIMIT 1"))
    os.kill(victim, signal.SIGKILL)
    await own.answers(201)
    connection = await own.database.connect()
    await connection.execute("DELETE FROM spent_nonces")
    await connection.close()
    await own.refuses_nonce(own.wfe, client.kid, body)
    # A server that was started after the crash refuses it as well.
    async with AsyncExitStack() as stack:
        fresh = await start_wfe(stack, make_settings(own.database, Path("/nonexistent")), Clock())
        await own.refuses_nonce(fresh, client.kid, body)
    await own.serves(client)


async def test_n9_a_failover(own: _OwnServer) -> None:
    """Row N9: after the LISTEN connection was lost, a server that took over may not know the last spent nonces."""
    client = await own.wfe.subscriber()
    body = await client.signed(client.kid)
    await asyncio.sleep(1.1)
    connection = await own.database.connect("acme_wfe")
    listening = "FROM pg_stat_activity WHERE application_name = 'chancery-wfe-listen'"
    assert await connection.fetchval(f"SELECT count(pg_terminate_backend(pid)) {listening}") == 1
    await asyncio.sleep(0.2)
    while not await connection.fetchval(f"SELECT count(*) {listening}"):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.05)
    await connection.close()
    # Nonces count in whole seconds, so those of the second of the change are refused too.
    await asyncio.sleep(1.1)
    (await client.send("POST", client.kid, data=body, headers=JOSE_JSON)).require(400, "badNonce")
    await own.serves(client)


async def test_e78_a_database_that_is_read_only(own: _OwnServer) -> None:
    """Rows P8, E78: 500 serverInternal with nothing of the inside, then it works again."""
    client = await own.wfe.subscriber()
    owner = await own.database.connect()
    for value, status in (("on", 500), ("off", 201)):
        await owner.execute(f"ALTER DATABASE chancery SET default_transaction_read_only = {value}")
        await own.others.run("acme_wfe", (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'acme_wfe'"
            " AND pid <> pg_backend_pid()",))
        await asyncio.sleep(0.2)
        await own.answers(status)
    await owner.close()
    await own.serves(client)
