"""SU1 at the CA: certificates by an authorization for a domain above (RFC 9444); what a captured front end gains."""

from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.issuing.cycle import issue_batch
from ca.pki.object_id import ObjectId
from tests.acme_client import URN
from tests.ca.issuing.world import POLICY, Subscriber, TestOrder, World

ON = replace(POLICY, subdomains=True)


async def _authorized(world: World, subscriber: Subscriber, name: str = "example.com", **changes: Any) -> ObjectId:
    """An authorization as the front end makes it, and as the VA stores that it is valid."""
    order = await world.order(subscriber, name, validated=False)
    await world.validate(order.authorization_ids[0], subscriber, name, **{"subdomains": True} | changes)
    return order.authorization_ids[0]


async def _ordered(world: World, subscriber: Subscriber, authorization_id: ObjectId, *names: str) -> TestOrder:
    order = await world.order(subscriber, *names, authorization_ids=[authorization_id] * len(names))
    await world.finalize(order)
    return order


async def _look(world: World, authorization_id: bytes, name: str, problem: Any = None) -> None:
    await world.run("acme_va", "INSERT INTO caa_checks (authorization_id, caa_name, checked_at, problem, evidence)"
                    " VALUES ($1, $2, $3, $4, '{}')", authorization_id, name, world.now(), problem)


async def _again(world: World) -> None:
    await world.run("acme_va", "DELETE FROM validation_requests")
    await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    await issue_batch(world.process(policy=ON), 8)


async def test_su1_one_authorization_for_names_and_wildcards_below(world: World) -> None:
    """SU1: the CA asks for CAA of each real name, the ancestor's own among them, waits, and issues when all permit; the
    checker agrees. A second order asks again (CA9)."""
    subscriber = await world.subscriber()
    names = ("a.b.example.com", "*.c.example.com", "example.com")
    authorization_id = await _authorized(world, subscriber)
    order = await _ordered(world, subscriber, authorization_id, *names)
    await issue_batch(world.process(policy=ON), 8)
    assert await world.certificate(order.id) is None
    asked = await world.owner.fetch("SELECT * FROM validation_requests ORDER BY caa_name")
    assert [(row["kind"], row["authorization_id"], row["caa_name"]) for row in asked] == [
        ("caa", authorization_id, ""), ("caa", authorization_id, "*.c.example.com"),
        ("caa", authorization_id, "a.b.example.com")]
    await _look(world, authorization_id, "")
    await _look(world, authorization_id, "*.c.example.com")
    await _again(world)
    assert await world.certificate(order.id) is None
    assert [row["caa_name"] for row in await world.owner.fetch("SELECT * FROM validation_requests")] == [
        "a.b.example.com"]
    await _look(world, authorization_id, "a.b.example.com")
    await _again(world)
    found = (await world.issued(order.id)).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(each.value) for each in found} == set(names)
    await world.check()
    second = await _ordered(world, subscriber, authorization_id, "a.b.example.com")
    await _again(world)
    assert await world.certificate(second.id) is None
    assert await world.owner.fetchval("SELECT caa_name FROM validation_requests") == "a.b.example.com"


async def test_su1_caa_of_the_real_name_forbids(world: World) -> None:
    """SU1, CA9: what the ancestor's records permit does not help a name whose own records forbid."""
    subscriber = await world.subscriber()
    authorization_id = await _authorized(world, subscriber)
    order = await _ordered(world, subscriber, authorization_id, "a.example.com", "b.example.com")
    await _look(world, authorization_id, "a.example.com")
    await _look(world, authorization_id, "b.example.com", {"type": URN + "caa", "detail": "no", "status": 403})
    await issue_batch(world.process(policy=ON), 8)
    problem = await world.refusal(order.id) or {}
    assert (problem["type"], problem["detail"]) == (URN + "caa", "no")


@pytest.mark.parametrize(("policy", "changes"), [
    (POLICY, {}), (ON, {"subdomains": False}), (ON, {"challenge_type": "http-01"}),
    (ON, {"challenge_type": "tls-alpn-01"}), (ON, {"wildcard": True}), (ON, {"identifier_value": "co.uk"}),
    (ON, {"identifier_value": "ample.com"})],
    ids=["off", "exact", "http-01", "tls-alpn-01", "wildcard", "suffix", "no-whole-label"])
