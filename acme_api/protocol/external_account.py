"""External account binding: a JWS in newAccount, by which who knows a key of ours vouches for it (RFC 8555 7.3.4).

`parse_binding` checks form in the order of row AC12 and looks nothing up; `verify_binding` checks the MAC and what was
signed. Whether the credential may be used is a question to the database. Everything about the credential that can be
wrong (unknown, used up, revoked, expired, another key) has one answer, so that nobody learns which of them it is.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from acme_api.protocol import base64url
from acme_api.protocol.json_strict import JsonError, JsonObject, decode_object
from acme_api.protocol.jwk import canonical_jwk
from acme_api.protocol.jws import SplitJws, split_flattened
from acme_api.protocol.problem import Problem, malformed, unauthorized

MAC_KEY_BYTES: Final = 64
"""As long as the longest hash: RFC 7518 3.2 wants a key at least as long as the hash of the algorithm."""
KID_BYTES: Final = 10
_HASHES: Final = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
# Looked up as text of the database, which holds no NUL; ours are twenty characters.
_MAX_KID_CHARS: Final = 256
# Unknown credentials take as long as known ones.
_NOBODYS_KEY: Final = bytes(MAC_KEY_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A binding of the right form, not verified. `document` is the member as it was sent."""

    kid: str
    jws: SplitJws
    digest: str
    document: Mapping[str, Any]


def make_kid(random10: bytes) -> str:
    """The name of a new credential (row AC14): hexadecimal digits, so that none looks like an option when typed."""
    return random10.hex()


def key_text(mac_key: bytes) -> str | None:
    """An HMAC key as subscribers are given it; None when it would begin with a hyphen, which their programs would take
    for an option: make another."""
    text = base64url.encode(mac_key)
    return None if text.startswith("-") else text


def external_account_required() -> Problem:
    """Row AC11."""
    return Problem("externalAccountRequired", "new accounts need an external account binding: ask the operator of this "
                                              "server for a key identifier and an HMAC key")


def parse_binding(member: Any, *, outer_url: str) -> Binding:
    """The binding of the request that was sent to `outer_url`. Raises malformed (rows AC12, E42)."""
    if not isinstance(member, dict):
        raise malformed("externalAccountBinding is not a flattened JWS")
    jws = split_flattened(member, "externalAccountBinding")
    protected = _object(jws.protected_bytes, "the protected header")
    algorithm, kid = protected.get("alg"), protected.get("kid")
    digest = _HASHES.get(algorithm) if isinstance(algorithm, str) else None
    if digest is None:
        raise malformed(f"externalAccountBinding: alg is not one of {', '.join(_HASHES)}")
    if not isinstance(kid, str) or not kid or "jwk" in protected:
        raise malformed("externalAccountBinding: the protected header has a kid, a string, and no jwk")
    for name in ("nonce", "crit", "b64"):
        if name in protected:
            raise malformed(f"externalAccountBinding: the protected header has a {name}")
    if protected.get("url") != outer_url:
        raise malformed("externalAccountBinding: its url is not that of the request")
    return Binding(kid=kid, jws=jws, digest=digest, document=member)


def is_lookup_worth(kid: str) -> bool:
    """Whether a credential could have this name: what the database cannot even be asked for is unknown."""
    return len(kid) <= _MAX_KID_CHARS and kid.isascii() and kid.isprintable()


def verify_binding(binding: Binding, mac_key: bytes | None, outer_jwk: Mapping[str, Any]) -> None:
    """Raises Problem unless the MAC is by `mac_key` (None: there is no usable credential) and is over the key that
    signs the request: unauthorized, or malformed for another key."""
    expected = hmac.digest(_NOBODYS_KEY if mac_key is None else mac_key, binding.jws.signing_input, binding.digest)
    if not hmac.compare_digest(expected, binding.jws.signature) or mac_key is None:
        raise refused_credential()
    signed = _object(binding.jws.payload_bytes, "the payload")
    try:
        same = canonical_jwk(signed) == canonical_jwk(outer_jwk)
    except Problem as fault:
        raise malformed(f"externalAccountBinding: the payload is no JWK: {fault.detail}") from None
    if not same or not signed.items() <= outer_jwk.items():
        raise malformed("externalAccountBinding: the payload is not the jwk of the request")


def refused_credential() -> Problem:
    """The one answer to every credential that cannot be used (row E43)."""
    return unauthorized("externalAccountBinding: the key identifier is unknown, used, expired or revoked, or the HMAC "
                        "key is another")


def _object(data: bytes, what: str) -> JsonObject:
    try:
        return decode_object(data)
    except JsonError as fault:
        raise malformed(f"externalAccountBinding: {what}: {fault}") from None
