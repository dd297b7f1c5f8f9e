"""One demo, another that asks for external accounts, and one DNS server for all acceptance tests of a worker."""

from collections.abc import Iterator

import pytest

from tests.acceptance.demo_process import Demo, run_demo
from tests.acceptance.internet import Internet, run_internet
from tests.fixtures_dns import DnsProgram, run_dns_program


@pytest.fixture(scope="session")
def acceptance_dns() -> Iterator[DnsProgram]:
    """A DNS server that says 127.0.0.1 for every name; hooks set TXT records in it."""
    with run_dns_program() as program:
        yield program


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, acceptance_dns: DnsProgram) -> Iterator[Demo]:
    """A demo as a newcomer starts it, but on free ports and with the tests' resolver."""
    with run_demo(tmp_path_factory.mktemp("acceptance") / "chancery", resolver=acceptance_dns.address) as running:
        yield running


@pytest.fixture(scope="session")
def closed_demo(tmp_path_factory: pytest.TempPathFactory, acceptance_dns: DnsProgram) -> Iterator[Demo]:
    """A demo at which an account needs an external account."""
    with run_demo(tmp_path_factory.mktemp("closed") / "chancery", resolver=acceptance_dns.address,
                  environment={"CHANCERY_ACME__EXTERNAL_ACCOUNT_REQUIRED": "true"}) as running:
        yield running


@pytest.fixture(scope="session")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    """Hosts, routes, name servers, an internal CA and its perspectives; dear, so that its tests are one group."""
    with run_internet(tmp_path_factory.mktemp("internet")) as running:
        yield running