async def test_su1_an_order_that_points_to_less_is_refused(
    world: World, policy: Any, changes: dict[str, Any]
) -> None:
    """SU1, RU2: a captured front end can point an order to any authorization: the CA goes by what the VA stored and by
    its own settings. It cannot rewrite what the VA stored, and cannot say what the VA saw."""
    subscriber = await world.subscriber()
    authorization_id = await _authorized(world, subscriber, **changes)
    order = await _ordered(world, subscriber, authorization_id, "a.example.com")
    await _look(world, authorization_id, "a.example.com")
    await issue_batch(world.process(policy=policy), 8)
    problem = await world.refusal(order.id) or {}
    assert (problem["type"], problem["status"]) == (URN + "unauthorized", 403)
    for statement in ("UPDATE authorizations SET subdomains = true", "UPDATE validations SET subdomains = true",
                      "INSERT INTO caa_checks VALUES ($1, now(), NULL, '{}', 0, 0, 0, 'a.example.com')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.run("acme_wfe", statement, *([authorization_id] if "$1" in statement else []))


async def test_su1_a_name_below_needs_the_subscribers_own_finalize(world: World) -> None:
    """SU1: an authorization that a captured front end has made for subdomains, behind its subscriber's back, is worth
    nothing to anybody else: the request for each name below is signed by the key that the domain named."""
    victim, thief = await world.subscriber(), await world.subscriber()
    authorization_id = await _authorized(world, victim)
    stolen = await world.order(victim, "a.example.com", authorization_ids=[authorization_id])
    leaf = ec.generate_private_key(ec.SECP256R1())
    await world.finalize(stolen, leaf, parts=world.signed_finalize(stolen, leaf, key=thief.key), key=thief.key)
    own = await _ordered(world, thief, authorization_id, "b.example.com")
    for name in ("a.example.com", "b.example.com"):
        await _look(world, authorization_id, name)
    await issue_batch(world.process(policy=ON), 8)
    for order in (stolen, own):
        assert (await world.refusal(order.id) or {})["type"] == URN + "unauthorized"


async def test_su1_the_ca_can_ask_about_names_below_alone(world: World) -> None:
    """SU1: a captured CA process can queue a look at CAA for a name that a validation stands for, and no other."""
    subscriber = await world.subscriber()
    below, ordinary = await _authorized(world, subscriber), await _authorized(world, subscriber, subdomains=False)
    async with world.pool.acquire() as connection:
        for number, (authorization_id, name) in enumerate((
                (below, "a.example.com"), (below, "a.example.org"), (below, "aexample.com"), (below, "%"),
                (ordinary, "a.example.com"), (below, ""), (ordinary, ""))):
            await connection.execute("SELECT ask_for_caa_checks($1::bytea[], $2::bytea[], $3::text[])",
                                     [bytes([number]) * 22], [authorization_id], [name])
    assert {(row["authorization_id"], row["caa_name"]) for row in await world.owner.fetch(
        "SELECT * FROM validation_requests")} == {(below, "a.example.com"), (below, ""), (ordinary, "")}


@pytest.mark.parametrize("table", ["accounts", "authorizations"])
async def test_su1_what_the_subscriber_ended(world: World, table: str) -> None:
    """SU1, AZ5: a deactivated account or authorization stands for nothing below it either."""
    subscriber = await world.subscriber()
    authorization_id = await _authorized(world, subscriber)
    order = await _ordered(world, subscriber, authorization_id, "a.example.com")
    await _look(world, authorization_id, "a.example.com")
    await world.run("acme_wfe", f"UPDATE {table} SET deactivated_at = now() WHERE id = $1",
                    subscriber.id if table == "accounts" else authorization_id)
    await issue_batch(world.process(policy=ON), 8)
    assert (await world.refusal(order.id) or {})["type"] == URN + "unauthorized"
