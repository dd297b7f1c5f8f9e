"""The admin process reads CRLs back every ten minutes; what is wrong shows on the page, in /healthz and /metrics."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog

from ca.admin import crl_store as store
from ca.admin.crl_check import CrlFault, read_back
from ca.admin.status import Reason
from ca.process.postgres import UNAVAILABLE, Pool, PostgresError
from ca.process.worker import wait_any

_FIRST_AFTER_S: Final = 60.0
_EVERY_S: Final = 600.0
_SHOWN: Final = 3


class CrlWatch:
    """What the last reading found; nothing before the first one."""

    def __init__(self, pool: Pool, crl_base_url: str, now: Callable[[], datetime]) -> None:
        self._pool = pool
        self._crl_base_url = crl_base_url
        self._now = now
        self.faults: list[CrlFault] = []

    def reasons(self) -> list[Reason]:
        """One reason for all CRLs that are not as they should be, with the first of them."""
        if not self.faults:
            return []
        shown = "; ".join(f"{one.url}: {one.fault}" for one in self.faults[:_SHOWN])
        return [Reason(code="crl_unreadable",
                       text=f"{len(self.faults)} CRLs are not what the world should see: {shown}")]

    async def look(self) -> None:
        """Reads all CRLs once."""
        async with self._pool.acquire() as connection:
            published = await store.published(connection, self._crl_base_url)
        self.faults = await read_back(published, now=self._now())

    async def run(self, stop: asyncio.Event) -> None:
        """A minute after the start, and every ten minutes, until `stop`."""
        await wait_any(stop, timeout_s=_FIRST_AFTER_S)
        log = structlog.get_logger()
        while not stop.is_set():
            try:
                await self.look()
            except (PostgresError, TimeoutError, *UNAVAILABLE) as fault:
                log.warning("CRLs are not read back", fault=str(fault) or type(fault).__name__)
            for one in self.faults[:_SHOWN]:
                log.error("a CRL is not what the world should see", url=one.url, fault=one.fault)
            await wait_any(stop, timeout_s=_EVERY_S)
