"""A captured front end: it may write orders, accounts, key changes and requests as it likes, and gets no certificate.

Everything here is written under the role acme_wfe; validations alone come from the VA, for what really was validated.
"""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from acme_api.protocol.directory import account_url, finalize_url
from ca.issuing.cycle import issue_batch
from tests.acme_client import URN, SigningKey, b64, flatten
from tests.ca.issuing.world import BASE, Subscriber, TestOrder, World
from tests.ca.pki.csr_maker import request as make_csr


async def _refused(world: World, order: TestOrder, kind: str) -> str:
    assert await issue_batch(world.process(), 8)
    problem = await world.refusal(order.id) or {}
    assert problem["type"] == URN + kind, problem
    assert await world.owner.fetchval("SELECT count(*) FROM issuances") == 0
    await world.check()
    return str(problem["detail"])


async def test_a_forged_signature(world: World) -> None:
    """The attacker's CSR under the victim's name, signed by nobody, or by a key of the attacker's own."""
    victim = await world.subscriber()
    order = await world.order(victim, "victim.example.com")
    protected, _, signature = world.signed_finalize(order, ec.generate_private_key(ec.SECP256R1()))
    forged = json.dumps({"csr": b64(make_csr(ec.generate_private_key(ec.SECP256R1()), names=list(order.names)))})
    await world.finalize(order, parts=(protected, forged.encode(), signature))
    assert "not a signed request" in await _refused(world, order, "malformed")


async def test_the_attackers_own_key(world: World) -> None:
    """A request that verifies, by a key that the domain never named."""
    order = await world.order(await world.subscriber(), "victim.example.com")
    attacker = SigningKey.make()
    await world.finalize(order, key=attacker)
    assert "is not the one that victim.example.com was validated for" in await _refused(world, order, "unauthorized")


async def test_another_accounts_authorization(world: World) -> None:
    """An order of the attacker's account that points at the victim's authorization."""
    victim, attacker = await world.subscriber(), await world.subscriber()
    validated = await world.order(victim, "victim.example.com")
    order = await world.order(attacker, "victim.example.com", authorization_ids=validated.authorization_ids)
    await world.finalize(order)
    assert "no valid authorization" in await _refused(world, order, "unauthorized")


async def test_an_order_in_the_victims_name(world: World) -> None:
    """An order that the front end books on the victim's account, finalized with the attacker's key."""
    victim, attacker = await world.subscriber(), await world.subscriber()
    validated = await world.order(victim, "victim.example.com")
    order = await world.order(victim, "victim.example.com", authorization_ids=validated.authorization_ids)
    parts = world.signed_finalize(order, ec.generate_private_key(ec.SECP256R1()), key=attacker.key, kid=attacker.url)
    await world.finalize(order, key=attacker.key, parts=parts)
    assert "another order or account" in await _refused(world, order, "malformed")


@pytest.mark.parametrize("elsewhere", ["order", "host", "path", "account"])
async def test_a_request_made_for_something_else(world: World, elsewhere: str) -> None:
    """The victim's own signature over another order's finalize URL, another CA's, another resource, another kid."""
    victim = await world.subscriber()
    order = await world.order(victim, "victim.example.com")
    other = await world.order(victim, "victim.example.com", authorization_ids=order.authorization_ids)
    url, kid = finalize_url(BASE, order.id), victim.url
    match elsewhere:
        case "order":
            url = finalize_url(BASE, other.id)
        case "host":
            url = finalize_url("https://other-ca.example", order.id)
        case "path":
            url = f"{BASE}/acme/new-order"
        case "account":
            kid = account_url(BASE, world.new_id())
    parts = world.signed_finalize(order, ec.generate_private_key(ec.SECP256R1()), url=url, kid=kid)
    await world.finalize(order, parts=parts)
    assert "another order or account" in await _refused(world, order, "malformed")


