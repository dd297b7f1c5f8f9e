"""Rows E28 to E31 and E36 to E52: keys, contacts, external accounts, account objects, key changes, lists of orders."""

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.pki.key_loss import proven_loss
from ca.pki.weak_list import FORMS, digests
from tests.acme_api.hostile.ground import Ground, watched
from tests.acme_api.wfe.running import BASE, OtherProcesses, RunningWfe, issued, ready_order
from tests.acme_client import ABSENT, JOSE_JSON, Answer, HmacKey, SigningKey, b64, flatten, make_binding, unb64
from tests.ca.pki.roca import roca_key

_NEW = "/acme/new-account"
_CHANGE = "/acme/key-change"
_AGREED = {"termsOfServiceAgreed": True}


def _spki(key: SigningKey) -> bytes:
    return bytes(key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _rsa(n: int, e: int = 65537) -> dict[str, str]:
    return {"kty": "RSA", "n": b64(n.to_bytes((n.bit_length() + 7) // 8, "big")),
            "e": b64(e.to_bytes((e.bit_length() + 7) // 8, "big"))}


async def test_e28_to_e31_keys(ground: Ground) -> None:
    """Rows E28 to E31, J17: weak, broken and private keys are badPublicKey, a private one is put on record for the CA;
    other spellings of a key are one account."""
    client = ground.attacker
    async with ground.row("E28", stores=("weak_keys",)):
        good = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
        weak = [_rsa(rsa.generate_private_key(65537, 1024).public_key().public_numbers().n),  # noqa: S505 - on purpose
                _rsa((1 << 2046) + 1), _rsa((1 << 16383) + 1), _rsa(good + 1), _rsa((1 << 2047) + 3 * 5 * 7),
                _rsa(good, 1), _rsa(good, 2), _rsa(good, 2**33), _rsa(good, 3 * 2**40)]
        for jwk in weak:
            await ground.refused(_NEW, _AGREED, "badPublicKey", jwk=jwk, alg="RS256")
        listed = SigningKey.make("RS256")       # As Debian's list of 2008 names its keys.
        await ground.others.run("ca_admin", ("INSERT INTO weak_keys VALUES ($1, 'openssl-blacklist')", next(
            each for each in digests(_spki(listed)) if each[0] == FORMS["openssl-blacklist"][0])))
        for known in (listed, SigningKey("RS256", roca_key())):
            stranger = ground.wfe.client(known)
            (await stranger.post(_NEW, _AGREED, jwk=known.jwk)).require(400, "badPublicKey")
            change = flatten(known, {"alg": known.alg, "jwk": known.jwk, "url": BASE + _CHANGE},
                             {"account": client.kid, "oldKey": client.key.jwk})
            await ground.refused(_CHANGE, change, "badPublicKey")
    async with ground.row("E29"):
        jwk = client.key.jwk
        prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
        small = b64(bytes(32))
        for point in ({"x": b64(bytes(31) + b"\1"), "y": b64(bytes(31) + b"\1")}, {"x": small, "y": small},
                      {"x": b64(prime.to_bytes(32, "big"))}, {"x": b64(b"\0" + unb64(jwk["x"]))}, {"crv": "P-224"},
                      {"crv": "secp256k1"}):
            await ground.refused(_NEW, _AGREED, "badPublicKey", jwk=jwk | point)
        for other, alg in (({"kty": "OKP", "crv": "Ed25519", "x": b64(b"\1" + bytes(31))}, "EdDSA"),
                           ({"kty": "OKP", "crv": "Ed25519", "x": small}, "EdDSA"),
                           ({"kty": "OKP", "crv": "Ed25519", "x": b64(bytes(31))}, "EdDSA"),
                           ({"kty": "OKP", "crv": "Ed448", "x": b64(bytes(57))}, "EdDSA"),
                           ({"kty": "OKP", "crv": "X25519", "x": small}, "EdDSA"),
                           ({"kty": "oct", "k": b64(bytes(32))}, "ES256")):
            await ground.refused(_NEW, _AGREED, "badPublicKey", jwk=other, alg=alg)
    async with ground.row("E30", stores=("blocked_keys",)):
        private = b64(ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value.to_bytes(32, "big"))
        for extra in ({"d": private}, {"use": "enc"}, {"alg": "ES384"}):
            lost = SigningKey.make()
            answer = await ground.wfe.client(lost).post(_NEW, _AGREED, jwk=lost.jwk | extra)
            answer.require(400, "badPublicKey")
        assert private not in ground.log
    async with ground.row("E30", stores=("exposed_keys",)):
        # `d` of another key is no loss; its own is one, and the CA has the proof.
        shown = SigningKey.make()
        secret = b64(shown.private.private_numbers().private_value.to_bytes(32, "big"))
        await ground.refused(_NEW, _AGREED, "badPublicKey", jwk=client.key.jwk | {"d": secret})
        assert await ground.others.count("exposed_keys") == 0
        await ground.refused(_NEW, _AGREED, "badPublicKey", jwk=shown.jwk | {"d": secret})
        row = await ground.others.value("SELECT to_jsonb(e) FROM exposed_keys e")
        assert row["spki_sha256"] == "\\x" + hashlib.sha256(_spki(shown)).hexdigest()
        assert proven_loss(bytes.fromhex(row["proof"][2:])).spki == _spki(shown)
        ground.log += "".join(ground.capsys.readouterr())
        assert secret not in ground.log
        assert unb64(secret).hex() not in str(row)
    async with ground.row("E31", stores=("accounts", "rate_limits")):
        by_rsa = await watched(ground.wfe, key=SigningKey.make("RS256"))
        spelled = {"zz": 1, "n": b64(b"\0" + unb64(by_rsa.key.jwk["n"])), "e": b64(b"\0\1\0\1"), "kty": "RSA"}
        assert (await by_rsa.post(_NEW, {}, jwk=spelled)).require(200).location == by_rsa.kid


async def test_e36_terms(start: Callable[..., Awaitable[RunningWfe]], others: OtherProcesses,
                         capsys: pytest.CaptureFixture[str]) -> None:
    """Row E36: terms are agreed to with `true` and nothing else."""
    ground = await Ground.make(await start(terms_of_service="https://ca.example/terms"), others, capsys)
    async with ground.row("E36"):
        for value in (ABSENT, False, "true", 1, None):
            new = ground.wfe.client()
            answer = await new.post(_NEW, {} if value is ABSENT else {"termsOfServiceAgreed": value}, jwk=new.key.jwk)
            answer.require(400, "malformed")
            assert answer.link("terms-of-service") == ["https://ca.example/terms"]
    await ground.end()


async def test_e37_to_e41_accounts(ground: Ground) -> None:
    """Rows E37 to E41: contacts, what is not asked for, races."""
    async with ground.row("E37"):
        shapes: list[Any] = ["mailto:a@x.example", {}, [None], [["mailto:a@x.example"]], ["mailto:a@x.example"] * 11]
        for shape in shapes:
            (await ground.wfe.client().register(contact=shape)).require(400, "malformed")
            await ground.refused(ground.attacker.kid, {"contact": shape})
        long = ["mailto:" + "a" * 40_000 + "@x.example"]
        await ground.refused(ground.attacker.kid, {"contact": long}, "invalidContact")
    async with ground.row("E38"):
        for contact in ("mailto:a@x.example?bcc=b@y.example", "mailto:a@x,b@y", "mailto:", 'mailto:"E"<e@x.example>',
                        "mailto:a@x.example%0d%0aBcc:b@y", "mailto:ü@x.example", "mailto:a@localhost"):
            (await ground.wfe.client().register(contact=[contact])).require(400, "invalidContact")
            await ground.refused(ground.attacker.kid, {"contact": [contact]}, "invalidContact")
    async with ground.row("E39"):
        for contact in ("tel:+1", "https://x", "javascript:x", "a@x.example"):
            (await ground.wfe.client().register(contact=[contact])).require(400, "unsupportedContact")
    async with ground.row("E40", stores=("accounts", "rate_limits")):
        evil = {"status": "revoked", "orders": "https://evil", "id": 1, "admin": True, "createdAt": "x"}
        shown = (await ground.wfe.client().register(**evil)).require(201).json
        assert shown["status"] == "valid"
        assert "evil" not in json.dumps(shown)
        assert not {"id", "admin"} & set(shown)
    async with ground.row("E41", stores=("accounts", "rate_limits")):
        racing = ground.wfe.client()
        bodies = [await racing.signed(_NEW, _AGREED) for _ in range(20)]
        answers = await asyncio.gather(*[racing.send("POST", _NEW, data=body, headers=JOSE_JSON) for body in bodies])
        assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
        assert len({answer.location for answer in answers}) == 1
        racing.kid = answers[0].location
        (await racing.post(racing.kid, {"status": "deactivated"})).require(200)
        for payload in (_AGREED, {"onlyReturnExisting": True}):
            (await racing.post(_NEW, payload, jwk=racing.key.jwk)).require(401, "unauthorized")


async def test_e42_to_e44_external_accounts(start: Callable[..., Awaitable[RunningWfe]], others: OtherProcesses,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    """Rows E42 to E44: a fault of a binding's form is malformed; what is no credential is 403 with one detail."""
    ground = await Ground.make(await start(), others, capsys)
    closed = await start(external_account_required=True)
    url, secret = BASE + _NEW, os.urandom(64)
    await others.run("ca_admin", *[
        ("INSERT INTO eab_credentials (kid, mac_key, created_at, created_by, comment, single_use, revoked_at,"
         " allowed_names) VALUES ($1, $2, now(), 'test', '', $3, CASE WHEN $4 THEN now() END, '{}')",
         kid, secret, single, revoked)
        for kid, single, revoked in (("many", False, False), ("one", True, False), ("gone", False, True))])
    key, mac = SigningKey.make(), HmacKey("HS256", secret)

    async def attempt(binding: Any, by: SigningKey = key) -> Answer:
        return await closed.client(by).post(_NEW, _AGREED | {"externalAccountBinding": binding}, jwk=by.jwk)

    def bound(kid: Any = "many", jwk: Any = None, *, with_key: HmacKey = mac, **protected: Any) -> dict[str, Any]:
        return make_binding(with_key, kid, url, jwk or key.jwk, protected=protected)

    async with ground.row("E42"):
        other = SigningKey.make()
        faults: list[Any] = ["x", [], "a.b.c", 5, {}, bound(alg="none"), bound(alg="RS256"), bound(alg="ES256"),
                             bound(nonce="AAAA"), bound(url=f"{BASE}/acme/new-order"), bound(kid=ABSENT), bound(kid=5),
                             bound(jwk=other.jwk), bound(jwk=key.jwk | {"kid": "x"})]
        for fault in faults:
            (await attempt(fault)).require(400, "malformed")
    async with ground.row("E43"):
        wrong = HmacKey("HS256", os.urandom(64))
        refused = [await attempt(binding) for binding in (
            bound("nobody"), bound("' OR 1=1--"), bound("gone"), bound() | {"signature": b64(b"\0")},
            bound() | {"signature": ""}, bound(with_key=wrong))]
        assert len({answer.require(403, "unauthorized").json["detail"] for answer in refused}) == 1
    async with ground.row("E44", stores=("accounts", "rate_limits")):
        (await attempt(bound("one"), SigningKey.make())).require(400, "malformed")
        two = [SigningKey.make(), SigningKey.make()]
        answers = await asyncio.gather(*[attempt(bound("one", by.jwk), by) for by in two])
        assert sorted(answer.status for answer in answers) == [201, 403]
    await ground.end()


async def test_e45_e46_account_objects(ground: Ground) -> None:
    """Rows E45, E46: other people's accounts, updates, ten deactivations at once."""
    client, other = ground.attacker, await watched(ground.wfe)
    async with ground.row("E45"):
        await ground.refused(other.kid, None, "unauthorized", 403)
        await ground.refused(other.kid, {"status": "deactivated"}, "unauthorized", 403)
        before = (await client.post(client.kid)).json
        payloads: list[dict[str, Any]] = [{"status": "revoked"}, {"status": 5}, {"key": other.key.jwk},
                                          {"externalAccountBinding": {}}]
        for payload in payloads:
            assert (await client.post(client.kid, payload)).require(200).json == before
    async with ground.row("E46", stores=("accounts", "rate_limits", "orders", "authorizations", "validations")):
        closing = await watched(ground.wfe)
        order = await ready_order(closing, ground.others, "closing.example.com")
        bodies = [await closing.signed(closing.kid, {"status": "deactivated"}) for _ in range(10)]
        answers = await asyncio.gather(*[
            closing.send("POST", closing.kid, data=body, headers=JOSE_JSON) for body in bodies])
        assert {answer.status for answer in answers} <= {200, 401}
        for path in ("/directory", "/acme/new-nonce", "/acme/new-order", "/acme/key-change", "/acme/revoke-cert",
                     closing.kid, closing.kid + "/orders", order.location, *order.json["authorizations"],
                     order.json["finalize"]):
            (await closing.post(path)).require(401, "unauthorized")


async def test_e47_to_e52_key_changes_and_lists(ground: Ground) -> None:
    """Rows E47 to E52: key changes, races for keys, cursors."""
    client, other = ground.attacker, await watched(ground.wfe)
    async with ground.row("E47"):
        await _key_changes(ground, other.kid, other.key)
    async with ground.row("E48"):
        new = SigningKey.make()
        for alg in ("HS256", "none"):
            await ground.refused("/acme/key-change", _change(ground, new, {"alg": alg}), "badSignatureAlgorithm")
        weak = SigningKey("RS256", rsa.generate_private_key(65537, 1024))  # noqa: S505 - on purpose
        await ground.refused("/acme/key-change", _change(ground, weak), "badPublicKey")
    async with ground.row("E49", stores=("accounts", "rate_limits")):
        closed = await watched(ground.wfe)
        (await closed.post(closed.kid, {"status": "deactivated"})).require(200)
        for taken, owner in ((other.key, other.kid), (client.key, client.kid), (closed.key, closed.kid)):
            answer = await ground.refused("/acme/key-change", _change(ground, taken), status=409)
            assert answer.location == owner
    async with ground.row("E50", stores=("accounts", "rate_limits", "key_changes")):
        first, second = SigningKey.make(), SigningKey.make()
        bodies = [await client.signed("/acme/key-change", _change(ground, key)) for key in (first, second)]
        answers = await asyncio.gather(*[
            client.send("POST", "/acme/key-change", data=body, headers=JOSE_JSON) for body in bodies])
        assert sorted(answer.status for answer in answers) == [200, 400]
        client.key = first if answers[0].status == 200 else second
        contested = SigningKey.make()
        body = await client.signed("/acme/key-change", _change(ground, contested))
        change, new_account = await asyncio.gather(
            client.send("POST", "/acme/key-change", data=body, headers=JOSE_JSON),
            ground.wfe.client(contested).register())
        assert (change.status, new_account.status) in ((200, 200), (409, 201), (409, 200))
        if change.status == 200:
            client.key = contested
            assert new_account.location == client.kid
    issuing = ("accounts", "orders", "authorizations", "rate_limits", "validations", "finalizations", "issuances",
               "certificates", "certificate_names", "certificate_signatures", "issuers", "issuer_chains")
    certified = SigningKey.make()
    async with ground.row("E51", stores=issuing):
        await issued(other, ground.others, "certified.example.com", key=certified.private)
        (await ground.wfe.client(certified).register()).require(400, "badPublicKey")
        await ground.refused("/acme/key-change", _change(ground, certified), "badPublicKey")
    async with ground.row("E52"):
        foreign = (await other.post(other.kid + "/orders")).json["orders"][0].rpartition("/")[2]
        for cursor in ("-1", "abc", str(10**30), foreign, "", "%00"):
            await ground.refused(f"{client.kid}/orders?cursor={cursor}", None)
        await ground.refused(other.kid + "/orders", None, "unauthorized", 403)


def _change(ground: Ground, new: SigningKey, header: dict[str, Any] | None = None, claim: Any = None) -> dict[str, Any]:
    """A key change's inner JWS, each detail replaceable."""
    client = ground.attacker
    inner = {"alg": new.alg, "jwk": new.jwk, "url": f"{BASE}/acme/key-change"} | (header or {})
    return flatten(new, {name: value for name, value in inner.items() if value is not ABSENT},
                   {"account": client.kid, "oldKey": client.key.jwk} if claim is None else claim)


async def _key_changes(ground: Ground, other_kid: str, other_key: SigningKey) -> None:
    client, new, path = ground.attacker, SigningKey.make(), "/acme/key-change"
    headers: list[dict[str, Any]] = [
        {"nonce": await client.nonce()}, {"kid": client.kid, "jwk": ABSENT}, {"jwk": ABSENT},
        {"url": f"{BASE}/acme/new-order"}, {"jwk": client.key.jwk}]
    for header in headers:
        await ground.refused(path, _change(ground, new, header))
    for claim in ({"account": other_kid, "oldKey": client.key.jwk}, {"account": client.kid, "oldKey": other_key.jwk},
                  {"account": client.kid}, {}, b"[]", b"null", _change(ground, new)):
        await ground.refused(path, _change(ground, new, None, claim))
    await ground.refused(path, _change(ground, client.key, {"jwk": new.jwk}))
    for payload in (b'"a.b.c"', {}, {"protected": "x"}):
        await ground.refused(path, payload)
    (await client.post(client.kid)).require(200)
