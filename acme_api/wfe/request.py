"""From an HTTP POST to a request whose signer is known: every check once, in the order of the conventions.

Content-Type, size, JWS form, base64url, alg, jwk or kid; then the nonce is burnt, and the account and what it asks for
are looked up, in one round trip; then key policy, signature, account status, nonce result, url. A request with several
faults is answered by the first of them, and a nonce that was seen is dead whatever the answer is (row N8).
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from aiohttp import web

from acme_api.protocol import nonce, problem
from acme_api.protocol.account import Account, require_open
from acme_api.protocol.account_key import require_account_key
from acme_api.protocol.directory import Resource, Target, parse_account_url
from acme_api.protocol.json_strict import JsonError, JsonObject, decode_object
from acme_api.protocol.jws import SignedRequest, parse_flattened, thumbprint, verify
from acme_api.protocol.rate_limit import IpAddress
from acme_api.wfe.context import Context
from acme_api.wfe.store import Loaded
from acme_api.wfe.waiters import wait_for
from acme_api.wfe.wishes import wish_of

_MEDIA_TYPE: Final = "application/jose+json"


class Signer(Enum):
    """How a resource wants its requests signed (RFC 8555 6.2, row J8)."""

    ACCOUNT = "kid"
    NEW_KEY = "jwk"
    EITHER = "kid or jwk"


class RequestAborted(Exception):
    """The body did not come in time, or is too large: answer `problem` and close the connection."""

    def __init__(self, fault: problem.Problem) -> None:
        super().__init__(fault.detail)
        self.problem = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """An authenticated request. `account` None: it is signed by `jwk`, which is no account's. `loaded` is the
    authorization, order or certificate of the target, if there is one, whoever owns it, or what is known of the names
    of a new order, judged by the moment when it `came_at`. `address` is the client's,
    `accept` its Accept header where that is looked at; `changed` is set when the authorization of the target became
    different since the request came, on its own resource."""

    target: Target
    query: str
    signed: SignedRequest
    body: bytes
    jwk: str
    account: Account | None
    loaded: Loaded | None
    came_at: datetime
    address: IpAddress | None
    accept: str = ""
    changed: asyncio.Event | None = None

    @property
    def is_read(self) -> bool:
        """POST-as-GET: the payload is empty (RFC 8555 6.3)."""
        return not self.signed.payload_bytes

    @property
    def owner(self) -> Account:
        """The account that signed, on resources that only accounts may call."""
        if self.account is None:
            raise AssertionError("the resource is called by kid")
        return self.account

    def require_read(self) -> None:
        """Raises malformed unless this is POST-as-GET (row T7)."""
        if not self.is_read:
            raise problem.malformed("this resource is read with an empty payload (POST-as-GET)")

    def json(self) -> JsonObject:
        """The payload. Raises malformed when it is not one JSON object (row J14)."""
        try:
            return decode_object(self.signed.payload_bytes)
        except JsonError as fault:
            raise problem.malformed(f"the payload: {fault}") from None


async def read_body(http: web.BaseRequest, max_bytes: int, *, timeout_s: float) -> bytes:
    """The body of a request that may have one. Raises Problem (415) or RequestAborted (413, 408)."""
    media_type = http.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != _MEDIA_TYPE or "Content-Encoding" in http.headers:
        raise problem.malformed(f"requests are {_MEDIA_TYPE}, without a Content-Encoding", status=415)
    length = http.content_length
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)
    if http.headers.get("Expect", "").lower() == "100-continue" and http.transport is not None:
        http.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = http.content
    if content.is_eof() and content.exception() is None:        # it came with the header, as most do
        body = content.read_nowait()
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body
    try:
        async with asyncio.timeout(timeout_s):
            body = await content.readany()
            while not content.at_eof():
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
                body += await content.readany()
    except (web.RequestPayloadError, ConnectionError):
        raise RequestAborted(problem.malformed("the body is broken off")) from None
    except TimeoutError:
        raise RequestAborted(problem.malformed("the body did not arrive in time", status=408)) from None
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _too_large(max_bytes: int) -> RequestAborted:
    return RequestAborted(problem.malformed(f"the request is larger than {max_bytes} bytes", status=413))


async def authenticate(context: Context, body: bytes, *, target: Target, path: str, signer: Signer,
                       client: IpAddress | None, changed: asyncio.Event | None = None) -> Post:
    """The request in `body`, sent to `path` (raw, with its query); `changed` as in Post. Raises Problem."""
    signed = parse_flattened(body, context.max_body_bytes)
    if (signer is Signer.ACCOUNT and signed.kid is None) or (signer is Signer.NEW_KEY and signed.kid is not None):
        raise problem.malformed(f"requests to this resource are signed by {signer.value}")
    now = context.ambient.now()
    raw_nonce = None if signed.nonce is None else nonce.parse_nonce(signed.nonce, context.nonce_key, now)
    if signed.kid is not None:
        account_id = parse_account_url(context.base_url, signed.kid)
        wish = None
        if target.resource is Resource.NEW_ORDER and raw_nonce is not None:     # only who has a nonce is read ahead for
            wish = wish_of(context, signed.payload_bytes, now)
        if changed is not None and raw_nonce is not None and not signed.payload_bytes:
            changed = await _after_change(context, target, changed)
        spent = await context.store.spend_nonce(raw_nonce, account_id=account_id, target=target, wish=wish)
        if spent.account is None:
            raise problem.account_does_not_exist("kid is not the URL of an account of this server")
        jwk = spent.account.jwk
    else:
        is_lookup = signer is Signer.NEW_KEY and signed.jwk is not None
        spent = await context.store.spend_nonce_of_key(
            raw_nonce, thumbprint=thumbprint(signed.jwk) if is_lookup and signed.jwk is not None else None)
        if signed.jwk is None:
            raise signed.key_problem or problem.bad_public_key("the jwk is no usable key")
        jwk = signed.jwk
        if signer is Signer.NEW_KEY and spent.account is None:
            require_account_key(jwk)
    verify(signed, jwk)
    if spent.account is not None:
        require_open(spent.account)
    if not spent.fresh:
        raise problem.bad_nonce(_why_not_fresh(signed, raw_nonce))
    if signed.url != context.base_url + path:
        raise problem.unauthorized("the url in the protected header is not the URL that was called")
    return Post(target=target, query=path.partition("?")[2], signed=signed, body=body, jwk=jwk, account=spent.account,
                loaded=spent.loaded, came_at=now, address=client, changed=changed)


async def _after_change(context: Context, target: Target, changed: asyncio.Event) -> asyncio.Event | None:
    """Returns when an authorization that is being validated, by our word, has changed, or the patience for it is over:
    then None. It is read once then, and not before and behind the waiting. Whose request it is shows only then, too;
    nobody waits who has no nonce of ours and does not know the authorization's name."""
    wait_s = context.validation_wait_s
    if wait_s <= 0 or not context.waiters.is_expected(target.object_id):
        return changed
    if await wait_for(changed, timeout_s=wait_s):
        return changed
    context.waiters.expect_no_more(target.object_id)
    return None


def _why_not_fresh(signed: SignedRequest, raw_nonce: bytes | None) -> str:
    if signed.nonce is None:
        return "there is none"
    if raw_nonce is None:
        return "it is not one of this server, or older than a day"
    return "it was used before, or is older than the last restart of the database"
