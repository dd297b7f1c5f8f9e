"""Signed requests at the server: nonces, keys, accounts, URLs, order of checks (rows J, N, T6, T7, E13 to E35)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from acme_api.protocol.nonce import make_nonce
from tests.acme_api.wfe.running import BASE, NONCE_KEY, Clock, OtherProcesses, RunningWfe, issued, ready_order
from tests.acme_client import ABSENT, JOSE_JSON, AcmeClient, Answer, SigningKey, b64, flatten, unb64


async def _send(client: AcmeClient, path: str, document: Any) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return await client.send("POST", path, data=body, headers=JOSE_JSON)


@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512", "RS256", "EdDSA"])
async def test_j6_an_account_for_each_algorithm(wfe: RunningWfe, alg: str) -> None:
    """Row J6: 201, and requests by kid are taken."""
    client = await wfe.subscriber(SigningKey.make(alg))
    (await client.post(client.kid)).require(200)
    (await client.order("a.example.com")).require(201)


async def test_j16_e31_one_key_one_account(wfe: RunningWfe) -> None:
    """Rows J16, E31: leading zeros, more members and another order are the same key."""
    client = await wfe.subscriber(SigningKey.make("RS256"))
    jwk = client.key.jwk
    spelled = {"zz": 1, "n": b64(b"\0" + unb64(jwk["n"])), "kid": "x", "e": b64(b"\0\1\0\1"), "kty": "RSA"}
    answer = (await client.post("/acme/new-account", {}, jwk=spelled)).require(200)
    assert answer.location == client.kid


async def test_n4_a_nonce_is_used_once(wfe: RunningWfe) -> None:
    """Row N4: the same bytes again are badNonce with the words that acme.sh looks for, and the fresh nonce works."""
    client = await wfe.subscriber()
    body = await client.signed(client.kid)
    (await _send(client, client.kid, body)).require(200)
    again = (await _send(client, client.kid, body)).require(400, "badNonce")
    assert "JWS has an invalid anti-replay nonce" in again.json["detail"]
    client.nonces[:] = again.nonces
    (await client.post(client.kid)).require(200)


async def test_n8_a_failed_request_burns_its_nonce(wfe: RunningWfe) -> None:
    """Rows N8, J10: after a bad signature the nonce is dead."""
    client = await wfe.subscriber()
    header = await client.protected(client.kid)
    bad = flatten(client.key, header, None, signature=b64(bytes(64)))
    (await _send(client, client.kid, bad)).require(400, "malformed")
    (await _send(client, client.kid, flatten(client.key, header, None))).require(400, "badNonce")


@pytest.mark.parametrize(("nonce", "kind"), [
    (ABSENT, "badNonce"), ("", "badNonce"), ("A" * 43, "badNonce"), ("A" * 10_240, "badNonce"),
    ("a b", "malformed"), ("==", "malformed"), (5, "malformed")])
async def test_n5_n6_e32_other_nonces(wfe: RunningWfe, nonce: Any, kind: str) -> None:
    """Rows N5, N6, E32: absent, empty, foreign and overlong are badNonce; no base64url, no string: malformed."""
    client = await wfe.subscriber()
    (await client.post(client.kid, nonce=nonce)).require(400, kind)


async def test_n9_nonces_of_another_key_or_day(wfe: RunningWfe, clock: Clock) -> None:
    """Row N9: a nonce lives for a day, and one of another CA never."""
    client = await wfe.subscriber()
    foreign = make_nonce(clock.now(), bytes(16), b"x" * 32)
    (await client.post(client.kid, nonce=foreign)).require(400, "badNonce")
    old = await client.nonce()
    clock.shift = timedelta(hours=23, minutes=59)
    (await client.post(client.kid, nonce=old)).require(200)
    old = make_nonce(clock.now() - timedelta(hours=24, seconds=2), bytes(16), NONCE_KEY)
    (await client.post(client.kid, nonce=old)).require(400, "badNonce")


async def test_n11_a_request_header_is_no_nonce(wfe: RunningWfe) -> None:
    """Row N11: Replay-Nonce in a request is ignored."""
    client = await wfe.subscriber()
    body = await client.signed(client.kid, nonce=ABSENT)
    headers = JOSE_JSON | {"Replay-Nonce": await client.nonce()}
    (await client.send("POST", client.kid, data=body, headers=headers)).require(400, "badNonce")


async def test_e33_fifty_replays_at_two_servers(start: Callable[..., Awaitable[RunningWfe]],
                                                others: OtherProcesses) -> None:
    """Rows N9, E33: one signed newOrder fifty times in parallel to two servers: one 201, 49 badNonce, one order."""
    one, two = await start(), await start()
    client = await one.subscriber()
    body = await client.signed("/acme/new-order", {"identifiers": [{"type": "dns", "value": "a.example.com"}]})
    at_two = two.client(client.key)
    answers = await asyncio.gather(*[(client if number % 2 else at_two).send(
        "POST", "/acme/new-order", data=body, headers=JOSE_JSON) for number in range(50)])
    assert sorted(answer.status for answer in answers) == [201] + [400] * 49
    assert {answer.type for answer in answers if answer.status == 400} == {"badNonce"}
    assert await others.count("orders") == 1


async def test_or18_each_server_takes_the_others_nonces(start: Callable[..., Awaitable[RunningWfe]]) -> None:
    """Rows N9, OR18: nonces, accounts and orders of one server are good at the other at once."""
    one, two = await start(), await start()
    client = await one.subscriber()
    at_two = two.client(client.key, kid=client.kid)
    at_two.nonces.append(await client.nonce())
    order = (await at_two.order("a.example.com")).require(201)
    (await client.post(order.location)).require(200)


async def test_j11_e35_the_url_is_the_one_that_was_called(wfe: RunningWfe) -> None:
    """Rows J11, E34, E35: string equality with BASE, raw path and query, or 403; the nonce is spent by it."""
    client = await wfe.subscriber()
    path = client.kid.removeprefix(BASE)
    for url in (client.kid + "?x=1", client.kid + "#f", client.kid.replace("https:", "http:"), client.kid + " ",
                client.kid.replace("ca.example:14000", "ca.example"), client.kid.replace("ca.example", "CA.EXAMPLE"),
                client.kid.replace("https://", "https://evil@"), f"{BASE}@evil/{path}",
                client.kid.replace("/acme", "//acme"), client.kid.replace("/acme", "/%61cme"),
                f"{BASE}/acme/new-order"):
        (await client.post(client.kid, url=url)).require(403, "unauthorized")
    body = await client.signed(client.kid)
    (await _send(client, path + "?x=1", body)).require(403, "unauthorized")
    body = await client.signed("/acme/new-order", {"identifiers": []})
    (await _send(client, "/acme/key-change", body)).require(403, "unauthorized")
    (await _send(client, "/acme/new-order", body)).require(400, "badNonce")
    (await client.post(client.kid, url=client.kid + "?x=1")).require(403, "unauthorized")
    (await client.post(client.kid + "?x=1", url=client.kid + "?x=1")).require(200)


async def test_j9_e24_kid_is_exact(wfe: RunningWfe) -> None:
    """Rows J9, E24: 400 accountDoesNotExist for everything but the URL that was given out."""
    client = await wfe.subscriber()
    kid = client.kid
    for other in (kid + "/", kid.upper(), kid.replace("https:", "http:"), kid.replace("ca.", "xa."),
                  kid[:-1] + ("A" if kid[-1] != "A" else "Q"), kid.replace("/account/", "/order/"), "../../x",
                  "' OR 1=1--", "A" * 8_192):
        (await client.post("/acme/new-order", {}, kid=other)).require(400, "accountDoesNotExist")


async def test_j8_the_right_kind_of_signer(wfe: RunningWfe) -> None:
    """Rows J8, E23: kid on newAccount and jwk elsewhere are malformed."""
    client = await wfe.subscriber()
    (await client.post("/acme/new-account", {}, kid=client.kid)).require(400, "malformed")
    for path in ("/acme/new-order", client.kid, "/acme/key-change", "/directory", "/acme/new-nonce"):
        (await client.post(path, {}, jwk=client.key.jwk)).require(400, "malformed")


async def test_t6_directory_and_new_nonce_by_post(wfe: RunningWfe) -> None:
    """Row T6: POST-as-GET works on both, and a payload does not."""
    client = await wfe.subscriber()
    assert (await client.post("/directory")).require(200).json["newNonce"]
    assert (await client.post("/acme/new-nonce")).require(200).body == b""
    (await client.post("/directory", {})).require(400, "malformed")


async def test_t7_post_as_get(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows T7, E71: the payload is exactly empty; absent, {} and anything else are malformed."""
    client = await wfe.subscriber()
    order = await ready_order(client, others, "a.example.com")
    (await client.post(order.location)).require(200)
    for payload in ({}, {"status": "valid"}, b"[]", b" "):
        (await client.post(order.location, payload)).require(400, "malformed")
    absent = flatten(client.key, await client.protected(order.location), None, payload=ABSENT)
    (await _send(client, order.location, absent)).require(400, "malformed")


