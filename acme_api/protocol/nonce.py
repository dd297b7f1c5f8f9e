"""Anti-replay nonces (RFC 8555 6.5): 4 bytes of unix seconds, 16 random bytes, 12 bytes of HMAC-SHA256.

A nonce proves by itself that a server with our key made it and when, so nothing is stored until it is used, and it is
good at every server (row N9). 32 bytes are 43 characters of canonical base64url (row N7). What was used is written in
eight bytes that sort by time, which are kept as long as a nonce lives.
"""

import hmac
from datetime import datetime
from typing import Final

from acme_api.protocol import base64url

LIFE_S: Final = 86_400
RANDOM_BYTES: Final = 16
_TIME_BYTES: Final = 4
_TAG_BYTES: Final = 12
_TOTAL_BYTES: Final = _TIME_BYTES + RANDOM_BYTES + _TAG_BYTES
# Servers whose clocks differ by less than this take each other's nonces.
_CLOCK_SKEW_S: Final = 300
MIN_KEY_BYTES: Final = 32


def make_nonce(now: datetime, random16: bytes, key: bytes) -> str:
    """A new nonce from the moment, 16 random bytes and the servers' common key."""
    if len(random16) != RANDOM_BYTES:
        raise ValueError("a nonce takes 16 random bytes")
    body = int(now.timestamp()).to_bytes(_TIME_BYTES, "big") + random16
    return base64url.encode(body + _tag(body, key))


def parse_nonce(text: str, key: bytes, now: datetime) -> bytes | None:
    """The bytes of a nonce that a server with this key made within the last day; None for everything else."""
    try:
        nonce = base64url.decode(text)
    except base64url.Base64Error:
        return None
    if len(nonce) != _TOTAL_BYTES:
        return None
    body, tag = nonce[:-_TAG_BYTES], nonce[-_TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(body, key)):
        return None
    age_s = now.timestamp() - issued_at_s(nonce)
    return nonce if -_CLOCK_SKEW_S <= age_s <= LIFE_S else None


def issued_at_s(nonce: bytes) -> int:
    """When the nonce was made, in unix seconds."""
    return int.from_bytes(nonce[:_TIME_BYTES], "big")


def spent_key(nonce: bytes) -> int:
    """What is written of a nonce that was used: its second, and 31 bits of the tag, which no client can choose. Of two
    nonces of one second that agree in these (one in 2^31 for each that was used in that second) the later is refused.
    """
    tag = int.from_bytes(nonce[-_TAG_BYTES:-_TAG_BYTES + 4], "big")
    return issued_at_s(nonce) << 31 | tag >> 1


def _tag(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:_TAG_BYTES]
