"""Signed requests: form, keys, signatures (rows J1 to J7, J14 to J18, AC15, E13 to E31)."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_api.protocol.account_key import require_account_key
from acme_api.protocol.jws import (
    SignedRequest,
    canonical_jwk,
    link_of_key_change,
    parse_flattened,
    parse_key_change,
    thumbprint,
    verify,
    verify_stored,
)
from acme_api.protocol.problem import Problem
from tests.acme_client import ABSENT, SigningKey, b64, flatten, unb64

_KEYS = {alg: SigningKey.make(alg) for alg in ("ES256", "ES384", "ES512", "RS256", "EdDSA")}
_KEY = _KEYS["ES256"]
_URL = "https://ca.example/acme/new-account"
_KID = "https://ca.example/acme/account/AZqyf3Q3xZf3fB8bXWn9kq0xMoyg2q"
_NONCE = "A" * 43
_HEADER: dict[str, Any] = {"alg": "ES256", "nonce": _NONCE, "url": _URL, "jwk": _KEY.jwk}
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _parse(document: Any) -> SignedRequest:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_flattened(body, 65_536)


def _signed(key: SigningKey = _KEY, payload: Any = None, **changes: Any) -> SignedRequest:
    return _parse(flatten(key, _HEADER | {"alg": key.alg, "jwk": key.jwk} | changes, payload))


def _refusal(document: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        _parse(document)
    return caught.value


@pytest.mark.parametrize("alg", _KEYS)
def test_j6_each_algorithm_verifies(alg: str) -> None:
    """A request by jwk parses, verifies with its key, and verifies again from its stored parts."""
    key = _KEYS[alg]
    signed = _signed(key, {"a": 1})
    assert signed.jwk == key.jwk_text
    assert thumbprint(signed.jwk) == key.thumbprint
    assert (signed.kid, signed.nonce, signed.url, signed.alg) == (None, _NONCE, _URL, alg)
    verify(signed, signed.jwk)
    require_account_key(signed.jwk)
    again = verify_stored(signed.protected_bytes, signed.payload_bytes, signed.signature, signed.jwk)
    assert again == signed


def test_a_request_by_kid_parses() -> None:
    """Row J4: kid instead of jwk; unknown and harmless header members are ignored (rows E18, E19)."""
    signed = _signed(kid=_KID, jwk=ABSENT, typ="JOSE", cty="x", jku="https://evil.example/", x5u="https://evil.example/",
                     x5c=["AAAA"], x5t="AA")
    assert (signed.kid, signed.jwk) == (_KID, None)
    verify(signed, _KEY.jwk_text)


_SHAPES: dict[str, Any] = {
    "compact (J1)": json.dumps("a.b.c").encode(),
    "general form (J1)": {"payload": "", "signatures": [{"protected": "", "signature": ""}]},
    "signatures beside (E17)": flatten(_KEY, _HEADER, None, signatures=[]),
    "empty unprotected header (J2)": flatten(_KEY, _HEADER, None, header={}),
    "signature null (E17)": flatten(_KEY, _HEADER, None, signature=None),
    "signature number": flatten(_KEY, _HEADER, None, signature=1),
    "payload absent (T7)": flatten(_KEY, _HEADER, None, payload=ABSENT),
    "payload object (E17)": flatten(_KEY, _HEADER, None, payload={}),
    "protected absent": flatten(_KEY, _HEADER, None, protected=ABSENT),
    "empty": b"",
    "random": b"\x00\xff",
    "protected empty": flatten(_KEY, b"", None),
    "protected array": flatten(_KEY, b"[]", None),
    "protected twice alg (E15)": flatten(_KEY, b'{"alg":"ES256","alg":"ES256"}', None),
    "payload twice (E15)": b'{"protected":"","payload":"","payload":"","signature":""}',
}


@pytest.mark.parametrize("document", _SHAPES.values(), ids=_SHAPES.keys())
def test_other_forms_are_malformed(document: Any) -> None:
    """Rows J1, J2, T7, E13, E15, E17: one flattened form, and nothing beside it."""
    problem = _refusal(document)
    assert (problem.type, problem.status) == ("malformed", 400)


_HEADERS: dict[str, dict[str, Any]] = {
    "crit (J3)": {"crit": ["b64"]},
    "b64 (J3)": {"b64": False},
    "zip (E18)": {"zip": "DEF"},
    "enc (E18)": {"enc": "A128GCM"},
    "no alg": {"alg": ABSENT},
    "alg number (E21)": {"alg": 1},
    "alg null (E21)": {"alg": None},
    "alg array (E21)": {"alg": ["ES256"]},
    "no url": {"url": ABSENT},
    "empty url (J4)": {"url": ""},
    "url number (E35)": {"url": 5},
    "url array (E35)": {"url": [_URL]},
    "nonce number (E32)": {"nonce": 5},
    "nonce null": {"nonce": None},
    "nonce with a space (N6)": {"nonce": "a b"},
    "nonce padded (N6)": {"nonce": "=="},
    "jwk and kid (E23)": {"kid": _KID},
    "neither (E23)": {"jwk": ABSENT},
    "jwk null (E23)": {"jwk": None},
    "jwk string (E23)": {"jwk": "x"},
    "jwk empty (E23)": {"jwk": {}},
    "jwk and null kid": {"kid": None},
    "kid number (E23)": {"jwk": ABSENT, "kid": 5},
    "kid object (E23)": {"jwk": ABSENT, "kid": {}},
    "kid empty (E24)": {"jwk": ABSENT, "kid": ""},
    "kty number": {"jwk": _KEY.jwk | {"kty": 1}},
    "x missing (J7)": {"jwk": {"kty": "EC", "crv": "P-256", "y": _KEY.jwk["y"]}},
    "x padded (E25)": {"jwk": _KEY.jwk | {"x": _KEY.jwk["x"] + "="}},
    "x number": {"jwk": _KEY.jwk | {"x": 1}},
    "crv missing": {"jwk": {"kty": "EC", "x": _KEY.jwk["x"], "y": _KEY.jwk["y"]}},
    "n with a plus": {"alg": "RS256", "jwk": {"kty": "RSA", "n": "+A", "e": "AQAB"}},
}


@pytest.mark.parametrize("changes", _HEADERS.values(), ids=_HEADERS.keys())
def test_other_headers_are_malformed(changes: dict[str, Any]) -> None:
    """Rows J3, J4, N6, E18, E21, E23, E25, E35."""
    problem = _refusal(flatten(_KEY, _HEADER | changes, None))
    assert (problem.type, problem.status) == ("malformed", 400)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "HS256", "PS256", "ES256K", "RS1", "es256", "ES256\x00", ""])
def test_j5_other_algorithms_are_named_with_ours(alg: str) -> None:
    """Rows J5, E20, E21: 400 badSignatureAlgorithm and the list of what is accepted."""
    problem = _refusal(flatten(_KEY, _HEADER | {"alg": alg}, None, signature=""))
    assert (problem.type, problem.status) == ("badSignatureAlgorithm", 400)
    assert problem.to_json()["algorithms"] == ["ES256", "ES384", "ES512", "RS256", "EdDSA"]


@pytest.mark.parametrize("member", ["protected", "payload", "signature"])
@pytest.mark.parametrize("damage", ["=", "+", "/", " ", "\n", "A", "\u00e9"])
def test_t3_each_part_is_strict_base64url(member: str, damage: str) -> None:
    """Rows T3, E25: nothing can be appended to a part."""
    document = flatten(_KEY, _HEADER, {"a": 1})
    document[member] += damage
    problem = _refusal(document) if damage != "A" or len(document[member]) % 4 == 1 else None
    if problem is not None:
        assert problem.type == "malformed"
    else:
        with pytest.raises(Problem) as caught:
            verify(_parse(document), _KEY.jwk_text)
        assert caught.value.type == "malformed"


@given(st.data())
@settings(max_examples=150)
def test_truncated_bodies_are_malformed(data: st.DataObject) -> None:
    """No prefix of a request is a request, and trailing bytes are refused."""
    body = json.dumps(flatten(_KEY, _HEADER, {"a": 1})).encode()
    assert _refusal(body[:data.draw(st.integers(0, len(body) - 1))]).type == "malformed"
    assert _refusal(body + data.draw(st.sampled_from([b"{}", b"x", b"\x00", b",", b"}"]))).type == "malformed"


@given(st.permutations(["protected", "payload", "signature"]), st.permutations(sorted(_HEADER)),
       st.sampled_from(["protected", "payload", "signature"]), st.sampled_from(sorted(_HEADER)))
@settings(max_examples=60)
def test_members_in_any_order_and_none_twice(outer: list[str], inner: list[str], twice: str, again: str) -> None:
    """Rows J1, J14, E15: the order of members means nothing, in the body or the header; one that is repeated, with the
    very same value too, is malformed."""
    document = flatten(_KEY, {name: _HEADER[name] for name in inner}, {"a": 1})
    body = json.dumps({name: document[name] for name in outer})
    signed = _parse(body.encode())
    assert (signed.url, signed.nonce) == (_URL, _NONCE)
    verify(signed, _KEY.jwk_text)
    assert _refusal((body[:-1] + f', "{twice}": "{document[twice]}"}}').encode()).type == "malformed"
    header = json.dumps(_HEADER)[:-1] + f", {json.dumps({again: _HEADER[again]})[1:]}"
    assert _refusal(flatten(_KEY, header.encode(), {"a": 1})).type == "malformed"


@given(st.sampled_from(sorted(_KEYS)), st.sampled_from(["protected", "payload", "signature"]), st.integers(0),
       st.integers(0, 7))
@settings(max_examples=150)
def test_j10_one_bit_anywhere_breaks_the_signature(alg: str, member: str, position: int, bit: int) -> None:
    """Row J10: a changed bit is malformed (or another well-formed fault in the header), never accepted."""
    document = flatten(_KEYS[alg], _HEADER | {"alg": alg, "jwk": _KEYS[alg].jwk}, {"a": 1})
    raw = bytearray(unb64(document[member]))
    raw[position % len(raw)] ^= 1 << bit
    document[member] = b64(bytes(raw))
    with pytest.raises(Problem) as caught:
        verify(_parse(document), _KEYS[alg].jwk_text)
    assert caught.value.type in ("malformed", "badSignatureAlgorithm", "badPublicKey")


def _with_signature(signature: bytes) -> SignedRequest:
    return _parse(flatten(_KEY, _HEADER, {"a": 1}, signature=b64(signature)))


def test_j15_ecdsa_signatures_are_raw_and_in_range() -> None:
    """Rows J15, E26: DER, other lengths, zero and overlong numbers are malformed."""
    good = _signed(payload={"a": 1})
    r, s = (int.from_bytes(part, "big") for part in (good.signature[:32], good.signature[32:]))
    bad = [encode_dss_signature(r, s), good.signature[:-1], good.signature + b"\0", b"", bytes(64),
           bytes(32) + good.signature[32:], good.signature[:32] + bytes(32),
           (r + _P256_ORDER if r + _P256_ORDER < 1 << 256 else _P256_ORDER).to_bytes(32, "big") + good.signature[32:],
           good.signature[:32] + _P256_ORDER.to_bytes(32, "big"), b"\xff" * 64]
    for signature in bad:
        with pytest.raises(Problem) as caught:
            verify(_with_signature(signature), _KEY.jwk_text)
        assert caught.value.type == "malformed"


def test_e26_the_high_s_twin_verifies() -> None:
    """Row E26: ECDSA is malleable, which is why the nonce and not the signature makes a request unique."""
    document = flatten(_KEY, _HEADER, {"a": 1})
    signature = unb64(document["signature"])
    twin = signature[:32] + (_P256_ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    verify(_parse(document | {"signature": b64(twin)}), _KEY.jwk_text)


def test_e27_rsa_and_ed25519_forgeries() -> None:
    """Row E27: all-zero, out-of-range, overlong and non-canonical signatures are malformed."""
    rsa_key, edwards = _KEYS["RS256"], _KEYS["EdDSA"]
    modulus = rsa_key.private.public_key().public_numbers().n
    for signature in (bytes(256), modulus.to_bytes(256, "big"), b"\xff" * 256, b"", bytes(300), b"\1"):
        with pytest.raises(Problem) as caught:
            verify(_parse(flatten(rsa_key, _HEADER | {"alg": "RS256", "jwk": rsa_key.jwk}, None,
                                  signature=b64(signature))), rsa_key.jwk_text)
        assert caught.value.type == "malformed"
    good = _signed(edwards)
    order = 2**252 + 27742317777372353535851937790883648493
    shifted = (int.from_bytes(good.signature[32:], "little") + order).to_bytes(32, "little")
    for signature in (good.signature[:32] + shifted, good.signature[:63], good.signature + b"\0", bytes(64)):
        with pytest.raises(Problem) as caught:
            verify(_parse(flatten(edwards, _HEADER | {"alg": "EdDSA", "jwk": edwards.jwk}, None,
                                  signature=b64(signature))), edwards.jwk_text)
        assert caught.value.type == "malformed"


def _rsa_jwk(n: int, e: int) -> dict[str, str]:
    return {"kty": "RSA", "n": b64(n.to_bytes((n.bit_length() + 7) // 8, "big")),
            "e": b64(e.to_bytes((e.bit_length() + 7) // 8, "big"))}


def test_e27_short_padding_forgery_with_exponent_3() -> None:
    """Row E27: a PKCS#1 block with short padding and trailing bytes, the cube-root forgery, does not verify."""
    private = rsa.generate_private_key(3, 2048)
    jwk = _rsa_jwk(private.public_key().public_numbers().n, 3)
    document = flatten(SigningKey("RS256", private), _HEADER | {"alg": "RS256", "jwk": jwk}, None)
    verify(_parse(document), canonical_jwk(jwk))
    digest = hashes.Hash(hashes.SHA256())
    digest.update(f"{document['protected']}.{document['payload']}".encode())
    block = (bytes.fromhex("0001ffffffffffffffff003031300d060960864801650304020105000420") + digest.finalize())
    root = _cube_root(int.from_bytes(block + bytes(256 - len(block)), "big")) + 1
    assert (root**3).to_bytes(256, "big").startswith(block)
    with pytest.raises(Problem):
        verify(_parse(document | {"signature": b64(root.to_bytes(256, "big"))}), canonical_jwk(jwk))


