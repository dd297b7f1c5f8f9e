"""Upkeep: partitions come in time, expired ones go, old CRLs go, and nothing else does."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from ca.admin.maintenance import KEEP_CRLS_DAYS, Maintenance, maintain
from ca.process.ambient import system_ambient
from ca.process.postgres import PostgresError, create_pool
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import DAY, Seed


async def _numbers(seed: Seed, shard: int) -> list[int]:
    connection = await seed.database.connect("ca_admin")
    rows = await connection.fetch("SELECT number FROM crls WHERE shard = $1 ORDER BY number", shard)
    await connection.close()
    return [int(row["number"]) for row in rows]


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(100):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about within 5 s")


async def test_prune_keeps_the_newest_five_and_the_last_thirty_days(seed: Seed) -> None:
    """A shard that was busy keeps its month, one that stood still keeps its newest five, however old."""
    await seed.issuer(shards=2)
    for number in range(10):
        await seed.crl(0, number, age=(45 - 2 * number) * DAY)      # 45, 43 ... 27 days old
        await seed.crl(1, number, age=(100 - number) * DAY)
    connection = await seed.database.connect("ca_admin")
    result = await maintain(connection, now=seed.now)
    await connection.close()
    assert await _numbers(seed, 0) == [5, 6, 7, 8, 9]
    assert await _numbers(seed, 1) == [5, 6, 7, 8, 9]
    assert result.crls_pruned == 10


async def test_prune_leaves_a_young_shard_alone(seed: Seed) -> None:
    """Younger than thirty days is kept, however many there are."""
    await seed.issuer(shards=1)
    for number in range(20):
        await seed.crl(0, number, age=timedelta(hours=6 * (20 - number)))
    connection = await seed.database.connect("ca_admin")
    assert (await maintain(connection, now=seed.now)).crls_pruned == 0
    await connection.close()
    assert len(await _numbers(seed, 0)) == 20


@pytest.mark.parametrize("keep_days", [29, 0, -1, None])
async def test_nobody_may_ask_to_keep_less(seed: Seed, keep_days: int | None) -> None:
    """The function refuses less than thirty days, so that a captured operator's role cannot wipe the record."""
    connection = await seed.database.connect("ca_admin")
    with pytest.raises(PostgresError, match="at least 30 days"):
        await connection.fetchval("SELECT prune_crls($1)", keep_days)
    await connection.close()


@pytest.mark.parametrize("role", ["ca_issuer", "ca_reader", "acme_wfe", "acme_va", "ocsp_signer", "ocsp_reader"])
async def test_no_other_role_prunes(seed: Seed, role: str) -> None:
    """EXECUTE belongs to ca_admin alone."""
    connection = await seed.database.connect(role)
    with pytest.raises(PostgresError, match="permission denied"):
        await connection.fetchval("SELECT prune_crls($1)", KEEP_CRLS_DAYS)
    await connection.close()


async def test_partitions_follow_the_clock(seed: Seed) -> None:
    """Half a year on, the coming months exist and spent nonces of today are gone."""
    connection = await seed.database.connect("ca_admin")
    result = await maintain(connection, now=seed.now + 200 * DAY)
    assert result.created > 0
    assert any(name.startswith("spent_nonces_") for name in result.dropped)
    assert not any(name.startswith("certificates_") for name in result.dropped)
    assert (await maintain(connection, now=seed.now + 200 * DAY)).created == 0
    await connection.close()


async def test_command_needs_yes(seed: Seed, command_line: CommandLine) -> None:
    """Without --yes `db maintain` says what it would do, does nothing, and exits with 4."""
    await seed.issuer(shards=1)
    for number in range(7):
        await seed.crl(0, number, age=(100 - number) * DAY)
    told = await command_line.run("db", "maintain", exit_code=4)
    assert "2 CRLs to prune" in told.stdout
    assert "--yes" in told.stderr
    assert len(await _numbers(seed, 0)) == 7
    document = await command_line.json("db", "maintain", "--yes")
    assert document == {"done": True, "created": 0, "dropped": [], "crls_pruned": 2}
    assert len(await _numbers(seed, 0)) == 5


async def test_hourly_round_survives_a_lock(seed: Seed) -> None:
    """A table that a long transaction holds makes the round fail, not wait: everybody else would queue behind it."""
    pool = await create_pool(seed.database.settings, "ca_admin", process="test")
    holder = await seed.database.connect("acme_wfe")
    transaction = holder.transaction()
    await transaction.start()
    await holder.fetch("SELECT 1 FROM spent_nonces LIMIT 1")
    moved = seed.now + 200 * DAY
    maintenance = Maintenance(pool, lambda: moved)
    stop = asyncio.Event()
    task = asyncio.create_task(maintenance.run(stop))
    await asyncio.sleep(4)
    assert maintenance.last_success_at is None
    await transaction.rollback()
    await holder.close()
    stop.set()
    await task
    again = asyncio.create_task(maintenance.run(stop := asyncio.Event()))
    await _until(lambda: maintenance.last_success_at == moved)
    stop.set()
    await again
    pool.terminate()


async def test_lateness_is_noticed(seed: Seed) -> None:
    """Three hours without a working round are a reason to look."""
    pool = await create_pool(seed.database.settings, "ca_admin", process="test")
    clock = [system_ambient().now()]
    maintenance = Maintenance(pool, lambda: clock[0])
    assert not maintenance.is_late()
    clock[0] += timedelta(hours=3, minutes=1)
    assert maintenance.is_late()
    pool.terminate()
