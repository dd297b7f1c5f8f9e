"""Responses that are made when they are asked for (spec/pki.md 5.9): with a nonce (RFC 9654), for serial numbers that
were never given out, for several certificates at once. The parts are those of the templates in response.py.

What a request asks is kept as one `Question`: which certificates of one issuer, under which hash, and the value of the
nonce extension, which the response repeats byte for byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ca.pki import der
from ca.pki.serial import SERIAL_BYTES
from ocsp.protocol.request import NONCE
from ocsp.protocol.response import CertStatus, ResponseTemplate, Times, cert_status, generalized_time, single_response

MOST_CERT_IDS: Final = 10
_LONGEST_SERIAL: Final = 20
_UNKNOWN: Final = bytes.fromhex("8200")
_EXPLICIT_1: Final = 0xA1
_FIRST_DAY: Final = bytes.fromhex("0100")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked in one request, all of one issuer: for each CertID the index of its hash in HASHES and the serial
    number, one to ten of them. `nonce`: the value of the extension, None when there was none."""

    issuer_id: int
    cert_ids: tuple[tuple[int, bytes], ...]
    nonce: bytes | None

    @property
    def may_tell_known(self) -> bool:
        """Whether an answer may be signed about certificates that exist. A pre-signed response fits a request about one
        of them that has no nonce; then only `unknown` is left to say."""
        return self.nonce is not None or len({serial for _, serial in self.cert_ids}) > 1


def is_serial(contents: bytes) -> bool:
    """Whether these are the contents of an INTEGER as a certificate has it: positive, shortest form, 20 octets at most
    (RFC 5280 4.1.2.2)."""
    return (0 < len(contents) <= _LONGEST_SERIAL and contents[0] < 0x80
            and (contents[0] > 0 or (len(contents) > 1 and contents[1] >= 0x80)))


def may_be_forgotten(serial: bytes, oldest_kept: bytes) -> bool:
    """Whether a serial number that is not known may have been given out so long ago that nothing is kept of it.

    `oldest_kept` is the first serial number of the time of which everything is kept. Others than ours never were.
    """
    return len(serial) == SERIAL_BYTES and _FIRST_DAY <= serial < oldest_kept


def live_tbs(
    template: ResponseTemplate, singles: Sequence[tuple[bytes, CertStatus | None]], times: Times, nonce: bytes | None
) -> bytes:
    """ResponseData for (CertID, status) pairs; status None is `unknown`. Raises ValueError for none, or too many.

    `template` is any of the signer's. `nonce` is the value of the request's extension, repeated as it came.
    """
    if not 1 <= len(singles) <= MOST_CERT_IDS:
        raise ValueError(f"a response is about 1 to {MOST_CERT_IDS} certificates")
    this_update, next_update = generalized_time(times.this_update_s), generalized_time(times.next_update_s)
    responses = [single_response(cert_id, _status(status), this_update, next_update) for cert_id, status in singles]
    extensions = b"" if nonce is None else der.tlv(_EXPLICIT_1, der.sequence(
        der.sequence(NONCE, der.tlv(der.OCTET_STRING, nonce))))
    return der.sequence(template.responder_id, der.tlv(der.GENERALIZED_TIME, generalized_time(times.produced_at_s)),
                        der.sequence(*responses), extensions)


def _status(status: CertStatus | None) -> bytes:
    if status is None:
        return _UNKNOWN
    if status.revoked_at_s is None:
        return cert_status(None, b"")
    return cert_status(status.reason, generalized_time(status.revoked_at_s))
