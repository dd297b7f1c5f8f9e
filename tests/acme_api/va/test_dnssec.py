"""Promises about DNSSEC, on a real validating resolver with a root of its own: rows DN1 to DN4, CA8, E88, E89, E93."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol.challenge import dns_txt_value
from acme_api.va import dnssec
from acme_api.va.caa import CaaChecker
from acme_api.va.dns01 import Dns01
from acme_api.va.dns_errors import why
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import Resolver, servers_of
from ca.pki.identifier import Identifier
from tests.namespaces import Namespace, namespaces
from tests.signed_dns import ROOT_SERVER, Zone, authoritative, unbound, write_zones

TLD_SERVER, HOSTER, OTHER_HOSTER = "192.0.2.1", "192.0.2.53", "192.0.2.54"
KEY_AUTHORIZATION = "t" * 43 + "." + "k" * 43
RIGHT = dns_txt_value(KEY_AUTHORIZATION)
WRONG = [f"{number:043d}" for number in range(99)]
NOT_VALIDATING, OVERLOOKING, INTERNAL = 5301, 5302, 5303


def _challenge(name: str = "_acme-challenge") -> str:
    return f'{name} IN TXT "{RIGHT}"'


def _zone(name: str, records: str = "", **options: object) -> Zone:
    return Zone(name=name, records=records or _challenge() + '\n@ IN CAA 0 issue "ca.example"\n@ IN A 203.0.113.7',
                server=HOSTER, **options)  # type: ignore[arg-type]


def _chain(hops: int) -> str:
    """c0 -> c1 -> ... -> an address and the challenge."""
    aliases = "\n".join(f"c{number} IN CNAME c{number + 1}" for number in range(hops))
    return f"{aliases}\n{_challenge(f'c{hops}')}"


ALIASES = "\n".join([
    "loop1 IN CNAME loop2", "loop2 IN CNAME loop1", "self IN CNAME self", "dname IN DNAME dname",
    "_acme-challenge IN CNAME _acme-challenge.plain.lab.", "tobogus IN CNAME _acme-challenge.bogus.lab.",
    "empty IN A 203.0.113.7", _chain(17)])
MANY = "\n".join([*(f'_acme-challenge IN TXT "{value}"' for value in WRONG), _challenge()])
ZONES = (
    Zone(name=".", records="", server=ROOT_SERVER),
    Zone(name="lab", records="", server=TLD_SERVER, signed="optout"),
    Zone(name="nsec", records="", server=TLD_SERVER),
    Zone(name="bare", records="", server=TLD_SERVER, signed="", ds="none"),
    _zone("good.lab"), _zone("nsec3.lab", signed="nsec3"), _zone("good.nsec"), _zone("aliases.lab", ALIASES),
    _zone("many.lab", MANY), _zone("plain.lab", signed="", ds="none"), _zone("plain.nsec", signed="", ds="none"),
    _zone("zone.bare", signed="", ds="none"),
    _zone("split.lab", f'_acme-challenge IN TXT "{RIGHT[:20]}" "{RIGHT[20:]}"'),
    _zone("bogus.lab", replace={RIGHT: "x" * 43, "203.0.113.7": "203.0.113.66", '"ca.example"': '"ca.evil"'}),
    _zone("expired.lab", expired=True), _zone("wrongds.lab", ds="wrong"), _zone("stripped.lab", signed="", ds="wrong"),
    _zone("lame.lab", served="refused", signed="", ds="none"),
    _zone("broken.lab", served="servfail", signed="", ds="none"),
    Zone(name="corp", records=f"*.corp. IN TXT {RIGHT}", server=OTHER_HOSTER, delegated=False),
    Zone(name="intra", records=f"*.intra. IN TXT {RIGHT}", server=OTHER_HOSTER, signed="", delegated=False),
    Zone(name="dead.lab", records="", server="192.0.2.55", signed="", ds="none", served="dead"),
)


@dataclass(frozen=True, slots=True)
class Lab:
    """The host that the servers and the resolvers run on."""

    host: Namespace

    def resolver(self, port: int = 53, *, require_dnssec: bool = True) -> Resolver:
        """Asks one of the resolvers, patiently: failing for want of time is not what is tried here."""
        return Resolver(servers=servers_of(f"127.0.0.1:{port}"), random_bytes=os.urandom,
                        require_dnssec=require_dnssec, try_timeouts_s=(15.0, 15.0))

    async def validate(self, name: str, resolver: Resolver | None = None) -> list[Mapping[str, object]]:
        """dns-01 for the name; its evidence."""
        evidence = Evidence(lambda: datetime.now(UTC))
        with self.host.entered():
            await Dns01(resolver=resolver or self.resolver()).validate(
                Identifier(type="dns", value=name), KEY_AUTHORIZATION, evidence)
        facts: list[Mapping[str, object]] = evidence.to_json()["facts"]
        return facts

    async def failure(self, name: str, resolver: Resolver | None = None) -> ValidationFailure:
        """Why dns-01 for the name fails."""
        with pytest.raises(ValidationFailure) as failed:
            await self.validate(name, resolver)
        return failed.value


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Every zone is served, and asked by a resolver as deploy/unbound makes it, and by two that are set up wrong."""
    directory = tmp_path_factory.mktemp("dns")
    anchor = write_zones(ZONES, directory)
    with namespaces("dns") as [host], authoritative(ZONES, host, directory), unbound(host, directory, anchor), unbound(
            host, directory, anchor, port=NOT_VALIDATING, validating=False), unbound(
            host, directory, anchor, port=OVERLOOKING, overlooks="good.lab"), unbound(
            host, directory, anchor, port=INTERNAL, internal={"corp": OTHER_HOSTER, "intra": OTHER_HOSTER}):
        yield Lab(host)


