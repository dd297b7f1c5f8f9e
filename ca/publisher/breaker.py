"""When a log may be asked: not while it said that it wants to be left alone, and seldom while it fails."""

from dataclasses import dataclass, field
from typing import Final

_FAILURES_TO_OPEN: Final = 3
_FIRST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 300.0
# A log may ask for any pause; one above an hour is asked again each hour.
_LONGEST_RETRY_AFTER_S: Final = 3_600.0


@dataclass(slots=True)
class Breaker:
    """Of one log. Times are of a monotonic clock, in seconds. After a pause a single request tries the log; its success
    closes the breaker, its failure doubles the pause."""

    _failures: int = 0
    _closed_until_s: float = field(default=0.0)
    _trying: bool = False

    def admits(self, now_s: float) -> bool:
        """Whether a request may be sent now."""
        return now_s >= self._closed_until_s and not self._trying

    def sent(self) -> None:
        """A request is on its way; while the log is suspected, it is the only one."""
        self._trying = self._failures >= _FAILURES_TO_OPEN

    def succeeded(self) -> None:
        """The log answered as a log does, be it with a refusal."""
        self._failures = 0
        self._trying = False

    def failed(self, now_s: float, *, retry_after_s: float | None = None) -> None:
        """No usable answer. `retry_after_s`: the log said when to come back (429, 503)."""
        self._trying = False
        self._failures += 1
        if retry_after_s is not None:
            pause_s = min(retry_after_s, _LONGEST_RETRY_AFTER_S)
        elif self._failures >= _FAILURES_TO_OPEN:
            pause_s = min(_FIRST_PAUSE_S * 2 ** (self._failures - _FAILURES_TO_OPEN), _LONGEST_PAUSE_S)
        else:
            return
        self._closed_until_s = max(self._closed_until_s, now_s + pause_s)

    def abandoned(self) -> None:
        """The request was given up because others were quicker: nothing was learnt."""
        self._trying = False
