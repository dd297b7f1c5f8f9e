"""Identifiers of accounts, orders and authorizations: unguessable and sorted by time.

6 bytes of big-endian unix milliseconds, then 16 random bytes. The random part makes URLs unguessable (128 bits,
RFC 8555 10.5); the time in front lets tables be range-partitioned by their primary key and keeps index pages of one
moment together.
"""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import NewType

ObjectId = NewType("ObjectId", bytes)

_LENGTH_BYTES = 22
_TEXT_LENGTH = 30


def object_id(now: datetime, random16: bytes) -> ObjectId:
    """A new identifier from the moment and 16 random bytes. Raises ValueError when there are not 16."""
    if len(random16) != 16:
        raise ValueError("an object id takes 16 random bytes")
    return ObjectId(int(now.timestamp() * 1000).to_bytes(6, "big") + random16)


def made_at(value: bytes) -> datetime:
    """The moment in an identifier, to the millisecond, cut off."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int.from_bytes(value[:6], "big"))


def to_text(value: bytes) -> str:
    """The form used in URLs: 30 characters of unpadded base64url."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def from_text(text: str) -> ObjectId | None:
    """The identifier that `to_text` wrote so, or None: exactly one spelling is accepted."""
    if len(text) != _TEXT_LENGTH or not text.isascii():
        return None
    try:
        value = base64.b64decode(text + "==", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(value) != _LENGTH_BYTES or to_text(value) != text:
        return None
    return ObjectId(value)
