"""Promises of remote perspectives over real TLS on loopback: rows MP1, MP2, E96, CA9."""

import asyncio
import dataclasses
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from acme_api.va.methods import Question
from acme_api.va.perspective_client import LOOK_PATH, PerspectiveAway
from acme_api.va.perspective_message import (
    MAX_QUESTION_BYTES,
    encode,
    message_of,
)
from acme_api.va.perspective_tls import client_context, server_context
from acme_api.va.remotes import make_perspectives
from ca.pki.corroboration import ALONE, CorroborationRule, rule_at
from ca.pki.identifier import Identifier
from ca.process.ambient import Ambient, system_ambient
from ca.process.lifecycle import StartupError
from ca.process.settings import PerspectivesSettings, RemotePerspective
from tests.acme_api.va.hostile import HostileServer, black_hole, serve, serve_bytes, until
from tests.acme_api.va.perspective_hosts import RIRS, Identity, client, identity, run_host, world
from tests.acme_api.va.queue_rows import THUMBPRINT, TOKEN
from tests.acme_api.va.test_check import REQUEST, SERVED
from tests.acme_api.va.test_main import NO_DATABASE, settings_for

QUESTION = Question(identifier=Identifier(type="dns", value="a.example"), wildcard=False, method="http-01", token=TOKEN,
                    thumbprint=THUMBPRINT, account_url="https://ca.example/1", persist=False,
                    now=datetime(2026, 11, 25, tzinfo=UTC))
BODY = encode(message_of("challenge", QUESTION))


def public(_moment: datetime) -> CorroborationRule:
    """The public rule of the day on which five remotes are asked."""
    return rule_at(datetime(2026, 12, 15, tzinfo=UTC), public=True)


@pytest.fixture
async def right() -> AsyncIterator[HostileServer]:
    """The subscriber's server, at 127.0.0.1."""
    async with serve_bytes(SERVED) as server:
        yield server


def _verdicts(evidence: dict[str, Any]) -> list[str]:
    return [report["verdict"] for report in evidence["perspectives"]]


async def test_e96_one_of_five_sees_another_server(tmp_path: Path, right: HostileServer) -> None:
    """E96, MP1: valid, the count is stored, and the evidence shows the one that saw something else, and what."""
    async with serve_bytes(b"HTTP/1.1 200 OK\r\n\r\nwrong", host="127.0.0.2", port=right.port), world(
            tmp_path, port=right.port, rule=public) as here:
        here.resolve("a.example", "127.0.0.1")
        here.resolve("a.example", "127.0.0.2", at=[2])
        outcome = await here.checker.check(REQUEST)
    assert outcome.problem is None
    assert (outcome.corroboration.asked, outcome.corroboration.corroborated, outcome.corroboration.rirs) == (5, 4, 4)
    assert _verdicts(outcome.evidence) == ["corroborates"] * 2 + ["differs"] + ["corroborates"] * 2
    odd = outcome.evidence["perspectives"][2]
    assert (odd["name"], odd["rir"], odd["type"]) == ("p2", "APNIC", "incorrectResponse")
    assert any(fact.get("connected") == f"127.0.0.2 port {right.port}" for fact in odd["facts"])
    assert len(msgspec.json.encode(outcome.evidence)) < 8_000


async def test_e96_two_of_five_see_another_server(tmp_path: Path, right: HostileServer) -> None:
    """E96, MP2: unauthorized with status 403, at once (wrong content is not asked for again); no account of a pass."""
    async with serve_bytes(b"HTTP/1.1 200 OK\r\n\r\nwrong", host="127.0.0.2", port=right.port), world(
            tmp_path, port=right.port, rule=public, retry_delays_s=(0.05, 0.05)) as here:
        here.resolve("a.example", "127.0.0.1")
        here.resolve("a.example", "127.0.0.2", at=[1, 4])
        outcome = await here.checker.check(REQUEST)
    assert outcome.problem is not None
    assert (outcome.problem["type"], outcome.problem["status"]) == ("urn:ietf:params:acme:error:unauthorized", 403)
    assert "secondary validation: 2 of 5" in outcome.problem["detail"]
    assert outcome.corroboration == ALONE
    assert _verdicts(outcome.evidence).count("differs") == 2