def _cube_root(number: int) -> int:
    root = 1 << (number.bit_length() // 3 + 1)
    while (closer := (2 * root + number // (root * root)) // 3) < root:
        root = closer
    return root


_RFC_7638 = {
    "kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjB"
         "ZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8"
         "KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_"
         "xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
}
_RFC_8037 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}


def test_j16_thumbprint_vectors() -> None:
    """RFC 7638 3.1 and RFC 8037 A.3; extra members and leading zeros change nothing (rows J16, E31)."""
    assert b64(thumbprint(canonical_jwk(_RFC_7638))) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert b64(thumbprint(canonical_jwk(_RFC_8037))) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    padded = _RFC_7638 | {"n": b64(b"\0\0" + unb64(_RFC_7638["n"])), "e": b64(b"\0\1\0\1"), "foo": "bar"}
    assert canonical_jwk(dict(reversed(padded.items()))) == canonical_jwk(_RFC_7638)


@pytest.mark.parametrize("alg", _KEYS)
def test_j16_thumbprints_agree_with_the_definition(alg: str) -> None:
    """For each kind of key, computed independently of our canonical form."""
    assert thumbprint(canonical_jwk(_KEYS[alg].jwk)) == _KEYS[alg].thumbprint


def _key_problem(jwk: dict[str, Any], alg: str = "ES256") -> Problem:
    """What is wrong with a key as newAccount finds it: while parsing, or by the policy of accounts."""
    signed = _parse(flatten(_KEY, _HEADER | {"alg": alg, "jwk": dict(jwk)}, None))
    if signed.key_problem is not None:
        assert signed.jwk is None
        return signed.key_problem
    assert signed.jwk is not None
    with pytest.raises(Problem) as caught:
        require_account_key(signed.jwk)
    return caught.value


_N = _KEYS["RS256"].private.public_key().public_numbers().n
_BAD_RSA = {
    "1024 bits": _rsa_jwk((1 << 1023) + 1, 65537),
    "2047 bits": _rsa_jwk((1 << 2046) + 1, 65537),
    "16384 bits": _rsa_jwk((1 << 16383) + 1, 65537),
    "even n": _rsa_jwk(_N & ~1, 65537),
    "factor 3": _rsa_jwk(_N * 3, 65537),
    "e 1": _rsa_jwk(_N, 1),
    "e 2": _rsa_jwk(_N, 2),
    "e 2^33+1": _rsa_jwk(_N, (1 << 33) + 1),
    "e 0": {"kty": "RSA", "n": b64(_N.to_bytes(256, "big")), "e": "AA"},
    "n 0": {"kty": "RSA", "n": "AA", "e": "AQAB"},
    "n empty": {"kty": "RSA", "n": "", "e": "AQAB"},
    "power": _rsa_jwk(pow(2**1024 - 105, 2), 65537),
}


@pytest.mark.parametrize("jwk", _BAD_RSA.values(), ids=_BAD_RSA.keys())
def test_e28_weak_rsa_keys(jwk: dict[str, str]) -> None:
    """Rows J7, E28: 400 badPublicKey with the reason."""
    problem = _key_problem(jwk, "RS256")
    assert (problem.type, problem.status) == ("badPublicKey", 400)


def _point(x: int, y: int, size: int = 32) -> dict[str, str]:
    return {"kty": "EC", "crv": "P-256", "x": b64(x.to_bytes(size, "big")), "y": b64(y.to_bytes(size, "big"))}


_P256_PRIME = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_BAD_POINTS: dict[str, dict[str, Any]] = {
    "off the curve": _point(1, 1),
    "zero": _point(0, 0),
    "coordinate of the prime": _point(_P256_PRIME, 1),
    "33 bytes": {**_KEY.jwk, "x": b64(b"\0" + unb64(_KEY.jwk["x"]))},
    "31 bytes": {**_KEY.jwk, "x": b64(bytes(31))},
    "P-224": {**_KEY.jwk, "crv": "P-224"},
    "secp256k1": {**_KEY.jwk, "crv": "secp256k1"},
    "P-384 by ES256": _KEYS["ES384"].jwk,
    "RSA by ES256": _KEYS["RS256"].jwk,
    "Ed25519 by ES256": _KEYS["EdDSA"].jwk,
    "oct": {"kty": "oct", "k": "AAAA"},
    "kty unknown": {"kty": "__proto__"},
}


@pytest.mark.parametrize("jwk", _BAD_POINTS.values(), ids=_BAD_POINTS.keys())
def test_e29_bad_ec_keys(jwk: dict[str, Any]) -> None:
    """Rows J7, E22, E29."""
    assert _key_problem(jwk).type == "badPublicKey"


_SMALL_ORDER = ["0" * 64, "01" + "0" * 62, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f",
                "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
                "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "02" + "0" * 62, "ff" * 32]


@pytest.mark.parametrize("x", _SMALL_ORDER)
def test_e29_ed25519_points_of_small_order(x: str) -> None:
    """Row E29: the identity and its kin, points off the curve, and encodings above the prime."""
    assert _key_problem({"kty": "OKP", "crv": "Ed25519", "x": b64(bytes.fromhex(x))}, "EdDSA").type == "badPublicKey"


@pytest.mark.parametrize("jwk", [
    {"kty": "OKP", "crv": "Ed25519", "x": b64(bytes(31))}, {"kty": "OKP", "crv": "Ed448", "x": b64(bytes(57))},
    {"kty": "OKP", "crv": "X25519", "x": b64(bytes(32))}])
def test_e29_other_edwards_keys(jwk: dict[str, str]) -> None:
    """Row E29: wrong length, Ed448, X25519."""
    assert _key_problem(jwk, "EdDSA").type == "badPublicKey"


@pytest.mark.parametrize("members", [{"d": "AA"}, {"p": "AA", "q": "AA"}, {"oth": []}, {"k": ""}, {"use": "enc"},
                                     {"use": 1}, {"alg": "ES384"}, {"alg": None}, {"key_ops": ["sign"]},
                                     {"key_ops": "verify"}])
def test_j17_j18_private_or_contradicting_members(members: dict[str, Any]) -> None:
    """Rows J17, J18, E30: refused, and no value of the key is repeated."""
    problem = _key_problem(_KEY.jwk | members)
    assert problem.type == "badPublicKey"
    assert "AA" not in problem.detail


def test_j18_agreeing_members_are_fine() -> None:
    """alg, use and key_ops that agree, and a kid inside the jwk, are no fault."""
    signed = _signed(jwk=_KEY.jwk | {"alg": "ES256", "use": "sig", "key_ops": ["verify"], "kid": "x"})
    assert signed.jwk == _KEY.jwk_text


def test_e22_the_algorithm_fits_the_accounts_key() -> None:
    """Row E22: a request by kid whose alg is not of the account's key type is badPublicKey."""
    signed = _signed(kid=_KID, jwk=ABSENT)
    for alg in ("RS256", "ES384", "EdDSA"):
        with pytest.raises(Problem) as caught:
            verify(signed, _KEYS[alg].jwk_text)
        assert caught.value.type == "badPublicKey"


def _key_change(old: SigningKey, new: SigningKey, *, inner_header: dict[str, Any] | None = None,
                payload: Any = None, inner: Any = None) -> dict[str, Any]:
    url = "https://ca.example/acme/key-change"
    header = {"alg": new.alg, "jwk": new.jwk, "url": url} | (inner_header or {})
    claim = {"account": _KID, "oldKey": old.jwk} if payload is None else payload
    return flatten(old, {"alg": old.alg, "kid": _KID, "nonce": _NONCE, "url": url},
                   flatten(new, header, claim) if inner is None else inner)


@pytest.mark.parametrize("alg", _KEYS)
def test_ac15_a_key_change_proves_the_link(alg: str) -> None:
    """The stored text alone shows that the old key handed over to the new one."""
    new = SigningKey.make(alg)
    link = link_of_key_change(json.dumps(_key_change(_KEY, new)))
    assert (link.old_thumbprint, link.new_thumbprint, link.account_url) == (_KEY.thumbprint, new.thumbprint, _KID)


_E47: dict[str, dict[str, Any]] = {
    "inner nonce": {"inner_header": {"nonce": _NONCE}},
    "inner kid": {"inner_header": {"kid": _KID, "jwk": ABSENT}},
    "inner jwk and kid": {"inner_header": {"kid": _KID}},
    "other url": {"inner_header": {"url": "https://ca.example/acme/new-order"}},
    "no jwk": {"inner_header": {"jwk": ABSENT}},
    "payload array": {"payload": b"[]"},
    "oldKey missing": {"payload": {"account": _KID}},
    "oldKey a string": {"payload": {"account": _KID, "oldKey": "x"}},
    "oldKey private": {"payload": {"account": _KID, "oldKey": {**_KEY.jwk, "d": "AA"}}},
    "account missing": {"payload": {"oldKey": _KEY.jwk}},
    "compact": {"inner": b'"a.b.c"'},
    "empty": {"inner": b""},
    "outer again": {"inner": flatten(_KEY, _HEADER, None)},
}


@pytest.mark.parametrize("case", _E47.values(), ids=_E47.keys())
def test_e47_key_changes_of_another_form(case: dict[str, Any]) -> None:
    """Row E47: malformed."""
    with pytest.raises(Problem) as caught:
        parse_key_change(_parse(_key_change(_KEY, SigningKey.make(), **case)))
    assert caught.value.type == "malformed"


def test_e47_links_that_do_not_hold() -> None:
    """Another old key, another account, another signer: no link."""
    new, stranger = SigningKey.make(), SigningKey.make()
    for document in (
        _key_change(_KEY, new, payload={"account": _KID, "oldKey": stranger.jwk}),
        _key_change(_KEY, new, payload={"account": _KID + "x", "oldKey": _KEY.jwk}),
        _key_change(_KEY, new, inner_header={"jwk": stranger.jwk}),
        _key_change(_KEY, new) | {"signature": b64(bytes(64))},
    ):
        with pytest.raises(Problem):
            link_of_key_change(json.dumps(document))


def test_e48_bad_inner_algorithm_and_key() -> None:
    """Row E48: the inner JWS gets the same answers as an outer one."""
    new = SigningKey.make()
    for changes, kind in (({"alg": "HS256"}, "badSignatureAlgorithm"), ({"alg": "none"}, "badSignatureAlgorithm"),
                          ({"jwk": _KEYS["RS256"].jwk}, "badPublicKey"), ({"jwk": _point(1, 1)}, "badPublicKey")):
        with pytest.raises(Problem) as caught:
            parse_key_change(_parse(_key_change(_KEY, new, inner_header=changes)))
        assert caught.value.type == kind


def test_bodies_over_the_limit_are_413() -> None:
    """Row T11."""
    with pytest.raises(Problem) as caught:
        parse_flattened(b" " * 65_537, 65_536)
    assert caught.value.status == 413


def test_the_client_of_the_tests_signs_as_the_rfc_says() -> None:
    """The signatures of the test client verify with `cryptography` alone, so agreement here is not a common mistake."""
    document = flatten(_KEY, _HEADER, {"a": 1})
    signature = base64.urlsafe_b64decode(document["signature"] + "==")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    assert decode_dss_signature(encode_dss_signature(r, s)) == (r, s)
    signing_input = f"{document['protected']}.{document['payload']}".encode()
    _KEY.private.public_key().verify(encode_dss_signature(r, s), signing_input, ec.ECDSA(hashes.SHA256()))
