"""OCSP responses from templates (RFC 6960 4.2, RFC 9919): everything but serial, status, times and signature is fixed.

A response is put together from byte strings that are made once an (issuer, signer, hash, times) and joined around the
serial number and the signature; no object is built for a response. Who signed is named by key hash (byKey): the issuer
itself, and the response carries no certificate, or a delegated responder, and the response ends with its certificate.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Final

from ca.pki import der
from ca.pki.issuer import Issuer
from ca.pki.revocation import ALLOWED_REASONS, UNSPECIFIED
from ca.pki.serial import SERIAL_BYTES


class HashName(Enum):
    """Hash of a CertID: SHA-1 is what clients send, SHA-256 what RFC 9919 asks them to."""

    SHA1 = "sha1"
    SHA256 = "sha256"


# AlgorithmIdentifier with NULL, as every client sends it.
_HASH_ALGORITHM: Final = {
    HashName.SHA1: bytes.fromhex("300906052b0e03021a0500"),
    HashName.SHA256: bytes.fromhex("300d06096086480165030402010500"),
}
# Octets of ResponseData, good / revoked / revoked with a reason (spec/pki.md A.1): no other template is used.
_TBS_BYTES: Final = {HashName.SHA1: (163, 182, 187), HashName.SHA256: (193, 210, 215)}
_OCSP_BASIC: Final = bytes.fromhex("06092b0601050507300101")
_SUCCESSFUL: Final = bytes.fromhex("0a0100")
_BY_KEY: Final = 0xA2
_EXPLICIT_0: Final = 0xA0
_EXPLICIT_1: Final = 0xA1
_GOOD: Final = bytes.fromhex("8000")
_REVOKED: Final = 0xA1
_PLACEHOLDER: Final = bytes(SERIAL_BYTES)
UNSPECIFIED_REASON: Final = UNSPECIFIED
_TIME_BYTES: Final = 15

# Whole OCSPResponses without responseBytes (RFC 6960 4.2.1), for what cannot be answered.
MALFORMED_REQUEST: Final = bytes.fromhex("30030a0101")
INTERNAL_ERROR: Final = bytes.fromhex("30030a0102")
TRY_LATER: Final = bytes.fromhex("30030a0103")
UNAUTHORIZED: Final = bytes.fromhex("30030a0106")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Unix seconds of one response: when it was signed, since when and until when its status holds."""

    produced_at_s: int
    this_update_s: int
    next_update_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CertStatus:
    """`revoked_at_s` None: good. Reason 0 is not encoded (BR 7.2.2)."""

    revoked_at_s: int | None = None
    reason: int = UNSPECIFIED_REASON


GOOD: Final = CertStatus()


