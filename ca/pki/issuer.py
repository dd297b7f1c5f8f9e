"""What an issuing certificate gives to what it signs: byte strings that are copied, never encoded again."""

from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.pki import der
from ca.pki.validity import Validity

# BR 7.1.3.2, byte for byte. The hash of an EC key follows its curve.
SHA256_WITH_RSA = bytes.fromhex("300d06092a864886f70d01010b0500")
ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
ECDSA_WITH_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuing CA: its certificate, read once."""

    certificate_der: bytes
    subject_der: bytes                 # copied as the issuer Name of what it signs
    spki_der: bytes
    key_bits: bytes                    # contents of the subjectPublicKey BIT STRING, for OCSP's issuerKeyHash
    key_id: bytes                      # its subjectKeyIdentifier, copied as authorityKeyIdentifier
    authority_key_id: bytes | None     # who signed this certificate
    key_type: Literal["rsa", "ec"]
    public_key: PublicKey
    signature_algorithm: bytes         # AlgorithmIdentifier of what it signs, DER
    validity: Validity


def read_issuer(certificate_der: bytes) -> Issuer:
    """The issuer of this certificate. Raises ValueError when it cannot be one of ours (no SKI, another algorithm)."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    public_key = certificate.public_key()
    key_type: Literal["rsa", "ec"]
    if isinstance(public_key, rsa.RSAPublicKey):
        key_type, algorithm = "rsa", SHA256_WITH_RSA
    elif isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name in ("secp256r1", "secp384r1"):
        key_type = "ec"
        algorithm = ECDSA_WITH_SHA256 if public_key.curve.name == "secp256r1" else ECDSA_WITH_SHA384
    else:
        raise ValueError("an issuing certificate has an RSA, P-256 or P-384 key")
    try:
        key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound as fault:
        raise ValueError("an issuing certificate has a subject key identifier (BR 7.1.2.6)") from fault
    subject_der, spki_der = _subject_and_key(certificate_der)
    bits = der.children(spki_der, der.read_only(spki_der, der.SEQUENCE))[1]
    return Issuer(
        certificate_der=certificate_der,
        subject_der=subject_der,
        spki_der=spki_der,
        key_bits=der.contents(spki_der, bits)[1:],
        key_id=key_id,
        authority_key_id=_authority_key_id(certificate),
        key_type=key_type,
        public_key=public_key,
        signature_algorithm=algorithm,
        validity=Validity(not_before=certificate.not_valid_before_utc, not_after=certificate.not_valid_after_utc),
    )


def _authority_key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None


def _subject_and_key(certificate_der: bytes) -> tuple[bytes, bytes]:
    """The subject Name and the SubjectPublicKeyInfo, as they stand in the certificate."""
    tbs = der.children(certificate_der, der.read_only(certificate_der, der.SEQUENCE))[0]
    fields = der.children(certificate_der, tbs)
    # version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    return der.whole(certificate_der, fields[5]), der.whole(certificate_der, fields[6])
