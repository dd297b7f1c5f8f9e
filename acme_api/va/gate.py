"""How many connections are open at once to one place: a name, or a network that many names point to (row SF6)."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairGate:
    """At most `limit` at once for one place, `each` of them for one owner; a place that nobody uses is forgotten.

    Where several owners wait they are let in by turns, each one's own in the order in which they came. With `each`
    below `limit`, whoever makes hundreds of names point to a host that others share, and answers slowly there, never
    takes all of it from them.
    """

    def __init__(self, *, limit: int, each: int) -> None:
        self._limit = limit
        self._each = each
        self._places: dict[str, _Place] = {}

    def __len__(self) -> int:
        """How many places are in use."""
        return len(self._places)

    @asynccontextmanager
    async def enter(self, key: str, owner: str) -> AsyncIterator[None]:
        """One of the places of `key` for the block, on behalf of `owner`."""
        place = self._places.setdefault(key, _Place())
        try:
            await self._take(place, owner)
            try:
                yield
            finally:
                place.leave(owner)
                self._let_in(place)
        finally:
            if not place.total and not place.waiting:
                self._places.pop(key, None)

    async def _take(self, place: "_Place", owner: str) -> None:
        if owner not in place.waiting and self._has_room(place, owner):
            place.enter(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place.waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                place.leave(owner)
                self._let_in(place)
            else:
                place.give_up(owner, turn)
            raise

    def _has_room(self, place: "_Place", owner: str) -> bool:
        return place.total < self._limit and place.open[owner] < self._each

    def _let_in(self, place: "_Place") -> None:
        """By turns: who was let in goes behind the others, and who may not have more is passed over."""
        while place.total < self._limit:
            owner = next((each for each in place.waiting if self._has_room(place, each)), None)
            if owner is None:
                return
            turn = place.next_turn(owner)
            if not turn.done():
                place.enter(owner)
                turn.set_result(None)


class _Place:
    """Who is in, and who waits: the owners in the order of their turns, each with a queue that is never empty."""

    def __init__(self) -> None:
        self.total = 0
        self.open: Counter[str] = Counter()
        self.waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def enter(self, owner: str) -> None:
        self.total += 1
        self.open[owner] += 1

    def leave(self, owner: str) -> None:
        self.total -= 1
        self.open[owner] -= 1
        if not self.open[owner]:
            del self.open[owner]

    def next_turn(self, owner: str) -> asyncio.Future[None]:
        turn = self.waiting[owner].popleft()
        self.waiting.move_to_end(owner)
        if not self.waiting[owner]:
            del self.waiting[owner]
        return turn

    def give_up(self, owner: str, turn: asyncio.Future[None]) -> None:
        queue = self.waiting.get(owner)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self.waiting[owner]
