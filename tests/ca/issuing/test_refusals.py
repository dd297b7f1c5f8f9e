"""What the CA refuses, and with which words. Real PostgreSQL, real SoftHSM."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.issuing.cycle import issue_batch
from ca.pki.domain_control import PerspectivePolicy
from ca.pki.identifier import NamePolicy
from tests.acme_client import URN, b64
from tests.ca.issuing.world import POLICY, TestOrder, World
from tests.ca.pki.csr_maker import extension
from tests.ca.pki.csr_maker import request as make_csr

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


@pytest.mark.parametrize("damage", [
    lambda _: b"", lambda packed: b"\x07" + packed[1:], lambda packed: packed[:-1], lambda packed: packed + b"\0",
    lambda packed: packed[:1] + bytes(len(packed) - 1), lambda _: b"\0not,three,lengths:", lambda _: b"\0" * 40],
    ids=["empty", "unknown form", "cut off", "followed by an octet", "zeros", "no lengths", "plain zeros"])
async def test_a_request_that_cannot_be_unpacked(world: World, damage: Callable[[bytes], bytes]) -> None:
    """Whatever stands where the finalize request was packed: its own order is refused, exactly, and the others of the
    batch, those before it and those behind it, have their certificates."""
    first = await world.ordered("a.example.com")
    damaged = await world.ordered("b.example.com")
    last = await world.ordered("c.example.com")
    packed = await world.owner.fetchval("SELECT request FROM finalizations WHERE order_id = $1", damaged.id)
    await world.owner.execute("UPDATE finalizations SET request = $2 WHERE order_id = $1", damaged.id, damage(packed))
    assert await issue_batch(world.process(), 8) == 3
    for order in (first, last):
        await world.issued(order.id)
    assert await world.refusal(damaged.id) == {
        "type": URN + "malformed", "status": 400, "detail": "the stored finalize request cannot be read"}
    assert await world.owner.fetchval("SELECT count(*) FROM issuances") == 2
    assert await world.queued() == 0
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
