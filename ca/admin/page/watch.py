"""Looks at the database for the page, the health check and the metrics; many viewers cost one look."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from ca.admin.maintenance import Maintenance
from ca.admin.output import span
from ca.admin.page.crl_watch import CrlWatch
from ca.admin.status import Reason, Status, look
from ca.process.postgres import UNAVAILABLE, Pool, PostgresError
from ca.process.settings import OcspSettings

_FRESH_FOR = timedelta(seconds=5)
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is shown: the latest facts, if there have ever been any, and every reason why all is not well."""

    at: datetime
    status: Status | None
    reasons: tuple[Reason, ...]
    database_answers: bool
    maintained_at: datetime | None


class Watch:
    """The latest look, taken anew when it is older than five seconds."""

    def __init__(
        self, pool: Pool, ocsp: OcspSettings, maintenance: Maintenance, now: Callable[[], datetime],
        transparency: bool = False, crls: CrlWatch | None = None,
        notices: Callable[[datetime], Iterable[Reason]] = lambda _now: (),
    ) -> None:
        self._pool = pool
        self._ocsp = ocsp
        self._maintenance = maintenance
        self._now = now
        self._transparency = transparency
        self._crls = crls
        self._notices = notices
        self._lock = asyncio.Lock()
        self._tried_at: datetime | None = None
        self._status: Status | None = None
        self._fault = ""

    async def view(self) -> View:
        """What to show now. Never raises: a database that is away is a reason too."""
        async with self._lock:
            now = self._now()
            if self._tried_at is None or now - self._tried_at > _FRESH_FOR:
                await self._look(now)
                self._tried_at = now
        return self._judge(self._now())

    async def _look(self, now: datetime) -> None:
        for _attempt in range(2):
            try:
                async with asyncio.timeout(_PATIENCE_S), self._pool.acquire() as connection:
                    self._status = await look(connection, now=now, ocsp=self._ocsp,
                                              transparency=self._transparency, notices=self._notices(now))
            except TimeoutError:
                self._fault = f"no answer within {_PATIENCE_S:.0f} s"
                break
            except (PostgresError, *UNAVAILABLE) as fault:
                self._fault = " ".join(str(fault).split()) or type(fault).__name__
            else:
                self._fault = ""
                return
            # After a restart of the server the pool still holds connections of before: they say nothing about now.
            await self._pool.expire_connections()
        structlog.get_logger().warning("the database did not answer", fault=self._fault)

    def _judge(self, now: datetime) -> View:
        reasons = list(self._status.reasons if self._status else ())
        if self._crls is not None:
            reasons += self._crls.reasons()
        if self._maintenance.is_late():
            last = self._maintenance.last_success_at
            reasons.insert(0, Reason(code="maintenance_late", text="the hourly upkeep of the database has not worked "
                                     + (f"for {span(now - last)}" if last else "since this process started")))
        if self._fault:
            reasons.insert(0, Reason(code="database_away", text=f"the database does not answer: {self._fault}"))
        return View(at=now, status=self._status, reasons=tuple(reasons), database_answers=not self._fault,
                    maintained_at=self._maintenance.last_success_at)
