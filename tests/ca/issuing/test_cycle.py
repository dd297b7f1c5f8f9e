"""The cycle: what is issued, what is refused and with which words, what waits. Real PostgreSQL, real SoftHSM."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.issuing import cycle, evidence, queue_store
from ca.issuing.__main__ import IssuanceTurns
from ca.issuing.authorities import choose
from ca.issuing.cycle import issue_batch
from ca.issuing.issuer_store import Switches
from ca.issuing.signer import SignatureFault
from ca.pki.domain_control import PerspectivePolicy
from ca.pki.identifier import Identifier, NamePolicy
from ca.pki.issuer import read_issuer
from ca.pki.profile import offered_profiles
from ca.pki.refusal import Refusal
from ca.pki.serial import serial_from_int
from ca.pki.validity import Validity
from ca.process.audit_log import AuditLog, AuditLogError
from ca.process.audit_reader import read_chain, summarize
from tests.acme_client import b64
from tests.ca.issuing.world import EC_ISSUER, POLICY, RSA_ISSUER, SHARDS, TestOrder, World, spki_sha256
from tests.ca.pki.csr_maker import extension
from tests.ca.pki.csr_maker import request as make_csr

URN = "urn:ietf:params:acme:error:"


def _names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


async def test_an_order_becomes_a_certificate(world: World) -> None:
    """One certificate, its names stored for the search, its first OCSP response asked for, nobody left in the queue."""
    order = await world.ordered("www.example.com", "*.example.com", profile="classic")
    ca = world.process()
    assert await issue_batch(ca, 8)
    certificate = await world.issued(order.id)
    assert _names(certificate) == ["*.example.com", "www.example.com"]
    assert [str(each.value) for each in certificate.subject] == ["www.example.com"]
    row = await world.owner.fetchrow("SELECT * FROM certificates")
    assert row is not None
    assert (row["account_id"], row["issuer_id"], row["profile"]) == (order.subscriber.id, EC_ISSUER, "classic")
    assert (row["not_before"], row["not_after"]) == (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    assert row["serial"] == serial_from_int(certificate.serial_number)
    names = await world.owner.fetch("SELECT reverse(reversed_name) AS name FROM certificate_names ORDER BY 1")
    assert sorted(each["name"] for each in names) == ["*.example.com", "www.example.com"]
    assert await world.owner.fetchval("SELECT request_id FROM ocsp_requests WHERE version = 0") == order.id
    assert await world.queued() == 0
    assert not await issue_batch(ca, 8)
    await world.check()


async def test_only_the_claim_does_not_wait_for_the_disk(world: World) -> None:
    """Design 1: what follows the claim on its connection is durable when it is answered."""
    order = await world.ordered("www.example.com")
    async with world.pool.acquire() as connection:
        claimed, = await queue_store.claim(connection, worker="w", limit=8)
        assert claimed.id == order.id
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        assert await queue_store.claim(connection, worker="other", limit=8) == []
        assert await connection.fetchval("SHOW synchronous_commit") == "on"


async def test_a_short_lived_certificate_with_an_address(world: World) -> None:
    """IP4: 160 hours, the address in an iPAddress alone; no OCSP location, so no OCSP response is asked for."""
    order = await world.ordered("www.example.com", "10.0.0.7", profile="shortlived")
    await issue_batch(world.process(), 8)
    certificate = await world.issued(order.id)
    assert _names(certificate) == ["www.example.com", "10.0.0.7"]
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(hours=160, seconds=-1)
    assert not list(certificate.subject)
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [each.access_location.value for each in access] == ["http://localhost:14002/test-e1.crt"]
    assert certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints)
    assert await world.owner.fetchval("SELECT count(*) FROM ocsp_requests") == 0
    await world.check()


async def test_a_profile_that_was_withdrawn(world: World) -> None:
    """PR4: an order that was finalized just before its profile was taken out of the configuration is refused; an
    address in a profile without addresses is, too, whatever the front end let through."""
    order = await world.ordered("www.example.com", profile="shortlived")
    address = await world.ordered("10.0.0.7", profile="classic")
    await issue_batch(world.process(policy=replace(POLICY, profiles=offered_profiles(["classic", "tlsserver"]))), 8)
    for refused, why in ((order, "not offered"), (address, "no IP addresses")):
        problem = await world.refusal(refused.id) or {}
        assert problem["type"] == URN + "invalidProfile"
        assert why in problem["detail"]


async def test_the_names_of_an_external_account(world: World) -> None:
    """NM9: what the front end lets through is looked at again: a name that the account's credential does not list."""
    await world.run("ca_admin", "INSERT INTO eab_credentials (kid, mac_key, created_at, created_by, comment,"
                    " single_use, allowed_names) VALUES ('k', '', now(), '', '', false, '{example.com}')")
    subscriber = await world.subscriber()
    await world.owner.execute("UPDATE accounts SET eab_kid = 'k', eab_single_use = false")
    inside = await world.ordered("www.example.com", subscriber=subscriber)
    outside = await world.ordered("www.example.com", "www.example.org", subscriber=subscriber)
    await issue_batch(world.process(), 8)
    assert _names(await world.issued(inside.id)) == ["www.example.com"]
    problem = await world.refusal(outside.id) or {}
    assert problem["type"] == URN + "rejectedIdentifier"
    assert [each["identifier"]["value"] for each in problem["subproblems"]] == ["www.example.org"]


