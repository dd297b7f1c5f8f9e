"""GET and HEAD of published files over plain HTTP (BR 7.1.2.11.2: CRL and AIA URLs are http).

The path of a request is one dictionary look-up: no router, no middleware, no disk, no database. What is not published
is 404, another method is 405, both in plain text.
"""

from collections.abc import Callable
from datetime import datetime

from aiohttp import web

from ca.distribution.snapshot import PublishedFile, Snapshot

_LONGEST_CRL_AGE_S = 900        # as long as a changed CRL may take to be made; spec/pki.md 6 permits an hour
_CERTIFICATE_AGE_S = 3600
_ALLOWED = "GET, HEAD"


class Distribution:
    """Answers from `snapshot`, which the refresher replaces."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.snapshot = Snapshot()
        self._now = now

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The one handler of the server."""
        if request.method not in ("GET", "HEAD"):
            return _plain(405, "only GET and HEAD are served here", {"Allow": _ALLOWED})
        file = self.snapshot.files.get(request.path)
        if file is None:
            return _plain(404, "nothing is published at this path", {"Cache-Control": "public, max-age=60"})
        headers = {
            "Server": "chancery",
            "ETag": file.etag,
            "Last-Modified": file.last_modified_text,
            "Cache-Control": f"public, max-age={self._max_age_s(file)}, no-transform",
        }
        if _is_current(request, file):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = file.content_type
        return web.Response(body=file.body, headers=headers)

    def _max_age_s(self, file: PublishedFile) -> int:
        """A cache never keeps a CRL past its nextUpdate; an overdue one is shown, but kept by nobody."""
        if file.next_update is None:
            return _CERTIFICATE_AGE_S
        left_s = int((file.next_update - self._now()).total_seconds())
        return max(0, min(_LONGEST_CRL_AGE_S, left_s))


def _is_current(request: web.BaseRequest, file: PublishedFile) -> bool:
    """RFC 9110 13.2.2: If-None-Match decides alone when it is there, else If-Modified-Since."""
    tags = request.if_none_match
    if tags is not None:
        return any(tag.value == "*" or f'"{tag.value}"' == file.etag for tag in tags)
    since = request.if_modified_since
    return since is not None and file.last_modified <= since


def _plain(status: int, text: str, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers={"Server": "chancery", **headers})
