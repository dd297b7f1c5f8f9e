"""Revocation requests carried out: facts, versions, what OCSP is asked for, and whom a lost key takes along.
Blocked keys are test_block.py's."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.issuing.cycle import issue_batch
from ca.issuing.revocation_store import IssuedCertificate
from ca.issuing.revoke import revoke_requested
from tests.ca.issuing.world import Leaf, World


async def _serial(world: World, leaf: Leaf | None = None, name: str = "www.example.com") -> bytes:
    order = await world.ordered(name, leaf=leaf)
    await issue_batch(world.process(), 8)
    return await world.serial(order.id)


async def _revoke(world: World) -> list[IssuedCertificate] | None:
    ca = world.process()
    return await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log)


async def _facts(world: World) -> dict[bytes, tuple[int, int, str]]:
    return {row["serial"]: (row["reason"], row["version"], row["authority"])
            for row in await world.owner.fetch("SELECT * FROM revocations")}


async def _asked(world: World, serial: bytes) -> list[int]:
    return [row["version"] for row in await world.owner.fetch(
        "SELECT version FROM ocsp_requests WHERE serial = $1 ORDER BY version", serial)]


async def test_nothing_to_do(world: World) -> None:
    """An empty queue."""
    assert await _revoke(world) is None


@pytest.mark.parametrize(("authority", "asked", "recorded"), [
    ("account", 0, 0), ("account", 1, 1), ("account", 4, 4), ("operator", 9, 9),
    ("authorizations", 4, 5), ("certificate_key", 0, 1), ("certificate_key", 5, 1),
])
async def test_a_revocation(world: World, authority: str, asked: int, recorded: int) -> None:
    """Whole seconds, version 1, the reason by its authority; OCSP is asked for; the queue is empty; it is recorded."""
    serial = await _serial(world)
    await world.revocation_request(serial, asked, authority)
    changed = await _revoke(world)
    assert changed is not None
    assert [certificate.serial for certificate in changed] == [serial]
    assert await _facts(world) == {serial: (recorded, 1, authority)}
    assert await _asked(world, serial) == [0, 1]
    row = await world.owner.fetchrow("SELECT * FROM revocations")
    assert row is not None
    assert row["revoked_at"].microsecond == 0
    assert row["evidence"] == {"by": authority}
    assert await world.owner.fetchval("SELECT count(*) FROM revocation_requests") == 0
    assert [(event["serial"], event["reason"]) for event in world.events if event["event"] == "revoked"] == [
        (serial.hex(), recorded)]


async def test_a_certificate_without_ocsp(world: World) -> None:
    """A short-lived one is revoked like any other, and no OCSP response is asked for: its CRL says it."""
    order = await world.ordered("www.example.com", profile="shortlived")
    await issue_batch(world.process(), 8)
    serial = await world.serial(order.id)
    await world.revocation_request(serial, 4)
    changed = await _revoke(world)
    assert changed is not None
    assert [certificate.serial for certificate in changed] == [serial]
    assert await _facts(world) == {serial: (4, 1, "account")}
    assert await _asked(world, serial) == []


async def test_repetition_changes_nothing(world: World) -> None:
    """Idempotent: the first revocation stays, with its time and evidence."""
    serial = await _serial(world)
    await world.revocation_request(serial, 4)
    await _revoke(world)
    before = await world.owner.fetchrow("SELECT * FROM revocations")
    world.clock_s = 3600
    for reason, authority in ((5, "account"), (0, "operator"), (4, "authorizations")):
        await world.revocation_request(serial, reason, authority)
    assert await _revoke(world) == []
    assert await world.owner.fetchrow("SELECT * FROM revocations") == before
    assert await _asked(world, serial) == [0, 1]


async def test_a_reason_becomes_key_compromise(world: World) -> None:
    """RV3: version 2 with the first time, asked for at OCSP again; and never away from it."""
    serial = await _serial(world)
    await world.revocation_request(serial, 4)
    await _revoke(world)
    first = await world.owner.fetchval("SELECT revoked_at FROM revocations")
    world.clock_s = 3600
    await world.revocation_request(serial, 0, "certificate_key")
    changed = await _revoke(world)
    assert changed is not None
    assert len(changed) == 1
    assert await _facts(world) == {serial: (1, 2, "account")}
    assert await world.owner.fetchval("SELECT revoked_at FROM revocations") == first
    assert await world.owner.fetchval("SELECT evidence FROM revocations") == {"by": "certificate_key"}
    assert await _asked(world, serial) == [0, 1, 2]
    await world.revocation_request(serial, 4)
    assert await _revoke(world) == []
    assert await _facts(world) == {serial: (1, 2, "account")}


async def test_many_requests_at_once(world: World) -> None:
    """One transaction: the first reason of each serial number counts, an upgrade behind it too."""
    first, second, third = [await _serial(world, name=f"n{number}.example.com") for number in range(3)]
    for serial, reason, authority in ((first, 4, "account"), (first, 5, "account"), (second, 0, "account"),
                                      (second, 1, "account"), (third, 5, "authorizations")):
        await world.revocation_request(serial, reason, authority)
    changed = await _revoke(world)
    assert changed is not None
    assert {certificate.serial for certificate in changed} == {first, second, third}
    assert await _facts(world) == {first: (4, 1, "account"), second: (1, 2, "account"), third: (5, 1, "authorizations")}
    assert await _asked(world, second) == [0, 2]


async def test_a_lost_key_takes_its_certificates_along(world: World) -> None:
    """RV6: proven by the key itself or by an operator, every unexpired certificate with the key is revoked for it."""
    lost, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    one, two, three = [await _serial(world, lost, f"n{number}.example.com") for number in range(3)]
    untouched = await _serial(world, other, "other.example.com")
    expired = await _serial(world, lost, "expired.example.com")
    await world.owner.execute("UPDATE certificates SET not_after = now() - interval '1 h' WHERE serial = $1", expired)
    await world.revocation_request(three, 4)
    await _revoke(world)
    await world.revocation_request(one, 0, "certificate_key")
    await _revoke(world)
    assert await _facts(world) == {one: (1, 1, "certificate_key"), two: (1, 1, "certificate_key"),
                                   three: (1, 2, "account")}
    assert await _asked(world, two) == [0, 1]
    assert await _asked(world, untouched) == [0]


async def test_a_reported_key_compromise_is_about_one_certificate(world: World) -> None:
    """An account that says 1 without a proof revokes what it named, not what others have."""
    key = ec.generate_private_key(ec.SECP256R1())
    one, two = await _serial(world, key, "a.example.com"), await _serial(world, key, "b.example.com")
    await world.revocation_request(one, 1, "account")
    await _revoke(world)
    assert set(await _facts(world)) == {one}
    assert await _asked(world, two) == [0]


async def test_what_was_only_intended_can_be_revoked(world: World) -> None:
    """The serial number counts from the intent on, signature or not."""
    order = await world.ordered("www.example.com")
    ca = world.process()

    async def stop(number: int) -> None:
        if number == 4:
            raise InterruptedError

    ca.after_step = stop
    with pytest.raises(InterruptedError):
        await issue_batch(ca, 8)
    serial = await world.serial(order.id)
    await world.revocation_request(serial, 4)
    await _revoke(world)
    assert await _facts(world) == {serial: (4, 1, "account")}


async def test_requests_that_cannot_be_carried_out(world: World) -> None:
    """A serial number that was never given out, a reason that the front end should have refused: dropped, logged."""
    serial = await _serial(world)
    await world.revocation_request(bytes(range(1, 19)), 4)
    await world.revocation_request(serial, 6)
    assert await _revoke(world) == []
    assert await _facts(world) == {}
    assert await world.owner.fetchval("SELECT count(*) FROM revocation_requests") == 0
    assert len([event for event in world.events if event["event"] == "revocation request dropped"]) == 2


async def test_one_process_at_a_time(world: World) -> None:
    """While another process carries revocations out, this one leaves them alone."""
    serial = await _serial(world)
    await world.revocation_request(serial, 4)
    async with world.owner.transaction():
        await world.owner.execute("SELECT pg_advisory_xact_lock(hashtext('chancery revocations'))")
        assert await _revoke(world) is None
    assert await _revoke(world)


async def test_mass_revocation_keeps_its_pace(world: World) -> None:
    """A million in an hour is 280 a second; a batch is 500."""
    order = await world.ordered("www.example.com")
    await issue_batch(world.process(), 8)
    serial = await world.serial(order.id)
    await world.owner.execute("""
        INSERT INTO certificates (serial, request_id, account_id, issuer_id, profile, not_before, not_after,
            spki_sha256, tbs, created_at)
        SELECT substr(serial, 1, 2) || substr(sha256(n::text::bytea), 1, 16), request_id, account_id, issuer_id,
            profile, not_before, not_after, sha256(n::text::bytea), tbs, created_at
        FROM certificates, generate_series(1, 2000) AS n WHERE serial = $1""", serial)
    await world.owner.execute("""
        INSERT INTO revocation_requests SELECT serial, serial, 4, 'operator', '{}', now() FROM certificates""")
    started = world.now()
    while await _revoke(world) is not None:
        pass
    assert len(await _facts(world)) == 2001
    assert world.now() - started < timedelta(seconds=2001 / 280)
