"""The claim loop: it works while there is work, wakes at once, and survives a step that fails."""

import asyncio
import subprocess

import structlog

from ca.process.worker import is_dead, run_claim_loop, worker_name

_LOG = structlog.get_logger()


async def test_it_works_until_nothing_is_claimed_and_wakes_at_once() -> None:
    """Three claimed steps run without a pause; a wake-up starts the next long before the poll."""
    wake, stop = asyncio.Event(), asyncio.Event()
    left = 3
    steps = 0

    async def step() -> bool:
        nonlocal left, steps
        steps += 1
        if left == 0:
            return False
        left -= 1
        return True

    loop = asyncio.create_task(run_claim_loop(wake=wake, poll_s=3600, stop=stop, step=step, log=_LOG))
    await asyncio.sleep(0.05)
    assert steps == 4
    left = 1
    wake.set()
    await asyncio.sleep(0.05)
    assert (left, steps) == (0, 6)
    stop.set()
    await asyncio.wait_for(loop, timeout=30)


async def test_a_failing_step_is_tried_again() -> None:
    """A fault does not end the loop: the step runs again after the back-off."""
    stop = asyncio.Event()
    steps = 0

    async def step() -> bool:
        nonlocal steps
        steps += 1
        if steps == 1:
            raise RuntimeError("the database is away")
        stop.set()
        return False

    await asyncio.wait_for(
        run_claim_loop(wake=asyncio.Event(), poll_s=3600, stop=stop, step=step, log=_LOG), timeout=30)
    assert steps == 2


async def test_a_wake_up_during_a_step_is_not_lost() -> None:
    """A notification that arrives while a step finds nothing leads to one more step."""
    wake, stop = asyncio.Event(), asyncio.Event()
    steps = 0

    async def step() -> bool:
        nonlocal steps
        steps += 1
        if steps == 1:
            wake.set()
        else:
            stop.set()
        return False

    await asyncio.wait_for(run_claim_loop(wake=wake, poll_s=3600, stop=stop, step=step, log=_LOG), timeout=30)
    assert steps == 2


def test_a_lease_of_a_dead_process_of_this_host_is_known() -> None:
    """Only a process of this host that no longer runs is dead; anything else keeps its lease until it runs out."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = worker_name().partition(":")[0]
    assert is_dead(f"{host}:{ended.pid}")
    assert is_dead(f"{host}:{ended.pid}:abcdef")
    assert not is_dead(worker_name())
    assert not is_dead(f"elsewhere.example:{ended.pid}")
    assert not is_dead("nonsense")
