"""How much runs at once: many slow targets must not delay one fast one.

`concurrency` tries may be *starting*. One that has not ended after a short grace is slow: it gives its starting place
to the next one and goes on beside, up to `max_open` tries that hold sockets. A target that was slow or failed once is
tried again later, and such retries have few of the places and half of the sockets: however many there are, a first try
finds both, and thousands of retries that are due together start one after the other instead of taking the processor.
So thousands of targets that hang until their deadline cost the others some milliseconds, and nothing has to be known
about a target beforehand.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

GRACE_S: Final = 0.05
OPEN_PER_PLACE: Final = 80
_IN_HAND_PER_OPEN: Final = 2
_PLACES_PER_RETRY: Final = 20


class Lanes:
    """Places for starting tries, and bounds on everything that is in hand, in all and for each account.

    A request in hand between two tries holds neither a place nor a socket, so there may be more of them than tries.
    """

    def __init__(self, *, concurrency: int, max_open: int | None = None, grace_s: float = GRACE_S) -> None:
        self._max_open = max_open or concurrency * OPEN_PER_PLACE
        self._max_in_hand = self._max_open * _IN_HAND_PER_OPEN
        # One account may not fill the process: what is over this stays in the queue while others are claimed (SF6).
        self._max_per_account = max(self._max_open // 4, 1)
        self._first = _Lane(places=concurrency, max_open=self._max_open)
        self._again = _Lane(places=max(concurrency // _PLACES_PER_RETRY, 1),
                            max_open=max(self._max_open // 2, 1))
        self._places = concurrency
        self._grace_s = grace_s
        self._in_hand: Counter[bytes] = Counter()
        self._total_in_hand = 0
        self.changed = asyncio.Event()

    @property
    def room(self) -> int:
        """How many further requests could start now."""
        return max(min(self._free - len(self._first.waiting), self._max_in_hand - self._total_in_hand,
                       self._max_open - self._open), 0)

    @property
    def in_flight(self) -> int:
        """Requests that were taken and are not ended, those between two tries included."""
        return self._total_in_hand

    @property
    def _free(self) -> int:
        return self._places - self._first.starting - self._again.starting

    @property
    def _open(self) -> int:
        return self._first.open + self._again.open

    def busy_accounts(self) -> list[bytes]:
        """Accounts of which nothing more is taken for now."""
        return [account for account, count in self._in_hand.items() if count >= self._max_per_account]

    @asynccontextmanager
    async def flight(self, account_id: bytes) -> AsyncIterator[None]:
        """Counts one request while it is worked on."""
        self._in_hand[account_id] += 1
        self._total_in_hand += 1
        try:
            yield
        finally:
            self._total_in_hand -= 1
            self._in_hand[account_id] -= 1
            if not self._in_hand[account_id]:
                del self._in_hand[account_id]
            self.changed.set()

    @asynccontextmanager
    async def place(self, *, again: bool = False) -> AsyncIterator[None]:
        """A starting place for one try, given up when the try ends or after the grace, whichever comes first. `again`:
        it is not the first try of its request."""
        lane = self._again if again else self._first
        await self._take(lane)
        is_starting = True

        def give_place_back() -> None:
            nonlocal is_starting
            if is_starting:
                is_starting = False
                lane.starting -= 1
                self._let_in()

        timer = asyncio.get_running_loop().call_later(self._grace_s, give_place_back)
        try:
            yield
        finally:
            timer.cancel()
            lane.open -= 1
            give_place_back()
            self._let_in()

    async def _take(self, lane: "_Lane") -> None:
        """Returns when the caller may start; it is counted as starting and as open from then on."""
        if not lane.waiting and self._may_start(lane):
            lane.enter()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                lane.leave()
                self._let_in()
            elif turn in lane.waiting:
                lane.waiting.remove(turn)
            raise

    def _may_start(self, lane: "_Lane") -> bool:
        return self._free > 0 and self._open < self._max_open and lane.has_room

    def _let_in(self) -> None:
        """First tries first; who waited longest comes next."""
        for lane in (self._first, self._again):
            while lane.waiting and self._may_start(lane):
                turn = lane.waiting.popleft()
                if not turn.done():
                    lane.enter()
                    turn.set_result(None)
        self.changed.set()


class _Lane:
    """One kind of tries: how many are starting, how many are open (starting or slow), and who waits."""

    def __init__(self, *, places: int, max_open: int) -> None:
        self._max_starting = places
        self._max_open = max_open
        self.starting = 0
        self.open = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    @property
    def has_room(self) -> bool:
        return self.starting < self._max_starting and self.open < self._max_open

    def enter(self) -> None:
        self.starting += 1
        self.open += 1

    def leave(self) -> None:
        self.starting -= 1
        self.open -= 1
