"""Serial numbers: 18 bytes, a day number in front of 128 random bits (BR 7.1: >= 64 bits of CSPRNG output).

Two bytes of `256 + days since 2020-01-01` come first: never zero and never above 0x7f until 2109, so the DER INTEGER is
always these 18 bytes; a table can be partitioned by the time of issuance with its primary key; and CRL and OCSP
templates have the serial at a fixed offset.
"""

from datetime import UTC, datetime
from typing import Final, NewType

SerialNumber = NewType("SerialNumber", bytes)

SERIAL_BYTES: Final = 18
_DAY_ZERO: Final = datetime(2020, 1, 1, tzinfo=UTC)
_FIRST_DAY_NUMBER: Final = 256
_PAST_DAY_NUMBER: Final = 0x8000


def serial_number(now: datetime, random16: bytes) -> SerialNumber:
    """A new serial number. Raises ValueError when there are not 16 random bytes, or the day does not fit."""
    if len(random16) != 16:
        raise ValueError("a serial number takes 16 random bytes")
    day = _FIRST_DAY_NUMBER + (now - _DAY_ZERO).days
    if not _FIRST_DAY_NUMBER <= day < _PAST_DAY_NUMBER:
        raise ValueError(f"no serial number can be given out at {now}: is the clock right?")
    return SerialNumber(day.to_bytes(2, "big") + random16)


def serial_from_bytes(value: bytes) -> SerialNumber:
    """A serial number that we may have given out. Raises ValueError for any other length or first byte."""
    if len(value) != SERIAL_BYTES or not 0 < value[0] < 0x80:
        raise ValueError("not a serial number of ours")
    return SerialNumber(value)


def serial_from_int(value: int) -> SerialNumber:
    """The serial number of a parsed certificate. Raises ValueError when it cannot be ours."""
    if not 0 < value < 1 << (8 * SERIAL_BYTES):
        raise ValueError("not a serial number of ours")
    return serial_from_bytes(value.to_bytes(SERIAL_BYTES, "big"))


def serial_int(serial: bytes) -> int:
    """The INTEGER."""
    return int.from_bytes(serial, "big")


def serial_hex(serial: bytes) -> str:
    """36 lower-case hexadecimal digits."""
    return serial.hex()


def serial_from_hex(text: str) -> SerialNumber | None:
    """The serial number that `serial_hex` wrote so, or None: exactly one spelling is accepted."""
    try:
        serial = serial_from_bytes(bytes.fromhex(text))
    except ValueError:
        return None
    return serial if serial.hex() == text else None


def shard(serial: bytes, shards: int) -> int:
    """The 0-based CRL shard of a serial number; the URL of shard s ends in s + 1 (spec/pki.md 6)."""
    return serial_int(serial) % shards
