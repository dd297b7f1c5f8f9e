"""Key checks: one vector per rule of spec/pki.md 2, and honest keys pass."""

import itertools
import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki import der
from ca.pki.public_key import (
    MAX_SPKI_OCTETS,
    P256_ALGORITHM,
    P384_ALGORITHM,
    RSA_ALGORITHM,
    KeyFault,
    PublicKeyError,
    require_acceptable,
    require_acceptable_account_key,
    require_acceptable_account_rsa,
    spki_sha256,
)
from tests.ca.pki.roca import is_probable_prime, roca_key


def _next_prime(number: int) -> int:
    number |= 1
    while math.gcd(number, 3 * 5 * 7 * 11 * 13) != 1 or not is_probable_prime(number):
        number += 2
    return number


def _rsa_spki(modulus: int, exponent: int = 65_537, algorithm: bytes = RSA_ALGORITHM) -> bytes:
    return der.sequence(algorithm, der.bit_string(der.sequence(der.integer(modulus), der.integer(exponent))))


def _ec_spki(algorithm: bytes, point: bytes) -> bytes:
    return der.sequence(algorithm, der.bit_string(point))


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def prime() -> int:
    """A prime with its two highest bits set."""
    return _next_prime((0b11 << 1022) + 0x5EED)


@pytest.fixture(scope="module")
def far_prime() -> int:
    """Another, far from the first."""
    return _next_prime((0b11 << 1022) + (0x1F << 1000) + 0x5EED)


@pytest.fixture(scope="module")
def honest_keys() -> list[rsa.RSAPublicKey]:
    """RSA keys of OpenSSL."""
    return [rsa.generate_private_key(65_537, bits).public_key() for bits in (2048, 2048, 2048, 2048, 3072)]


def _fault(spki: bytes) -> KeyFault:
    with pytest.raises(PublicKeyError) as refused:
        require_acceptable(spki)
    assert refused.value.detail
    return refused.value.reason


def test_honest_keys_pass(honest_keys: list[rsa.RSAPublicKey]) -> None:
    """Keys of every accepted kind are returned with their bytes untouched."""
    for key in honest_keys:
        accepted = require_acceptable(_spki(key))
        assert (accepted.kind, accepted.bits, accepted.spki_der) == ("rsa", key.key_size, _spki(key))
        assert accepted.sha256 == spki_sha256(_spki(key))
        require_acceptable_account_key(key)
    for curve in (ec.SECP256R1(), ec.SECP384R1()):
        for _ in range(20):
            point = ec.generate_private_key(curve).public_key()
            accepted = require_acceptable(_spki(point))
            assert (accepted.kind, accepted.bits) == ("ec", curve.key_size)
            require_acceptable_account_key(point)


def test_ten_thousand_honest_keys_pass() -> None:
    """Spec 2: no check takes a good key for a bad one. Each two primes of OpenSSL's make another modulus, so that nine
    thousand RSA keys need a hundred and thirty-six primes; the others are EC keys of both curves."""
    numbers = [rsa.generate_private_key(65_537, 2048).private_numbers() for _ in range(68)]
    primes = [prime for each in numbers for prime in (each.p, each.q)]
    moduli = [p * q for p, q in itertools.islice(itertools.combinations(primes, 2), 9_000)]
    assert len(set(moduli)) == 9_000
    for modulus in moduli:
        assert require_acceptable(_rsa_spki(modulus)).bits == 2048
    for curve, bits in ((ec.SECP256R1(), 256), (ec.SECP384R1(), 384)):
        for _ in range(500):
            assert require_acceptable(_spki(ec.generate_private_key(curve).public_key())).bits == bits


def test_modulus_sizes_are_a_closed_list(prime: int, far_prime: int) -> None:
    """2047 and 2056 bits are refused, 2048 is not (BR 6.1.5)."""
    modulus = prime * far_prime
    assert require_acceptable(_rsa_spki(modulus)).bits == 2048
    assert _fault(_rsa_spki(modulus >> 1 | 1)) is KeyFault.SIZE
    assert _fault(_rsa_spki((modulus << 8) + 1)) is KeyFault.SIZE
    assert _fault(_rsa_spki(-modulus)) is KeyFault.SIZE
    assert _fault(_rsa_spki(0)) is KeyFault.SIZE


