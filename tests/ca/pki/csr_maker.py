"""Certification requests of any shape: put together by hand, so that a test can make what no library would."""

import ipaddress
from collections.abc import Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki import der

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

COMMON_NAME = "2.5.4.3"
SUBJECT_ALT_NAME = "2.5.29.17"
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")


def attribute(oid: str, *values: bytes) -> bytes:
    """One Attribute with its set of values."""
    return der.sequence(der.object_identifier(oid), der.tlv(der.SET, *values))


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """One Extension."""
    flag = b"\x01\x01\xff" if critical else b""
    return der.sequence(der.object_identifier(oid), flag, der.tlv(der.OCTET_STRING, value))


def alternative_names(names: Sequence[str | tuple[int, bytes]]) -> bytes:
    """The SAN extension: names and addresses as text, other forms as (tag, contents)."""
    encoded = []
    for name in names:
        if isinstance(name, tuple):
            encoded.append(der.tlv(*name))
            continue
        try:
            encoded.append(der.tlv(0x87, ipaddress.ip_address(name).packed))
        except ValueError:
            encoded.append(der.tlv(0x82, name.encode("latin-1")))
    return extension(SUBJECT_ALT_NAME, der.sequence(*encoded))


def subject(*pairs: tuple[str, int, bytes]) -> bytes:
    """A Name of (OID, string tag, contents)."""
    return der.sequence(*(der.tlv(der.SET, der.sequence(der.object_identifier(oid), der.tlv(tag, value)))
                          for oid, tag, value in pairs))


def common_name(text: str) -> bytes:
    """A Name with one UTF8String CN."""
    return subject((COMMON_NAME, der.UTF8_STRING, text.encode()))


def sign(key: Key, message: bytes, algorithm: hashes.HashAlgorithm | None = None) -> bytes:
    """SHA-256 unless told otherwise; PKCS#1 v1.5 for RSA."""
    algorithm = algorithm or hashes.SHA256()
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), algorithm)
    return key.sign(message, ec.ECDSA(algorithm))


def request(
    key: Key,
    *,
    names: Sequence[str | tuple[int, bytes]] = (),
    extensions: Sequence[bytes] = (),
    subject_der: bytes = b"\x30\x00",
    attributes: Sequence[bytes] | None = None,
    version: int = 0,
    spki: bytes | None = None,
    signature_algorithm: bytes | None = None,
    signature: bytes | None = None,
) -> bytes:
    """A CertificationRequest for the names, with every part replaceable."""
    public = key.public_key()
    spki = spki or public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    wanted = ([alternative_names(names)] if names else []) + list(extensions)
    if attributes is None:
        attributes = [attribute(EXTENSION_REQUEST, der.sequence(*wanted))] if wanted else []
    info = der.sequence(der.integer(version), subject_der, spki, der.tlv(0xA0, *attributes))
    algorithm = signature_algorithm or (_RSA_SHA256 if isinstance(key, rsa.RSAPrivateKey) else _ECDSA_SHA256)
    return der.sequence(info, algorithm, der.bit_string(sign(key, info) if signature is None else signature))