async def test_mp2_the_primary_comes_first(tmp_path: Path, right: HostileServer) -> None:
    """MP2: while the primary does not confirm nobody else is asked."""
    async with world(tmp_path, port=right.port, rule=public) as here:
        here.resolve("a.example", "127.0.0.1", at=range(5))
        outcome = await here.checker.check(REQUEST)
        assert [host.dns.queries for host in here.hosts] == [[]] * 5
    assert outcome.problem is not None
    assert outcome.problem["type"].endswith(":dns")
    assert "perspectives" not in outcome.evidence


async def test_e96_an_outage_counts_and_two_are_server_internal(tmp_path: Path, right: HostileServer) -> None:
    """E96: one that shows a wrong certificate is an outage and four are enough; with a second away it is
    serverInternal, tried again from the primary on, and never a pass."""
    async with world(tmp_path, port=right.port, rule=public, wrong_certificates=[0],
                     retry_delays_s=(0.05, 0.05)) as here:
        here.resolve("a.example", "127.0.0.1")
        outcome = await here.checker.check(REQUEST)
        assert outcome.problem is None
        assert outcome.corroboration.corroborated == 4
        assert "not the pinned one" in outcome.evidence["perspectives"][0]["why"]
        await here.hosts[3].shut_down()
        primary_lookups = here.dns.asked("A").count("a.example")
        outcome = await here.checker.check(REQUEST)
        assert here.dns.asked("A").count("a.example") == primary_lookups + 3
    assert outcome.problem is not None
    assert (outcome.problem["type"], outcome.problem["status"]) == (
        "urn:ietf:params:acme:error:serverInternal", 500)
    assert "p3" not in outcome.problem["detail"]


async def test_mp2_a_host_whose_resolver_is_away_has_no_opinion(tmp_path: Path, right: HostileServer) -> None:
    """MP2, P8: it answers that it cannot look, which is an outage: one may, two are serverInternal; not "dns"."""
    async with world(tmp_path, port=right.port, rule=public) as here:
        here.resolve("a.example", "127.0.0.1")
        for host, kind in zip(here.hosts, ("", "serverInternal"), strict=False):
            await host.dns.stop()
            outcome = await here.checker.check(REQUEST)
            assert (outcome.problem or {"type": ""})["type"].rpartition(":")[2] == kind
    assert outcome.evidence["perspectives"][0]["why"].endswith("the DNS resolver cannot be reached")


async def test_e96_all_are_away(tmp_path: Path, right: HostileServer) -> None:
    """E96: serverInternal, never a pass."""
    async with world(tmp_path, port=right.port, rule=public, wrong_certificates=range(5)) as here:
        here.resolve("a.example", "127.0.0.1")
        outcome = await here.checker.check(REQUEST)
    assert outcome.problem is not None
    assert outcome.problem["type"].endswith(":serverInternal")


async def test_mp1_remote_caa_must_permit(tmp_path: Path, right: HostileServer) -> None:
    """MP1, CA9: CAA is looked at from everywhere, for a challenge and for a later check; two that forbid are enough."""
    async with world(tmp_path, port=right.port, rule=public) as here:
        here.resolve("a.example", "127.0.0.1")
        for host in here.hosts[:2]:
            host.dns.set("a.example", "CAA", '0 issue "other.example"')
        for kind in ("challenge", "caa"):
            outcome = await here.checker.check(dataclasses.replace(REQUEST, kind=kind))
            assert outcome.problem is not None
            assert (outcome.problem["type"], outcome.problem["status"]) == ("urn:ietf:params:acme:error:caa", 403)
        here.hosts[1].dns.clear("a.example", "CAA")
        outcome = await here.checker.check(dataclasses.replace(REQUEST, kind="caa"))
    assert outcome.problem is None
    assert outcome.corroboration.corroborated == 4


