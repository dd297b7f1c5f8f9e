"""Every URL of the ACME server: built here and taken apart here (RFC 8555 7.1).

URLs are absolute and start with the configured base, whatever a request's headers say (row E7). What comes in is
compared as it was written: one spelling, no decoding, no folding (rows E8, J9, J11). Paths stay as they are for years,
because clients cache the directory (row D4).
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ca.pki.object_id import ObjectId, from_text, to_text

_SERIAL_HEX_DIGITS: Final = 36
_NO_OBJECT: Final = ObjectId(b"")
_HEX_DIGITS: Final = frozenset("0123456789abcdef")


class Resource(Enum):
    """What a path leads to."""

    DIRECTORY = "directory"
    NEW_NONCE = "new-nonce"
    NEW_ACCOUNT = "new-account"
    NEW_ORDER = "new-order"
    NEW_AUTHORIZATION = "new-authz"
    REVOKE_CERT = "revoke-cert"
    KEY_CHANGE = "key-change"
    ACCOUNT = "account"
    ORDERS = "orders"
    ORDER = "order"
    FINALIZE = "finalize"
    AUTHORIZATION = "authz"
    CHALLENGE = "challenge"
    CERTIFICATE = "cert"
    LIMITS = "limits"
    RENEWAL_INFO = "renewal-info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A path taken apart. `object_id` is of the account, order or authorization that the resource belongs to."""

    resource: Resource
    object_id: ObjectId = _NO_OBJECT
    challenge_type: str = ""
    serial: bytes = b""
    alternate: int = 0
    above: int = 0                 # a certificate alone: so many steps above the leaf
    certificate: str = ""          # as renewalInfo names it, not parsed


_FIXED: Final = {
    "/directory": Target(resource=Resource.DIRECTORY),
    "/acme/new-nonce": Target(resource=Resource.NEW_NONCE),
    "/acme/new-account": Target(resource=Resource.NEW_ACCOUNT),
    "/acme/new-order": Target(resource=Resource.NEW_ORDER),
    "/acme/new-authz": Target(resource=Resource.NEW_AUTHORIZATION),
    "/acme/revoke-cert": Target(resource=Resource.REVOKE_CERT),
    "/acme/key-change": Target(resource=Resource.KEY_CHANGE),
    "/acme/limits": Target(resource=Resource.LIMITS),
}
_WITH_ID: Final = {
    ("account", ""): Resource.ACCOUNT,
    ("account", "orders"): Resource.ORDERS,
    ("order", ""): Resource.ORDER,
    ("order", "finalize"): Resource.FINALIZE,
    ("authz", ""): Resource.AUTHORIZATION,
}


def parse_path(path: str) -> Target | None:
    """What the path of a request, without its query, leads to; None when nothing of ours is spelled so."""
    fixed = _FIXED.get(path)
    if fixed is not None:
        return fixed
    parts = path.split("/")
    if len(parts) < 4 or parts[0] or parts[1] != "acme":
        return None
    if parts[2] == "cert":
        return _certificate(parts[3:])
    if parts[2] == "renewal-info":
        named = len(parts) == 4 and parts[3]
        return Target(resource=Resource.RENEWAL_INFO, certificate=parts[3]) if named else None
    owner = from_text(parts[3])
    if owner is None or len(parts) > 5:
        return None
    rest = parts[4] if len(parts) == 5 else ""
    if parts[2] == "challenge":
        return Target(resource=Resource.CHALLENGE, object_id=owner, challenge_type=rest) if rest else None
    resource = _WITH_ID.get((parts[2], rest))
    if resource is None or (len(parts) == 5 and not rest):
        return None
    return Target(resource=resource, object_id=owner)


def _certificate(parts: list[str]) -> Target | None:
    if len(parts) < 2 or len(parts[0]) != _SERIAL_HEX_DIGITS or not _HEX_DIGITS.issuperset(parts[0]):
        return None
    order_id = from_text(parts[1])
    alternate, above = 0, 0
    rest = parts[2:]
    if len(rest) in (1, 3):
        alternate = _number(rest[0])
        rest = rest[1:]
        if not alternate:
            return None
    if rest:
        above = _number(rest[1]) if len(rest) == 2 and rest[0] == "up" else 0
        if not above:
            return None
    if order_id is None:
        return None
    return Target(resource=Resource.CERTIFICATE, object_id=order_id, serial=bytes.fromhex(parts[0]),
                  alternate=alternate, above=above)


def _number(text: str) -> int:
    """1 to 99 in its one spelling; 0 for every other text."""
    fits = text.isascii() and text.isdecimal() and len(text) <= 2 and not text.startswith("0")
    return int(text) if fits else 0


def parse_account_url(base: str, url: str) -> ObjectId | None:
    """The account of a `kid`: exactly the URL that was given out, or None (RFC 8555 6.2, row J9)."""
    prefix = f"{base}/acme/account/"
    return from_text(url[len(prefix):]) if url.startswith(prefix) else None


def directory_url(base: str) -> str:
    return f"{base}/directory"


def limits_url(base: str) -> str:
    """A page for people: where the help link of a refusal leads."""
    return f"{base}/acme/limits"


def account_url(base: str, account_id: bytes) -> str:
    return f"{base}/acme/account/{to_text(account_id)}"


def orders_url(base: str, account_id: bytes, *, cursor: bytes | None = None) -> str:
    """The list of an account's orders (RFC 8555 7.1.2.1), from its beginning or behind the order `cursor`."""
    query = "" if cursor is None else f"?cursor={to_text(cursor)}"
    return f"{account_url(base, account_id)}/orders{query}"


def order_url(base: str, order_id: bytes) -> str:
    return f"{base}/acme/order/{to_text(order_id)}"


def finalize_url(base: str, order_id: bytes) -> str:
    return f"{order_url(base, order_id)}/finalize"


def authorization_url(base: str, authorization_id: bytes) -> str:
    return f"{base}/acme/authz/{to_text(authorization_id)}"


def challenge_url(base: str, authorization_id: bytes, challenge_type: str) -> str:
    return f"{base}/acme/challenge/{to_text(authorization_id)}/{challenge_type}"


def certificate_url(base: str, serial: bytes, order_id: bytes, *, alternate: int = 0, above: int = 0) -> str:
    """A certificate with its chain; the order's id gives the URL its random bits (row T13). `above` 1 or more: that CA
    certificate of the chain alone (row CE5)."""
    url = f"{base}/acme/cert/{serial.hex()}/{to_text(order_id)}"
    return url + (f"/{alternate}" if alternate else "") + (f"/up/{above}" if above else "")


def directory_object(
    base: str, *, terms_of_service: str, website: str, caa_identities: list[str], profiles: dict[str, str],
    external_account_required: bool, pre_authorization: bool, subdomains: bool = False
) -> dict[str, Any]:
    """The directory (RFC 8555 7.1.1). An endpoint that does not exist and a value that is empty are left out."""
    meta: dict[str, Any] = {"termsOfService": terms_of_service, "website": website, "caaIdentities": caa_identities,
                            "profiles": profiles, "subdomainAuthAllowed": subdomains}
    return {
        "newNonce": f"{base}/acme/new-nonce",
        "newAccount": f"{base}/acme/new-account",
        "newOrder": f"{base}/acme/new-order",
        **({"newAuthz": f"{base}/acme/new-authz"} if pre_authorization else {}),
        "revokeCert": f"{base}/acme/revoke-cert",
        "keyChange": f"{base}/acme/key-change",
        "renewalInfo": f"{base}/acme/renewal-info",
        "meta": {"externalAccountRequired": external_account_required} | {
            name: value for name, value in meta.items() if value},
    }
