"""CRLs published: first ones, changed ones, regular ones; what they list and for how long; what is never published."""

import asyncio
import subprocess
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ca.issuing import crls as crls_module
from ca.issuing.crls import CrlPublisher
from ca.issuing.cycle import issue_batch
from ca.issuing.revoke import revoke_requested
from ca.pki.serial import serial_from_int, shard
from tests.ca.issuing.world import EC_ISSUER, RSA_ISSUER, SHARDS, World


async def _crls(world: World) -> dict[tuple[int, int], x509.CertificateRevocationList]:
    """The newest CRL of each shard."""
    rows = await world.owner.fetch("SELECT DISTINCT ON (issuer_id, shard) * FROM crls ORDER BY issuer_id, shard,"
                                   " number DESC")
    return {(row["issuer_id"], row["shard"]): x509.load_der_x509_crl(row["der"]) for row in rows}


async def _revoke(world: World, publisher: CrlPublisher | None, serial: bytes, reason: int = 4) -> None:
    await world.revocation_request(serial, reason)
    ca = world.process()
    changed = await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log)
    if publisher is not None:
        publisher.mark(changed or [])


async def _serials(world: World, count: int) -> list[bytes]:
    subscriber = await world.subscriber()
    orders = [await world.ordered(f"n{number}.example.com", subscriber=subscriber) for number in range(count)]
    while await issue_batch(world.process(), 16):
        pass
    return [await world.serial(order.id) for order in orders]


def _listed(crl: x509.CertificateRevocationList) -> set[bytes]:
    return {serial_from_int(entry.serial_number) for entry in crl}


async def test_every_shard_has_a_crl_from_the_start(world: World) -> None:
    """Both issuers, all shards, empty, signed, with the number and URL that certificates point at; made once."""
    publisher = world.publisher(world.process())
    await publisher.publish_missing()
    crls = await _crls(world)
    assert set(crls) == {(issuer, number) for issuer in (EC_ISSUER, RSA_ISSUER) for number in range(SHARDS)}
    for (issuer_id, number), crl in crls.items():
        issuer = x509.load_der_x509_certificate(world.issuers[issuer_id])
        assert crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
        point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
        label = "test-e1" if issuer_id == EC_ISSUER else "test-r1"
        assert point.critical
        assert point.value.full_name is not None
        assert point.value.full_name[0].value == f"http://localhost:14002/{label}/{number + 1}.crl"
        assert len(crl) == 0
        next_update = crl.next_update_utc
        assert next_update is not None
        assert next_update - crl.last_update_utc == timedelta(days=9, seconds=-1)
    await publisher.publish_missing()
    await publisher.publish_due()
    assert await world.owner.fetchval("SELECT count(*) FROM crls") == 2 * SHARDS


async def test_a_revocation_is_listed_in_its_shard_alone(world: World) -> None:
    """The union of the shards is what is revoked, each entry where its certificate says; reason 0 is not encoded."""
    publisher = world.publisher(world.process())
    await publisher.publish_missing()
    serials = await _serials(world, 12)
    for number, serial in enumerate(serials[:9]):
        await _revoke(world, publisher, serial, (0, 1, 3, 4, 5, 9)[number % 6])
    assert publisher.is_marked()
    await publisher.publish_due()
    assert not publisher.is_marked()
    crls = await _crls(world)
    assert set().union(*(_listed(crl) for crl in crls.values())) == set(serials[:9])
    for (issuer_id, number), crl in crls.items():
        assert all(issuer_id == EC_ISSUER and shard(serial, SHARDS) == number for serial in _listed(crl))
        for entry in crl:
            reasons = [each.value for each in entry.extensions]
            unspecified = serials.index(serial_from_int(entry.serial_number)) % 6 == 0
            assert len(reasons) == (0 if unspecified else 1)
    touched = {(EC_ISSUER, shard(serial, SHARDS)) for serial in serials[:9]}
    counts = {(row["issuer_id"], row["shard"]): row["count"] for row in await world.owner.fetch(
        "SELECT issuer_id, shard, count(*) FROM crls GROUP BY 1, 2")}
    assert {key for key, count in counts.items() if count > 1} == touched


async def test_an_upgraded_reason_is_published(world: World) -> None:
    """The entry's reason changes, its date stays."""
    publisher = world.publisher(world.process())
    serial = (await _serials(world, 1))[0]
    await _revoke(world, publisher, serial, 4)
    await publisher.publish_due()
    before = next(iter((await _crls(world))[EC_ISSUER, shard(serial, SHARDS)]))
    world.clock_s = 5
    await _revoke(world, publisher, serial, 1)
    await publisher.publish_due()
    after = next(iter((await _crls(world))[EC_ISSUER, shard(serial, SHARDS)]))
    assert after.extensions.get_extension_for_class(x509.CRLReason).value.reason == x509.ReasonFlags.key_compromise
    assert after.revocation_date_utc == before.revocation_date_utc


