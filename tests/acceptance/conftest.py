"""One demo, another that asks for external accounts, and one DNS server for all acceptance tests of a worker."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.acceptance.demo_process import Demo, run_demo
from tests.acceptance.internet import Internet, run_internet
from tests.acceptance.ocsp_site import ISSUERS, MAX_AGE_S, Responder, make_site
from tests.fixtures_dns import DnsProgram, run_dns_program
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.processes import add_issuer, port_of, publish, running, times_now, write_config
from tests.ocsp.signing import signed


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


@pytest.fixture
async def responder(tmp_path: Path, database: TestDatabase) -> AsyncIterator[Responder]:
    """On a database with both issuers."""
    tmp_path.chmod(0o755)
    config = write_config(tmp_path, database.settings, ocsp=f"max_age_s = {MAX_AGE_S}")
    port, sites, times = port_of(config), {}, times_now()
    for issuer_id, (kind, own) in enumerate(ISSUERS.items(), 1):
        await add_issuer(database, own, issuer_id=issuer_id, name=f"Test {kind}")
        sites[kind] = make_site(tmp_path / kind, own, f"http://127.0.0.1:{port}/")
        await publish(database, [signed(own, sites[kind].serial, times=times, not_after_s=4_000_000_000)], times,
                      issuer_id=issuer_id)
    with running("ocsp", config) as process:
        await process.ready()
        yield Responder(database=database, port=port, sites=sites)
