"""Promises of the resolver, held against a real DNS server that misbehaves on demand."""

import asyncio
import gc
import ipaddress
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from acme_api.protocol.caa import CaaRecord
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import TRY_TIMEOUTS_S, Resolver, servers_of
from ca.process.lifecycle import StartupError
from tests.mock_dns import Kind, MockDns

SHORT_S = (0.07, 0.1)


def resolver_for(
    mock_dns: MockDns, *, localhost_names: bool = False, try_timeouts_s: Sequence[float] = TRY_TIMEOUTS_S
) -> Resolver:
    return Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom, localhost_names=localhost_names,
                    try_timeouts_s=try_timeouts_s)


async def test_sf1_addresses_of_both_families_come_ipv6_first(mock_dns: MockDns) -> None:
    """A and AAAA are asked by us, and IPv6 is first in line (SF6)."""
    mock_dns.set("a.example", "A", "192.0.2.1", "192.0.2.2")
    mock_dns.set("a.example", "AAAA", "2001:db8::1")
    answer = await resolver_for(mock_dns).addresses("a.example")
    assert str(answer.values[0]) == "2001:db8::1"
    assert {str(address) for address in answer.values[1:]} == {"192.0.2.1", "192.0.2.2"}


async def test_one_family_may_fail_while_the_other_answers(mock_dns: MockDns) -> None:
    """A server that cannot answer AAAA does not hide the A record; when nothing is left the failure shows."""
    mock_dns.set("a.example", "A", "192.0.2.1")
    mock_dns.misbehave("a.example", "servfail", rdtype="AAAA")
    answer = await resolver_for(mock_dns).addresses("a.example")
    assert answer.values == (ipaddress.ip_address("192.0.2.1"),)
    mock_dns.clear("a.example", "A")
    with pytest.raises(ValidationFailure, match="answered with SERVFAIL"):
        await resolver_for(mock_dns).addresses("a.example")


async def test_dn2_strings_of_one_record_are_joined_and_records_kept_apart(mock_dns: MockDns) -> None:
    """DN2: TXT strings join without a separator; every record is a value of its own."""
    mock_dns.set("t.example", "TXT", ["abc", "def"], "other", "")
    assert set((await resolver_for(mock_dns).txt("t.example")).values) == {b"abcdef", b"other", b""}


async def test_caa_records_keep_flags_tag_and_octets(mock_dns: MockDns) -> None:
    """What the decision gets is what the zone says."""
    mock_dns.set("c.example", "CAA", '128 Issue "ca.example; a=b"', '0 issue "\\000\\255"')
    values = (await resolver_for(mock_dns).caa("c.example")).values
    assert set(values) == {CaaRecord(flags=128, tag="Issue", value=b"ca.example; a=b"),
                           CaaRecord(flags=0, tag="issue", value=b"\x00\xff")}


async def test_nxdomain_and_no_data_are_answers(mock_dns: MockDns) -> None:
    """CA1: a name that does not exist and one without such records are both empty, and told apart."""
    mock_dns.set("a.example", "A", "192.0.2.1")
    resolver = resolver_for(mock_dns)
    nothing, missing = await resolver.caa("a.example"), await resolver.caa("b.example")
    assert (nothing.values, nothing.exists) == ((), True)
    assert (missing.values, missing.exists) == ((), False)


@pytest.mark.parametrize(("kind", "says"), [("servfail", "SERVFAIL"), ("refused", "REFUSED"), ("formerr", "FORMERR")])
async def test_ca8_failures_are_retried_once_and_then_fail(mock_dns: MockDns, kind: Kind, says: str) -> None:
    """CA8, E88, E93: SERVFAIL, REFUSED and the like are a transient failure of type dns after one retry."""
    mock_dns.misbehave("a.example", kind)
    with pytest.raises(ValidationFailure, match=f"TXT of a.example answered with {says}") as caught:
        await resolver_for(mock_dns).txt("a.example")
    assert (caught.value.type, caught.value.transient) == ("dns", True)
    assert len(mock_dns.queries) == 2
    assert mock_dns.address not in caught.value.detail


@pytest.mark.parametrize("kind", ["drop", "wrong-id", "foreign-question"])
async def test_e88_what_does_not_answer_the_question_is_not_heard(mock_dns: MockDns, kind: Kind) -> None:
    """E88: silence, a wrong query id and an answer to another question all end as a timeout of type dns."""
    mock_dns.set("a.example", "TXT", "value")
    mock_dns.misbehave("a.example", kind)
    with pytest.raises(ValidationFailure, match="no answer within") as caught:
        await resolver_for(mock_dns, try_timeouts_s=SHORT_S).txt("a.example")
    assert (caught.value.type, caught.value.transient) == ("dns", True)


