"""The cycle: what is issued, in which order it is stored and signed, what breaks. Real PostgreSQL, real SoftHSM."""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.issuing import cycle, evidence, queue_store, signer
from ca.issuing.__main__ import BATCH, IssuanceTurns
from ca.issuing.cycle import issue_batch
from ca.issuing.signer import SignatureFault
from ca.pki.identifier import Identifier, NamePolicy
from ca.pki.lint import lint_certificate
from ca.pki.profile import offered_profiles
from ca.pki.serial import serial_from_int
from ca.process.audit_log import AuditLog, AuditLogError
from ca.process.audit_reader import read_chain, summarize
from hsm.key import HsmPrivateKey, sign_many
from tests.acme_client import URN
from tests.ca.issuing.world import EC_ISSUER, POLICY, RSA_ISSUER, World


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


async def test_turns_go_on_as_long_as_batches_are_full(world: World) -> None:
    """A full batch says that more may wait; one that is not has emptied the queue, and nobody claims for nothing: who
    comes later has a wake-up of its own."""
    turns, subscriber = IssuanceTurns(world.process()), await world.subscriber()
    orders = [await world.ordered(f"n{number}.example.com", subscriber=subscriber) for number in range(BATCH + 1)]
    assert [await turns.step(), await world.queued()] == [True, 1]
    assert [await turns.step(), await world.queued()] == [False, 0]
    assert not await turns.step()
    for order in orders:
        await world.issued(order.id)


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


async def test_what_is_linted_is_signed_by_nobody(world: World) -> None:
    """BR 4.3.1.2: the linter sees the very TBS behind a static value of the form of the issuer's signatures, which does
    not hold, and finds what it finds in the certificate itself."""
    ca = world.process()
    orders = [await world.ordered("www.example.com"),
              await world.ordered("www.example.com", leaf=rsa.generate_private_key(65_537, 2048))]
    await issue_batch(ca, 8)
    for order, issuer_id in zip(orders, (EC_ISSUER, RSA_ISSUER), strict=True):
        certificate, issuer = await world.issued(order.id), world.authorities[issuer_id].issuer
        tbs = certificate.tbs_certificate_bytes
        shown = x509.load_der_x509_certificate(ca.signer.whole_for_lint(tbs, issuer))
        assert shown.tbs_certificate_bytes == tbs
        assert shown.signature_algorithm_oid == certificate.signature_algorithm_oid
        assert shown.signature == x509.load_der_x509_certificate(
            ca.signer.whole_for_lint(tbs.replace(b"www.", b"xyz."), issuer)).signature
        assert abs(len(shown.signature) - len(certificate.signature)) <= 6     # ECDSA's two numbers may be shorter
        with pytest.raises(InvalidSignature):
            shown.verify_directly_issued_by(x509.load_der_x509_certificate(world.issuers[issuer_id]))
        real = certificate.public_bytes(Encoding.DER)
        assert lint_certificate(shown.public_bytes(Encoding.DER), issuer) == lint_certificate(real, issuer)


async def test_intents_are_on_disk_before_the_hsm_is_asked(world: World, tmp_path: Path) -> None:
    """8.5: at the moment of the signature the file says so; when it cannot, nothing is signed, and all is later."""
    log = AuditLog.open(tmp_path, "ca", now=world.now, random_bytes=os.urandom)
    ca = world.process()
    ca.audit.file = log
    ordered = await world.ordered("www.example.com")
    seen: list[list[str]] = []

    def watched(key: HsmPrivateKey, messages: Sequence[bytes]) -> list[bytes]:
        seen.append([record.event for record in read_chain(tmp_path / "ca.0")])
        return sign_many(key, messages)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(signer, "sign_many", watched)
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
    monkeypatch.setattr(signer, "sign_many", lambda _, messages: sign_many(world.authorities[RSA_ISSUER].key, messages))
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
