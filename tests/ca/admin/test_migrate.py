"""Roles, migrations and grants on a real server."""

import asyncpg
import pytest

from ca.admin import migrate as migrate_module
from ca.admin.migrate import PROCESS_ROLES, migrate
from ca.process.ambient import system_ambient
from ca.process.lifecycle import StartupError
from tests.fixtures_postgres import TestDatabase


async def test_a_second_run_changes_nothing(database: TestDatabase) -> None:
    """Migrating a migrated database applies no file and no grant."""
    result = await migrate(database.settings, system_ambient())
    assert result.applied == ()
    assert not result.grants_changed


async def test_every_process_role_logs_in_with_its_own_password(database: TestDatabase) -> None:
    """Each role connects under its own name, and none is a superuser or may make roles."""
    for role in PROCESS_ROLES:
        connection = await database.connect(role)
        row = await connection.fetchrow("SELECT current_user AS name, rolsuper, rolcreaterole FROM pg_roles"
                                        " WHERE rolname = current_user")
        await connection.close()
        assert row is not None
        assert (row["name"], row["rolsuper"], row["rolcreaterole"]) == (role, False, False)


async def test_a_wrong_password_is_refused(database: TestDatabase) -> None:
    """The server asks every role for its password, also over the local socket."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(database.settings.url, user="acme_wfe", password="wrong")


async def test_partitions_reach_two_months_ahead_and_expired_ones_are_dropped(database: TestDatabase) -> None:
    """A key of any moment from yesterday to two months ahead has a partition, and none is made further ahead, because
    each costs every statement something; dropping leaves the present ones."""
    owner = await database.connect()
    assert await owner.fetchval("SELECT partitions_until() > current_date + 7")
    ahead = await owner.fetch(
        "SELECT right(c.relname, 8) AS first_day FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'orders'::regclass ORDER BY 1")
    last = await owner.fetchval("SELECT to_char(date_trunc('month', (now() AT TIME ZONE 'UTC') + interval '2 months'),"
                                " 'YYYYMMDD')")
    assert (len(ahead) in (3, 4), ahead[-1]["first_day"]) == (True, last)
    assert await owner.fetchval("SELECT create_partitions(now())") == 0
    dropped = await owner.fetch("SELECT drop_expired_partitions(now() + interval '20 days')")
    names = {row[0] for row in dropped}
    assert names
    assert all(name.startswith(("spent_nonces_", "ocsp_batches_")) for name in names)
    await owner.close()


async def test_an_edited_migration_is_refused(database: TestDatabase) -> None:
    """A migration whose text changed after it was applied stops the migrator and names the file."""
    owner = await database.connect()
    await owner.execute("UPDATE schema_migrations SET sha256 = 'x' WHERE name = '0001_facts.sql'")
    with pytest.raises(StartupError, match=r"0001_facts\.sql"):
        await migrate(database.settings, system_ambient())
    await owner.execute("INSERT INTO schema_migrations VALUES ('9999_future.sql', 'x')")
    with pytest.raises(StartupError, match=r"9999_future\.sql"):
        await migrate(database.settings, system_ambient())
    await owner.close()
    assert migrate_module.OWNER == "chancery_owner"
