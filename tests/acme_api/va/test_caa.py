"""Promises of the CAA lookup: rows CA1-CA9, CA11, E93-E95."""

import asyncio
import os

import pytest

from acme_api.va.caa import CaaChecker
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import Resolver, servers_of
from ca.pki.identifier import Identifier
from tests.acme_api.va.hostile import new_evidence, serve_bytes
from tests.mock_dns import Kind, MockDns

ACCOUNT = "https://ca.example/acme/account/AZ0"


async def check(
    mock_dns: MockDns, name: str = "a.b.example", *, method: str = "http-01", identifier_type: str = "dns",
    exempt: tuple[str, ...] = (), localhost_names: bool = False, try_timeout_s: float = 0.5,
) -> list[str]:
    """Returns the kinds of evidence when issuance is permitted; raises ValidationFailure when not."""
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom, localhost_names=localhost_names,
                        try_timeouts_s=(try_timeout_s, try_timeout_s))
    checker = CaaChecker(resolver=resolver, identities=frozenset({"ca.example"}), exempt_suffixes=exempt)
    evidence = new_evidence()
    await checker.require_permission(
        Identifier(type=identifier_type, value=name.removeprefix("*.")), wildcard=name.startswith("*."), method=method,
        account_url=ACCOUNT, evidence=evidence)
    return [kind for fact in evidence.to_json()["facts"] for kind in fact if kind != "ms"]


async def refused(mock_dns: MockDns, name: str = "a.b.example", **options: str) -> ValidationFailure:
    with pytest.raises(ValidationFailure) as caught:
        await check(mock_dns, name, method=options.get("method", "http-01"))
    return caught.value


async def test_ca1_every_name_up_to_the_top_level_domain_is_asked(mock_dns: MockDns) -> None:
    """CA1: the name and its parents, not the root; nothing anywhere permits."""
    await check(mock_dns, "*.a.b.example")
    assert sorted(mock_dns.asked("CAA")) == ["a.b.example", "b.example", "example"]


async def test_ca1_the_closest_set_decides(mock_dns: MockDns) -> None:
    """CA1: a set at the name hides the one of its parent, in both directions."""
    mock_dns.set("a.b.example", "CAA", '0 issue "ca.example"')
    mock_dns.set("b.example", "CAA", '0 issue "other.example"')
    await check(mock_dns)
    caught = await refused(mock_dns, "c.b.example")
    assert caught.type == "caa"
    assert not caught.transient
    assert "other.example" in caught.detail


async def test_ca2_e95_climbing_goes_by_the_original_name(mock_dns: MockDns) -> None:
    """CA2, E95: an alias is followed for its own question alone: the parents of its target are not looked at."""
    mock_dns.set("a.b.example", "CNAME", "x.elsewhere.example2.")
    mock_dns.set("elsewhere.example2", "CAA", '0 issue "ca.example"')
    mock_dns.set("b.example", "CAA", '0 issue ";"')
    assert (await refused(mock_dns)).type == "caa"
    mock_dns.set("x.elsewhere.example2", "CAA", '0 issue "ca.example"')
    await check(mock_dns)


@pytest.mark.parametrize("records", [['0 issue ";"'], ['128 foo "x"'], ['0 issue ""'], ['0 issue "%%"'],
                                     ['0 issue "other.example"'], ['0 issue "ca.example; accounturi=x:y"'],
                                     ['0 issue "ca.example; validationmethods=dns-01"'],
                                     ['0 issue "ca.example; accounturi"'],
                                     ['0 issue "ca.example; validationmethods=dns_01"']], ids=str)
async def test_e94_forbidding_records_are_caa_failures(mock_dns: MockDns, records: list[str]) -> None:
    """E94: each of them forbids, is not tried again, and the detail names the property and why."""
    mock_dns.set("b.example", "CAA", *records)
    caught = await refused(mock_dns)
    assert (caught.type, caught.transient) == ("caa", False)
    assert caught.detail.startswith("the CAA records for a.b.example forbid issuance: ")


