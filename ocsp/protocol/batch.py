"""What the pre-signer publishes and the responder keeps: signatures and what they cover, not whole responses.

A batch is a header with what all its responses share, who signed and the times, then one record a certificate. A record
holds a serial number, its status and one signature a CertID hash; templates (response.py) make the response of it at
either end. The responder stores a record with the header put in under (issuer, serial number), so applying a batch is
slicing.

    batch  = version(1) origin(14) record*
    origin = responder id(2) produced_at(4) this_update(4) next_update(4)      unix seconds; all big-endian
    record = serial(18) length1(2) length2(2) status signature1 signature2
    status = version(1) flags(1) reason(1) revoked_at(4) not_after(4)
    key    = serial(18) issuer id(2)
    value  = responder id(2) flags(1) reason(1) hours(1) length1(2) length2(2) minute(1) second(1)
             this_update(4) next_update(4) not_after(4) revoked_at(4) version(1) signature1 signature2

Responder id 0 is the issuer's own key; a batch of version 1 has only that and leaves it out. A value begins so that the
responder finds, in one piece with the issuer's id before it, what names the form of a response, and in another the
times that many responses share. Of producedAt it has the minute and the second, and how many hours of the clock have
struck since thisUpdate.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Final

import msgspec

from ca.pki.serial import SERIAL_BYTES
from ocsp.protocol.response import GOOD, CertStatus, HashName, Times

_FORMAT_VERSION: Final = 2
_ORIGIN: Final = struct.Struct(">HIII")
_HEADER_BYTES: Final = 1 + _ORIGIN.size
_WITHOUT_RESPONDER: Final = 1
_OWN_KEY: Final = bytes(2)
_RECORD: Final = struct.Struct(">HHBBBII")
_VALUE: Final = struct.Struct(">HBBBHHBBIIIIB")
_SHARED: Final = struct.Struct(">BBII")         # minute to next_update
_REVOKED_FLAG: Final = 1
_HOUR_S: Final = 3_600
_MOST_HOURS: Final = 255
KEY_BYTES: Final = 2 + SERIAL_BYTES
HASHES: Final = (HashName.SHA1, HashName.SHA256)

# Where the responder looks without reading the whole value.
VALUE_NOT_AFTER: Final = slice(19, 23)
VALUE_BYTES: Final = _VALUE.size
# Of a record, a key and its value, for either hash: serial number, what names its form with the issuer's id, minute and
# second of producedAt, thisUpdate and nextUpdate, notAfter; and, of both, when it was revoked.
RECORD_PARTS: Final = (struct.Struct(">18s9s2xBB8sI").unpack_from, struct.Struct(">18s11sBB8sI").unpack_from)
RECORD_REVOKED_AT: Final = struct.Struct(">43xI").unpack_from
# Of what is kept in a store of values: another one is not read.
VALUE_FORMAT: Final = b"4"
_VALUE_LENGTHS: Final = struct.Struct(">5xHH").unpack_from
_VALUE_VERSION: Final = 27
_VALUE_THIS_UPDATE: Final = slice(11, 15)


class BatchError(ValueError):
    """The bytes are not a batch, or not a stored value, of this version."""


class SignedStatus(msgspec.Struct, frozen=True, gc=False):
    """One record. The version counts changes of status, so that an older one never replaces a newer one; `not_after_s`
    is the certificate's, because an expired certificate is not answered for any more."""

    serial: bytes
    version: int
    status: CertStatus
    not_after_s: int
    signatures: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A stored value, read back; `responder_id` 0 is the issuer's own key."""

    responder_id: int
    times: Times
    version: int
    status: CertStatus
    not_after_s: int
    signatures: tuple[bytes, bytes]


def encode_batch(times: Times, records: Iterable[SignedStatus], *, responder_id: int = 0) -> bytes:
    """The payload of a batch row."""
    parts = [bytes((_FORMAT_VERSION,)),
             _ORIGIN.pack(responder_id, times.produced_at_s, times.this_update_s, times.next_update_s)]
    pack = _RECORD.pack
    for record in records:
        (first, second), status = record.signatures, record.status
        if status is GOOD:
            form = pack(len(first), len(second), record.version, 0, 0, 0, record.not_after_s)
        else:
            form = pack(len(first), len(second), record.version, 0 if status.revoked_at_s is None else _REVOKED_FLAG,
                        status.reason, status.revoked_at_s or 0, record.not_after_s)
        parts += (record.serial, form, first, second)
    return b"".join(parts)


