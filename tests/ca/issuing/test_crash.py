"""A CA process that dies between any two steps, and two that race: one certificate an order, no serial twice."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from ca.issuing import queue_store
from ca.issuing.__main__ import IssuanceTurns
from ca.issuing.cycle import IssuingProcess, issue_batch
from ca.pki.serial import serial_from_int
from hsm.errors import TokenLostError
from tests.ca.issuing.world import World

STEPS = (1, 2, 3, 4, 5, 7, 14)


class Killed(BaseException):
    """The process has died: nothing of it runs any more, not even what catches exceptions."""


def _dies_after(step: int) -> Callable[[int], Awaitable[None]]:
    async def after_step(number: int) -> None:
        if number == step:
            raise Killed
    return after_step


@pytest.mark.parametrize("step", STEPS)
async def test_death_after_a_step(world: World, step: int) -> None:
    """The next process finishes every request of the batch; a serial number that was committed is the one it gets."""
    orders = [await world.ordered(f"n{number}.example.com") for number in range(2)]
    orders.append(await world.ordered("rsa.example.com", leaf=rsa.generate_private_key(65_537, 2048)))
    service = await world.service("localhost")
    refused = await world.ordered("x.example.com", validated=False)
    dying = world.process("dying")
    dying.after_step = _dies_after(step)
    with pytest.raises(Killed):
        await issue_batch(dying, 8)
    await world.check()
    begun = {row["request_id"]: row["serial"] for row in await world.owner.fetch("SELECT * FROM issuances")}
    assert len(begun) == (4 if step >= 4 else 0)
    survivor = world.process("survivor")
    assert not await issue_batch(survivor, 8), "the lease keeps others away"
    await queue_store.free_leases(world.pool, [dying.worker])
    await issue_batch(survivor, 8)
    for request_id in (*(order.id for order in orders), service):
        certificate = await world.issued(request_id)
        if request_id in begun:
            assert serial_from_int(certificate.serial_number) == begun[request_id]
    assert (await world.refusal(refused.id) or {})["status"] == 403
    assert await world.queued() == 0
    assert await world.owner.fetchval("SELECT count(*) FROM certificates") == 4
    await world.check()


@pytest.mark.parametrize("step", STEPS)
async def test_a_process_that_lost_its_lease(world: World, step: int) -> None:
    """A process that stood still until another had its requests goes on, and changes nothing any more."""
    order = await world.ordered("a.example.com")
    refused = await world.ordered("x.example.com", validated=False)
    slow, quick = world.process("slow"), world.process("quick")
    stands_still, goes_on = asyncio.Event(), asyncio.Event()

    async def after_step(number: int) -> None:
        if number == step:
            stands_still.set()
            await goes_on.wait()

    slow.after_step = after_step
    standing = asyncio.create_task(issue_batch(slow, 8))
    await stands_still.wait()
    await queue_store.free_leases(world.pool, [slow.worker])
    await issue_batch(quick, 8)
    certificate = await world.certificate(order.id)
    goes_on.set()
    await standing
    assert await world.issued(order.id) == certificate
    assert (await world.refusal(refused.id) or {})["status"] == 403
    assert await world.queued() == 0
    await world.check()


async def test_two_processes_race(world: World) -> None:
    """Forty orders, two processes, leases taken away at random moments: each order has one certificate."""
    orders = [await world.ordered(f"n{number}.example.com") for number in range(40)]
    first, second = world.process("first"), world.process("second")

    async def left() -> bool:
        return bool(await world.pool.fetchval("SELECT EXISTS (SELECT FROM issuance_requests)"))

    async def work(ca: IssuingProcess) -> None:
        while await left():
            await issue_batch(ca, 3)

    async def steal() -> None:
        while await left():
            await queue_store.free_leases(world.pool, [first.worker, second.worker])
            await asyncio.sleep(0.02)

    await asyncio.gather(work(first), work(second), steal())
    serials = {(await world.issued(order.id)).serial_number for order in orders}
    assert len(serials) == 40
    assert await world.owner.fetchval("SELECT count(*) FROM certificates") == 40
    await world.check()


async def test_faults_are_retried_and_never_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is away: the requests come back after a second, the first one alone, and all are issued then."""
    orders = [await world.ordered(f"n{number}.example.com") for number in range(3)]
    ca = world.process()
    turns = IssuanceTurns(ca)

    async def lost(*_: object) -> None:
        raise TokenLostError("the token is away")

    monkeypatch.setattr(ca.signer._thread, "run", lost)
    with pytest.raises(TokenLostError):
        await turns.step()
    monkeypatch.undo()
    assert await world.queued() == 3
    assert await world.owner.fetchval("SELECT count(*) FROM refusals") == 0
    assert await world.owner.fetchval("SELECT max(leased_until) < now() + interval '2 s' FROM issuance_requests")
    await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    assert await turns.step()
    assert await world.queued() == 2, "one by one after a fault"
    while await turns.step():
        pass
    for order in orders:
        await world.issued(order.id)
    await world.check()
