"""Which public keys we certify, and which ones may sign for an account (spec/pki.md 2, BR 6.1.1.3, 6.1.5, 6.1.6).

Certificate keys come as SubjectPublicKeyInfo from strangers: closed lists of algorithms, sizes and curves, in the one
DER form that we would write ourselves. Account keys (row J7) sign requests only, so more of them are fine; the tests
for keys that are easily computed are the same. Checks go from cheap to dear, sizes first, so that nobody makes us work.
"""

import hashlib
import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ca.pki import der, weak_key

MAX_SPKI_OCTETS: Final = 1_100

# BR 7.1.3.1, byte for byte: rsaEncryption with its NULL, the two curves by name.
RSA_ALGORITHM: Final = bytes.fromhex("300d06092a864886f70d0101010500")
P256_ALGORITHM: Final = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
P384_ALGORITHM: Final = bytes.fromhex("301006072a8648ce3d020106052b81040022")
KEY_ALGORITHMS: Final = (RSA_ALGORITHM, P256_ALGORITHM, P384_ALGORITHM)

_CERTIFICATE_RSA_BITS: Final = (2048, 3072, 4096)
_CERTIFICATE_RSA_EXPONENT: Final = 65_537
_ACCOUNT_RSA_BITS: Final = range(2048, 8193)
_ACCOUNT_RSA_EXPONENTS: Final = range(3, (1 << 32) + 1)
_ACCOUNT_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_CURVE_COORDINATE_OCTETS: Final = {P256_ALGORITHM: 32, P384_ALGORITHM: 48}


class KeyFault(Enum):
    """What is wrong with a key; the value is stored and shown to operators."""

    ENCODING = "encoding"
    ALGORITHM = "algorithm"
    SIZE = "size"
    EXPONENT = "exponent"
    POINT = "point"
    SMALL_FACTOR = "small-factor"
    PERFECT_POWER = "perfect-power"
    ROCA = "roca"
    CLOSE_PRIMES = "close-primes"


