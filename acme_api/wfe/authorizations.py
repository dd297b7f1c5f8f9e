"""Authorizations and challenges: read, answer, deactivate (RFC 8555 7.5)."""

from dataclasses import replace
from typing import Final

from acme_api.protocol import directory, problem
from acme_api.protocol.authorization import (
    Authorization,
    AuthorizationStatus,
    Challenge,
    Response,
    authorization_object,
    authorization_status,
    challenge_object,
    decide_response,
    decide_update,
    require_challenge,
    require_shown,
)
from acme_api.wfe.context import Context
from acme_api.wfe.request import Post
from acme_api.wfe.response import Reply, json_reply
from acme_api.wfe.waiters import wait_for
from ca.pki.identifier import Identifier
from ca.pki.object_id import object_id

_RETRY_AFTER_S: Final = 1
VALIDATION_CHANNEL: Final = "validation"


async def authorization(context: Context, post: Post) -> Reply:
    """Reads, or deactivates (rows AZ1, AZ4, AZ5)."""
    found = _require_own(post)
    if not post.is_read:
        now = context.ambient.now()
        if decide_update(found, post.json(), now):
            await context.authorizations.deactivate_authorization(found.id, now=now)
            found = replace(found, facts=replace(found.facts, deactivated_at=now))
    elif (found.responding is not None and found.facts.validation is None and post.changed is not None
          and context.validation_wait_s > 0):
        # A look while the VA works waits a little for its end, so that most clients need no second one.
        await wait_for(post.changed, timeout_s=context.validation_wait_s)
        found = await context.authorizations.authorization(found.id) or found
    return json_reply(authorization_object(
        context.base_url, found, context.ambient.now(), issuer_names=context.issuer_names),
                      retry_after_s=_retry_after_s(context, found))


async def challenge(context: Context, post: Post) -> Reply:
    """Reads, or starts the validation (RFC 8555 7.5.1, rows CH3, CH4). Members of the payload are ignored."""
    found = _require_own(post)
    chosen = require_challenge(found, post.target.challenge_type)
    now = context.ambient.now()
    if post.is_read:
        require_shown(found, now)
        return _challenge_reply(context, found, chosen)
    post.json()
    if decide_response(found, chosen.type, now) is Response.START:
        if context.limits.concern_names:
            # Orders may have been made in store, before the failures that would have refused them.
            await context.limits.require_promising(post.owner.id, [_identifier(found)], now, with_running=True)
        context.waiters.expect(found.id)
        stored = await context.authorizations.insert_validation_request(
            object_id(now, context.ambient.random_bytes(16)), found, chosen.type, post.owner.thumbprint, now=now)
        if stored:
            context.notifier.notify(VALIDATION_CHANNEL)
            found = replace(found, responding=chosen.type)
        else:
            context.waiters.expect_no_more(found.id)
            found = await context.authorizations.authorization(found.id) or found
            if found.responding != chosen.type and found.facts.validation is None:
                # Somebody else's answer to another challenge was first (row E81).
                decide_response(found, chosen.type, now)
    return _challenge_reply(context, found, chosen)


def _identifier(found: Authorization) -> Identifier:
    return Identifier(type="ip" if found.identifier_type == "ip" else "dns", value=found.identifier_value)


def _challenge_reply(context: Context, found: Authorization, chosen: Challenge) -> Reply:
    """certbot gives up without the `up` link, lego polls where it leads (rows CB1, L3)."""
    return json_reply(
        challenge_object(context.base_url, found, chosen, context.ambient.now(), issuer_names=context.issuer_names),
        location=directory.challenge_url(context.base_url, found.id, chosen.type),
        links=((directory.authorization_url(context.base_url, found.id), "up"),),
        retry_after_s=_retry_after_s(context, found))


def _retry_after_s(context: Context, found: Authorization) -> int | None:
    """While the VA works: an integer, never 0 (row CH8)."""
    status = authorization_status(found.facts, context.ambient.now())
    return _RETRY_AFTER_S if status is AuthorizationStatus.PENDING and found.responding is not None else None


def _require_own(post: Post) -> Authorization:
    """The authorization of the URL. Raises Problem: 404 when there is none, 403 when it is another's (row J12)."""
    found = post.loaded
    if not isinstance(found, Authorization):
        raise problem.not_found("there is no such authorization")
    if found.account_id != post.owner.id:
        raise problem.unauthorized("this authorization belongs to another account")
    return found
