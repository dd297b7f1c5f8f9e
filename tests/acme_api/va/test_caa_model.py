"""The CAA decision against a second, small reading of RFC 8659 and RFC 8657 that shares no code with the first.

The model reads a value letter by letter where the decision has one regular expression, and climbs by a loop where the
checker asks every name at once. Zones are made of parts that mean something, so that each rule is met often.
"""

import asyncio
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_api.protocol.caa import CaaRecord
from acme_api.va.caa import CaaChecker
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import Answer, Resolver
from ca.pki.identifier import Identifier
from tests.acme_api.va.hostile import new_evidence

Verdict: TypeAlias = Literal["permitted", "caa", "dns"]
ACCOUNT = "https://ca.example/acme/account/AZ0"
NAME = "a.b.c.example"
NAMES = ("a.b.c.example", "b.c.example", "c.example", "example")
METHODS = ("http-01", "dns-01", "dns-persist-01")
LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Zone:
    """What the DNS says: records by name, and names whose lookup fails."""

    records: Mapping[str, tuple[CaaRecord, ...]]
    failing: frozenset[str]

    async def caa(self, name: str) -> Answer[CaaRecord]:
        """As the resolver answers."""
        await asyncio.sleep(0)
        if name in self.failing:
            raise ValidationFailure("dns", f"CAA of {name} answered with SERVFAIL", transient=True)
        return Answer(name=name, rdtype="CAA", values=self.records.get(name, ()))


def model_verdict(zone: Zone, *, wildcard: bool, method: str) -> Verdict:
    """RFC 8659 3: the first set that is not empty decides; what cannot be known before it is a failure (row CA8)."""
    rest = NAME
    while rest:
        if rest in zone.failing:
            return "dns"
        if zone.records.get(rest):
            return "permitted" if model_set(zone.records[rest], wildcard=wildcard, method=method) else "caa"
        rest = rest.partition(".")[2]
    return "permitted"


def model_set(records: tuple[CaaRecord, ...], *, wildcard: bool, method: str) -> bool:
    """RFC 8659 4: critical tags that nobody knows, then the property that counts for this kind of name."""
    known = ["issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"]
    tags = [record.tag.lower() for record in records]
    for record, tag in zip(records, tags, strict=True):
        if tag not in known and (record.flags >= 128 or record.flags % 2 == 1):
            return False
    wanted = "issuewild" if wildcard and "issuewild" in tags else "issue"
    values = [record.value for record, tag in zip(records, tags, strict=True) if tag == wanted]
    return not values or any(model_value(value, method) for value in values)


def model_value(value: bytes, method: str) -> bool:
    """Whether one property names us: a value with any letter where it may not be names nobody."""
    head, *parts = value.decode("latin-1").split(";")
    issuer = head.strip(" \t")
    if issuer.lower() not in ("ca.example", "ca2.example"):
        return False
    found: dict[str, list[str]] = {}
    if len(parts) == 1 and not parts[0].strip(" \t"):
        parts = []
    for part in parts:
        tag, equals, content = part.partition("=")
        tag, content = tag.strip(" \t"), content.strip(" \t")
        if not equals or not model_label(tag) or any(not "!" <= letter <= "~" for letter in content):
            return False
        found.setdefault(tag.lower(), []).append(content)
    accounts, methods = found.get("accounturi", []), found.get("validationmethods", [])
    if accounts and accounts != [ACCOUNT]:
        return False
    if not methods:
        return True
    labels = methods[0].split(",")
    return len(methods) == 1 and method in labels and all(
        label and all(letter in LETTERS + "-" for letter in label) for label in labels)


def model_label(label: str) -> bool:
    """RFC 8659 4.2: letters, digits and hyphens, neither first nor last a hyphen."""
    return label != "" and all(letter in LETTERS + "-" for letter in label) and label[0] != "-" != label[-1]


SPACE = st.sampled_from(["", "", "", " ", "\t ", "\n"])
ISSUER = st.sampled_from(["ca.example", "ca.example", "CA2.Example", "other.example", "", "ca.example.", "ca..example",
                          "-ca.example", "%%", "ca.example ca.example"])
