"""Responses with a nonce, with `unknown`, and about several certificates: their bytes, and what others read in them."""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from ca.pki.lint_ocsp import lint_ocsp_response
from ocsp.protocol.batch import HASHES
from ocsp.protocol.live import Question, is_serial, live_tbs, may_be_forgotten
from ocsp.protocol.request import MalformedRequest, parse_request
from ocsp.protocol.response import GOOD, CertStatus, ResponseTemplate, Times
from tests.golden.make_certificates import golden_authority
from tests.ocsp.protocol import reference
from tests.ocsp.protocol.test_response import AUTHORITIES, SERIAL, generalized, seconds, statuses
from tests.ocsp.signing import delegate_of

_OWN = AUTHORITIES["p256"]
_TIMES = Times(produced_at_s=1_795_521_630, this_update_s=1_795_521_600, next_update_s=1_795_550_399)
_NONCE = reference.tlv(4, bytes(range(32)))
_NONCE_OID = "2b0601050507300102"
_GOLDEN = (
    "3082016fa21604143498b1868ab83c7ef91bbde39b0da69cdb72b00b180f32303236313132343132303033305a3082011d30"
    "73304b300906052b0e03021a050004147470d0e392d293c1603b7c76b12bd081e66f36e004143498b1868ab83c7ef91bbde3"
    "9b0da69cdb72b00b02120ad0000102030405060708090a0b0c0d0e0f8200180f32303236313132343132303030305aa01118"
    "0f32303236313132343139353935395a3081a53067300d060960864801650304020105000420c59a51bf203e71e8fe02840f"
    "8f2b94b2a2190de77e4e3a735acb52864dd7101a0420914ff1e93e3fd96dd86e5c21d2a349294ff3f5e4c92b0cd050621e79"
    "dba7459902120ad0000102030405060708090a0b0c0d0e0fa116180f32303236313132343036303030305aa0030a0104180f"
    "32303236313132343132303030305aa011180f32303236313132343139353935395aa1233021301f06092b06010505073001"
    "0204120410000102030405060708090a0b0c0d0e0f"
)
_READ = {None: ocsp.OCSPCertStatus.UNKNOWN, "good": ocsp.OCSPCertStatus.GOOD, "revoked": ocsp.OCSPCertStatus.REVOKED}

any_serials = st.binary(min_size=1, max_size=20).filter(is_serial)
times = st.builds(Times, produced_at_s=seconds, this_update_s=seconds, next_update_s=seconds)
asked = st.lists(st.tuples(st.sampled_from((0, 1)), any_serials, st.one_of(st.none(), statuses)), min_size=1,
                 max_size=10)
nonces = st.one_of(st.none(), st.binary(min_size=1, max_size=128).map(lambda octets: reference.tlv(4, octets)))

_Asked = Sequence[tuple[int, bytes, CertStatus | None]]


def _templates(kind: str, *, delegated: bool = False) -> tuple[ResponseTemplate, ResponseTemplate]:
    responder = delegate_of(AUTHORITIES[kind]).certificate if delegated else None
    first, second = (ResponseTemplate(AUTHORITIES[kind].issuer, name, responder) for name in HASHES)
    return first, second


_TEMPLATES = {kind: _templates(kind) for kind in AUTHORITIES}


def _tbs(templates: Sequence[ResponseTemplate], about: _Asked, when: Times, nonce: bytes | None) -> bytes:
    return live_tbs(templates[0], [(templates[number].cert_id(serial), status) for number, serial, status in about],
                    when, nonce)


@settings(max_examples=200, deadline=None)
@given(about=asked, when=times, nonce=nonces, kind=st.sampled_from(sorted(AUTHORITIES)),
       signature=st.binary(min_size=60, max_size=600))
def test_every_response_has_the_reference_bytes(about: _Asked, when: Times, nonce: bytes | None, kind: str,
                                                signature: bytes) -> None:
    """Whatever the certificates, statuses, times and nonce: the bytes of A.1's encoder, to which the extension is added
    by hand; version omitted, byKey (5.3)."""
    own = AUTHORITIES[kind]
    singles = []
    for number, serial, status in about:
        cid = reference.certid(HASHES[number].value, own.issuer.subject_der, own.issuer.key_bits, serial)
        encoded = b"\x82\x00" if status is None else reference.status(
            None if status.revoked_at_s is None else generalized(status.revoked_at_s), status.reason)
        singles.append(reference.single(cid, encoded, generalized(when.this_update_s),
                                        generalized(when.next_update_s)))
    by_key = hashlib.sha1(own.issuer.key_bits, usedforsecurity=False).digest()
    extensions = b"" if nonce is None else reference.tlv(
        0xA1, reference.tlv(0x30, reference.extension(_NONCE_OID, nonce)))
    expected = reference.tlv(0x30, reference.tlv(0xA2, reference.tlv(4, by_key))
                             + reference.tlv(0x18, generalized(when.produced_at_s))
                             + reference.tlv(0x30, b"".join(singles)) + extensions)
    data = _tbs(_TEMPLATES[kind], about, when, nonce)
    assert data == expected
    assert _TEMPLATES[kind][0].enclose(data, signature) == reference.response(
        expected, own.issuer.signature_algorithm, signature)


