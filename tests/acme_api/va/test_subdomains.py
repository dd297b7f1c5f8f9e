"""SU1 at the VA: what it looks at for an authorization that stands for the names below it, and what it stores of it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from acme_api.protocol.challenge import dns_account_label, dns_txt_value, offered
from acme_api.va.check import Checker
from acme_api.va.store import Outcome, VaStore
from ca.process.postgres import create_pool
from tests.acme_api.va.hostile import serve_bytes
from tests.acme_api.va.queue_rows import EXPECTED, Queue
from tests.acme_api.va.test_check import SERVED, checker_for, request
from tests.acme_api.va.test_dns_methods import ACCOUNT, PERSIST, RECORD, type_of
from tests.acme_api.va.test_perform import performing
from tests.fixtures_postgres import TestDatabase
from tests.mock_dns import MockDns

_METHODS = ("dns-01", "dns-account-01", "dns-persist-01")


@pytest.fixture
async def queue(database: TestDatabase) -> AsyncIterator[Queue]:
    """The queue of a fresh database."""
    opened = await Queue.open(database)
    yield opened
    await opened.close()


async def _check(mock_dns: MockDns, *, port: int = 80, offers: bool = True, **changes: Any) -> Outcome:
    asked = request(**{"challenge_type": "dns-01", "subdomains": True} | changes)
    return await checker_for(mock_dns, port=port, persist=True, subdomains=offers).check(asked)


def test_su1_by_the_dns_alone() -> None:
    """SU1, BR 3.2.2.4.19, 3.2.2.4.20: no method that looks at one server; nothing for addresses and wildcards."""
    assert offered("dns", wildcard=False, persist=True, subdomains=True) == _METHODS
    assert offered("dns", wildcard=False, persist=False, subdomains=True) == _METHODS[:2]
    assert offered("dns", wildcard=True, persist=True, subdomains=True) == ()
    assert offered("ip", wildcard=False, persist=True, subdomains=True) == ()


async def test_su1_the_record_at_the_ancestor(mock_dns: MockDns) -> None:
    """SU1: the usual record at the ancestor's usual name; the evidence names the Authorization Domain Name."""
    for owner in ("_acme-challenge", f"{dns_account_label(ACCOUNT)}._acme-challenge"):
        mock_dns.set(f"{owner}.a.example", "TXT", dns_txt_value(EXPECTED))
    for method in _METHODS[:2]:
        outcome = await _check(mock_dns, challenge_type=method)
        assert outcome.problem is None
        assert outcome.evidence["adn"] == "a.example"


async def test_su1_a_persistent_record_has_to_say_so(mock_dns: MockDns) -> None:
    """SU1, DP3: names below need policy=wildcard, as wildcards do."""
    mock_dns.set(PERSIST, "TXT", RECORD)
    wanted: dict[str, Any] = {"challenge_type": "dns-persist-01", "token": None, "persist_allowed": True}
    assert type_of(await _check(mock_dns, **wanted)) == "unauthorized"
    mock_dns.set(PERSIST, "TXT", f"{RECORD}; policy=wildcard")
    assert (await _check(mock_dns, **wanted)).problem is None


@pytest.mark.parametrize("changes", [
    {"challenge_type": "http-01"}, {"challenge_type": "tls-alpn-01"}, {"wildcard": True}, {"offers": False},
    {"identifier_type": "ip", "identifier_value": "127.0.0.1", "challenge_type": "http-01"}], ids=str)
async def test_su1_a_front_end_that_offered_more_is_not_believed(mock_dns: MockDns, changes: dict[str, Any]) -> None:
    """SU1: a captured front end makes an authorization for subdomains with a challenge of a web server, or without the
    operator's setting: the right answer is there, and nobody looks at it."""
    mock_dns.set("a.example", "A", "127.0.0.1")
    mock_dns.set("_acme-challenge.a.example", "TXT", dns_txt_value(EXPECTED))
    async with serve_bytes(SERVED) as server:
        assert type_of(await _check(mock_dns, port=server.port, **changes)) == "malformed"
        assert (server.connections, mock_dns.queries) == (0, [])
        plain = await _check(mock_dns, port=server.port, subdomains=False, challenge_type="http-01")
        assert plain.problem is None


async def test_su1_caa_of_the_real_name(mock_dns: MockDns) -> None:
    """SU1, CA9: the records that count are those of the name in the certificate, issuewild for a wildcard."""
    mock_dns.set("a.example", "CAA", '0 issue "ca.example"', '0 issuewild ";"')
    mock_dns.set("own.a.example", "CAA", '0 issue "other.example"')
    for name, kind in (("", None), ("x.y.a.example", None), ("*.y.a.example", "caa"), ("own.a.example", "caa"),
                       ("w.own.a.example", "caa")):
        mock_dns.queries.clear()
        outcome = await _check(mock_dns, kind="caa", caa_name=name, offers=False)
        assert (None if outcome.problem is None else type_of(outcome)) == kind
        assert (name.removeprefix("*.") or "a.example") in mock_dns.asked("CAA")
        assert mock_dns.asked("TXT") == []


def _offering(checker: Checker) -> Checker:
    checker._subdomains = True
    return checker


async def test_su1_the_validation_says_what_the_authorization_was_made_for(queue: Queue, mock_dns: MockDns) -> None:
    """SU1: the VA copies it, for an ordinary authorization too; a look at CAA is stored with the name it was for, one
    row a name; what is not below the authorization, or not in its one spelling, is dropped unasked."""
    for name in ("a.example", "b.example"):
        mock_dns.set(f"_acme-challenge.{name}", "TXT", dns_txt_value(EXPECTED))
    mock_dns.set("bad.a.example", "CAA", '0 issue ";"')
    async with performing(queue.database, 80, resolver=mock_dns.address, wrap=_offering):
        below = await queue.add("a.example", method="dns-01", subdomains=True)
        plain = await queue.add("b.example", method="dns-01")
        await queue.finished()
        for authorization_id, expected in ((below, True), (plain, False)):
            row = await queue.validation(authorization_id)
            assert row is not None
            assert (row["problem"], row["subdomains"]) == (None, expected)
        mock_dns.queries.clear()
        for name in ("", "x.a.example", "*.x.a.example", "bad.a.example", "x.b.example", "xa.example", "X.a.example",
                     "%.a.example", "a.example"):
            await queue.request(below, kind="caa", caa_name=name)
        for name in ("x.b.example", "*.b.example"):
            await queue.request(plain, kind="caa", caa_name=name)
        await queue.finished()
    rows = await queue.owner.fetch("SELECT authorization_id, caa_name, problem FROM caa_checks ORDER BY caa_name")
    assert [(row["authorization_id"], row["caa_name"], row["problem"] is None) for row in rows] == [
        (below, "", True), (below, "*.x.a.example", True), (below, "bad.a.example", False),
        (below, "x.a.example", True)]
    assert not {"x.b.example", "b.example", "xa.example"} & set(mock_dns.asked("CAA"))


async def test_su1_a_captured_front_end_cannot_change_its_mind(queue: Queue) -> None:
    """SU1: what the VA claims is what the authorization was made with; nobody but the VA says what was validated."""
    authorization_id = await queue.add("a.example", method="dns-01")
    pool = await create_pool(queue.database.settings, "acme_va", process="va")
    claimed, = await VaStore(pool, leased_by="me").claim(10)
    pool.terminate()
    assert claimed.authorization_id == authorization_id
    assert not claimed.subdomains
