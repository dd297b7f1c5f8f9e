"""Challenges: which are offered for an identifier, and what answers them (RFC 8555 8, RFC 8737)."""

import hashlib
from typing import Final

from acme_api.protocol import base64url

HTTP_01: Final = "http-01"
DNS_01: Final = "dns-01"
TLS_ALPN_01: Final = "tls-alpn-01"
TOKEN_BYTES: Final = 32
"""RFC 8555 8.3 wants 128 bits; 32 bytes give 43 characters (row CH2)."""


def offered(identifier_type: str, *, wildcard: bool) -> tuple[str, ...]:
    """The challenge types for an identifier (RFC 8555 8.3 and 8.4, RFC 8737 3, RFC 8738 7; row CH10)."""
    if identifier_type == "ip":
        return () if wildcard else (HTTP_01, TLS_ALPN_01)
    if identifier_type != "dns":
        return ()
    return (DNS_01,) if wildcard else (HTTP_01, DNS_01, TLS_ALPN_01)


def key_authorization(token: str, thumbprint: bytes) -> str:
    """What proves control: the token and the thumbprint of the account key (RFC 8555 8.1)."""
    return f"{token}.{base64url.encode(thumbprint)}"


def dns_txt_value(authorization: str) -> str:
    """The TXT record of dns-01 for a key authorization (RFC 8555 8.4)."""
    return base64url.encode(tls_alpn_digest(authorization))


def tls_alpn_digest(authorization: str) -> bytes:
    """The content of the acmeIdentifier extension of tls-alpn-01 for a key authorization (RFC 8737 3)."""
    return hashlib.sha256(authorization.encode("ascii")).digest()
