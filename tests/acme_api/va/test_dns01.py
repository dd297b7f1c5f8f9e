"""Promises of dns-01: rows DN1, DN2, E88-E90."""

import os

import pytest

from acme_api.protocol.challenge import dns_txt_value, key_authorization
from acme_api.va.dns01 import Dns01
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import Resolver, servers_of
from ca.pki.identifier import Identifier
from tests.acme_api.va.hostile import new_evidence
from tests.mock_dns import Kind, MockDns, Value

TOKEN = "A" * 43
AUTHORIZATION = key_authorization(TOKEN, b"\x07" * 32)
VALUE = dns_txt_value(AUTHORIZATION)
OWNER = "_acme-challenge.a.example"


async def validate(mock_dns: MockDns, name: str = "a.example") -> None:
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom)
    await Dns01(resolver=resolver).validate(Identifier(type="dns", value=name), AUTHORIZATION, new_evidence())


ACCEPTED: dict[str, list[Value]] = {
    "one record": [VALUE],
    "two values at once": ["x" * 43, VALUE],
    "split 20 + 23 (E89)": [[VALUE[:20], VALUE[20:]]],
    "split into single characters": [list(VALUE)],
    "99 wrong and 1 right (E89)": [*[f"{number:043}" for number in range(99)], VALUE],
}


@pytest.mark.parametrize("records", ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_dn2_any_one_record_may_match(mock_dns: MockDns, records: list[Value]) -> None:
    """DN2, E89: strings of a record are joined, other records do not matter, a hundred of them neither."""
    mock_dns.set(OWNER, "TXT", *records)
    await validate(mock_dns)


REFUSED: dict[str, list[Value]] = {
    "in quotes (E89)": [f'"{VALUE}"'],
    "trailing space (E89)": [VALUE + " "],
    "line end": [VALUE + "\n"],
    "lower-cased (E89)": [VALUE.lower()],
    "padded (E89)": [VALUE + "="],
    "raw key authorization (E89)": [AUTHORIZATION],
    "64 KiB (E89)": ["x" * 60_000],
    "empty": [""],
    "two halves in two records": [VALUE[:20], VALUE[20:]],
    "another account (E90)": [dns_txt_value(key_authorization(TOKEN, b"\x08" * 32))],
    "another token (E90)": [dns_txt_value(key_authorization("B" * 43, b"\x07" * 32))],
    "the value and more": [VALUE + "x"],
}


@pytest.mark.parametrize("records", REFUSED.values(), ids=REFUSED.keys())
async def test_dn2_values_are_compared_exactly(mock_dns: MockDns, records: list[Value]) -> None:
    """DN2, E89, E90: only wrong values: incorrectResponse, at once, without a record's text in the detail (SF4)."""
    mock_dns.set(OWNER, "TXT", *records)
    with pytest.raises(ValidationFailure) as caught:
        await validate(mock_dns)
    assert (caught.value.type, caught.value.transient) == ("incorrectResponse", False)
    assert not any(isinstance(record, str) and record.strip() and record[:20] in caught.value.detail
                   for record in records)


async def test_dn1_nothing_there_may_pass(mock_dns: MockDns) -> None:
    """DN2, CH5: no TXT record and NXDOMAIN are type dns and tried again; the detail tells them apart."""
    with pytest.raises(ValidationFailure, match="NXDOMAIN") as caught:
        await validate(mock_dns)
    assert (caught.value.type, caught.value.transient) == ("dns", True)
    mock_dns.set(OWNER, "A", "192.0.2.1")
    with pytest.raises(ValidationFailure, match="no TXT record"):
        await validate(mock_dns)


async def test_e90_a_value_at_another_name_does_not_count(mock_dns: MockDns) -> None:
    """E90: the right value at the parent, at the name itself or under a wild card is not found."""
    for owner in ("_acme-challenge.example", "a.example", "_acme-challenge.*.a.example"):
        mock_dns.set(owner, "TXT", VALUE)
    with pytest.raises(ValidationFailure) as caught:
        await validate(mock_dns)
    assert caught.value.type == "dns"


async def test_dn1_wildcards_are_validated_at_the_base_name(mock_dns: MockDns) -> None:
    """DN1: `*.a.example` is asked at `_acme-challenge.a.example`, where the base name's value may be as well."""
    mock_dns.set(OWNER, "TXT", "x" * 43, VALUE)
    await validate(mock_dns, "*.a.example")
    assert mock_dns.asked("TXT") == [OWNER]


async def test_dn1_aliases_are_followed(mock_dns: MockDns) -> None:
    """DN1: a delegated challenge name leads to the value."""
    mock_dns.set(OWNER, "CNAME", "a.acme-dns.example.")
    mock_dns.set("a.acme-dns.example", "TXT", VALUE)
    await validate(mock_dns)


@pytest.mark.parametrize("kind", ["servfail", "refused", "garbage"])
async def test_e88_resolver_failures_are_dns_and_may_pass(mock_dns: MockDns, kind: Kind) -> None:
    """E88, H5: whatever keeps the resolver from answering is type dns."""
    mock_dns.misbehave(OWNER, kind)
    with pytest.raises(ValidationFailure) as caught:
        await validate(mock_dns)
    assert (caught.value.type, caught.value.transient) == ("dns", True)
