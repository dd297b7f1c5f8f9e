"""Signed requests: form, keys, signatures (rows J1 to J7, J14 to J18, E13 to E27)."""

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
from acme_api.protocol.jws import SignedRequest, canonical_jwk, parse_flattened, thumbprint, verify, verify_stored
from acme_api.protocol.problem import Problem
from tests.acme_api.protocol.signed_requests import HEADER, KEY, KEYS, KID, NONCE, URL, parse, rsa_jwk, sign
from tests.acme_client import ABSENT, SigningKey, b64, flatten, unb64

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _refusal(document: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        parse(document)
    return caught.value


@pytest.mark.parametrize("alg", KEYS)
def test_j6_each_algorithm_verifies(alg: str) -> None:
    """A request by jwk parses, verifies with its key, and verifies again from its stored parts."""
    key = KEYS[alg]
    signed = sign(key, {"a": 1})
    assert signed.jwk == key.jwk_text
    assert thumbprint(signed.jwk) == key.thumbprint
    assert (signed.kid, signed.nonce, signed.url, signed.alg) == (None, NONCE, URL, alg)
    verify(signed, signed.jwk)
    require_account_key(signed.jwk)
    again = verify_stored(signed.protected_bytes, signed.payload_bytes, signed.signature, signed.jwk)
    assert again == signed


def test_a_request_by_kid_parses() -> None:
    """Row J4: kid instead of jwk; unknown and harmless header members are ignored (rows E18, E19)."""
    signed = sign(kid=KID, jwk=ABSENT, typ="JOSE", cty="x", jku="https://evil.example/", x5u="https://evil.example/",
                     x5c=["AAAA"], x5t="AA")
    assert (signed.kid, signed.jwk) == (KID, None)
    verify(signed, KEY.jwk_text)


_SHAPES: dict[str, Any] = {
    "compact (J1)": json.dumps("a.b.c").encode(),
    "general form (J1)": {"payload": "", "signatures": [{"protected": "", "signature": ""}]},
    "signatures beside (E17)": flatten(KEY, HEADER, None, signatures=[]),
    "empty unprotected header (J2)": flatten(KEY, HEADER, None, header={}),
    "signature null (E17)": flatten(KEY, HEADER, None, signature=None),
    "signature number": flatten(KEY, HEADER, None, signature=1),
    "payload absent (T7)": flatten(KEY, HEADER, None, payload=ABSENT),
    "payload object (E17)": flatten(KEY, HEADER, None, payload={}),
    "protected absent": flatten(KEY, HEADER, None, protected=ABSENT),
    "empty": b"",
    "random": b"\x00\xff",
    "protected empty": flatten(KEY, b"", None),
    "protected array": flatten(KEY, b"[]", None),
    "protected twice alg (E15)": flatten(KEY, b'{"alg":"ES256","alg":"ES256"}', None),
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
    "url array (E35)": {"url": [URL]},
    "nonce number (E32)": {"nonce": 5},
    "nonce null": {"nonce": None},
    "nonce with a space (N6)": {"nonce": "a b"},
    "nonce padded (N6)": {"nonce": "=="},
    "jwk and kid (E23)": {"kid": KID},
    "neither (E23)": {"jwk": ABSENT},
    "jwk null (E23)": {"jwk": None},
    "jwk string (E23)": {"jwk": "x"},
    "jwk empty (E23)": {"jwk": {}},
    "jwk and null kid": {"kid": None},
    "kid number (E23)": {"jwk": ABSENT, "kid": 5},
    "kid object (E23)": {"jwk": ABSENT, "kid": {}},
    "kid empty (E24)": {"jwk": ABSENT, "kid": ""},
    "kty number": {"jwk": KEY.jwk | {"kty": 1}},
    "x missing (J7)": {"jwk": {"kty": "EC", "crv": "P-256", "y": KEY.jwk["y"]}},
    "x padded (E25)": {"jwk": KEY.jwk | {"x": KEY.jwk["x"] + "="}},
    "x number": {"jwk": KEY.jwk | {"x": 1}},
    "crv missing": {"jwk": {"kty": "EC", "x": KEY.jwk["x"], "y": KEY.jwk["y"]}},
    "n with a plus": {"alg": "RS256", "jwk": {"kty": "RSA", "n": "+A", "e": "AQAB"}},
}


@pytest.mark.parametrize("changes", _HEADERS.values(), ids=_HEADERS.keys())
def test_other_headers_are_malformed(changes: dict[str, Any]) -> None:
    """Rows J3, J4, N6, E18, E21, E23, E25, E35."""
    problem = _refusal(flatten(KEY, HEADER | changes, None))
    assert (problem.type, problem.status) == ("malformed", 400)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "HS256", "PS256", "ES256K", "RS1", "es256", "ES256\x00", ""])