@settings(max_examples=100, deadline=None)
@given(about=asked, nonce=nonces)
def test_cryptography_reads_what_we_meant(about: _Asked, nonce: bytes | None) -> None:
    """Its parser finds each certificate under its hash with its status, in order, the times and the nonce."""
    read = ocsp.load_der_ocsp_response(_TEMPLATES["p256"][0].enclose(
        _tbs(_TEMPLATES["p256"], about, _TIMES, nonce), bytes(64)))
    found = list(read.responses)
    assert [(one.serial_number, isinstance(one.hash_algorithm, hashes.SHA256), one.certificate_status)
            for one in found] == [
        (int.from_bytes(serial, "big"), number == 1,
         _READ[None if status is None else "good" if status.revoked_at_s is None else "revoked"])
        for number, serial, status in about]
    for one, (_, _, status) in zip(found, about, strict=True):
        assert one.next_update_utc is not None
        assert (int(one.this_update_utc.timestamp()), int(one.next_update_utc.timestamp())) == (
            _TIMES.this_update_s, _TIMES.next_update_s)
        if status is not None and status.revoked_at_s is not None:
            assert one.revocation_time_utc is not None
            assert int(one.revocation_time_utc.timestamp()) == status.revoked_at_s
    values = [one.value for one in read.extensions]
    assert [value.nonce for value in values if isinstance(value, x509.OCSPNonce)] == (
        [] if nonce is None else [nonce[3:] if nonce[1] == 0x81 else nonce[2:]])
    assert len(values) == (nonce is not None)


def test_the_bytes_are_golden() -> None:
    """ResponseData for the first ones of a fixed key, octet by octet: with a nonce of 16 octets, unknown, and revoked
    under SHA-256."""
    own = golden_authority("p256")
    templates = [ResponseTemplate(own.issuer, name) for name in HASHES]
    data = _tbs(templates, [(0, SERIAL, None), (1, SERIAL, CertStatus(revoked_at_s=1_795_500_000, reason=4))], _TIMES,
                reference.tlv(4, bytes(range(16))))
    assert data.hex() == _GOLDEN


@pytest.mark.parametrize("delegated", [False, True], ids=["direct", "delegated"])
@pytest.mark.parametrize("status", ["good", "revoked", "unknown"])
@pytest.mark.parametrize("number", [0, 1], ids=["sha1", "sha256"])
def test_openssl_accepts_the_response(number: int, status: str, delegated: bool, tmp_path: Path) -> None:
    """`openssl ocsp -respin` with the request whose nonce it repeats: no warning, the status, a signature that
    verifies, of the issuer's key or of a responder that it has certified. The linters have nothing against it."""
    delegate = delegate_of(_OWN) if delegated else None
    signer, certificate = delegate or _OWN, None if delegate is None else delegate.certificate
    templates = [ResponseTemplate(_OWN.issuer, name, certificate) for name in HASHES]
    shown = {"good": GOOD, "revoked": CertStatus(revoked_at_s=1_795_500_000, reason=1), "unknown": None}[status]
    data = _tbs(templates, [(number, SERIAL, shown)], _TIMES, _NONCE)
    response = templates[0].enclose(data, signer.sign(data))
    assert lint_ocsp_response(response, certificate or _OWN.issuer, delegated=delegated, live=True) == []
    cid = reference.certid(HASHES[number].value, _OWN.issuer.subject_der, _OWN.issuer.key_bits, SERIAL)
    said = _openssl(tmp_path, response, reference.request(
        [cid], extensions=[reference.extension(_NONCE_OID, _NONCE)]))
    assert "Response verify OK" in said, said
    assert f"Cert Status: {status}" in said, said
    assert "WARNING" not in said, said
    # The same response for another nonce is an old one.
    said = _openssl(tmp_path, response, reference.request(
        [cid], extensions=[reference.extension(_NONCE_OID, reference.tlv(4, bytes(32)))]))
    assert "Nonce Verify error" in said, said


def _openssl(directory: Path, response: bytes, request: bytes) -> str:
    for file, content in (("response", response), ("request", request),
                          ("issuer.pem", _OWN.certificate.public_bytes(Encoding.PEM)),
                          ("root.pem", _OWN.root_certificate.public_bytes(Encoding.PEM))):
        (directory / file).write_bytes(content)
    done = subprocess.run(
        ["openssl", "ocsp", "-respin", "response", "-reqin", "request", "-no_nonce", "-resp_text", "-CAfile",
         "root.pem", "-verify_other", "issuer.pem", "-attime", str(_TIMES.this_update_s + 60), "-validity_period",
         str(10**9)], capture_output=True, text=True, check=False, cwd=directory, timeout=60)
    return done.stdout + done.stderr


