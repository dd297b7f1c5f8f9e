"""Nonces (rows N6, N7, N9)."""

import os
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol import base64url
from acme_api.protocol.nonce import LIFE_S, issued_at_s, make_nonce, parse_nonce, spent_key

_KEY = bytes(range(32))
_NOW = datetime(2026, 11, 24, 2, 38, 0, 500_000, tzinfo=UTC)


def test_ten_thousand_nonces_are_canonical_and_different() -> None:
    """43 characters of base64url that decode and re-encode to themselves, no two alike (row N7)."""
    nonces = {make_nonce(_NOW, os.urandom(16), _KEY) for _ in range(10_000)}
    assert len(nonces) == 10_000
    for nonce in nonces:
        assert len(nonce) == 43
        assert base64url.encode(base64url.decode(nonce)) == nonce


@given(st.integers(0, LIFE_S - 1), st.binary(min_size=16, max_size=16))
def test_good_for_a_day_at_every_server(age_s: int, random16: bytes) -> None:
    """A server with the same key takes it for 24 hours and knows when it was made (row N9)."""
    nonce = parse_nonce(make_nonce(_NOW, random16, _KEY), _KEY, _NOW + timedelta(seconds=age_s))
    assert nonce is not None
    assert issued_at_s(nonce) == int(_NOW.timestamp())
    assert nonce[:4] == issued_at_s(nonce).to_bytes(4, "big")


def test_refused_after_a_day_and_from_the_future() -> None:
    """The life is bounded on both sides."""
    text = make_nonce(_NOW, bytes(16), _KEY)
    assert parse_nonce(text, _KEY, _NOW + timedelta(seconds=LIFE_S + 1)) is None
    assert parse_nonce(text, _KEY, _NOW - timedelta(seconds=301)) is None
    assert parse_nonce(text, _KEY, _NOW - timedelta(seconds=200)) is not None


@given(st.integers(0, 255), st.integers(1, 255))
def test_a_changed_bit_is_refused(position: int, mask: int) -> None:
    """No byte of a nonce can be changed: time, randomness and tag are bound together."""
    raw = bytearray(base64url.decode(make_nonce(_NOW, bytes(16), _KEY)))
    raw[position % len(raw)] ^= mask
    assert parse_nonce(base64url.encode(bytes(raw)), _KEY, _NOW) is None


@given(st.text(max_size=60))
def test_anything_else_is_refused(text: str) -> None:
    """No text but ours is a nonce, and none is a fault (row E32)."""
    assert parse_nonce(text, _KEY, _NOW) is None


def test_another_servers_key_is_refused() -> None:
    """A nonce of another CA is not ours."""
    assert parse_nonce(make_nonce(_NOW, bytes(16), b"x" * 32), _KEY, _NOW) is None


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(min_size=16, max_size=16))
def test_what_is_kept_of_a_spent_nonce_sorts_by_time(earlier_s: int, later_s: int, random16: bytes) -> None:
    """Row N9: what is written of a nonce is a positive 64-bit number, larger for every later second, so that it falls
    into the partition of its day."""
    first, second = (spent_key(base64url.decode(make_nonce(datetime.fromtimestamp(at_s, UTC), random16, _KEY)))
                     for at_s in sorted((earlier_s, later_s)))
    assert 0 <= first < 2**63
    assert (first >> 31, second >> 31) == tuple(sorted((earlier_s, later_s)))


def test_what_is_kept_of_nonces_tells_them_apart() -> None:
    """Row N9: a hundred thousand nonces of one second, made of nothing but a counter, are as good as all different: the
    kept bits are of the tag."""
    kept = {spent_key(base64url.decode(make_nonce(_NOW, number.to_bytes(16, "big"), _KEY)))
            for number in range(100_000)}
    assert len(kept) >= 99_990
