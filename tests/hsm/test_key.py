"""Keys in the token behave as cryptography private keys, and refuse everything but signing."""

import copy
import datetime
import hashlib
import os
import pickle
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric import utils as asymmetric
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from hsm.errors import ExportRefusedError, KeyNotFoundError, KeyUnsuitableError
from hsm.key import HsmEcKey, HsmRsaKey, ecdsa_signature_der, ecdsa_signatures_der, private_key, sign_many
from tests.fixtures_hsm import SoftHsm

_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test")])
_NOW = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)


def _verify(key: HsmRsaKey | HsmEcKey, signature: bytes, message: bytes) -> None:
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    else:
        public.verify(signature, message, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("kind", ["rsa_label", "ec_label"])
def test_builders_of_cryptography_sign_with_the_token(softhsm_token: SoftHsm, kind: str) -> None:
    """A certificate and a CRL built by cryptography verify under the public key that the token shows."""
    with softhsm_token.open() as token:
        key = private_key(token, getattr(softhsm_token, kind))
        certificate = (
            x509.CertificateBuilder().subject_name(_NAME).issuer_name(_NAME).public_key(key.public_key())
            .serial_number(1).not_valid_before(_NOW).not_valid_after(_NOW).sign(key, hashes.SHA256()))
        crl = (x509.CertificateRevocationListBuilder().issuer_name(_NAME).last_update(_NOW)
               .next_update(_NOW + datetime.timedelta(days=1)).sign(key, hashes.SHA256()))
    certificate.verify_directly_issued_by(certificate)
    assert crl.is_signature_valid(key.public_key())


@pytest.mark.parametrize("kind", ["rsa_label", "ec_label"])
def test_bulk_signatures_verify_in_order(softhsm_token: SoftHsm, kind: str) -> None:
    """`sign_many` gives one valid signature a message, in the order of the messages; of nothing, nothing."""
    messages = [os.urandom(163) for _ in range(50)]
    with softhsm_token.open() as token:
        key = private_key(token, getattr(softhsm_token, kind))
        signatures = sign_many(key, messages)
        assert sign_many(key, []) == []
    assert len(signatures) == len(messages)
    for signature, message in zip(signatures, messages, strict=True):
        _verify(key, signature, message)


def test_digests_may_be_made_before(softhsm_token: SoftHsm) -> None:
    """Prehashed input gives a signature over that digest; a digest of the wrong length is refused."""
    digest = hashlib.sha256(b"message").digest()
    prehashed = asymmetric.Prehashed(hashes.SHA256())
    with softhsm_token.open() as token:
        ec_key, rsa_key = private_key(token, softhsm_token.ec_label), private_key(token, softhsm_token.rsa_label)
        assert isinstance(ec_key, HsmEcKey)
        assert isinstance(rsa_key, HsmRsaKey)
        _verify(ec_key, ec_key.sign(digest, ec.ECDSA(prehashed)), b"message")
        _verify(rsa_key, rsa_key.sign(digest, padding.PKCS1v15(), prehashed), b"message")
        with pytest.raises(KeyUnsuitableError):
            ec_key.sign(digest[:-1], ec.ECDSA(prehashed))


def test_only_the_algorithms_of_the_profiles(softhsm_token: SoftHsm) -> None:
    """SHA-1, PSS, and any hash but the curve's own are refused (BR 7.1.3.2)."""
    with softhsm_token.open() as token:
        ec_key, rsa_key = private_key(token, softhsm_token.ec_label), private_key(token, softhsm_token.rsa_label)
        assert isinstance(ec_key, HsmEcKey)
        assert isinstance(rsa_key, HsmRsaKey)
        refused: list[Callable[[], object]] = [
            lambda: ec_key.sign(b"", ec.ECDSA(hashes.SHA384())),
            lambda: ec_key.sign(b"", ec.ECDSA(hashes.SHA1())),  # noqa: S303 - it must be refused
            lambda: rsa_key.sign(b"", padding.PKCS1v15(), hashes.SHA1()),  # noqa: S303 - it must be refused
            lambda: rsa_key.sign(b"", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()),
            lambda: rsa_key.decrypt(b"", padding.PKCS1v15()),
            lambda: ec_key.exchange(ec.ECDH(), ec_key.public_key()),
        ]
        for sign in refused:
            with pytest.raises(KeyUnsuitableError):
                sign()


@pytest.mark.parametrize("kind", ["rsa_label", "ec_label"])
def test_export_is_refused(softhsm_token: SoftHsm, kind: str) -> None:
    """No way of cryptography or pickle takes a private key out of its token; a copy is the same key."""
    with softhsm_token.open() as token:
        key = private_key(token, getattr(softhsm_token, kind))
        with pytest.raises(ExportRefusedError):
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                              serialization.NoEncryption())
        with pytest.raises(ExportRefusedError):
            key.private_numbers()
        with pytest.raises(ExportRefusedError):
            pickle.dumps(key)
        assert copy.copy(key) is key
        assert copy.deepcopy(key) is key


def test_a_key_is_exactly_the_one_expected(softhsm_token: SoftHsm) -> None:
    """An unknown label lists what is there; a key other than the certificate's is refused."""
    with softhsm_token.open() as token:
        with pytest.raises(KeyNotFoundError, match=r"no private key labelled 'R9': it holds 'Test E1', 'Test R1'"):
            private_key(token, "R9")
        spki = private_key(token, softhsm_token.rsa_label).spki
        private_key(token, softhsm_token.rsa_label, expected_spki=spki)
        with pytest.raises(KeyUnsuitableError, match="not the key of its certificate"):
            private_key(token, softhsm_token.ec_label, expected_spki=spki)


@given(st.integers(1, 2**384 - 1), st.integers(1, 2**384 - 1))
def test_ecdsa_der_is_that_of_cryptography(r: int, s: int) -> None:
    """r||s becomes the minimal DER that cryptography writes and reads."""
    raw = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    assert ecdsa_signature_der(raw) == asymmetric.encode_dss_signature(r, s)


@given(st.sampled_from([32, 48]).flatmap(lambda half: st.lists(st.lists(
    st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), min_size=2 * half, max_size=2 * half).map(bytes), max_size=9)))
def test_ecdsa_der_in_bulk_is_that_of_each(raw: list[bytes]) -> None:
    """Whatever the first octets are, zeros or high bits, of both curves; a number that is zero is refused as well."""
    try:
        each = [ecdsa_signature_der(one) for one in raw]
    except KeyUnsuitableError:
        with pytest.raises(KeyUnsuitableError):
            ecdsa_signatures_der(raw)
    else:
        assert ecdsa_signatures_der(raw) == each


@pytest.mark.parametrize("bad", [b"", b"\1", b"\1" * 63, b"\1" * 65, b"\1" * 32 + bytes(32), bytes(32) + b"\1" * 32])
def test_one_bad_signature_in_bulk_is_refused(bad: bytes) -> None:
    """Wherever it comes: of an odd length, or with a number that is zero."""
    good = b"\1" * 64
    for raw in ([bad], [bad, good], [good, bad, good]):
        with pytest.raises(KeyUnsuitableError):
            ecdsa_signatures_der(raw)


@pytest.mark.parametrize("raw", [b"", bytes(64), b"\1" * 63, bytes(32) + b"\1" * 32])
def test_impossible_ecdsa_signatures_are_refused(raw: bytes) -> None:
    """Zero, and halves of different length, never become a signature."""
    with pytest.raises(KeyUnsuitableError):
        ecdsa_signature_der(raw)
