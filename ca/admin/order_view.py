"""An order as an operator sees it: its status, and the story of facts that led there.

The statuses and the error are those that the subscriber is told, derived by acme_api.protocol from the same facts; the
story adds what the subscriber is not told: queues, workers, evidence.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from acme_api.protocol import authorization as protocol_authorization
from acme_api.protocol import order as protocol_order
from acme_api.protocol.authorization import AuthorizationFacts, AuthorizationStatus, authorization_status
from acme_api.protocol.order import OrderFacts, OrderStatus, order_error, order_status
from ca.admin.output import moment, relative, span
from ca.admin.records import Account, Authorization, Order
from ca.pki.identifier import Identifier
from ca.pki.object_id import to_text
from ca.pki.serial import serial_hex


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderView:
    """An order with its account and authorizations, and what follows from them at `now`."""

    order: Order
    account: Account
    authorizations: tuple[Authorization, ...]
    now: datetime
    status: OrderStatus
    authorization_statuses: tuple[AuthorizationStatus, ...]
    error: dict[str, Any] | None

    def distinct_authorizations(self) -> list[tuple[Authorization, AuthorizationStatus]]:
        """Each authorization once with its status: one may stand for several identifiers (RFC 9444)."""
        return list({one.id: (one, status) for one, status in zip(
            self.authorizations, self.authorization_statuses, strict=True)}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One fact of the story. `evidence` is what was seen."""

    subject: str
    text: str
    evidence: object = None


def order_view(order: Order, account: Account, authorizations: tuple[Authorization, ...], now: datetime) -> OrderView:
    """Derives the statuses. `authorizations` are in the order of the identifiers."""
    closed = account.deactivated_at is not None or account.revoked_at is not None
    facts = tuple(_authorization_facts(authorization, account_closed=closed) for authorization in authorizations)
    order_facts = OrderFacts(
        expires_at=order.expires_at, authorizations=facts, finalized=order.finalized_at is not None,
        refusal=order.refusal, published=order.signed_at is not None and order.ocsp_waits_since is None,
        account_closed=closed)
    identifiers = tuple(_identifier(kind, value) for kind, value in order.identifiers)
    told = protocol_order.Order(id=order.id, account_id=order.account_id, identifiers=identifiers,
                                authorization_ids=order.authorization_ids, profile=order.profile, facts=order_facts,
                                serial=order.serial)
    return OrderView(
        order=order, account=account, authorizations=authorizations, now=now, status=order_status(order_facts, now),
        authorization_statuses=tuple(authorization_status(one, now) for one in facts), error=order_error(told, now))


def _identifier(kind: str, value: str) -> Identifier:
    return Identifier(type="ip" if kind == "ip" else "dns", value=value)


def _authorization_facts(authorization: Authorization, *, account_closed: bool) -> AuthorizationFacts:
    seen = authorization.validation
    validation = None if seen is None else protocol_authorization.Validation(
        challenge_type=seen.challenge_type, validated_at=seen.validated_at, valid_until=seen.valid_until,
        problem=seen.problem)
    return AuthorizationFacts(expires_at=authorization.expires_at, deactivated_at=authorization.deactivated_at,
                              validation=validation, account_closed=account_closed)


def why(view: OrderView) -> str:
    """One sentence: why the order is in its status, and who has to do something now."""
    order = view.order
    match view.status:
        case OrderStatus.PENDING:
            statuses = zip(view.authorizations, view.authorization_statuses, strict=True)
            open_names = _names(one for one, status in statuses if status is AuthorizationStatus.PENDING)
            queued = _names(one for one in view.authorizations if one.queued_at is not None)
            if queued:
                return f"the VA has still to validate {', '.join(queued)}"
            return f"the client has still to answer a challenge for {', '.join(open_names)}"
        case OrderStatus.READY:
            return "every identifier is authorized; the client has still to finalize"
        case OrderStatus.PROCESSING:
            return _why_processing(view)
        case OrderStatus.VALID:
            told = "has no OCSP" if order.has_ocsp is False else "its OCSP response published"
            return f"the certificate {serial_hex(order.serial or b'')} is issued and {told}"
        case OrderStatus.INVALID:
            detail = str((view.error or {}).get("detail", "no reason is stored"))
            return f"the CA refused: {detail}" if order.refusal is not None else detail


def _why_processing(view: OrderView) -> str:
    order = view.order
    if order.signed_at is not None and order.ocsp_waits_since is not None:
        return (f"the certificate is signed; its first OCSP response waits for the pre-signer for "
                f"{span(view.now - order.ocsp_waits_since)}")
    if order.queued_at is None:
        return "the finalize request is stored but not in the CA's queue: this must not be, tell the developers"
    waited = span(view.now - order.queued_at)
    if order.precertificate_at is not None:
        return (f"the precertificate is signed; {_logs(order.scts)} answered so far, and the CA has waited for "
                f"{waited}: does `chancery run publisher` reach the logs?")
    if order.serial is not None:
        return f"the serial number is decided and the CA finishes the certificate; it has waited for {waited}"
    rechecks = [name or _name(one) for one, _ in view.distinct_authorizations() for name in one.caa_queued_names]
    if rechecks:
        return f"the VA has to look at CAA of {', '.join(rechecks)} again; the CA has waited for {waited}"
    return f"the CA has the order for {waited}, taken up {order.attempts} times so far"


