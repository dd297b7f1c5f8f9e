"""From a PKCS#11 key object to the public key it shows, as certificates know it (SubjectPublicKeyInfo)."""

from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType

from hsm.errors import KeyUnsuitableError

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
}
_OCTET_STRING = 0x04


def public_key_of_object(item: Any) -> PublicKey:
    """The public key of a public key object, or of an RSA private key object (which carries modulus and exponent).

    Raises KeyUnsuitableError for any other algorithm or curve, and for a point that is not on its curve.
    """
    label = item[Attribute.LABEL]
    kind = item[Attribute.KEY_TYPE]
    try:
        if kind is KeyType.RSA:
            exponent = int.from_bytes(item[Attribute.PUBLIC_EXPONENT], "big")
            return rsa.RSAPublicNumbers(exponent, int.from_bytes(item[Attribute.MODULUS], "big")).public_key()
        if kind is KeyType.EC:
            curve = CURVES.get(bytes(item[Attribute.EC_PARAMS]))
            if curve is not None:
                return ec.EllipticCurvePublicKey.from_encoded_point(
                    curve, _uncompressed(bytes(item[Attribute.EC_POINT]), curve))
    except ValueError as fault:
        raise KeyUnsuitableError(f"the public key of {label!r} is not valid: {fault}") from fault
    raise KeyUnsuitableError(f"key {label!r} is neither RSA nor on P-256 or P-384: we sign with none other")


def _uncompressed(point: bytes, curve: ec.EllipticCurve) -> bytes:
    """04||X||Y of CKA_EC_POINT: a DER OCTET STRING around it by the standard, the bare point on some tokens."""
    size = 1 + 2 * ((curve.key_size + 7) // 8)
    if len(point) == size + 2 and point[0] == _OCTET_STRING and point[1] == size:
        return point[2:]
    return point


def spki_of_object(item: Any) -> bytes | None:
    """SubjectPublicKeyInfo DER of a key object, or None when it shows none (EC private keys; other algorithms)."""
    try:
        return spki(public_key_of_object(item))
    except (KeyUnsuitableError, pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, pkcs11.FunctionFailed,
            NotImplementedError):       # the last is python-pkcs11's own, for an attribute that it cannot decode
        return None


def spki(public_key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
