"""Signed records of a software authority, as the pre-signer would publish them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki.issuer import Issuer, read_issuer
from ca.pki.ocsp_responder import responder_validity, tbs_responder
from ca.pki.tbs import assemble
from ocsp.protocol.batch import HASHES, SignedStatus, encode_batch
from ocsp.protocol.response import GOOD, CertStatus, ResponseTemplate, Times
from tests.ca.pki.authority import Authority

HOUR_S = 3_600
DAY_S = 86_400
NOW_S = 1_795_521_600       # 2026-11-24 12:00:00 UTC
TIMES = Times(produced_at_s=NOW_S - 30, this_update_s=NOW_S - 60, next_update_s=NOW_S - 60 + 7 * DAY_S - 1)


def serial_of(number: int, *, day: int = 2_784) -> bytes:
    """18 octets with a day in front; the others are like those of chance."""
    return day.to_bytes(2, "big") + sha256(number.to_bytes(16, "big")).digest()[:16]


def signed(own: Authority, serial: bytes, status: CertStatus = GOOD, *, version: int = 0, times: Times = TIMES,
           not_after_s: int = NOW_S + 60 * DAY_S, delegate: "Delegate | None" = None) -> SignedStatus:
    """One record with a signature for each hash."""
    signer, responder = delegate or own, None if delegate is None else delegate.certificate
    first, second = (signer.sign(ResponseTemplate(own.issuer, name, responder).tbs(serial, status, times))
                     for name in HASHES)
    return SignedStatus(serial, version, status, not_after_s, (first, second))


def batch_of(own: Authority, *serials: bytes, times: Times = TIMES) -> bytes:
    """The payload of a batch with good certificates."""
    return encode_batch(times, [signed(own, serial, times=times) for serial in serials])


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegate:
    """A delegated responder: its key in memory, and its certificate, read."""

    key: ec.EllipticCurvePrivateKey
    certificate: Issuer

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256."""
        return self.key.sign(message, ec.ECDSA(hashes.SHA256()))


def delegate_of(own: Authority, *, now: datetime | None = None) -> Delegate:
    """A responder that an authority has certified, with the bytes that the CA would sign."""
    key = ec.generate_private_key(ec.SECP256R1())
    at = now or datetime.fromtimestamp(NOW_S, UTC)
    tbs = tbs_responder(issuer=own.issuer, spki_der=key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo), serial=serial_of(4711),
        validity=responder_validity(at, own.issuer))
    return Delegate(key=key, certificate=read_issuer(assemble(tbs, own.sign(tbs))))