def _logs(count: int) -> str:
    return f"{count or 'no'} log{'' if count == 1 else 's'}"


def story(view: OrderView) -> Iterator[Step]:
    """Every fact about the order, in the order of time as far as facts depend on each other."""
    order, now = view.order, view.now
    if view.account.revoked_at is not None:
        yield Step(subject="account", text=f"revoked by an operator at {moment(view.account.revoked_at)}")
    if view.account.deactivated_at is not None:
        yield Step(subject="account", text=f"deactivated by the subscriber at {moment(view.account.deactivated_at)}")
    for authorization, status in view.distinct_authorizations():
        yield from _authorization_story(authorization, status, now)
    if order.finalized_at is not None:
        yield Step(subject="finalize", text=f"asked for by the client at {relative(order.finalized_at, now)}")
    if order.queued_at is not None:
        worker = f", now with {order.leased_by}" if order.leased_by else ""
        yield Step(subject="CA", text=f"in its queue since {relative(order.queued_at, now)}, taken up {order.attempts} "
                   f"times{worker}")
    if order.refused_at is not None:
        yield Step(subject="CA", text=f"refused at {relative(order.refused_at, now)}", evidence=order.refusal)
    if order.serial is not None:
        yield Step(subject="CA", text=f"gave it the serial number {serial_hex(order.serial)}")
    if order.precertificate_at is not None:
        yield Step(subject="CT", text=f"precertificate signed at {relative(order.precertificate_at, now)}, "
                   f"{_logs(order.scts)} answered")
    if order.signed_at is not None:
        yield Step(subject="CA", text=f"signed at {relative(order.signed_at, now)}")
        yield Step(subject="OCSP", text="none: the certificate is short-lived" if order.has_ocsp is False else
                   "first response published" if order.ocsp_waits_since is None else
                   f"first response waits to be signed since {relative(order.ocsp_waits_since, now)}")


def _authorization_story(authorization: Authorization, status: AuthorizationStatus, now: datetime) -> Iterator[Step]:
    name = _name(authorization)
    below = ", for the names below it too," if authorization.subdomains else ""
    yield Step(subject=name, text=f"authorization {to_text(authorization.id)}{below} is {status.value}; offered: "
               + ", ".join(authorization.challenge_types))
    if authorization.deactivated_at is not None:
        yield Step(subject=name, text=f"deactivated by the subscriber at {moment(authorization.deactivated_at)}")
    if authorization.queued_at is not None:
        worker = f", now with {authorization.leased_by}" if authorization.leased_by else ""
        yield Step(subject=name, text=f"{authorization.queued_type} answered by the client, waits for the VA since "
                   f"{relative(authorization.queued_at, now)}, taken up {authorization.attempts} times{worker}")
    seen = authorization.validation
    if seen is not None and seen.problem is not None:
        yield Step(subject=name, text=f"{seen.challenge_type} failed at {relative(seen.validated_at, now)}",
                   evidence={"problem": seen.problem, "seen": seen.evidence})
    elif seen is not None:
        yield Step(subject=name, text=f"{seen.challenge_type} succeeded at {relative(seen.validated_at, now)}, holds "
                   f"until {moment(seen.valid_until)}, for the account key with thumbprint {seen.thumbprint.hex()}; "
                   f"CAA permitted at {moment(seen.caa_checked_at)}", evidence=seen.evidence)
    elif status is AuthorizationStatus.PENDING and authorization.queued_at is None:
        yield Step(subject=name, text=f"no challenge answered yet; the client has until "
                   f"{relative(authorization.expires_at, now)}")
    for queued in authorization.caa_queued_names if authorization.caa_queued_at is not None else ():
        yield Step(subject=queued or name, text="CAA is to be looked at again since "
                   + relative(authorization.caa_queued_at, now))
    for check in authorization.caa_checks:
        evidence = check.evidence if check.problem is None else {"problem": check.problem, "seen": check.evidence}
        yield Step(subject=check.name or name, text=f"CAA looked at again at {relative(check.checked_at, now)}: "
                   f"{'permitted' if check.problem is None else 'forbidden'}", evidence=evidence)


def _names(authorizations: Iterable[Authorization]) -> list[str]:
    return list(dict.fromkeys(_name(one) for one in authorizations))


def _name(authorization: Authorization) -> str:
    return ("*." if authorization.wildcard else "") + authorization.identifier_value
