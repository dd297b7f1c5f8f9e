"""newOrder with a record that is there already (row DP4), on a real front end, VA and database."""

from collections.abc import Awaitable, Callable

import pytest

from ca.pki.object_id import to_text
from tests.acme_api.va.test_perform import BASE_URL, performing
from tests.acme_api.wfe.running import OtherProcesses, RunningWfe, id_of
from tests.acme_client import AcmeClient
from tests.mock_dns import MockDns

_Start = Callable[..., Awaitable[RunningWfe]]
_PATIENT_MS = 5_000


def _record(client: AcmeClient, *more: str) -> str:
    """The TXT record that lets the account in, as this VA names it."""
    uri = f"accounturi={BASE_URL}/acme/account/{to_text(id_of(client.kid))}"
    return "; ".join(("ca.example", uri, *more))


async def _subscriber(wfe: RunningWfe, others: OtherProcesses, *, allowed: bool = True) -> AcmeClient:
    client = await wfe.subscriber()
    if allowed:
        await others.run("ca_admin", ("UPDATE accounts SET dns_persist_allowed_at = now()",))
    return client


@pytest.fixture
def dns(mock_dns: MockDns) -> MockDns:
    """Every name is somewhere, and has no records but those that a test sets."""
    mock_dns.default["A"] = ["127.0.0.1"]
    return mock_dns


async def test_dp4_a_record_that_is_there(start: _Start, others: OtherProcesses, dns: MockDns) -> None:
    """Row DP4: with its record in place a name is valid at once, and a wildcard where the policy says so; the order of
    both is ready when it is made, and each validation is the VA's, by dns-persist-01."""
    wfe = await start(just_in_time_ms=_PATIENT_MS)
    client = await _subscriber(wfe, others)
    dns.set("_validation-persist.a.example", "TXT", _record(client, "policy=wildcard"))
    async with performing(others.database, 1, resolver=dns.address):
        order = (await client.order("a.example", "*.a.example")).require(201)
        assert order.json["status"] == "ready"
        for url in order.json["authorizations"]:
            shown = (await client.post(url)).require(200).json
            assert shown["status"] == "valid"
            assert [each["type"] for each in shown["challenges"]] == ["dns-persist-01"]
    assert await others.count("validation_requests") == 0
    assert await others.value("SELECT count(*) FROM validations WHERE problem IS NULL AND challenge_type ="
                              " 'dns-persist-01'") == 2


async def test_dp4_nothing_there_leaves_nothing(start: _Start, others: OtherProcesses, dns: MockDns) -> None:
    """Row DP4: no record, another account's, a broken one, a DNS that fails, CAA that forbids: the order is pending,
    nothing is stored and nothing counts; each challenge is as if nobody had looked, and can be answered."""
    wfe = await start(just_in_time_ms=_PATIENT_MS)
    client = await _subscriber(wfe, others)
    dns.set("_validation-persist.other.example", "TXT", _record(await wfe.subscriber()))
    dns.set("_validation-persist.broken.example", "TXT", _record(client, "persistUntil=x"))
    dns.misbehave("_validation-persist.fails.example", "servfail", rdtype="TXT")
    dns.set("_validation-persist.caa.example", "TXT", _record(client))
    dns.set("caa.example", "CAA", '0 issue ";"')
    names = [f"{name}.example" for name in ("none", "other", "broken", "fails", "caa")]
    async with performing(others.database, 1, resolver=dns.address):
        order = (await client.order(*names)).require(201)
        assert order.json["status"] == "pending"
        assert await others.count("validations") == await others.count("validation_requests") == 0
        for url in order.json["authorizations"]:
            shown = (await client.post(url)).require(200).json
            assert shown["status"] == "pending"
            assert {each["status"] for each in shown["challenges"]} == {"pending"}
    challenge = (await client.post(order.json["authorizations"][0])).json["challenges"][0]
    assert (await client.post(challenge["url"], {})).require(200).json["status"] == "processing"


async def test_dp4_one_of_two_names(start: _Start, others: OtherProcesses, dns: MockDns) -> None:
    """Row DP4: the name whose record is there is valid, the other one pending, and so is the order."""
    wfe = await start(just_in_time_ms=_PATIENT_MS)
    client = await _subscriber(wfe, others)
    dns.set("_validation-persist.a.example", "TXT", _record(client))
    async with performing(others.database, 1, resolver=dns.address):
        order = (await client.order("a.example", "b.example")).require(201)
    assert order.json["status"] == "pending"
    assert [(await client.post(url)).json["status"] for url in order.json["authorizations"]] == ["valid", "pending"]


async def test_dp4_newOrder_does_not_wait_for_ever(start: _Start, others: OtherProcesses) -> None:
    """Row DP4: without a VA the order is pending after the wait; a client's answer meanwhile is taken, and shows as
    processing; the look is not seen in it."""
    wfe = await start(just_in_time_ms=50)
    client = await _subscriber(wfe, others)
    order = (await client.order("a.example")).require(201)
    assert order.json["status"] == "pending"
    assert await others.value("SELECT array_agg(kind) FROM validation_requests") == ["look"]
    challenges = (await client.post(order.json["authorizations"][0])).json["challenges"]
    assert {each["status"] for each in challenges} == {"pending"}
    assert (await client.post(challenges[0]["url"], {})).require(200).json["status"] == "processing"
    assert await others.value("SELECT array_agg(kind ORDER BY kind) FROM validation_requests") == ["challenge", "look"]


async def test_dp4_only_where_it_is_offered(start: _Start, others: OtherProcesses) -> None:
    """Rows DP4, X1: nobody looks for accounts that are not offered the challenge, for addresses, or where the operator
    has switched it off."""
    wfe = await start(just_in_time_ms=_PATIENT_MS)
    (await (await _subscriber(wfe, others, allowed=False)).order("a.example")).require(201)
    client = await _subscriber(wfe, others)
    (await client.post("/acme/new-order", {"identifiers": [{"type": "ip", "value": "8.8.8.8"}]})).require(201)
    off = await start(just_in_time_ms=0)
    (await (await _subscriber(off, others)).order("a.example")).require(201)
    assert await others.count("validation_requests") == 0
