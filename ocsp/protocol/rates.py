"""How often who may have a response of his own: GCRA, for as many clients as memory is set aside for."""

from typing import Final

_MOST_CLIENTS: Final = 4_096


class Rates:
    """`per_s` times a second for each key, after a burst. Keys beyond a few thousand replace those that asked the
    longest ago."""

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._interval_s = 1 / per_s
        self._tolerance_s = self._interval_s * (max(1.0, burst) - 1)
        self._full_at_s: dict[bytes, float] = {}        # in the order in which they were served last

    def take(self, key: bytes, now_s: float) -> bool:
        """Whether it may be now, which counts then."""
        full_at_s = max(self._full_at_s.get(key, now_s), now_s)
        if full_at_s - now_s > self._tolerance_s:
            return False
        self._full_at_s.pop(key, None)
        self._full_at_s[key] = full_at_s + self._interval_s
        if len(self._full_at_s) > _MOST_CLIENTS:
            del self._full_at_s[next(iter(self._full_at_s))]
        return True
