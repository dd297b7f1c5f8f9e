"""GCRA, failed validations, pauses and the subjects of limits, as arithmetic."""

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol.rate_limit import (
    Attempt,
    LimitName,
    Rate,
    Standing,
    address_subject,
    domains_of,
    failures_wait,
    full_again_s,
    limited,
    name_set_subject,
    pause_wait,
    range_subject,
    spoken,
    wait_s,
)
from ca.pki.identifier import Identifier

_NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
_A = Identifier(type="dns", value="a.example.com")


@given(st.integers(1, 50), st.integers(1, 5_000), st.lists(st.floats(0, 500), max_size=80))
def test_gcra_admits_a_burst_and_then_the_rate(burst: int, period_s: int, gaps: list[float]) -> None:
    """P5: whatever the arrivals, any period admits at most 2 x burst, a quiet period refills all, and a refused request
    passes after exactly the wait that it was told, when nothing else came."""
    rate = Rate(burst=burst, period_s=period_s)
    full_at, now, admitted = 0.0, 1_000_000.0, []
    for gap in gaps:
        now += gap
        wait = wait_s(full_at, now, rate.interval_s, period_s)
        if wait <= 0:
            full_at = full_again_s(full_at, now, rate.interval_s)
            admitted.append(now)
        else:
            assert wait <= rate.interval_s * (1 + 1e-6)
            assert wait_s(full_at, now + wait + 1e-3, rate.interval_s, period_s) <= 0
            assert wait < 0.01 or wait_s(full_at, now + wait - 0.005, rate.interval_s, period_s) > 0
    for start in admitted:
        assert sum(start <= moment < start + period_s for moment in admitted) <= 2 * burst
    later = now + period_s + 1
    for _ in range(burst):
        assert wait_s(full_at, later, rate.interval_s, period_s) <= 1e-3
        full_at = full_again_s(full_at, later, rate.interval_s)
    assert wait_s(full_at, later, rate.interval_s, period_s) > 0


def test_a_request_larger_than_the_burst_never_passes() -> None:
    """A hundred names against fifty are refused by an empty bucket too."""
    assert wait_s(0.0, 1e6, 100 * 2.0, 100.0) > 0


def _standing(*ages_min: int, forgiven_min: int | None = None, success_min: int | None = None,
              running: int = 0) -> Standing:
    attempts = [Attempt(at=_NOW - timedelta(minutes=age), failed=True) for age in ages_min]
    if success_min is not None:
        attempts.append(Attempt(at=_NOW - timedelta(minutes=success_min), failed=False))
    forgiven = None if forgiven_min is None else _NOW - timedelta(minutes=forgiven_min)
    return Standing(identifier=_A, attempts=sorted(attempts, key=lambda one: one.at, reverse=True),
                    forgiven_at=forgiven, running=running)


@pytest.mark.parametrize(("standing", "minutes"), [
    (_standing(1, 2, 3), 57),
    (_standing(1, 2), None),
    (_standing(1, 2, 61), None),
    (_standing(1, 2, 59, 60, 70), 1),
    (_standing(1, 2, 5, success_min=4), None),
    (_standing(1, 2, 3, success_min=4), 57),
    (_standing(1, 2, 3, forgiven_min=2), None),
    (_standing(1, 2, running=1), 0),
    (_standing(running=2), None),
], ids=["three", "two", "one is old", "frees soon", "success between", "success before", "forgiven", "running", "few"])
def test_sf7_failures_wait(standing: Standing, minutes: int | None) -> None:
    """SF7: three failures in an hour: the wait ends when the third newest has left the hour."""
    wait = failures_wait(standing, Rate(burst=3, period_s=3_600), _NOW)
    assert (wait is None) == (minutes is None)
    if wait is not None and minutes is not None:
        assert wait == (timedelta(minutes=minutes) if minutes else timedelta(seconds=10))


@given(st.lists(st.tuples(st.integers(0, 20_000), st.booleans()), max_size=40), st.integers(1, 8),
       st.integers(60, 20_000))
def test_sf7_the_wait_is_exact(history: list[tuple[int, bool]], burst: int, period_s: int) -> None:
    """SF7: a second before the wait is over the pair is refused, and when it is over it is not."""
    attempts = [Attempt(at=_NOW - timedelta(seconds=age), failed=failed) for age, failed in sorted(history)]
    standing, rate = Standing(identifier=_A, attempts=attempts), Rate(burst=burst, period_s=period_s)
    wait = failures_wait(standing, rate, _NOW)
    if wait is not None:
        assert timedelta(0) < wait <= timedelta(seconds=period_s)
        assert failures_wait(standing, rate, _NOW + wait) is None
        assert failures_wait(standing, rate, _NOW + wait - timedelta(seconds=1)) is not None


def test_a_hopeless_pair_may_try_once_a_day() -> None:
    """SF7: paused after three failures without a success; one attempt a day, and the first success ends it."""
    assert pause_wait(_standing(60, 120), 3, _NOW) is None
    assert pause_wait(_standing(60, 120, 5_000), 3, _NOW) == timedelta(hours=23)
    assert pause_wait(_standing(1_441, 1_500, 5_000), 3, _NOW) is None
    assert pause_wait(_standing(60, 120, 5_000, success_min=130), 3, _NOW) is None
    assert pause_wait(_standing(60, 120, 5_000, forgiven_min=59), 3, _NOW) is None


@pytest.mark.parametrize(("address", "subject", "network"), [
    ("192.0.2.1", "192.0.2.1", None),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
    (None, "unknown", None),
])
def test_subjects_of_addresses(address: str | None, subject: str, network: str | None) -> None:
    """Who has a /64 is one address; a /48 is a range; connections without an address are one together."""
    parsed = None if address is None else ipaddress.ip_address(address)
    assert (address_subject(parsed), range_subject(parsed)) == (subject, network)


def test_subjects_of_names() -> None:
    """Registered domains by the public suffix list, private section included, each once; name sets in any order."""
    names = [Identifier(type="dns", value=value) for value in (
        "a.b.example.co.uk", "*.example.co.uk", "x.github.io", "a.internal")]
    names.append(Identifier(type="ip", value="192.0.2.7"))
    assert domains_of(names) == ("example.co.uk", "x.github.io", "a.internal", "192.0.2.7")
    assert name_set_subject(names) == name_set_subject([*reversed(names), names[0]])
    assert name_set_subject(names) != name_set_subject(names[:-1])
    assert name_set_subject([Identifier(type="dns", value="a.example")]) != name_set_subject(
        [Identifier(type="dns", value="*.a.example")])


def test_p5_the_problem() -> None:
    """P5: 429, whole seconds rounded up and never 0, a help link, the limit by its name."""
    problem = limited(LimitName.ORDERS_PER_ACCOUNT, "too many", 0.2, "https://ca.example/limits")
    assert (problem.status, problem.retry_after_s, problem.help_url) == (429, 1, "https://ca.example/limits")
    assert problem.detail.startswith("orders-per-account: too many; try again in 1 second")
    assert limited(LimitName.ORDERS_PER_ACCOUNT, "x", timedelta(seconds=61.2), "https://x").retry_after_s == 62


@given(st.integers(1, 10**9))
def test_spoken_times_are_never_too_short(seconds: int) -> None:
    """Who waits as long as the words say has waited long enough."""
    number, unit = spoken(seconds).split(" ")
    size = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}[unit[0]]
    assert seconds <= int(number) * size < 2 * seconds + 2
