"""The forecast against a plain simulation, and the days that it has to foretell."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ocsp.protocol.forecast import DueRange, forecast
from ocsp.protocol.schedule import OLDEST_ALLOWED

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)

ranges = st.lists(st.builds(
    lambda age_h, due_in_h, held, issuer: DueRange(
        issuer_id=issuer, signed_at=NOW - age_h * HOUR, due_at=NOW + due_in_h * HOUR, certificates=held),
    st.integers(0, 90), st.integers(-40, 48), st.integers(0, 100_000), st.integers(1, 2)), max_size=12)


def made(age_h: float, due_in_h: float, held: int, *, issuer_id: int = 1) -> DueRange:
    """One range."""
    return DueRange(issuer_id=issuer_id, signed_at=NOW - age_h * HOUR, due_at=NOW + due_in_h * HOUR, certificates=held)


@given(held=ranges, each_s=st.floats(1e-5, 2.0), allowed=st.sampled_from([OLDEST_ALLOWED, 16 * HOUR, 5 * HOUR]))
def test_it_is_what_a_simulation_of_one_signer_gives(held: list[DueRange], each_s: float, allowed: timedelta) -> None:
    """Range after range by due time, none before it is due: ages, the first breach, and the end of the backlog."""
    found = forecast(held, {1: each_s, 2: each_s}, now=NOW, allowed=allowed)
    at_s, ages, broken = 0.0, [0.0], []
    done_s = None
    for one in sorted(held, key=lambda one: one.due_at):
        due_s = (one.due_at - NOW).total_seconds()
        if due_s > at_s:
            done_s, at_s = at_s if done_s is None else done_s, due_s
        at_s += max(1, one.certificates) * each_s
        ages.append(at_s + (NOW - one.signed_at).total_seconds())
        if ages[-1] > allowed.total_seconds() + 1:
            broken.append(one.signed_at + allowed)
    assert abs(found.oldest.total_seconds() - max(ages)) < 1
    assert found.overdue == sum(max(1, one.certificates) for one in held if one.due_at <= NOW)
    assert found.done_at is not None
    assert abs((found.done_at - NOW).total_seconds() - (at_s if done_s is None else done_s)) < 1
    if broken:
        assert found.breach_at is not None
        assert found.breach_at <= min(broken)
    if found.breach_at is None:
        assert found.oldest <= allowed


def test_a_day_of_outage_with_threefold_capacity_keeps_the_rule() -> None:
    """Everything was due 24 hours ago: with three times the steady speed it is done in 12 hours, below 96 hours of age;
    with the steady speed alone the breach is foretold days before it happens (spec 5.8)."""
    million = 1_000_000
    after_outage = [made(84, -24, 0)] + [made(60 + 24 * part / 100, -24 * part / 100, million // 225)
                                         for part in range(100)]
    steady_s = 54 * 3_600 / million
    fast = forecast(after_outage, {1: steady_s / 3}, now=NOW, allowed=OLDEST_ALLOWED)
    assert fast.breach_at is None
    assert fast.oldest < OLDEST_ALLOWED
    slow = forecast([made(84 - part * 0.2, -24 + part * 0.2, 10_000) for part in range(100)], {1: steady_s}, now=NOW,
                    allowed=OLDEST_ALLOWED)
    assert slow.breach_at is not None
    assert slow.breach_at > NOW


def test_an_issuer_that_nobody_signs_for_breaks_the_rule_at_a_known_moment() -> None:
    """96 hours after its oldest response; others are not held up by it."""
    found = forecast([made(50, -1, 10, issuer_id=9), made(48, -1, 10)], {1: 0.001}, now=NOW, allowed=OLDEST_ALLOWED)
    assert found.breach_at == NOW + 46 * HOUR
    assert found.done_at is not None
    assert found.done_at < NOW + HOUR
    assert forecast([], {}, now=NOW, allowed=OLDEST_ALLOWED).done_at is None
