"""Connections: the right role or a clear line, and a LISTEN that misses nothing."""

import asyncio
from pathlib import Path

import pytest

from ca.process import postgres
from ca.process.lifecycle import StartupError
from ca.process.postgres import Listener, connect, create_pool
from ca.process.settings import DatabaseSettings
from tests.fixtures_postgres import TestDatabase


async def test_a_notification_wakes_and_a_lost_connection_wakes_too(database: TestDatabase) -> None:
    """Each payload reaches its callback; when the connection is cut, the callback is called with "" once it is back."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    owner = await database.connect()
    async with Listener(database.settings, "ca_issuer", "test", {"issuance": heard.put_nowait}):
        assert await asyncio.wait_for(heard.get(), 5) == ""
        await owner.execute("NOTIFY issuance, 'abc'")
        assert await asyncio.wait_for(heard.get(), 5) == "abc"
        await owner.execute("CREATE TABLE cut AS SELECT 1")
        superuser = await connect(database.settings, "postgres", process="test")
        await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                                " WHERE application_name = 'chancery-test-listen'")
        await superuser.close()
        assert await asyncio.wait_for(heard.get(), 5) == ""
        await owner.execute("NOTIFY issuance, 'def'")
        assert await asyncio.wait_for(heard.get(), 5) == "def"
    await owner.close()


async def test_jsonb_is_a_python_object_on_both_sides(database: TestDatabase) -> None:
    """A pool's connections are the process's own, and speak JSON."""
    pool = await create_pool(database.settings, "acme_va", process="test")
    assert await pool.fetchval("SELECT $1::jsonb", {"a": [1, None]}) == {"a": [1, None]}
    assert await pool.fetchval("SELECT current_user || ' ' || current_setting('application_name')"
                               ) == "acme_va chancery-test"
    await pool.close()


async def test_an_unreachable_database_is_one_clear_line(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No traceback: what is wrong and what to do."""
    monkeypatch.setattr(postgres, "_START_PATIENCE_S", 0.3)
    nowhere = DatabaseSettings(url="postgresql://127.0.0.1:9/chancery", secrets_dir=database.settings.secrets_dir)
    with pytest.raises(StartupError, match=r"the database cannot be reached: .*is PostgreSQL running"):
        await connect(nowhere, "acme_wfe", process="test")
    with pytest.raises(StartupError, match="password file of database role acme_wfe"):
        await connect(DatabaseSettings(secrets_dir=tmp_path), "acme_wfe", process="test")
    (tmp_path / "acme_wfe.password").write_text("wrong\n", "ascii")
    with pytest.raises(StartupError, match="the database refuses the connection"):
        await connect(DatabaseSettings(url=database.settings.url, secrets_dir=tmp_path), "acme_wfe", process="test")
