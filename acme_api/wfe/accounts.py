"""newAccount, an account, and the list of its orders (RFC 8555 7.3, 7.1.2.1)."""

from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acme_api.protocol import directory, problem
from acme_api.protocol.account import (
    Account,
    account_object,
    only_return_existing,
    parse_update,
    require_contacts,
    require_open,
    require_terms,
)
from acme_api.protocol.external_account import (
    Binding,
    external_account_required,
    is_lookup_worth,
    parse_binding,
    refused_credential,
    verify_binding,
)
from acme_api.protocol.json_strict import JsonObject
from acme_api.protocol.jws import load_key, thumbprint
from acme_api.protocol.order import OrderStatus, order_status
from acme_api.wfe.context import Context
from acme_api.wfe.request import Post
from acme_api.wfe.response import Reply, json_reply
from ca.pki import weak_list
from ca.pki.object_id import from_text, object_id
from ca.pki.public_key import spki_sha256

_PAGE: Final = 50
# Invalid orders are not listed; past so many of them in a row a page may be short, and the next one goes on.
_SCAN: Final = 100
_MOST_SCANS: Final = 10
_CURSOR: Final = "cursor="


async def new_account(context: Context, post: Post) -> Reply:
    """Finds or makes the account of the key (rows AC1 to AC5, AC9, AC11 to AC13)."""
    payload = post.json()   # What is no JSON is refused whoever sends it; of a known account the members are ignored.
    if post.account is not None:
        return _account_reply(context, post.account)
    if only_return_existing(payload):
        raise problem.account_does_not_exist("no account has this key")
    agreed = require_terms(payload, context.terms_of_service)
    contacts = require_contacts(payload) or ()
    binding = await _binding(context, post, payload) if context.external_account_required else None
    await require_unused_key(context, post.jwk)
    now = context.ambient.now()
    account = Account(id=object_id(now, context.ambient.random_bytes(16)), thumbprint=thumbprint(post.jwk),
                      jwk=post.jwk, contacts=contacts, terms_agreed_at=now if agreed else None, deactivated_at=None,
                      revoked_at=None, eab_kid=binding.kid if binding else None,
                      eab=binding.document if binding else None)
    takes = context.limits.takes_of_account(post.address, now)
    if await context.accounts.insert_account(account, created_at=now, takes=takes):
        return _account_reply(context, account, status=201)
    existing = await context.accounts.account_of_key(account.thumbprint)
    if existing is None and takes and (refusal := await context.limits.refusal(takes, now)) is not None:
        raise refusal
    if existing is None and binding is not None:
        # Used, revoked or run out while we looked at it.
        raise refused_credential()
    if existing is None:
        raise problem.server_internal("the account could not be made; try again", retry_after_s=1)
    require_open(existing)
    return _account_reply(context, existing)


async def _binding(context: Context, post: Post, payload: JsonObject) -> Binding:
    """The external account binding, verified (rows AC11, AC12). Raises Problem."""
    if "externalAccountBinding" not in payload:
        raise external_account_required()
    binding = parse_binding(payload["externalAccountBinding"], outer_url=post.signed.url)
    mac_key = None
    if is_lookup_worth(binding.kid):
        mac_key = await context.accounts.usable_mac_key(binding.kid, thumbprint=thumbprint(post.jwk),
                                                        now=context.ambient.now())
    verify_binding(binding, mac_key, post.signed.protected["jwk"])
    return binding


async def require_unused_key(context: Context, jwk: str) -> None:
    """Raises badPublicKey when the key is blocked, or in a certificate: one key has one purpose (row E51)."""
    spki = load_key(jwk).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    facts = await context.certificates.key_facts(spki_sha256(spki), weak_list.digests(spki), now=context.ambient.now())
    if facts.blocked:
        raise problem.bad_public_key("this key is blocked, because it is compromised: use a new one")
    if facts.in_live_certificate:
        raise problem.bad_public_key("this key is in a certificate; an account needs a key of its own")


async def account(context: Context, post: Post) -> Reply:
    """Reads, updates or deactivates (rows AC6, AC7)."""
    owner = await _require_own(context, post)
    if post.is_read:
        return _account_reply(context, owner)
    update = parse_update(post.json())
    if update.deactivate:
        now = context.ambient.now()
        await context.accounts.deactivate_account(owner.id, now=now)
        owner = replace(owner, deactivated_at=now)
    elif update.contacts is not None and update.contacts != owner.contacts:
        await context.accounts.set_contacts(owner.id, update.contacts)
        owner = replace(owner, contacts=update.contacts)
    return _account_reply(context, owner)


async def orders(context: Context, post: Post) -> Reply:
    """The account's orders, newest first, fifty a page, without the invalid ones (row AC10)."""
    owner = await _require_own(context, post)
    post.require_read()
    before = await _cursor(context, owner.id, post.query)
    now = context.ambient.now()
    listed: list[bytes] = []
    more = True
    for _ in range(_MOST_SCANS):
        found = await context.store.orders_of_account(owner.id, before=before, limit=_SCAN)
        for order in found:
            if len(listed) == _PAGE:
                break
            before = order.id
            if order_status(order.facts, now) is not OrderStatus.INVALID:
                listed.append(order.id)
        else:
            more = len(found) == _SCAN
            if more and len(listed) < _PAGE:
                continue
        break
    links = ((directory.orders_url(context.base_url, owner.id, cursor=before), "next"),) if more else ()
    return json_reply({"orders": [directory.order_url(context.base_url, each) for each in listed]}, links=links)


async def _cursor(context: Context, account_id: bytes, query: str) -> bytes | None:
    """The order behind which a page begins. Raises malformed for anything but a link that we gave out (row E52)."""
    if not query:
        return None
    cursor = from_text(query.removeprefix(_CURSOR)) if query.startswith(_CURSOR) else None
    if cursor is None or not await context.store.owns_order(account_id, cursor):
        raise problem.malformed("the cursor is not one of this list")
    return cursor


async def _require_own(context: Context, post: Post) -> Account:
    """The signer, when it calls its own account. Raises Problem: 403 for another's, 404 for none (row J12)."""
    if post.target.object_id == post.owner.id:
        return post.owner
    if await context.accounts.account_exists(post.target.object_id):
        raise problem.unauthorized("this is another account")
    raise problem.not_found("there is no such account")


def _account_reply(context: Context, account: Account, *, status: int = 200) -> Reply:
    """Every answer about an account has its Location, because acmez stores what it last saw there (row AC6)."""
    links = ((context.terms_of_service, "terms-of-service"),) if status == 201 and context.terms_of_service else ()
    return json_reply(account_object(context.base_url, account), status=status, links=links,
                      location=directory.account_url(context.base_url, account.id))
