"""Promises of the lanes: slow validations do not hold up fast ones, and nobody fills the process."""

import asyncio

import pytest

from acme_api.va.lanes import Lanes


async def test_a_slow_one_gives_up_its_starting_place() -> None:
    """After the grace the next one starts, while the slow one goes on."""
    lanes = Lanes(concurrency=1, grace_s=0.05)
    release = asyncio.Event()
    ended: list[str] = []

    async def work(name: str, until: asyncio.Event | None) -> None:
        async with lanes.place():
            if until is not None:
                await until.wait()
            ended.append(name)

    slow = asyncio.create_task(work("slow", release))
    await asyncio.sleep(0)
    await asyncio.wait_for(work("fast", None), 30)
    assert ended == ["fast"]
    release.set()
    await slow
    assert lanes.room == 1


async def test_places_are_bounded_and_come_in_turn() -> None:
    """Never more than `concurrency` are starting; who waited longest comes next."""
    lanes = Lanes(concurrency=3, grace_s=60)
    starting = most = 0
    order: list[int] = []

    async def work(number: int) -> None:
        nonlocal starting, most
        async with lanes.place():
            starting += 1
            most = max(most, starting)
            order.append(number)
            await asyncio.sleep(0.001)
            starting -= 1

    await asyncio.gather(*(work(number) for number in range(20)))
    assert most == 3
    assert order == sorted(order)
    assert lanes.room == 3


async def test_a_cancelled_wait_loses_no_place() -> None:
    """Cancelling one that waits, or one that was just given its turn, leaves every place usable."""
    lanes = Lanes(concurrency=1, grace_s=60)

    async def hold(event: asyncio.Event) -> None:
        async with lanes.place():
            await event.wait()

    for give_turn_first in (False, True):
        release = asyncio.Event()
        holder = asyncio.create_task(hold(release))
        await asyncio.sleep(0)
        waiter = asyncio.create_task(hold(asyncio.Event()))
        await asyncio.sleep(0)
        if give_turn_first:
            release.set()
            await asyncio.sleep(0)
        waiter.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await holder
        assert lanes.room == 1


async def test_sf6_one_account_does_not_fill_the_process() -> None:
    """SF6: an account with a quarter of all that may be in flight is named busy, others are not."""
    lanes = Lanes(concurrency=2, max_open=8)
    async with lanes.flight(b"a"), lanes.flight(b"b"):
        assert lanes.busy_accounts() == []
        async with lanes.flight(b"a"):
            assert lanes.busy_accounts() == [b"a"]
            assert lanes.in_flight == 3
    assert lanes.in_flight == 0
    assert lanes.busy_accounts() == []


async def test_room_shrinks_with_what_is_in_flight() -> None:
    """No room is left when as many are in hand as the process may have, or as many tries open as it has sockets for."""
    lanes = Lanes(concurrency=5, max_open=1)
    async with lanes.flight(b"a"):
        assert lanes.room == 1
        async with lanes.flight(b"b"):
            assert lanes.room == 0
    assert lanes.changed.is_set()
    async with lanes.place():
        assert lanes.room == 0
    assert lanes.room == 1


async def _hold(lanes: Lanes, entered: asyncio.Event, *, again: bool) -> None:
    async with lanes.place(again=again):
        entered.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("grace_s", [60.0, 0.01], ids=["starting", "slow"])
async def test_retries_leave_room_to_first_tries(grace_s: float) -> None:
    """However many retries hang, starting or slow: most of the places and half of the sockets are for first tries."""
    lanes = Lanes(concurrency=4, max_open=8, grace_s=grace_s)
    limit = 1 if grace_s > 1 else 4
    events = [asyncio.Event() for _ in range(20)]
    retries = [asyncio.create_task(_hold(lanes, each, again=True)) for each in events]
    async with asyncio.timeout(30):
        while sum(each.is_set() for each in events) < limit:  # noqa: ASYNC110 - the grace passes
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert sum(each.is_set() for each in events) == limit
    async with asyncio.timeout(30), lanes.place():
        pass
    for task in retries:
        task.cancel()
    await asyncio.gather(*retries, return_exceptions=True)
    assert lanes.room == 4


async def test_first_tries_come_before_retries_that_wait_longer() -> None:
    """A place that becomes free goes to a first try, whoever waited before it."""
    lanes = Lanes(concurrency=1, grace_s=60)
    order: list[str] = []

    async def work(name: str, *, again: bool) -> None:
        async with lanes.place(again=again):
            order.append(name)

    async with lanes.place():
        waiting = [asyncio.create_task(work("retry", again=True))]
        await asyncio.sleep(0)
        waiting.append(asyncio.create_task(work("first", again=False)))
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order == ["first", "retry"]
