"""The clock steps back an hour while orders are under way (spec A.5, scenario 3).

Nothing is refused that should not be, no serial number or CRL number comes twice, no certificate lacks its SCTs, and
revoked stays revoked.
"""

import itertools

import pytest

from ca.issuing import queue_store
from ca.issuing.cycle import issue_batch
from ca.issuing.revoke import revoke_requested
from ca.pki.crl import crl_serials
from tests.ca.issuing.transparent import Killed, transparent
from tests.ca.issuing.world import World
from tests.ct_log import personalities

_STEP_S = -3_600.0


async def test_orders_of_before_and_after(world: World) -> None:
    """Ordered, validated, finalized, begun (serial number committed) and issued before the step: every order becomes
    a certificate after it, with one serial number each, valid at either time. The global checker names those whose
    records contradict each other since, and finds nothing else."""
    subscriber = await world.subscriber()
    issued = await world.ordered("issued.example.com")
    ca = world.process()
    await issue_batch(ca, 8)
    before = await world.serial(issued.id)

    dying = world.process("dying")

    async def die(step: int) -> None:
        if step == 4:
            raise Killed

    dying.after_step = die
    begun = await world.ordered("begun.example.com")
    with pytest.raises(Killed):
        await issue_batch(dying, 8)
    serial = await world.serial(begun.id)
    finalized = await world.ordered("finalized.example.com")
    validated = await world.order(subscriber, "validated.example.com")
    ordered = await world.order(subscriber, "ordered.example.com", "*.ordered.example.com", validated=False)

    world.clock_s = _STEP_S
    await queue_store.free_leases(world.pool, [dying.worker])
    await world.finalize(validated)
    for authorization_id, name in zip(ordered.authorization_ids, ordered.names, strict=True):
        await world.validate(authorization_id, subscriber, name)
    await world.finalize(ordered)
    while await issue_batch(ca, 8):
        pass
    # An order is older than what the VA saw for it; by these clocks it is not, so that CAA is looked at once more.
    assert await world.refusal(ordered.id) is None
    for authorization_id in ordered.authorization_ids:
        await world.run("acme_va", "INSERT INTO caa_checks VALUES ($1, $2, NULL, '{}')", authorization_id, world.now())
    await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    while await issue_batch(ca, 8):
        pass
    serials = {before}
    for order in (begun, finalized, validated, ordered):
        certificate = await world.issued(order.id)
        assert certificate.not_valid_before_utc <= world.now() < certificate.not_valid_after_utc
        serials.add(await world.serial(order.id))
    assert len(serials) == 5
    assert await world.serial(begun.id) == serial
    assert await world.owner.fetchval("SELECT count(*) FROM refusals") == 0
    assert await world.owner.fetchval("SELECT count(*) FROM certificates") == 5
    world.clock_s = 0.0
    crossing = {(await world.serial(order.id)).hex() for order in (finalized, validated)}
    found = {result.code: set(result.examples) for result in (await world.report()).results
             if result.state == "broken" and result.code != "without_crl"}
    assert found == {"signature_without_intent": {serial.hex()}, "name_without_validation": crossing,
                     "name_without_caa": crossing}


async def test_scts_of_the_future_are_waited_for(world: World) -> None:
    """What the logs signed lies in the future of a clock that was set back: it is not used, the order is not refused,
    and when the clock is right again the same serial number becomes a certificate with compliant SCTs."""
    async with transparent(world, personalities(4)) as ct:
        order = await world.ordered("www.example.com")
        ca = ct.ca()
        await ct.turn_once(ca)
        serial = await world.serial(order.id)
        world.clock_s = _STEP_S
        await ct.let_pauses_pass()
        await ct.turn(ca, ct.publisher())
        assert await world.certificate(order.id) is None
        assert await world.refusal(order.id) is None
        assert await ct.statement("SELECT count(*) FROM final_certificates") == 0
        world.clock_s = 0.0
        await ct.let_pauses_pass()
        await ct.turn(ca, ct.publisher())
        assert len(await ct.scts_of(order.id)) == 2
        assert await world.serial(order.id) == serial
        await world.check()


async def test_revocations_across_the_step(world: World) -> None:
    """Revoked before and after the step: each is in the next CRL that the clock permits, CRL numbers and thisUpdate
    only grow, and the moment of a revocation that was published does not change when its reason does."""
    ca = world.process()
    publisher = world.publisher(ca)
    await publisher.publish_missing()
    orders = [await world.ordered(f"n{number}.example.com") for number in range(2)]
    await issue_batch(ca, 8)
    early, late = [await world.serial(order.id) for order in orders]

    async def revoke(serial: bytes, reason: int) -> None:
        await world.revocation_request(serial, reason)
        publisher.mark(await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log) or [])
        await publisher.publish_due()

    async def listed() -> set[bytes]:
        rows = await world.owner.fetch("SELECT DISTINCT ON (issuer_id, shard) der FROM crls ORDER BY issuer_id, shard,"
                                       " number DESC")
        return set().union(*(crl_serials(row["der"]) for row in rows))

    world.clock_s = 1.0
    await revoke(early, 4)
    revoked_at = await world.owner.fetchval("SELECT revoked_at FROM revocations")
    world.clock_s = _STEP_S
    await revoke(late, 4)
    await revoke(early, 1)
    assert await listed() == {early}, "nothing that goes back is published, and nothing is lost"
    assert publisher.is_marked()
    world.clock_s = 2.0
    await publisher.publish_due()
    assert await listed() == {early, late}
    assert not publisher.is_marked()
    rows = await world.owner.fetch("SELECT issuer_id, shard, number, this_update FROM crls ORDER BY issuer_id, shard,"
                                   " number")
    for older, newer in itertools.pairwise(rows):
        if older["issuer_id"] == newer["issuer_id"] and older["shard"] == newer["shard"]:
            assert older["number"] < newer["number"]
            assert older["this_update"] < newer["this_update"]
    assert await world.owner.fetchval("SELECT revoked_at FROM revocations WHERE serial = $1", early) == revoked_at
    assert await world.owner.fetchval("SELECT count(*) FROM ocsp_requests WHERE version > 0") >= 2
    await world.check()
