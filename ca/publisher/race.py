"""Several logs race for one precertificate: two are asked at once, the next each second or when one fails.

The first set of SCTs that complies ends the race. What came too late is not waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ca.pki.ct_log_list import CtLog
from ca.pki.ct_policy import VerifiedSct

_FIRST_LOGS: Final = 2


@dataclass(slots=True, kw_only=True)
class Race:
    """How to run races. `ask` gives a verified SCT, or None when the log has none for us; it raises nothing else."""

    ask: Callable[[CtLog], Awaitable[VerifiedSct | None]]
    stagger_s: float
    total_s: float
    _running: list[asyncio.Task[VerifiedSct | None]] = field(default_factory=list, init=False)

    async def run(
        self, order: Sequence[CtLog], found: Sequence[VerifiedSct], is_enough: Callable[[Sequence[VerifiedSct]], bool]
    ) -> list[VerifiedSct]:
        """`found` and what the logs of `order` add to it, in the order of arrival, until it is enough or time is up."""
        clock = asyncio.get_running_loop()
        ends_s = clock.time() + self.total_s
        arrived, waiting = list(found), list(order)
        try:
            self._start(waiting, _FIRST_LOGS)
            next_s = clock.time() + self.stagger_s
            while not is_enough(arrived) and (self._running or waiting) and clock.time() < ends_s:
                until_s = min(ends_s, next_s) if waiting else ends_s
                if self._running:
                    await asyncio.wait(self._running, timeout=max(0.0, until_s - clock.time()),
                                       return_when=asyncio.FIRST_COMPLETED)
                scts = [task.result() for task in self._running if task.done()]
                self._running = [task for task in self._running if not task.done()]
                arrived += [sct for sct in scts if sct is not None]
                failed = scts.count(None)
                if failed or clock.time() >= next_s or not self._running:
                    self._start(waiting, max(failed, 1))
                    next_s = clock.time() + self.stagger_s
        finally:
            for task in self._running:
                task.cancel()
            for task in self._running:
                with suppress(asyncio.CancelledError):
                    await task
        return arrived

    def _start(self, waiting: list[CtLog], count: int) -> None:
        for log in waiting[:count]:
            self._running.append(asyncio.ensure_future(self.ask(log)))
        del waiting[:count]
