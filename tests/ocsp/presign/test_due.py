"""What is due again: every living certificate of a range, from when its response says to be, and not too late."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from ca.process.postgres import create_pool
from ocsp.presign import round as round_module
from ocsp.presign.store import claim_shard
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.bench import bench
from tests.ocsp.presign.certificates import DAY, Certificates
from tests.ocsp.presign.test_round import HOUR, moved


async def test_what_is_due_is_signed_again_with_the_status_of_then(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """Every unexpired certificate of the range, good and revoked; the range is due again 48 to 60 hours after its
    thisUpdate, the begun hour."""
    lasting = await certificates.add(40)
    short = await certificates.add(40, life=DAY)
    revoked = lasting[::8]
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
        assert await signer.run(signer.presigner.due) == 0
    await certificates.revoke(revoked)
    first = len(await certificates.batches())
    async with bench(database, softhsm_token, ambient=moved(61 * HOUR)) as signer:
        assert await signer.run(signer.presigner.due) == 16
        later = signer.presigner.ambient.now()
        assert await signer.run(signer.presigner.due) == 0
    again = {serial: response for _, records in (await certificates.batches())[first:]
             for serial, response in records.items()}
    assert sorted(again) == sorted(lasting)
    assert not set(again) & set(short)
    for serial, response in again.items():
        assert (response.version == 1) is (serial in revoked)
        assert abs(response.times.produced_at_s - later.timestamp()) < 120
        assert response.times.this_update_s == response.times.produced_at_s // 3_600 * 3_600
    for row in await certificates.shards():
        assert 46 * HOUR < row["due_at"] - later <= 60 * HOUR
        assert -timedelta(seconds=120) < later - row["signed_at"] < HOUR + timedelta(seconds=120)


async def test_a_large_range_is_split_and_loses_nobody(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of it get times of their own; together they are still the whole day, and each serial is signed once."""
    monkeypatch.setattr(round_module, "_LARGEST_BATCH", 7)
    serials = await certificates.add(200)
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
    first = len(await certificates.batches())
    async with bench(database, softhsm_token, ambient=moved(61 * HOUR)) as signer:
        await signer.run(signer.presigner.due)
    again = [serial for _, records in (await certificates.batches())[first:] for serial in records]
    assert sorted(again) == sorted(serials)
    rows = await certificates.shards()
    assert len(rows) > 16
    assert len({row["due_at"] for row in rows}) == len(rows)
    day = serials[0][:2]
    assert (rows[0]["first_serial"], rows[-1]["last_serial"]) == (day + bytes(16), day + b"\xff" * 16)
    for left, right in itertools.pairwise(rows):
        assert int.from_bytes(left["last_serial"], "big") + 1 == int.from_bytes(right["first_serial"], "big")


async def test_a_range_without_living_certificates_is_forgotten(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """When its day is over; until then certificates may still come."""
    await certificates.add(30, life=2 * DAY)
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
    async with bench(database, softhsm_token, ambient=moved(3 * DAY)) as signer:
        assert await signer.run(signer.presigner.due) == 16
        assert len(await certificates.shards()) == 16
    async with bench(database, softhsm_token, ambient=moved(10 * DAY)) as signer:
        await signer.run(signer.presigner.due)
    assert await certificates.shards() == []
    assert len(await certificates.batches()) == 1


async def test_an_outage_of_a_day_is_made_up_for_within_the_rule(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """Everything was due when the pre-signer went away; 24 hours later nothing is older than 96 hours. What has been
    due the longest is taken first, and whoever reads the log is told how late it was."""
    early = await certificates.add(50, at=datetime.now(UTC) - DAY)
    late = await certificates.add(50)
    async with bench(database, softhsm_token, ambient=moved(-DAY)) as signer:
        await signer.run(signer.presigner.new)
    async with bench(database, softhsm_token, ambient=moved(60 * HOUR - DAY + 24 * HOUR)) as signer:
        oldest = min(row["signed_at"] for row in await certificates.shards())
        now = signer.presigner.ambient.now()
        assert now - oldest < 96 * HOUR
        async with (await create_pool(database.settings, "ocsp_signer", process="test", max_size=2) as pool,
                    pool.acquire() as one, pool.acquire() as two, one.transaction(), two.transaction()):
            claimed = [await claim_shard(connection, [1], now=now) for connection in (one, two)]
        assert [shard and shard.due_at for shard in claimed] == sorted(
            row["due_at"] for row in await certificates.shards())[:2]
        with capture_logs() as logs:
            await signer.run(signer.presigner.due)
        late_h = [line["age_h"] for line in logs if line["event"] == "responses are signed late"]
        assert late_h == [84] * 32
        assert all(row["signed_at"] > signer.presigner.ambient.now() - HOUR for row in await certificates.shards())
    again = {serial for _, records in (await certificates.batches())[1:] for serial in records}
    assert again == {*early, *late}


async def test_who_was_revoked_within_the_hour_is_signed_from_the_begun_minute(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """In a range that is due: nothing says what was not so at its thisUpdate."""
    serials = await certificates.add(200)
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
    first = len(await certificates.batches())
    revoked_at = (datetime.now(UTC) + 61 * HOUR).replace(minute=1, second=0, microsecond=0)
    await certificates.owner.executemany(
        "INSERT INTO revocations (serial, revoked_at, reason, version, authority, evidence)"
        " VALUES ($1, $2, 4, 1, 'operator', '{}')", [(serial, revoked_at) for serial in serials[:1]])
    moment_of_signing = revoked_at + timedelta(seconds=30) - datetime.now(UTC)
    async with bench(database, softhsm_token, ambient=moved(moment_of_signing)) as signer:
        await signer.run(signer.presigner.due)
    of_batch = [records for _, records in (await certificates.batches())[first:]]
    assert sum(map(len, of_batch)) == 200
    for records in of_batch:
        is_changed = serials[0] in records
        for response in records.values():
            step_s = 60 if is_changed else 3_600
            assert response.times.this_update_s == response.times.produced_at_s // step_s * step_s
            assert response.times.produced_at_s % 3_600 >= 60 or not is_changed