async def test_j12_e69_e70_objects_of_others_and_of_nobody(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows J12, E69, E70: 403 unauthorized for another's object, 404 malformed for none, and no content either way."""
    owner, stranger = await wfe.subscriber(), await wfe.subscriber()
    order, _ = await issued(owner, others, "a.example.com")
    pending = (await owner.order("b.example.com")).require(201)
    authorization = pending.json["authorizations"][0]
    challenge = (await owner.post(authorization)).json["challenges"][0]["url"]
    paths = [order.location, pending.location, authorization, challenge, order.json["certificate"], owner.kid,
             owner.kid + "/orders"]
    for path in paths:
        (await stranger.post(path)).require(403, "unauthorized")
    (await stranger.post(pending.json["finalize"], {"csr": b64(b"x")})).require(403, "unauthorized")
    (await stranger.post(challenge, {})).require(403, "unauthorized")
    (await stranger.post(authorization, {"status": "deactivated"})).require(403, "unauthorized")
    nobody = "A" * 30
    other_order = pending.location.rpartition("/")[2]
    for path in (f"{BASE}/acme/order/{nobody}", f"{BASE}/acme/authz/{nobody}", f"{BASE}/acme/account/{nobody}",
                 f"{BASE}/acme/account/{nobody}/orders", f"{BASE}/acme/challenge/{nobody}/dns-01",
                 f"{authorization.replace('/authz/', '/challenge/')}/nope-01",
                 f"{BASE}/acme/authz/{other_order}", f"{BASE}/acme/cert/{'ab' * 18}/{other_order}"):
        (await owner.post(path)).require(404, "malformed")
    (await owner.post(f"{BASE}/acme/order/{nobody}/finalize", {"csr": b64(b"x")})).require(404, "malformed")


async def test_j13_a_deactivated_account(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows J13, AC7, E46: 401 unauthorized on every endpoint, also on newAccount with its key."""
    client = await wfe.subscriber()
    order = await ready_order(client, others, "a.example.com")
    assert (await client.post(client.kid, {"status": "deactivated"})).require(200).json["status"] == "deactivated"
    for path in ("/directory", "/acme/new-nonce", client.kid, client.kid + "/orders", order.location,
                 order.json["authorizations"][0]):
        (await client.post(path)).require(401, "unauthorized")
    for path in ("/acme/new-order", order.json["finalize"], "/acme/revoke-cert", "/acme/key-change"):
        (await client.post(path, {})).require(401, "unauthorized")
    for payload in ({"termsOfServiceAgreed": True}, {"onlyReturnExisting": True}):
        (await client.post("/acme/new-account", payload, jwk=client.key.jwk)).require(401, "unauthorized")


async def test_ac8_a_revoked_account(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row AC8: an operator's revocation closes the account as deactivation does."""
    client = await wfe.subscriber()
    await others.run("ca_admin", ("UPDATE accounts SET revoked_at = now()",))
    assert "revoked" in (await client.post(client.kid)).require(401, "unauthorized").json["detail"]


async def test_the_order_of_the_checks(wfe: RunningWfe) -> None:
    """The conventions: each request has all the later faults too, and is answered by the first."""
    client = await wfe.subscriber()
    closed = await wfe.subscriber()
    (await closed.post(closed.kid, {"status": "deactivated"})).require(200)
    spent = await client.nonce()
    (await client.post(client.kid, nonce=spent)).require(200)
    wrong = {"nonce": spent, "url": "https://evil.example/"}
    bad = {"signature": b64(bytes(64))}

    async def answer(protected: dict[str, Any], payload: Any = b"[]", *, path: str = "/acme/new-order",
                     media_type: str = "application/jose+json", **members: Any) -> tuple[int, str]:
        base: dict[str, Any] = {"alg": "ES256", **wrong, **protected}
        body = json.dumps(flatten(client.key, base, payload, **members)).encode()
        got = await client.send("POST", path, data=body, headers={"Content-Type": media_type})
        return got.status, got.type

    assert await answer({}, path="/nope", media_type="x") == (404, "malformed")
    assert await answer({}, media_type="x") == (415, "malformed")
    assert await answer({}, b"x" * 70_000) == (413, "malformed")
    assert await answer({"alg": "none"}, header={}) == (400, "malformed")
    assert await answer({"alg": "none", "jwk": {}, "kid": ""}, **bad) == (400, "badSignatureAlgorithm")
    assert await answer({"kid": closed.kid, "jwk": client.key.jwk}, **bad) == (400, "malformed")
    assert await answer({"kid": "x"}, **bad) == (400, "accountDoesNotExist")
    assert await answer({"kid": closed.kid, "alg": "RS256"}, **bad) == (400, "badPublicKey")
    assert await answer({"kid": closed.kid}, **bad) == (400, "malformed")
    as_closed = {"alg": "ES256", **wrong, "kid": closed.kid}
    got = await _send(client, "/acme/new-order", flatten(closed.key, as_closed, b"[]"))
    got.require(401, "unauthorized")
    assert await answer({"kid": client.kid}) == (400, "badNonce")
    assert await answer({"kid": client.kid, "nonce": await client.nonce()}) == (403, "unauthorized")
    url = f"{BASE}/acme/new-order"
    assert await answer({"kid": client.kid, "nonce": await client.nonce(), "url": url}) == (400, "malformed")


@pytest.mark.parametrize("payload", [b"null", b"[]", b'"x"', b'{"a":', b"{}{}", b'{"a":1,"a":1}', b'{"a":NaN}',
                                     b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), b'{"a":"\\ud800"}', b"\xff",
                                     b'{"contact":' + b"[" * 20_000, b'{"a":' + b"1" * 5_000 + b"}", b'{"a":1e999}'])
async def test_j14_payloads_that_are_no_object(wfe: RunningWfe, payload: bytes) -> None:
    """Rows J14, E13 to E16: malformed at every endpoint that reads a payload, and nothing is stored."""
    client = await wfe.subscriber()
    for path in ("/acme/new-order", client.kid, "/acme/revoke-cert", "/acme/key-change"):
        (await client.post(path, payload)).require(400, "malformed")
    (await wfe.client().post("/acme/new-account", payload)).require(400, "malformed")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"a":', b"{}{}", bytes(range(256)),
                                  b'{"protected":"","payload":"","signature":""}', b"[" * 30_000,
                                  b'{"protected":"\xed\xa0\x80","payload":"","signature":""}'])