@pytest.mark.parametrize(("name", "authenticated"), [
    ("good.lab", True), ("good.nsec", True), ("nsec3.lab", True), ("many.lab", True), ("split.lab", True),
    ("plain.lab", None), ("plain.nsec", None), ("zone.bare", None), ("aliases.lab", None)])
async def test_dn3_what_validates(lab: Lab, name: str, authenticated: bool | None) -> None:
    """DN3, DN4, E89: signed zones with NSEC and NSEC3 are authenticated; insecure delegations (below NSEC, below
    opt-out, a whole unsigned TLD, an alias into an unsigned zone) are unsigned; 100 TXT records come over TCP."""
    facts = await lab.validate(name)
    assert facts[0].get("dnssec") is authenticated


@pytest.mark.parametrize(("name", "words"), [
    ("bogus.lab", "DNSSEC"), ("expired.lab", "a signature has expired"),
    ("wrongds.lab", "no DNSKEY of the zone fits the DS record in its parent zone"), ("stripped.lab", "DNSSEC"),
    ("lame.lab", "SERVFAIL"), ("broken.lab", "SERVFAIL"), ("dead.lab", "")])
async def test_e88_what_fails_and_in_which_words(lab: Lab, name: str, words: str) -> None:
    """DN3, E88, P8: bogus, expired, a broken chain, a lame, broken or dead name server: dns, to be tried again, and the
    subscriber is told what is wrong with the zone, without any address of ours."""
    failure = await lab.failure(name)
    assert (failure.type, failure.transient) == ("dns", True)
    assert words in failure.detail
    assert "127.0.0.1" not in failure.detail
    assert HOSTER not in failure.detail


async def test_dn1_aliases(lab: Lab) -> None:
    """DN1, E88: ten hops are followed; a loop, an alias of itself, 17 hops and an alias into a bogus zone are dns."""
    resolver = lab.resolver()
    with lab.host.entered():
        found = await resolver.txt("c7.aliases.lab")
        assert (found.values, len(found.aliases), found.authenticated) == ((RIGHT.encode(),), 10, True)
        for name in ("loop1.aliases.lab", "self.aliases.lab", "c0.aliases.lab", "tobogus.aliases.lab",
                     "x.dname.aliases.lab"):
            with pytest.raises(ValidationFailure) as failed:
                await resolver.txt(name)
            assert failed.value.type == "dns"