@pytest.mark.parametrize("profile", ["classic", "tlsserver"])
@pytest.mark.parametrize(("leaf", "issuer_id"), [
    (ec.generate_private_key(ec.SECP256R1()), EC_ISSUER), (ec.generate_private_key(ec.SECP384R1()), EC_ISSUER),
    (rsa.generate_private_key(65_537, 2048), RSA_ISSUER)], ids=["p256", "p384", "rsa"])
async def test_the_issuer_follows_the_key(
    world: World, leaf: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, issuer_id: int, profile: str
) -> None:
    """RSA signs RSA, EC signs EC; the key in the certificate is the CSR's."""
    order = await world.ordered("www.example.com", leaf=leaf, profile=profile)
    await issue_batch(world.process(), 8)
    certificate = await world.issued(order.id)
    assert certificate.public_key() == leaf.public_key()
    assert await world.owner.fetchval("SELECT issuer_id FROM certificates") == issuer_id
    assert await world.owner.fetchval("SELECT spki_sha256 FROM certificates") == spki_sha256(leaf)


async def test_urls_lead_to_the_shard_of_the_serial(world: World) -> None:
    """CRLDP, AIA and the shard arithmetic agree."""
    order = await world.ordered("www.example.com")
    await issue_batch(world.process(), 8)
    certificate = await world.issued(order.id)
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name is not None
    shard = certificate.serial_number % 4 + 1
    assert points[0].full_name[0].value == f"http://localhost:14002/test-e1/{shard}.crl"
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [each.access_location.value for each in access] == ["http://localhost:14001",
                                                              "http://localhost:14002/test-e1.crt"]


async def test_requested_dates(world: World) -> None:
    """OR5: what the order says stands in the certificate exactly."""
    start = world.now().replace(microsecond=0) + timedelta(hours=3)
    order = await world.ordered("www.example.com", not_before=start, not_after=start + timedelta(days=7))
    await issue_batch(world.process(), 8)
    certificate = await world.issued(order.id)
    assert certificate.not_valid_before_utc == start
    assert certificate.not_valid_after_utc == start + timedelta(days=7)


async def test_a_batch_goes_through_together(world: World) -> None:
    """Orders of both issuers, a service request and a refused order in one turn; the limit is kept."""
    subscriber = await world.subscriber()
    rsa_leaf = rsa.generate_private_key(65_537, 2048)
    orders = [await world.ordered(f"n{number}.example.com", subscriber=subscriber,
                                  leaf=rsa_leaf if number % 2 else None) for number in range(6)]
    refused = await world.ordered("x.example.com", subscriber=subscriber, validated=False)
    service = await world.service("localhost", "127.0.0.1")
    ca = world.process()
    assert await issue_batch(ca, 5)
    assert await world.queued() == 3
    assert await issue_batch(ca, 5)
    serials = {(await world.issued(each)).serial_number for each in (*(order.id for order in orders), service)}
    assert len(serials) == 7
    assert (await world.refusal(refused.id) or {})["type"] == URN + "unauthorized"
    assert await world.queued() == 0
    await world.check()


async def test_signing_is_recorded_before_and_after(world: World) -> None:
    """Each signature has its intent and its result in the audit trail, with the hash of the very bytes."""
    for number in range(3):
        await world.ordered(f"n{number}.example.com")
    await issue_batch(world.process(), 8)
    trail = [event for event in world.events if event.get("audit")]
    assert [event["event"] for event in trail] == ["signing"] * 3 + ["signed"] * 3
    rows = await world.owner.fetch("SELECT encode(sha256(tbs), 'hex') AS tbs FROM certificates")
    for kind in ("signing", "signed"):
        assert {event["tbs_sha256"] for event in trail if event["event"] == kind} == {row["tbs"] for row in rows}


