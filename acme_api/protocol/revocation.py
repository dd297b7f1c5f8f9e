"""revokeCert: what may be asked, and who may ask it (RFC 8555 7.6, rows RV1 to RV6)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from acme_api.protocol import base64url
from acme_api.protocol.problem import Problem, malformed, unauthorized
from ca.pki.identifier import Identifier
from ca.pki.revocation import ALLOWED_REASONS, KEY_COMPROMISE, UNSPECIFIED, Authority, effective_reason

_REASONS_SHOWN: Final = ", ".join(str(reason) for reason in sorted(ALLOWED_REASONS))


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRequest:
    """The payload of revokeCert."""

    certificate_der: bytes
    reason: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What is known of the certificate. `revoked_for` is the reason that stands, or that a queued request will set;
    `key_is_blocked` likewise."""

    account_id: bytes | None
    names: frozenset[Identifier]
    not_after: datetime
    revoked_for: int | None
    key_is_blocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signed the request: an account with its valid authorizations, or the certificate's key (account None)."""

    account_id: bytes | None
    authorized: Collection[Identifier] = ()
    is_certificate_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationPlan:
    """What is to be stored."""

    reason: int
    authority: Authority


def parse_revocation(payload: Mapping[str, Any]) -> RevocationRequest:
    """The certificate and the reason. Raises malformed or badRevocationReason (rows RV4, E98, E100)."""
    certificate = payload.get("certificate")
    if not isinstance(certificate, str) or not certificate:
        raise malformed('revokeCert takes {"certificate": base64url of DER}')
    try:
        certificate_der = base64url.decode(certificate)
    except base64url.Base64Error as fault:
        raise malformed(f"the certificate is {fault}") from None
    reason = payload.get("reason", UNSPECIFIED)
    if type(reason) is not int:
        raise malformed("reason is not an integer")
    if reason not in ALLOWED_REASONS:
        raise Problem("badRevocationReason", f"a certificate can be revoked for the reasons {_REASONS_SHOWN}")
    return RevocationRequest(certificate_der=certificate_der, reason=reason)


def decide_revocation(
    request: RevocationRequest, certificate: CertificateFacts, signer: Signer, now: datetime
) -> RevocationPlan:
    """What a request leads to. Raises unauthorized or alreadyRevoked.

    The certificate's own key proves that it is compromised, whatever reason is given; holders of authorizations for
    all names prove that the subscriber has lost the names (spec/pki.md 7). A reason moves to keyCompromise only. The
    key's own proof still has its effect when somebody has claimed keyCompromise before: the key is blocked (row RV6).
    """
    if now > certificate.not_after:
        raise unauthorized("the certificate has expired; there is nothing to revoke any more")
    authority = _authority(certificate, signer)
    reason = effective_reason(request.reason, authority)
    is_news = authority == "certificate_key" and not (
        certificate.revoked_for == KEY_COMPROMISE and certificate.key_is_blocked)
    if certificate.revoked_for is not None and not is_news:
        raise Problem("alreadyRevoked", "the certificate is already revoked")
    return RevocationPlan(reason=reason, authority=authority)


def _authority(certificate: CertificateFacts, signer: Signer) -> Authority:
    if signer.is_certificate_key:
        return "certificate_key"
    if signer.account_id is not None and signer.account_id == certificate.account_id:
        return "account"
    if signer.account_id is not None and certificate.names and certificate.names.issubset(signer.authorized):
        return "authorizations"
    raise unauthorized("only the account that ordered the certificate, an account with valid authorizations for all of "
                       "its names, or the certificate's own key may revoke it")
