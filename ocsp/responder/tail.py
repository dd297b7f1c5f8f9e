"""Follows the batch log into the local store. One worker writes; the lock of a dead one is free at once."""

import asyncio
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

from ca.process.ambient import Ambient
from ca.process.postgres import UNAVAILABLE, Pool
from ca.process.worker import wait_any
from ocsp.protocol.batch import BatchError, split_batch
from ocsp.responder import store
from ocsp.responder.memory import ResponseMemory
from ocsp.responder.store import StoredBatch

_BATCHES_AT_ONCE: Final = 20
_POLL_S: Final = 1.0
_TAKE_OVER_S: Final = 0.5
_FORGET_EVERY_S: Final = 3_600.0


async def tail(
    pool: Pool,
    memory: ResponseMemory,
    directory: Path,
    *,
    ambient: Ambient,
    wake: asyncio.Event,
    stop: asyncio.Event,
    current: asyncio.Event,
    log: FilteringBoundLogger,
) -> None:
    """Waits for the writer's lock, then applies the log until `stop`; sets `current` when it has caught up.

    A worker that does not get the lock has a writer beside it, so it is current as well.
    """
    descriptor = os.open(directory / "writer.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _locked(descriptor):
            current.set()
            await wait_any(stop, timeout_s=_TAKE_OVER_S)
            if stop.is_set():
                return
        log.info("this worker writes the store")
        await _follow(pool, memory, ambient=ambient, wake=wake, stop=stop, current=current, log=log)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _follow(
    pool: Pool,
    memory: ResponseMemory,
    *,
    ambient: Ambient,
    wake: asyncio.Event,
    stop: asyncio.Event,
    current: asyncio.Event,
    log: FilteringBoundLogger,
) -> None:
    loop = asyncio.get_running_loop()
    last_id: int | None = None
    forget_at_s = loop.time()
    while not stop.is_set():
        wake.clear()
        try:
            if last_id is None:
                last_id = await _starting_point(pool, memory, log)
            batches = await store.batches_after(pool, last_id, now=ambient.now(), limit=_BATCHES_AT_ONCE)
        except (*UNAVAILABLE, TimeoutError) as fault:
            log.warning("the batch log cannot be read; serving what is here", fault=str(fault))
            await wait_any(stop, timeout_s=_POLL_S)
            continue
        if batches:
            last_id = batches[-1].id
            await asyncio.to_thread(_apply, memory, batches, log)
            continue
        current.set()
        if loop.time() >= forget_at_s:
            forget_at_s = loop.time() + _FORGET_EVERY_S
            await asyncio.to_thread(memory.forget_expired, int(ambient.now().timestamp()))
        await wait_any(wake, stop, timeout_s=_POLL_S)


async def _starting_point(pool: Pool, memory: ResponseMemory, log: FilteringBoundLogger) -> int:
    """Where the log was left; from its beginning when the store is of another log."""
    last_id = memory.last_batch_id()
    if last_id > await store.newest_batch_id(pool):
        log.warning("the store is ahead of the log: another database; filling it anew", last_batch_id=last_id)
        await asyncio.to_thread(memory.clear)
        return 0
    return last_id


def _apply(memory: ResponseMemory, batches: Sequence[StoredBatch], log: FilteringBoundLogger) -> None:
    for batch in batches:
        try:
            memory.apply(split_batch(batch.payload, batch.issuer_id), last_batch_id=batch.id)
        except BatchError as fault:
            log.error("a batch cannot be read and is left out", batch_id=batch.id, fault=str(fault))
