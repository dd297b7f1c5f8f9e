"""Answers: a Reply or a Problem becomes an HTTP response, with the headers that every answer has.

Replay-Nonce, the index link and CORS headers are put on here and nowhere else, so no path can miss them (rows N3, T2,
T9); the directory has neither nonce nor index link (rows N10, D1).
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from acme_api.protocol import directory
from acme_api.protocol.problem import Problem

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"
TEXT: Final = "text/plain; charset=utf-8"
PKIX_CERT: Final = "application/pkix-cert"
PEM_CHAIN: Final = "application/pem-certificate-chain"
_EXPOSED: Final = "Link, Location, Replay-Nonce, Retry-After"
_PREFLIGHT_LIFE_S: Final = 86_400
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A successful answer. `links` are (URL, relation)."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    location: str | None = None
    links: tuple[tuple[str, str], ...] = ()
    retry_after_s: int | None = None
    cache_s: int | None = None


def json_reply(document: Any, **members: Any) -> Reply:
    """A JSON answer; `members` are those of Reply."""
    return Reply(body=_encode(document), content_type=JSON, **members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What the request decides about the headers of its answer."""

    base_url: str
    nonce: str | None
    has_origin: bool
    index: bool = True


def render(reply: Reply, frame: Frame) -> web.Response:
    """The response of a successful request."""
    headers = _common(frame)
    if reply.content_type:
        headers["Content-Type"] = reply.content_type
    if reply.location is not None:
        headers["Location"] = reply.location
    for url, relation in reply.links:
        headers.add("Link", f'<{url}>;rel="{relation}"')
    if reply.retry_after_s is not None:
        headers["Retry-After"] = str(reply.retry_after_s)
    if reply.cache_s is not None:
        headers["Cache-Control"] = f"public, max-age={reply.cache_s}"
    return web.Response(status=reply.status, body=reply.body, headers=headers)


def render_problem(problem: Problem, frame: Frame, *, close: bool = False) -> web.Response:
    """The response of a request that failed (RFC 9457, rows P1, T14)."""
    headers = _common(frame)
    headers["Content-Type"] = PROBLEM_JSON
    headers["Content-Language"] = "en"
    if problem.location is not None:
        headers["Location"] = problem.location
    if problem.allow is not None:
        headers["Allow"] = problem.allow
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.terms_of_service is not None:
        headers.add("Link", f'<{problem.terms_of_service}>;rel="terms-of-service"')
    if problem.help_url is not None:
        headers.add("Link", f'<{problem.help_url}>;rel="help"')
    response = web.Response(status=problem.status, body=_encode(problem.to_json()), headers=headers)
    if close:
        response.force_close()
    return response


def render_preflight(allow: str, frame: Frame) -> web.Response:
    """OPTIONS: fixed words, nothing of the request is reflected (rows T2, E10)."""
    headers = _common(frame)
    headers["Allow"] = allow
    if frame.has_origin:
        headers["Access-Control-Allow-Methods"] = allow
        headers["Access-Control-Allow-Headers"] = "Content-Type"
        headers["Access-Control-Max-Age"] = str(_PREFLIGHT_LIFE_S)
    return web.Response(status=204, headers=headers)


def _common(frame: Frame) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict(Server="Chancery")
    if frame.nonce is not None:
        headers["Replay-Nonce"] = frame.nonce
        headers["Cache-Control"] = "no-store"
    if frame.index:
        headers["Link"] = f'<{directory.directory_url(frame.base_url)}>;rel="index"'
    if frame.has_origin:
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Expose-Headers"] = _EXPOSED
    return headers
