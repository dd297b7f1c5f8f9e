"""DER: what is written is read back, and nothing but the shortest form is read."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.pki import der


@given(st.integers(min_value=-(2**200), max_value=2**200), st.binary(max_size=70_000))
def test_round_trip(number: int, octets: bytes) -> None:
    """Numbers, strings and sequences; lengths of one to three octets."""
    buffer = der.sequence(der.integer(number), der.tlv(der.OCTET_STRING, octets))
    first, second = der.children(buffer, der.read_only(buffer, der.SEQUENCE))
    assert int.from_bytes(der.contents(buffer, first), "big", signed=True) == number
    assert der.contents(buffer, second) == octets
    assert der.whole(buffer, second) == der.tlv(der.OCTET_STRING, octets)


@given(st.binary(max_size=200), st.data())
def test_truncated_and_trailing(octets: bytes, data: st.DataObject) -> None:
    """No prefix and no extension of an element is one."""
    buffer = der.tlv(der.OCTET_STRING, octets)
    cut = data.draw(st.integers(min_value=0, max_value=len(buffer) - 1))
    for wrong in (buffer[:cut], buffer + b"\x00"):
        with pytest.raises(der.DerError):
            der.read_only(wrong, der.OCTET_STRING)


@pytest.mark.parametrize("wrong", ["0480", "048100", "04810100", "0482000100", "048400000001aa", "0485000000000100",
                                   "1f0100", "04", "", "04ff"])
def test_other_length_forms(wrong: str) -> None:
    """Indefinite, padded, too long, reserved; tags of several octets."""
    with pytest.raises(der.DerError):
        der.read(bytes.fromhex(wrong))


def test_children_fill_their_parent() -> None:
    """An element may not reach beyond its parent even when the buffer goes on."""
    with pytest.raises(der.DerError):
        der.children(b"\x30\x03\x04\x02\xaa\xbb", der.Element(0x30, 0, 2, 5))
    with pytest.raises(der.DerError):
        der.read(b"\x04\x00", tag=der.SEQUENCE)


@pytest.mark.parametrize(("moment", "encoded"), [
    (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
    (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
    (datetime(1950, 1, 1, tzinfo=UTC), b"\x17\x0d500101000000Z"),
])
def test_times(moment: datetime, encoded: bytes) -> None:
    """UTCTime through 2049, GeneralizedTime from 2050 (RFC 5280 4.1.2.5)."""
    assert der.time(moment) == encoded


@given(st.datetimes(min_value=datetime(1950, 1, 1), max_value=datetime(9999, 12, 31)))  # noqa: DTZ001 - made UTC below
def test_times_are_read_back(moment: datetime) -> None:
    """Every whole second that can be signed; and nothing but what `time` writes."""
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    encoded = der.time(moment)
    assert der.read_time(encoded) == moment
    for wrong in (encoded[:-1], encoded + b"Z", encoded[:2] + b"+" + encoded[3:], encoded[:-3] + b"60Z",
                  bytes((der.GENERALIZED_TIME, 15)) + b"20260101000000Z", bytes((der.OCTET_STRING,)) + encoded[1:]):
        with pytest.raises(der.DerError):
            der.read_time(wrong)


def test_times_that_cannot_be_signed() -> None:
    """Fractions, local time, no zone."""
    for moment in (datetime(2026, 1, 1, microsecond=1, tzinfo=UTC), datetime(2026, 1, 1),  # noqa: DTZ001 - refused
                   datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))):
        with pytest.raises(ValueError):
            der.time(moment)


@pytest.mark.parametrize(("dotted", "encoded"), [
    ("2.5.29.15", "0603551d0f"), ("1.2.840.113549.1.1.11", "06092a864886f70d01010b"), ("2.999.3", "0603883703"),
    ("1.3.6.1.4.1.11129.2.4.3", "060a2b06010401d679020403"),
])
def test_object_identifiers(dotted: str, encoded: str) -> None:
    """X.690 8.19, its own example included."""
    assert der.object_identifier(dotted).hex() == encoded
