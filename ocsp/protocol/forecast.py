"""When will the backlog be signed, and will every response be replaced in time (BR 4.9.9)?

The signers take ranges in the order in which they became due. Knowing how many certificates each range holds and how
long one takes, their next two days can be played through: every range that exists comes up once in that time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRange:
    """Certificates that are signed again together; `signed_at` is the oldest thisUpdate among their responses."""

    issuer_id: int
    signed_at: datetime
    due_at: datetime
    certificates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """`done_at`: when nothing is overdue any more, None when nobody signs. `oldest`: the greatest age that a response
    will reach before it is replaced. `breach_at`: when the first one will be older than is `allowed`, if ever."""

    allowed: timedelta
    overdue: int
    done_at: datetime | None
    oldest: timedelta
    breach_at: datetime | None


def forecast(
    ranges: Iterable[DueRange], certificate_s: Mapping[int, float], *, now: datetime, allowed: timedelta
) -> Forecast:
    """`certificate_s`: for each issuer that is signed for, the seconds that all signers together need a certificate.
    `allowed`: the age at which a response has to be replaced.

    An issuer that is not in it is signed for by nobody; ranges of unknown size count as one certificate.
    """
    clock, done_at, overdue = now, None, 0
    oldest, breach_at = timedelta(), None
    for one in sorted(ranges, key=lambda one: one.due_at):
        held = max(1, one.certificates)
        if one.due_at <= now:
            overdue += held
        each_s = certificate_s.get(one.issuer_id)
        if each_s is None:
            oldest = max(oldest, allowed if one.signed_at < now - allowed else now - one.signed_at)
            breach_at = _earlier(breach_at, one.signed_at + allowed)
            continue
        if one.due_at > clock:
            done_at = done_at or clock
            clock = one.due_at
        clock += timedelta(seconds=held * each_s)
        age = clock - one.signed_at
        oldest = max(oldest, age)
        if age > allowed:
            breach_at = _earlier(breach_at, one.signed_at + allowed)
    if certificate_s:
        done_at = done_at or clock
    return Forecast(allowed=allowed, overdue=overdue, done_at=done_at, oldest=oldest, breach_at=breach_at)


def _earlier(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else min(one, other)