async def test_e13_bodies_that_are_no_jws(wfe: RunningWfe, others: OtherProcesses, body: bytes) -> None:
    """Rows E13, E14, E16: malformed, no nonce is spent."""
    (await _send(wfe.client(), "/acme/new-account", body)).require(400, "malformed")
    assert await others.count("spent_nonces") == 0


async def test_e28_e29_bad_keys_at_new_account(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows J7, J17, E28 to E30: badPublicKey, no account, and the nonce is spent."""
    client = wfe.client()
    small = {"kty": "RSA", "n": b64(b"\x80" + bytes(126) + b"\1"), "e": "AQAB"}
    off_curve = client.key.jwk | {"x": b64(bytes(31) + b"\1")}
    private = client.key.jwk | {"d": "AA"}
    for alg, jwk in (("RS256", small), ("ES256", off_curve), ("ES256", private)):
        body = await client.signed("/acme/new-account", {}, jwk=jwk, alg=alg)
        (await _send(client, "/acme/new-account", body)).require(400, "badPublicKey")
        (await _send(client, "/acme/new-account", body)).require(400, "badPublicKey")
    assert await others.count("accounts") == 0
    assert await others.count("spent_nonces") == 3


async def test_e26_the_high_s_twin_is_spent(wfe: RunningWfe) -> None:
    """Row E26: the malleable twin of a good request verifies, and its nonce is spent."""
    client = await wfe.subscriber()
    document = flatten(client.key, await client.protected(client.kid), None)
    (await _send(client, client.kid, document)).require(200)
    signature = unb64(document["signature"])
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    twin = signature[:32] + (order - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    (await _send(client, client.kid, document | {"signature": b64(twin)})).require(400, "badNonce")