async def test_an_order_for_more_names(world: World) -> None:
    """The subscriber signed a CSR for one name; the order has two, both validated."""
    victim = await world.subscriber()
    order = await world.order(victim, "a.example.com", "b.example.com")
    leaf = ec.generate_private_key(ec.SECP256R1())
    await world.finalize(order, leaf, parts=world.signed_finalize(order, leaf, names=["a.example.com"]))
    assert "leaves out b.example.com" in await _refused(world, order, "badCSR")


@pytest.mark.parametrize("names", [("EVIL.example.com",), ("a.example.com", "a.example.com"), ("a..example.com",),
                                   ("co.uk",)])
async def test_identifiers_that_are_not_normalised(world: World, names: tuple[str, ...]) -> None:
    """What newOrder would never have stored is not certified because it is stored."""
    subscriber = await world.subscriber()
    order = await world.order(subscriber, *names, validated=False)
    for authorization_id, name in zip(order.authorization_ids, names, strict=True):
        await world.validate(authorization_id, subscriber, name)
    leaf = ec.generate_private_key(ec.SECP256R1())
    await world.finalize(order, leaf, parts=world.signed_finalize(order, leaf, names=["a.example.com"]))
    assert await issue_batch(world.process(), 8)
    problem = await world.refusal(order.id) or {}
    assert problem["type"] in (URN + "malformed", URN + "rejectedIdentifier")
    assert await world.owner.fetchval("SELECT count(*) FROM issuances") == 0


async def test_payloads_that_are_no_finalize(world: World) -> None:
    """A signed request of the victim's for this URL that asks for nothing, or has no CSR."""
    for payload in ({"status": "deactivated"}, {"csr": 1}, {"csr": "a=="}, {"csr": ""}):
        order = await world.order(await world.subscriber(), "victim.example.com")
        leaf = ec.generate_private_key(ec.SECP256R1())
        await world.finalize(order, leaf, parts=world.signed_finalize(order, leaf, payload=payload))
        await _refused(world, order, "malformed")


async def test_names_that_were_never_validated(world: World) -> None:
    """An authorization row is the front end's word; without the VA's there is no right."""
    order = await world.order(await world.subscriber(), "victim.example.com", validated=False)
    await world.finalize(order)
    await _refused(world, order, "unauthorized")


async def test_an_authorization_altered_after_its_validation(world: World) -> None:
    """The VA copied what it validated: another name, wildcard or account in the row changes nothing."""
    subscriber, attacker = await world.subscriber(), await world.subscriber()
    order = await world.order(subscriber, "a.example.com")
    await world.owner.execute("UPDATE authorizations SET identifier_value = 'victim.example.com', wildcard = true,"
                              " account_id = $1", attacker.id)
    for account, name in ((subscriber, "victim.example.com"), (subscriber, "*.a.example.com"),
                          (attacker, "a.example.com"), (attacker, "victim.example.com")):
        forged = await world.order(account, name, authorization_ids=order.authorization_ids)
        await world.finalize(forged)
        await _refused(world, forged, "unauthorized")
    await world.finalize(order)
    assert await issue_batch(world.process(), 8)
    await world.issued(order.id)


async def test_a_key_change_is_followed(world: World) -> None:
    """AC17: validated with the first key, finalized with the third; every link is in the stored requests."""
    subscriber = await world.subscriber()
    order = await world.order(subscriber, "a.example.com")
    await world.change_key(subscriber)
    middle = await world.order(subscriber, "b.example.com")
    await world.change_key(subscriber)
    await world.finalize(order)
    await world.finalize(middle)
    assert await issue_batch(world.process(), 8)
    await world.issued(order.id)
    await world.issued(middle.id)
    await world.check()


async def test_an_old_key_has_no_right_to_what_came_later(world: World) -> None:
    """A link leads from the old key to the new one and not back."""
    subscriber = await world.subscriber()
    old = subscriber.key
    await world.change_key(subscriber)
    order = await world.order(subscriber, "a.example.com")
    await world.finalize(order, key=old)
    assert "no key change of the account" in await _refused(world, order, "unauthorized")