async def test_intents_are_on_disk_before_the_hsm_is_asked(world: World, tmp_path: Path) -> None:
    """8.5: at the moment of the signature the file says so; when it cannot, nothing is signed, and all is later."""
    log = AuditLog.open(tmp_path, "ca", now=world.now, random_bytes=os.urandom)
    ca = world.process()
    ca.audit.file = log
    ordered = await world.ordered("www.example.com")
    seen: list[list[str]] = []
    real = ca.signer._thread.run

    async def watched(*arguments: Any) -> Any:
        seen.append([record.event for record in read_chain(tmp_path / "ca.0")])
        return await real(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ca.signer._thread, "run", watched)
        patched.setattr("ca.process.audit_log.os.fdatasync", _disk_error)
        with pytest.raises(AuditLogError):
            await issue_batch(ca, 8)
        assert seen == []
        patched.setattr("ca.process.audit_log.os.fdatasync", os.fsync)
        await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
        await issue_batch(ca, 8)
    assert seen[0][-1] == "signing"
    await world.issued(ordered.id)
    await log.close()
    summary, _ = summarize(tmp_path / "ca.0")
    assert (summary.asked.total(), summary.signed.total()) == (2, 1)


def _disk_error(_descriptor: int) -> None:
    raise OSError(5, "Input/output error")


async def test_service_certificates(world: World) -> None:
    """Names of `ca.service_names`, single labels and addresses among them, without account or validation; RSA, too."""
    for leaf in (None, rsa.generate_private_key(65_537, 2048)):
        request_id = await world.service("localhost", "acme.internal", "127.0.0.1", leaf=leaf)
        await issue_batch(world.process(), 8)
        certificate = await world.issued(request_id)
        assert _names(certificate) == ["acme.internal", "localhost", "127.0.0.1"]
        assert not certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert await world.owner.fetchval("SELECT count(*) FROM certificates WHERE account_id IS NULL") == 2


async def test_service_names_are_the_configurations(world: World) -> None:
    """A captured front end gets no service certificate for any other name."""
    for names in (["www.example.com"], ["localhost", "www.example.com"], ["127.0.0.2"], ["*.acme.internal"]):
        request_id = await world.service(*names)
        await issue_batch(world.process(), 8)
        assert await world.certificate(request_id) is None
        problem = await world.refusal(request_id) or {}
        assert (problem["type"], problem["status"]) == (URN + "rejectedIdentifier", 403)


async def test_a_public_ca_has_no_service_certificates(world: World) -> None:
    """BR 3.2.2.4: under the public policy nothing is signed without validation, whatever `ca.service_names` says."""
    service = frozenset({Identifier(type="dns", value="acme.example.com")})
    policy = replace(POLICY, names=NamePolicy(internal_suffixes=(), public=True), service_names=service)
    request_id = await world.service("acme.example.com")
    await issue_batch(world.process(policy=policy), 8)
    assert await world.certificate(request_id) is None
    problem = await world.refusal(request_id) or {}
    assert problem["type"] == URN + "rejectedIdentifier"
    assert "certifies no name without validation" in problem["detail"]


_Arrange = Callable[[World], Awaitable[bytes]]


async def _closed_account(world: World, column: str, role: str) -> bytes:
    order = await world.ordered("www.example.com")
    await world.run(role, f"UPDATE accounts SET {column} = now() WHERE id = $1", order.subscriber.id)
    return order.id


async def _deactivated_authorization(world: World) -> bytes:
    order = await world.ordered("www.example.com")
    await world.run("acme_wfe", "UPDATE authorizations SET deactivated_at = now() WHERE id = $1",
                    order.authorization_ids[0])
    return order.id


async def _expired_validation(world: World) -> bytes:
    subscriber = await world.subscriber()
    order = await world.order(subscriber, "www.example.com", validated=False)
    await world.validate(order.authorization_ids[0], subscriber, "www.example.com",
                         valid_until=world.now() - timedelta(seconds=1))
    await world.finalize(order)
    return order.id


async def _failed_validation(world: World) -> bytes:
    subscriber = await world.subscriber()
    order = await world.order(subscriber, "www.example.com", validated=False)
    await world.validate(order.authorization_ids[0], subscriber, "www.example.com", valid_until=None,
                         caa_checked_at=None, problem={"type": URN + "dns", "detail": "no"})
    await world.finalize(order)
    return order.id