def test_the_linters_object_to_what_live_mode_alone_may_sign() -> None:
    """Before it is asked for, nothing has a nonce, is unknown, or about two; and live nothing lives for an hour."""
    codes = {}
    for name, about, nonce, times_of in (
            ("nonce", [(0, SERIAL, GOOD)], _NONCE, _TIMES), ("unknown", [(0, SERIAL, None)], None, _TIMES),
            ("two", [(0, SERIAL, GOOD), (1, SERIAL, GOOD)], None, _TIMES)):
        response = _TEMPLATES["p256"][0].enclose(_tbs(_TEMPLATES["p256"], about, times_of, nonce), bytes(64))
        codes[name] = [finding.code for finding in lint_ocsp_response(response, _OWN.issuer, delegated=False)]
    assert codes == {"nonce": ["chancery.ocsp_extensions"], "unknown": ["chancery.ocsp_certificate_status"],
                     "two": ["chancery.ocsp_responses"]}
    short = Times(produced_at_s=1_795_521_630, this_update_s=1_795_521_600, next_update_s=1_795_525_200)
    response = _TEMPLATES["p256"][0].enclose(_tbs(_TEMPLATES["p256"], [(0, SERIAL, None)], short, _NONCE), bytes(64))
    assert [finding.code for finding in lint_ocsp_response(response, _OWN.issuer, delegated=False, live=True)] == [
        "chancery.ocsp_life"]


def test_a_response_is_about_one_to_ten_certificates() -> None:
    """None, or more than the specification lets several requests be (5.2), is an error of the caller."""
    for about in ([], [(0, SERIAL, GOOD)] * 11):
        with pytest.raises(ValueError, match="1 to 10 certificates"):
            _tbs(_TEMPLATES["p256"], about, _TIMES, None)


@pytest.mark.parametrize(("contents", "holds"), [
    ("01", True), ("7f", True), ("0080", True), ("00", False), ("", False), ("80", False), ("0001", False),
    ("01" * 20, True), ("01" * 21, False), ("00ff" + "00" * 18, True), ("ff" * 18, False)])
def test_serial_numbers_are_positive_and_short(contents: str, holds: bool) -> None:
    """RFC 5280 4.1.2.2 and DER: what can be in no certificate is not answered for."""
    assert is_serial(bytes.fromhex(contents)) is holds


def test_what_is_not_kept_any_more_may_have_been_given_out() -> None:
    """A serial number of ours from before the time of which all is kept is nobody's to call unknown; others never were
    ours."""
    oldest = bytes.fromhex("0a00") + bytes(16)
    assert may_be_forgotten(bytes.fromhex("09ff") + b"\xff" * 16, oldest)
    assert may_be_forgotten(bytes.fromhex("0100") + bytes(16), oldest)
    assert not may_be_forgotten(oldest, oldest)
    assert not may_be_forgotten(bytes.fromhex("00ff") + bytes(16), oldest)
    assert not may_be_forgotten(bytes.fromhex("09ff") + bytes(15), oldest)


@pytest.mark.parametrize("value", [reference.tlv(4, b"\0"), reference.tlv(4, bytes(16)), reference.tlv(4, bytes(32)),
                                   reference.tlv(4, bytes(128)), b"old clients send it bare"],
                         ids=["1", "16", "32", "128", "bare"])
def test_the_nonce_of_a_request_is_kept_as_it_came(value: bytes) -> None:
    """1 to 128 octets, to be echoed byte for byte (RFC 9654 2.1); one of a single request is none of the response's."""
    cid = reference.certid("sha1", _OWN.issuer.subject_der, _OWN.issuer.key_bits, SERIAL)
    extension = reference.extension(_NONCE_OID, value)
    assert parse_request(reference.request([cid], extensions=[extension])).nonce == value
    assert parse_request(reference.request([cid], single_extensions=[extension])).nonce is None
    assert parse_request(reference.request([cid])).nonce is None
    with pytest.raises(MalformedRequest, match="two nonces"):
        parse_request(reference.request([cid], extensions=[extension, extension]))


def test_only_unknown_is_left_for_a_request_that_a_presigned_response_fits() -> None:
    """One certificate and no nonce, under one hash or both."""
    one, other = SERIAL, bytes.fromhex("0ad0") + bytes(16)
    for cert_ids, nonce, may in ((((0, one),), None, False), (((0, one), (1, one)), None, False),
                                 (((0, one),), _NONCE, True), (((0, one), (0, other)), None, True)):
        assert Question(issuer_id=1, cert_ids=cert_ids, nonce=nonce).may_tell_known is may
