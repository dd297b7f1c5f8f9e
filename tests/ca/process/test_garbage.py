"""Cycles are collected when nobody is kept waiting by it."""

import asyncio
import gc
import weakref

import pytest

from ca.process import garbage


class _Node:
    def __init__(self) -> None:
        self.itself = self


async def test_cycles_go_when_the_process_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while it is busy, soon when it is not; the collector is on again when the task ends."""
    monkeypatch.setattr(garbage, "_LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(garbage, "_WORTH_A_LOOK", 0)
    idle = False
    task = asyncio.create_task(garbage.collect_when_idle(lambda: idle))
    await asyncio.sleep(0.05)
    assert not gc.isenabled()
    node = _Node()
    gone = weakref.ref(node)
    del node
    await asyncio.sleep(0.2)
    assert gone() is not None
    idle = True
    async with asyncio.timeout(30):
        while gone() is not None:  # noqa: ASYNC110 - the collector's work
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert gc.isenabled()


async def test_very_much_garbage_goes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a bound although the process is never idle."""
    monkeypatch.setattr(garbage, "_LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(garbage, "_TOO_MANY", 1000)
    task = asyncio.create_task(garbage.collect_when_idle(lambda: False))
    await asyncio.sleep(0.05)
    gone = [weakref.ref(node) for node in [_Node() for _ in range(2000)]]
    async with asyncio.timeout(30):
        while any(each() is not None for each in gone):  # noqa: ASYNC110 - the collector's work
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
