"""How much runs at once: many slow targets must not delay one fast one.

`concurrency` validations may be *starting*. One that has not ended after a short grace is slow: it gives its starting
place to the next one and goes on beside. So 500 targets that hang until their deadline cost the others some hundred
milliseconds, not ten seconds, and nothing has to be known about a target beforehand.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

GRACE_S: Final = 0.2
IN_FLIGHT_PER_PLACE: Final = 20


class Lanes:
    """Places for starting validations, and bounds on everything that is in flight, in all and for each account."""

    def __init__(self, *, concurrency: int, max_in_flight: int | None = None, grace_s: float = GRACE_S) -> None:
        self._free = concurrency
        self._max_in_flight = max_in_flight or concurrency * IN_FLIGHT_PER_PLACE
        # One account may not fill the process: what is over this stays in the queue while others are claimed (SF6).
        self._max_per_account = max(self._max_in_flight // 4, 1)
        self._grace_s = grace_s
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._in_flight: Counter[bytes] = Counter()
        self._total_in_flight = 0
        self.changed = asyncio.Event()

    @property
    def room(self) -> int:
        """How many further requests could start now."""
        return max(min(self._free - len(self._waiting), self._max_in_flight - self._total_in_flight), 0)

    @property
    def in_flight(self) -> int:
        """Requests that were taken and are not ended, those between two tries included."""
        return self._total_in_flight

    def busy_accounts(self) -> list[bytes]:
        """Accounts of which nothing more is taken for now."""
        return [account for account, count in self._in_flight.items() if count >= self._max_per_account]

    @asynccontextmanager
    async def flight(self, account_id: bytes) -> AsyncIterator[None]:
        """Counts one request while it is worked on."""
        self._in_flight[account_id] += 1
        self._total_in_flight += 1
        try:
            yield
        finally:
            self._total_in_flight -= 1
            self._in_flight[account_id] -= 1
            if not self._in_flight[account_id]:
                del self._in_flight[account_id]
            self.changed.set()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A starting place for one try, given up when the try ends or after the grace, whichever comes first."""
        await self._take()
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._give()

        timer = asyncio.get_running_loop().call_later(self._grace_s, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()

    async def _take(self) -> None:
        if self._free > 0 and not self._waiting:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _give(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
        self.changed.set()
