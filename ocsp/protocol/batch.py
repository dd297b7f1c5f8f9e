"""What the pre-signer publishes and the responder keeps: signatures and what they cover, not whole responses.

A batch is a header with the times that all its responses share, then one record a certificate. A record holds a serial
number, its status and one signature a CertID hash; templates (response.py) make the response of it at either end. The
responder stores a record behind the times under (issuer, serial number), so applying a batch is slicing.

    batch  = version(1) times(12) record*
    times  = produced_at(4) this_update(4) next_update(4)          unix seconds, big-endian
    record = serial(18) body;   body = version(1) flags(1) reason(1) revoked_at(4) len1(2) len2(2) sig1 sig2
    key    = issuer id(2) serial(18);   value = times(12) body
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ca.pki.serial import SERIAL_BYTES
from ocsp.protocol.response import CertStatus, HashName, Times

_FORMAT_VERSION: Final = 1
_TIMES: Final = struct.Struct(">III")
_BODY: Final = struct.Struct(">BBBIHH")
_VALUE: Final = struct.Struct(">IIIBBBIHH")
_REVOKED_FLAG: Final = 1
KEY_BYTES: Final = 2 + SERIAL_BYTES
HASHES: Final = (HashName.SHA1, HashName.SHA256)


class BatchError(ValueError):
    """The bytes are not a batch, or not a stored value, of this version."""


@dataclass(frozen=True, slots=True)
class SignedStatus:
    """One record: the version counts changes of status, so that an older one never replaces a newer one."""

    serial: bytes
    version: int
    status: CertStatus
    signatures: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class StoredStatus:
    """A stored value, read back."""

    times: Times
    version: int
    status: CertStatus
    signatures: tuple[bytes, bytes]


def encode_batch(times: Times, records: Iterable[SignedStatus]) -> bytes:
    """The payload of a batch row."""
    parts = [bytes((_FORMAT_VERSION,)), _pack_times(times)]
    for record in records:
        first, second = record.signatures
        revoked_at_s = record.status.revoked_at_s
        parts += (record.serial, _BODY.pack(record.version, 0 if revoked_at_s is None else _REVOKED_FLAG,
                                            record.status.reason, revoked_at_s or 0, len(first), len(second)),
                  first, second)
    return b"".join(parts)


def split_batch(payload: bytes, issuer_id: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every record, ready to be stored. Raises BatchError."""
    if len(payload) < 13 or payload[0] != _FORMAT_VERSION:
        raise BatchError("not a batch of this version")
    times, prefix, end = payload[1:13], issuer_id.to_bytes(2, "big"), len(payload)
    offset = 13
    while offset < end:
        body = offset + SERIAL_BYTES
        if body + _BODY.size > end:
            raise BatchError("truncated record")
        lengths = payload[body + _BODY.size - 4:body + _BODY.size]
        behind = body + _BODY.size + (lengths[0] << 8 | lengths[1]) + (lengths[2] << 8 | lengths[3])
        if behind > end:
            raise BatchError("truncated signature")
        yield prefix + payload[offset:body], times + payload[body:behind]
        offset = behind


def store_key(issuer_id: int, serial: bytes) -> bytes:
    """The key of a stored value."""
    return issuer_id.to_bytes(2, "big") + serial


def read_value(value: bytes) -> StoredStatus:
    """A stored value with both signatures. Raises BatchError."""
    if len(value) < _VALUE.size:
        raise BatchError("truncated value")
    produced_s, this_s, next_s, version, flags, reason, revoked_s, first, second = _VALUE.unpack_from(value)
    if len(value) != _VALUE.size + first + second:
        raise BatchError("truncated value")
    start = _VALUE.size
    return StoredStatus(
        Times(produced_at_s=produced_s, this_update_s=this_s, next_update_s=next_s), version,
        CertStatus(revoked_at_s=revoked_s if flags & _REVOKED_FLAG else None, reason=reason),
        (value[start:start + first], value[start + first:]))


def replaces(new: bytes, old: bytes) -> bool:
    """Whether a value takes the place of the stored one: a later status, or the same status confirmed later.

    A response that was signed before a revocation can so never hide the one that was signed after it, in whatever order
    their batches arrive.
    """
    return (new[_TIMES.size], new[4:8]) >= (old[_TIMES.size], old[4:8])


def split_into(records: Sequence[SignedStatus], size: int) -> Iterator[Sequence[SignedStatus]]:
    """Parts of at most `size` records."""
    for start in range(0, len(records), size):
        yield records[start:start + size]


def _pack_times(times: Times) -> bytes:
    return _TIMES.pack(times.produced_at_s, times.this_update_s, times.next_update_s)
