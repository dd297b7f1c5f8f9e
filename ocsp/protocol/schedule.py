"""When a response is signed again, and which times it carries (BR 4.9.9, spec/pki.md 5.4).

BR: a response lives 8 hours to 10 days; one that lives 16 hours or longer is replaced at least 8 hours before its end
and at most 4 days after its thisUpdate, a shorter one before half of its life. We sign again after 48 to 60 hours,
spread by chance, so that a busy hour does not come back as a herd, and 36 hours are left for an outage.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ca.pki.serial import SERIAL_BYTES, serial_number
from ocsp.protocol.response import Times

OLDEST_ALLOWED: Final = timedelta(hours=96)
SHORTEST_LIFE: Final = timedelta(hours=8)
_LONGEST_LIFE: Final = timedelta(days=10)
_LONG_LIFE: Final = timedelta(hours=16)
_LEFT_OF_LONG_LIFE: Final = timedelta(hours=8)
_HOUR: Final = timedelta(hours=1)
_SETTLED: Final = timedelta(days=8)
_NEW: Final = timedelta(hours=1)
_LONG_FROM: Final = timedelta(hours=12)
_PARTS_PER_DAY: Final = 16
_RANDOM_BYTES: Final = SERIAL_BYTES - 2


class ScheduleError(ValueError):
    """No response may be signed: the times would break a rule, or the issuer's own end is too near."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialRange:
    """A part of one issuance day's serial numbers, both ends included."""

    first: bytes
    last: bytes


def require_lawful(*, life: timedelta, age: timedelta) -> None:
    """Raises ScheduleError when responses of this life, signed again at this age, would break BR 4.9.9."""
    if not SHORTEST_LIFE <= life <= _LONGEST_LIFE:
        raise ScheduleError("an OCSP response lives 8 hours to 10 days (BR 4.9.9)")
    oldest = oldest_allowed(life)
    if not timedelta() < age <= oldest:
        raise ScheduleError(f"OCSP responses that live {life / _HOUR:g} h are signed again before they are "
                            f"{oldest / _HOUR:g} h old (BR 4.9.9)")


def oldest_allowed(life: timedelta) -> timedelta:
    """The age at which responses of this life have to be replaced (BR 4.9.9)."""
    return min(life - _LEFT_OF_LONG_LIFE, OLDEST_ALLOWED) if life >= _LONG_LIFE else life / 2


def warning_age(*, life: timedelta, age: timedelta) -> timedelta:
    """When somebody has to look: a third of the time from `age`, at which responses are due, to the rule's limit has
    passed. 72 hours for those that live a week and are due after 60."""
    return age + (oldest_allowed(life) - age) / 3


def response_times(now: datetime, *, life: timedelta, signer_not_after: datetime, by_hour: bool = False,
                   changed_at_s: int = 0) -> Times:
    """thisUpdate is the begun minute; with `by_hour` the begun hour, if no status changed in it: the last one did at
    `changed_at_s`. nextUpdate is the last second of the life, never past the signer's end: its issuer's, or that of its
    own certificate (Mozilla).

    Raises ScheduleError when less than 8 hours would be left.
    """
    this_update = now.replace(minute=0, second=0, microsecond=0)
    if not by_hour or changed_at_s >= this_update.timestamp():
        this_update = now.replace(second=0, microsecond=0)
    next_update = min(this_update + life - timedelta(seconds=1), signer_not_after)
    if next_update - this_update < SHORTEST_LIFE - timedelta(seconds=1):
        raise ScheduleError(f"the signer ends at {signer_not_after}: no OCSP response can live for 8 hours")
    return Times(produced_at_s=int(now.timestamp()), this_update_s=int(this_update.timestamp()),
                 next_update_s=int(next_update.timestamp()))


def may_begin_by_hour(*, age: timedelta, jitter: timedelta) -> bool:
    """Whether what is signed again may have the begun hour as its thisUpdate: where that is a small part of the time
    until it is signed again. Far fewer different times are then in use, so that responders have at hand what belongs to
    them."""
    return age - jitter >= _LONG_FROM


def due_at(this_update: datetime, *, age: timedelta, jitter: timedelta, random4: bytes) -> datetime:
    """The moment to sign again: `age` minus an evenly spread part of `jitter` after thisUpdate."""
    return this_update + age - jitter * (int.from_bytes(random4, "big") / 0x1_0000_0000)


def parts_of_day(serial: bytes) -> list[SerialRange]:
    """The 16 equal parts of the serial numbers of one day, which are signed again each at its own time."""
    day, step = serial[:2], 256 // _PARTS_PER_DAY
    return [SerialRange(first=day + bytes((start,)) + bytes(_RANDOM_BYTES - 1),
                        last=day + bytes((start + step - 1,)) + b"\xff" * (_RANDOM_BYTES - 1))
            for start in range(0, 256, step)]


def split_after(part: SerialRange, serial: bytes) -> SerialRange | None:
    """What is left of a range behind a serial number of it; None when that is the last one."""
    if serial >= part.last:
        return None
    following = (int.from_bytes(serial, "big") + 1).to_bytes(SERIAL_BYTES, "big")
    return SerialRange(first=following, last=part.last)


def is_settled(serial: bytes, now: datetime) -> bool:
    """Whether the day of a serial number is so long ago that no certificate is waiting for its first response."""
    return serial[:2] < serial_number(now - _SETTLED, bytes(_RANDOM_BYTES))[:2]


def may_be_new(serial: bytes, now: datetime) -> bool:
    """Whether a serial number has the day of certificates that were issued within the last hour."""
    days = {serial_number(now - age, bytes(_RANDOM_BYTES))[:2] for age in (timedelta(), _NEW)}
    return serial[:2] in days


def moment(unix_s: int) -> datetime:
    """Aware UTC of unix seconds."""
    return datetime.fromtimestamp(unix_s, UTC)
