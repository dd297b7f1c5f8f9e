"""NOTIFY to the VA and the CA, after the commit and bundled.

PostgreSQL serialises the commits of notifying transactions, flush to disk included; a NOTIFY inside the transaction
that stores a request would cost us group commit. So requests are committed without one, and one small transaction
that needs no flush then wakes the other process for all that were stored meanwhile. A wake-up that is lost costs the
receiver's poll interval, nothing else.

Each wake-up costs more than it seems: the server wakes every process that listens on any channel, and who is woken for
one request claims, signs, commits and publishes for that one. So a wake-up is sent at once when there was none for a
while, and under load those of some milliseconds go together: fewer and larger batches all the way down, so that orders
are done sooner, not later.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

INTERVAL_S: Final = 0.004


class Waker(Protocol):
    """What sends."""

    async def notify(self, channels: Sequence[str]) -> None:
        """Wakes the processes that listen on the channels."""


class Notifier:
    """Sends wake-ups, at most once in `interval_s`, in which those of each channel are one."""

    def __init__(self, waker: Waker, log: FilteringBoundLogger, *, interval_s: float = INTERVAL_S) -> None:
        self._waker = waker
        self._log = log
        self._interval_s = interval_s
        self._due: set[str] = set()
        self._wake = asyncio.Event()

    def notify(self, channel: str) -> None:
        """Promises one wake-up of the channel from now on."""
        self._due.add(channel)
        self._wake.set()

    async def run(self) -> None:
        """Sends until it is cancelled."""
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            await self._wake.wait()
            if loop.time() < next_s:
                await asyncio.sleep(next_s - loop.time())
            self._wake.clear()
            due, self._due = sorted(self._due), set()
            next_s = loop.time() + self._interval_s
            try:
                await self._waker.notify(due)
            except Exception as fault:
                self._log.warning("wake-up was not sent", channels=due, fault=str(fault))