def test_j5_other_algorithms_are_named_with_ours(alg: str) -> None:
    """Rows J5, E20, E21: 400 badSignatureAlgorithm and the list of what is accepted."""
    problem = _refusal(flatten(KEY, HEADER | {"alg": alg}, None, signature=""))
    assert (problem.type, problem.status) == ("badSignatureAlgorithm", 400)
    assert problem.to_json()["algorithms"] == ["ES256", "ES384", "ES512", "RS256", "EdDSA"]


@pytest.mark.parametrize("member", ["protected", "payload", "signature"])
@pytest.mark.parametrize("damage", ["=", "+", "/", " ", "\n", "A", "\u00e9"])
def test_t3_each_part_is_strict_base64url(member: str, damage: str) -> None:
    """Rows T3, E25: nothing can be appended to a part."""
    document = flatten(KEY, HEADER, {"a": 1})
    document[member] += damage
    problem = _refusal(document) if damage != "A" or len(document[member]) % 4 == 1 else None
    if problem is not None:
        assert problem.type == "malformed"
    else:
        with pytest.raises(Problem) as caught:
            verify(parse(document), KEY.jwk_text)
        assert caught.value.type == "malformed"


@given(st.data())
@settings(max_examples=150)
def test_truncated_bodies_are_malformed(data: st.DataObject) -> None:
    """No prefix of a request is a request, and trailing bytes are refused."""
    body = json.dumps(flatten(KEY, HEADER, {"a": 1})).encode()
    assert _refusal(body[:data.draw(st.integers(0, len(body) - 1))]).type == "malformed"
    assert _refusal(body + data.draw(st.sampled_from([b"{}", b"x", b"\x00", b",", b"}"]))).type == "malformed"


@given(st.permutations(["protected", "payload", "signature"]), st.permutations(sorted(HEADER)),
       st.sampled_from(["protected", "payload", "signature"]), st.sampled_from(sorted(HEADER)))
@settings(max_examples=60)
def test_members_in_any_order_and_none_twice(outer: list[str], inner: list[str], twice: str, again: str) -> None:
    """Rows J1, J14, E15: the order of members means nothing, in the body or the header; one that is repeated, with the
    very same value too, is malformed."""
    document = flatten(KEY, {name: HEADER[name] for name in inner}, {"a": 1})
    body = json.dumps({name: document[name] for name in outer})
    signed = parse(body.encode())
    assert (signed.url, signed.nonce) == (URL, NONCE)
    verify(signed, KEY.jwk_text)
    assert _refusal((body[:-1] + f', "{twice}": "{document[twice]}"}}').encode()).type == "malformed"
    header = json.dumps(HEADER)[:-1] + f", {json.dumps({again: HEADER[again]})[1:]}"
    assert _refusal(flatten(KEY, header.encode(), {"a": 1})).type == "malformed"


@given(st.sampled_from(sorted(KEYS)), st.sampled_from(["protected", "payload", "signature"]), st.integers(0),
       st.integers(0, 7))
@settings(max_examples=150)
def test_j10_one_bit_anywhere_breaks_the_signature(alg: str, member: str, position: int, bit: int) -> None:
    """Row J10: a changed bit is malformed (or another well-formed fault in the header), never accepted."""
    document = flatten(KEYS[alg], HEADER | {"alg": alg, "jwk": KEYS[alg].jwk}, {"a": 1})
    raw = bytearray(unb64(document[member]))
    raw[position % len(raw)] ^= 1 << bit
    document[member] = b64(bytes(raw))
    with pytest.raises(Problem) as caught:
        verify(parse(document), KEYS[alg].jwk_text)
    assert caught.value.type in ("malformed", "badSignatureAlgorithm", "badPublicKey")


def _with_signature(signature: bytes) -> SignedRequest:
    return parse(flatten(KEY, HEADER, {"a": 1}, signature=b64(signature)))


