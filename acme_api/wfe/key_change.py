"""keyChange: another key for the same account (RFC 8555 7.3.5, rows AC15 to AC17)."""

from dataclasses import replace

from acme_api.protocol import directory
from acme_api.protocol.account import account_object
from acme_api.protocol.account_key import require_account_key
from acme_api.protocol.jws import parse_key_change, thumbprint
from acme_api.protocol.problem import Problem, malformed
from acme_api.wfe.account_store import KeyTaken
from acme_api.wfe.accounts import require_unused_key
from acme_api.wfe.context import Context
from acme_api.wfe.request import Post
from acme_api.wfe.response import Reply, json_reply


async def key_change(context: Context, post: Post) -> Reply:
    """Checks that both keys agree, and stores the request itself: the CA follows it from one key to the other."""
    owner = post.owner
    change = parse_key_change(post.signed)
    if change.account_url != post.signed.kid:
        raise malformed("the inner JWS is about another account")
    if change.old_jwk != owner.jwk:
        raise malformed("oldKey is not the account's key")
    require_account_key(change.new_jwk)
    new_thumbprint = thumbprint(change.new_jwk)
    taken = await context.accounts.account_of_key(new_thumbprint)
    if taken is not None:
        raise _taken(context, taken.id)
    await require_unused_key(context, change.new_jwk)
    try:
        changed = await context.accounts.change_key(
            owner.id, old_thumbprint=owner.thumbprint, new_thumbprint=new_thumbprint, new_jwk=change.new_jwk,
            jws=post.body.decode("utf-8"), now=context.ambient.now())
    except KeyTaken as fault:
        raise _taken(context, fault.account_id) from fault
    if not changed:
        raise malformed("the account's key has been changed by another request")
    return json_reply(account_object(context.base_url, replace(owner, jwk=change.new_jwk, thumbprint=new_thumbprint)),
                      location=directory.account_url(context.base_url, owner.id))


def _taken(context: Context, account_id: bytes) -> Problem:
    """409 with the account that has the key already (row AC16)."""
    return Problem("malformed", "the new key belongs to an account already", status=409,
                   location=directory.account_url(context.base_url, account_id))
