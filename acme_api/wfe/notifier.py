"""NOTIFY to the VA and the CA, after the commit and bundled.

PostgreSQL serialises the commits of notifying transactions, flush to disk included; a NOTIFY inside the transaction
that stores a request would cost us group commit. So requests are committed without one, and one small transaction
that needs no flush then wakes the other process for all that were stored meanwhile. A wake-up that is lost costs the
receiver's poll interval, nothing else.
"""

import asyncio

from structlog.typing import FilteringBoundLogger

from acme_api.wfe.store import Store


class Notifier:
    """Sends each channel's wake-up as soon as the one before is sent."""

    def __init__(self, store: Store, log: FilteringBoundLogger) -> None:
        self._store = store
        self._log = log
        self._due: set[str] = set()
        self._wake = asyncio.Event()

    def notify(self, channel: str) -> None:
        """Promises one wake-up of the channel from now on."""
        self._due.add(channel)
        self._wake.set()

    async def run(self) -> None:
        """Sends until it is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, self._due = sorted(self._due), set()
            try:
                await self._store.notify(due)
            except Exception as fault:
                self._log.warning("wake-up was not sent", channels=due, fault=str(fault))
