"""A JWK that came with its private members: is the key really lost, and how does the CA know? (row J17)

Anybody can write somebody else's public key beside a number of their own, so the private members are tried: they have
to sign a certification request that says that the key is lost, and it has to verify by the public members. That request
is the proof, which the CA checks again (ca/pki/key_loss.py); nothing private leaves this module, nothing is random.
"""

from collections.abc import Mapping
from math import gcd, lcm
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from acme_api.protocol import base64url
from acme_api.protocol.jwk import canonical_jwk
from acme_api.protocol.jws import load_key
from acme_api.protocol.problem import Problem
from ca.pki.key_loss import SENTENCES

_PUBLIC_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e")
# What finding the primes of a larger modulus from `d` alone costs is more than a stranger's mistake is worth.
_MAX_MODULUS_BITS: Final = 4096

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | Ed25519PrivateKey


def proof_of_loss(jwk: Mapping[str, Any]) -> bytes | None:
    """A certification request (DER) by the key of a JWK with private members that says that it is lost; None when
    they do not belong to the public key, or the key is none that an account can have. Takes up to a tenth of a
    second."""
    try:
        public = load_key(canonical_jwk({name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}))
        private = _private_key(jwk, public)
        if private is None or private.public_key() != public:
            return None
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SENTENCES[0])])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        if isinstance(private, Ed25519PrivateKey):
            request = builder.sign(private, None)
        else:
            is_elliptic = isinstance(private, ec.EllipticCurvePrivateKey)
            request = builder.sign(private, hashes.SHA256(), ecdsa_deterministic=True if is_elliptic else None)
    except (Problem, ValueError, KeyError, UnsupportedAlgorithm):
        return None
    return None if not request.is_signature_valid else request.public_bytes(Encoding.DER)


def _private_key(jwk: Mapping[str, Any], public: Any) -> _PrivateKey | None:
    if isinstance(public, ec.EllipticCurvePublicKey):
        return ec.EllipticCurvePrivateNumbers(_number(jwk, "d"), public.public_numbers()).private_key()
    if isinstance(public, rsa.RSAPublicKey):
        return _rsa(jwk, public.public_numbers())
    return Ed25519PrivateKey.from_private_bytes(_octets(jwk, "d"))


def _rsa(jwk: Mapping[str, Any], public: rsa.RSAPublicNumbers) -> rsa.RSAPrivateKey | None:
    """From both primes, from one of them, or from the exponent: each of them is the loss of the key."""
    modulus, exponent = public.n, public.e
    if modulus.bit_length() > _MAX_MODULUS_BITS:
        return None
    primes = [prime for prime in (_number(jwk, name) for name in ("p", "q") if name in jwk)
              if 1 < prime < modulus and modulus % prime == 0]
    if primes:
        p, q = primes[0], modulus // primes[0]
    else:
        d = _number(jwk, "d")
        # Tried once before the primes are looked for, which would try many times.
        if d.bit_length() > modulus.bit_length() or pow(pow(2, exponent, modulus), d, modulus) != 2:
            return None
        p, q = rsa.rsa_recover_prime_factors(modulus, exponent, d)
    order = lcm(p - 1, q - 1)
    if gcd(exponent, order) != 1:
        return None
    d = pow(exponent, -1, order)
    return rsa.RSAPrivateNumbers(
        p=p, q=q, d=d, dmp1=rsa.rsa_crt_dmp1(d, p), dmq1=rsa.rsa_crt_dmq1(d, q), iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=public).private_key()


def _number(jwk: Mapping[str, Any], name: str) -> int:
    return int.from_bytes(_octets(jwk, name), "big")


def _octets(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")
    return base64url.decode(value)
