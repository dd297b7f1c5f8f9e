"""OCSP responses under the linters: every template is clean, and each of our own rules finds what it is for."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ca.pki.lint import Severity
from ca.pki.lint_ocsp import lint_ocsp_response
from ocsp.protocol.batch import HASHES
from ocsp.protocol.response import CertStatus, ResponseTemplate, Times
from tests.ca.pki.authority import NOW, Authority
from tests.golden.make_certificates import SERIAL, golden_authority
from tests.ocsp.signing import delegate_of

DAY_S = 86_400
NOW_S = int(NOW.timestamp())
STATUSES = (CertStatus(), *(CertStatus(revoked_at_s=NOW_S - 100, reason=reason) for reason in (0, 1, 3, 4, 5, 9)))


def _times(life_s: int = 7 * DAY_S - 1, produced_s: int = 60) -> Times:
    return Times(this_update_s=NOW_S, produced_at_s=NOW_S + produced_s, next_update_s=NOW_S + life_s)


def _response(made_by: Authority, times: Times, *, delegated: bool = False) -> bytes:
    template = ResponseTemplate(made_by.issuer, HASHES[0], made_by.issuer if delegated else None)
    return template.response(SERIAL, CertStatus(), times, bytes(64))


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048"])
@pytest.mark.parametrize("delegated", [False, True])
def test_every_template_is_clean(kind: str, delegated: bool) -> None:
    """Both CertID hashes, every status and reason, by the issuer and by a delegated responder."""
    made_by = golden_authority(kind)
    for name in HASHES:
        template = ResponseTemplate(made_by.issuer, name, made_by.issuer if delegated else None)
        for status in STATUSES:
            response = template.response(SERIAL, status, _times(), made_by.sign(b"anything"))
            assert lint_ocsp_response(response, made_by.issuer, delegated=delegated) == []


def test_templates_of_another_key_than_the_issuers_are_clean() -> None:
    """A P-384 issuer whose responder has a P-256 key and a certificate as the CA makes it."""
    made_by = golden_authority("p384")
    delegate = delegate_of(made_by, now=NOW)
    for name in HASHES:
        template = ResponseTemplate(made_by.issuer, name, delegate.certificate)
        for status in STATUSES:
            signature = delegate.sign(template.tbs(SERIAL, status, _times()))
            response = template.response(SERIAL, status, _times(), signature)
            assert lint_ocsp_response(response, delegate.certificate, delegated=True) == []


def test_pkilint_is_asked_too() -> None:
    """A response whose nextUpdate lies before its thisUpdate is noticed by pkilint, not by our own rules alone."""
    made_by = golden_authority("p256")
    found = lint_ocsp_response(_response(made_by, _times(life_s=-60)), made_by.issuer, delegated=False)
    assert any(not finding.code.startswith("chancery.") for finding in found)


@pytest.mark.parametrize(("times", "code"), [
    (_times(life_s=8 * 3_600 - 2), "chancery.ocsp_life"), (_times(life_s=10 * DAY_S), "chancery.ocsp_life"),
    (_times(produced_s=-1), "chancery.ocsp_produced_at")])
def test_times(times: Times, code: str) -> None:
    """BR 4.9.9: eight hours and ten days, to the second."""
    made_by = golden_authority("p256")
    codes = {finding.code for finding in lint_ocsp_response(_response(made_by, times), made_by.issuer, delegated=False)}
    assert code in codes
    for life_s in (8 * 3_600 - 1, 10 * DAY_S - 1):
        assert lint_ocsp_response(_response(made_by, _times(life_s=life_s)), made_by.issuer, delegated=False) == []


def test_signer_and_certificates() -> None:
    """Another signer's algorithm, a certificate that is missing, one that nobody asked for."""
    made_by, other = golden_authority("p256"), golden_authority("rsa2048")
    found = lint_ocsp_response(_response(made_by, _times()), other.issuer, delegated=False)
    assert [finding.code for finding in found] == ["chancery.signature_algorithm"]
    for delegated in (False, True):
        found = lint_ocsp_response(_response(made_by, _times(), delegated=delegated), made_by.issuer,
                                   delegated=not delegated)
        assert "chancery.ocsp_certificates" in {finding.code for finding in found}


def test_what_others_would_write() -> None:
    """A responder by name, no nextUpdate, an extension, the status unknown, a reason that is not allowed."""
    made_by = golden_authority("p256")
    now = datetime.now(UTC).replace(microsecond=0, tzinfo=None)

    def built(encoding: ocsp.OCSPResponderEncoding, status: ocsp.OCSPCertStatus, *, ends: bool = True,
              reason: x509.ReasonFlags | None = None, nonce: bool = False) -> set[str]:
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=made_by.certificate, issuer=made_by.certificate, algorithm=hashes.SHA1(), cert_status=status,  # noqa: S303 - of CertIDs
            this_update=now, next_update=now + timedelta(days=3) if ends else None,
            revocation_time=now if status is ocsp.OCSPCertStatus.REVOKED else None, revocation_reason=reason
        ).responder_id(encoding, made_by.certificate)
        if nonce:
            builder = builder.add_extension(x509.OCSPNonce(b"n" * 16), False)
        response = builder.sign(made_by.key, hashes.SHA256())
        return {finding.code for finding in lint_ocsp_response(response.public_bytes(Encoding.DER), made_by.issuer,
                                                                delegated=False)}

    by_key, good = ocsp.OCSPResponderEncoding.HASH, ocsp.OCSPCertStatus.GOOD
    assert "chancery.ocsp_responder_id" in built(ocsp.OCSPResponderEncoding.NAME, good)
    assert "chancery.ocsp_life" in built(by_key, good, ends=False)
    assert "chancery.ocsp_extensions" in built(by_key, good, nonce=True)
    assert "chancery.ocsp_certificate_status" in built(by_key, ocsp.OCSPCertStatus.UNKNOWN)
    assert "chancery.ocsp_reason" in built(by_key, ocsp.OCSPCertStatus.REVOKED,
                                           reason=x509.ReasonFlags.certificate_hold)


def test_garbage_is_fatal() -> None:
    """A linter that cannot read is a finding, never a pass."""
    found = lint_ocsp_response(b"\x30\x03\x0a\x01\x06", golden_authority("p256").issuer, delegated=False)
    assert {finding.code for finding in found} >= {"chancery.ocsp_status"}
    found = lint_ocsp_response(b"nothing", golden_authority("p256").issuer, delegated=False)
    assert {(finding.severity, finding.code) for finding in found} == {(Severity.FATAL, "chancery.linter_crashed")}
