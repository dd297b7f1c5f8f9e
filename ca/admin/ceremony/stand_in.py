"""Throw-away software keys for the rehearsal and the lint (spec/pki.md 4): in memory, gone with the process.

What they sign is linted and forgotten; nobody trusts them, and no object with their signature is written anywhere.
"""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

_CURVES = {256: ec.SECP256R1, 384: ec.SECP384R1}


class StandIn:
    """A software key of the same algorithm and size as a key in a token."""

    def __init__(self, kind: str) -> None:
        """`kind` as in a plan: rsa-4096, p-384."""
        algorithm, _, bits = kind.partition("-")
        self._key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        if algorithm == "rsa":
            self._key = rsa.generate_private_key(public_exponent=65_537, key_size=int(bits))
        else:
            self._key = ec.generate_private_key(_CURVES[int(bits)]())

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        """With SHA-256, or SHA-384 on P-384, as the real key does."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self._key.sign(message, ec.ECDSA(hashes.SHA256() if self._key.key_size == 256 else hashes.SHA384()))


def kind_of(spki_der: bytes) -> str:
    """rsa-4096, p-384, ... of a public key. Raises ValueError for any other algorithm."""
    key = load_der_public_key(spki_der)
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1"):
        return f"p-{key.curve.key_size}"
    raise ValueError("a CA has an RSA, P-256 or P-384 key")
