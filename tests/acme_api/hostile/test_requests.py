"""Rows E13 to E27 and E32 to E35: broken bodies, JSON, JWS, signatures, nonces and URLs at every signed endpoint."""

import asyncio
import hashlib
import hmac
import json
import os
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acme_api.protocol.nonce import make_nonce
from tests.acme_api.hostile.ground import Ground, watched
from tests.acme_api.wfe.running import BASE
from tests.acme_client import ABSENT, JOSE_JSON, SigningKey, b64, flatten, unb64

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


async def _paths(ground: Ground) -> list[str]:
    return ["/acme/new-account", "/acme/new-order", "/acme/revoke-cert", "/acme/key-change", ground.attacker.kid]


def _signer(ground: Ground, path: str) -> dict[str, Any]:
    """newAccount is signed by `jwk`, everything else by `kid`."""
    return {"jwk": ground.attacker.key.jwk} if path == "/acme/new-account" else {}


async def test_e13_to_e16_bodies_and_json(ground: Ground) -> None:
    """Rows E13 to E16: whatever is no single strict JSON object is malformed, in body, header and payload."""
    client = ground.attacker
    paths = await _paths(ground)
    deep: Any = {}
    for _ in range(16):
        deep = {"a": deep}
    not_json = [b"", b"null", b"[]", b'"x"', b"{}", b'{"a":', b"{}{}", os.urandom(200)]
    async with ground.row("E13"):
        for path in paths:
            for body in not_json:
                await ground.raw(path, body)
        for body in (*not_json[1:4], *not_json[5:]):
            await ground.refused("/acme/new-order", body)
            await ground.raw("/acme/new-order", flatten(client.key, body, {}))
    heavy = [b"[" * 30_000, json.dumps(deep).encode(), b'{"a":' + b"1" * 5_000 + b"}", b'{"a":1e999}', b'{"a":NaN}']
    async with ground.row("E14"):
        for body in heavy:
            await ground.raw("/acme/new-order", body)
            await ground.raw("/acme/new-order", flatten(client.key, body, {}))
            await ground.refused("/acme/new-order", body)
    async with ground.row("E15"):
        good = await client.protected("/acme/new-order")
        document = flatten(client.key, good, {"identifiers": []})
        text = json.dumps(document)
        for member in ("payload", "protected", "signature"):
            await ground.raw("/acme/new-order", (text[:-1] + f',"{member}":{json.dumps(document[member])}}}').encode())
        header = json.dumps(await client.protected("/acme/new-order"))
        for member, value in (("alg", "ES256"), ("url", f"{BASE}/acme/new-order"), ("nonce", "x"), ("kid", client.kid)):
            twice = header[:-1] + f',"{member}":"{value}"}}'
            await ground.raw("/acme/new-order", flatten(client.key, twice.encode(), {}))
        await ground.refused("/acme/new-order", b'{"identifiers":[],"identifiers":[]}')
        await ground.refused("/acme/new-order", b'{"identifiers":[{"type":"dns","type":"dns","value":"a.example"}]}')
    async with ground.row("E16"):
        good_text = json.dumps(flatten(client.key, await client.protected("/acme/new-order"), {}))
        for body in (b"\xef\xbb\xbf" + good_text.encode(), good_text.encode("utf-16"), good_text.encode("utf-32"),
                     good_text.encode()[:-1] + b',"x":"\xff"}', good_text.encode()[:-1] + b',"x":"\xc0\xaf"}'):
            await ground.raw("/acme/new-order", body)
        for payload in (b'{"contact":["mailto:\\ud800@x.example"]}', b'{"reason":"\\udfff"}',
                        b'{"identifiers":[{"type":"dns","value":"\\ud800.example"}]}', b'{"\\ud800":1}'):
            for path in paths:
                await ground.refused(path, payload, **_signer(ground, path))
        await ground.raw("/acme/new-order", flatten(
            client.key, json.dumps(good | {"kid": "\ud800"}).encode(), {}))


_WANTED = {"identifiers": [{"type": "dns", "value": "a.example.com"}]}


