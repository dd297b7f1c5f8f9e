"""The tail inside the test, on a real database and a real memory: which batches are applied together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from ca.process.ambient import system_ambient
from ocsp.protocol.batch import store_key
from ocsp.responder import tail as tail_module
from ocsp.responder.memory import ResponseMemory
from ocsp.responder.tail import Tail
from tests.ca.pki.authority import authority
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.processes import add_issuer, publish, times_now, until
from tests.ocsp.signing import serial_of, signed

OWN = authority(ec.generate_private_key(ec.SECP256R1()))
LATER_S = 4_000_000_000
_PATIENCE_S = 60.0


class Applied:
    """A memory that notes when news were applied to it, by the loop's clock, and how far they went."""

    def __init__(self, memory: ResponseMemory, loop: asyncio.AbstractEventLoop) -> None:
        self._memory = memory
        self._loop = loop
        self.moments: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)

    def apply(self, items: Sequence[tuple[bytes, bytes]], **how: Any) -> None:
        """What the tail's thread calls."""
        if items:
            self.moments.append(self._loop.time())
        self._memory.apply(items, **how)


@asynccontextmanager
async def following(database: TestDatabase, directory: Path) -> AsyncIterator[Applied]:
    """A tail that has read the log, and its memory."""
    directory.mkdir(exist_ok=True)
    memory = ResponseMemory(directory, map_size_gib=1)
    applied = Applied(memory, asyncio.get_running_loop())
    log = structlog.wrap_logger(logging.getLogger("test"))
    tail = Tail(database.settings, applied, directory, ambient=system_ambient(), log=log)  # type: ignore[arg-type]
    stop = asyncio.Event()
    task = asyncio.create_task(tail.run(stop))
    try:
        await asyncio.wait_for(tail.current.wait(), _PATIENCE_S)
        yield applied
    finally:
        stop.set()
        await asyncio.wait_for(task, _PATIENCE_S)
        memory.close()


async def one_more(database: TestDatabase, number: int) -> int:
    """A batch of one new certificate; returns its id."""
    times = times_now()
    return await publish(database, [signed(OWN, serial_of(number), times=times, not_after_s=LATER_S)], times)


async def reached(applied: Applied, batch_id: int) -> None:
    """Waits until the memory has this batch."""
    await until(lambda: applied.mark().batch_id >= batch_id)


async def test_batches_that_come_one_by_one_are_taken_together(database: TestDatabase, tmp_path: Path) -> None:
    """Between two writes of the memory there is a moment, however many batches come; the last is in it as well."""
    await add_issuer(database, OWN)
    async with following(database, tmp_path / "ocsp") as applied:
        for number in range(30):
            last = await one_more(database, number)
        await reached(applied, last)
        gaps = [after - before for before, after in zip(applied.moments, applied.moments[1:], strict=False)]
        assert gaps
        assert min(gaps) > tail_module._GATHER_S * 0.9       # timers of an event loop are a little early


async def test_a_batch_after_a_pause_waits_for_nobody(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is applied at once, were the moment, and the poll, an hour: the notification brings it. Who stops
    meanwhile does not wait for its end, and what was left is applied by the next run."""
    await add_issuer(database, OWN)
    for name in ("_GATHER_S", "_POLL_S"):
        monkeypatch.setattr(tail_module, name, 3600.0)
    async with following(database, tmp_path / "ocsp") as applied:
        await reached(applied, await one_more(database, 1))
        second = await one_more(database, 2)
        await asyncio.sleep(0.2)
        assert applied.mark().batch_id == second - 1
        assert len(applied.moments) == 1
    async with following(database, tmp_path / "ocsp") as applied:
        await reached(applied, second)


async def test_expired_certificates_are_forgotten_by_and_by(database: TestDatabase, tmp_path: Path) -> None:
    """Who follows the log also clears up, when there is nothing else to do."""
    await add_issuer(database, OWN)
    times = times_now()
    records = [signed(OWN, serial_of(number), times=times, not_after_s=LATER_S if number else times.this_update_s - 1)
               for number in range(2)]
    async with following(database, tmp_path / "ocsp") as applied:
        await reached(applied, await publish(database, records, times))

        def held() -> list[bool]:
            applied.renew()
            return [applied.get(store_key(1, record.serial)) is not None for record in records]

        await until(lambda: held() == [False, True])
