"""An issuer as OCSP sees it, from its certificate."""

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki import der
from ocsp.protocol.response import IssuerIdentity

# BR 7.1.3.2: one signature algorithm a kind of key, byte for byte.
_SHA256_RSA: Final = bytes.fromhex("300d06092a864886f70d01010b0500")
_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")
_ECDSA_OF_CURVE: Final = {"secp256r1": _ECDSA_SHA256, "secp384r1": _ECDSA_SHA384}


def issuer_identity(certificate_der: bytes) -> IssuerIdentity:
    """Name, key and algorithm of an issuer. Raises ValueError for a kind of key that we do not sign with."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        algorithm = _SHA256_RSA
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _ECDSA_OF_CURVE:
        algorithm = _ECDSA_OF_CURVE[key.curve.name]
    else:
        raise ValueError("an issuer's key is RSA, P-256 or P-384")
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    bits = der.children(spki, der.read_only(spki, der.SEQUENCE))[1]
    return IssuerIdentity(name_der=certificate.subject.public_bytes(), key_bits=der.contents(spki, bits)[1:],
                          signature_algorithm_der=algorithm)
