"""CAA that has to be looked at again before the CA signs (row CA9). Real PostgreSQL, real SoftHSM."""

from datetime import timedelta

from ca.issuing.__main__ import IssuanceTurns
from ca.issuing.cycle import issue_batch
from tests.ca.issuing.world import World


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
    await turns.step()
    a, b = first.authorization_ids
    orders = []
    for names, ids in ((first.names, (a, b)), (("b.example.com",), (b,))):
        orders.append(await world.order(subscriber, *names, authorization_ids=ids))
        await world.finalize(orders[-1])
    await turns.step()
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