async def test_revocations_of_a_process_that_died(world: World) -> None:
    """Another process finds what no CRL lists, by itself, within a minute; and at its own start."""
    watching = world.publisher(world.process())
    await watching.publish_missing()
    await watching.publish_due()
    serial, later = await _serials(world, 2)
    await _revoke(world, None, serial)
    await watching.publish_due()
    assert not any(len(crl) for crl in (await _crls(world)).values()), "it has looked a moment ago"
    world.clock_s = 61
    await watching.publish_due()
    assert _listed((await _crls(world))[EC_ISSUER, shard(serial, SHARDS)]) == {serial}
    await _revoke(world, None, later)
    starting = world.publisher(world.process())
    await starting.publish_due()
    assert later in _listed((await _crls(world))[EC_ISSUER, shard(later, SHARDS)])


async def test_every_six_hours(world: World) -> None:
    """Each shard gets a new CRL, with a greater number, whether or not something changed."""
    publisher = world.publisher(world.process())
    await publisher.publish_missing()
    world.clock_s = 6 * 3600 - 60
    await publisher.publish_due()
    assert await world.owner.fetchval("SELECT count(*) FROM crls") == 2 * SHARDS
    world.clock_s = 6 * 3600 + 60
    await publisher.publish_due()
    assert await world.owner.fetchval("SELECT count(*) FROM crls") == 4 * SHARDS


async def test_an_entry_stays_for_one_crl_after_the_end(world: World) -> None:
    """RFC 5280 3.3: listed in one CRL made after notAfter, then gone; and never gone before."""
    publisher = world.publisher(world.process())
    serial = (await _serials(world, 1))[0]
    key = (EC_ISSUER, shard(serial, SHARDS))
    await _revoke(world, publisher, serial)
    await publisher.publish_due()
    await world.owner.execute("UPDATE certificates SET not_after = now() + interval '1 hour'")
    listed = []
    for hours in (7, 14, 21):
        world.clock_s = hours * 3600
        await publisher.publish_due()
        listed.append(_listed((await _crls(world))[key]))
    assert listed == [{serial}, set(), set()]


async def test_nothing_is_published_when_the_clock_goes_back(world: World) -> None:
    """cRLNumber grows strictly: the shard is refused and marked, and made when the clock is right again."""
    publisher = world.publisher(world.process())
    await publisher.publish_missing()
    before = await world.owner.fetch("SELECT issuer_id, shard, number FROM crls ORDER BY 1, 2, 3")
    serial = (await _serials(world, 1))[0]
    world.clock_s = -3600
    await _revoke(world, publisher, serial)
    await publisher.publish_due()
    assert await world.owner.fetch("SELECT issuer_id, shard, number FROM crls ORDER BY 1, 2, 3") == before
    assert [event for event in world.events if event["event"] == "CRL refused"]
    assert publisher.is_marked()
    world.clock_s = 1
    await publisher.publish_due()
    assert serial in _listed((await _crls(world))[EC_ISSUER, shard(serial, SHARDS)])


async def test_nothing_is_published_that_forgets(world: World) -> None:
    """A revocation that vanished from the database does not vanish from the CRL: an operator has to look."""
    publisher = world.publisher(world.process())
    serial = (await _serials(world, 1))[0]
    await _revoke(world, publisher, serial)
    await publisher.publish_due()
    await world.owner.execute("DELETE FROM revocations")
    world.clock_s = 7 * 3600
    await publisher.publish_due()
    assert serial in _listed((await _crls(world))[EC_ISSUER, shard(serial, SHARDS)])
    assert [event["shard"] for event in world.events if event["event"] == "CRL refused"] == [shard(serial, SHARDS)]
    assert await world.owner.fetchval("SELECT count(*) FROM crls WHERE entries = 0") == 2 * (2 * SHARDS - 1)


