"""Limits of unauthenticated reads by address, in the memory of the process: nothing is written, memory is bounded.

What must not cost a write (nonces, renewalInfo) cannot be counted in the database. Each process counts by itself, so
that with n workers an address may have up to n times as much; that is fine for what only protects a processor.
"""

from typing import Final

from acme_api.protocol.rate_limit import IpAddress, LimitName, Rate, address_subject, full_again_s, wait_s

_MOST_BUCKETS: Final = 65_536


class Flood:
    """Buckets of addresses. When there are too many, the one that was made first is forgotten."""

    def __init__(self, *, most_buckets: int = _MOST_BUCKETS) -> None:
        self._full_at_s: dict[tuple[LimitName, str], float] = {}
        self._most_buckets = most_buckets

    def __len__(self) -> int:
        return len(self._full_at_s)

    def wait_s(self, limit: LimitName, address: IpAddress | None, rate: Rate, now_s: float) -> float:
        """0 when a request of the address passes, which is counted then; else the seconds until it would."""
        subject = limit, address_subject(address)
        full_at_s = self._full_at_s.pop(subject, 0.0)
        wait = wait_s(full_at_s, now_s, rate.interval_s, rate.period_s)
        if wait > 0:
            self._full_at_s[subject] = full_at_s
            return wait
        # Put back at the end: first in the dict is who was let through longest ago.
        self._full_at_s[subject] = full_again_s(full_at_s, now_s, rate.interval_s)
        if len(self._full_at_s) > self._most_buckets:
            del self._full_at_s[next(iter(self._full_at_s))]
        return 0.0
