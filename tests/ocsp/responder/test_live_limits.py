"""How often who may ask: as a bucket that is refilled, in bounded memory."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocsp.responder import live_limits
from ocsp.responder.live_limits import Rates, client_key

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
    monkeypatch.setattr(live_limits, "_MOST_CLIENTS", 3)
    rates = Rates(per_s=1.0, burst=2)
    for number in range(50):
        assert rates.take(b"client %d" % number, number * 0.01)
        if number == 40:
            assert rates.take(b"busy", 0.4)
            assert rates.take(b"busy", 0.4)
        if number in (41, 42):
            assert not rates.take(b"busy", number * 0.01)
    assert len(rates._full_at_s) == 3


def test_a_client_is_an_address_or_a_subscriber_s_prefix() -> None:
    """Who has a /64 has all its addresses; an IPv4 address is one client."""
    def key(text: str) -> bytes:
        return client_key(ipaddress.ip_address(text))

    assert key("2001:db8::1") == key("2001:db8::ffff:1:2:3") != key("2001:db8:0:1::1")
    assert key("192.0.2.1") != key("192.0.2.2")