async def test_mp2_retries_start_from_zero(tmp_path: Path, right: HostileServer) -> None:
    """MP2, CH5: two that do not resolve the name yet: all of it is asked anew, the primary first, and then passes."""
    async with world(tmp_path, port=right.port, rule=public, retry_delays_s=(0.3, 0.3)) as here:
        here.resolve("a.example", "127.0.0.1")
        for host in here.hosts[:2]:
            host.dns.clear("a.example", "A")
        checking = asyncio.create_task(here.checker.check(REQUEST))
        async with asyncio.timeout(30):
            while right.connections < 4:  # noqa: ASYNC110 - the primary and three of the others
                await asyncio.sleep(0.01)
        here.resolve("a.example", "127.0.0.1")
        outcome = await checking
        assert here.dns.asked("A").count("a.example") >= 2
    assert outcome.problem is None
    assert outcome.corroboration.corroborated == 5


async def test_stragglers_are_not_waited_for(tmp_path: Path, right: HostileServer) -> None:
    """One that hangs does not hold up a decision that it cannot change: nobody waits until it differs."""
    async with world(tmp_path, port=right.port, rule=public, straggler_grace_s=0.5) as here:
        here.resolve("a.example", "127.0.0.1")
        with black_hole("127.0.0.3", right.port):
            here.resolve("a.example", "127.0.0.3", at=[0])
            outcome = await here.checker.check(REQUEST)
    assert outcome.problem is None
    assert _verdicts(outcome.evidence)[0] == "not waited for"


async def test_who_does_not_hold_the_key_is_not_heard(tmp_path: Path, right: HostileServer) -> None:
    """MP1: no client certificate, another one, and TLS 1.2 end in the handshake; no question is looked at."""
    va, other = identity(tmp_path, "va", client=True), identity(tmp_path, "other", client=True)
    async with run_host("p", directory=tmp_path, va=va, port=right.port) as host:
        host.dns.set("a.example", "A", "127.0.0.1")
        stranger = client(host, other)
        with pytest.raises(PerspectiveAway):
            await stranger.ask(BODY)
        bare = ssl.create_default_context(cafile=host.identity.certificate)
        bare.check_hostname = False
        old = client_context(certificate=va.certificate, key=va.key, server=host.identity.certificate)
        old.minimum_version = ssl.TLSVersion.TLSv1_2
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with aiohttp.ClientSession() as session:
            for context in (bare, old):
                with pytest.raises(aiohttp.ClientError):
                    await session.post(f"https://{host.address}{LOOK_PATH}", data=BODY, ssl=context)
        assert host.dns.queries == []
        friend = client(host, va)
        assert (await friend.ask(BODY)).failure is None
        await friend.close()
        await stranger.close()


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("POST", LOOK_PATH, b"", 400), ("POST", LOOK_PATH, b"[]", 400), ("POST", LOOK_PATH, BODY + b"{}", 400),
    ("POST", LOOK_PATH, BODY.replace(b'"version":1', b'"version":2'), 400),
    ("POST", LOOK_PATH, BODY.replace(b'"version":1', b'"version":1,"x":1'), 400),
    ("POST", LOOK_PATH, BODY.replace(b'"wildcard":false', b'"wildcard":0'), 400),
    ("POST", LOOK_PATH, b"[" * 4_000, 400), ("POST", LOOK_PATH, b"\xff", 400),
    ("POST", LOOK_PATH, BODY.replace(b"a.example", b"a" * 254), 400),
    ("POST", LOOK_PATH, b" " * (MAX_QUESTION_BYTES + 1), 413), ("GET", LOOK_PATH, None, 405),
    ("POST", "/", b"", 404)])
async def test_a_question_that_is_none_is_refused(
    tmp_path: Path, method: str, path: str, body: bytes | None, status: int
) -> None:
    """Strict and bounded: even the VA's key does not let anything else in, and nothing is looked up for it."""
    va = identity(tmp_path, "va", client=True)
    async with run_host("p", directory=tmp_path, va=va, port=80) as host:
        context = client_context(certificate=va.certificate, key=va.key, server=host.identity.certificate)
        async with aiohttp.ClientSession() as session, session.request(
                method, f"https://{host.address}{path}", data=body, ssl=context) as response:
            assert response.status == status
        assert host.dns.queries == []


async def test_a_busy_host_says_so(tmp_path: Path) -> None:
    """SF6: more questions at once than a host is set up for are refused at once, which is an outage to who asks."""
    va = identity(tmp_path, "va", client=True)

    async def stall(*_streams: object) -> None:
        await asyncio.sleep(600)

    async with serve(stall) as slow, run_host("p", directory=tmp_path, va=va, port=slow.port, max_looks=1) as host:
        host.dns.set("a.example", "A", "127.0.0.1")
        first, second = client(host, va), client(host, va)
        asking = asyncio.create_task(first.ask(BODY))
        await until(lambda: slow.connections == 1)
        with pytest.raises(PerspectiveAway, match="HTTP status 503"):
            await second.ask(BODY)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for each in (first, second):
            await each.close()


