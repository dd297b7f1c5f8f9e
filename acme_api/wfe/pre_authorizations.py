"""newAuthz: an authorization before there is an order for it (RFC 8555 7.4.1, row OR17).

When it is valid, orders of the account for the same name use it like any other valid one (row OR15).
"""

from datetime import datetime

from acme_api.protocol import directory
from acme_api.protocol.account import require_current_terms
from acme_api.protocol.authorization import Authorization, authorization_object
from acme_api.protocol.new_order import parse_new_authorization
from acme_api.protocol.order import ENTROPY_PER_NAME_BYTES, plan_authorization
from acme_api.wfe.context import Context
from acme_api.wfe.orders import require_unblocked_names
from acme_api.wfe.request import Post
from acme_api.wfe.response import Reply, json_reply


async def new_authorization(context: Context, post: Post) -> Reply:
    """Makes a pending authorization; always 201 with its Location (row X2)."""
    require_current_terms(post.owner, context.terms_rule)
    now = context.ambient.now()
    scope = () if post.owner.eab_kid is None else await context.accounts.allowed_names(post.owner.eab_kid)
    wanted = parse_new_authorization(post.json(), context.order_policy, scope=scope)
    identifier = wanted.identifier
    await require_unblocked_names(context, [identifier])
    if context.limits.concern_names:
        await context.limits.require_promising(post.owner.id, [identifier], now)
    made = plan_authorization(
        identifier, account_id=post.owner.id, now=now, life=context.lives.authorization,
        entropy=context.ambient.random_bytes(ENTROPY_PER_NAME_BYTES), persist=post.owner.dns_persist_allowed,
        subdomains=wanted.subdomains)
    await _store(context, made, now)
    return json_reply(
        authorization_object(context.base_url, made, now, issuer_names=context.issuer_names), status=201,
        location=directory.authorization_url(context.base_url, made.id))


async def _store(context: Context, made: Authorization, now: datetime) -> None:
    """Stores it with what it takes from limits. Raises rateLimited when one of them has no room."""
    takes = context.limits.takes_of_order(made.account_id, 1, now, exempt=True)
    for is_last in (False, True):
        if await context.authorizations.insert(made, takes=takes, now=now):
            return
        refusal = await context.limits.after_refused_order(takes, made.account_id, now)
        if refusal is not None or is_last:
            raise refusal or await context.limits.after_refusal(takes, now)