async def test_e17_to_e21_jws(ground: Ground) -> None:
    """Rows E17 to E21: other serialisations, header members and algorithms."""
    client, path, wanted = ground.attacker, "/acme/new-order", _WANTED
    async with ground.row("E17"):
        document = flatten(client.key, await client.protected(path), wanted)
        compact = ".".join((document["protected"], document["payload"], document["signature"]))
        general = {"payload": document["payload"], "signatures": [
            {"protected": document["protected"], "signature": document["signature"]}]}
        for body in (compact.encode(), json.dumps(compact).encode(), json.dumps(general).encode()):
            await ground.raw(path, body)
        changes: list[dict[str, Any]] = [
            {"signatures": []}, {"signatures": general["signatures"]}, {"header": {}}, {"header": {"alg": "none"}},
            {"payload": ABSENT}, {"payload": wanted}, {"payload": None}, {"signature": None}, {"signature": ABSENT},
            {"protected": ABSENT}, {"protected": {}}]
        for change in changes:
            await ground.raw(path, flatten(client.key, await client.protected(path), wanted, **change))
    async with ground.row("E18", stores=("orders", "authorizations", "rate_limits")):
        critical: list[dict[str, Any]] = [{"crit": ["b64"]}, {"crit": []}, {"b64": False}, {"b64": True},
                                          {"zip": "DEF"}, {"enc": "A128GCM"}]
        for members in critical:
            await ground.refused(path, wanted, **members)
        for member in ("typ", "cty"):
            (await client.post(path, wanted, **{member: "JOSE"})).require(201)
    async with ground.row("E19", stores=("orders", "authorizations", "rate_limits")):
        strangers: dict[str, Any] = {"jku": "https://evil.example/jwks", "x5u": "https://evil.example/x",
                                     "x5c": ["MIIB"], "x5t": "AAAA", "x5t#S256": "AAAA"}
        for member, value in strangers.items():
            (await client.post(path, wanted, **{member: value})).require(201)
    async with ground.row("E20"):
        public = client.key.private.public_key()
        secrets = [public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
                   for encoding in (Encoding.PEM, Encoding.DER)] + [client.key.jwk_text.encode()]
        for alg in ("none", "None", "NONE", "HS256"):
            for secret in secrets:
                unsigned = flatten(client.key, await client.protected(path, alg=alg), wanted)
                data = f"{unsigned['protected']}.{unsigned['payload']}".encode()
                mac = hmac.new(secret, data, hashlib.sha256).digest() if alg == "HS256" else b""
                answer = await ground.raw(path, unsigned | {"signature": b64(mac)}, "badSignatureAlgorithm")
                assert answer.json["algorithms"] == ["ES256", "ES384", "ES512", "RS256", "EdDSA"]
    async with ground.row("E21"):
        for alg in ("PS256", "ES256K", "RS1", "es256", "ES256\u0000", ""):
            await ground.refused(path, wanted, "badSignatureAlgorithm", alg=alg)
        no_strings: list[Any] = [1, None, ["ES256"], {}]
        for no_string in no_strings:
            await ground.refused(path, wanted, alg=no_string)