@pytest.mark.parametrize("exponent", [1, 2, 3, 17, 65_536, 65_539, -65_537, (1 << 64) + 1])
def test_the_exponent_is_65537(prime: int, far_prime: int, exponent: int) -> None:
    """BR 6.1.6 allows more; we do not."""
    assert _fault(_rsa_spki(prime * far_prime, exponent)) is KeyFault.EXPONENT


def test_moduli_that_factor_easily(prime: int, far_prime: int) -> None:
    """Even, small factors, squares, cubes, close primes, and the ROCA generator's form (BR 6.1.1.3 (5))."""
    assert _fault(_rsa_spki(prime * far_prime & ~1)) is KeyFault.SMALL_FACTOR
    assert _fault(_rsa_spki(3 * ((1 << 2047) // 3 + 2 | 1))) is KeyFault.SMALL_FACTOR
    big = _next_prime((1 << 2038) - (1 << 2000))
    assert _fault(_rsa_spki(751 * big)) is KeyFault.SMALL_FACTOR
    assert _fault(_rsa_spki(prime * prime)) is KeyFault.CLOSE_PRIMES
    assert _fault(_rsa_spki(prime * _next_prime(prime + 2))) is KeyFault.CLOSE_PRIMES
    third = _next_prime(3 << 681)
    assert _fault(_rsa_spki(third ** 3)) is KeyFault.PERFECT_POWER
    assert _fault(_rsa_spki(roca_key().public_key().public_numbers().n)) is KeyFault.ROCA


def test_only_our_der_of_a_key() -> None:
    """What re-encodes differently is refused: lengths, NULL, padding, unused bits, trailing bytes (BR 7.1.3.1)."""
    key = rsa.generate_private_key(65_537, 2048).public_key()
    numbers, spki = key.public_numbers(), _spki(key)
    good = der.sequence(der.integer(numbers.n), der.integer(numbers.e))
    assert der.sequence(RSA_ALGORITHM, der.bit_string(good)) == spki
    padded = der.sequence(der.tlv(der.INTEGER, b"\x00" + numbers.n.to_bytes(257, "big")), der.integer(numbers.e))
    for wrong in (
        der.sequence(RSA_ALGORITHM, der.bit_string(padded)),
        der.sequence(RSA_ALGORITHM, der.bit_string(good + b"\x00")),
        der.sequence(RSA_ALGORITHM, der.tlv(der.BIT_STRING, b"\x01" + good)),
        der.sequence(RSA_ALGORITHM, der.bit_string(der.sequence(der.integer(numbers.n)))),
        der.sequence(RSA_ALGORITHM, der.bit_string(good), b"\x05\x00"),
        spki + b"\x00",
        spki[:-1],
        b"",
        b"\x30\x80" + spki[4:] + b"\x00\x00",
    ):
        assert _fault(wrong) is KeyFault.ENCODING
    assert _fault(b"\x30" * (MAX_SPKI_OCTETS + 1)) is KeyFault.SIZE


@pytest.mark.parametrize("algorithm", [
    "300b06092a864886f70d010101",          # rsaEncryption without its NULL
    "300d06092a864886f70d01010a0500",      # RSASSA-PSS
    "300d06092a864886f70d01010b0500",      # sha256WithRSAEncryption is no key algorithm
])
def test_other_rsa_algorithm_identifiers(prime: int, far_prime: int, algorithm: str) -> None:
    """Only rsaEncryption with NULL (BR 7.1.3.1.1)."""
    assert _fault(_rsa_spki(prime * far_prime, algorithm=bytes.fromhex(algorithm))) is KeyFault.ALGORITHM


def test_other_curves_and_kinds_are_not_certified() -> None:
    """P-224, P-521, secp256k1 and Ed25519 keys are refused in certificates (BR 6.1.5, and our own list)."""
    for curve in (ec.SECP224R1(), ec.SECP521R1(), ec.SECP256K1()):
        assert _fault(_spki(ec.generate_private_key(curve).public_key())) is KeyFault.ALGORITHM
    assert _fault(_spki(ed25519.Ed25519PrivateKey.generate().public_key())) is KeyFault.ALGORITHM


@pytest.mark.parametrize(("algorithm", "curve"), [(P256_ALGORITHM, ec.SECP256R1()), (P384_ALGORITHM, ec.SECP384R1())],
                         ids=["p256", "p384"])
def test_points_are_on_their_curve_and_uncompressed(algorithm: bytes, curve: ec.EllipticCurve) -> None:
    """Compressed, off the curve, (0,0), a coordinate above p, infinity, one octet short."""
    key = ec.generate_private_key(curve).public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert require_acceptable(_ec_spki(algorithm, point)).kind == "ec"
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    assert _fault(_ec_spki(algorithm, compressed)) is KeyFault.ENCODING
    assert _fault(_ec_spki(algorithm, b"\x00")) is KeyFault.ENCODING
    assert _fault(_ec_spki(algorithm, point[:-1])) is KeyFault.ENCODING
    assert _fault(_ec_spki(algorithm, b"\x06" + point[1:])) is KeyFault.ENCODING
    half = curve.key_size // 8
    off_curve = point[:-1] + bytes((point[-1] ^ 1,))
    assert _fault(_ec_spki(algorithm, off_curve)) is KeyFault.POINT
    assert _fault(_ec_spki(algorithm, b"\x04" + bytes(2 * half))) is KeyFault.POINT
    assert _fault(_ec_spki(algorithm, b"\x04" + b"\xff" * half + point[1 + half:])) is KeyFault.POINT


def test_a_curve_named_for_another_size() -> None:
    """A P-384 point under P-256's name is not a point of P-256."""
    point = ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.X962,
                                                                              PublicFormat.UncompressedPoint)
    assert _fault(_ec_spki(P256_ALGORITHM, point)) is KeyFault.ENCODING


@pytest.mark.parametrize(("bits", "exponent", "fault"), [
    (1024, 65_537, KeyFault.SIZE), (2047, 65_537, KeyFault.SIZE), (8193, 65_537, KeyFault.SIZE),
    (16_384, 65_537, KeyFault.SIZE),
    (2048, 1, KeyFault.EXPONENT), (2048, 2, KeyFault.EXPONENT), (2048, 4, KeyFault.EXPONENT),
    (2048, (1 << 33) + 1, KeyFault.EXPONENT), (2048, -3, KeyFault.EXPONENT),
])
def test_account_rsa_bounds(bits: int, exponent: int, fault: KeyFault) -> None:
    """J7 and E28: 2048 to 8192 bits, an odd exponent from 3 to 2^32."""
    with pytest.raises(PublicKeyError) as refused:
        require_acceptable_account_rsa((1 << bits) - 1, exponent)
    assert refused.value.reason is fault


def test_account_keys_may_be_more_kinds(prime: int, far_prime: int) -> None:
    """J7: sizes between, exponent 3, P-521 and Ed25519 are fine; the tests for weak moduli are the same."""
    require_acceptable_account_rsa(_next_prime(prime << 20) * far_prime, 3)
    require_acceptable_account_key(ec.generate_private_key(ec.SECP521R1()).public_key())
    for _ in range(20):
        require_acceptable_account_key(ed25519.Ed25519PrivateKey.generate().public_key())
    with pytest.raises(PublicKeyError) as refused:
        require_acceptable_account_rsa(roca_key().public_key().public_numbers().n, 65_537)
    assert refused.value.reason is KeyFault.ROCA
    for curve in (ec.SECP224R1(), ec.SECP256K1()):
        with pytest.raises(PublicKeyError):
            require_acceptable_account_key(ec.generate_private_key(curve).public_key())


# The points whose order divides 8 have five y coordinates (https://cr.yp.to/ecdh.html; y = 0, 1, p - 1 by hand).
@pytest.mark.parametrize("encoded", [
    "01" + "00" * 31, "00" * 32, "00" * 31 + "80", "ec" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f", "01" + "00" * 30 + "80",     # not canonical
    "02" + "00" * 31,                                                             # not on the curve
])
def test_ed25519_keys_of_small_order(encoded: str) -> None:
    """E29: the identity, points of small order, other spellings of a coordinate, and what is no point at all."""
    with pytest.raises(PublicKeyError) as refused:
        require_acceptable_account_key(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(encoded)))
    assert refused.value.reason is KeyFault.POINT
