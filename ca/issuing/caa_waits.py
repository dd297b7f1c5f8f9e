"""Requests of this process that wait for the validation authority to look at CAA records again.

The notification of a look names it, so that a request goes on when its last one is there, instead of after the pause
for which it was left in the queue; the pause is the backstop.
"""

from collections.abc import Iterable
from typing import Final

from ca.issuing.grant import CaaIsStale
from ca.pki.domain_control import StaleCaa

# Entries of requests that another process has taken up since stay behind until they are the oldest.
_MAX_WAITING: Final = 10_000


class CaaWaits:
    """Which looks each request still waits for."""

    def __init__(self) -> None:
        self._missing: dict[bytes, set[StaleCaa]] = {}
        self._waiting: dict[StaleCaa, set[bytes]] = {}
        self._ready: list[bytes] = []

    def wait(self, stale: CaaIsStale) -> None:
        """The request waits from now on; to be said before the looks are asked for."""
        if len(self._missing) >= _MAX_WAITING:
            self.forget([next(iter(self._missing))])
        self._missing[stale.request_id] = set(stale.wanted)
        for look in stale.wanted:
            self._waiting.setdefault(look, set()).add(stale.request_id)

    def forget(self, request_ids: Iterable[bytes]) -> None:
        """Requests that wait no longer, be it that they are taken up again by themselves."""
        for request_id in request_ids:
            for look in self._missing.pop(request_id, ()):
                self._stop(look, request_id)

    def looked(self, payload: str) -> bool:
        """A look is stored: its authorization's id in hexadecimal digits, a blank, its name or nothing. Returns whether
        there are requests that may go on; a payload of another form is ignored."""
        authorization, _, name = payload.partition(" ")
        try:
            look = StaleCaa(authorization_id=bytes.fromhex(authorization), name=name)
        except ValueError:
            return False
        for request_id in list(self._waiting.get(look, ())):
            self._stop(look, request_id)
            missing = self._missing[request_id]
            missing.discard(look)
            if not missing:
                del self._missing[request_id]
                self._ready.append(request_id)
        return bool(self._ready)

    def take_ready(self) -> list[bytes]:
        """The requests whose looks are all there."""
        ready, self._ready = self._ready, []
        return ready

    def _stop(self, look: StaleCaa, request_id: bytes) -> None:
        waiting = self._waiting.get(look, set())
        waiting.discard(request_id)
        if not waiting:
            self._waiting.pop(look, None)
