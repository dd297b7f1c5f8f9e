"""newAccount, account, key change, orders list at the server (rows AC1 to AC10, AC15 to AC17, E36 to E52)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acme_api.protocol.jws import link_of_key_change
from ca.pki.weak_list import digests
from tests.acme_api.wfe.running import BASE, Clock, OtherProcesses, RunningWfe, id_of, issued
from tests.acme_client import ABSENT, JOSE_JSON, AcmeClient, Answer, SigningKey, flatten

_Start = Callable[..., Awaitable[RunningWfe]]
_TERMS = "https://ca.example/terms"


async def test_ac1_create(wfe: RunningWfe) -> None:
    """Rows AC1, E40: 201, Location, own values; nothing of the request that is not the client's is reflected."""
    client = wfe.client()
    answer = (await client.register(contact=["mailto:a@x.example"], status="revoked", orders="https://evil", id=1,
                                    admin=True, createdAt="x", foo="bar", onlyReturnExisting=False)).require(201)
    assert answer.json == {"status": "valid", "contact": ["mailto:a@x.example"], "termsOfServiceAgreed": True,
                           "orders": f"{client.kid}/orders"}
    assert answer.link("terms-of-service") == []


async def test_ac2_ac3_known_and_unknown_keys(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows AC2, AC3: a known key is 200 with the object as it was, whatever is sent; an unknown one is not made."""
    client = wfe.client()
    created = await client.register(contact=["mailto:a@x.example"])
    for payload in ({"contact": ["mailto:b@x.example"], "termsOfServiceAgreed": 5}, {"onlyReturnExisting": True},
                    {"contact": 5}):
        again = (await client.post("/acme/new-account", payload, jwk=client.key.jwk)).require(200)
        assert (again.location, again.json) == (created.location, created.json)
    stranger = wfe.client()
    unknown = {"onlyReturnExisting": True, "contact": ["x"], "termsOfServiceAgreed": 5}
    (await stranger.post("/acme/new-account", unknown)).require(400, "accountDoesNotExist")
    assert await others.count("accounts") == 1


async def test_ac4_terms_of_service(start: _Start) -> None:
    """Rows AC4, E36: not agreed is malformed with a link to the terms; agreed is 201 with that link."""
    wfe = await start(terms_of_service=_TERMS)
    client = wfe.client()
    for agreed in (ABSENT, False, "true", 1, None):
        payload = {} if agreed is ABSENT else {"termsOfServiceAgreed": agreed}
        answer = (await client.post("/acme/new-account", payload)).require(400, "malformed")
        assert answer.link("terms-of-service") == [_TERMS]
    created = (await client.register()).require(201)
    assert created.link("terms-of-service") == [_TERMS]
    assert (await client.send("GET", "/directory")).json["meta"]["termsOfService"] == _TERMS


@pytest.mark.parametrize(("contact", "kind"), [
    ("x", "malformed"), ([None], "malformed"), (["mailto:a@x.example"] * 11, "malformed"),
    (["mailto:" + "a" * 40_000], "invalidContact"), (["tel:+1"], "unsupportedContact"),
    (["mailto:a@localhost"], "invalidContact")])
async def test_ac5_contacts(wfe: RunningWfe, others: OtherProcesses, contact: Any, kind: str) -> None:
    """Rows AC5, E37 to E39: refused at newAccount and at an update alike, and nothing is changed."""
    client = wfe.client()
    (await client.register(contact=contact)).require(400, kind)
    assert await others.count("accounts") == 0
    client = await wfe.subscriber()
    (await client.post(client.kid, {"contact": contact})).require(400, kind)
    assert "contact" not in (await client.post(client.kid)).json


async def test_ac6_updates(wfe: RunningWfe) -> None:
    """Rows AC6, E45: contacts are replaced and cleared; the rest is ignored; Location on each answer."""
    client = await wfe.subscriber()
    changed = (await client.post(client.kid, {"contact": ["mailto:a@x.example"], "orders": "x"})).require(200)
    assert changed.json["contact"] == ["mailto:a@x.example"]
    ignored: list[dict[str, Any]] = [
        {}, {"status": "valid"}, {"status": "x"}, {"status": "revoked"}, {"status": 5}, {"key": {}},
        {"externalAccountBinding": {}}, {"termsOfServiceAgreed": False}]
    for payload in ignored:
        answer = (await client.post(client.kid, payload)).require(200)
        assert (answer.json, answer.location) == (changed.json, client.kid)
    assert "contact" not in (await client.post(client.kid, {"contact": []})).require(200).json
    assert (await client.post(client.kid)).require(200).location == client.kid


async def test_ac9_e41_one_account_for_twenty_parallel_requests(start: _Start) -> None:
    """Rows AC9, E41: the same new key twenty times at two servers: one 201, 19 200, one Location."""
    one, two = await start(), await start()
    client = one.client()
    payload = {"termsOfServiceAgreed": True}
    bodies = [await client.signed("/acme/new-account", payload) for _ in range(20)]
    at_two = two.client()
    answers = await asyncio.gather(*[(client if number % 2 else at_two).send(
        "POST", "/acme/new-account", data=body, headers=JOSE_JSON) for number, body in enumerate(bodies)])
    assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
    assert len({answer.location for answer in answers}) == 1


async def test_e46_parallel_deactivation(wfe: RunningWfe) -> None:
    """Row E46: ten times in parallel: 200 or 401, at least one 200."""
    client = await wfe.subscriber()
    bodies = [await client.signed(client.kid, {"status": "deactivated"}) for _ in range(10)]
    answers = await asyncio.gather(*[client.send("POST", client.kid, data=body, headers=JOSE_JSON) for body in bodies])
    assert {answer.status for answer in answers} <= {200, 401}
    assert 200 in {answer.status for answer in answers}


async def test_e51_a_certificates_key_is_no_account_key(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row E51: 400 badPublicKey at newAccount and keyChange."""
    client = await wfe.subscriber()
    certified = SigningKey.make()
    await issued(client, others, "a.example.com", key=certified.private)
    (await wfe.client(certified).register()).require(400, "badPublicKey")
    (await _change(client, certified)).require(400, "badPublicKey")


async def test_rv6_a_blocked_key_is_no_account_key(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row RV6: 400 badPublicKey at newAccount and keyChange, whether a certificate ever had the key or not."""
    client, blocked = await wfe.subscriber(), SigningKey.make()
    await others.block_key(blocked.private)
    assert "blocked" in (await wfe.client(blocked).register()).require(400, "badPublicKey").json["detail"]
    (await _change(client, blocked)).require(400, "badPublicKey")
    for alg in ("RS256", "ES256", "EdDSA"):
        weak = SigningKey.make(alg)
        spki = weak.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        await others.run("ca_admin", ("INSERT INTO weak_keys VALUES ($1, 'list')", digests(spki)[-1]))
        (await wfe.client(weak).register()).require(400, "badPublicKey")


async def _change(client: AcmeClient, new: SigningKey, *, inner: dict[str, Any] | None = None,
                  payload: Any = None, kid: str | None = None) -> Answer:
    path = "/acme/key-change"
    claim = {"account": client.kid, "oldKey": client.key.jwk} if payload is None else payload
    header = {"alg": new.alg, "jwk": new.jwk, "url": BASE + path} | (inner or {})
    return await client.post(path, flatten(new, {k: v for k, v in header.items() if v is not ABSENT}, claim),
                             **({"kid": kid} if kid else {}))


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
async def test_ac15_ac17_rollover(wfe: RunningWfe, others: OtherProcesses, alg: str) -> None:
    """Rows AC15, AC17: 200 with the account; the old key is dead, the URL stays, the link is stored."""
    client = await wfe.subscriber()
    order = (await client.order("a.example.com")).require(201)
    old, new = client.key, SigningKey.make(alg)
    answer = (await _change(client, new)).require(200)
    assert answer.location == client.kid
    (await client.post(client.kid)).require(400, "malformed" if alg == "ES256" else "badPublicKey")
    (await wfe.client(old).post("/acme/new-account", {"onlyReturnExisting": True})).require(400, "accountDoesNotExist")
    client.key = new
    (await client.post(order.location)).require(200)
    assert (await client.post("/acme/new-account", {}, jwk=new.jwk)).require(200).location == client.kid
    link = link_of_key_change(await others.value("SELECT jws FROM key_changes"))
    assert (link.old_thumbprint, link.new_thumbprint, link.account_url) == (old.thumbprint, new.thumbprint, client.kid)
    challenge = (await client.post(order.json["authorizations"][0])).json["challenges"][0]["url"]
    (await client.post(challenge, {})).require(200)
    assert await others.value("SELECT thumbprint FROM validation_requests") == new.thumbprint


async def test_ac16_e49_taken_keys(wfe: RunningWfe) -> None:
    """Rows AC16, E49: 409 malformed with the Location of the account that has the key, whoever it is."""
    client, other, closed = await wfe.subscriber(), await wfe.subscriber(), await wfe.subscriber()
    (await closed.post(closed.kid, {"status": "deactivated"})).require(200)
    for new, owner in ((other.key, other.kid), (client.key, client.kid), (closed.key, closed.kid)):
        assert (await _change(client, new)).require(409, "malformed").location == owner
    (await client.post(client.kid)).require(200)


async def test_e47_key_changes_that_are_refused(wfe: RunningWfe) -> None:
    """Rows AC15, E47, E48: each mutation is refused and the key stays."""
    client, other = await wfe.subscriber(), await wfe.subscriber()
    new = SigningKey.make()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"inner": {"nonce": await client.nonce()}}, "malformed"),
        ({"inner": {"kid": client.kid, "jwk": ABSENT}}, "malformed"),
        ({"inner": {"url": f"{BASE}/acme/new-order"}}, "malformed"),
        ({"inner": {"jwk": client.key.jwk}}, "malformed"),
        ({"payload": {"account": other.kid, "oldKey": client.key.jwk}}, "malformed"),
        ({"payload": {"account": client.kid, "oldKey": other.key.jwk}}, "malformed"),
        ({"payload": {"account": client.kid}}, "malformed"),
        ({"payload": b"[]"}, "malformed"),
        ({"inner": {"alg": "HS256"}}, "badSignatureAlgorithm"),
        ({"inner": {"alg": "RS256", "jwk": {"kty": "RSA", "n": "gAAAAAAAAAE", "e": "AQAB"}}}, "malformed"),
    ]
    for case, kind in cases:
        (await _change(client, new, **case)).require(400, kind)
    for payload in ({}, {"protected": "x"}, b'"a.b.c"', b""):
        (await client.post("/acme/key-change", payload)).require(400, "malformed")
    (await client.post(client.kid)).require(200)


async def test_e48_a_weak_new_key(wfe: RunningWfe) -> None:
    """Row E48: an RSA key of 1024 bits, properly signed, is badPublicKey."""
    client = await wfe.subscriber()
    weak = SigningKey("RS256", rsa.generate_private_key(65537, 1024))  # noqa: S505 - on purpose
    (await _change(client, weak)).require(400, "badPublicKey")


async def test_e50_two_changes_at_once(start: _Start) -> None:
    """Row E50: one wins, the other is malformed; racing newAccount, one key never has two accounts."""
    one, two = await start(), await start()
    client = await one.subscriber()
    at_two = two.client(client.key, kid=client.kid)
    first, second = SigningKey.make(), SigningKey.make()
    answers = await asyncio.gather(_change(client, first), _change(at_two, second))
    assert sorted(answer.status for answer in answers) == [200, 400]
    client.key = first if answers[0].status == 200 else second
    contested = SigningKey.make()
    change, new = await asyncio.gather(_change(client, contested), two.client(contested).register())
    assert (change.status, new.status) in ((200, 200), (409, 201), (200, 201), (409, 200))
    assert (change.status == 200) == (new.location == client.kid)


async def test_ac10_e52_the_list_of_orders(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows AC10, E52: 120 orders come in pages of 50, 50, 20; invalid ones are left out; cursors are links of ours."""
    client, other = await wfe.subscriber(), await wfe.subscriber()
    assert (await client.post(client.kid + "/orders")).require(200).json == {"orders": []}
    made = [(await client.order(f"a{number}.example.com")).require(201) for number in range(120)]
    foreign = (await other.order("b.example.com")).require(201)
    for invalid in made[:130:40]:
        (await client.post(invalid.json["authorizations"][0], {"status": "deactivated"})).require(200)
    listed: list[str] = []
    pages = []
    url = client.kid + "/orders"
    while url:
        page = (await client.post(url)).require(200)
        listed += page.json["orders"]
        pages.append(len(page.json["orders"]))
        url = next(iter(page.link("next")), "")
    assert pages == [50, 50, 17]
    gone = {answer.location for answer in made[::40]}
    assert listed == [answer.location for answer in reversed(made) if answer.location not in gone]
    for query in ("?cursor=-1", "?cursor=abc", f"?cursor={10**30}", f"?cursor={foreign.location.rpartition('/')[2]}",
                  "?x=1", "?cursor="):
        (await client.post(client.kid + "/orders" + query)).require(400, "malformed")
    (await other.post(client.kid + "/orders")).require(403, "unauthorized")
    assert id_of(client.kid + "/orders") == id_of(client.kid)


async def test_t13_ids_are_random(wfe: RunningWfe) -> None:
    """Row T13: URLs of objects made in the same moment differ in at least 128 random bits and hold no name."""
    client = await wfe.subscriber()
    answers = await asyncio.gather(*[client.order("a.example.com") for _ in range(20)])
    ids = [id_of(answer.location)[6:] for answer in answers]
    assert len(set(ids)) == 20
    assert {len(each) for each in ids} == {16}
    assert all("example.com" not in json.dumps(answer.json["authorizations"] + [answer.location]) for answer in answers)


async def test_p7_changed_terms(start: _Start, others: OtherProcesses, clock: Clock) -> None:
    """Row P7: since the operator insists on new terms, who agreed before orders nothing: userActionRequired with a link
    to the terms and an instance that says how to agree; everything else goes on; an operator's record lets it order
    again, and a new account agrees by being made."""
    before = await start(terms_of_service=_TERMS)
    client = await before.subscriber()
    order = (await client.order("a.example.com")).require(201)
    clock.shift += timedelta(seconds=2)
    after = await start(terms_of_service=f"{_TERMS}/2", terms_agreed_since=clock.now(), pre_authorization=True,
                        terms_instructions="https://ca.example/agree")
    clock.shift += timedelta(seconds=2)
    moved = after.client(client.key)
    moved.kid = client.kid
    for path, payload in (("/acme/new-order", {"identifiers": [{"type": "dns", "value": "b.example.com"}]}),
                          ("/acme/new-authz", {"identifier": {"type": "dns", "value": "b.example.com"}})):
        refused = (await moved.post(path, payload)).require(403, "userActionRequired")
        assert refused.link("terms-of-service") == [f"{_TERMS}/2"]
        assert refused.json["instance"] == "https://ca.example/agree"
    assert (await moved.post(moved.kid)).require(200).json["termsOfServiceAgreed"] is True
    (await moved.post(moved.kid, {"termsOfServiceAgreed": True})).require(200)
    (await moved.order("b.example.com")).require(403, "userActionRequired")
    (await moved.post(order.location)).require(200)
    await others.run("ca_admin", ("UPDATE accounts SET terms_confirmed_at = $1", clock.now()))
    (await moved.order("b.example.com")).require(201)
    (await (await after.subscriber()).order("c.example.com")).require(201)
