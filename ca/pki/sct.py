"""Signed certificate timestamps as bytes: written, read, verified (RFC 6962 3.2 and 3.3, spec/pki.md 3.1).

An SCT is kept as the log gave it; its extensions (static-ct-api logs put the leaf's index there) are never touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.pki import der

LogKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

LOG_ID_BYTES: Final = 32
_V1: Final = b"\x00"
_CERTIFICATE_TIMESTAMP: Final = b"\x00"
_X509_ENTRY: Final = b"\x00\x00"
_PRECERT_ENTRY: Final = b"\x00\x01"
_SHA256: Final = 4                 # HashAlgorithm and SignatureAlgorithm of RFC 5246 7.4.1.4.1
_RSA: Final = 1
_ECDSA: Final = 3
_FIXED_BYTES: Final = 1 + LOG_ID_BYTES + 8


class SctError(ValueError):
    """Not an SCT, or not one that may be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sct:
    """An SCT of version 1. `signature` is the log's over what `signed_precertificate` gives; always SHA-256."""

    log_id: bytes
    timestamp_ms: int
    extensions: bytes
    signature_algorithm: int       # 1 RSA, 3 ECDSA
    signature: bytes


def encode_sct(sct: Sct) -> bytes:
    """SerializedSCT."""
    return b"".join((
        _V1, sct.log_id, sct.timestamp_ms.to_bytes(8, "big"), _opaque16(sct.extensions),
        bytes((_SHA256, sct.signature_algorithm)), _opaque16(sct.signature)))


def decode_sct(data: bytes) -> Sct:
    """The SCT that fills `data`. Raises SctError for another version, another hash, truncated or trailing bytes."""
    if len(data) < _FIXED_BYTES or data[:1] != _V1:
        raise SctError("not an SCT of version 1")
    extensions, rest = _read_opaque16(data[_FIXED_BYTES:])
    hash_algorithm, signature_algorithm, signature = read_digitally_signed(rest)
    if hash_algorithm != _SHA256:
        raise SctError("the SCT is not signed with SHA-256 (RFC 6962 2.1.4)")
    return Sct(log_id=data[1:1 + LOG_ID_BYTES], timestamp_ms=int.from_bytes(data[1 + LOG_ID_BYTES:_FIXED_BYTES], "big"),
               extensions=extensions, signature_algorithm=signature_algorithm, signature=signature)


def read_digitally_signed(data: bytes) -> tuple[int, int, bytes]:
    """(hash algorithm, signature algorithm, signature) of a DigitallySigned that fills `data`. Raises SctError."""
    if len(data) < 2:
        raise SctError("truncated")
    signature, rest = _read_opaque16(data[2:])
    if rest:
        raise SctError("trailing bytes")
    return data[0], data[1], signature


def sct_list_value(scts: Sequence[bytes]) -> bytes:
    """extnValue contents of the SCT list extension: an OCTET STRING around a SignedCertificateTimestampList."""
    if not scts:
        raise ValueError("an SCT list holds at least one SCT")
    return der.tlv(der.OCTET_STRING, _opaque16(b"".join(_opaque16(sct) for sct in scts)))


def read_sct_list(value: bytes) -> list[bytes]:
    """The SCTs that `sct_list_value` wrote. Raises SctError; DER faults, too."""
    try:
        octets = der.read_only(value, der.OCTET_STRING)
    except der.DerError as fault:
        raise SctError(f"not an SCT list: {fault}") from fault
    rest, trailing = _read_opaque16(der.contents(value, octets))
    if trailing:
        raise SctError("trailing bytes")
    scts = []
    while rest:
        sct, rest = _read_opaque16(rest)
        scts.append(sct)
    if not scts or not all(scts):
        raise SctError("an SCT list, or an SCT in it, is empty")
    return scts


def signed_precertificate(sct: Sct, *, issuer_key_hash: bytes, tbs: bytes) -> bytes:
    """What a log signs for a precertificate: `tbs` without poison and SCT list, `issuer_key_hash` of the issuer's SPKI
    by SHA-256."""
    return b"".join((_V1, _CERTIFICATE_TIMESTAMP, sct.timestamp_ms.to_bytes(8, "big"), _PRECERT_ENTRY, issuer_key_hash,
                     len(tbs).to_bytes(3, "big"), tbs, _opaque16(sct.extensions)))


def signed_certificate(sct: Sct, *, certificate: bytes) -> bytes:
    """What a log signs for a certificate that is submitted whole."""
    return b"".join((_V1, _CERTIFICATE_TIMESTAMP, sct.timestamp_ms.to_bytes(8, "big"), _X509_ENTRY,
                     len(certificate).to_bytes(3, "big"), certificate, _opaque16(sct.extensions)))


def require_signature(sct: Sct, message: bytes, key: LogKey) -> None:
    """Returns when the log's key made the SCT's signature over `message`. Raises SctError."""
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if sct.signature_algorithm != _RSA:
                raise SctError("the SCT's signature is not of the log's kind of key")
            key.verify(sct.signature, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            if sct.signature_algorithm != _ECDSA:
                raise SctError("the SCT's signature is not of the log's kind of key")
            key.verify(sct.signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as fault:
        raise SctError("the SCT's signature does not verify") from fault


def _opaque16(data: bytes) -> bytes:
    if len(data) > 0xFFFF:
        raise ValueError("longer than 65,535 bytes")
    return len(data).to_bytes(2, "big") + data


def _read_opaque16(data: bytes) -> tuple[bytes, bytes]:
    end = 2 + int.from_bytes(data[:2], "big")
    if len(data) < 2 or len(data) < end:
        raise SctError("truncated")
    return data[2:end], data[end:]
