"""newOrder, an order, finalize (RFC 8555 7.4)."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from acme_api.protocol import directory, problem
from acme_api.protocol.account import require_current_terms
from acme_api.protocol.jws import jwk_of_public_key, thumbprint
from acme_api.protocol.new_order import parse_new_order
from acme_api.protocol.order import (
    ENTROPY_PER_NAME_BYTES,
    ENTROPY_PER_ORDER_BYTES,
    Order,
    OrderPlan,
    OrderStatus,
    order_object,
    order_status,
    parse_finalize,
    plan_order,
    require_ready,
)
from acme_api.protocol.problem import problem_from_refusal
from acme_api.protocol.rate_limit import Take
from acme_api.wfe.certificate_store import CertifiedKey
from acme_api.wfe.context import Context
from acme_api.wfe.finalizing import Control, Finalizing
from acme_api.wfe.just_in_time import looked_ahead
from acme_api.wfe.prospects import Prospects
from acme_api.wfe.renewals import require_predecessor
from acme_api.wfe.request import Post
from acme_api.wfe.response import Reply, json_reply
from acme_api.wfe.waiters import wait_for
from ca.pki import weak_list
from ca.pki.blocked_name import lookup_names, require_unblocked
from ca.pki.csr import Csr, CsrError, parse_csr, require_names
from ca.pki.identifier import Identifier
from ca.pki.object_id import made_at, object_id
from ca.pki.profile import require_profile
from ca.pki.refusal import Refusal

ISSUANCE_CHANNEL: Final = "issuance"
_RETRY_AFTER_S: Final = 1
# A look at CAA holds for eight hours (BR 3.2.2.8) and is taken again half an hour before, so that the CA never finds
# one that ran out between finalize and signature.
_RECHECK_CAA: Final = timedelta(hours=7, minutes=30)


async def new_order(context: Context, post: Post) -> Reply:
    """Plans and stores an order with its authorizations (rows OR1 to OR9, OR15, AR7 to AR10). Always 201 (row W1)."""
    require_current_terms(post.owner, context.terms_rule)
    now = post.came_at
    prospects = post.loaded if isinstance(post.loaded, Prospects) else None
    if prospects is None or post.owner.eab_kid is not None:
        # Something is wrong, and is said now; or the names have to be those of the external account.
        scope = () if post.owner.eab_kid is None else await context.accounts.allowed_names(post.owner.eab_kid)
        parse_new_order(post.json(), context.order_policy, now, scope=scope)
    if prospects is None:
        raise AssertionError("a new order without faults was read ahead")
    request = prospects.wish.request
    if request.replaces is not None:
        request = replace(request, renews=await require_predecessor(
            context, request.replaces, post.owner.id, request.identifiers))
    if context.limits.concern_names:
        await asyncio.gather(
            context.limits.require_promising(post.owner.id, request.to_validate, now),
            context.limits.require_certificate_room(request.identifiers, now, exempt=request.renews))
    _require_possible(request.identifiers, request.profile, prospects)
    entropy = context.ambient.random_bytes(
        ENTROPY_PER_ORDER_BYTES + len(request.identifiers) * ENTROPY_PER_NAME_BYTES)
    plan = plan_order(request, account_id=post.owner.id, reusable=prospects.reusable, now=now, lives=context.lives,
                      entropy=entropy, persist=post.owner.dns_persist_allowed or prospects.wish.persist)
    await _store(context, plan, now)
    return _order_reply(context, await looked_ahead(context, plan, post.owner, now), status=201)


async def _store(context: Context, plan: OrderPlan, now: datetime) -> None:
    """Stores an order with what it takes from limits. Raises rateLimited when one of them has no room."""
    owner = plan.order.account_id
    takes = context.limits.takes_of_order(owner, len(plan.new_authorizations), now, exempt=plan.order.renews)
    for is_last in (False, True):
        if await context.store.insert_order(
                plan.order, plan.new_authorizations, now=now, takes=takes,
                expires_at=now.replace(microsecond=0) + context.lives.authorization):
            return
        refusal = await context.limits.after_refused_order(takes, owner, now)
        if refusal is not None or is_last:
            raise refusal or await context.limits.after_refusal(takes, now)


async def order(context: Context, post: Post) -> Reply:
    """Reads an order (row OR14)."""
    found = _require_own(post)
    post.require_read()
    return _order_reply(context, found)


async def finalize(context: Context, post: Post) -> Reply:
    """Takes the CSR, queues the issuance and waits a little for the certificate (rows FI1 to FI10)."""
    found = _require_own(post)
    controls = post.loaded.controls if isinstance(post.loaded, Finalizing) else ()
    now = context.ambient.now()
    csr_der = parse_finalize(post.json())
    require_ready(found, now)
    csr = _require_csr(context, csr_der, found)
    takes: Sequence[Take] = ()
    if context.limits.concern_names:
        takes = await context.limits.require_certificate_room(found.identifiers, now, exempt=found.renews)
    rechecks = [(object_id(now, context.ambient.random_bytes(16)), control)
                for control in controls if _needs_recheck(control, made_at(found.id), now)]
    with context.waiters.waiting_for(found.id) as changed:
        finalized = await context.certificates.finalize(
            found.id, found.account_id, found.authorization_ids, signed=post.signed, jwk=post.jwk,
            key=_certified_key(csr), rechecks=rechecks, now=now, takes=takes)
        if finalized.key_is_blocked:
            raise problem.bad_csr("the key of the CSR is blocked, because it is compromised: use a new one")
        if finalized.key_is_an_accounts:
            raise problem.bad_csr("the key of the CSR is the key of an account; a certificate needs one of its own")
        if not finalized.stored:
            refusal = await context.limits.refusal(takes, now) if takes else None
            if refusal is not None:
                raise refusal
            raise problem.order_not_ready("the order was finalized, or an authorization deactivated, meanwhile")
        if rechecks:
            context.notifier.notify("validation")
        context.notifier.notify(ISSUANCE_CHANNEL)
        deadline = now + timedelta(seconds=context.finalize_wait_s)
        while True:
            left_s = (deadline - context.ambient.now()).total_seconds()
            woken = left_s > 0 and await wait_for(changed, timeout_s=left_s)
            found = await context.store.progress(found)
            if not woken or order_status(found.facts, context.ambient.now()) is not OrderStatus.PROCESSING:
                return _order_reply(context, found)


async def require_unblocked_names(context: Context, identifiers: Sequence[Identifier]) -> None:
    """Raises rejectedIdentifier for names that an operator has blocked."""
    _require_unblocked(identifiers, await context.certificates.blocked_names(lookup_names(identifiers)))


def _require_possible(identifiers: Sequence[Identifier], profile: str, prospects: Prospects) -> None:
    """Raises rejectedIdentifier for names that an operator has blocked, and invalidProfile while the profile is
    switched off; the CA looks again before it signs."""
    if prospects.profile_disabled:
        raise problem.Problem("invalidProfile", f"certificates of profile {profile} are not issued at present")
    _require_unblocked(identifiers, prospects.blocked)


def _require_unblocked(identifiers: Sequence[Identifier], blocked: Mapping[str, bool]) -> None:
    try:
        require_unblocked(identifiers, blocked)
    except Refusal as refusal:
        raise problem_from_refusal(refusal) from refusal


def _require_csr(context: Context, csr_der: bytes, found: Order) -> Csr:
    """The CSR, when it asks for what was ordered. Raises badCSR; the order stays ready (row FI3)."""
    try:
        require_profile(found.profile, found.identifiers, context.order_policy.profiles)
    except Refusal as fault:
        # Withdrawn since the order was made (row PR4).
        raise problem_from_refusal(fault) from fault
    try:
        csr = parse_csr(csr_der)
        require_names(csr, found.identifiers)
    except CsrError as fault:
        raise problem.bad_csr(fault.detail) from fault
    return csr


def _certified_key(csr: Csr) -> CertifiedKey:
    return CertifiedKey(thumbprint=thumbprint(jwk_of_public_key(csr.spki_der)), spki_sha256=csr.key.sha256,
                        listed=weak_list.digests(csr.spki_der))


def _needs_recheck(control: Control, ordered_at: datetime, now: datetime) -> bool:
    """Whether the last look at CAA is too old, or was for an earlier order (row CA9): the CA will not take it."""
    if control.identifier_type == "ip":
        return False  # RFC 8738 7: CAA is for names.
    return control.caa_checked_at is None or control.caa_checked_at < max(now - _RECHECK_CAA, ordered_at)


def _require_own(post: Post) -> Order:
    """The order of the URL. Raises Problem: 404 when there is none, 403 when it is another's (row J12)."""
    found = post.loaded.order if isinstance(post.loaded, Finalizing) else post.loaded
    if not isinstance(found, Order):
        raise problem.not_found("there is no such order")
    if found.account_id != post.owner.id:
        raise problem.unauthorized("this order belongs to another account")
    return found


def _order_reply(context: Context, found: Order, *, status: int = 200) -> Reply:
    """Every answer about an order has its Location (rows OR14, K1, X2)."""
    now = context.ambient.now()
    processing = order_status(found.facts, now) is OrderStatus.PROCESSING
    return json_reply(order_object(context.base_url, found, now), status=status,
                      location=directory.order_url(context.base_url, found.id),
                      retry_after_s=_RETRY_AFTER_S if processing else None)
