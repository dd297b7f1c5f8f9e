"""Serial numbers: 18 bytes, a day in front, and one spelling each way."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.serial import (
    serial_from_bytes,
    serial_from_hex,
    serial_from_int,
    serial_hex,
    serial_int,
    serial_number,
    shard,
)

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def test_a_hundred_thousand_serials() -> None:
    """18 bytes, the day's prefix, no repeat; 128 bits of each are random (BR 7.1)."""
    serials = {serial_number(NOW, os.urandom(16)) for _ in range(100_000)}
    assert len(serials) == 100_000
    day = 256 + (NOW - datetime(2020, 1, 1, tzinfo=UTC)).days
    assert {(len(serial), serial[:2]) for serial in serials} == {(18, day.to_bytes(2, "big"))}


def test_the_day_changes_at_midnight_utc() -> None:
    """Partition bounds count the same days."""
    before = serial_number(NOW - timedelta(microseconds=1), bytes(16))
    assert int.from_bytes(serial_number(NOW, bytes(16))[:2], "big") == int.from_bytes(before[:2], "big") + 1
    assert serial_number(datetime(2020, 1, 1, tzinfo=UTC), bytes(16))[:2] == b"\x01\x00"


@pytest.mark.parametrize(("now", "random16"), [
    (NOW, bytes(15)), (NOW, bytes(17)), (datetime(2019, 12, 31, tzinfo=UTC), bytes(16)),
    (datetime(2110, 1, 1, tzinfo=UTC), bytes(16)),
])
def test_what_gives_no_serial(now: datetime, random16: bytes) -> None:
    """Too little randomness, or a clock that cannot be right."""
    with pytest.raises(ValueError):
        serial_number(now, random16)


@given(st.binary(min_size=16, max_size=16), st.integers(min_value=1, max_value=4096))
def test_spellings(random16: bytes, shards: int) -> None:
    """Bytes, integer and hexadecimal text are the same number; a shard is the number modulo their count."""
    serial = serial_number(NOW, random16)
    assert serial_from_int(serial_int(serial)) == serial
    assert serial_from_hex(serial_hex(serial)) == serial
    assert len(serial_hex(serial)) == 36
    assert shard(serial, shards) == int(serial_hex(serial), 16) % shards


@pytest.mark.parametrize("text", ["", "00" * 18, "80" + "00" * 17, "01" * 17, "01" * 19, "0A" + "00" * 17,
                                  "0a " + "00" * 17, "zz" * 18])
def test_hexadecimal_text_that_is_no_serial(text: str) -> None:
    """One spelling is accepted: lower case, 36 digits, first byte 01 to 7f."""
    assert serial_from_hex(text) is None


def test_numbers_that_are_no_serial() -> None:
    """Zero, negative, too long, too short, top bit set."""
    for number in (0, -1, 1, 1 << 144, 1 << 143):
        with pytest.raises(ValueError):
            serial_from_int(number)
    with pytest.raises(ValueError):
        serial_from_bytes(bytes(18))


def test_shards_share_the_load() -> None:
    """200,000 serials of one day fall evenly into 128 shards, and all of them into some shard."""
    counts = [0] * 128
    for _ in range(200_000):
        counts[shard(serial_number(NOW, os.urandom(16)), 128)] += 1
    assert sum(counts) == 200_000
    assert max(counts) < 1.25 * min(counts)