async def _caa_forbids(world: World) -> bytes:
    subscriber = await world.subscriber()
    order = await world.order(subscriber, "www.example.com", validated=False)
    await world.validate(order.authorization_ids[0], subscriber, "www.example.com",
                         caa_checked_at=world.now() - timedelta(hours=9))
    await world.finalize(order)
    await world.run("acme_va", "INSERT INTO caa_checks VALUES ($1, $2, $3, '{}')", order.authorization_ids[0],
                    world.now(), {"type": URN + "caa", "detail": "CAA says no", "status": 403})
    return order.id


async def _bad_csr(world: World, **parts: Any) -> bytes:
    order = await world.order(await world.subscriber(), "www.example.com")
    leaf = ec.generate_private_key(ec.SECP256R1())
    csr = make_csr(leaf, **{"names": ["www.example.com"], **parts})
    await world.finalize(order, leaf, parts=world.signed_finalize(order, leaf, payload={"csr": b64(csr)}))
    return order.id


async def _account_key(world: World) -> bytes:
    subscriber = await world.subscriber()
    order = await world.order(subscriber, "www.example.com")
    await world.finalize(order, subscriber.key.private)
    return order.id


async def _too_many_names(world: World) -> bytes:
    return (await world.ordered(*(f"n{number}.example.com" for number in range(26)))).id


async def _past_date(world: World) -> bytes:
    start = world.now().replace(microsecond=0)
    return (await world.ordered("www.example.com", not_before=start, not_after=start + timedelta(days=46))).id


_REFUSALS: dict[str, tuple[_Arrange, str, int, str]] = {
    "account-deactivated": (lambda world: _closed_account(world, "deactivated_at", "acme_wfe"),
                            "unauthorized", 403, "the account was closed"),
    "account-revoked": (lambda world: _closed_account(world, "revoked_at", "ca_admin"),
                        "unauthorized", 403, "the account was closed"),
    "authorization-deactivated": (_deactivated_authorization, "unauthorized", 403, "no valid authorization"),
    "validation-expired": (_expired_validation, "unauthorized", 403, "no valid authorization"),
    "validation-failed": (_failed_validation, "unauthorized", 403, "no valid authorization"),
    "caa-forbids": (_caa_forbids, "caa", 403, "CAA says no"),
    "csr-other-name": (lambda world: _bad_csr(world, names=["www.example.com", "evil.example.com"]),
                       "badCSR", 400, "also asks for evil.example.com"),
    "csr-ca": (lambda world: _bad_csr(world, extensions=[extension("2.5.29.19", bytes.fromhex("30030101ff"))]),
               "badCSR", 400, "CA certificate"),
    "csr-signature": (lambda world: _bad_csr(world, signature=b""), "badCSR", 400, "signature"),
    "csr-no-key": (lambda world: _bad_csr(world, spki=bytes.fromhex("3003020100")), "badPublicKey", 400, "public key"),
    "account-key": (_account_key, "badPublicKey", 400, "an account's"),
    "too-many-names": (_too_many_names, "invalidProfile", 400, "1 to 25 names"),
    "too-long": (_past_date, "malformed", 400, "would be valid for"),
}


@pytest.mark.parametrize("case", sorted(_REFUSALS))
async def test_refusals(world: World, case: str) -> None:
    """E77: each rule that says no ends the order with its problem document, and nothing is signed."""
    arrange, kind, status, said = _REFUSALS[case]
    request_id = await arrange(world)
    assert await issue_batch(world.process(), 8)
    problem = await world.refusal(request_id) or {}
    assert (problem["type"], problem["status"]) == (URN + kind, status)
    assert said in problem["detail"]
    assert await world.owner.fetchval("SELECT count(*) FROM issuances") == 0
    assert await world.queued() == 0
    assert [event["reason"] for event in world.events if event["event"] == "refused"]
    await world.check()


async def test_refusals_name_the_identifiers(world: World) -> None:
    """RFC 8555 6.7.1: a subproblem for each name that is not covered."""
    subscriber = await world.subscriber()
    order = await world.order(subscriber, "a.example.com", "b.example.com", "c.example.com", validated=False)
    await world.validate(order.authorization_ids[0], subscriber, "a.example.com")
    await world.finalize(order)
    await issue_batch(world.process(), 8)
    problem = await world.refusal(order.id) or {}
    assert [part["identifier"]["value"] for part in problem["subproblems"]] == ["b.example.com", "c.example.com"]
    assert {part["type"] for part in problem["subproblems"]} == {URN + "unauthorized"}