async def test_dn2_what_is_not_there(lab: Lab) -> None:
    """DN2, E88: NXDOMAIN and no record are answers, and authenticated ones in a signed zone, with NSEC and NSEC3."""
    resolver = lab.resolver()
    with lab.host.entered():
        for name in ("nope.good.lab", "nope.nsec3.lab", "nope.good.nsec"):
            answer = await resolver.txt(name)
            assert (answer.exists, answer.values, answer.authenticated) == (False, (), True)
        answer = await resolver.txt("empty.aliases.lab")
        assert (answer.exists, answer.values, answer.authenticated) == (True, (), True)
        assert not (await resolver.txt("nope.plain.lab")).exists
        assert (await resolver.addresses("good.lab")).authenticated


@pytest.mark.parametrize("name", ["good.lab", "nsec3.lab", "plain.lab", "zone.bare"])
async def test_dn3_a_resolver_that_does_not_validate_is_found_out(lab: Lab, name: str) -> None:
    """DN3: AD is demanded: with a resolver that does not validate nothing passes, signed or not; unless an internal CA
    is configured so."""
    failure = await lab.failure(name, lab.resolver(NOT_VALIDATING))
    assert failure.type == "serverInternal"
    assert "did not authenticate" in failure.detail
    facts = await lab.validate(name, lab.resolver(NOT_VALIDATING, require_dnssec=False))
    assert "dnssec" not in facts[0]


async def test_dn3_a_zone_that_a_resolver_overlooks_is_found_out(lab: Lab) -> None:
    """DN3: a resolver that was told to take a signed zone as insecure passes other zones and not that one."""
    failure = await lab.failure("good.lab", lab.resolver(OVERLOOKING))
    assert (failure.type, failure.detail) == (
        "dns", "the DNS resolver did not authenticate the signed zone good.lab (DNSSEC)")
    await lab.validate("good.nsec", lab.resolver(OVERLOOKING))
    await lab.validate("plain.lab", lab.resolver(OVERLOOKING))


async def test_dn3_internal_zones(lab: Lab) -> None:
    """DN3: a zone that only this resolver knows is authenticated by its own trust anchor, or is insecure by the
    configuration, which an internal CA that demands DNSSEC accepts for zones that the root does not have."""
    resolver = lab.resolver(INTERNAL)
    assert (await lab.validate("www.corp", resolver))[0]["dnssec"] is True
    assert "dnssec" not in (await lab.validate("www.intra", resolver))[0]
    assert (await lab.validate("good.lab", resolver))[0]["dnssec"] is True


async def _permitted(lab: Lab, name: str) -> None:
    checker = CaaChecker(resolver=lab.resolver(), identities=frozenset({"ca.example"}))
    evidence = Evidence(lambda: datetime.now(UTC))
    with lab.host.entered():
        await checker.require_permission(Identifier(type="dns", value=name), wildcard=False, method="dns-01",
                                         account_url="https://ca.example/1", evidence=evidence)


async def test_ca8_caa_fails_closed(lab: Lab) -> None:
    """CA8, E93: permitted where the records say so or are proven absent; a bogus, expired or unreachable parent is dns,
    although nothing at the name itself forbids."""
    for name in ("good.lab", "www.good.lab", "www.nsec3.lab", "plain.lab", "empty.aliases.lab"):
        await _permitted(lab, name)
    for name in ("bogus.lab", "www.expired.lab", "www.broken.lab", "www.lame.lab", "a.b.stripped.lab"):
        with pytest.raises(ValidationFailure) as failed:
            await _permitted(lab, name)
        assert failed.value.type == "dns"