@pytest.mark.parametrize("part", ["crl_serials", "tbs_crl", "lint_crl"])
async def test_orders_are_issued_while_a_crl_is_made(world: World, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Reading the last CRL, encoding the next one and linting it hold up nothing: while each of them is made to stand
    still, an order becomes a certificate, and the CRL is published when it goes on."""
    ca = world.process()
    publisher = world.publisher(ca)
    await publisher.publish_missing()
    serial = (await _serials(world, 1))[0]
    real, began, goes_on = getattr(crls_module, part), threading.Event(), threading.Event()

    def stands_still(*arguments: Any, **named: Any) -> Any:
        began.set()
        assert goes_on.wait(60), "the event loop stood still, too"
        return real(*arguments, **named)

    monkeypatch.setattr(crls_module, part, stands_still)
    await world.revocation_request(serial, 4)
    publisher.mark(await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log) or [])
    publishing = asyncio.create_task(publisher.publish_due())
    assert await asyncio.to_thread(began.wait, 60)
    order = await world.ordered("meanwhile.example.com")
    await issue_batch(ca, 8)
    await world.issued(order.id)
    assert not publishing.done()
    assert not any(len(crl) for crl in (await _crls(world)).values())
    goes_on.set()
    await publishing
    assert serial in _listed((await _crls(world))[EC_ISSUER, shard(serial, SHARDS)])


async def test_two_processes_make_each_crl_once(world: World) -> None:
    """The shard's lock: both look at the same moment, and nothing is made twice, no number is used twice."""
    first, second = world.publisher(world.process("a")), world.publisher(world.process("b"))
    await asyncio.gather(first.publish_missing(), second.publish_missing())
    numbers = await world.owner.fetch("SELECT issuer_id, shard, count(*), count(DISTINCT number) AS numbers FROM crls"
                                      " GROUP BY 1, 2")
    assert len(numbers) == 2 * SHARDS
    assert all(row["count"] == row["numbers"] for row in numbers)


async def test_a_shard_that_another_process_holds(world: World) -> None:
    """It stays marked, and the publisher wakes itself up for it."""
    publisher = world.publisher(world.process())
    await publisher.publish_missing()
    serial = (await _serials(world, 1))[0]
    await _revoke(world, publisher, serial)
    publisher.wake.clear()
    number = shard(serial, SHARDS)
    async with world.owner.transaction():
        await world.owner.execute("SELECT pg_advisory_xact_lock(hashtext('chancery crl'), $1)",
                                  EC_ISSUER * 256 + number)
        await publisher.publish_due()
    assert publisher.is_marked()
    await asyncio.wait_for(publisher.wake.wait(), 5)
    await publisher.publish_due()
    assert not publisher.is_marked()
    assert serial in _listed((await _crls(world))[EC_ISSUER, number])


@pytest.mark.parametrize("kind", ["ec", "rsa"])
async def test_openssl_checks_revocation(world: World, tmp_path: Path, kind: str) -> None:
    """`openssl crl` verifies each CRL; `openssl verify -crl_check` believes the shard that the certificate names."""
    publisher = world.publisher(world.process())
    leaf = rsa.generate_private_key(65_537, 2048) if kind == "rsa" else None
    good, revoked = await world.ordered("a.example.com", leaf=leaf), await world.ordered("b.example.com", leaf=leaf)
    await issue_batch(world.process(), 8)
    await _revoke(world, publisher, await world.serial(revoked.id))
    await publisher.publish_due()
    issuer_id = RSA_ISSUER if kind == "rsa" else EC_ISSUER
    issuer = tmp_path / "issuer.pem"
    issuer.write_bytes(x509.load_der_x509_certificate(world.issuers[issuer_id]).public_bytes(Encoding.PEM))
    for (owner, number), crl in (await _crls(world)).items():
        if owner == issuer_id:
            (tmp_path / f"{number}.pem").write_bytes(crl.public_bytes(Encoding.PEM))
            subprocess.run(["openssl", "crl", "-in", str(tmp_path / f"{number}.pem"), "-noout", "-CAfile", str(issuer),
                            "-verify"], check=True, capture_output=True)
    for order, accepted in ((good, True), (revoked, False)):
        certificate = await world.issued(order.id)
        leaf_file = tmp_path / "leaf.pem"
        leaf_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        own, other = certificate.serial_number % SHARDS, (certificate.serial_number + 1) % SHARDS
        command = ["openssl", "verify", "-partial_chain", "-crl_check", "-trusted", str(issuer)]
        own_shard = subprocess.run([*command, "-CRLfile", str(tmp_path / f"{own}.pem"), str(leaf_file)], check=False,
                                   capture_output=True, text=True)
        assert (own_shard.returncode == 0) is accepted, own_shard.stderr
        assert accepted or "certificate revoked" in own_shard.stdout + own_shard.stderr
        wrong_shard = subprocess.run([*command, "-CRLfile", str(tmp_path / f"{other}.pem"), str(leaf_file)],
                                     check=False, capture_output=True, text=True)
        assert wrong_shard.returncode != 0, "the issuingDistributionPoint is of another shard"