async def test_e94_e95_permitting_records(mock_dns: MockDns) -> None:
    """E95, CA3, CA6, CA7: upper case, iodef alone, unknown tags, our account with the method that was used."""
    for records in (['0 ISSUE "CA.EXAMPLE"'], ['0 iodef "mailto:x@y.example"'], ['0 future "x"'],
                    ['0 issuewild "other.example"'],
                    [f'0 issue "ca.example; accounturi={ACCOUNT}; validationmethods=http-01"']):
        mock_dns.set("b.example", "CAA", *records)
        await check(mock_dns)
    mock_dns.set("b.example", "CAA", '0 issue "ca.example"', '0 issuewild ";"')
    assert (await refused(mock_dns, "*.b.example")).type == "caa"


@pytest.mark.parametrize("kind", ["servfail", "refused", "garbage"])
@pytest.mark.parametrize("where", ["a.b.example", "b.example", "example"])
async def test_ca8_e93_a_failure_before_any_set_fails_closed(mock_dns: MockDns, where: str, kind: Kind) -> None:
    """CA8, E93: not knowing is not permission: type dns, after a retry, whatever a parent would permit."""
    mock_dns.misbehave(where, kind, rdtype="CAA")
    if where != "example":
        mock_dns.set("example", "CAA", '0 issue "ca.example"')
    caught = await refused(mock_dns)
    assert (caught.type, caught.transient) == ("dns", True)
    assert mock_dns.asked("CAA").count(where) >= 2


async def test_ca8_a_timeout_fails_closed(mock_dns: MockDns) -> None:
    """CA8, E93: silence at a parent is a dns failure, not an empty set."""
    mock_dns.misbehave("b.example", "drop", rdtype="CAA")
    assert (await refused(mock_dns)).type == "dns"


async def test_ca11_a_failure_behind_the_deciding_set_does_not_matter(mock_dns: MockDns) -> None:
    """CA11: what is closer decides; a failure further up is not looked at."""
    mock_dns.set("a.b.example", "CAA", '0 issue "ca.example"')
    mock_dns.misbehave("example", "servfail", rdtype="CAA")
    await check(mock_dns)


async def test_ca11_questions_are_asked_at_once(mock_dns: MockDns) -> None:
    """CA11: ten slow labels take as long as one."""
    name = ".".join("abcdefghi") + ".example"
    for start in range(10):
        mock_dns.misbehave(".".join(name.split(".")[start:]), "delay", delay_s=1.0)
    async with asyncio.timeout(9):
        await check(mock_dns, name, try_timeout_s=9)


async def test_ca11_e93_too_many_records_are_refused(mock_dns: MockDns) -> None:
    """CA11, E93: 100 records are read, more are a dns failure."""
    mock_dns.set("b.example", "CAA", '0 issue "ca.example"', *[f'0 issue "x{number}.example"' for number in range(99)])
    await check(mock_dns)
    mock_dns.add("b.example", "CAA", '0 issue "one-more.example"')
    assert (await refused(mock_dns)).type == "dns"


async def test_ip4_addresses_and_exempt_names_are_not_looked_up(mock_dns: MockDns) -> None:
    """IP4: no CAA for addresses; nor for a suffix that an internal CA exempts, nor under .localhost."""
    assert await check(mock_dns, "192.0.2.1", identifier_type="ip") == ["caa"]
    assert await check(mock_dns, "x.corp.example", exempt=(".Corp.example",)) == ["caa"]
    assert await check(mock_dns, "corp.example", exempt=("corp.example",)) == ["caa"]
    await check(mock_dns, "a.localhost", localhost_names=True)
    assert mock_dns.queries == [] or mock_dns.asked("CAA") == []
    await check(mock_dns, "xcorp.example", exempt=("corp.example",))
    assert "xcorp.example" in mock_dns.asked("CAA")


async def test_ca10_no_reports_are_sent(mock_dns: MockDns) -> None:
    """CA10: iodef addresses are strangers' URLs; whoever forbids issuance there gets no packet from us."""
    async with serve_bytes(b"HTTP/1.1 200 OK\r\n\r\n") as server:
        mock_dns.set("b.example", "CAA", '0 issue ";"', f'0 iodef "http://127.0.0.1:{server.port}/report"')
        assert (await refused(mock_dns)).type == "caa"
        await asyncio.sleep(0.2)
        assert server.connections == 0