def split_batch(payload: bytes, issuer_id: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every record, ready to be stored. Raises BatchError."""
    origin, offset = _origin(payload)
    responder, (_, produced_s, this_s, next_s) = origin[:2], _ORIGIN.unpack(origin)
    hours, in_hour_s = produced_s // _HOUR_S - this_s // _HOUR_S, produced_s % _HOUR_S
    if not 0 <= hours <= _MOST_HOURS:
        raise BatchError("producedAt is before thisUpdate, or more than ten days after it")
    shared, hour = _SHARED.pack(in_hour_s // 60, in_hour_s % 60, this_s, next_s), bytes((hours,))
    suffix, end = issuer_id.to_bytes(2, "big"), len(payload)
    while offset < end:
        body = offset + SERIAL_BYTES
        signatures = body + _RECORD.size
        if signatures > end:
            raise BatchError("truncated record")
        behind = signatures + (payload[body] << 8 | payload[body + 1]) + (payload[body + 2] << 8 | payload[body + 3])
        if behind > end:
            raise BatchError("truncated signature")
        yield payload[offset:body] + suffix, b"".join((
            responder, payload[body + 5:body + 7], hour, payload[body:body + 4], shared, payload[body + 11:signatures],
            payload[body + 7:body + 11], payload[body + 4:body + 5], payload[signatures:behind]))
        offset = behind


def responder_of_batch(payload: bytes) -> int:
    """The id of the responder that signed a batch, 0 for the issuer itself. Raises BatchError."""
    return int.from_bytes(_origin(payload)[0][:2], "big")


def _origin(payload: bytes) -> tuple[bytes, int]:
    """What all records share, and where they begin."""
    if len(payload) >= _HEADER_BYTES and payload[0] == _FORMAT_VERSION:
        return payload[1:_HEADER_BYTES], _HEADER_BYTES
    if len(payload) >= _HEADER_BYTES - 2 and payload[0] == _WITHOUT_RESPONDER:
        return _OWN_KEY + payload[1:_HEADER_BYTES - 2], _HEADER_BYTES - 2
    raise BatchError("not a batch of this version")


def store_key(issuer_id: int, serial: bytes) -> bytes:
    """The key of a stored value."""
    return serial + issuer_id.to_bytes(2, "big")


def is_whole(value: bytes) -> bool:
    """Whether a value is as long as it says, so that its end is known when something is behind it."""
    if len(value) < _VALUE.size:
        return False
    first, second = _VALUE_LENGTHS(value)
    return len(value) == _VALUE.size + int(first) + int(second)


def value_at(records: bytes | mmap, start: int) -> bytes:
    """The value of the record that begins there, which is a key and its value. Raises BatchError."""
    start += KEY_BYTES
    if start + _VALUE.size > len(records):
        raise BatchError("truncated value")
    return records[start:start + _VALUE.size + sum(_VALUE_LENGTHS(records, start))]


def read_value(value: bytes) -> StoredResponse:
    """A stored value with both signatures. Raises BatchError."""
    if len(value) < _VALUE.size:
        raise BatchError("truncated value")
    (responder_id, flags, reason, hours, first, second, minute, second_of_minute, this_s, next_s, not_after_s,
     revoked_s, version) = _VALUE.unpack_from(value)
    if len(value) != _VALUE.size + first + second or flags & ~_REVOKED_FLAG:
        raise BatchError("a value has two signatures of the lengths it says, and flags that are known")
    start = _VALUE.size
    produced_s = (this_s // _HOUR_S + hours) * _HOUR_S + minute * 60 + second_of_minute
    return StoredResponse(
        responder_id, Times(produced_at_s=produced_s, this_update_s=this_s, next_update_s=next_s), version,
        CertStatus(revoked_at_s=revoked_s if flags & _REVOKED_FLAG else None, reason=reason), not_after_s,
        (value[start:start + first], value[start + first:]))


def replaces(new: bytes, old: bytes) -> bool:
    """Whether a value takes the place of the stored one: a later status, or the same status confirmed later.

    A response that was signed before a revocation can so never hide the one that was signed after it, in whatever order
    their batches arrive.
    """
    return (new[_VALUE_VERSION], new[_VALUE_THIS_UPDATE]) >= (old[_VALUE_VERSION], old[_VALUE_THIS_UPDATE])