async def test_a_late_answer_is_retried_in_time(mock_dns: MockDns) -> None:
    """A question whose datagram was lost is asked again within the five seconds."""
    mock_dns.set("a.example", "TXT", "value")
    mock_dns.misbehave("a.example", "drop")
    asked = asyncio.create_task(resolver_for(mock_dns, try_timeouts_s=SHORT_S).txt("a.example"))
    await asyncio.sleep(0.03)
    mock_dns.misbehave("a.example", "delay")
    assert (await asked).values == (b"value",)
    assert len(mock_dns.queries) == 2


async def test_sf6_no_question_takes_longer_than_five_seconds(mock_dns: MockDns) -> None:
    """SF6, E88: an answer that comes too late is no answer, and the wait ends after five seconds."""
    mock_dns.set("a.example", "TXT", "value")
    mock_dns.misbehave("a.example", "delay", delay_s=60.0)
    began_s = time.monotonic()
    with pytest.raises(ValidationFailure, match="no answer within 5 seconds"):
        await resolver_for(mock_dns).txt("a.example")
    assert 4.9 < time.monotonic() - began_s < 30


async def test_e88_malformed_answers_are_refused(mock_dns: MockDns) -> None:
    """An answer that cannot be parsed is asked again by TCP and then fails; no exception but ours escapes."""
    mock_dns.misbehave("a.example", "garbage")
    with pytest.raises(ValidationFailure) as caught:
        await resolver_for(mock_dns).txt("a.example")
    assert caught.value.type == "dns"


async def test_e88_out_of_bailiwick_records_are_not_read(mock_dns: MockDns) -> None:
    """E88: records of another name in the answer section are no answer."""
    mock_dns.set("a.example", "TXT", "value")
    mock_dns.misbehave("a.example", "foreign-answer")
    assert (await resolver_for(mock_dns).txt("a.example")).values == ()


@pytest.mark.parametrize("kind", ["truncate", "lower-case"])
async def test_dn4_truncated_or_respelled_answers_are_asked_by_tcp(mock_dns: MockDns, kind: Kind) -> None:
    """DN4: TC, or a question that does not repeat our random letter case, leads to TCP."""
    mock_dns.set("abcdefghijklmnopqrstuvwxyz.example", "TXT", "value")
    mock_dns.misbehave("abcdefghijklmnopqrstuvwxyz.example", kind)
    answer = await resolver_for(mock_dns).txt("abcdefghijklmnopqrstuvwxyz.example")
    assert answer.values == (b"value",)
    assert [query.transport for query in mock_dns.queries] == ["udp", "tcp"]


async def test_dn4_letter_case_and_payload_size(mock_dns: MockDns) -> None:
    """DN4: EDNS says 1232 octets, and the letter case differs from question to question."""
    mock_dns.set("abcdefghijklmnopqrstuvwxyz.example", "TXT", "value")
    for _ in range(5):
        await resolver_for(mock_dns).txt("abcdefghijklmnopqrstuvwxyz.example")
    assert {query.edns_payload_bytes for query in mock_dns.queries} == {1232}
    assert len({query.name for query in mock_dns.queries}) == 5


async def test_dn2_a_hundred_records_are_read_and_ten_thousand_refused(mock_dns: MockDns) -> None:
    """DN2, E89: 100 records come whole (by TCP); thousands are refused before they are parsed."""
    mock_dns.set("a.example", "TXT", *[f"{number:043}" for number in range(100)])
    resolver = resolver_for(mock_dns)
    assert len((await resolver.txt("a.example")).values) == 100
    mock_dns.set("a.example", "TXT", *[f"{number:04}" for number in range(2000)])
    with pytest.raises(ValidationFailure, match="too many records"):
        await resolver.txt("a.example")


async def test_dn1_alias_chains_up_to_sixteen_are_followed(mock_dns: MockDns) -> None:
    """DN1, E88: 16 aliases lead to the value, 17 and a loop are failures of type dns."""
    for hop in range(17):
        mock_dns.set(f"h{hop}.example", "CNAME", f"h{hop + 1}.example.")
    mock_dns.set("h17.example", "TXT", "value")
    mock_dns.set("loop.example", "CNAME", "loop.example.")
    resolver = resolver_for(mock_dns)
    answer = await resolver.txt("h1.example")
    assert answer.values == (b"value",)
    assert answer.aliases[-1] == "h17.example"
    for name in ("h0.example", "loop.example"):
        with pytest.raises(ValidationFailure, match="more than 16 aliases"):
            await resolver.txt(name)


