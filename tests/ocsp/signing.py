"""Signed records of a software authority, as the pre-signer would publish them."""

from ocsp.protocol.batch import HASHES, SignedStatus, encode_batch
from ocsp.protocol.response import GOOD, CertStatus, ResponseTemplate, Times
from tests.ca.pki.authority import Authority

HOUR_S = 3_600
DAY_S = 86_400
NOW_S = 1_795_521_600       # 2026-11-24 12:00:00 UTC
TIMES = Times(produced_at_s=NOW_S - 30, this_update_s=NOW_S - 60, next_update_s=NOW_S - 60 + 7 * DAY_S - 1)


def serial_of(number: int, *, day: int = 2_784) -> bytes:
    """18 octets with a day in front."""
    return day.to_bytes(2, "big") + number.to_bytes(16, "big")


def signed(own: Authority, serial: bytes, status: CertStatus = GOOD, *, version: int = 0, times: Times = TIMES,
           not_after_s: int = NOW_S + 60 * DAY_S) -> SignedStatus:
    """One record with a signature for each hash."""
    first, second = (own.sign(ResponseTemplate(own.issuer, name).tbs(serial, status, times)) for name in HASHES)
    return SignedStatus(serial, version, status, not_after_s, (first, second))


def batch_of(own: Authority, *serials: bytes, times: Times = TIMES) -> bytes:
    """The payload of a batch with good certificates."""
    return encode_batch(times, [signed(own, serial, times=times) for serial in serials])
