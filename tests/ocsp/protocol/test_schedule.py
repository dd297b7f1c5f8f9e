"""When responses are signed again: the bounds of BR 4.9.9 hold, and a busy hour does not come back as a herd."""

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.serial import serial_number
from ocsp.protocol.schedule import (
    OLDEST_ALLOWED,
    ScheduleError,
    SerialRange,
    due_at,
    may_be_new,
    may_begin_by_hour,
    moment,
    oldest_allowed,
    parts_of_day,
    require_lawful,
    response_times,
    split_after,
    warning_age,
)

LIFE, AGE, JITTER = timedelta(days=7), timedelta(hours=60), timedelta(hours=12)
NOW = datetime(2026, 11, 24, 12, 34, 56, 789, tzinfo=UTC)
FAR = NOW + timedelta(days=1000)


@given(now=st.timedeltas(timedelta(), timedelta(days=5000)).map(lambda later: NOW + later),
       left=st.timedeltas(timedelta(hours=8), timedelta(days=2000)))
def test_a_response_lives_from_the_begun_minute(now: datetime, left: timedelta) -> None:
    """thisUpdate is not after producedAt and at most a minute before; the life is 8 hours to 7 days."""
    times = response_times(now, life=LIFE, signer_not_after=now + left)
    assert 0 <= times.produced_at_s - times.this_update_s < 60
    assert times.this_update_s % 60 == 0
    life_s = times.next_update_s - times.this_update_s + 1
    assert 8 * 3600 <= life_s <= 7 * 86_400
    assert times.next_update_s <= (now + left).timestamp()


@given(now=st.timedeltas(timedelta(), timedelta(days=5000)).map(lambda later: NOW + later),
       changed_before=st.one_of(st.none(), st.timedeltas(timedelta(), timedelta(hours=2))))