async def test_e22_to_e25_signers(ground: Ground) -> None:
    """Rows E22 to E25: keys, signers and spellings."""
    client, path, wanted = ground.attacker, "/acme/new-order", _WANTED
    async with ground.row("E22", stores=("accounts", "rate_limits")):
        by_rsa = ground.wfe.client(SigningKey.make("RS256"))
        (await by_rsa.register()).require(201)
        (await by_rsa.post(path, wanted, alg="ES256")).require(400, "badPublicKey")
        await ground.refused(path, wanted, "badPublicKey", alg="RS256")
        p384 = SigningKey.make("ES384")
        await ground.refused("/acme/new-account", {}, "badPublicKey", jwk=p384.jwk, alg="ES256")
    async with ground.row("E23"):
        signers: list[dict[str, Any]] = [
            {"jwk": client.key.jwk, "kid": client.kid}, {"jwk": ABSENT, "kid": ABSENT}, {"jwk": None}, {"jwk": "x"},
            {"jwk": {}}, {"jwk": []}, {"kid": 5}, {"kid": {}}, {"jwk": client.key.jwk}]
        for signer in signers:
            await ground.refused(path, wanted, **signer)
        await ground.refused("/acme/new-account", {}, kid=client.kid)
    async with ground.row("E24"):
        kid = client.kid
        for other in (f"{BASE}/acme/account/{'A' * 30}", kid + "/", kid.upper(), kid.replace("https:", "http:"),
                      kid.replace("ca.example", "ca.other.example"), kid.replace("/account/", "/order/"), "../../x",
                      "' OR 1=1--", "A" * 8_192):
            await ground.refused(path, wanted, "accountDoesNotExist", kid=other)
        await ground.refused(path, wanted, kid="")
    async with ground.row("E25"):
        manglings: list[Callable[[str], str]] = [
            lambda text: text + "=", lambda text: text + "+", lambda text: text + "/", lambda text: text + " ",
            lambda text: text + "\n", lambda text: text[:(len(text) - 1) // 4 * 4 + 1], lambda text: "é" + text]
        for mangle in manglings:
            for member in ("protected", "payload", "signature"):
                document = flatten(client.key, await client.protected(path), wanted)
                await ground.raw(path, document | {member: mangle(document[member])})
            jwk = client.key.jwk
            await ground.refused("/acme/new-account", {}, jwk=jwk | {"x": mangle(jwk["x"])})
            await ground.refused("/acme/revoke-cert", {"certificate": mangle("QUJD")})
        # Bits behind the last whole byte that are not zero (row T3).
        document = flatten(client.key, await client.protected(path), wanted)
        await ground.raw(path, document | {"signature": b64(bytes(64))[:-1] + "B"})


async def test_e26_e27_signatures(ground: Ground) -> None:
    """Rows E26, E27: no other form of a signature passes; the malleable twin of a good one finds its nonce spent."""
    client, path = ground.attacker, "/acme/new-order"
    wanted: dict[str, Any] = {"identifiers": []}
    async with ground.row("E26"):
        order = _P256_ORDER.to_bytes(32, "big")
        one = (1).to_bytes(32, "big")
        good = unb64(flatten(client.key, await client.protected(path), wanted)["signature"])
        der = b"\x30\x44\x02\x20" + good[:32] + b"\x02\x20" + good[32:]
        for signature in (der, good[:-1], good + b"\0", bytes(32) + one, one + bytes(32), bytes(64), order + one,
                          one + order, b"\xff" * 64, b""):
            document = flatten(client.key, await client.protected(path), wanted)
            await ground.raw(path, document | {"signature": b64(signature)})
        document = flatten(client.key, await client.protected(client.kid), None)
        (await client.send("POST", client.kid, data=json.dumps(document).encode(), headers=JOSE_JSON)).require(200)
        parts = unb64(document["signature"])
        twin = parts[:32] + (_P256_ORDER - int.from_bytes(parts[32:], "big")).to_bytes(32, "big")
        await ground.raw(client.kid, document | {"signature": b64(twin)}, "badNonce")
    async with ground.row("E27", stores=("accounts", "rate_limits")):
        for alg in ("RS256", "EdDSA"):
            by_other = ground.wfe.client(SigningKey.make(alg))
            (await by_other.register()).require(201)
            size = 256 if alg == "RS256" else 64
            forged = b"\x00\x01" + b"\xff" * 8 + b"\x00" + bytes.fromhex("3031300d060960864801650304020105000420")
            group_order = 2**252 + 27742317777372353535851937790883648493
            large_s = bytes(32) + group_order.to_bytes(32, "little")
            for signature in (bytes(size), b"\xff" * size, (forged + os.urandom(size))[:size], large_s, b"",
                              b"\1" * 4_096):
                document = flatten(by_other.key, await by_other.protected(path), wanted)
                await ground.raw(path, document | {"signature": b64(signature)})
            document = flatten(by_other.key, await by_other.protected(path), wanted)
            await ground.raw(path, document | {"signature": b64(bytes(1_000_000))}, status=413)


async def test_e32_to_e35_nonces_and_urls(ground: Ground) -> None:
    """Rows E32 to E35: nonces of nobody, of others and spent ones; replays; requests for another place."""
    client, path = ground.attacker, "/acme/new-order"
    wanted = {"identifiers": [{"type": "dns", "value": "a.example.com"}]}
    async with ground.row("E32"):
        spent = await client.nonce()
        (await client.post(client.kid, nonce=spent)).require(200)
        foreign = make_nonce(ground.others.clock.now(), bytes(16), b"x" * 32)
        for nonce in (ABSENT, "", foreign, "A" * 10_240, spent):
            await ground.refused(path, wanted, "badNonce", nonce=nonce)
        not_nonces: list[Any] = [5, None, [], "a b", "é", "=="]
        for not_nonce in not_nonces:
            await ground.refused(path, wanted, nonce=not_nonce)
    async with ground.row("E33", stores=("orders", "authorizations", "rate_limits")):
        body = await client.signed(path, wanted)
        answers = await asyncio.gather(*[client.send("POST", path, data=body, headers=JOSE_JSON) for _ in range(50)])
        assert sorted(answer.status for answer in answers) == [201] + [400] * 49
        assert {answer.type for answer in answers if answer.status == 400} == {"badNonce"}
    async with ground.row("E34"):
        body = await client.signed(path, wanted)
        await ground.raw("/acme/key-change", body, "unauthorized", 403)
        await ground.raw("/acme/key-change", body, "badNonce")
        await ground.raw(path, body, "badNonce")
    async with ground.row("E35"):
        url = BASE + path
        for other in (url.replace("https:", "http:"), url.replace(":14000", ":443"), url.replace("ca.", "CA."),
                      f"{BASE}@evil.example{path}", url + "?x=1", url + "#f", url.replace("/new", "%2Fnew"), url + " "):
            await ground.refused(path, wanted, "unauthorized", 403, url=other)
        not_urls: list[Any] = [5, ["x"], None, {}]
        for not_url in not_urls:
            await ground.refused(path, wanted, url=not_url)
    assert (await watched(ground.wfe)).kid
