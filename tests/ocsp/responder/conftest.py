"""The responder that the tests of its connections ask."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ocsp.responder.sockets import listen_by_asyncio, listen_by_epoll
from tests.ocsp.responder.known import OWN, RECORD
from tests.ocsp.responder.serving import Serving, serving


@pytest.fixture(params=[listen_by_epoll, listen_by_asyncio], ids=["epoll", "asyncio"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Serving]:
    """One good certificate, by either kind of sockets."""
    async with serving(tmp_path, OWN, listen=request.param) as running:
        running.store([RECORD])
        yield running
