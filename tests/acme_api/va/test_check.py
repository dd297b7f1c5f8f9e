"""Promises of one check: rows CH5, CH7, CA9, SF6 and the table of what validates what."""

import asyncio
import dataclasses
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from acme_api.protocol.challenge import dns_txt_value
from acme_api.va.caa import CaaChecker
from acme_api.va.check import Checker
from acme_api.va.dial import Dialer
from acme_api.va.dns01 import Dns01
from acme_api.va.dns_persist01 import DnsPersist01
from acme_api.va.http01 import Http01, Http01Ports
from acme_api.va.lanes import Lanes
from acme_api.va.look import Looker
from acme_api.va.methods import Methods
from acme_api.va.resolver import Resolver, servers_of
from acme_api.va.store import ClaimedRequest
from acme_api.va.tlsalpn01 import TlsAlpn01
from ca.process.ambient import Ambient
from tests.acme_api.va.hostile import open_policy, serve, serve_bytes
from tests.acme_api.va.queue_rows import EXPECTED, THUMBPRINT, TOKEN
from tests.mock_dns import MockDns

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SERVED = f"HTTP/1.1 200 OK\r\n\r\n{EXPECTED}".encode()
REQUEST = ClaimedRequest(
    id=b"r", kind="challenge", authorization_id=b"z", account_id=b"\x01" * 22, identifier_type="dns",
    identifier_value="a.example", wildcard=False, challenge_type="http-01", token=TOKEN, thumbprint=THUMBPRINT,
    attempts=1, obsolete=None)


def checker_for(
    mock_dns: MockDns, *, port: int = 80, try_timeout_s: float = 10.0, now: datetime = NOW,
    reuse: timedelta = timedelta(days=30), persist: bool = False, subdomains: bool = False,
) -> Checker:
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom)
    dialer = Dialer(resolver=resolver, policy=open_policy())
    methods = Methods(
        http_01=Http01(dialer=dialer, ports=Http01Ports(http=port), user_agent="x"), dns_01=Dns01(resolver=resolver),
        tls_alpn_01=TlsAlpn01(dialer=dialer, port=port),
        dns_persist_01=DnsPersist01(resolver=resolver, issuer_names=["ca.example"]),
        caa=CaaChecker(resolver=resolver, identities=frozenset({"ca.example"})))
    looker = Looker(methods=methods, lanes=Lanes(concurrency=5), try_timeout_s=try_timeout_s,
                    retry_delays_s=(0.05, 0.05))
    return Checker(looker=looker, ambient=Ambient(now=lambda: now, random_bytes=os.urandom), reuse=reuse,
                   account_url=lambda account_id: f"https://ca.example/{account_id.hex()}", persist=persist,
                   subdomains=subdomains)


def request(**changes: Any) -> ClaimedRequest:
    return dataclasses.replace(REQUEST, **changes)


async def test_success_says_until_when_and_keeps_small_evidence(mock_dns: MockDns) -> None:
    """A validation that succeeded is good for the reuse period, CAA was checked, the evidence is some hundred bytes."""
    mock_dns.set("a.example", "A", "127.0.0.1")
    mock_dns.set("example", "CAA", f'0 issue "ca.example; accounturi=https://ca.example/{"01" * 22}"')
    async with serve_bytes(SERVED) as server:
        outcome = await checker_for(mock_dns, port=server.port).check(REQUEST)
    assert outcome.problem is None
    assert (outcome.at, outcome.valid_until, outcome.caa_checked_at) == (NOW, NOW + timedelta(days=30), NOW)
    kinds = [kind for fact in outcome.evidence["facts"] for kind in fact]
    assert {"addresses", "connected", "response", "caa"} <= set(kinds)
    assert len(msgspec.json.encode(outcome.evidence)) < 900


@pytest.mark.parametrize(("changes", "rules", "adn"), [
    ({}, "BR 2.2.8 3.2.2.4.19", None),
    ({"challenge_type": "dns-01", "wildcard": True}, "BR 2.2.8 3.2.2.4.7", "a.example"),
    ({"challenge_type": "tls-alpn-01"}, "BR 2.2.8 3.2.2.4.20", None),
    ({"challenge_type": "dns-account-01"}, "BR 2.2.8 3.2.2.4.21", None),
    ({"challenge_type": "dns-persist-01", "token": None, "persist_allowed": True}, "BR 2.2.8 3.2.2.4.22", None),
    ({"identifier_type": "ip", "identifier_value": "10.0.0.1"}, "BR 2.2.8 3.2.2.5.6", None),
    ({"identifier_type": "ip", "identifier_value": "10.0.0.1", "challenge_type": "tls-alpn-01"},
     "BR 2.2.8 3.2.2.5.7", None),
    ({"kind": "caa"}, "BR 2.2.8 3.2.2.8", None)], ids=str)
async def test_the_record_names_the_rule_and_the_authorization_domain_name(
    mock_dns: MockDns, changes: dict[str, Any], rules: str, adn: str | None
) -> None:
    """BR 5.4.1, SC-099: whatever came out of it, the record says which rule was followed, and the Authorization Domain
    Name where it is not the name itself."""
    outcome = await checker_for(mock_dns).check(request(**changes))
    assert outcome.evidence["rules"] == rules
    assert outcome.evidence.get("adn") == adn


