"""Challenges: which are offered for an identifier, and what answers them (RFC 8555 8, RFC 8737, row DA1)."""

import base64
import hashlib
from collections.abc import Iterable
from typing import Final

from acme_api.protocol import base64url

HTTP_01: Final = "http-01"
DNS_01: Final = "dns-01"
TLS_ALPN_01: Final = "tls-alpn-01"
DNS_ACCOUNT_01: Final = "dns-account-01"
DNS_PERSIST_01: Final = "dns-persist-01"
WITHOUT_TOKEN: Final = frozenset({DNS_PERSIST_01})
_ACCOUNT_LABEL_BYTES: Final = 10
TOKEN_SEED_BYTES: Final = 16
"""RFC 8555 8.3 wants 128 bits of entropy in each token."""
_TOKEN_BYTES: Final = 32
# In the order in which they are offered; the place of each is its bit in what is stored.
_TYPES: Final = (HTTP_01, DNS_01, TLS_ALPN_01, DNS_ACCOUNT_01, DNS_PERSIST_01)


def offered(identifier_type: str, *, wildcard: bool, persist: bool, subdomains: bool = False) -> tuple[str, ...]:
    """The challenge types for an identifier (RFC 8555 8.3 and 8.4, RFC 8737 3, RFC 8738 7; row CH10).

    `subdomains`: the authorization is to stand for all names below it, of which only the DNS says anything (BR
    3.2.2.4.19 and 3.2.2.4.20; row SU1).

    `persist`: the operator lets this account or profile use dns-persist-01. It has no token, which some clients cannot
    read, so it comes last (row X1).
    """
    if identifier_type == "ip":
        return () if wildcard or subdomains else (HTTP_01, TLS_ALPN_01)
    if identifier_type != "dns" or (wildcard and subdomains):
        return ()
    by_dns = (DNS_ACCOUNT_01, DNS_PERSIST_01) if persist else (DNS_ACCOUNT_01,)
    return (DNS_01, *by_dns) if wildcard or subdomains else (HTTP_01, DNS_01, TLS_ALPN_01, *by_dns)


def type_bits(types: Iterable[str]) -> int:
    """Types as they are stored. Raises ValueError for one that is not ours."""
    return sum(1 << _TYPES.index(each) for each in set(types))


def types_of(bits: int) -> tuple[str, ...]:
    """Stored types, in their order."""
    return tuple(kind for place, kind in enumerate(_TYPES) if bits >> place & 1)


def tokens_of(bits: int, stored: bytes) -> dict[str, str | None]:
    """Each offered type in its order, with its token; 43 characters, each token its own (row CH2).

    `stored` is the seed that the tokens follow from, by a hash, so that none tells another; of older authorizations it
    is the tokens themselves, one behind the other. None: the type has no token.
    """
    types = types_of(bits)
    with_token = [kind for kind in types if kind not in WITHOUT_TOKEN]
    if len(stored) == TOKEN_SEED_BYTES:
        raw = {kind: hashlib.sha256(stored + kind.encode("ascii")).digest() for kind in with_token}
    else:
        raw = {kind: stored[start:start + _TOKEN_BYTES]
               for kind, start in zip(with_token, range(0, len(stored), _TOKEN_BYTES), strict=True)}
    return {kind: base64url.encode(raw[kind]) if kind in raw else None for kind in types}


def dns_account_label(account_url: str) -> str:
    """The label of dns-account-01 for an account: a hash of its URL, so that it outlives a change of the key (DA1)."""
    digest = hashlib.sha256(account_url.encode("ascii")).digest()[:_ACCOUNT_LABEL_BYTES]
    return "_" + base64.b32encode(digest).decode("ascii").lower()


def key_authorization(token: str, thumbprint: bytes) -> str:
    """What proves control: the token and the thumbprint of the account key (RFC 8555 8.1)."""
    return f"{token}.{base64url.encode(thumbprint)}"


def dns_txt_value(authorization: str) -> str:
    """The TXT record of dns-01 for a key authorization (RFC 8555 8.4)."""
    return base64url.encode(tls_alpn_digest(authorization))


def tls_alpn_digest(authorization: str) -> bytes:
    """The content of the acmeIdentifier extension of tls-alpn-01 for a key authorization (RFC 8737 3)."""
    return hashlib.sha256(authorization.encode("ascii")).digest()
