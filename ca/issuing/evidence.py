"""The right to issue, derived anew from what the VA saw and from what the subscriber signed.

Nothing that the WFE can write is believed: the names come from validations, which the VA inserts, and the request from
a JWS whose key the domain itself published in its challenge (domain -> thumbprint -> JWS -> CSR). After a key rollover
the stored rollover, signed by both keys, is the link between the two thumbprints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from acme_api.protocol.base64url import decode as base64url_decode
from acme_api.protocol.directory import finalize_url, parse_account_url
from acme_api.protocol.json_strict import JsonError, decode_object
from acme_api.protocol.jwk import thumbprint
from acme_api.protocol.jws import link_of_key_change, verify_stored
from acme_api.protocol.problem import Problem
from ca.issuing.store import StoredOrder, StoredValidation
from ca.pki.csr import Csr, CsrError, parse_csr, require_names
from ca.pki.domain_control import CaaCheck, Evidence, Validation, require_domain_control
from ca.pki.identifier import Identifier, IdentifierError, NamePolicy, require_permitted
from ca.pki.refusal import Refusal, RefusalReason

_CAA_REASONS = {"caa": RefusalReason.CAA_FORBIDS}


class CaaIsStale(Exception):
    """The right to issue holds, but CAA has to be looked at again first; the VA has been asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenOrder:
    """An order whose subscriber has the right to the certificate that the request asks for."""

    identifiers: tuple[Identifier, ...]
    csr: Csr


def require_right(
    order: StoredOrder,
    validations: Mapping[bytes, StoredValidation],
    key_changes: Sequence[str],
    *,
    base_url: str,
    policy: NamePolicy,
    now: datetime,
) -> ProvenOrder:
    """Raises Refusal when the right is not there, CaaIsStale when it has to wait for the VA."""
    if not order.account_open:
        raise Refusal(RefusalReason.ACCOUNT_CLOSED, "the account has been deactivated or revoked")
    identifiers = tuple(Identifier(type=kind, value=value) for kind, value in order.identifiers)
    csr, signer = _signed_request(order, base_url)
    try:
        require_names(csr, identifiers)
        for identifier in identifiers:
            require_permitted(identifier, policy)
    except CsrError as fault:
        raise Refusal(RefusalReason.BAD_CSR, fault.detail) from fault
    except IdentifierError as fault:
        raise Refusal(RefusalReason.REJECTED_IDENTIFIER, fault.detail) from fault
    stored = [validations[key] for key in order.authorization_ids if key in validations]
    control = require_domain_control(_evidence(order, identifiers, stored), now)
    handed_over = _handed_over_to(signer, key_changes, base_url, order.account_id)
    for validation in control.validations:
        if validation.thumbprint not in handed_over:
            raise Refusal(RefusalReason.NOT_AUTHORIZED,
                          f"{validation.identifier.value} was validated for another account key than the one that "
                          "signed this request")
    if control.stale_caa:
        raise CaaIsStale
    return ProvenOrder(identifiers=identifiers, csr=csr)


def _signed_request(order: StoredOrder, base_url: str) -> tuple[Csr, bytes]:
    """The CSR of the finalize request, and the thumbprint of the key that signed it for this very order."""
    try:
        signed = verify_stored(order.jws_protected, order.jws_payload, order.jws_signature, order.jwk)
        if signed.url != finalize_url(base_url, order.id):
            raise Refusal(RefusalReason.BAD_REQUEST, "the stored request was signed for another URL")
        if signed.kid is None or parse_account_url(base_url, signed.kid) != order.account_id:
            raise Refusal(RefusalReason.BAD_REQUEST, "the stored request was signed for another account")
        csr_text = decode_object(order.jws_payload).get("csr")
        if not isinstance(csr_text, str):
            raise Refusal(RefusalReason.BAD_REQUEST, "the stored request has no CSR")
        return parse_csr(base64url_decode(csr_text)), thumbprint(order.jwk)
    except (Problem, JsonError, ValueError) as fault:
        raise Refusal(RefusalReason.BAD_REQUEST, f"the stored request does not verify: {fault}") from fault
    except CsrError as fault:
        raise Refusal(RefusalReason.BAD_CSR, fault.detail) from fault


def _handed_over_to(signer: bytes, key_changes: Sequence[str], base_url: str, account_id: bytes) -> frozenset[bytes]:
    """The thumbprints whose holder is the signer: its own, and those that were rolled over to it, step by step."""
    found = {signer}
    for text in reversed(key_changes):
        try:
            link = link_of_key_change(text)
        except Problem:
            continue
        if link.new_thumbprint in found and parse_account_url(base_url, link.account_url) == account_id:
            found.add(link.old_thumbprint)
    return frozenset(found)


def _evidence(order: StoredOrder, identifiers: Sequence[Identifier], stored: Sequence[StoredValidation]) -> Evidence:
    return Evidence(
        account_id=order.account_id,
        identifiers=identifiers,
        validations=[Validation(
            authorization_id=item.authorization_id, account_id=item.account_id,
            identifier=Identifier(type=item.identifier_type, value=item.identifier_value),
            wildcard=item.wildcard, method=item.challenge_type, thumbprint=item.thumbprint,
            validated_at=item.validated_at, valid_until=item.valid_until, caa_checked_at=item.caa_checked_at)
            for item in stored if item.succeeded and item.valid_until is not None],
        caa_checks=[CaaCheck(
            authorization_id=item.authorization_id, checked_at=item.rechecked_at,
            refusal=_caa_refusal(item), detail=str((item.recheck_problem or {}).get("detail", "")))
            for item in stored if item.rechecked_at is not None],
        deactivated=[item.authorization_id for item in stored if item.deactivated],
        requested_at=order.finalized_at)


def _caa_refusal(item: StoredValidation) -> RefusalReason | None:
    if item.recheck_problem is None:
        return None
    kind = str(item.recheck_problem.get("type", "")).rpartition(":")[2]
    return _CAA_REASONS.get(kind, RefusalReason.DNS_FAILED)
