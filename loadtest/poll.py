"""How often the load generator asks whether something is done. The same for every server that is compared."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPolicy:
    """First delay, growth and ceiling of the delays, and when to give up."""

    first_s: float = 0.004
    growth: float = 2.0
    longest_s: float = 0.25
    patience_s: float = 30.0

    def delays_s(self) -> Iterator[float]:
        """Delays whose sum stays within the patience."""
        delay_s, waited_s = self.first_s, 0.0
        while waited_s + delay_s <= self.patience_s:
            yield delay_s
            waited_s += delay_s
            delay_s = min(delay_s * self.growth, self.longest_s)
