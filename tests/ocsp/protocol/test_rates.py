"""How often who may ask: as a bucket that is refilled, in bounded memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocsp.protocol import rates as rates_module
from ocsp.protocol.rates import Rates

_steps = st.lists(st.tuples(st.sampled_from((b"a", b"b")), st.integers(0, 40)), max_size=60)


@given(steps=_steps, burst=st.integers(1, 5))
def test_it_is_a_bucket_for_each(steps: list[tuple[bytes, int]], burst: int) -> None:
    """Four times a second after a burst, each key for itself: the same as counting tokens by hand, in quarters of a
    second, of which there are never more than the burst."""
    rates, tokens, at, now = Rates(per_s=4.0, burst=burst), {b"a": burst, b"b": burst}, 0, 0
    for key, pause in steps:
        now += pause
        tokens = {one: min(burst, count + now // 8 - at // 8) for one, count in tokens.items()}
        at = now
        granted = rates.take(key, now // 8 * 0.25)
        assert granted is (tokens[key] > 0)
        tokens[key] -= granted


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more clients than there is room for, those that asked the longest ago are forgotten, not the busy one."""
    monkeypatch.setattr(rates_module, "_MOST_CLIENTS", 3)
    rates = Rates(per_s=1.0, burst=2)
    for number in range(50):
        assert rates.take(b"client %d" % number, number * 0.01)
        if number == 40:
            assert rates.take(b"busy", 0.4)
            assert rates.take(b"busy", 0.4)
        if number in (41, 42):
            assert not rates.take(b"busy", number * 0.01)
    assert len(rates._full_at_s) == 3
