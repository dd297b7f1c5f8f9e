"""Lanes share the token, and go on while there is something to do."""

import asyncio
import os
from datetime import UTC, datetime, timedelta

import pytest

from ca.pki.serial import serial_number
from ca.process.ambient import system_ambient
from ca.process.postgres import Connection, create_pool
from hsm.key import private_key
from hsm.thread import HsmThread
from ocsp.presign import round as round_module
from ocsp.presign import store
from ocsp.presign.gate import LaneName, SigningGate
from ocsp.presign.round import Claimed, Lane, Queue
from ocsp.presign.tell import tell
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.bench import bench
from tests.ocsp.presign.certificates import Certificates


async def test_revocations_overtake_what_is_being_signed(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """A batch of RSA certificates takes seconds; a revocation that comes then is published long before its end."""
    many = await certificates.add(600, issuer_id=2)
    revoked, = await certificates.add(1, asked=False)
    async with bench(database, softhsm_token) as signer:
        bulk = asyncio.create_task(signer.run(signer.presigner.new))
        await asyncio.sleep(0.15)
        await certificates.revoke([revoked])
        started = asyncio.get_running_loop().time()
        await signer.run(signer.presigner.changed)
        took_s = asyncio.get_running_loop().time() - started
        assert not bulk.done()
        await bulk
    print(f"revocation beside a bulk of RSA: {took_s * 1e3:.0f} ms")
    assert sum(len(records) for _, records in await certificates.batches()) == len(many) + 1


class FullRound:
    """There is always more to claim, or so much as is said."""

    def __init__(self, limits: list[int], count: int | None = None) -> None:
        self._limits = limits
        self._count = count

    async def claim(self, connection: Connection, limit: int) -> Claimed:
        """As much as is wanted, or as there is."""
        self._limits.append(limit)
        return Claimed(limit if self._count is None else self._count, limit)

    async def work(self, connection: Connection) -> None:
        """Takes so long that less is claimed the next time."""
        await asyncio.sleep(0.02)

    def committed(self) -> bool:
        """Nothing is left."""
        return False


async def test_there_is_more_to_do_whatever_size_batches_have_meanwhile(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that claimed all that it wanted is followed by another one at once, not after the poll, even when the
    rounds before it made batches smaller while it waited for its turn."""
    monkeypatch.setattr(round_module, "_ROUND_S", 0.01)
    limits: list[int] = []
    pool = await create_pool(database.settings, "ocsp_signer", process="test", max_size=3)
    async with pool:
        lane = Lane(pool, lambda: FullRound(limits))
        assert all([await lane.full_step() for _ in range(6)])
        await lane.drain()
    assert limits[0] > limits[-1] > 0


@pytest.mark.parametrize("count", [None, 0], ids=["all that was wanted", "nothing"])
async def test_nothing_is_gathered_for_when_there_is_plenty_or_was_nothing(
    database: TestDatabase, count: int | None
) -> None:
    """In bulk rounds follow each other at once, and so does the first one that finds something."""
    limits: list[int] = []
    pool = await create_pool(database.settings, "ocsp_signer", process="test", max_size=3)
    async with pool, asyncio.timeout(60):
        lane = Lane(pool, lambda: FullRound(limits, count), gather_s=600.0)
        for _ in range(4):
            await lane.full_step()
        await lane.drain()
    assert len(limits) == 4


async def test_new_certificates_that_come_soon_are_signed_together(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """The first one at once; those that come behind it wait for their time and are one batch, and whatever woke the
    lane meanwhile is served by their claim."""
    loop = asyncio.get_running_loop()
    async with bench(database, softhsm_token) as signer:
        lane = signer.presigner.new
        lane._gather_s = 600.0
        alone = await certificates.add(1)
        async with asyncio.timeout(60):
            await lane.full_step()
        assert lane._next_s > loop.time() + 500
        behind = [serial for _ in range(3) for serial in await certificates.add(2)]
        lane._gather_s = 0.0
        lane._next_s = due_s = loop.time() + 0.5
        waiting = asyncio.create_task(lane.full_step())
        await asyncio.sleep(0)
        lane.wake.set()
        await waiting
        assert loop.time() >= due_s
        assert not lane.wake.is_set()
        await lane.drain()
    first, *others = [sorted(records) for _, records in await certificates.batches()]
    assert first == alone
    assert sorted(serial for records in others for serial in records) == sorted(behind)
    assert len(others) == 1
    assert await certificates.waiting() == 0


async def test_what_comes_before_the_last_claim_is_not_forgotten(
    certificates: Certificates, database: TestDatabase
) -> None:
    """Full claims go on one behind the other; one that finds less takes what is left, or was queued, before it, each
    request once and in the order of the serial numbers."""
    day = datetime.now(UTC)
    early, middle, late = (sorted(serial_number(day, bytes((first,)) + os.urandom(15)) for _ in range(4))
                           for first in (1, 80, 160))
    await certificates.add(0, serials=middle + late)
    queue = Queue(store.claim_new)
    pool = await create_pool(database.settings, "ocsp_signer", process="test", max_size=3)
    async with pool, pool.acquire() as one, one.transaction():
        first = await queue.claim(one, [1, 2], 4)
        async with pool.acquire() as two, two.transaction():
            second = await queue.claim(two, [1, 2], 3)
            await certificates.add(0, serials=early)
        # The second one's requests, which it did not end, and the early ones lie before the place.
        async with pool.acquire() as three, three.transaction():
            third = await queue.claim(three, [1, 2], 9)
    assert [status.serial for status in first.statuses] == middle
    assert [status.serial for status in second.statuses] == late[:3]
    assert ([status.serial for status in third.statuses], third.count) == (early + late, 8)


async def test_several_presigners_end_together(certificates: Certificates, database: TestDatabase) -> None:
    """Two that share two thousand requests: batches become small towards the end, none takes more than half of what the
    other left, each request is claimed once, and the place that one has reached is not walked over again by itself."""
    serials = await certificates.add(2_000)
    pool = await create_pool(database.settings, "ocsp_signer", process="test", max_size=2, options=store.OPTIONS)
    queues = [Queue(store.claim_new, store.last_new) for _ in range(2)]
    sizes: list[list[int]] = [[], []]
    claimed: list[bytes] = []
    async with pool, pool.acquire() as one, pool.acquire() as two, one.transaction(), two.transaction():
        for _ in range(60):
            # Whoever has less to do claims next.
            which = min((0, 1), key=lambda number: sum(sizes[number]))
            found = await queues[which].claim((one, two)[which], [1, 2], 400, sharers=2)
            if not found.count:
                break
            assert found.count <= found.wanted <= 400
            sizes[which].append(found.count)
            claimed += [status.serial for status in found.statuses]
            # As a round does; what it has locked itself it would find again.
            await store.end_requests((one, two)[which], [store.ClaimedRequest(status.serial, 0)
                                                         for status in found.statuses])
    assert sorted(claimed) == serials
    ours, theirs = sizes
    assert ours[0] == theirs[0] == 400
    print(sizes)
    assert min(ours[-1], theirs[-1]) < 50
    assert abs(sum(ours) - sum(theirs)) < 200
    assert len(ours) + len(theirs) < 40


async def test_a_presigner_knows_how_many_share_the_work(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """Those that said so lately, this one included; not those that have been silent, however they ended."""
    now = system_ambient().now()
    stop = asyncio.Event()
    async with bench(database, softhsm_token) as signer, asyncio.timeout(60):
        for worker, age_s in (("host:1", 1), ("host:2", 60)):
            await store.show_signer(signer.pool, worker=worker, speeds=signer.presigner.speeds(),
                                    now=now - timedelta(seconds=age_s))
        assert signer.presigner.sharers == 1
        telling = asyncio.create_task(tell(signer.pool, signer.presigner, asyncio.Event(), stop, signer.presigner.log))
        while signer.presigner.sharers == 1:  # noqa: ASYNC110 - what a task of the process finds out
            await asyncio.sleep(0.02)
        assert signer.presigner.sharers == 2
        stop.set()
        await telling


async def test_one_presigner_alone_takes_full_batches(certificates: Certificates, database: TestDatabase) -> None:
    """There is nobody to leave anything to; and so is it with revocations, of which nobody knows how many there are."""
    await certificates.add(1_000)
    pool = await create_pool(database.settings, "ocsp_signer", process="test", max_size=2, options=store.OPTIONS)
    async with pool, pool.acquire() as one, pool.acquire() as two:
        async with one.transaction():
            queue = Queue(store.claim_new, store.last_new)
            assert [(await queue.claim(one, [1, 2], 400)).count for _ in range(2)] == [400, 400]
            async with two.transaction():
                assert (await queue.claim(two, [1, 2], 400)).count == 200
        assert (await Queue(store.claim_changed).claim(one, [1, 2], 400, sharers=2)).wanted == 400


async def test_a_claim_waits_until_the_token_is_nearly_free(database: TestDatabase) -> None:
    """What is claimed early nobody else can sign. A round that ends early is not waited for any longer."""
    limits: list[int] = []
    left_s = [600.0]
    pool = await create_pool(database.settings, "ocsp_signer", process="test", max_size=3)
    async with pool, asyncio.timeout(60):
        blocked = asyncio.Event()

        class SlowRound(FullRound):
            async def work(self, connection: Connection) -> None:
                await blocked.wait()

        lane = Lane(pool, lambda: SlowRound(limits), left_s=lambda: left_s[0])
        assert await lane.full_step()
        second = asyncio.create_task(lane.full_step())
        await asyncio.sleep(0.1)
        assert len(limits) == 1
        blocked.set()
        assert await second
        assert len(limits) == 2
        # With little left, a claim is made beside the one that is being signed.
        blocked.clear()
        left_s[0] = 0.0
        assert all([await lane.full_step() for _ in range(2)])
        assert len(limits) == 4
        blocked.set()
        await lane.drain()


async def test_the_gate_knows_how_long_it_is_busy(softhsm_token: SoftHsm) -> None:
    """From the moment that signatures are asked for, also while the audit log is written; nothing of other lanes."""
    async with await HsmThread.open(module=softhsm_token.module, conf=softhsm_token.conf,
                                    pin_file=softhsm_token.pin_file, token_label=softhsm_token.token_label) as thread:
        key = await thread.run(private_key, thread.token, softhsm_token.ec_label)
        gate = SigningGate(thread)
        await gate.sign(LaneName.NEW, key, [b"m"] * 500)
        each_s = gate.signature_s(key.label, 1)
        assert each_s is not None
        assert gate.left_s(LaneName.NEW) == 0.0
        asked = [asyncio.create_task(gate.sign(LaneName.NEW, key, [b"m"] * 2_000)) for _ in range(2)]
        await asyncio.sleep(0)
        assert gate.left_s(LaneName.NEW) > 2_000 * each_s / 4
        assert gate.left_s(LaneName.DUE) == 0.0
        await asyncio.gather(*asked)
        assert gate.left_s(LaneName.NEW) == 0.0


async def test_no_lane_starves(softhsm_token: SoftHsm) -> None:
    """While revocations keep coming, new and due ones still get their share of the token."""
    async with await HsmThread.open(module=softhsm_token.module, conf=softhsm_token.conf,
                                    pin_file=softhsm_token.pin_file, token_label=softhsm_token.token_label) as thread:
        key = await thread.run(private_key, thread.token, softhsm_token.ec_label)
        gate = SigningGate(thread)
        made = dict.fromkeys(LaneName, 0)
        ending = asyncio.Event()

        async def keep_asking(lane: LaneName) -> None:
            while not ending.is_set():
                made[lane] += len(await gate.sign(lane, key, [b"m"] * 500))
                if made[LaneName.DUE] >= 1_000:
                    ending.set()

        askers = [asyncio.create_task(keep_asking(lane)) for lane in LaneName for _ in range(2)]
        await asyncio.gather(*askers)
    print(made)
    assert made[LaneName.CHANGED] > made[LaneName.NEW] > made[LaneName.DUE] > 0