def test_j15_ecdsa_signatures_are_raw_and_in_range() -> None:
    """Rows J15, E26: DER, other lengths, zero and overlong numbers are malformed."""
    good = sign(payload={"a": 1})
    r, s = (int.from_bytes(part, "big") for part in (good.signature[:32], good.signature[32:]))
    bad = [encode_dss_signature(r, s), good.signature[:-1], good.signature + b"\0", b"", bytes(64),
           bytes(32) + good.signature[32:], good.signature[:32] + bytes(32),
           (r + _P256_ORDER if r + _P256_ORDER < 1 << 256 else _P256_ORDER).to_bytes(32, "big") + good.signature[32:],
           good.signature[:32] + _P256_ORDER.to_bytes(32, "big"), b"\xff" * 64]
    for signature in bad:
        with pytest.raises(Problem) as caught:
            verify(_with_signature(signature), KEY.jwk_text)
        assert caught.value.type == "malformed"


def test_e26_the_high_s_twin_verifies() -> None:
    """Row E26: ECDSA is malleable, which is why the nonce and not the signature makes a request unique."""
    document = flatten(KEY, HEADER, {"a": 1})
    signature = unb64(document["signature"])
    twin = signature[:32] + (_P256_ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    verify(parse(document | {"signature": b64(twin)}), KEY.jwk_text)


def test_e27_rsa_and_ed25519_forgeries() -> None:
    """Row E27: all-zero, out-of-range, overlong and non-canonical signatures are malformed."""
    rsa_key, edwards = KEYS["RS256"], KEYS["EdDSA"]
    modulus = rsa_key.private.public_key().public_numbers().n
    for signature in (bytes(256), modulus.to_bytes(256, "big"), b"\xff" * 256, b"", bytes(300), b"\1"):
        with pytest.raises(Problem) as caught:
            verify(parse(flatten(rsa_key, HEADER | {"alg": "RS256", "jwk": rsa_key.jwk}, None,
                                  signature=b64(signature))), rsa_key.jwk_text)
        assert caught.value.type == "malformed"
    good = sign(edwards)
    order = 2**252 + 27742317777372353535851937790883648493
    shifted = (int.from_bytes(good.signature[32:], "little") + order).to_bytes(32, "little")
    for signature in (good.signature[:32] + shifted, good.signature[:63], good.signature + b"\0", bytes(64)):
        with pytest.raises(Problem) as caught:
            verify(parse(flatten(edwards, HEADER | {"alg": "EdDSA", "jwk": edwards.jwk}, None,
                                  signature=b64(signature))), edwards.jwk_text)
        assert caught.value.type == "malformed"


def test_e27_short_padding_forgery_with_exponent_3() -> None:
    """Row E27: a PKCS#1 block with short padding and trailing bytes, the cube-root forgery, does not verify."""
    private = rsa.generate_private_key(3, 2048)
    jwk = rsa_jwk(private.public_key().public_numbers().n, 3)
    document = flatten(SigningKey("RS256", private), HEADER | {"alg": "RS256", "jwk": jwk}, None)
    verify(parse(document), canonical_jwk(jwk))
    digest = hashes.Hash(hashes.SHA256())
    digest.update(f"{document['protected']}.{document['payload']}".encode())
    block = (bytes.fromhex("0001ffffffffffffffff003031300d060960864801650304020105000420") + digest.finalize())
    root = _cube_root(int.from_bytes(block + bytes(256 - len(block)), "big")) + 1
    assert (root**3).to_bytes(256, "big").startswith(block)
    with pytest.raises(Problem):
        verify(parse(document | {"signature": b64(root.to_bytes(256, "big"))}), canonical_jwk(jwk))


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


@pytest.mark.parametrize("alg", KEYS)
def test_j16_thumbprints_agree_with_the_definition(alg: str) -> None:
    """For each kind of key, computed independently of our canonical form."""
    assert thumbprint(canonical_jwk(KEYS[alg].jwk)) == KEYS[alg].thumbprint


def test_bodies_over_the_limit_are_413() -> None:
    """Row T11."""
    with pytest.raises(Problem) as caught:
        parse_flattened(b" " * 65_537, 65_536)
    assert caught.value.status == 413


def test_the_client_of_the_tests_signs_as_the_rfc_says() -> None:
    """The signatures of the test client verify with `cryptography` alone, so agreement here is not a common mistake."""
    document = flatten(KEY, HEADER, {"a": 1})
    signature = base64.urlsafe_b64decode(document["signature"] + "==")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    assert decode_dss_signature(encode_dss_signature(r, s)) == (r, s)
    signing_input = f"{document['protected']}.{document['payload']}".encode()
    KEY.private.public_key().verify(encode_dss_signature(r, s), signing_input, ec.ECDSA(hashes.SHA256()))
