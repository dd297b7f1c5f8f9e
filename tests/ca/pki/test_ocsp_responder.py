"""Certificates of delegated OCSP responders, and who gets one."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.pki.lint import lint_responder
from ca.pki.ocsp_responder import (
    Delegation,
    require_responder_key,
    responder_validity,
    tbs_responder,
)
from ca.pki.tbs import assemble
from tests.ca.pki.authority import NOW, Authority, authority

KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
ISSUERS = {"p256": authority(ec.generate_private_key(ec.SECP256R1())),
           "p384": authority(ec.generate_private_key(ec.SECP384R1())),
           "rsa2048": authority(rsa.generate_private_key(65_537, 2048)),
           "rsa3072": authority(rsa.generate_private_key(65_537, 3072))}
SERIAL = bytes.fromhex("0ad0") + bytes(range(16))


def made(own: Authority) -> bytes:
    """A responder's certificate."""
    tbs = tbs_responder(issuer=own.issuer, spki_der=SPKI, serial=SERIAL, validity=responder_validity(NOW, own.issuer))
    return assemble(tbs, own.sign(tbs))


@pytest.mark.parametrize("kind", sorted(ISSUERS))
def test_it_is_what_the_baseline_requirements_say(kind: str) -> None:
    """BR 7.1.2.8, as pkilint and cryptography read it: OCSPSigning alone, nocheck, 90 days, signed by the issuer."""
    own = ISSUERS[kind]
    certificate = x509.load_der_x509_certificate(made(own))
    certificate.verify_directly_issued_by(own.certificate)
    assert lint_responder(made(own)) == []
    found = {one.oid: one for one in certificate.extensions}
    assert set(found) == {x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid, x509.SubjectKeyIdentifier.oid,
                          x509.AuthorityKeyIdentifier.oid, x509.OCSPNoCheck.oid}
    assert found[x509.KeyUsage.oid].critical
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.OCSP_SIGNING]
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life == timedelta(days=90) - timedelta(seconds=1)
    assert certificate.subject.rfc4514_string().startswith("CN=Issuing ")
    assert certificate.subject.rfc4514_string().endswith(" OCSP,O=Chancery Test,C=DE")


def test_it_ends_with_its_issuer() -> None:
    """Not a second later; and there is none when the issuer has ended."""
    own = ISSUERS["p256"]
    end = own.issuer.validity.not_after
    assert responder_validity(end - timedelta(days=10), own.issuer).not_after == end
    with pytest.raises(ValueError, match="has ended"):
        responder_validity(end, own.issuer)


def test_slow_issuers_are_delegated_and_names_go_before_the_rule() -> None:
    """RSA above 2048 and P-384 by default (spec 5.8); each issuer may be said apart."""
    def held(delegation: Delegation) -> set[str]:
        return {name for name, own in ISSUERS.items() if delegation.holds_for(own.issuer, name)}

    assert held(Delegation(rule="slow")) == {"p384", "rsa3072"}
    assert held(Delegation(rule="all")) == set(ISSUERS)
    assert held(Delegation(rule="none")) == set()
    assert held(Delegation(rule="slow", direct=["p384"], delegated=["p256"])) == {"p256", "rsa3072"}


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """A request without a name."""
    return (x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
            .public_bytes(Encoding.DER))


def test_only_a_p256_key_that_signed_its_request_becomes_a_responder() -> None:
    """The key is taken byte for byte; other kinds and a damaged signature are refused."""
    assert require_responder_key(csr(KEY)) == SPKI
    for other in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2048)):
        with pytest.raises(ValueError, match="P-256"):
            require_responder_key(csr(other))
    stranger = csr(ec.generate_private_key(ec.SECP256R1()))
    mixed = csr(KEY).replace(SPKI, x509.load_der_x509_csr(stranger).public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ValueError, match="own key"):
        require_responder_key(mixed)
