"""Orders: what newOrder and finalize may say, the status that follows from facts (RFC 8555 7.1.3, 7.1.6, 7.4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from acme_api.protocol import base64url, challenge, directory
from acme_api.protocol.authorization import (
    Authorization,
    AuthorizationFacts,
    AuthorizationStatus,
    Challenge,
    authorization_status,
)
from acme_api.protocol.problem import (
    STATUS_OF_TYPE,
    URN,
    Subproblem,
    from_subproblems,
    malformed,
    order_not_ready,
)
from acme_api.protocol.renewal_info import CertificateId
from acme_api.protocol.timestamp import rfc3339
from ca.pki.identifier import Identifier
from ca.pki.object_id import object_id

_ID_RANDOM_BYTES: Final = 16
ENTROPY_PER_ORDER_BYTES: Final = _ID_RANDOM_BYTES
ENTROPY_PER_NAME_BYTES: Final = _ID_RANDOM_BYTES + challenge.TOKEN_SEED_BYTES


class OrderStatus(StrEnum):
    """RFC 8555 7.1.6."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFacts:
    """Everything that a status depends on.

    `finalized`: a finalize request is stored. `refusal`: the CA's final no, a problem document. `published`: the
    certificate is signed and stored, and responders have its first OCSP response. `authorizations` are in the order
    of the identifiers.
    """

    expires_at: datetime
    authorizations: tuple[AuthorizationFacts, ...]
    finalized: bool = False
    refusal: Mapping[str, Any] | None = None
    published: bool = False
    account_closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order with its facts. `serial` is that of its certificate, if one was ever begun. `replaces` names the
    certificate that it replaces (RFC 9773 5); it `renews` one of ours whose renewal was due when it was made."""

    id: bytes
    account_id: bytes
    identifiers: tuple[Identifier, ...]
    authorization_ids: tuple[bytes, ...]
    profile: str
    facts: OrderFacts
    not_before: datetime | None = None
    not_after: datetime | None = None
    serial: bytes | None = None
    replaces: str | None = None
    renews: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """What newOrder asks for, parsed, permitted and normalised. `ancestors`: of some identifiers, the domain above that
    the client wants to show control of instead (RFC 9444)."""

    identifiers: tuple[Identifier, ...]
    profile: str
    not_before: datetime | None
    not_after: datetime | None
    replaces: CertificateId | None = None
    renews: bool = False
    ancestors: Mapping[Identifier, Identifier] = field(default_factory=dict)

    @property
    def to_validate(self) -> tuple[Identifier, ...]:
        """What challenges would be about."""
        return tuple(dict.fromkeys(self.ancestors.get(each, each) for each in self.identifiers))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusableAuthorization:
    """A valid authorization of the same account for the same identifier, or for all that is below another (OR15)."""

    id: bytes
    facts: AuthorizationFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPlan:
    """What newOrder has to store: the order, and the authorizations that do not exist yet."""

    order: Order
    new_authorizations: tuple[Authorization, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lives:
    """How long what is new stays pending."""

    order: timedelta
    authorization: timedelta


def order_status(facts: OrderFacts, now: datetime) -> OrderStatus:
    """The status at `now`. The CA's word comes first, then the subscriber's finalize request, then authorizations."""
    if facts.refusal is not None:
        return OrderStatus.INVALID
    if facts.published:
        return OrderStatus.VALID
    if facts.finalized:
        return OrderStatus.PROCESSING
    if facts.account_closed or now >= facts.expires_at:
        return OrderStatus.INVALID
    statuses = {authorization_status(authorization, now) for authorization in facts.authorizations}
    if not statuses <= {AuthorizationStatus.PENDING, AuthorizationStatus.VALID}:
        return OrderStatus.INVALID
    return OrderStatus.PENDING if AuthorizationStatus.PENDING in statuses else OrderStatus.READY


def order_error(order: Order, now: datetime) -> dict[str, Any] | None:
    """Why the order is invalid, a problem document; None when it is not (row OR13)."""
    facts = order.facts
    if order_status(facts, now) is not OrderStatus.INVALID:
        return None
    if facts.refusal is not None:
        return dict(facts.refusal)
    subproblems = [fault for identifier, authorization in zip(order.identifiers, facts.authorizations, strict=True)
                   if (fault := _authorization_fault(identifier, authorization, now)) is not None]
    if subproblems:
        return from_subproblems("several identifiers could not be authorized", subproblems).to_json()
    return malformed("the order has expired").to_json()


def _authorization_fault(identifier: Identifier, facts: AuthorizationFacts, now: datetime) -> Subproblem | None:
    kind, detail = "malformed", ""
    match authorization_status(facts, now):
        case AuthorizationStatus.INVALID:
            problem: Mapping[str, Any] = (facts.validation.problem if facts.validation else None) or {}
            kind = str(problem.get("type", "serverInternal")).removeprefix(URN)
            kind = kind if kind in STATUS_OF_TYPE else "serverInternal"
            detail = str(problem.get("detail", "the validation failed"))
        case AuthorizationStatus.DEACTIVATED:
            kind, detail = "unauthorized", "the authorization was deactivated"
        case AuthorizationStatus.EXPIRED:
            detail = "the authorization has expired"
        case AuthorizationStatus.REVOKED:
            kind, detail = "unauthorized", "the authorization was revoked"
        case AuthorizationStatus.PENDING | AuthorizationStatus.VALID:
            return None
    return Subproblem(type=kind, detail=f"{identifier.value}: {detail}", identifier_type=identifier.type,
                      identifier_value=identifier.value)


def require_ready(order: Order, now: datetime) -> None:
    """Raises orderNotReady unless the order may be finalized now (RFC 8555 7.4, row FI2)."""
    status = order_status(order.facts, now)
    if status is not OrderStatus.READY:
        raise order_not_ready(f"the order is {status}, and only a ready one can be finalized")


def parse_finalize(payload: Mapping[str, Any]) -> bytes:
    """The CSR of a finalize request, DER or at least base64url (row FI1)."""
    csr = payload.get("csr")
    if not isinstance(csr, str) or not csr:
        raise malformed("finalize takes {\"csr\": base64url of DER}")
    try:
        return base64url.decode(csr)
    except base64url.Base64Error as fault:
        raise malformed(f"the csr is {fault}") from None


def plan_order(
    request: OrderRequest,
    *,
    account_id: bytes,
    reusable: Mapping[Identifier, ReusableAuthorization],
    now: datetime,
    lives: Lives,
    entropy: bytes,
    persist: bool = False,
) -> OrderPlan:
    """The order to store for a request, with an authorization for each identifier (row OR8): a valid one of `reusable`
    where there is one, else a new one; pending ones are never shared (row OR15), but identifiers of this order with one
    ancestor domain have one authorization, and the ancestor itself has it too (row SU1).

    `entropy` is ENTROPY_PER_ORDER_BYTES and, for each name, ENTROPY_PER_NAME_BYTES fresh random bytes. `persist`:
    dns-persist-01 is offered, too.
    """
    whole_second = now.replace(microsecond=0)
    new: list[Authorization] = []
    chosen: list[ReusableAuthorization] = []
    ancestors = {above for each, above in request.ancestors.items() if each not in reusable}
    shared: dict[Identifier, ReusableAuthorization] = {}
    for number, identifier in enumerate(request.identifiers):
        subject = request.ancestors.get(identifier, identifier)
        reused = reusable.get(identifier) or shared.get(subject)
        if reused is None:
            start = ENTROPY_PER_ORDER_BYTES + number * ENTROPY_PER_NAME_BYTES
            made = plan_authorization(subject, account_id=account_id, now=now, life=lives.authorization,
                                      entropy=entropy[start:start + ENTROPY_PER_NAME_BYTES], persist=persist,
                                      subdomains=subject in ancestors)
            new.append(made)
            reused = shared[subject] = ReusableAuthorization(id=made.id, facts=made.facts)
        chosen.append(reused)
    order = Order(
        id=object_id(now, entropy[:_ID_RANDOM_BYTES]), account_id=account_id, identifiers=request.identifiers,
        authorization_ids=tuple(each.id for each in chosen), profile=request.profile,
        not_before=request.not_before, not_after=request.not_after,
        replaces=None if request.replaces is None else str(request.replaces), renews=request.renews,
        facts=OrderFacts(expires_at=whole_second + lives.order, authorizations=tuple(each.facts for each in chosen)))
    return OrderPlan(order=order, new_authorizations=tuple(new))


def plan_authorization(
    identifier: Identifier, *, account_id: bytes, now: datetime, life: timedelta, entropy: bytes, persist: bool,
    subdomains: bool = False,
) -> Authorization:
    """One pending authorization; each challenge that has a token has one of its own (row CH2). `entropy` is
    ENTROPY_PER_NAME_BYTES. `subdomains`: it is to stand for all that is below, too."""
    types = challenge.offered(identifier.type, wildcard=identifier.is_wildcard, persist=persist,
                              subdomains=subdomains)
    seed = entropy[_ID_RANDOM_BYTES:]
    return Authorization(
        id=object_id(now, entropy[:_ID_RANDOM_BYTES]), account_id=account_id, identifier_type=identifier.type,
        identifier_value=identifier.base, wildcard=identifier.is_wildcard, subdomains=subdomains, token_seed=seed,
        challenges=tuple(Challenge(type=kind, token=token)
                         for kind, token in challenge.tokens_of(challenge.type_bits(types), seed).items()),
        facts=AuthorizationFacts(expires_at=now.replace(microsecond=0) + life))


def order_object(base: str, order: Order, now: datetime) -> dict[str, Any]:
    """RFC 8555 7.1.3. `error` is there exactly when it is invalid, `certificate` exactly when it is valid (OR13)."""
    status = order_status(order.facts, now)
    document: dict[str, Any] = {
        "status": status.value,
        "expires": rfc3339(order.facts.expires_at),
        "identifiers": [{"type": identifier.type, "value": identifier.value} for identifier in order.identifiers],
        "profile": order.profile,
    }
    if order.replaces is not None:
        document["replaces"] = order.replaces
    for name, moment in (("notBefore", order.not_before), ("notAfter", order.not_after)):
        if moment is not None:
            document[name] = rfc3339(moment)
    document["authorizations"] = [
        directory.authorization_url(base, each) for each in dict.fromkeys(order.authorization_ids)]
    error = order_error(order, now)
    if error is not None:
        document["error"] = error
    document["finalize"] = directory.finalize_url(base, order.id)
    if status is OrderStatus.VALID and order.serial is not None:
        document["certificate"] = directory.certificate_url(base, order.serial, order.id)
    return document

