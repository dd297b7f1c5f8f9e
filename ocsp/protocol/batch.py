"""What the pre-signer publishes and the responder keeps: signatures and what they cover, not whole responses.

A batch is a header with what all its responses share, who signed and the times, then one record a certificate. A record
holds a serial number, its status and one signature a CertID hash; templates (response.py) make the response of it at
either end. The responder stores a record with the header put in under (issuer, serial number), so applying a batch is
slicing.

    batch  = version(1) origin(14) record*
    origin = responder id(2) produced_at(4) this_update(4) next_update(4)      unix seconds; all big-endian
    record = serial(18) length1(2) length2(2) status signature1 signature2
    status = version(1) flags(1) reason(1) revoked_at(4) not_after(4)
    key    = issuer id(2) serial(18)
    value  = produced_after(4) length1(2) responder id(2) this_update(4) next_update(4) length2(2) status signatures

Responder id 0 is the issuer's own key; a batch of version 1 has only that and leaves it out. The responder finds its
template by a slice of a value, VALUE_FORM, and what responses of the same minute share by another, VALUE_MINUTE. So
that nothing has another form for every second, a value tells produced_at by the seconds since this_update (modulo
2**32), in little-endian: the slice begins behind the first octet, which alone is different in responses of one minute.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
_VALUE: Final = struct.Struct(">4sHHIIHBBBII")
_REVOKED_FLAG: Final = 1
_WORD: Final = (1 << 32) - 1
KEY_BYTES: Final = 2 + SERIAL_BYTES
HASHES: Final = (HashName.SHA1, HashName.SHA256)

# Where the responder's fast path looks without reading the whole value.
VALUE_PRODUCED: Final = 0       # seconds after thisUpdate, modulo 256
VALUE_FORM: Final = slice(1, 8)
VALUE_MINUTE: Final = slice(8, 16)
VALUE_SECOND_LENGTH: Final = slice(16, 18)      # of a form as well, for the second hash
VALUE_FLAGS: Final = 19
VALUE_REVOKED_AT: Final = slice(21, 25)
VALUE_NOT_AFTER: Final = slice(25, 29)
VALUE_BYTES: Final = _VALUE.size
# Of what is kept in a store of values: another one is not read.
VALUE_FORMAT: Final = b"3"
_VALUE_VERSION: Final = 18
_VALUE_THIS_UPDATE: Final = slice(8, 12)


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
    _, produced_s, this_s, _ = _ORIGIN.unpack(origin)
    after, shared = (produced_s - this_s & _WORD).to_bytes(4, "little"), origin[:2] + origin[6:]
    prefix, end = issuer_id.to_bytes(2, "big"), len(payload)
    while offset < end:
        body = offset + SERIAL_BYTES
        signatures = body + _RECORD.size
        if signatures > end:
            raise BatchError("truncated record")
        behind = signatures + (payload[body] << 8 | payload[body + 1]) + (payload[body + 2] << 8 | payload[body + 3])
        if behind > end:
            raise BatchError("truncated signature")
        yield prefix + payload[offset:body], after + payload[body:body + 2] + shared + payload[body + 2:behind]
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
    return issuer_id.to_bytes(2, "big") + serial


def in_record(part: slice) -> slice:
    """The same part of a record, which is a key and its value."""
    return slice(KEY_BYTES + part.start, KEY_BYTES + part.stop)


def is_whole(value: bytes) -> bool:
    """Whether a value is as long as it says, so that its end is known when something is behind it."""
    return len(value) == _VALUE.size + int.from_bytes(value[4:6], "big") + int.from_bytes(value[16:18], "big")


def value_of(record: bytes) -> bytes:
    """The value of a record that may have more behind. Raises BatchError."""
    if len(record) < KEY_BYTES + _VALUE.size:
        raise BatchError("truncated value")
    _, first, *_, second, _, _, _, _, _ = _VALUE.unpack_from(record, KEY_BYTES)
    return record[KEY_BYTES:KEY_BYTES + _VALUE.size + first + second]


def read_value(value: bytes) -> StoredResponse:
    """A stored value with both signatures. Raises BatchError."""
    if len(value) < _VALUE.size:
        raise BatchError("truncated value")
    (after, first, responder_id, this_s, next_s, second, version, flags, reason, revoked_s, not_after_s
     ) = _VALUE.unpack_from(value)
    if len(value) != _VALUE.size + first + second or flags & ~_REVOKED_FLAG:
        raise BatchError("a value has two signatures of the lengths it says, and flags that are known")
    start = _VALUE.size
    produced_s = this_s + int.from_bytes(after, "little") & _WORD
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