class ResponseTemplate:
    """The bytes around serial number and signature for one issuer and one CertID hash.

    `responder` is the certificate of a delegated responder of this issuer, read; without it the issuer signs. `tail` is
    what stands behind the signature, `responder_id` how the signer is named.
    """

    def __init__(self, issuer: Issuer, name: HashName, responder: Issuer | None = None) -> None:
        signer = responder or issuer
        self.algorithm = signer.signature_algorithm
        self.responder_id = der.tlv(_BY_KEY, der.tlv(der.OCTET_STRING, _hash(HashName.SHA1, signer.key_bits)))
        self.tail = b"" if responder is None else der.tlv(_EXPLICIT_0, der.sequence(responder.certificate_der))
        self.name_hash = _hash(name, issuer.subject_der)
        self.key_hash = _hash(name, issuer.key_bits)
        self._cert_id = (_HASH_ALGORITHM[name] + der.tlv(der.OCTET_STRING, self.name_hash)
                         + der.tlv(der.OCTET_STRING, self.key_hash))
        self._tbs_bytes = _TBS_BYTES[name]
        self._fixed: dict[tuple[int | None, int | None], tuple[bytes, ...]] = {}

    def cert_id(self, serial: bytes) -> bytes:
        """CertID with the contents of the serial number's INTEGER."""
        return der.sequence(self._cert_id, der.tlv(der.INTEGER, serial))

    def canonical_request(self) -> bytes:
        """The request without nonce or other options that clients send for serial number zero."""
        return der.sequence(der.sequence(der.sequence(der.sequence(self.cert_id(_PLACEHOLDER)))))

    def tbs(self, serial: bytes, status: CertStatus, times: Times) -> bytes:
        """ResponseData, the bytes that are signed."""
        before, after = self.around_serial(status, times)
        return before + serial + after

    def response(self, serial: bytes, status: CertStatus, times: Times, signature: bytes) -> bytes:
        """The whole OCSPResponse. In bulk take `around` once and join."""
        before, after = self.around(status, times, len(signature))
        return b"".join((before, serial, after, signature, self.tail))

    def around_serial(self, status: CertStatus, times: Times) -> tuple[bytes, bytes]:
        """Of the bytes that are signed, everything before and behind the serial number's 18 octets."""
        return self._fill(status, times, None)

    def around(self, status: CertStatus, times: Times, signature_bytes: int) -> tuple[bytes, bytes]:
        """Of the whole response, everything before the serial number, and between it and the signature."""
        return self._fill(status, times, signature_bytes)

    def enclose(self, data: bytes, signature: bytes) -> bytes:
        """The whole OCSPResponse of any ResponseData that this signer has signed."""
        basic = der.sequence(data, self.algorithm, der.bit_string(signature), self.tail)
        return der.sequence(_SUCCESSFUL, der.tlv(_EXPLICIT_0, der.sequence(
            _OCSP_BASIC, der.tlv(der.OCTET_STRING, basic))))

    def _fill(self, status: CertStatus, times: Times, signature_bytes: int | None) -> tuple[bytes, bytes]:
        reason = None if status.revoked_at_s is None else status.reason
        fixed = self._fixed.get((reason, signature_bytes))
        if fixed is None:
            fixed = self._fixed[reason, signature_bytes] = self._make_fixed(reason, signature_bytes)
        revoked_at = b"" if status.revoked_at_s is None else generalized_time(status.revoked_at_s)
        return (b"".join((fixed[0], generalized_time(times.produced_at_s), fixed[1])),
                b"".join((fixed[2], revoked_at, fixed[3], generalized_time(times.this_update_s), fixed[4],
                          generalized_time(times.next_update_s), fixed[5])))

    def _make_fixed(self, reason: int | None, signature_bytes: int | None) -> tuple[bytes, ...]:
        """The bytes between the variable fields, found by building once with markers in their places.

        In order: produced at, serial number, revoked at (empty for good), this update, next update, signature.
        """
        produced, revoked, this, following = (mark * _TIME_BYTES for mark in (b"P", b"R", b"T", b"N"))
        serial = b"S" * SERIAL_BYTES
        single = single_response(self.cert_id(serial), cert_status(reason, revoked), this, following)
        data = der.sequence(self.responder_id, _time(produced), der.sequence(single))
        expected = self._tbs_bytes[0 if reason is None else 1 if reason == UNSPECIFIED_REASON else 2]
        if len(data) != expected:
            raise ValueError(f"ResponseData has {len(data)} octets where {expected} are expected")
        if signature_bytes is not None:
            whole = self.enclose(data, b"Z" * signature_bytes)
            data = whole[:len(whole) - signature_bytes - len(self.tail)]
        found, rest = [], data
        for marker in (produced, serial, b"" if reason is None else revoked, this, following):
            start = rest.index(marker)
            found.append(rest[:start])
            rest = rest[start + len(marker):]
        return (*found, rest)


def _hash(name: HashName, data: bytes) -> bytes:
    """issuerNameHash of the subject Name, issuerKeyHash of the key's BIT STRING contents."""
    return hashlib.new(name.value, data, usedforsecurity=False).digest()


def single_response(cert_id: bytes, status: bytes, this_update: bytes, next_update: bytes) -> bytes:
    """SingleResponse of DER and of times as `generalized_time` writes them."""
    return der.sequence(cert_id, status, _time(this_update), der.tlv(_EXPLICIT_0, _time(next_update)))


def cert_status(reason: int | None, revoked_at: bytes) -> bytes:
    """CertStatus good (no reason), or revoked. Raises ValueError for a reason that OCSP does not tell."""
    if reason is None:
        return _GOOD
    if reason not in ALLOWED_REASONS:
        raise ValueError(f"reason {reason} is not for OCSP (BR 7.2.2)")
    encoded = b"" if reason == UNSPECIFIED_REASON else der.tlv(_EXPLICIT_0, der.tlv(der.ENUMERATED, bytes((reason,))))
    return der.tlv(_REVOKED, _time(revoked_at), encoded)


def _time(text: bytes) -> bytes:
    return der.tlv(der.GENERALIZED_TIME, text)


@lru_cache(maxsize=16_384)
def generalized_time(unix_s: int) -> bytes:
    """YYYYMMDDHHMMSSZ in whole seconds, the only form of OCSP."""
    at = datetime.fromtimestamp(unix_s, UTC)
    return b"%04d%02d%02d%02d%02d%02dZ" % (at.year, at.month, at.day, at.hour, at.minute, at.second)
