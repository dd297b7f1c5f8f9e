"""Who waits for what: the channel `changed` carries the id of whatever became different."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Waiters:
    """Wakes by id. A wake-up says "look again", never what there is to see, so one too many does no harm."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    def wake(self, payload: str) -> None:
        """Called with each notification: hexadecimal ids with commas between them, or "" when some may have been
        missed."""
        for events in [self._events.get(key, ()) for key in payload.split(",")] if payload else self._events.values():
            for event in events:
                event.set()

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