async def test_the_name_policy_of_today(world: World) -> None:
    """FI11, E77: a name that is no longer permitted is refused at signing, however ready its order is."""
    order = await world.ordered("www.corp.internal", "www.example.com")
    policy = replace(POLICY, names=NamePolicy(internal_suffixes=("example.com",), public=False))
    await issue_batch(world.process(policy=policy), 8)
    problem = await world.refusal(order.id) or {}
    assert problem["type"] == URN + "rejectedIdentifier"
    assert [part["identifier"]["value"] for part in problem["subproblems"]] == ["www.corp.internal"]


async def test_lint_stops_a_certificate(world: World) -> None:
    """Under the public policy the URLs of this CA are internal names: nothing is signed, there never is an intent."""
    order = await world.ordered("www.example.com")
    await issue_batch(world.process(policy=replace(
        POLICY, names=NamePolicy(internal_suffixes=(), public=True))), 8)
    problem = await world.refusal(order.id) or {}
    assert (problem["type"], problem["status"]) == (URN + "serverInternal", 500)
    assert "cabf.internal_domain_name" in problem["detail"]
    assert await world.owner.fetchval("SELECT count(*) FROM certificates") == 0


async def test_issuers_are_switched_off_by_the_operator(world: World) -> None:
    """`issuers.active` counts within a second: no restart is needed to stop an issuer."""
    ca = world.process()
    first = await world.ordered("a.example.com")
    await issue_batch(ca, 8)
    await world.issued(first.id)
    await world.run("ca_admin", "UPDATE issuers SET active = false WHERE id = $1", EC_ISSUER)
    world.clock_s = 1
    second = await world.ordered("b.example.com")
    await issue_batch(ca, 8)
    problem = await world.refusal(second.id) or {}
    assert problem["type"] == URN + "badPublicKey"
    assert "no active issuer for EC keys" in problem["detail"]


async def test_kill_switches(world: World) -> None:
    """Within a second: a disabled issuer certifies nothing, also not what was begun, and finishes that when it is
    enabled; a disabled profile is refused, others are not."""
    ca = world.process()

    async def stop(number: int) -> None:
        if number == 4:
            raise InterruptedError

    begun = await world.ordered("a.example.com")
    ca.after_step = stop
    with pytest.raises(InterruptedError):
        await issue_batch(ca, 8)
    serial = await world.serial(begun.id)
    await world.run("ca_admin", "UPDATE issuers SET disabled_at = now() WHERE id = $1", EC_ISSUER)
    await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    world.clock_s = 1
    ca = world.process()
    fresh = await world.ordered("b.example.com")
    await issue_batch(ca, 8)
    assert await world.certificate(begun.id) is None
    assert "no active issuer" in (await world.refusal(fresh.id) or {})["detail"]
    rsa_order = await world.ordered("c.example.com", leaf=rsa.generate_private_key(65_537, 2048))
    await issue_batch(ca, 8)
    await world.issued(rsa_order.id)
    await world.run("ca_admin", "UPDATE issuers SET disabled_at = NULL")
    await world.run("ca_admin", "INSERT INTO disabled_profiles VALUES ('tlsserver', now(), 'ada', '')")
    await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    world.clock_s = 2
    of_profile, other = await world.ordered("d.example.com"), await world.ordered("e.example.com", profile="classic")
    await issue_batch(ca, 8)
    assert (await world.issued(begun.id)).serial_number == int.from_bytes(serial, "big")
    assert (await world.refusal(of_profile.id) or {})["type"] == URN + "invalidProfile"
    await world.issued(other.id)
    await world.check()


def test_which_issuer_certifies() -> None:
    """The newest that works; one that ends before the certificate would only when there is no other."""
    now = datetime(2026, 11, 24, tzinfo=UTC)

    def authority(number: int, days: int, kind: str = "ec") -> Any:
        return SimpleNamespace(id=number, issuer=SimpleNamespace(
            key_type=kind, validity=Validity(not_before=now, not_after=now + timedelta(days=days))))

    issuers = {1: authority(1, 400), 2: authority(2, 50), 3: authority(3, 1000, "rsa"), 4: authority(4, 1000)}
    until = now + timedelta(days=90)

    def chosen(*active: int, disabled: frozenset[int] = frozenset()) -> int:
        return choose(issuers, Switches(active=frozenset(active), disabled=disabled), "ec", until=until).id

    assert chosen(1, 2, 3, 4) == 4
    assert chosen(1, 2, 3) == 1
    assert chosen(2) == 2
    assert chosen(1, 4, disabled=frozenset({4})) == 1
    with pytest.raises(Refusal, match="no active issuer for EC keys"):
        chosen(3)
    with pytest.raises(Refusal):
        chosen(4, disabled=frozenset({4}))


