"""Precertificate and final certificate: what differs, and that nothing else does (spec/pki.md 1.5)."""

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from ca.pki import der
from ca.pki.lint import Finding, allowances, lint_certificate
from ca.pki.precertificate import (
    CorrespondenceError,
    is_precertificate,
    require_correspondence,
    sct_list_of,
    with_poison,
    with_sct_list,
    without_poison,
    without_sct_list,
)
from ca.pki.profile import PROFILES
from ca.pki.sct import Sct, encode_sct, sct_list_value
from ca.pki.tbs import assemble
from tests.ct_log import without_poison as stripped_elsewhere
from tests.golden.make_certificates import PRECERTIFICATE, cases

CASES = {stem: (certificate, issued_by) for stem, certificate, issued_by in cases()
         if not stem.endswith(PRECERTIFICATE)}
VALUE = sct_list_value([encode_sct(Sct(log_id=bytes([number]) * 32, timestamp_ms=1_800_000_000_000, extensions=b"",
                                       signature_algorithm=3, signature=b"s" * 71)) for number in (1, 2)])


def _tbs(certificate: bytes) -> bytes:
    return der.whole(certificate, der.children(certificate, der.read_only(certificate, der.SEQUENCE))[0])


@pytest.mark.parametrize("stem", sorted(CASES))
def test_for_each_profile_and_key(stem: str) -> None:
    """Poison in, poison out: the same bytes; cryptography sees the poison, critical; the final one corresponds; the
    test log, with code of its own, takes the same bytes out."""
    certificate, issued_by = CASES[stem]
    tbs = _tbs(certificate)
    poisoned, final = with_poison(tbs), with_sct_list(tbs, VALUE)
    assert without_poison(poisoned) == tbs == without_sct_list(final)
    assert stripped_elsewhere(poisoned) == tbs
    assert is_precertificate(poisoned)
    assert not is_precertificate(tbs)
    assert not is_precertificate(final)
    assert sct_list_of(final) == VALUE
    assert sct_list_of(tbs) is None
    require_correspondence(poisoned, final)
    parsed = x509.load_der_x509_certificate(assemble(poisoned, issued_by.sign(poisoned)))
    last = list(parsed.extensions)[-1]
    assert (type(last.value), last.critical) == (x509.PrecertPoison, True)
    whole = x509.load_der_x509_certificate(assemble(final, issued_by.sign(final)))
    assert whole.tbs_precertificate_bytes == tbs


@pytest.mark.parametrize("stem", sorted(CASES))
def test_lint_of_both(stem: str) -> None:
    """pkilint and our own rules accept precertificate and final certificate with the profile's allowances alone."""
    certificate, issued_by = CASES[stem]
    tbs = _tbs(certificate)
    allowed = allowances(PROFILES[stem.partition("-")[0]], public=True)
    for made in (with_poison(tbs), with_sct_list(tbs, VALUE)):
        assert _faults(assemble(made, issued_by.sign(made)), stem) == []
        assert {each.code for each in lint_certificate(assemble(made, issued_by.sign(made)), issued_by.issuer)
                } <= set(allowed)


def _faults(certificate: bytes, stem: str) -> list[Finding]:
    allowed = allowances(PROFILES[stem.partition("-")[0]], public=True)
    return [each for each in lint_certificate(certificate, CASES[stem][1].issuer) if each.code not in allowed]


def test_lint_finds_what_is_wrong_with_transparency() -> None:
    """A poison beside SCTs, an SCT list that is empty or has one log twice, one that is not last."""
    stem = "tlsserver-p256-by-p256"
    certificate, issued_by = CASES[stem]
    tbs = _tbs(certificate)
    twice = sct_list_value([encode_sct(Sct(log_id=bytes(32), timestamp_ms=1, extensions=b"", signature_algorithm=3,
                                           signature=b"s" * 71))] * 2)
    for made, code in ((with_sct_list(with_poison(tbs), VALUE), "chancery.poison"),
                       (with_sct_list(tbs, twice), "chancery.sct_list")):
        codes = {each.code for each in _faults(assemble(made, issued_by.sign(made)), stem)}
        assert code in codes


@pytest.mark.parametrize("change", ["serial", "name", "twice", "none"])
def test_what_does_not_correspond(change: str) -> None:
    """One other byte anywhere, two poisons, no SCT list: not the same certificate."""
    tbs = _tbs(CASES["classic-p256-by-p256"][0])
    poisoned, final = with_poison(tbs), with_sct_list(tbs, VALUE)
    if change == "serial":
        final = final.replace(bytes.fromhex("00112233"), bytes.fromhex("00112234"), 1)
    elif change == "name":
        final = final.replace(b"www.example.com", b"wwx.example.com", 1)
    elif change == "twice":
        poisoned = with_poison(poisoned)
    else:
        final = tbs
    with pytest.raises(CorrespondenceError):
        require_correspondence(poisoned, final)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_flipped_byte_is_seen(position: int, flip: int) -> None:
    """A byte changed anywhere outside of the SCT list is no correspondence."""
    tbs = _tbs(CASES["classic-p256-by-p256"][0])
    final = bytearray(with_sct_list(tbs, VALUE))
    position %= len(final) - len(VALUE)
    final[position] ^= flip
    with pytest.raises(CorrespondenceError):
        require_correspondence(with_poison(tbs), bytes(final))