PARAMETER = st.sampled_from([
    f"accounturi={ACCOUNT}", f"accounturi={ACCOUNT}", f"AccountURI = {ACCOUNT}", f"accounturi={ACCOUNT}x",
    "accounturi=", "accounturi", "validationmethods=http-01", "validationmethods=dns-01,http-01",
    "ValidationMethods=dns-persist-01", "validationmethods=dns_01", "validationmethods=,http-01",
    "validationmethods=http-01 ,dns-01", "validationmethods=", "future=1", "future=a b", "fu_ture=1", "-x=1", "=1", "",
    "x=\x7f", "x=\xe9"])


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """A value that often means something."""
    parts = [draw(ISSUER), *draw(st.lists(PARAMETER, max_size=3))]
    return ";".join(draw(SPACE) + part + draw(SPACE) for part in parts).encode("latin-1")


RECORD = st.builds(
    CaaRecord, flags=st.sampled_from([0, 0, 0, 128, 1, 2, 255]),
    tag=st.sampled_from(["issue", "issue", "ISSUE", "issuewild", "issuewild", "iodef", "issuemail", "unknown", "issu"]),
    value=values() | st.binary(max_size=12))
RECORDS = st.dictionaries(st.sampled_from(NAMES), st.lists(RECORD, max_size=3).map(tuple), max_size=4)
ZONE = st.builds(Zone, RECORDS, st.frozensets(st.sampled_from(NAMES), max_size=1) | st.just(frozenset[str]()))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all examples."""
    with asyncio.Runner() as opened:
        yield opened


def verdict(runner: asyncio.Runner, zone: Zone, *, wildcard: bool, method: str) -> Verdict:
    """What the checker says."""
    checker = CaaChecker(resolver=cast(Resolver, zone), identities=frozenset({"ca.example", "ca2.example"}))
    try:
        runner.run(checker.require_permission(
            Identifier(type="dns", value=NAME), wildcard=wildcard, method=method, account_url=ACCOUNT,
            evidence=new_evidence()))
    except ValidationFailure as failure:
        return cast(Verdict, failure.type)
    return "permitted"


@settings(max_examples=1500, deadline=None)
@given(zone=ZONE, wildcard=st.booleans(), method=st.sampled_from(METHODS))
def test_the_decision_is_the_models(runner: asyncio.Runner, zone: Zone, wildcard: bool, method: str) -> None:
    """CA1, CA3 to CA8, CA11: for every zone, name, wild card and method the two readings agree, the climb included."""
    assert verdict(runner, zone, wildcard=wildcard, method=method) == model_verdict(
        zone, wildcard=wildcard, method=method)


@settings(max_examples=500, deadline=None)
@given(value=values() | st.binary(max_size=40), method=st.sampled_from(METHODS))
def test_one_value_alone(runner: asyncio.Runner, value: bytes, method: str) -> None:
    """CA4, CA6, CA7: a single issue property, so that none hides another's mistake."""
    zone = Zone({"example": (CaaRecord(flags=0, tag="issue", value=value),)}, frozenset())
    assert verdict(runner, zone, wildcard=False, method=method) == ("permitted" if model_value(value, method)
                                                                  else "caa")


@pytest.mark.parametrize("expected", ["permitted", "caa", "dns"])
def test_the_zones_meet_every_verdict(expected: Verdict) -> None:
    """The model is no constant: zones of the kind above lead to each of the three."""
    ours = CaaRecord(flags=0, tag="issue", value=b"ca.example")
    zones = {
        "permitted": Zone({"c.example": (ours,)}, frozenset({"example"})),
        "caa": Zone({"c.example": (CaaRecord(flags=0, tag="issue", value=b";"), )}, frozenset({"example"})),
        "dns": Zone({"example": (ours,)}, frozenset({"c.example"}))}
    assert model_verdict(zones[expected], wildcard=False, method="http-01") == expected
