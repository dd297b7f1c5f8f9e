"""Signed requests for the tests of JWS, account keys and key changes: keys of each algorithm, one good header."""

import json
from typing import Any

from acme_api.protocol.jws import SignedRequest, parse_flattened
from tests.acme_client import SigningKey, b64, flatten

KEYS = {alg: SigningKey.make(alg) for alg in ("ES256", "ES384", "ES512", "RS256", "EdDSA")}
KEY = KEYS["ES256"]
URL = "https://ca.example/acme/new-account"
KID = "https://ca.example/acme/account/AZqyf3Q3xZf3fB8bXWn9kq0xMoyg2q"
NONCE = "A" * 43
HEADER: dict[str, Any] = {"alg": "ES256", "nonce": NONCE, "url": URL, "jwk": KEY.jwk}


def parse(document: Any) -> SignedRequest:
    """The request of a flattened JWS, or of raw bytes."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_flattened(body, 65_536)


def sign(key: SigningKey = KEY, payload: Any = None, **changes: Any) -> SignedRequest:
    """A request by jwk with these changes of the header."""
    return parse(flatten(key, HEADER | {"alg": key.alg, "jwk": key.jwk} | changes, payload))


def point(x: int, y: int, size: int = 32) -> dict[str, str]:
    """The JWK of a point that need not be on P-256."""
    return {"kty": "EC", "crv": "P-256", "x": b64(x.to_bytes(size, "big")), "y": b64(y.to_bytes(size, "big"))}


def rsa_jwk(n: int, e: int) -> dict[str, str]:
    """The JWK of an RSA key with this modulus and exponent."""
    return {"kty": "RSA", "n": b64(n.to_bytes((n.bit_length() + 7) // 8, "big")),
            "e": b64(e.to_bytes((e.bit_length() + 7) // 8, "big"))}