@pytest.mark.parametrize(("rcode", "codes", "said"), [
    ("SERVFAIL", (), "SERVFAIL (an unreachable name server or a broken DNSSEC chain)"),
    ("SERVFAIL", (6, 7), "SERVFAIL (DNSSEC: a signature has expired)"),
    ("SERVFAIL", (22,), "SERVFAIL (no name server of the zone can be reached, or none gives a usable answer)"),
    ("SERVFAIL", (13, 4711), "SERVFAIL (an unreachable name server or a broken DNSSEC chain)"),
    ("NOTIMP", (), "NOTIMP")])
def test_extended_errors_in_words(rcode: str, codes: tuple[int, ...], said: str) -> None:
    """RFC 8914: the most telling code is told; codes that say nothing to a subscriber, and unknown ones, are not."""
    assert why(rcode, codes) == said


# What there is at a label: a zone with a DS record, one without, one without in an opt-out span, or no zone.
_Cut: TypeAlias = Literal["signed", "unsigned", "optout", "none"]


@given(cuts=st.lists(st.sampled_from(["signed", "unsigned", "optout", "none"]), min_size=1, max_size=6),
       validates=st.booleans(), overlooked=st.none() | st.integers(0, 5))
def test_the_walk_finds_the_end_of_the_chain(cuts: list[_Cut], validates: bool, overlooked: int | None) -> None:
    """DN3: with a validating resolver a name is unsigned exactly if a cut above it has no DS record; with one that does
    not validate, or that overlooks a signed zone in the chain, there is no answer. The root is signed without opt-out.
    """
    cuts[0] = "unsigned" if cuts[0] == "optout" else cuts[0]
    names = [".".join(f"l{number}" for number in range(depth, -1, -1)) for depth in range(len(cuts))]
    at = dict(zip(names, cuts, strict=True))

    end = next((depth for depth, cut in enumerate(cuts) if cut in ("unsigned", "optout")), len(cuts))
    hidden = overlooked if overlooked is not None and overlooked < end and cuts[overlooked] == "signed" else None

    def is_secure(depth: int) -> bool:
        """Whether what the parent's zone says about the name at that depth can be authenticated."""
        return validates and depth <= end and (hidden is None or depth <= hidden)

    async def ask(name: str, rdtype: dnssec.ZoneType) -> dnssec.Found:
        if name == ".":
            return dnssec.Found(True, validates)
        depth = names.index(name)
        if rdtype == "SOA":
            return dnssec.Found(True, is_secure(depth + 1) and depth < end)
        present = at[name] != "none" if rdtype == "NS" else at[name] == "signed"
        return dnssec.Found(present, is_secure(depth) and at[name] != "optout")

    if validates and hidden is None and end < len(cuts):
        _run(dnssec.require_unsigned([names[-1]], ask))
        _run(dnssec.require_unsigned([names[0], names[-1]], ask))
    else:
        with pytest.raises(ValidationFailure) as failed:
            _run(dnssec.require_unsigned([names[-1]], ask))
        assert failed.value.type == ("dns" if validates else "serverInternal")


def _run(walk: object) -> None:
    """Runs a coroutine that never waits for anything."""
    try:
        walk.send(None)  # type: ignore[attr-defined]
    except StopIteration:
        return
    raise AssertionError("it waits")


def test_the_configuration_of_deploy_is_what_is_tried_here() -> None:
    """DN4: the file that an operator installs says the row's numbers: 1232 octets, 60 seconds, no negative cache."""
    text = (Path(__file__).resolve().parents[3] / "deploy" / "unbound" / "chancery.conf").read_text("ascii")
    for line in ("edns-buffer-size: 1232", "cache-max-ttl: 60", "cache-max-negative-ttl: 0", "use-caps-for-id: yes",
                 "qname-minimisation: yes", "val-permissive-mode: no", "ignore-cd-flag: yes", "ede: yes"):
        assert f"    {line}\n" in text
