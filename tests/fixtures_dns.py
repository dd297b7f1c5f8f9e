"""Fixtures that give a test its own DNS server: inside the test's event loop, or as a program with a control API."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from tests.mock_dns import MockDns

_REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests of outbound connections run on uvloop, as the process does: sockets differ between the two loops."""
    outbound = _REPOSITORY / "tests" / "acme_api" / "va" in item.path.parents
    return {"uvloop": uvloop.new_event_loop} if outbound else {"asyncio": asyncio.new_event_loop}


@pytest_asyncio.fixture
async def mock_dns() -> AsyncIterator[MockDns]:
    """A DNS server in the test's own event loop; `mock_dns.address` is HOST:PORT."""
    async with MockDns() as server:
        yield server


@dataclass(frozen=True, slots=True)
class DnsProgram:
    """The DNS server as a process of its own: `address` is HOST:PORT, `control` the base URL of its control API."""

    address: str
    control: str

    def post(self, call: str, **body: Any) -> None:
        """One control call, for example post("set", name="a.example", type="A", values=["127.0.0.1"])."""
        request = urllib.request.Request(f"{self.control}/{call}",
                                         data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=5):
            return

    def queries(self) -> list[dict[str, str]]:
        """Every question so far: name, type, transport."""
        with urllib.request.urlopen(f"{self.control}/queries", timeout=5) as response:
            found: list[dict[str, str]] = json.load(response)
            return found


@contextmanager
def run_dns_program() -> Iterator[DnsProgram]:
    """A DNS server in another process that answers A 127.0.0.1 for every name until it is told otherwise."""
    process = subprocess.Popen([sys.executable, "-m", "tests.mock_dns", "--default-a", "127.0.0.1"],
                               cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        yield DnsProgram(address=addresses["dns"], control=addresses["control"])
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def mock_dns_program() -> Iterator[DnsProgram]:
    """`run_dns_program` for one test."""
    with run_dns_program() as program:
        yield program
