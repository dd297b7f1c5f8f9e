"""From statuses to a signed batch: the templates of each issuer, and its key in the token."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.pki.issuer import Issuer, PublicKey, read_issuer
from ca.pki.lint import Finding
from ca.pki.lint_ocsp import lint_ocsp_response
from ca.pki.revocation import ALLOWED_REASONS
from ca.pki.serial import SERIAL_BYTES
from hsm.key import HsmPrivateKey, private_key
from hsm.thread import HsmThread
from ocsp.presign.gate import LaneName, SigningGate
from ocsp.presign.store import StatusOfCertificate, StoredIssuer, StoredResponder
from ocsp.protocol.batch import HASHES, SignedStatus
from ocsp.protocol.live import live_tbs
from ocsp.protocol.response import GOOD, CertStatus, ResponseTemplate, Times
from ocsp.protocol.schedule import response_times

_SAMPLE_SERIAL: Final = b"\x01" * SERIAL_BYTES
_SAMPLE_SIGNATURE_BYTES: Final = 64
_SAMPLE_TIMES: Final = Times(this_update_s=1_800_000_000, produced_at_s=1_800_000_000, next_update_s=1_800_604_799)
_SAMPLE_NONCE: Final = bytes.fromhex("0410") + bytes(16)
_SAMPLE_STATUSES: Final = (GOOD, *(CertStatus(revoked_at_s=1_799_999_999, reason=reason)
                                   for reason in sorted(ALLOWED_REASONS)))


class SignatureFault(Exception):
    """The token gave a signature that does not verify. Nothing of the batch is published."""


class TemplateFault(Exception):
    """Responses of this form would break a rule: none is signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSigner:
    """One issuer: how its responses look, and the key that signs them: its own (`responder_id` 0), or that of a
    delegated responder. No response outlives `not_after`."""

    id: int
    name: str
    issuer: Issuer
    responder_id: int
    not_after: datetime
    public_key: PublicKey
    templates: tuple[ResponseTemplate, ResponseTemplate]
    key: HsmPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBatch:
    """What was signed for one issuer with the same times; not published yet."""

    issuer_id: int
    responder_id: int
    produced_at: datetime
    times: Times
    records: Sequence[SignedStatus]


async def open_signer(
    thread: HsmThread, stored: StoredIssuer, responder: StoredResponder | None = None
) -> IssuerSigner:
    """Finds the key in the token: the issuer's, or that of its delegated responder.

    Raises an HsmError when it is not there or not the certificate's, TemplateFault when lint objects to what it would
    sign.
    """
    issuer = read_issuer(stored.certificate)
    certified = None if responder is None else read_issuer(responder.certificate)
    label, signer = (stored.name, issuer) if responder is None or certified is None else (
        responder.key_label, certified)
    key = await thread.run(private_key, thread.token, label, expected_spki=signer.spki_der)
    first, second = (ResponseTemplate(issuer, name, certified) for name in HASHES)
    for template in (first, second):
        _require_clean(template, signer, stored.name, delegated=certified is not None)
    return IssuerSigner(
        id=stored.id, name=stored.name, issuer=issuer, responder_id=0 if responder is None else responder.id, key=key,
        not_after=min(issuer.validity.not_after, signer.validity.not_after), public_key=signer.public_key,
        templates=(first, second))


def _require_clean(template: ResponseTemplate, signer: Issuer, name: str, *, delegated: bool) -> None:
    """A sample of each form, with a signature that is none, under the linters (spec/pki.md 4). Raises TemplateFault."""
    for status in _SAMPLE_STATUSES:
        sample = template.response(_SAMPLE_SERIAL, status, _SAMPLE_TIMES, bytes(_SAMPLE_SIGNATURE_BYTES))
        _require_no_findings(lint_ocsp_response(sample, signer, delegated=delegated), name)
    # And of what live mode signs, whose other parts are the same.
    cert_id = template.cert_id(_SAMPLE_SERIAL)
    for singles in ([(cert_id, None)], [(cert_id, GOOD), (cert_id, _SAMPLE_STATUSES[-1])]):
        data = live_tbs(template, singles, _SAMPLE_TIMES, _SAMPLE_NONCE)
        sample = template.enclose(data, bytes(_SAMPLE_SIGNATURE_BYTES))
        _require_no_findings(lint_ocsp_response(sample, signer, delegated=delegated, live=True), name)


def _require_no_findings(findings: Sequence[Finding], name: str) -> None:
    if findings:
        raise TemplateFault(f"OCSP responses of issuer {name} would break a rule and are not signed: "
                            + "; ".join(str(finding) for finding in findings))


async def sign_batch(
    gate: SigningGate,
    lane: LaneName,
    signer: IssuerSigner,
    statuses: Sequence[StatusOfCertificate],
    *,
    now: datetime,
    life: timedelta,
    by_hour: bool = False,
) -> SignedBatch:
    """A response for each status and CertID hash, all with the same times; `now` is before the statuses were read.

    The first and the last signature are verified: a token that lies, or another key under the same label, is caught
    before anything is published. Raises SignatureFault, HsmError, ScheduleError.
    """
    times = response_times(now, life=life, signer_not_after=signer.not_after, by_hour=by_hour,
                           changed_at_s=max((status.revoked_at_s or 0 for status in statuses), default=0))
    shown = [GOOD if status.revoked_at_s is None else
             CertStatus(revoked_at_s=status.revoked_at_s, reason=status.reason) for status in statuses]
    messages = _messages(signer, statuses, shown, times)
    signatures = await gate.sign(lane, signer.key, messages)
    for index in {0, len(messages) - 1}:
        require_signature(signer, signatures[index], messages[index])
    records = [SignedStatus(status.serial, status.version, cert_status, status.not_after_s, pair)
               for status, cert_status, pair in zip(
                   statuses, shown, zip(signatures[0::2], signatures[1::2], strict=True), strict=True)]
    return SignedBatch(issuer_id=signer.id, responder_id=signer.responder_id, produced_at=now, times=times,
                       records=records)


def _messages(signer: IssuerSigner, statuses: Sequence[StatusOfCertificate], shown: Sequence[CertStatus],
              times: Times) -> list[bytes]:
    """What is signed, two for each status; for good ones the bytes around the serial number are made once."""
    first, second = signer.templates
    (before1, after1), (before2, after2) = (template.around_serial(GOOD, times) for template in signer.templates)
    messages: list[bytes] = []
    for status, cert_status in zip(statuses, shown, strict=True):
        serial = status.serial
        if cert_status is GOOD:
            messages += (before1 + serial + after1, before2 + serial + after2)
        else:
            messages += (first.tbs(serial, cert_status, times), second.tbs(serial, cert_status, times))
    return messages


def require_signature(signer: IssuerSigner, signature: bytes, message: bytes) -> None:
    """Raises SignatureFault when it does not verify."""
    key = signer.public_key
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - for the type checker: there are two kinds
            key.verify(signature, message, ec.ECDSA(hashes.SHA256() if key.key_size == 256 else hashes.SHA384()))
    except InvalidSignature as fault:
        raise SignatureFault(f"the token's signature for issuer {signer.name} does not verify") from fault