def test_what_is_signed_again_lives_from_the_begun_hour(now: datetime, changed_before: timedelta | None) -> None:
    """Unless a status changed in it: then from the begun minute, so that nothing says what was not so. The life is the
    same, and nothing is said to be produced before its thisUpdate, or in another hour."""
    changed_at_s = 0 if changed_before is None else int((now - changed_before).timestamp())
    times = response_times(now, life=LIFE, signer_not_after=FAR + timedelta(days=5000), by_hour=True,
                           changed_at_s=changed_at_s)
    hour_s = times.produced_at_s // 3_600 * 3_600
    assert times.this_update_s == (hour_s if changed_at_s < hour_s else times.produced_at_s // 60 * 60)
    assert times.next_update_s - times.this_update_s + 1 == 7 * 86_400


def test_where_an_hour_is_not_short_it_is_not_taken() -> None:
    """What is signed again after a few hours would else be due again at once."""
    assert may_begin_by_hour(age=AGE, jitter=JITTER)
    assert may_begin_by_hour(age=timedelta(hours=12), jitter=timedelta())
    assert not may_begin_by_hour(age=timedelta(hours=12), jitter=timedelta(seconds=1))
    assert not may_begin_by_hour(age=timedelta(minutes=30), jitter=timedelta())


def test_the_last_hours_of_an_issuer_sign_nothing() -> None:
    """A response that cannot live for 8 hours would break BR 4.9.9, one past the issuer's end could not be verified."""
    with pytest.raises(ScheduleError):
        response_times(NOW, life=LIFE, signer_not_after=NOW + timedelta(hours=7, minutes=50))


@pytest.mark.parametrize(("life_h", "age_h"), [(168, 60), (240, 96), (16, 8), (10, 5), (8, 4)])
def test_lawful_schedules_are_taken(life_h: int, age_h: int) -> None:
    """Up to the very limits."""
    require_lawful(life=timedelta(hours=life_h), age=timedelta(hours=age_h))


@pytest.mark.parametrize(("life_h", "age_h"), [(7, 1), (241, 60), (240, 97), (100, 93), (16, 9), (10, 6), (168, 0)])
def test_unlawful_schedules_are_refused(life_h: int, age_h: int) -> None:
    """Too short or long a life, or a replacement that comes too late (BR 4.9.9)."""
    with pytest.raises(ScheduleError):
        require_lawful(life=timedelta(hours=life_h), age=timedelta(hours=age_h))


@pytest.mark.parametrize(("life_h", "age_h", "warning_h", "allowed_h"), [
    (168, 60, 72, 96), (240, 96, 96, 96), (24, 10, 12, 16), (16, 5, 6, 8), (10, 2, 3, 5)])
def test_somebody_is_told_before_a_rule_is_broken(life_h: int, age_h: int, warning_h: int, allowed_h: int) -> None:
    """Whatever life responses have: never past the age at which BR 4.9.9 wants them replaced; 72 of 96 hours by default
    (spec 5.4)."""
    life, age = timedelta(hours=life_h), timedelta(hours=age_h)
    assert oldest_allowed(life) == timedelta(hours=allowed_h)
    assert warning_age(life=life, age=age) == timedelta(hours=warning_h)
    require_lawful(life=life, age=age)


@given(random4=st.binary(min_size=4, max_size=4))
def test_a_response_is_due_at_48_to_60_hours(random4: bytes) -> None:
    """Never later than the age, so that 36 hours are left before the rule's limit."""
    due = due_at(NOW, age=AGE, jitter=JITTER, random4=random4)
    assert NOW + AGE - JITTER < due <= NOW + AGE
    assert due + timedelta(hours=36) <= NOW + OLDEST_ALLOWED


def test_the_parts_of_a_day_cover_it_once() -> None:
    """Every serial number of the day is in exactly one range, and no other day's is."""
    serial = serial_number(NOW, bytes(16))
    parts = parts_of_day(serial)
    assert parts[0].first == serial[:2] + bytes(16)
    assert parts[-1].last == serial[:2] + b"\xff" * 16
    for left, right in itertools.pairwise(parts):
        assert split_after(SerialRange(first=left.first, last=right.last), left.last) == right


@given(random16=st.binary(min_size=16, max_size=16))
def test_a_split_range_loses_no_serial_number(random16: bytes) -> None:
    """What is left starts right behind the last one signed."""
    serial = serial_number(NOW, random16)
    part = next(one for one in parts_of_day(serial) if one.first <= serial <= one.last)
    rest = split_after(part, serial)
    if rest is None:
        assert serial == part.last
    else:
        assert int.from_bytes(rest.first, "big") == int.from_bytes(serial, "big") + 1
        assert rest.last == part.last


def test_a_busy_hour_is_spread_over_20_hours_after_two_cycles() -> None:
    """A million certificates of one hour: parts of a day, split at 4,000, each with its own chance (spec 5.8)."""
    source = random.Random(1)

    def due(at: datetime) -> datetime:
        return due_at(at, age=AGE, jitter=JITTER, random4=source.randbytes(4))

    whole = [(due(NOW), 1_000_000 // 16) for _ in parts_of_day(serial_number(NOW, bytes(16)))]
    signed = []
    for at, held in whole:
        while held > 0:
            signed.append((due(at), min(held, 4_000)))
            held -= 4_000
    hours = [0] * 200
    for at, held in [(due(at), held) for at, held in signed]:
        hours[int((at - NOW) / timedelta(hours=1))] += held
    assert sum(1 for held in hours if held) >= 20
    assert max(hours) < 150_000


def test_a_day_of_outage_leaves_no_response_past_the_rule() -> None:
    """Everything is signed at most 60 hours after its thisUpdate; 24 hours later it is 84 hours old, below 96."""
    assert AGE + timedelta(hours=24) < OLDEST_ALLOWED


def test_moment_is_aware() -> None:
    """Unix seconds become UTC."""
    assert moment(0) == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_serial_number_may_be_new_for_an_hour_at_least() -> None:
    """On its own day and in the first hour of the next one; neither of tomorrow, nor of another serial's form."""
    today = serial_number(NOW, bytes(16))
    midnight = datetime(2026, 11, 25, tzinfo=UTC)
    for now, expected in ((NOW, True), (midnight - timedelta(seconds=1), True), (midnight, True),
                          (midnight + timedelta(hours=1) - timedelta(seconds=1), True),
                          (midnight + timedelta(hours=1), False), (midnight - timedelta(days=1, seconds=1), False)):
        assert may_be_new(today, now) is expected, now
