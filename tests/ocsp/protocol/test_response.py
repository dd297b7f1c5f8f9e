"""Responses from templates: the reference encoder's bytes, and what other parsers and verifiers read in them."""

import hashlib
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from ocsp.protocol.response import CertStatus, HashName, ResponseTemplate, Times
from tests.ca.pki.authority import Authority, authority
from tests.ocsp.protocol import reference
from tests.ocsp.signing import delegate_of

AUTHORITIES = {"p256": authority(ec.generate_private_key(ec.SECP256R1())),
               "p384": authority(ec.generate_private_key(ec.SECP384R1())),
               "rsa": authority(rsa.generate_private_key(65_537, 2048))}
SERIAL = bytes.fromhex("0ad0") + bytes(range(16))
TIMES = Times(produced_at_s=1_795_521_630, this_update_s=1_795_521_600, next_update_s=1_796_126_399)
STATUSES = {"good": CertStatus(), "revoked": CertStatus(revoked_at_s=1_795_500_000),
            "compromised": CertStatus(revoked_at_s=1_795_500_000, reason=1)}
REASONS = (1, 3, 4, 5, 9)

serials = st.binary(min_size=17, max_size=17).flatmap(
    lambda rest: st.integers(1, 0x7F).map(lambda first: bytes([first]) + rest))
seconds = st.integers(0, 2**32 - 1)
statuses = st.one_of(st.just(CertStatus()), st.builds(CertStatus, revoked_at_s=seconds,
                                                      reason=st.sampled_from((0, *REASONS))))
times = st.builds(Times, produced_at_s=seconds, this_update_s=seconds, next_update_s=seconds)


def generalized(moment_s: int) -> bytes:
    """YYYYMMDDHHMMSSZ."""
    return f"{datetime.fromtimestamp(moment_s, UTC):%Y%m%d%H%M%S}Z".encode()


def reference_tbs(own: Authority, name: HashName, serial: bytes, status: CertStatus, when: Times) -> bytes:
    """What A.1 makes of the same values."""
    cid = reference.certid(name.value, own.issuer.subject_der, own.issuer.key_bits, serial)
    revoked_at = None if status.revoked_at_s is None else generalized(status.revoked_at_s)
    by_key = hashlib.sha1(own.issuer.key_bits, usedforsecurity=False).digest()
    return reference.tbs(by_key, generalized(when.produced_at_s), [
        reference.single(cid, reference.status(revoked_at, status.reason), generalized(when.this_update_s),
                         generalized(when.next_update_s))])


@settings(max_examples=300, deadline=None)
@given(serial=serials, status=statuses, when=times, name=st.sampled_from(HashName), kind=st.sampled_from(
    sorted(AUTHORITIES)), signature=st.binary(min_size=60, max_size=600))
def test_templates_give_the_reference_bytes(serial: bytes, status: CertStatus, when: Times, name: HashName, kind: str,
                                            signature: bytes) -> None:
    """For every serial, status, time, hash and signature the bytes are those of the encoder in A.1."""
    own = AUTHORITIES[kind]
    template = ResponseTemplate(own.issuer, name)
    expected = reference_tbs(own, name, serial, status, when)
    assert template.tbs(serial, status, when) == expected
    assert template.response(serial, status, when, signature) == reference.response(
        expected, own.issuer.signature_algorithm, signature)


@pytest.mark.parametrize(("name", "status", "length"), [
    (HashName.SHA1, "good", 163), (HashName.SHA1, "revoked", 182), (HashName.SHA1, "compromised", 187),
    (HashName.SHA256, "good", 193), (HashName.SHA256, "revoked", 210), (HashName.SHA256, "compromised", 215)])
def test_the_signed_bytes_have_the_lengths_of_the_specification(name: HashName, status: str, length: int) -> None:
    """163/182/187 octets for SHA-1 and 193/210/215 for SHA-256 (A.1)."""
    template = ResponseTemplate(AUTHORITIES["p256"].issuer, name)
    assert len(template.tbs(SERIAL, STATUSES[status], TIMES)) == length


@pytest.mark.parametrize("kind", sorted(AUTHORITIES))
@pytest.mark.parametrize("name", list(HashName), ids=lambda name: name.value)
@pytest.mark.parametrize("status", sorted(STATUSES))
def test_cryptography_reads_what_we_meant_and_the_signature_verifies(kind: str, name: HashName, status: str) -> None:
    """Its OCSP parser, which shares no code with us, finds each field."""
    own, template = AUTHORITIES[kind], ResponseTemplate(AUTHORITIES[kind].issuer, name)
    shown = STATUSES[status]
    read = ocsp.load_der_ocsp_response(template.response(
        SERIAL, shown, TIMES, own.sign(template.tbs(SERIAL, shown, TIMES))))
    assert read.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert read.serial_number == int.from_bytes(SERIAL, "big")
    assert isinstance(read.hash_algorithm, hashes.SHA1 if name is HashName.SHA1 else hashes.SHA256)
    assert (read.issuer_name_hash, read.issuer_key_hash) == (template.name_hash, template.key_hash)
    assert read.responder_name is None
    assert read.certificates == []
    assert list(read.extensions) == []
    assert [int(at.timestamp()) for at in (read.produced_at_utc if hasattr(read, "produced_at_utc") else
                                           read.produced_at.replace(tzinfo=UTC), read.this_update_utc,
                                           read.next_update_utc) if at is not None] == [
        TIMES.produced_at_s, TIMES.this_update_s, TIMES.next_update_s]
    if shown.revoked_at_s is None:
        assert read.certificate_status is ocsp.OCSPCertStatus.GOOD
    else:
        assert read.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert read.revocation_time_utc is not None
        assert int(read.revocation_time_utc.timestamp()) == shown.revoked_at_s
        assert read.revocation_reason is (x509.ReasonFlags.key_compromise if shown.reason else None)
    public = own.key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(read.signature, read.tbs_response_bytes, padding.PKCS1v15(), hashes.SHA256())
    else:
        assert read.signature_hash_algorithm is not None
        public.verify(read.signature, read.tbs_response_bytes, ec.ECDSA(read.signature_hash_algorithm))


