"""Step 2 of the cycle: the right to issue, derived again from what a captured front end cannot have made.

domain -> thumbprint: the validation says which account key the domain named in its answer; only the validation
authority can write it. thumbprint -> JWS: the stored finalize request is verified again, by that key or by one that the
account handed over to (RFC 8555 7.3.5, both signatures of each key change verified again). JWS -> order and CSR: its
url is this order's finalize URL, and the CSR in its payload names exactly what is certified.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from acme_api.protocol.directory import account_url, finalize_url
from acme_api.protocol.json_strict import JsonError, decode_object
from acme_api.protocol.jws import link_of_key_change, thumbprint, verify_stored
from acme_api.protocol.order import parse_finalize
from acme_api.protocol.problem import Problem
from ca.issuing import evidence_store
from ca.issuing.evidence_store import StoredValidation
from ca.issuing.grant import CaaIsStale, Grant, read_csr
from ca.issuing.policy import IssuancePolicy
from ca.issuing.queue_store import ClaimedRequest, StoredOrder
from ca.pki import domain_control
from ca.pki.csr import CsrError, require_names
from ca.pki.domain_control import Validation, require_domain_control
from ca.pki.identifier import Identifier, IdentifierError, parse_identifier, require_permitted
from ca.pki.name_scope import require_in_scope
from ca.pki.object_id import made_at
from ca.pki.profile import require_profile
from ca.pki.refusal import IdentifierRefusal, Refusal, RefusalReason
from ca.process.postgres import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the VA has seen about a batch of orders, and how their accounts' keys have changed."""

    validations: Mapping[bytes, StoredValidation] = field(default_factory=dict)
    key_changes: Mapping[bytes, Sequence[str]] = field(default_factory=dict)


async def load_evidence(connection: Connection, requests: Sequence[ClaimedRequest]) -> Evidence:
    """What is stored about the requests; key changes only where a validation names another key than the finalizer's."""
    orders = [request.order for request in requests if request.order is not None]
    if not orders:
        return Evidence()
    ids = {each for order in orders for each in order.authorization_ids}
    names = {value for order in orders for _, value in order.identifiers}
    validations = {each.validation.authorization_id: each
                   for each in await evidence_store.validations(connection, list(ids), list(names))}
    moved = {order.account_id for order in orders
             if order.request is not None and any(
                 each in validations and validations[each].validation.thumbprint != thumbprint(order.request.jwk)
                 for each in order.authorization_ids)}
    return Evidence(validations=validations,
                    key_changes=await evidence_store.key_changes(connection, list(moved)) if moved else {})


def judge_order(order: StoredOrder, evidence: Evidence, policy: IssuancePolicy, now: datetime) -> Grant | CaaIsStale:
    """The right to the order's certificate. Raises Refusal when there is none."""
    if order.account_closed:
        raise Refusal(RefusalReason.ACCOUNT_CLOSED, "the account was closed before the certificate was signed")
    identifiers = _permitted(order, policy)
    profile = require_profile(order.profile, identifiers, policy.profiles)
    known = [evidence.validations[each] for each in dict.fromkeys(order.authorization_ids)
             if each in evidence.validations]
    control = require_domain_control(domain_control.Evidence(
        account_id=order.account_id, identifiers=identifiers, validations=[each.validation for each in known],
        caa_checks=[check for each in known for check in each.caa_checks], subdomains=policy.subdomains,
        deactivated=[each.validation.authorization_id for each in known if each.deactivated],
        ordered_at=made_at(order.id), requested_at=order.finalized_at,
        persist=order.dns_persist_allowed or order.profile in policy.dns_persist_profiles), now,
        policy.perspectives)
    csr_der = _require_signed_by_subscriber(order, control.validations, evidence, policy.acme_base_url)
    csr = read_csr(csr_der)
    try:
        require_names(csr, identifiers)
    except CsrError as fault:
        raise Refusal(RefusalReason.BAD_CSR, fault.detail) from fault
    if control.stale_caa:
        return CaaIsStale(request_id=order.id, wanted=control.stale_caa)
    return Grant(request_id=order.id, account_id=order.account_id, identifiers=identifiers, key=csr.key,
                 profile=profile, not_before=order.not_before, not_after=order.not_after)


def _permitted(order: StoredOrder, policy: IssuancePolicy) -> tuple[Identifier, ...]:
    """The identifiers of the order, each in its one spelling and permitted by the policy of today (rows FI11, NM9)."""
    identifiers = []
    refused = []
    for kind, value in order.identifiers:
        try:
            identifier = parse_identifier(kind, value)
            if identifier.value != value or identifier in identifiers:
                raise Refusal(RefusalReason.BAD_REQUEST, "the order's identifiers are not normalised")
            require_permitted(identifier, policy.names)
            require_in_scope(identifier, order.allowed_names)
        except IdentifierError as fault:
            refused.append(IdentifierRefusal(identifier=Identifier(type=kind, value=value), detail=fault.detail,
                                             reason=RefusalReason.REJECTED_IDENTIFIER))
            continue
        identifiers.append(identifier)
    if refused:
        raise Refusal(RefusalReason.REJECTED_IDENTIFIER, refused[0].detail if len(refused) == 1
                      else "some names are not permitted", tuple(refused))
    return tuple(identifiers)


def _require_signed_by_subscriber(
    order: StoredOrder, validations: Iterable[Validation], evidence: Evidence, base_url: str
) -> bytes:
    """The CSR of the finalize request, DER, when the key that the domains named stands behind it. Raises Refusal."""
    account, request = account_url(base_url, order.account_id), order.request
    if request is None:
        raise Refusal(RefusalReason.BAD_REQUEST, "the stored finalize request cannot be read")
    try:
        signed = verify_stored(request.protected, request.payload, request.signature, request.jwk)
        csr_der = parse_finalize(decode_object(request.payload))
    except (Problem, JsonError) as fault:
        raise Refusal(RefusalReason.BAD_REQUEST,
                      f"the stored finalize request is not a signed request: {fault}") from fault
    if signed.url != finalize_url(base_url, order.id) or signed.kid != account:
        raise Refusal(RefusalReason.BAD_REQUEST, "the stored finalize request was made for another order or account")
    signer = thumbprint(request.jwk)
    successors: dict[bytes, frozenset[bytes]] = {}
    for validation in validations:
        if validation.thumbprint == signer:
            continue
        if validation.thumbprint not in successors:
            successors[validation.thumbprint] = _successors(
                validation.thumbprint, evidence.key_changes.get(order.account_id, ()), account)
        if signer not in successors[validation.thumbprint]:
            raise Refusal(RefusalReason.NOT_AUTHORIZED,
                          f"the key that finalized the order is not the one that {validation.identifier.value} was "
                          "validated for, and no key change of the account leads from one to the other")
    return csr_der


def _successors(start: bytes, key_changes: Sequence[str], account: str) -> frozenset[bytes]:
    """The keys that the account has handed over to since it had the key `start`, each link verified again."""
    links: dict[bytes, set[bytes]] = {}
    for text in key_changes:
        try:
            link = link_of_key_change(text)
        except Problem:
            continue        # It proves nothing; whoever stored it, the right has to come from elsewhere.
        if link.account_url == account:
            links.setdefault(link.old_thumbprint, set()).add(link.new_thumbprint)
    reached: set[bytes] = set()
    ahead = {start}
    while ahead:
        ahead = {new for old in ahead for new in links.get(old, ())} - reached
        reached |= ahead
    return frozenset(reached)