async def test_ch5_what_may_pass_is_tried_three_times(mock_dns: MockDns) -> None:
    """CH5: a name that does not resolve is tried three times, and the third answer is the one that counts."""
    outcome = await checker_for(mock_dns).check(REQUEST)
    assert len(mock_dns.asked("A")) == 3
    assert outcome.problem == {"type": "urn:ietf:params:acme:error:dns", "status": 400,
                               "detail": "a.example does not exist (NXDOMAIN)"}
    assert (outcome.valid_until, outcome.caa_checked_at) == (None, None)
    assert [fact["attempt"] for fact in outcome.evidence["facts"] if "failed" in fact] == [1, 2, 3]


async def test_ch5_a_server_that_comes_up_in_time_validates(mock_dns: MockDns) -> None:
    """CH5: 404 at the first try, the right answer at the second: valid."""
    mock_dns.set("a.example", "A", "127.0.0.1")
    answers = [b"HTTP/1.1 404 Not Found\r\n\r\n", SERVED]
    async with serve_bytes(lambda _head: answers.pop(0)) as server:
        outcome = await checker_for(mock_dns, port=server.port).check(REQUEST)
    assert outcome.problem is None


async def test_ch5_wrong_content_fails_at_once(mock_dns: MockDns) -> None:
    """CH5, CH7: wrong content is not asked for again, and the problem is complete."""
    mock_dns.set("a.example", "A", "127.0.0.1")
    async with serve_bytes(b"HTTP/1.1 200 OK\r\n\r\nwrong") as server:
        outcome = await checker_for(mock_dns, port=server.port).check(REQUEST)
        assert server.connections == 1
    assert outcome.problem is not None
    assert outcome.problem["type"].endswith(":incorrectResponse")
    assert outcome.problem["status"] == 400


async def test_ca9_caa_is_checked_after_the_challenge(mock_dns: MockDns) -> None:
    """CA9, E94: the challenge is right but CAA forbids: caa with status 403; its lookup is retried by itself."""
    mock_dns.set("a.example", "A", "127.0.0.1")
    mock_dns.set("a.example", "CAA", '0 issue ";"')
    async with serve_bytes(SERVED) as server:
        outcome = await checker_for(mock_dns, port=server.port).check(REQUEST)
        assert outcome.problem is not None
        assert (outcome.problem["type"], outcome.problem["status"]) == ("urn:ietf:params:acme:error:caa", 403)
        mock_dns.misbehave("a.example", "servfail", rdtype="CAA")
        outcome = await checker_for(mock_dns, port=server.port).check(REQUEST)
        assert server.connections == 2
    assert outcome.problem is not None
    assert outcome.problem["type"].endswith(":dns")
    assert mock_dns.asked("CAA").count("a.example") == 1 + 3 * 2


async def test_a_caa_request_looks_at_caa_alone(mock_dns: MockDns) -> None:
    """CA9: a check before signing asks no challenge; it uses the method that was validated and the wild card."""
    mock_dns.set("a.example", "CAA", '0 issue "ca.example; validationmethods=dns-01"', '0 issuewild ";"')
    check = checker_for(mock_dns).check
    assert (await check(request(kind="caa", challenge_type="dns-01"))).problem is None
    assert (await check(request(kind="caa", challenge_type="http-01"))).problem is not None
    assert (await check(request(kind="caa", challenge_type="dns-01", wildcard=True))).problem is not None
    assert mock_dns.asked("A") == []


@pytest.mark.parametrize("changes", [
    {"wildcard": True}, {"wildcard": True, "challenge_type": "tls-alpn-01"}, {"challenge_type": "nope-01"},
    {"identifier_type": "ip", "identifier_value": "127.0.0.1", "challenge_type": "dns-01"}, {"token": None},
    {"token": "short"}, {"token": TOKEN + "\r\nX: y"}, {"thumbprint": b"short"}, {"identifier_type": "email"},
], ids=str)
async def test_what_the_rules_do_not_offer_is_never_validated(mock_dns: MockDns, changes: dict[str, Any]) -> None:
    """H1, TA1, IP4: a request that a front end should not have made is refused without a packet."""
    outcome = await checker_for(mock_dns).check(request(**changes))
    assert outcome.problem is not None
    assert outcome.problem["type"].endswith(":malformed")
    assert mock_dns.queries == []


async def test_wildcards_are_validated_by_dns(mock_dns: MockDns) -> None:
    """DN1: the authorization of a wild card holds the base name, and dns-01 alone validates it."""
    mock_dns.set("_acme-challenge.a.example", "TXT", dns_txt_value(EXPECTED))
    outcome = await checker_for(mock_dns).check(request(wildcard=True, challenge_type="dns-01"))
    assert outcome.problem is None


async def test_sf6_the_deadline_names_what_was_waited_for(mock_dns: MockDns) -> None:
    """SF6, SF4: a server that says nothing is left at the deadline; the detail has address, phase and time."""

    async def stall(*_streams: object) -> None:
        await asyncio.sleep(60)

    mock_dns.set("a.example", "A", "127.0.0.1")
    async with serve(stall) as server:
        outcome = await checker_for(mock_dns, port=server.port, try_timeout_s=1.2).check(REQUEST)
        assert server.connections == 3
    assert outcome.problem is not None
    assert outcome.problem["type"].endswith(":connection")
    assert outcome.problem["detail"] == (
        f"timed out after 1.2 seconds while waiting for the response of 127.0.0.1 port {server.port}")


async def test_a_request_that_cannot_be_carried_out_has_an_end(mock_dns: MockDns) -> None:
    """P8: what broke our own code again and again becomes serverInternal without any internals."""
    outcome = checker_for(mock_dns).give_up(REQUEST)
    assert outcome.problem == {"type": "urn:ietf:params:acme:error:serverInternal", "status": 500,
                               "detail": "the validation could not be carried out"}