async def test_forged_key_changes(world: World) -> None:
    """Links without the old key's signature, of another account, or that are no request at all prove nothing."""
    victim = await world.subscriber()
    order = await world.order(victim, "victim.example.com")
    attacker = Subscriber(victim.id, SigningKey.make())
    where = f"{BASE}/acme/key-change"
    inner = flatten(attacker.key, {"alg": "ES256", "jwk": attacker.key.jwk, "url": where},
                    {"account": victim.url, "oldKey": victim.key.jwk})
    outer = flatten(attacker.key, {"alg": "ES256", "nonce": "AAAA", "kid": victim.url, "url": where}, inner)
    for number, text in enumerate((json.dumps(outer), "{}", "no JSON")):
        await world.run("acme_wfe", "INSERT INTO key_changes VALUES ($1, now() + $5 * interval '1 s', $2, $3, $4)",
                        victim.id, victim.key.thumbprint, attacker.key.thumbprint, text, number)
    # A real key change, of another account, from the very key that the domain named.
    stranger = Subscriber((await world.subscriber()).id, victim.key)
    await world.change_key(stranger)
    await world.owner.execute("UPDATE key_changes SET account_id = $1", victim.id)
    for key in (attacker.key, stranger.key):
        forged = await world.order(victim, "victim.example.com", authorization_ids=order.authorization_ids)
        await world.finalize(forged, key=key)
        assert "no key change of the account" in await _refused(world, forged, "unauthorized")


async def test_dp2_a_persistent_record_does_not_help_the_front_end(world: World) -> None:
    """DP2: the record names the victim's account, so the validation has that account's first key: a key that the front
    end gives the account without a signed key change gets nothing, one that the subscriber rolled over to does."""
    victim = await world.subscriber()
    await world.run("ca_admin", "UPDATE accounts SET dns_persist_allowed_at = now() WHERE id = $1", victim.id)
    order = await world.order(victim, "victim.example.com", validated=False)
    first = await world.owner.fetchval("SELECT first_thumbprint FROM accounts WHERE id = $1", victim.id)
    assert first == victim.key.thumbprint
    await world.validate(order.authorization_ids[0], victim, "victim.example.com", challenge_type="dns-persist-01",
                         thumbprint=first)
    attacker = SigningKey.make()
    await world.run("acme_wfe", "UPDATE accounts SET thumbprint = $2, jwk = $3 WHERE id = $1", victim.id,
                    attacker.thumbprint, attacker.jwk_text)
    assert await world.owner.fetchval("SELECT first_thumbprint FROM accounts WHERE id = $1", victim.id) == first
    forged = await world.order(victim, "victim.example.com", authorization_ids=order.authorization_ids)
    await world.finalize(forged, key=attacker)
    assert "no key change of the account" in await _refused(world, forged, "unauthorized")
    await world.change_key(victim)
    await world.finalize(order)
    assert await issue_batch(world.process(), 8)
    await world.issued(order.id)


async def test_x1_a_persistent_validation_without_the_operators_word(world: World) -> None:
    """X1: the CA looks itself whether this account or profile may use the method."""
    subscriber = await world.subscriber()
    order = await world.order(subscriber, "a.example.com", validated=False)
    await world.validate(order.authorization_ids[0], subscriber, "a.example.com", challenge_type="dns-persist-01")
    await world.finalize(order)
    assert "no valid authorization" in await _refused(world, order, "unauthorized")


async def test_one_order_one_certificate(world: World) -> None:
    """FI10: a request that the front end queues again for an order that has its certificate signs nothing."""
    order = await world.ordered("a.example.com")
    ca = world.process()
    await issue_batch(ca, 8)
    first = await world.issued(order.id)
    for _ in range(3):
        await world.run("acme_wfe", "INSERT INTO issuance_requests (id, kind, requested_at)"
                        " VALUES ($1, 'order', now())", order.id)
        assert await issue_batch(ca, 8)
        assert await world.queued() == 0
    assert await world.issued(order.id) == first
    assert await world.owner.fetchval("SELECT count(*) FROM certificates") == 1
    assert len([event for event in world.events if event["event"] == "signed"]) == 1
    await world.check()