async def test_a_stranger_who_says_nothing_is_let_go(tmp_path: Path, right: HostileServer) -> None:
    """A connection without a handshake is closed after some seconds, and holds nobody else up meanwhile."""
    va = identity(tmp_path, "va", client=True)
    async with run_host("p", directory=tmp_path, va=va, port=right.port, handshake_timeout_s=0.5) as host:
        host.dns.set("a.example", "A", "127.0.0.1")
        address, _, port = host.address.rpartition(":")
        reader, writer = await asyncio.open_connection(address, int(port))
        friend = client(host, va)
        assert (await friend.ask(BODY)).failure is None
        assert await asyncio.wait_for(reader.read(1), 30) == b""
        writer.close()
        await friend.close()


async def test_what_is_dialled_is_judged_there_again(tmp_path: Path) -> None:
    """SF2, IP4: a question that no front end should have made gets the same refusal from a remote perspective."""
    va = identity(tmp_path, "va", client=True)
    async with run_host("p", directory=tmp_path, va=va, port=80) as host:
        remote = client(host, va)
        asked = dataclasses.replace(QUESTION, token="../../x")
        finding = await remote.ask(encode(message_of("challenge", asked)))
        assert finding.failure is not None
        assert finding.failure.type == "malformed"
        await remote.close()


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.1 500 No\r\n\r\n", b"HTTP/1.1 302 Go\r\nLocation: https://127.0.0.1/\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 40_000, b"SSH-2.0-x\r\n", b"",
    b'HTTP/1.1 200 OK\r\n\r\n{"version":1,"perspective":"other","failure":null,"evidence":{}}',
    b'HTTP/1.1 200 OK\r\n\r\n{"version":1,"perspective":"p","failure":{"type":"nope","detail":"","transient":false},'
    b'"evidence":{}}'])
async def test_an_answer_against_the_protocol_is_an_outage(tmp_path: Path, answer: bytes) -> None:
    """MP2: whatever else comes back, nothing of it confirms a name; and the next question is not sent for a while."""
    va, own = identity(tmp_path, "va", client=True), identity(tmp_path, "p")
    tls = server_context(certificate=own.certificate, key=own.key, clients=va.certificate)
    async with serve_bytes(answer, tls=tls) as server, run_host("p2", directory=tmp_path, va=va, port=80) as host:
        host.address, host.identity = f"127.0.0.1:{server.port}", own
        remote = client(host, va, name="p")
        with pytest.raises(PerspectiveAway):
            await remote.ask(BODY)
        with pytest.raises(PerspectiveAway, match="not asked"):
            await remote.ask(BODY)
        assert server.connections == 1
        assert remote.health.failures == 1
        assert remote.health.retry_at is not None
        await remote.close()


async def test_a_perspective_that_comes_back_is_asked_again(tmp_path: Path, right: HostileServer) -> None:
    """The breaker backs off twice as long each time; an answered probe ends it, and the lag is known."""
    va = identity(tmp_path, "va", client=True)
    moment = datetime(2026, 11, 25, tzinfo=UTC)
    async with run_host("p", directory=tmp_path, va=va, port=right.port) as host:
        host.dns.set("a.example", "A", "127.0.0.1")
        there, host.address = host.address, "127.0.0.1:9"
        remote = client(host, va)
        remote._ambient = Ambient(now=lambda: moment, random_bytes=system_ambient().random_bytes)
        waits_s = []
        for _ in range(9):
            await remote.probe()
            assert remote.health.retry_at is not None
            waits_s.append((remote.health.retry_at - moment).total_seconds())
        assert waits_s == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        remote._base_url = f"https://{there}"
        await remote.probe()
        assert (remote.health.failures, remote.health.retry_at, remote.health.fault) == (0, None, None)
        assert remote.health.lag_ms is not None
        assert (await remote.ask(BODY)).failure is None
        await remote.close()