class PublicKeyError(Exception):
    """The key is not acceptable; `detail` tells its owner why."""

    def __init__(self, reason: KeyFault, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateKey:
    """A key that may stand in a certificate, with the very SPKI bytes that will."""

    kind: Literal["rsa", "ec"]
    bits: int
    spki_der: bytes

    @property
    def sha256(self) -> bytes:
        """What the key is looked up by."""
        return spki_sha256(self.spki_der)


def spki_sha256(spki_der: bytes) -> bytes:
    """SHA-256 of a SubjectPublicKeyInfo."""
    return hashlib.sha256(spki_der).digest()


def spki_of_tbs(tbs: bytes) -> bytes:
    """The SubjectPublicKeyInfo in a TBSCertificate of version 3. Raises DerError when it is not one."""
    # [0] version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    return der.whole(tbs, der.children(tbs, der.read_only(tbs, der.SEQUENCE))[6])


def require_acceptable(spki_der: bytes) -> CertificateKey:
    """The key of a certificate request, when it may be certified. Raises PublicKeyError."""
    if len(spki_der) > MAX_SPKI_OCTETS:
        raise PublicKeyError(KeyFault.SIZE, f"a public key has at most {MAX_SPKI_OCTETS} octets")
    algorithm, key_octets = _split_spki(spki_der)
    if algorithm == RSA_ALGORITHM:
        return _require_certificate_rsa(spki_der, key_octets)
    if algorithm in _CURVE_COORDINATE_OCTETS:
        return _require_certificate_ec(spki_der, algorithm, key_octets)
    raise PublicKeyError(KeyFault.ALGORITHM, "the key must be RSA (2048, 3072 or 4096 bits) or EC on P-256 or P-384, "
                                             "named as BR 7.1.3.1 says")


def require_acceptable_account_key(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
) -> None:
    """Returns when the key may be an account's (row J7). Raises PublicKeyError.

    RSA keys that `cryptography` does not even load (even exponents, for one) are refused by
    `require_acceptable_account_rsa` on the numbers of the JWK.
    """
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        require_acceptable_account_rsa(numbers.n, numbers.e)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _ACCOUNT_CURVES:
            raise PublicKeyError(KeyFault.ALGORITHM, "an EC account key must be on P-256, P-384 or P-521")
    elif not weak_key.is_ed25519_point_of_large_order(key.public_bytes_raw()):
        raise PublicKeyError(KeyFault.POINT, "the Ed25519 key is not a point of the curve, or of small order")


def require_acceptable_account_rsa(modulus: int, exponent: int) -> None:
    """Returns when an RSA key with these numbers may be an account's (row J7). Raises PublicKeyError."""
    if modulus.bit_length() not in _ACCOUNT_RSA_BITS:
        raise PublicKeyError(KeyFault.SIZE, f"an RSA account key has 2048 to 8192 bits, not {modulus.bit_length()}")
    if exponent not in _ACCOUNT_RSA_EXPONENTS or exponent % 2 == 0:
        raise PublicKeyError(KeyFault.EXPONENT, "the public exponent must be odd and between 3 and 2^32")
    _require_strong_modulus(modulus)


def _split_spki(spki_der: bytes) -> tuple[bytes, bytes]:
    """AlgorithmIdentifier (with its tag) and the contents of the BIT STRING."""
    try:
        algorithm, bits = der.children(spki_der, der.read_only(spki_der, der.SEQUENCE))
        octets = der.contents(spki_der, bits)
    except ValueError as fault:
        raise PublicKeyError(KeyFault.ENCODING, "the public key is not a DER SubjectPublicKeyInfo") from fault
    if algorithm.tag != der.SEQUENCE or bits.tag != der.BIT_STRING or octets[:1] != b"\x00":
        raise PublicKeyError(KeyFault.ENCODING, "the public key is not a DER SubjectPublicKeyInfo")
    return der.whole(spki_der, algorithm), octets[1:]


def _require_certificate_rsa(spki_der: bytes, key_octets: bytes) -> CertificateKey:
    try:
        modulus, exponent = (int.from_bytes(der.contents(key_octets, element), "big", signed=True)
                             for element in der.children(key_octets, der.read_only(key_octets, der.SEQUENCE))
                             if element.tag == der.INTEGER)
    except ValueError as fault:
        raise PublicKeyError(KeyFault.ENCODING, "the public key is not a DER RSAPublicKey") from fault
    if der.sequence(der.integer(modulus), der.integer(exponent)) != key_octets:
        raise PublicKeyError(KeyFault.ENCODING, "the RSAPublicKey is not in the one form that DER has for it")
    bits = modulus.bit_length() if modulus > 0 else 0
    if bits not in _CERTIFICATE_RSA_BITS:
        raise PublicKeyError(KeyFault.SIZE, f"an RSA key must have 2048, 3072 or 4096 bits, not {bits}")
    if exponent != _CERTIFICATE_RSA_EXPONENT:
        raise PublicKeyError(KeyFault.EXPONENT, "the public exponent must be 65537")
    _require_strong_modulus(modulus)
    return CertificateKey(kind="rsa", bits=bits, spki_der=spki_der)


def _require_certificate_ec(spki_der: bytes, algorithm: bytes, key_octets: bytes) -> CertificateKey:
    coordinate_octets = _CURVE_COORDINATE_OCTETS[algorithm]
    if len(key_octets) != 1 + 2 * coordinate_octets or key_octets[0] != 0x04:
        raise PublicKeyError(KeyFault.ENCODING, "the EC point must be in the uncompressed form")
    try:
        # Full validation of SP 800-56A 5.6.2.3.3 for curves of cofactor 1: coordinates below p, point on the curve.
        load_der_public_key(spki_der)
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise PublicKeyError(KeyFault.POINT, "the EC point is not on the curve") from fault
    return CertificateKey(kind="ec", bits=8 * coordinate_octets, spki_der=spki_der)


def _require_strong_modulus(modulus: int) -> None:
    """Rules 2 to 4 of spec/pki.md 2: keys whose private part is easily computed (BR 6.1.1.3 (5))."""
    if math.gcd(modulus, weak_key.SMALL_PRIMES_PRODUCT) != 1:
        raise PublicKeyError(KeyFault.SMALL_FACTOR, "the modulus is even or has a small prime factor")
    if weak_key.has_roca_fingerprint(modulus):
        raise PublicKeyError(KeyFault.ROCA, "the key comes from a generator with a known flaw (ROCA, CVE-2017-15361)")
    if weak_key.is_perfect_power(modulus):
        raise PublicKeyError(KeyFault.PERFECT_POWER, "the modulus is a power of one number")
    if weak_key.has_close_factors(modulus):
        raise PublicKeyError(KeyFault.CLOSE_PRIMES, "the two primes are too close to each other (Fermat factorisation)")
