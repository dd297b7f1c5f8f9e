"""Renewal information: names of certificates, windows, and what an order may replace (rows AR2 to AR10, E66, E102)."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol import base64url
from acme_api.protocol.problem import Problem
from acme_api.protocol.renewal_info import (
    CACHE_S,
    CertificateId,
    Renewable,
    is_due,
    parse_certificate_id,
    parse_replaces,
    renewal_info_object,
    renewal_window,
    require_replaceable,
    retry_after_s,
)
from ca.pki.identifier import Identifier

_NOW = datetime(2026, 11, 24, 2, 38, 0, 123_456, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_ID = CertificateId(key_id=bytes(range(20)), serial=b"\x0a" + bytes(range(17)))
_NAME = Identifier(type="dns", value="a.example.com")
_CERTIFICATE = Renewable(id=_ID, account_id=b"mine", not_before=_NOW.replace(microsecond=0), replace_now=False,
                         not_after=_NOW.replace(microsecond=0) + timedelta(days=90, seconds=-1),
                         identifiers=frozenset([_NAME]), explanation_url="", replaced=False)


def test_ar2_the_vector_of_the_rfc() -> None:
    """Row AR2: RFC 9773 4.1, and the same serial number without its leading zero."""
    text = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
    found = parse_certificate_id(text)
    assert (found.key_id.hex(), found.serial.hex()) == ("69885b6b87464041e1b37b847ba0ae2cde01c8d4", "0087654321")
    assert str(found) == text
    assert parse_certificate_id("aYhba4dGQEHhs3uEe6CuLN4ByNQ.h2VDIQ").serial.hex() == "87654321"


@given(st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=20))
def test_ar2_round_trip(key_id: bytes, serial: bytes) -> None:
    """Row AR2: what is accepted is spelled in one way."""
    text = f"{base64url.encode(key_id)}.{base64url.encode(serial)}"
    if serial[0] == 0 and len(serial) > 1 and serial[1] < 0x80:
        with pytest.raises(Problem, match="zero byte"):
            parse_certificate_id(text)
    else:
        assert str(parse_certificate_id(text)) == text


@pytest.mark.parametrize("text", ["a", "a.b.c", ".", "a==.b", "%2e%2e%2f", "A" * 10_240, "\u00dc", "", "AA.", ".AA",
                                  "AA.AB", "AA==.AA", "A A.AA", "AA.AA\n", "AA." + "A" * 28, "AA.AAE"])
def test_ar5_e102_what_names_no_certificate(text: str) -> None:
    """Rows AR5, E102: not two parts, padding, another alphabet, a serial number that is none: malformed."""
    with pytest.raises(Problem) as refused:
        parse_certificate_id(text)
    assert (refused.value.type, refused.value.status) == ("malformed", 400)
    assert len(refused.value.detail) < 200


@given(st.binary(min_size=18, max_size=18), st.integers(min_value=1, max_value=398 * 86_400),
       st.integers(min_value=0, max_value=500 * 86_400), st.booleans())
def test_ar3_windows(serial: bytes, length_s: int, age_s: int, replace_now: bool) -> None:
    """Rows AR3, AR6: whole seconds, at least an hour apart; in the last third where that is longer than the window;
    wholly past when the certificate has to be replaced; the same at each look."""
    life = timedelta(seconds=length_s)
    certificate = replace(
        _CERTIFICATE, id=CertificateId(key_id=b"k", serial=serial), not_after=_CERTIFICATE.not_before + life,
        replace_now=replace_now)
    now = _NOW + timedelta(seconds=age_s)
    start, end = renewal_window(certificate, now)
    assert start.microsecond == end.microsecond == 0
    assert end - start >= _HOUR
    if replace_now:
        assert end < now
        assert is_due(certificate, now)
        return
    assert end <= certificate.not_after + timedelta(seconds=1)
    assert (start, end) == renewal_window(certificate, now + _HOUR)
    assert is_due(certificate, now) is (start <= now)
    if life > 12 * _HOUR:
        assert start >= certificate.not_before + life * 2 / 3 - timedelta(seconds=1)
        assert end <= certificate.not_before + life * 5 / 6 + timedelta(seconds=1)


@given(st.binary(min_size=18, max_size=18))
def test_ar4_polling(serial: bytes) -> None:
    """Rows AR4, AR5: six hours, a fifth more or less, and never less than caches keep it."""
    seconds = retry_after_s(replace(_CERTIFICATE, id=CertificateId(key_id=b"k", serial=serial)))
    assert 17_280 <= seconds <= 25_920
    assert seconds > CACHE_S


def test_ar3_certificates_of_one_moment_are_spread() -> None:
    """Row AR3: a thousand certificates of one second come back over more than a week."""
    starts = sorted(renewal_window(replace(_CERTIFICATE, id=CertificateId(
        key_id=b"k", serial=number.to_bytes(18, "big"))), _NOW)[0] for number in range(1_000))
    assert starts[-1] - starts[0] > timedelta(days=7)
    assert max(after - before for before, after in itertools.pairwise(starts)) < timedelta(hours=4)


def test_ar3_ar6_the_object() -> None:
    """Rows AR3, AR6: RFC 3339 without fractions; a link only when there is an explanation."""
    document = renewal_info_object(_CERTIFICATE, _NOW)
    assert set(document) == {"suggestedWindow"}
    assert set(document["suggestedWindow"]) == {"start", "end"}
    told = renewal_info_object(replace(_CERTIFICATE, replace_now=True, explanation_url="https://ca.example/i"), _NOW)
    assert told == {"suggestedWindow": {"start": "2026-11-24T00:38:00Z", "end": "2026-11-24T01:38:00Z"},
                    "explanationURL": "https://ca.example/i"}


@pytest.mark.parametrize("value", [1, None, [], {}, "a", "a.b.c", "", "AA==.AA", "AA.AA ", True])
def test_ar7_e66_replaces_nothing(value: Any) -> None:
    """Rows AR7, E66: not a string, or no name of a certificate; the detail says what it is about (row SH5)."""
    with pytest.raises(Problem) as refused:
        parse_replaces(value)
    assert refused.value.type == "malformed"
    assert "ARI 'replaces'" in refused.value.detail


def test_ar8_ar9_what_may_be_replaced() -> None:
    """Rows AR8, AR9, E66: the account's own, with a name in common, not replaced yet."""
    require_replaceable(_CERTIFICATE, b"mine", [Identifier(type="dns", value="b.example.com"), _NAME])
    for certificate, account, names, kind, status in (
            (_CERTIFICATE, b"theirs", [_NAME], "unauthorized", 403),
            (replace(_CERTIFICATE, account_id=None), b"mine", [_NAME], "unauthorized", 403),
            (_CERTIFICATE, b"mine", [Identifier(type="dns", value="*.a.example.com")], "malformed", 400),
            (replace(_CERTIFICATE, replaced=True), b"mine", [_NAME], "alreadyReplaced", 409)):
        with pytest.raises(Problem) as refused:
            require_replaceable(certificate, account, names)
        assert (refused.value.type, refused.value.status) == (kind, status)
        assert "ARI 'replaces'" in refused.value.detail
