"""Fixtures: a WFE, a second one on the same database, and the other processes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.acme_api.wfe.running import Clock, OtherProcesses, RunningWfe, make_settings, start_wfe
from tests.fixtures_postgres import TestDatabase


@pytest.fixture
def clock() -> Clock:
    """The clock of all servers of a test."""
    return Clock()


@pytest.fixture
async def start(database: TestDatabase, tmp_path: Path, clock: Clock
                ) -> AsyncIterator[Callable[..., Awaitable[RunningWfe]]]:
    """Starts servers with changed settings."""
    async with AsyncExitStack() as stack:
        async def starter(**acme: Any) -> RunningWfe:
            return await start_wfe(stack, make_settings(database, tmp_path, **acme), clock)

        yield starter


@pytest.fixture
async def wfe(start: Callable[..., Awaitable[RunningWfe]]) -> RunningWfe:
    """A server."""
    return await start()


@pytest.fixture
def others(database: TestDatabase, clock: Clock) -> OtherProcesses:
    """VA, CA, pre-signer."""
    return OtherProcesses(database, clock)
