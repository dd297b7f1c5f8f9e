"""Promises of the wiring: what the settings say is what the process does."""

import asyncio
import ipaddress
from pathlib import Path
from typing import Any, Literal

import pytest
from structlog.testing import capture_logs

from acme_api.va.__main__ import _run, make_checker
from acme_api.va.address import AddressRefused
from acme_api.va.lanes import Lanes
from acme_api.va.wiring import address_policy, max_open, primary
from ca.process.ambient import system_ambient
from ca.process.lifecycle import StartupError
from ca.process.settings import (
    AcmeSettings,
    AdminSettings,
    CaSettings,
    DatabaseSettings,
    DistributionSettings,
    HsmSettings,
    OcspSettings,
    Settings,
    VaSettings,
)
from tests.acme_api.va.hostile import serve_bytes
from tests.acme_api.va.queue_rows import EXPECTED, Queue
from tests.fixtures_postgres import TestDatabase


def settings_for(
    database: DatabaseSettings, *, policy: Literal["internal", "public"] = "internal", **va: Any
) -> Settings:
    values: dict[str, Any] = {"caa_identities": ["CA.example"], "localhost_names": True} | va
    return Settings(
        data_dir=Path("/nonexistent"), policy=policy, database=database,
        hsm=HsmSettings(module="x", token_label="x", pin_file=Path("x")),
        acme=AcmeSettings(base_url="https://ca.example:14000", listen=["10.0.0.7:14000", "[::]:14000"],
                          nonce_key=Path("x"), website="https://www.ca.example"),
        va=VaSettings(**values),
        ca=CaSettings(ocsp_url="http://ocsp.ca.example", aia_base_url="http://10.0.0.8/aia",
                      crl_base_url="http://crl.ca.example"),
        ocsp=OcspSettings(listen=["127.0.0.1:14001"], store_dir=Path("x")),
        distribution=DistributionSettings(listen=["127.0.0.1:14002"]), admin=AdminSettings(listen=["127.0.0.1:14003"]))


NO_DATABASE = DatabaseSettings(secrets_dir=Path("/nonexistent"))


async def test_the_process_validates_until_it_is_stopped(database: TestDatabase) -> None:
    """Wired from settings alone it claims, validates under the role acme_va, and ends when it is told to."""
    queue = await Queue.open(database)
    async with serve_bytes(f"HTTP/1.1 200 OK\r\n\r\n{EXPECTED}".encode()) as server:
        stop = asyncio.Event()
        settings = settings_for(database.settings, allow_loopback=True, http_01_port=server.port)
        process = asyncio.create_task(_run(settings, stop))
        authorization_id = await queue.add("a.localhost")
        await queue.finished()
        stop.set()
        await asyncio.wait_for(process, 10)
        assert b"User-Agent: Chancery-VA/" in server.requests[0]
        assert b"(+https://www.ca.example)" in server.requests[0]
    row = await queue.validation(authorization_id)
    assert row is not None
    assert row["problem"] is None
    await queue.close()


async def test_loopback_is_closed_unless_the_settings_open_it(database: TestDatabase) -> None:
    """SF2: with the default settings a name that resolves to loopback is a dns failure, and nobody is connected to."""
    queue = await Queue.open(database)
    async with serve_bytes(b"") as server:
        stop = asyncio.Event()
        process = asyncio.create_task(_run(settings_for(database.settings, http_01_port=server.port), stop))
        authorization_id = await queue.add("a.localhost")
        await queue.finished()
        stop.set()
        await asyncio.wait_for(process, 10)
        assert server.connections == 0
    row = await queue.validation(authorization_id)
    assert row is not None
    assert row["problem"]["type"] == "urn:ietf:params:acme:error:dns"
    await queue.close()


def test_sf2_own_service_addresses_are_refused_and_allowed_prefixes_dialled() -> None:
    """SF2: listening addresses and addresses in our URLs are refused although their prefix is allowed."""
    policy = address_policy(primary(settings_for(NO_DATABASE, allowed_prefixes=["10.0.0.0/8"])))
    assert {str(address) for address in policy.refused} == {"10.0.0.7", "10.0.0.8"}
    policy.require_dialable(ipaddress.ip_address("10.1.2.3"))
    with pytest.raises(AddressRefused):
        policy.require_dialable(ipaddress.ip_address("10.0.0.7"))


def test_the_public_policy_ignores_internal_relaxations() -> None:
    """SF2, CA: prefixes and CAA exemptions are for internal names; under the public policy they are void and logged."""
    settings = settings_for(NO_DATABASE, policy="public", allowed_prefixes=["10.0.0.0/8"], caa_exempt_suffixes=["corp"])
    with capture_logs() as logs:
        assert address_policy(primary(settings)).allowed == ()
        make_checker(settings, system_ambient(), Lanes(concurrency=1))
    assert {entry["key"] for entry in logs} == {"va.allowed_prefixes", "va.caa_exempt_suffixes"}


@pytest.mark.parametrize("prefix", ["10.0.0.0/33", "10.0.0.1/8", "corp", ""])
def test_a_prefix_that_is_none_refuses_to_start(prefix: str) -> None:
    """A typing error in the configuration is one clear line, not a closed network that looks open."""
    with pytest.raises(StartupError, match=r"va\.allowed_prefixes"):
        address_policy(primary(settings_for(NO_DATABASE, allowed_prefixes=[prefix])))


def test_own_host_names_are_those_of_our_urls() -> None:
    """E82: no redirect leads to the hosts in the CA's own URLs."""
    own_hosts = primary(settings_for(NO_DATABASE)).own_hosts
    assert own_hosts == {"ca.example", "ocsp.ca.example", "crl.ca.example", "10.0.0.8"}


def test_no_more_is_open_than_sockets_allow() -> None:
    """The bound follows the descriptors that the system allows; a small concurrency is a small bound."""
    assert max_open(1) == 80
    assert 0 < max_open(1_000_000) <= 65_536
