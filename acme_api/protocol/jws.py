"""Signed requests: flattened JWS (RFC 8555 6.2, RFC 7515), the only door to josepy.

`parse_flattened` checks form in the order of the conventions (JSON, members, base64url, alg, jwk or kid) and verifies
nothing; `verify` checks the signature. A fault of the key itself is not raised while parsing but kept in
`SignedRequest.key_problem`, because the nonce is burnt before keys are judged (row N8). josepy turns canonical JWKs
into keys and knows the signature algorithms; its JWS parser is not used, since it accepts more than one spelling of
the same request. EdDSA, which josepy lacks, goes to cryptography directly.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from josepy import errors as josepy_errors
from josepy.jwa import ES256, ES384, ES512, RS256, JWASignature
from josepy.jwk import JWK, JWKEC, JWKRSA

from acme_api.protocol import base64url
from acme_api.protocol.json_strict import JsonError, JsonObject, decode_object
from acme_api.protocol.jwk import ALGORITHMS, PrivateKeyShown, key_form, kind_of, require_consistent, require_fit
from acme_api.protocol.jwk import canonical_jwk as canonical_jwk
from acme_api.protocol.jwk import thumbprint as thumbprint
from acme_api.protocol.problem import Problem, bad_public_key, malformed

_MEMBERS: Final = {"protected", "payload", "signature"}
# RFC 7797, RFC 7515 4.1.11 and JWE members would change the meaning of what is signed (rows J3, E18).
_REFUSED_HEADERS: Final = ("crit", "b64", "zip", "enc")
_NONCE_ALPHABET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_JOSEPY_ALGORITHMS: Final[dict[str, JWASignature]] = {"ES256": ES256, "ES384": ES384, "ES512": ES512, "RS256": RS256}
_KEY_CACHE_SIZE: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitJws:
    """The three parts of a flattened JWS, decoded, and what its signature is over."""

    protected_bytes: bytes
    payload_bytes: bytes
    signature: bytes
    signing_input: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A JWS of the right form, not verified. Exactly one of `jwk` (canonical) and `kid` is set, unless the jwk is no
    usable key: then `key_problem` says why. `nonce` None: there was none."""

    protected: JsonObject
    protected_bytes: bytes
    payload_bytes: bytes
    signature: bytes
    signing_input: bytes
    alg: str
    nonce: str | None
    url: str
    jwk: str | None
    kid: str | None
    key_problem: Problem | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """The inner JWS of a key change (RFC 8555 7.3.5), verified by its own key. Keys are canonical JWKs."""

    new_jwk: str
    old_jwk: str
    account_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChangeLink:
    """Proof that the holder of one account key handed over to another."""

    old_thumbprint: bytes
    new_thumbprint: bytes
    account_url: str


def parse_flattened(body: bytes, max_bytes: int) -> SignedRequest:
    """The request in `body`. Raises Problem: malformed or badSignatureAlgorithm."""
    if len(body) > max_bytes:
        raise malformed(f"the request is larger than {max_bytes} bytes", status=413)
    return _parse(_json(body, "the request"), inner=False)


def verify(signed: SignedRequest, jwk_json: str) -> None:
    """Raises Problem unless the canonical key `jwk_json` signed the request: malformed, or badPublicKey for a key that
    does not go with the algorithm or is no key at all (off the curve)."""
    require_fit(signed.alg, kind_of(jwk_json))
    if not _is_signed(signed, load_key(jwk_json)):
        raise malformed("the JWS signature does not verify")


def verify_stored(protected: bytes, payload: bytes, signature: bytes, jwk_json: str) -> SignedRequest:
    """A request that was stored in its three decoded parts, verified again. Raises Problem when it does not hold."""
    signed = _parse({"protected": base64url.encode(protected), "payload": base64url.encode(payload),
                     "signature": base64url.encode(signature)}, inner=False)
    verify(signed, jwk_json)
    return signed


def parse_key_change(outer: SignedRequest) -> KeyChange:
    """The inner JWS of an outer one that has been verified; the same URL, no nonce, its own key (row AC15).

    Raises Problem. That the account and the old key are those of the outer request is for the caller to compare.
    """
    inner = _parse(_json(outer.payload_bytes, "the inner JWS"), inner=True)
    if inner.jwk is None:
        raise inner.key_problem or malformed("the inner JWS has no jwk")
    if inner.url != outer.url:
        raise malformed("the inner and the outer JWS have different URLs")
    verify(inner, inner.jwk)
    claim = _json(inner.payload_bytes, "the payload of the inner JWS")
    account_url, old_key = claim.get("account"), claim.get("oldKey")
    if not isinstance(account_url, str) or not isinstance(old_key, dict):
        raise malformed('the payload of the inner JWS is not {"account": URL, "oldKey": JWK}')
    try:
        old_jwk = canonical_jwk(old_key)
    except PrivateKeyShown:
        raise
    except Problem as fault:
        raise malformed(f"oldKey: {fault.detail}") from None
    return KeyChange(new_jwk=inner.jwk, old_jwk=old_jwk, account_url=account_url)


def link_of_key_change(jws_text: str) -> KeyChangeLink:
    """What a stored key change proves by itself: both signatures verify, the old key's over the new key's.

    Raises Problem when it proves nothing.
    """
    body = jws_text.encode("utf-8")
    outer = parse_flattened(body, len(body))
    change = parse_key_change(outer)
    if outer.kid != change.account_url:
        raise malformed("the inner JWS names another account than the outer one")
    verify(outer, change.old_jwk)
    return KeyChangeLink(old_thumbprint=thumbprint(change.old_jwk), new_thumbprint=thumbprint(change.new_jwk),
                         account_url=change.account_url)


