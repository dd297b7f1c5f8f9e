"""Upkeep of the database, every hour: partitions ahead of time, expired ones dropped, old CRLs and full buckets pruned.

Without it the database would refuse every new order some months after it was made, so when it last worked is shown.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from ca.admin import limit_store, upkeep_store
from ca.process.postgres import Connection, Pool
from ca.process.worker import wait_any

KEEP_CRLS_DAYS = 30
LATE_AFTER = timedelta(hours=3)
_EVERY_S = 3_600.0
_RETRY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceResult:
    """What one round did."""

    created: int
    dropped: tuple[str, ...]
    crls_pruned: int


async def maintain(connection: Connection, *, now: datetime) -> MaintenanceResult:
    """One round. Each step is a transaction of its own, the one that must never be late first."""
    created = await upkeep_store.create_partitions(connection, now)
    dropped = await upkeep_store.drop_expired_partitions(connection, now)
    pruned = await upkeep_store.prune_crls(connection, keep_days=KEEP_CRLS_DAYS)
    await limit_store.prune(connection)
    return MaintenanceResult(created=created, dropped=tuple(dropped), crls_pruned=pruned)


class Maintenance:
    """The hourly round of a process, and when it last worked."""

    def __init__(self, pool: Pool, now: Callable[[], datetime]) -> None:
        self._pool = pool
        self._now = now
        self._started_at = now()
        self.last_success_at: datetime | None = None

    def is_late(self) -> bool:
        """Whether no round has worked for three hours."""
        return self._now() - (self.last_success_at or self._started_at) > LATE_AFTER

    async def run(self, stop: asyncio.Event) -> None:
        """A round at once and then every hour until `stop`; a failed one is tried again after a minute."""
        log = structlog.get_logger()
        while not stop.is_set():
            pause_s = _EVERY_S
            try:
                async with self._pool.acquire() as connection:
                    result = await maintain(connection, now=self._now())
            except Exception:
                pause_s = _RETRY_S
                log.exception("maintenance failed", retry_in_s=pause_s)
            else:
                self.last_success_at = self._now()
                log.info("maintenance done", created=result.created, dropped=list(result.dropped),
                         crls_pruned=result.crls_pruned)
            await wait_any(stop, timeout_s=pause_s)