@pytest.mark.parametrize("kind", sorted(AUTHORITIES))
@pytest.mark.parametrize("name", list(HashName), ids=lambda name: name.value)
def test_openssl_accepts_the_response(kind: str, name: HashName, tmp_path: Path) -> None:
    """`openssl ocsp -respin` finds the status and verifies the signature with the issuer's certificate."""
    own, template = AUTHORITIES[kind], ResponseTemplate(AUTHORITIES[kind].issuer, name)
    (tmp_path / "response").write_bytes(template.response(
        SERIAL, STATUSES["compromised"], TIMES, own.sign(template.tbs(SERIAL, STATUSES["compromised"], TIMES))))
    (tmp_path / "issuer.pem").write_bytes(own.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "root.pem").write_bytes(own.root_certificate.public_bytes(Encoding.PEM))
    done = subprocess.run(
        ["openssl", "ocsp", "-respin", tmp_path / "response", "-issuer", tmp_path / "issuer.pem", f"-{name.value}",
         "-serial", f"0x{SERIAL.hex()}", "-CAfile", tmp_path / "root.pem", "-VAfile", tmp_path / "issuer.pem",
         "-attime", str(TIMES.this_update_s + 60), "-validity_period", str(10**9)],
        capture_output=True, text=True, check=False)
    assert "Response verify OK" in done.stderr, done.stderr
    assert f"0x{SERIAL.hex()}: revoked" in done.stdout, done.stdout
    assert "Reason: keyCompromise" in done.stdout


@pytest.mark.parametrize("kind", sorted(AUTHORITIES))
@pytest.mark.parametrize("name", list(HashName), ids=lambda name: name.value)
@pytest.mark.parametrize("status", sorted(STATUSES))
def test_a_delegated_responder_signs_and_shows_its_certificate(
    kind: str, name: HashName, status: str, tmp_path: Path
) -> None:
    """The CertID is the issuer's, the key hash and signature the responder's, its certificate is in the response.

    openssl is told of the root alone, so it has to find that the issuer has certified the responder.
    """
    own, shown = AUTHORITIES[kind], STATUSES[status]
    delegate = delegate_of(own)
    template = ResponseTemplate(own.issuer, name, delegate.certificate)
    response = template.response(SERIAL, shown, TIMES, delegate.sign(template.tbs(SERIAL, shown, TIMES)))
    read = ocsp.load_der_ocsp_response(response)
    assert read.responder_key_hash == hashlib.sha1(delegate.certificate.key_bits, usedforsecurity=False).digest()
    assert read.issuer_key_hash == ResponseTemplate(own.issuer, name).key_hash
    assert [one.public_bytes(Encoding.DER) for one in read.certificates] == [delegate.certificate.certificate_der]
    delegate.key.public_key().verify(read.signature, read.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
    (tmp_path / "response").write_bytes(response)
    (tmp_path / "issuer.pem").write_bytes(own.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "root.pem").write_bytes(own.root_certificate.public_bytes(Encoding.PEM))
    done = subprocess.run(
        ["openssl", "ocsp", "-respin", tmp_path / "response", "-issuer", tmp_path / "issuer.pem", f"-{name.value}",
         "-serial", f"0x{SERIAL.hex()}", "-CAfile", tmp_path / "root.pem", "-attime", str(TIMES.this_update_s + 60),
         "-verify_other", tmp_path / "issuer.pem", "-validity_period", str(10**9)],
        capture_output=True, text=True, check=False)
    assert "Response verify OK" in done.stderr, done.stderr
    assert f"0x{SERIAL.hex()}: {'good' if status == 'good' else 'revoked'}" in done.stdout, done.stdout


@pytest.mark.parametrize("reason", [6, 7, 8, 11, -1])
def test_reasons_that_bind_no_subscriber_certificate_are_refused(reason: int) -> None:
    """certificateHold and removeFromCRL never appear (BR 7.2.2, 4.9.13)."""
    with pytest.raises(ValueError):
        ResponseTemplate(AUTHORITIES["p256"].issuer, HashName.SHA1).tbs(
            SERIAL, CertStatus(revoked_at_s=1, reason=reason), TIMES)


def test_the_canonical_request_is_what_cryptography_builds() -> None:
    """The first bytes by which the responder knows a request are those that clients send."""
    own = AUTHORITIES["p256"]
    template = ResponseTemplate(own.issuer, HashName.SHA1)
    built = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        template.name_hash, template.key_hash, int.from_bytes(SERIAL, "big"),
        hashes.SHA1()).build()  # noqa: S303 - what clients send
    request = built.public_bytes(Encoding.DER)
    assert len(request) == 85
    assert request[:-18] == template.canonical_request()[:-18]