async def test_a_resolver_that_stops_at_an_alias_is_asked_for_its_target(mock_dns: MockDns) -> None:
    """CA8: an alias without its target's answer is not "no records": the target is asked, so CAA fails closed."""
    mock_dns.set("a.example", "CNAME", "b.example.")
    mock_dns.set("b.example", "CAA", '0 issue ";"')
    mock_dns.misbehave("a.example", "half-chain")
    answer = await resolver_for(mock_dns).caa("a.example")
    assert len(answer.values) == 1
    assert answer.aliases == ("b.example",)
    mock_dns.misbehave("b.example", "servfail")
    with pytest.raises(ValidationFailure):
        await resolver_for(mock_dns).caa("a.example")


async def test_localhost_names_need_no_server(mock_dns: MockDns) -> None:
    """RFC 6761 6.3, when the setting says so: loopback addresses and no CAA without a question; TXT is asked."""
    mock_dns.set("_acme-challenge.a.localhost", "TXT", "value")
    resolver = resolver_for(mock_dns, localhost_names=True)
    assert {str(address) for address in (await resolver.addresses("a.localhost")).values} == {"::1", "127.0.0.1"}
    assert (await resolver.caa("a.localhost")).values == ()
    assert mock_dns.queries == []
    assert (await resolver.txt("_acme-challenge.a.localhost")).values == (b"value",)
    assert (await resolver_for(mock_dns).addresses("a.localhost")).values == ()


async def test_a_machine_without_any_resolver_fails_questions_and_not_the_process(tmp_path: Path) -> None:
    """No resolv.conf, an empty one, or nonsense in it: every question is serverInternal, .localhost works."""
    for content in (None, "", "search example\nnameserver banana\n"):
        path = tmp_path / "resolv.conf"
        if content is not None:
            path.write_text(content)
        resolver = Resolver(servers=servers_of("", resolv_conf=path), random_bytes=os.urandom, localhost_names=True)
        with pytest.raises(ValidationFailure, match=r"serverInternal: .*no DNS resolver is configured"):
            await resolver.caa("a.example")
        assert (await resolver.addresses("a.localhost")).values
        assert (await resolver.txt("_acme-challenge.a.localhost")).values == ()


async def test_an_unreachable_resolver_is_a_transient_failure() -> None:
    """P8: a resolver that is down is the CA's trouble: serverInternal, and tried again."""
    resolver = Resolver(servers=(("127.0.0.1", 1),), random_bytes=os.urandom)
    with pytest.raises(ValidationFailure, match="cannot be reached") as caught:
        await resolver.txt("a.example")
    assert (caught.value.type, caught.value.transient) == ("serverInternal", True)


def test_resolver_setting_is_checked_at_start(tmp_path: Path) -> None:
    """HOST:PORT, IPv6 in brackets, or the file; anything else refuses to start and says what is expected."""
    assert servers_of("127.0.0.1:5300") == (("127.0.0.1", 5300),)
    assert servers_of("[::1]:53") == (("::1", 53),)
    path = tmp_path / "resolv.conf"
    path.write_text("# comment\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions rotate\n")
    assert servers_of("", resolv_conf=path) == (("192.0.2.1", 53), ("2001:db8::1", 53))
    for wrong in ("127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000", ":dns"):
        with pytest.raises(StartupError, match="HOST:PORT"):
            servers_of(wrong)


async def test_names_that_do_not_fit_the_dns_are_refused() -> None:
    """A name that becomes too long with its prefix is a failure of type dns, not a fault."""
    resolver = Resolver(servers=(("127.0.0.1", 1),), random_bytes=os.urandom)
    with pytest.raises(ValidationFailure, match="too long"):
        await resolver.txt("_acme-challenge." + ".".join(["a" * 61] * 4))


async def test_a_silent_name_server_leaves_no_garbage(mock_dns: MockDns) -> None:
    """A lookup that fails by time leaves nothing for the cycle collector: thousands of them would stop the process for
    a second each time that it runs."""
    mock_dns.misbehave("a.example", "drop")
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom, try_timeouts_s=(0.05, 0.05))
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            with pytest.raises(ValidationFailure):
                await resolver.addresses("a.example")
        collected = gc.collect()
    finally:
        gc.enable()
    assert collected < 20