def jwk_of_public_key(spki_der: bytes) -> str:
    """The canonical JWK of a SubjectPublicKeyInfo, so that keys of certificates and of accounts can be compared.

    The SPKI is one that was accepted, so it is RSA, EC on a curve of ours, or Ed25519; ValueError for any other.
    """
    key = load_der_public_key(spki_der)
    if isinstance(key, Ed25519PublicKey):
        return canonical_jwk({"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(key.public_bytes_raw())})
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        josepy_class = JWKRSA if isinstance(key, rsa.RSAPublicKey) else JWKEC
        return canonical_jwk(josepy_class(key=key).to_json())
    raise ValueError("not a key of a kind that JWS knows here")


def split_flattened(document: JsonObject, what: str = "the request") -> SplitJws:
    """The parts of a flattened JWS, which has no other members. Raises malformed."""
    if document.keys() != _MEMBERS:
        raise malformed(f"{what} is a flattened JWS: protected, payload and signature, and no other member")
    protected, payload, signature = document["protected"], document["payload"], document["signature"]
    if not (isinstance(protected, str) and isinstance(payload, str) and isinstance(signature, str)):
        raise malformed(f"protected, payload and signature of {what} are strings")
    try:
        return SplitJws(protected_bytes=base64url.decode(protected), payload_bytes=base64url.decode(payload),
                        signature=base64url.decode(signature), signing_input=f"{protected}.{payload}".encode("ascii"))
    except base64url.Base64Error as fault:
        raise malformed(f"a part of the JWS is {fault}") from None


def _json(data: bytes, what: str) -> JsonObject:
    try:
        return decode_object(data)
    except JsonError as fault:
        raise malformed(f"{what}: {fault}") from None


def _parse(document: JsonObject, *, inner: bool) -> SignedRequest:
    """`inner`: the JWS in a key change, which has a jwk and no nonce."""
    parts = split_flattened(document)
    protected = _json(parts.protected_bytes, "the protected header")
    algorithm = _algorithm(protected)
    nonce = _nonce(protected, inner=inner)
    url = protected.get("url")
    if not isinstance(url, str) or not url:
        raise malformed("the protected header has no url")
    jwk, kid, key_problem = _key(protected, algorithm, inner=inner)
    return SignedRequest(
        protected=protected, protected_bytes=parts.protected_bytes, payload_bytes=parts.payload_bytes,
        signature=parts.signature, signing_input=parts.signing_input, alg=algorithm, nonce=nonce, url=url, jwk=jwk,
        kid=kid, key_problem=key_problem)


def _algorithm(protected: JsonObject) -> str:
    for name in _REFUSED_HEADERS:
        if name in protected:
            raise malformed(f"{name} is not supported in the protected header")
    algorithm = protected.get("alg")
    if not isinstance(algorithm, str):
        raise malformed("the protected header has no alg")
    if algorithm not in ALGORITHMS:
        raise Problem("badSignatureAlgorithm", "the JWS algorithm is not one that is accepted here",
                      algorithms=ALGORITHMS)
    return algorithm


def _nonce(protected: JsonObject, *, inner: bool) -> str | None:
    if "nonce" not in protected:
        return None
    nonce = protected["nonce"]
    if inner:
        raise malformed("the inner JWS has a nonce")
    if not isinstance(nonce, str) or not _NONCE_ALPHABET.issuperset(nonce):
        raise malformed("the nonce is not base64url")
    return nonce


def _key(
    protected: JsonObject, algorithm: str, *, inner: bool
) -> tuple[str | None, str | None, Problem | None]:
    """Canonical jwk, kid, and the fault of a jwk that is well formed but no good."""
    jwk, kid = protected.get("jwk"), protected.get("kid")
    if ("jwk" in protected) == ("kid" in protected):
        raise malformed("the protected header has exactly one of jwk and kid")
    if kid is not None or "kid" in protected:
        if inner:
            raise malformed("the inner JWS has no jwk")
        if not isinstance(kid, str) or not kid:
            raise malformed("kid is not the URL of an account")
        return None, kid, None
    if not isinstance(jwk, dict):
        raise malformed("jwk is not an object")
    try:
        form = key_form(jwk)
        require_consistent(jwk, algorithm)
        require_fit(algorithm, form.kind)
    except Problem as fault:
        if fault.type == "malformed":
            raise
        return None, None, fault
    return form.text, None, None


@lru_cache(maxsize=_KEY_CACHE_SIZE)
def load_key(jwk_json: str) -> Any:
    """The cryptography key of a canonical JWK. Raises badPublicKey when it is no RSA key or no point of its curve.

    Keys stay loaded, because making one costs as much as a verification.
    """
    document = msgspec.json.decode(jwk_json)
    try:
        if kind_of(jwk_json) == "Ed25519":
            return Ed25519PublicKey.from_public_bytes(base64url.decode(document["x"]))
        # josepy types the result as its base class, and wraps the key to make it comparable: a lookup on every use.
        return JWK.from_json(document).key._wrapped  # type: ignore[attr-defined]
    except (josepy_errors.Error, ValueError):
        raise bad_public_key("the jwk is not a valid public key") from None


def _is_signed(signed: SignedRequest, key: Any) -> bool:
    if signed.alg == "EdDSA":
        try:
            key.verify(signed.signature, signed.signing_input)
        except InvalidSignature:
            return False
        return True
    return _JOSEPY_ALGORITHMS[signed.alg].verify(key=key, msg=signed.signing_input, sig=signed.signature)