async def test_a_silent_perspective_costs_its_timeout(tmp_path: Path) -> None:
    """A host that accepts and says nothing is away after the configured time."""
    va, own = identity(tmp_path, "va", client=True), identity(tmp_path, "silent")
    tls = server_context(certificate=own.certificate, key=own.key, clients=va.certificate)

    async def silent(*_streams: object) -> None:
        await asyncio.sleep(600)

    async with serve(silent, tls=tls) as server, run_host("p", directory=tmp_path, va=va, port=80) as host:
        host.address, host.identity = f"127.0.0.1:{server.port}", own
        remote = client(host, va, timeout_s=0.5)
        with pytest.raises(PerspectiveAway, match="no answer in time"):
            await remote.ask(BODY)
        await remote.close()


def test_certificate_authorities_are_not_pinned(tmp_path: Path) -> None:
    """A file of pins that holds a CA certificate, or none at all, refuses to start: it would let its issues in."""
    va = identity(tmp_path, "va", client=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]), datetime.now(UTC)
    authority = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(
        key.public_key()).serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1)).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    for pins, says in ((authority.public_bytes(serialization.Encoding.PEM), "authority: expected the other end's own"),
                       (b"", "expected certificates")):
        (tmp_path / "pins").write_bytes(pins)
        with pytest.raises(StartupError, match=says):
            server_context(certificate=va.certificate, key=va.key, clients=tmp_path / "pins")


def _configured(directory: Path, *, rirs: tuple[Any, ...], groups: tuple[str, ...] = ("a", "b", "c", "d", "e", "f"),
                ) -> PerspectivesSettings:
    va = Identity(directory / "va.pem", directory / "va.key")
    if not va.certificate.exists():
        identity(directory, "va", client=True)
    return PerspectivesSettings(certificate=va.certificate, key=va.key, remotes=[
        RemotePerspective(name=f"p{number}", address="127.0.0.1:9", rir=rir, distance_group=group,
                          certificate=va.certificate) for number, (rir, group) in enumerate(zip(rirs, groups,
                                                                                              strict=False))])


@pytest.mark.parametrize(("rirs", "groups", "says"), [
    ((), (), "made with 0 remote perspectives, where 4 are needed"),
    (("ARIN", "APNIC", "ARIN"), ("a", "b", "c"), "made with 3 remote perspectives"),
    (("ARIN",) * 4, ("a", "b", "c", "d"), "1 regional Internet registries"),
    (RIRS[:4], ("a", "b", "c", "a"), "same distance_group"),
    (RIRS[:4], ("a", "b", "c", "primary"), "same distance_group")])
async def test_mp1_the_public_policy_does_not_start_without_enough(
    tmp_path: Path, rirs: tuple[str, ...], groups: tuple[str, ...], says: str
) -> None:
    """MP1: too few, all in one RIR's region, or two within 500 km: one line that says so."""
    settings = msgspec.structs.replace(settings_for(NO_DATABASE, policy="public"),
                                       perspectives=_configured(tmp_path, rirs=rirs, groups=groups))
    ambient = Ambient(now=lambda: datetime(2026, 11, 25, tzinfo=UTC), random_bytes=system_ambient().random_bytes)
    with pytest.raises(StartupError, match=says):
        make_perspectives(settings, ambient)


async def test_mp1_who_starts(tmp_path: Path) -> None:
    """MP1: four are enough for the public policy in 2026, not from 2026-12-15 on; an internal CA needs none."""
    settings = msgspec.structs.replace(settings_for(NO_DATABASE, policy="public"),
                                       perspectives=_configured(tmp_path, rirs=RIRS[:4]))

    def at(*date: int) -> Ambient:
        return Ambient(now=lambda: datetime(*date, tzinfo=UTC), random_bytes=system_ambient().random_bytes)  # type: ignore[arg-type,misc]

    started = make_perspectives(settings, at(2026, 11, 25))
    assert started is not None
    assert [each.name for each in started.health] == ["p0", "p1", "p2", "p3"]
    await started.close()
    with pytest.raises(StartupError, match="where 5 are needed"):
        make_perspectives(settings, at(2026, 12, 15))
    assert make_perspectives(settings_for(NO_DATABASE), at(2026, 12, 15)) is None
