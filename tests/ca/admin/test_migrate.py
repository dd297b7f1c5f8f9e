"""Roles, migrations and grants on a real server."""

import itertools
from datetime import UTC, datetime, timedelta

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
    """A key of any moment from yesterday to two months ahead has a partition of half a year, and none is made further
    ahead, because each costs every statement something; dropping leaves the present ones."""
    owner = await database.connect()
    assert await owner.fetchval("SELECT partitions_until() > current_date + 7")
    ranges = await owner.fetch("SELECT begins, ends FROM partition_ranges('orders') ORDER BY begins")
    now = datetime.now(UTC).replace(tzinfo=None)
    assert ranges[0]["begins"] <= now - timedelta(days=1)
    assert ranges[-1]["begins"] <= now + timedelta(days=62)
    assert ranges[-1]["ends"] > now + timedelta(days=58)
    assert len(ranges) <= 2
    assert {(each["begins"].month, each["begins"].day, each["ends"].month, each["ends"].day) for each in ranges} <= {
        (1, 1, 7, 1), (7, 1, 1, 1)}
    assert await owner.fetchval("SELECT create_partitions(now())") == 0
    dropped = await owner.fetch("SELECT drop_expired_partitions(now() + interval '20 days')")
    names = {row[0] for row in dropped}
    assert names
    assert all(name.startswith(("spent_nonces_", "ocsp_batches_")) for name in names)
    await owner.close()


@pytest.mark.parametrize(("table", "key"), [
    ("orders", "id"), ("certificates", "serial"), ("spent_nonces", "nonce"), ("ocsp_batches", "time")])
async def test_bounds_say_the_ranges_of_partitions(database: TestDatabase, table: str, key: str) -> None:
    """What partition_ranges reads from the bounds of each kind of key is what they were made from; ranges follow each
    other without a gap, and a partition is named by its first day."""
    owner = await database.connect()
    ranges = await owner.fetch("SELECT child, begins, ends FROM partition_ranges($1) ORDER BY begins", table)
    assert ranges
    assert all(one["ends"] == other["begins"] for one, other in itertools.pairwise(ranges))
    for each in ranges:
        assert each["child"] == f"{table}_{each['begins']:%Y%m%d}"
        for moment in (each["begins"], each["ends"]):
            literal = await owner.fetchval(
                "SELECT partition_bound($1, $2::timestamp AT TIME ZONE 'UTC')", key, moment)
            bound = literal.strip("E' ").replace("\\\\", "\\")
            assert await owner.fetchval("SELECT partition_moment($1, $2)", key, bound) == moment
    await owner.close()


async def test_partitions_fill_every_gap(database: TestDatabase) -> None:
    """Over five years of upkeep, here once in six weeks, each new partition begins where the last one ends, at most two
    reach beyond the present day, and what is kept of two years is seven of them at most."""
    owner = await database.connect()
    for weeks in range(0, 260, 6):
        moment = datetime.now(UTC) + timedelta(weeks=weeks)
        await owner.execute("SELECT create_partitions($1)", moment)
        await owner.fetch("SELECT drop_expired_partitions($1)", moment)
        ranges = await owner.fetch("SELECT begins, ends FROM partition_ranges('certificates') ORDER BY begins")
        assert all(one["ends"] == other["begins"] for one, other in itertools.pairwise(ranges))
        now = moment.replace(tzinfo=None)
        assert sum(each["ends"] > now for each in ranges) <= 2
        assert ranges[-1]["ends"] > now + timedelta(days=58)
        assert len(ranges) <= 7
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
