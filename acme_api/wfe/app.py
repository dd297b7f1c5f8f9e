"""One HTTP request from its first byte to its answer: path, method, headers, then the handler of the resource.

Whatever happens becomes an answer: a Problem is shown, a database that is away is 500 with Retry-After, anything else
is 500 with an id that the log explains. Nothing that a client sends can make the process stop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from aiohttp import web

from acme_api.protocol import nonce, problem
from acme_api.protocol.directory import Resource, Target, parse_path
from acme_api.protocol.jwk import PrivateKeyShown
from acme_api.protocol.problem import Problem
from acme_api.protocol.rate_limit import IpAddress, LimitName, limited
from acme_api.wfe import (
    accounts,
    authorizations,
    certificates,
    key_change,
    orders,
    pre_authorizations,
    renewals,
    revocations,
)
from acme_api.wfe.context import Context
from acme_api.wfe.exposed_keys import ExposedKeys
from acme_api.wfe.flood import Flood
from acme_api.wfe.request import Post, RequestAborted, Signer, authenticate, read_body
from acme_api.wfe.response import JSON, TEXT, Frame, Reply, render, render_preflight, render_problem
from ca.pki.object_id import to_text
from ca.process.client_address import behind_proxies
from ca.process.postgres import UNAVAILABLE

_Handler = Callable[[Context, Post], Awaitable[Reply]]

MAX_HEADER_BYTES: Final = 16_384
_BUSY_RETRY_AFTER_S: Final = 5
_AWAY_RETRY_AFTER_S: Final = 3
_RENEWAL_INFO: Final = "/acme/renewal-info/"
_ACCOUNT: Final = web.RequestKey("account", str)
_READABLE: Final = {Resource.DIRECTORY: "GET, HEAD, POST, OPTIONS", Resource.NEW_NONCE: "GET, HEAD, POST, OPTIONS",
                    Resource.LIMITS: "GET, HEAD, OPTIONS", Resource.RENEWAL_INFO: "GET, HEAD, OPTIONS"}
_UNSIGNED: Final = (Resource.LIMITS, Resource.RENEWAL_INFO)
_ALLOW_SIGNED: Final = "POST, OPTIONS"


async def _directory(context: Context, post: Post) -> Reply:
    """POST-as-GET (row T6)."""
    post.require_read()
    return Reply(body=context.directory, content_type=JSON)


async def _new_nonce(_context: Context, post: Post) -> Reply:
    """POST-as-GET (row T6); the nonce is in the headers of every answer."""
    post.require_read()
    return Reply()


_HANDLERS: Final[dict[Resource, tuple[Signer, _Handler]]] = {
    Resource.DIRECTORY: (Signer.ACCOUNT, _directory),
    Resource.NEW_NONCE: (Signer.ACCOUNT, _new_nonce),
    Resource.NEW_ACCOUNT: (Signer.NEW_KEY, accounts.new_account),
    Resource.NEW_ORDER: (Signer.ACCOUNT, orders.new_order),
    Resource.NEW_AUTHORIZATION: (Signer.ACCOUNT, pre_authorizations.new_authorization),
    Resource.REVOKE_CERT: (Signer.EITHER, revocations.revoke_cert),
    Resource.KEY_CHANGE: (Signer.ACCOUNT, key_change.key_change),
    Resource.ACCOUNT: (Signer.ACCOUNT, accounts.account),
    Resource.ORDERS: (Signer.ACCOUNT, accounts.orders),
    Resource.ORDER: (Signer.ACCOUNT, orders.order),
    Resource.FINALIZE: (Signer.ACCOUNT, orders.finalize),
    Resource.AUTHORIZATION: (Signer.ACCOUNT, authorizations.authorization),
    Resource.CHALLENGE: (Signer.ACCOUNT, authorizations.challenge),
    Resource.CERTIFICATE: (Signer.ACCOUNT, certificates.certificate),
}


class App:
    """Answers requests. Holds nothing but the context and the number of requests that are being answered."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._in_flight = 0
        self._closing = False
        self._flood = Flood()
        self._exposed = ExposedKeys(context)

    def close_with_answers(self) -> None:
        """From now on every answer is the last of its connection."""
        self._closing = True

    async def handle(self, http: web.BaseRequest, peer: IpAddress | None) -> web.Response:
        """The answer to one request; raises nothing but cancellation. `peer` is the address of the connection."""
        started_s = asyncio.get_running_loop().time()
        path = origin_form(http.raw_path)
        self._in_flight += 1
        fault: Problem | None = None
        close = False
        try:
            response = await self._answer(http, path, peer)
        except Problem as raised:
            fault = raised
        except RequestAborted as aborted:
            fault, close = aborted.problem, True
        except UNAVAILABLE as away:
            self._context.log.warning("the database is away", fault=str(away) or type(away).__name__)
            fault = problem.server_internal("the database cannot be reached; try again",
                                            retry_after_s=_AWAY_RETRY_AFTER_S)
        except Exception:
            fault = self._broken(http, path)
        finally:
            self._in_flight -= 1
        if fault is not None:
            # What anybody may ask and caches keep carries no nonce, errors included (rows N10, AR5).
            with_nonce = http.method not in ("GET", "HEAD") or not path.startswith(_RENEWAL_INFO)
            response = render_problem(fault, self._frame(http, with_nonce=with_nonce), close=close)
        if self._closing:
            response.force_close()
        self._log(http, path, response, fault, asyncio.get_running_loop().time() - started_s, peer)
        return response

    def unparsable(self, fault: Problem) -> web.Response:
        """The answer to what was no HTTP request; the connection is closed after it."""
        frame = Frame(base_url=self._context.base_url, nonce=self._make_nonce(), has_origin=False)
        return render_problem(fault, frame, close=True)

    async def _answer(self, http: web.BaseRequest, path: str, peer: IpAddress | None) -> web.Response:
        if sum(len(name) + len(value) + 4 for name, value in http.raw_headers) > MAX_HEADER_BYTES:
            raise RequestAborted(problem.malformed("the header is too large", status=431))
        target = parse_path(path.partition("?")[0])
        if target is None or (target.resource is Resource.NEW_AUTHORIZATION and not self._context.pre_authorization):
            raise problem.not_found("there is nothing at this URL")
        if http.method == "POST" and target.resource not in _UNSIGNED:
            if self._in_flight > self._context.max_in_flight:
                raise self._busy()
            return await self._post(http, target, path, self._client(http, peer))
        allow = _allowed(target)
        if http.method == "OPTIONS":
            return render_preflight(allow, self._frame(http, with_nonce=False))
        if target.resource not in _READABLE or http.method not in ("GET", "HEAD"):
            raise Problem("malformed", f"{http.method[:20]} is not possible here", status=405, allow=allow)
        if target.resource is Resource.DIRECTORY:
            frame = self._frame(http, with_nonce=False, index=False)
            return render(Reply(body=self._context.directory, content_type=JSON), frame)
        if target.resource is Resource.LIMITS:
            return render(Reply(body=self._context.limits_page, content_type=TEXT), self._frame(http, with_nonce=False))
        if target.resource is Resource.RENEWAL_INFO:
            self._require_calm(LimitName.RENEWAL_INFO_PER_ADDRESS, "requests for renewal information by",
                               self._client(http, peer))
            reply = await renewals.renewal_info(self._context, target.certificate)
            return render(reply, self._frame(http, with_nonce=False))
        self._require_calm(LimitName.NONCES_PER_ADDRESS, "nonces asked for by", self._client(http, peer))
        # Rows N1, N2: HEAD is 200, GET is 204.
        status = 200 if http.method == "HEAD" else 204
        return render(Reply(status=status), self._frame(http, with_nonce=True))

    def _client(self, http: web.BaseRequest, peer: IpAddress | None) -> IpAddress | None:
        """Whose request it is (client_address.py)."""
        source = self._context.forwarded
        if source is None or peer is None:
            return peer
        return behind_proxies(peer, http.headers.getall(source.header, []), source.trusted, rfc_7239=source.rfc_7239)

    def _require_calm(self, limit: LimitName, what: str, client: IpAddress | None) -> None:
        """Raises rateLimited when an address asks too often for what is not counted in the database (row E9)."""
        limits, now = self._context.limits, self._context.ambient.now()
        rate = limits.rate_of_address(limit, client, now)
        wait_s = 0.0 if rate is None else self._flood.wait_s(limit, client, rate, asyncio.get_running_loop().time())
        if rate is not None and wait_s > 0:
            raise limited(limit, f"too many {what} {'this address' if client is None else client}", wait_s,
                          limits.policy.help_url)

    def _busy(self) -> Problem:
        """Row P6. The clients come back spread over some seconds, not all at once."""
        spread = self._context.ambient.random_bytes(1)[0] % _BUSY_RETRY_AFTER_S
        return Problem("rateLimited", "the server has as many requests as it can answer in time; try again", status=503,
                       retry_after_s=_BUSY_RETRY_AFTER_S + spread)

    async def _post(
        self, http: web.BaseRequest, target: Target, path: str, client: IpAddress | None
    ) -> web.Response:
        if target.resource is not Resource.AUTHORIZATION:
            return await self._signed(http, target, path, client)
        # Entered before anything is read: what ends between a look's reading and its waiting must wake it, too.
        with self._context.waiters.waiting_for(target.object_id) as changed:
            return await self._signed(http, target, path, client, changed)

    async def _signed(self, http: web.BaseRequest, target: Target, path: str, client: IpAddress | None,
                      changed: asyncio.Event | None = None) -> web.Response:
        signer, handler = _HANDLERS[target.resource]
        body = await read_body(http, self._context.max_body_bytes, timeout_s=self._context.read_timeout_s)
        try:
            post = await authenticate(self._context, body, target=target, path=path, signer=signer, client=client,
                                      changed=changed)
            reply = await self._handled(http, post, handler)
        except PrivateKeyShown as shown:
            await self._exposed.take_up(shown, client)
            raise
        index = target.resource is not Resource.DIRECTORY
        return render(reply, self._frame(http, with_nonce=True, index=index))

    async def _handled(self, http: web.BaseRequest, post: Post, handler: _Handler) -> Reply:
        if post.target.resource is Resource.CERTIFICATE:
            post = replace(post, accept=", ".join(http.headers.getall("Accept", [])))
        if post.account is not None:
            http[_ACCOUNT] = to_text(post.account.id)
        return await handler(self._context, post)

    def _frame(self, http: web.BaseRequest, *, with_nonce: bool, index: bool = True) -> Frame:
        return Frame(base_url=self._context.base_url, nonce=self._make_nonce() if with_nonce else None,
                     has_origin="Origin" in http.headers, index=index)

    def _make_nonce(self) -> str:
        ambient = self._context.ambient
        return nonce.make_nonce(ambient.now(), ambient.random_bytes(nonce.RANDOM_BYTES), self._context.nonce_key)

    def _broken(self, http: web.BaseRequest, path: str) -> Problem:
        """Our fault: the client gets an id, the log gets everything else (row P8)."""
        incident = self._context.ambient.random_bytes(8).hex()
        self._context.log.exception("request broke", incident=incident, method=http.method, path=path)
        return problem.server_internal(f"something went wrong here; the operator can look up {incident}",
                                       retry_after_s=_AWAY_RETRY_AFTER_S)

    def _log(self, http: web.BaseRequest, path: str, response: web.Response, fault: Problem | None,
             took_s: float, peer: IpAddress | None) -> None:
        if fault is None and http.method != "POST":
            return
        log = self._context.log
        values: dict[str, object] = {"method": http.method, "path": path, "status": response.status,
                                     "took_ms": round(took_s * 1000, 1)}
        account = http.get(_ACCOUNT)
        if account is not None:
            values["account"] = account
        if fault is not None:
            client = self._client(http, peer)
            values |= {"type": fault.type, "detail": fault.detail, "from": None if client is None else str(client),
                       "agent": http.headers.get("User-Agent", "")}
        log.info("request", **values)


def unknown_method(path: str) -> Problem:
    """What a method that HTTP does not know is told, by the path of its request (rows T5, E1)."""
    target = parse_path(path.partition("?")[0])
    if target is None:
        return problem.not_found("there is nothing at this URL")
    return Problem("malformed", "the method is unknown", status=405, allow=_allowed(target))


def _allowed(target: Target) -> str:
    return _READABLE.get(target.resource, _ALLOW_SIGNED)


def origin_form(raw: str) -> str:
    """The path and query of a request target as they were sent; an absolute one loses scheme and authority, which
    say nothing here (RFC 9112 3.2.2, row E7)."""
    for scheme in ("http://", "https://"):
        if raw[:len(scheme)].lower() == scheme:
            return "/" + raw[len(scheme):].partition("/")[2]
    return raw
