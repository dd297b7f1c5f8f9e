"""Who waits for what: the channel `changed` carries the id of whatever became different."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_MOST_EXPECTED: Final = 10_000


class Waiters:
    """Wakes by id. A wake-up says "look again", never what there is to see, so one too many does no harm.

    Of some objects it is known that they are about to change, because this process has asked for that: who reads one
    of them may as well wait first.
    """

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}
        self._expected: dict[str, None] = {}

    def wake(self, payload: str) -> None:
        """Called with each notification: hexadecimal ids with commas between them, or "" when some may have been
        missed."""
        if not payload:
            self._expected.clear()
        for key in payload.split(",") if payload else list(self._events):
            self._expected.pop(key, None)
            for event in self._events.get(key, ()):
                event.set()

    def expect(self, object_id: bytes) -> None:
        """The object will change soon. Said before that is asked for, it is true until the object has changed."""
        if len(self._expected) >= _MOST_EXPECTED:
            del self._expected[next(iter(self._expected))]
        self._expected[object_id.hex()] = None

    def expect_no_more(self, object_id: bytes) -> None:
        """It may well not change."""
        self._expected.pop(object_id.hex(), None)

    def is_expected(self, object_id: bytes) -> bool:
        """Whether the object is about to change, as far as is known."""
        return object_id.hex() in self._expected

    @contextmanager
    def waiting_for(self, *object_ids: bytes) -> Iterator[asyncio.Event]:
        """An event that is set when one of the objects changes. Entered before the request is stored, it misses
        nothing."""
        keys, event = [object_id.hex() for object_id in object_ids], asyncio.Event()
        for key in keys:
            self._events.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            for key in keys:
                events = self._events[key]
                events.discard(event)
                if not events:
                    del self._events[key]


async def wait_for(event: asyncio.Event, *, timeout_s: float) -> bool:
    """Whether the event was set within `timeout_s`; it is clear afterwards."""
    try:
        async with asyncio.timeout(max(timeout_s, 0)):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