async def test_stale_caa_waits_for_the_validation_authority(world: World) -> None:
    """CA9: the CA asks for a new look, once, leaves the request in the queue, and issues when the answer is there."""
    subscriber = await world.subscriber()
    order = await world.order(subscriber, "a.example.com", "b.example.com", validated=False)
    for authorization_id, name in zip(order.authorization_ids, order.names, strict=True):
        await world.validate(authorization_id, subscriber, name,
                             caa_checked_at=world.now() - timedelta(hours=8, seconds=1))
    await world.finalize(order)
    other = await world.ordered("c.example.com")
    ca = world.process()
    for _ in range(2):
        await issue_batch(ca, 8)
        assert await world.queued() == 1
        asked = await world.owner.fetch("SELECT * FROM validation_requests")
        assert {row["authorization_id"] for row in asked} == set(order.authorization_ids)
        assert {(row["kind"], row["account_id"], row["thumbprint"], row["challenge_type"]) for row in asked} == {
            ("caa", subscriber.id, subscriber.key.thumbprint, "dns-01")}
        await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    await world.issued(other.id)
    for authorization_id in order.authorization_ids:
        await world.run("acme_va", "INSERT INTO caa_checks VALUES ($1, $2, NULL, '{}')", authorization_id, world.now())
    await issue_batch(ca, 8)
    await world.issued(order.id)
    await world.check()


async def test_ca9_the_last_look_at_caa_wakes_the_request(world: World) -> None:
    """CA9: an order for two names goes on when both looks are stored, and not before; what the pause would be does not
    matter. Orders that wait for the same look are woken together, other payloads wake nobody."""
    subscriber = await world.subscriber()
    first = await world.ordered("a.example.com", "b.example.com", subscriber=subscriber)
    ca = world.process()
    turns = IssuanceTurns(ca)
    assert await turns.step()
    a, b = first.authorization_ids
    orders = []
    for names, ids in ((first.names, (a, b)), (("b.example.com",), (b,))):
        orders.append(await world.order(subscriber, *names, authorization_ids=ids))
        await world.finalize(orders[-1])
    assert await turns.step()
    assert await world.owner.fetchval("SELECT count(*) FROM validation_requests WHERE kind = 'caa'") == 2
    await world.owner.execute("UPDATE issuance_requests SET leased_until = now() + interval '1 hour'")
    for payload, ended in (("", []), ("no hexadecimal digits ", []), (f"{a.hex()} www.a.example.com", []),
                           (f"{b.hex()} ", orders[1:]), (f"{b.hex()} ", orders[1:]), (f"{a.hex()} ", orders)):
        if payload in (f"{a.hex()} ", f"{b.hex()} "):
            await world.run("acme_va", "INSERT INTO caa_checks VALUES ($1, $2, NULL, '{}')",
                            bytes.fromhex(payload), world.now())
        ca.caa_waits.looked(payload)
        await turns.step()
        assert [order for order in orders if await world.certificate(order.id)] == ended
    assert await world.queued() == 0
    await world.check()


async def test_ca9_an_order_that_reuses_an_authorization_looks_at_caa_for_itself(world: World) -> None:
    """CA9: the look of the first order, seconds old, does not count for the second one; a new look does, and one that
    forbids ends the order with caa."""
    subscriber = await world.subscriber()
    first = await world.ordered("a.example.com", subscriber=subscriber)
    await issue_batch(world.process(), 8)
    await world.issued(first.id)
    for problem in (None, {"type": "urn:ietf:params:acme:error:caa", "detail": "no", "status": 403}):
        order = await world.order(subscriber, "a.example.com", authorization_ids=first.authorization_ids)
        await world.finalize(order)
        await issue_batch(world.process(), 8)
        assert await world.certificate(order.id) is None
        assert await world.owner.fetchval("SELECT count(*) FROM validation_requests WHERE kind = 'caa'") == 1
        await world.run("acme_va", "DELETE FROM validation_requests")
        await world.run("acme_va", "INSERT INTO caa_checks VALUES ($1, $2, $3, '{}')", first.authorization_ids[0],
                        world.now(), problem)
        await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
        await issue_batch(world.process(), 8)
        if problem is None:
            await world.issued(order.id)
        else:
            assert (await world.refusal(order.id) or {})["type"] == problem["type"]
    await world.check()


