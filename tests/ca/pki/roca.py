"""A key as the flawed generator of some smart cards makes them (ROCA, CVE-2017-15361), with its private half.

Primes are k*M + (65537^a mod M), M the product of the first 126 primes (Nemec, Sys, Svenda, Klinec, Matyas: The Return
of Coppersmith's Attack, CCS 2017, section 2).
"""

import math
from functools import cache

from cryptography.hazmat.primitives.asymmetric import rsa

_EXPONENT = 65_537


def is_probable_prime(number: int) -> bool:
    """Miller and Rabin, with bases enough for numbers that nobody has chosen against them."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


@cache
def roca_key() -> rsa.RSAPrivateKey:
    """2048 bits, the same one each time."""
    primes = [number for number in range(2, 702) if all(number % d for d in range(2, math.isqrt(number) + 1))]
    assert len(primes) == 126
    product = math.prod(primes)
    factors = []
    for seed in (12_345, 67_890):
        k = ((0b11 << 1022) // product) + seed
        while not is_probable_prime(k * product + pow(_EXPONENT, seed, product)):
            k += 1
        factors.append(k * product + pow(_EXPONENT, seed, product))
    p, q = factors
    d = pow(_EXPONENT, -1, math.lcm(p - 1, q - 1))
    return rsa.RSAPrivateNumbers(
        p=p, q=q, d=d, dmp1=rsa.rsa_crt_dmp1(d, p), dmq1=rsa.rsa_crt_dmq1(d, q), iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(_EXPONENT, p * q)).private_key()
