"""Fixtures: the front end, the other processes, and the ground on which they are attacked."""

from collections.abc import AsyncIterator

import pytest

from tests.acme_api.hostile.ground import Ground
from tests.acme_api.wfe.conftest import clock, others, start, wfe
from tests.acme_api.wfe.running import OtherProcesses, RunningWfe

__all__ = ["clock", "ground", "others", "start", "wfe"]


@pytest.fixture
async def ground(wfe: RunningWfe, others: OtherProcesses, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Ground]:
    """A server under attack; at the end its bystander gets a certificate."""
    made = await Ground.make(wfe, others, capsys)
    yield made
    await made.end()
