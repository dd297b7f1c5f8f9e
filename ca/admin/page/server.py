"""The loopback HTTP server of operators: `/`, `/healthz`, `/metrics`. It shows and changes nothing.

There is no login, so it listens on loopback alone, and a request must be addressed to loopback too: a web page
elsewhere that points its own name at 127.0.0.1 (DNS rebinding) gets nothing.
"""

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from aiohttp import web

from ca.admin.page.html import CONTENT_SECURITY_POLICY, page
from ca.admin.page.metrics import CONTENT_TYPE, exposition
from ca.admin.page.watch import Watch
from ca.process.http import parse_listen
from ca.process.lifecycle import StartupError
from ca.process.settings import Settings

_HEADERS = {"Server": "chancery", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer"}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def require_loopback(listen: Sequence[str]) -> None:
    """Raises StartupError when an address can be reached from another machine."""
    for address in listen:
        host, _ = parse_listen(address)
        if not _is_loopback(host):
            raise StartupError(f"admin.listen: {address} can be reached from elsewhere and the page has no login: "
                               "expected an address of 127.0.0.0/8 or [::1]; reach it through an SSH tunnel")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def application(watch: Watch, settings: Settings) -> web.Application:
    """The three pages."""

    async def show(_request: web.Request) -> web.Response:
        text = page(await watch.view(), policy=settings.policy, base_url=settings.acme.base_url)
        return web.Response(text=text, content_type="text/html",
                            headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    async def healthz(_request: web.Request) -> web.Response:
        reasons = (await watch.view()).reasons
        if not reasons:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="".join(f"{reason.code}: {reason.text}\n" for reason in reasons))

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=exposition(await watch.view()), headers={"Content-Type": CONTENT_TYPE})

    made = web.Application(middlewares=[_addressed_to_loopback])
    made.router.add_get("/", show)
    made.router.add_get("/healthz", healthz)
    made.router.add_get("/metrics", metrics)
    return made


@web.middleware
async def _addressed_to_loopback(request: web.Request, handler: _Handler) -> web.StreamResponse:
    if not _is_loopback(urlsplit(f"//{request.host}").hostname or ""):
        return web.Response(status=421, text="this page is for loopback addresses\n", headers=_HEADERS)
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        return web.Response(status=refusal.status, text=f"{refusal.reason}\n", headers=_HEADERS | (
            {"Allow": refusal.headers["Allow"]} if "Allow" in refusal.headers else {}))
    response.headers.update(_HEADERS)
    return response
