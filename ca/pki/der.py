"""DER, written and read: definite lengths in their shortest form, nothing else (X.690 10.1).

What we sign is put together from byte strings that are copied (the issuer's Name, the subject's key) or fixed by the
profile, so that nothing on the way re-encodes them. Whole structures are still parsed by `cryptography` and pkilint.
"""

from datetime import UTC, datetime
from typing import Final, NamedTuple

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_LONGEST_LENGTH_BYTES: Final = 4


class DerError(ValueError):
    """The bytes are not DER of the expected form."""


def tlv(tag: int, *contents: bytes) -> bytes:
    """One element: tag, shortest definite length, contents."""
    content = contents[0] if len(contents) == 1 else b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def sequence(*contents: bytes) -> bytes:
    """SEQUENCE of the given elements."""
    return tlv(SEQUENCE, *contents)


def integer(value: int) -> bytes:
    """INTEGER, two's complement in as few octets as possible."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def bit_string(octets: bytes) -> bytes:
    """BIT STRING without unused bits."""
    return tlv(BIT_STRING, b"\x00" + octets)


def object_identifier(dotted: str) -> bytes:
    """OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    octets = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        octets += bytes(reversed(groups))
    return tlv(OBJECT_IDENTIFIER, bytes(octets))


def time(moment: datetime) -> bytes:
    """Time of RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050, whole seconds, `Z`."""
    if moment.utcoffset() is None or moment.utcoffset():
        raise ValueError("a time that is signed must be in UTC")
    if moment.microsecond:
        raise ValueError("a time that is signed has whole seconds")
    if 1950 <= moment.year < 2050:
        return tlv(UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return tlv(GENERALIZED_TIME, f"{moment.year:04d}{moment:%m%d%H%M%S}Z".encode("ascii"))


def read_time(time_der: bytes) -> datetime:
    """The moment of a Time as `time` writes it. Raises DerError for any other form."""
    element = read(time_der)
    text = time_der[element.content:].decode("ascii", "replace")
    if element.tag == UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    try:
        moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as fault:
        raise DerError("not a Time of RFC 5280") from fault
    if time(moment) != time_der:
        raise DerError("not a Time of RFC 5280")
    return moment


class Element(NamedTuple):
    """Where one element lies in its buffer: `start` its tag, `content` its first content octet, `end` behind it."""

    tag: int
    start: int
    content: int
    end: int


def read(buffer: bytes, offset: int = 0, *, end: int | None = None, tag: int | None = None) -> Element:
    """The element at `offset`, which must end at or before `end`. Raises DerError when it is not DER, or not `tag`."""
    limit = len(buffer) if end is None else end
    if offset + 2 > limit:
        raise DerError("truncated")
    found, length, content = buffer[offset], buffer[offset + 1], offset + 2
    if found & 0x1F == 0x1F:
        raise DerError("tags above 30 do not occur here")
    if tag is not None and found != tag:
        raise DerError(f"tag {found:#04x} where {tag:#04x} is expected")
    if length >= 0x80:
        count = length & 0x7F
        if not 0 < count <= _LONGEST_LENGTH_BYTES or content + count > limit:
            raise DerError("indefinite, overlong or truncated length")
        length = int.from_bytes(buffer[content:content + count], "big")
        content += count
        if length < 0x80 or length >> (8 * (count - 1)) == 0:
            raise DerError("length is not in its shortest form")
    if content + length > limit:
        raise DerError("truncated")
    return Element(found, offset, content, content + length)


def read_only(buffer: bytes, tag: int) -> Element:
    """The element that fills the whole buffer. Raises DerError for trailing bytes, too."""
    element = read(buffer, tag=tag)
    if element.end != len(buffer):
        raise DerError("trailing bytes")
    return element


def children(buffer: bytes, parent: Element) -> list[Element]:
    """The elements inside a constructed one. Raises DerError when they do not fill it exactly."""
    found = []
    offset = parent.content
    while offset < parent.end:
        element = read(buffer, offset, end=parent.end)
        found.append(element)
        offset = element.end
    return found


def whole(buffer: bytes, element: Element) -> bytes:
    """The element's bytes with tag and length."""
    return buffer[element.start:element.end]


def contents(buffer: bytes, element: Element) -> bytes:
    """The element's content octets."""
    return buffer[element.content:element.end]
