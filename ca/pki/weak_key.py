"""Arithmetic that tells keys whose private part is easily computed (BR 6.1.1.3 (5), spec/pki.md 2)."""

import math
from typing import Final

_FERMAT_ROUNDS: Final = 110          # BR asks for 100, Boulder does 110
_SMALL_PRIME_LIMIT: Final = 752      # 132 primes, as SP 800-89 5.3.3 proposes


def _primes_below(limit: int) -> list[int]:
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\x00\x00"
    for number in range(2, math.isqrt(limit) + 1):
        if sieve[number]:
            sieve[number * number::number] = bytes(len(range(number * number, limit, number)))
    return [number for number, is_prime in enumerate(sieve) if is_prime]


SMALL_PRIMES_PRODUCT: Final = math.prod(_primes_below(_SMALL_PRIME_LIMIT))

# A modulus of the flawed generator is a power of 65537 modulo each of these primes (Nemec et al., CCS 2017).
_ROCA_PRIMES: Final = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
_ROCA_RESIDUES: Final = tuple((prime, frozenset(pow(65_537, power, prime) for power in range(prime - 1)))
                              for prime in _ROCA_PRIMES)

# Without factors below 752, a modulus of 8192 bits is at most a 857th power.
_LARGEST_POWER: Final = 857
_SQUARES_MODULO_64: Final = frozenset(number * number % 64 for number in range(64))


def _power_filters() -> tuple[tuple[int, int, int], ...]:
    """(k, q, r): a k-th power that q does not divide is 1 when it is raised to r = (q - 1) / k modulo the prime q."""
    primes = _primes_below(40_000)
    is_prime = frozenset(primes)
    filters = []
    for power in (prime for prime in primes if 2 < prime <= _LARGEST_POWER):
        moduli = [q for q in range(2 * power + 1, 40_000, 2 * power) if q in is_prime and q > _SMALL_PRIME_LIMIT][:2]
        filters += [(power, q, (q - 1) // power) for q in moduli]
    return tuple(filters)


_POWER_FILTERS: Final = _power_filters()


def has_roca_fingerprint(modulus: int) -> bool:
    """Whether the modulus looks like one of the Infineon generator; a good one does with probability 2^-27.8."""
    return all(modulus % prime in residues for prime, residues in _ROCA_RESIDUES)


def is_perfect_power(modulus: int) -> bool:
    """Whether the modulus is m^k with an odd prime k; squares are found by `has_close_factors`."""
    ruled_out = set()
    for power, q, exponent in _POWER_FILTERS:
        if power not in ruled_out and pow(modulus % q, exponent, q) > 1:
            ruled_out.add(power)
    return any(_is_power(modulus, power) for power in {power for power, _, _ in _POWER_FILTERS} - ruled_out)


def _is_power(number: int, power: int) -> bool:
    """Whether an integer root exists (Newton's method from above)."""
    root = 1 << -(-number.bit_length() // power)
    while True:
        closer = ((power - 1) * root + number // root ** (power - 1)) // power
        if closer >= root:
            return bool(root ** power == number)
        root = closer


def has_close_factors(modulus: int) -> bool:
    """Whether Fermat's method factors the modulus within 110 rounds; it also finds every square."""
    middle = math.isqrt(modulus - 1) + 1
    rest = middle * middle - modulus
    for _ in range(_FERMAT_ROUNDS):
        if rest & 63 in _SQUARES_MODULO_64 and math.isqrt(rest) ** 2 == rest:
            return True
        rest += 2 * middle + 1
        middle += 1
    return False


_P_25519: Final = (1 << 255) - 19
_D_25519: Final = -121_665 * pow(121_666, -1, _P_25519) % _P_25519


def is_ed25519_point_of_large_order(encoded: bytes) -> bool:
    """Whether 32 bytes are the canonical encoding of a curve point whose order does not divide 8 (RFC 8032 5.1.3)."""
    y = int.from_bytes(encoded, "little") & ((1 << 255) - 1)
    if len(encoded) != 32 or y >= _P_25519:
        return False
    p, sign = _P_25519, encoded[31] >> 7
    u, v = (y * y - 1) % p, (_D_25519 * y * y + 1) % p
    x = u * pow(v, 3, p) * pow(u * pow(v, 7, p), (p - 5) // 8, p) % p
    if v * x * x % p == p - u:
        x = x * pow(2, (p - 1) // 4, p) % p
    if v * x * x % p != u or (x == 0 and sign):
        return False
    for _ in range(3):
        x, y = _doubled(x, y)
    return (x, y) != (0, 1)


def _doubled(x: int, y: int) -> tuple[int, int]:
    """Twice a point of the twisted Edwards curve -x^2 + y^2 = 1 + d x^2 y^2."""
    p = _P_25519
    product = _D_25519 * x * x * y * y % p
    return (2 * x * y * pow(1 + product, -1, p) % p, (y * y + x * x) * pow(1 - product, -1, p) % p)
