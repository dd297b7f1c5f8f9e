"""Which challenges are stored how, and what their tokens are (rows CH2, CH10)."""

import os
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol import base64url
from acme_api.protocol.challenge import TOKEN_SEED_BYTES, WITHOUT_TOKEN, offered, tokens_of, type_bits, types_of

_ALL = offered("dns", wildcard=False, persist=True)


@pytest.mark.parametrize("size", range(len(_ALL) + 1))
def test_ch10_every_set_of_types_comes_back_in_its_order(size: int) -> None:
    """Row CH10: what is offered is stored as bits, all sets of them apart, and shown in the order of the offer."""
    for types in combinations(_ALL, size):
        assert types_of(type_bits(types)) == types
        assert tuple(tokens_of(type_bits(types), bytes(TOKEN_SEED_BYTES))) == types
    with pytest.raises(ValueError, match="not in tuple"):
        type_bits(["http-02"])


def test_ch2_ten_thousand_seeds() -> None:
    """Row CH2: 43 characters of canonical base64url, each challenge its own, no two alike in ten thousand
    authorizations, none for dns-persist-01."""
    seen: set[str] = set()
    for _ in range(10_000):
        tokens = tokens_of(type_bits(_ALL), os.urandom(TOKEN_SEED_BYTES))
        assert {kind for kind, token in tokens.items() if token is None} == WITHOUT_TOKEN
        seen |= {token for token in tokens.values() if token is not None}
    assert len(seen) == 10_000 * (len(_ALL) - len(WITHOUT_TOKEN))
    assert all(len(token) == 43 and base64url.encode(base64url.decode(token)) == token for token in seen)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 127))
def test_ch2_every_bit_of_the_seed_counts(seed: bytes, bit: int) -> None:
    """Row CH2: a token has the 128 bits of its seed: with one of them changed it is another, and so is every other."""
    changed = bytearray(seed)
    changed[bit // 8] ^= 1 << bit % 8
    first, second = (tokens_of(type_bits(_ALL), each) for each in (seed, bytes(changed)))
    assert all(first[kind] != second[kind] for kind in _ALL if kind not in WITHOUT_TOKEN)


def test_tokens_that_were_stored_before_are_shown_as_they_are() -> None:
    """Row CH2: 32 bytes each, in the order of the types that have one; bytes that are missing are a fault."""
    raw = [bytes([number]) * 32 for number in range(1, 5)]
    tokens = tokens_of(type_bits(_ALL), b"".join(raw))
    assert list(tokens.values()) == [*map(base64url.encode, raw), None]
    with pytest.raises(ValueError, match="shorter"):
        tokens_of(type_bits(_ALL), raw[0])