async def test_mp1_a_va_that_was_configured_down_shows(world: World) -> None:
    """MP1: the CA counts the perspectives by its own configuration: what too few of them saw is refused, validation and
    later look at CAA alike, and what enough of them saw is issued."""
    ca = world.process(policy=replace(POLICY, perspectives=PerspectivePolicy(least_corroborated=4)))
    subscriber = await world.subscriber()
    four = {"remotes_asked": 5, "remotes_corroborated": 4, "remote_rirs": 3}
    long_ago = world.now() - timedelta(hours=9)
    orders: list[TestOrder] = []
    for counts in (four, {"remotes_asked": 5, "remotes_corroborated": 3, "remote_rirs": 3}, {}):
        order = await world.order(subscriber, f"n{len(orders)}.example.com", validated=False)
        await world.validate(order.authorization_ids[0], subscriber, order.names[0], **counts)
        orders.append(order)
    for again in (4, 0):
        order = await world.order(subscriber, f"n{len(orders)}.example.com", validated=False)
        await world.validate(order.authorization_ids[0], subscriber, order.names[0], caa_checked_at=long_ago, **four)
        await world.run("acme_va", "INSERT INTO caa_checks (authorization_id, checked_at, evidence, remotes_asked,"
                        " remotes_corroborated, remote_rirs) VALUES ($1, $2, '{}', 5, $3, 3)",
                        order.authorization_ids[0], world.now() + timedelta(seconds=1), again)
        orders.append(order)
    for order in orders:
        await world.finalize(order)
    world.clock_s = 2
    await issue_batch(ca, 8)
    for order in (orders[0], orders[3]):
        await world.issued(order.id)
    said = {1: "was corroborated by 3 of 5 remote perspectives, where 4 are needed",
            2: "was corroborated by 0 of 0 remote perspectives, where 4 are needed",
            4: "the look at the CAA records of n4.example.com was corroborated by 0 of 5"}
    for number, words in said.items():
        problem = await world.refusal(orders[number].id) or {}
        assert (problem["type"], problem["status"]) == (URN + "unauthorized", 403)
        assert words in problem["detail"]
    assert await world.queued() == 0
    assert await world.owner.fetchval("SELECT count(*) FROM validation_requests") == 0
    await world.check()


async def test_what_nobody_asked_for_is_dropped(world: World) -> None:
    """An entry of the queue without a finalize request or a CSR behind it: nothing is signed, nothing waits."""
    order = await world.order(await world.subscriber(), "www.example.com")
    for request_id, kind in ((order.id, "order"), (world.new_id(), "order"), (world.new_id(), "service")):
        await world.run("acme_wfe", "INSERT INTO issuance_requests (id, kind, requested_at) VALUES ($1, $2, now())",
                        request_id, kind)
    good = await world.ordered("a.example.com")
    await issue_batch(world.process(), 8)
    await world.issued(good.id)
    assert await world.queued() == 0
    assert await world.owner.fetchval("SELECT count(*) FROM issuances") == 1
    assert await world.owner.fetchval("SELECT count(*) FROM refusals") == 0


async def test_an_issuer_that_ends_too_soon(world: World) -> None:
    """Nothing is signed past the issuer's own notAfter."""
    order = await world.ordered("www.example.com")
    # Most of the issuer's three years later; the order's evidence is renewed to that day.
    world.clock_s = 1060 * 86_400.0
    await world.owner.execute("UPDATE validations SET validated_at = $1, valid_until = $2, caa_checked_at = $1",
                              world.now(), world.now() + timedelta(days=30))
    await issue_batch(world.process(), 8)
    problem = await world.refusal(order.id) or {}
    assert "outlive its issuer" in problem["detail"]


def _reissued(certificate: x509.Certificate, common_name: str, ends: datetime) -> bytes:
    """The same CA with another name and end, signed by some root."""
    builder = (x509.CertificateBuilder().subject_name(x509.Name([*list(certificate.subject)[:-1], x509.NameAttribute(
        NameOID.COMMON_NAME, common_name)])).issuer_name(certificate.issuer).serial_number(77)
        .public_key(certificate.public_key()).not_valid_before(certificate.not_valid_before_utc).not_valid_after(ends))
    for each in certificate.extensions:
        builder = builder.add_extension(each.value, each.critical)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


