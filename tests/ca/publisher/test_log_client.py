"""What a log may answer, and what is made of it."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.sct import decode_sct
from ca.publisher.log_client import LogFault, read_answer, retry_after_s

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
GOOD = {"sct_version": 0, "id": base64.b64encode(b"i" * 32).decode(), "timestamp": 1_800_000_000_123,
        "extensions": base64.b64encode(bytes.fromhex("0000050000000007")).decode(),
        "signature": base64.b64encode(b"\x04\x03\x00\x03abc").decode()}


def test_a_good_answer() -> None:
    """Every field arrives, extensions untouched."""
    sct = decode_sct(read_answer(json.dumps({**GOOD, "unknown": 1}).encode()))
    assert (sct.log_id, sct.timestamp_ms, sct.extensions.hex(), sct.signature) == (
        b"i" * 32, 1_800_000_000_123, "0000050000000007", b"abc")


@pytest.mark.parametrize("change", [
    {"sct_version": 1}, {"id": base64.b64encode(b"short").decode()}, {"id": "!"}, {"timestamp": -1},
    {"timestamp": 1 << 63}, {"timestamp": "1"}, {"extensions": "?"}, {"signature": base64.b64encode(b"\x04").decode()},
    {"signature": base64.b64encode(b"\x04\x03\x00\x09abc").decode()}, {"extensions": None}])
def test_answers_that_are_no_sct(change: dict[str, object]) -> None:
    """A fault of the log, whatever it is."""
    with pytest.raises(LogFault):
        read_answer(json.dumps({**GOOD, **change}).encode())


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """LogFault and nothing else."""
    with pytest.raises(LogFault):
        read_answer(data)


@pytest.mark.parametrize(("value", "seconds"), [
    ("120", 120.0), (" 7 ", 7.0), ("0", 0.0), ("", None), ("soon", None), ("-5", None), ("9" * 40, 999_999_999.0),
    ("Wed, 25 Nov 2026 12:01:00 GMT", 60.0), ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0)])
def test_retry_after(value: str, seconds: float | None) -> None:
    """RFC 9110 10.2.3: seconds or a date; anything else says nothing."""
    assert retry_after_s(value, NOW) == seconds
