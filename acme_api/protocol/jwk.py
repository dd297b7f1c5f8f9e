"""JSON Web Keys: one canonical text for each public key (RFC 7517, RFC 7638, RFC 8037).

The canonical text is the RFC 7638 thumbprint input itself: the required members alone, sorted, without spaces. It is
what the database stores, and its SHA-256 is the thumbprint, so leading zeros, extra members and another member order
all lead to the same account (row J16). Whether a key is good enough for an account is account_key.py's question.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from acme_api.protocol import base64url
from acme_api.protocol.problem import Problem, bad_public_key, malformed

ALGORITHMS: Final = ("ES256", "ES384", "ES512", "RS256", "EdDSA")
"""What a JWS may be signed with, ours to advertise in badSignatureAlgorithm (row J5)."""

_KEY_OF_ALGORITHM: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "RS256": "RSA", "EdDSA": "Ed25519"}
_COORDINATE_BYTES: Final = {"P-256": 32, "P-384": 48, "P-521": 66}
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_ED25519_BYTES: Final = 32
# Nobody makes us calculate with more, whatever the key is for.
_MAX_MODULUS_BYTES: Final = 1024
_MAX_EXPONENT_BYTES: Final = 8


class KeyForm(NamedTuple):
    """A canonical JWK and what kind of key it is: RSA, P-256, P-384, P-521 or Ed25519."""

    text: str
    kind: str


class PrivateKeyShown(Problem):
    """badPublicKey: the JWK has private members. `jwk` is neither repeated nor logged; exposed_key.py judges whether
    the key is really lost (row J17)."""

    def __init__(self, jwk: Mapping[str, Any]) -> None:
        super().__init__("badPublicKey", "the jwk holds private members; this key is compromised now, use another")
        self.jwk = jwk


def thumbprint(jwk: str) -> bytes:
    """RFC 7638, SHA-256, of a canonical JWK."""
    return hashlib.sha256(jwk.encode("ascii")).digest()


def canonical_jwk(jwk: Mapping[str, Any]) -> str:
    """The canonical text of a public key. Raises Problem: malformed where RFC 7517 is broken, else badPublicKey."""
    return key_form(jwk).text


def kind_of(jwk: str) -> str:
    """RSA, P-256, P-384, P-521 or Ed25519, of a canonical JWK."""
    # Members are sorted, so "crv" comes first in every key that has one, and its values need no escapes.
    return jwk[8:jwk.index('"', 8)] if jwk.startswith('{"crv":"') else "RSA"


def require_fit(algorithm: str, kind: str) -> None:
    """Raises badPublicKey when the algorithm does not go with that kind of key (rows J7, E22)."""
    if _KEY_OF_ALGORITHM[algorithm] != kind:
        raise bad_public_key(f"{algorithm} needs a {_KEY_OF_ALGORITHM[algorithm]} key, and this one is {kind}")


def require_consistent(jwk: Mapping[str, Any], algorithm: str) -> None:
    """Raises badPublicKey when the key says that it is for something else (RFC 7517 4.2 to 4.4, row J18)."""
    if jwk.get("alg", algorithm) != algorithm:
        raise bad_public_key("the jwk is for another algorithm (its alg)")
    if jwk.get("use", "sig") != "sig":
        raise bad_public_key("the jwk is not for signatures (its use)")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise bad_public_key("the jwk is not for verification (its key_ops)")


def key_form(jwk: Mapping[str, Any]) -> KeyForm:
    """The canonical text and the kind. Raises Problem like `canonical_jwk`."""
    key_type = _text(jwk, "kty")
    if not _PRIVATE_MEMBERS.isdisjoint(jwk):
        raise PrivateKeyShown(jwk)
    match key_type:
        case "RSA":
            return _rsa(jwk)
        case "EC":
            return _elliptic(jwk)
        case "OKP":
            return _edwards(jwk)
        case _:
            raise bad_public_key("the jwk's kty is not RSA, EC or OKP")


def _rsa(jwk: Mapping[str, Any]) -> KeyForm:
    modulus, exponent = (_octets(jwk, name).lstrip(b"\0") for name in ("n", "e"))
    if not modulus or not exponent:
        raise bad_public_key("the RSA key has a modulus or an exponent of zero")
    if len(modulus) > _MAX_MODULUS_BYTES or len(exponent) > _MAX_EXPONENT_BYTES:
        raise bad_public_key("the RSA key is larger than 8192 bits, or its exponent than 64")
    e, n = base64url.encode(exponent), base64url.encode(modulus)
    return KeyForm(f'{{"e":"{e}","kty":"RSA","n":"{n}"}}', "RSA")


def _elliptic(jwk: Mapping[str, Any]) -> KeyForm:
    curve, x, y = _text(jwk, "crv"), _octets(jwk, "x"), _octets(jwk, "y")
    size = _COORDINATE_BYTES.get(curve)
    if size is None:
        raise bad_public_key("the EC key's crv is not P-256, P-384 or P-521")
    if len(x) != size or len(y) != size:
        raise bad_public_key(f"the coordinates of a {curve} key are {size} bytes each (RFC 7518 6.2.1)")
    return KeyForm(
        f'{{"crv":"{curve}","kty":"EC","x":"{base64url.encode(x)}","y":"{base64url.encode(y)}"}}', curve)


def _edwards(jwk: Mapping[str, Any]) -> KeyForm:
    curve, x = _text(jwk, "crv"), _octets(jwk, "x")
    if curve != "Ed25519":
        raise bad_public_key("the OKP key's crv is not Ed25519")
    if len(x) != _ED25519_BYTES:
        raise bad_public_key(f"an Ed25519 key is {_ED25519_BYTES} bytes (RFC 8037 2)")
    return KeyForm(f'{{"crv":"Ed25519","kty":"OKP","x":"{base64url.encode(x)}"}}', "Ed25519")


def _text(jwk: Mapping[str, Any], name: str) -> str:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise malformed(f"the jwk's {name} is missing or not a string")
    return value


def _octets(jwk: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64url.decode(_text(jwk, name))
    except base64url.Base64Error as fault:
        raise malformed(f"the jwk's {name} is {fault}") from None