async def test_the_successor_of_an_issuer_that_ends_too_soon(world: World) -> None:
    """An issuer with 30 days left certifies what ends before it and refuses the rest; its successor, as soon as it is
    active, takes over all new orders, and what the old one certified stays what it is."""
    certificate, successor = x509.load_der_x509_certificate(world.issuers[EC_ISSUER]), 3
    end = world.now().replace(microsecond=0) + timedelta(days=30)
    world.issuers |= {EC_ISSUER: _reissued(certificate, "Old", end),
                      successor: _reissued(certificate, "Successor", certificate.not_valid_after_utc)}
    await world.run(
        "ca_admin", "INSERT INTO issuers (id, name, key_type, certificate, crl_shards, active, created_at)"
        " VALUES ($1, 'Successor', 'ec', $2, $3, false, now())", successor, world.issuers[successor], SHARDS)
    for number, name in ((EC_ISSUER, "Old"), (successor, "Successor")):
        world.authorities[number] = replace(world.authorities[EC_ISSUER], id=number, name=name,
                                            issuer=read_issuer(world.issuers[number]))
    ca = world.process()
    late, short = await world.ordered("late.example.com"), await world.ordered("short.example.com",
                                                                               profile="shortlived")
    await issue_batch(ca, 8)
    problem = await world.refusal(late.id) or {}
    assert "outlive its issuer" in problem["detail"]
    assert (await world.issued(short.id)).issuer.rfc4514_string().startswith("CN=Old,")
    await world.run("ca_admin", "UPDATE issuers SET active = true WHERE id = $1", successor)
    world.clock_s = 1
    orders = [await world.ordered("after.example.com"), await world.ordered("x.example.com", profile="shortlived")]
    await issue_batch(ca, 8)
    for order in orders:
        assert (await world.issued(order.id)).issuer.rfc4514_string().startswith("CN=Successor,")
    assert (await world.issued(orders[0].id)).not_valid_after_utc > end
    assert (await world.issued(short.id)).issuer.rfc4514_string().startswith("CN=Old,")


async def test_a_hundred_names(world: World) -> None:
    """The most that a profile permits, whole: every name in the SAN and found by it, none more; a 101st is refused."""
    names = [f"n{number:03}.example.com" for number in range(100)]
    order = await world.ordered(*names, profile="classic")
    too_many = await world.ordered(*names, "one-more.example.com", profile="classic")
    await issue_batch(world.process(), 8)
    certificate = await world.issued(order.id)
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sorted(san.get_values_for_type(x509.DNSName)) == names
    assert await world.owner.fetchval("SELECT count(*) FROM certificate_names WHERE serial = $1",
                                      await world.serial(order.id)) == 100
    assert await world.certificate(too_many.id) is None
    problem = await world.refusal(too_many.id) or {}
    assert problem["type"] == URN + "invalidProfile"
    assert "has 1 to 100 names, not 101" in problem["detail"]
    await world.check()


async def test_a_request_that_breaks_our_code(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not hold up the others; after five tries its order ends with serverInternal, the trace is in the log."""
    judge = evidence.judge_order
    broken = await world.ordered("broken.example.com")

    def judge_or_break(order: Any, *others: Any) -> Any:
        if order.id == broken.id:
            raise ZeroDivisionError
        return judge(order, *others)

    monkeypatch.setattr(cycle, "judge_order", judge_or_break)
    ca = world.process()
    for attempt in range(1, 6):
        good = await world.ordered(f"n{attempt}.example.com")
        await issue_batch(ca, 8)
        await world.issued(good.id)
        assert (await world.refusal(broken.id) is None) is (attempt < 5)
        await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    assert (await world.refusal(broken.id) or {})["type"] == URN + "serverInternal"
    assert await world.queued() == 0


async def test_a_signature_that_does_not_verify_is_a_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is stored, nothing is refused; when the token works again, the same certificate is finished."""
    order = await world.ordered("www.example.com")
    ca = world.process()
    real = ca.signer._thread.run

    async def another_key(call: Any, key: Any, messages: Any) -> Any:
        return await real(call, world.authorities[RSA_ISSUER].key, messages)

    monkeypatch.setattr(ca.signer._thread, "run", another_key)
    with pytest.raises(SignatureFault):
        await issue_batch(ca, 8)
    monkeypatch.undo()
    assert [event for event in world.events if event["event"] == "signature rejected"]
    assert await world.certificate(order.id) is None
    assert await world.refusal(order.id) is None
    serial = await world.serial(order.id)
    await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    await issue_batch(world.process(), 8)
    assert serial_from_int((await world.issued(order.id)).serial_number) == serial
    await world.check()
