"""From statuses to a signed batch: the templates of each issuer and its key in the token."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.pki.issuer import read_issuer
from hsm.key import HsmPrivateKey, private_key, sign_many
from hsm.thread import HsmThread
from ocsp.presign.store import StoredIssuer, StoredStatus
from ocsp.protocol.batch import HASHES, SignedStatus
from ocsp.protocol.response import CertStatus, ResponseTemplate, Times
from ocsp.protocol.schedule import response_times

# How many signatures the token makes before something more urgent may come in between.
_SIGNATURES_AT_ONCE: Final = 256


class SignatureFault(Exception):
    """The token gave a signature that does not verify. Nothing of the batch is published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSigner:
    """One issuer: how its responses look, and the key that signs them."""

    id: int
    name: str
    not_after: datetime
    templates: tuple[ResponseTemplate, ResponseTemplate]
    key: HsmPrivateKey
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBatch:
    """What one round signed for one issuer; not published yet."""

    issuer_id: int
    produced_at: datetime
    times: Times
    records: tuple[SignedStatus, ...]


async def open_signer(thread: HsmThread, issuer: StoredIssuer) -> IssuerSigner:
    """Finds the issuer's key in the token. Raises an HsmError when it is not there or not the certificate's."""
    read = read_issuer(issuer.certificate)
    key = await thread.run(private_key, thread.token, issuer.name, expected_spki=read.spki_der)
    return IssuerSigner(id=issuer.id, name=issuer.name, not_after=read.validity.not_after, key=key,
                        templates=(ResponseTemplate(read, HASHES[0]), ResponseTemplate(read, HASHES[1])),
                        public_key=read.public_key)


async def sign_batch(
    thread: HsmThread, signer: IssuerSigner, statuses: Sequence[StoredStatus], *, now: datetime, life: timedelta
) -> SignedBatch:
    """One response for each status and CertID hash, all with the same times.

    The first and the last signature are verified: a token that lies, or another key under the same label, is caught
    before anything is published. Raises SignatureFault.
    """
    times = response_times(now, life=life, issuer_not_after=signer.not_after)
    shown = [CertStatus() if status.revoked_at is None
             else CertStatus(revoked_at_s=int(status.revoked_at.timestamp()), reason=status.reason)
             for status in statuses]
    messages = [template.tbs(status.serial, cert_status, times)
                for status, cert_status in zip(statuses, shown, strict=True) for template in signer.templates]
    signatures: list[bytes] = []
    for start in range(0, len(messages), _SIGNATURES_AT_ONCE):
        signatures += await thread.run(sign_many, signer.key, messages[start:start + _SIGNATURES_AT_ONCE])
    for index in {0, len(messages) - 1}:
        _require_signature(signer, signatures[index], messages[index])
    pairs = zip(signatures[0::2], signatures[1::2], strict=True)
    return SignedBatch(issuer_id=signer.id, produced_at=now, times=times, records=tuple(
        SignedStatus(status.serial, status.version, cert_status, int(status.not_after.timestamp()), pair)
        for status, cert_status, pair in zip(statuses, shown, pairs, strict=True)))


def _require_signature(signer: IssuerSigner, signature: bytes, message: bytes) -> None:
    key = signer.public_key
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256() if key.key_size == 256 else hashes.SHA384()))
    except InvalidSignature as fault:
        raise SignatureFault(f"the token's signature for issuer {signer.name} does not verify") from fault
