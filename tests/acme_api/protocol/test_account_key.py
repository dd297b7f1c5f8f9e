"""Which account keys are refused, and which members of a JWK (rows J7, J17, J18, E22, E28, E29)."""

from typing import Any

import pytest

from acme_api.protocol.account_key import require_account_key
from acme_api.protocol.jws import verify
from acme_api.protocol.problem import Problem
from tests.acme_api.protocol.signed_requests import HEADER, KEY, KEYS, KID, parse, point, rsa_jwk, sign
from tests.acme_client import ABSENT, b64, flatten, unb64


def _key_problem(jwk: dict[str, Any], alg: str = "ES256") -> Problem:
    """What is wrong with a key as newAccount finds it: while parsing, or by the policy of accounts."""
    signed = parse(flatten(KEY, HEADER | {"alg": alg, "jwk": dict(jwk)}, None))
    if signed.key_problem is not None:
        assert signed.jwk is None
        return signed.key_problem
    assert signed.jwk is not None
    with pytest.raises(Problem) as caught:
        require_account_key(signed.jwk)
    return caught.value


_N = KEYS["RS256"].private.public_key().public_numbers().n
_BAD_RSA = {
    "1024 bits": rsa_jwk((1 << 1023) + 1, 65537),
    "2047 bits": rsa_jwk((1 << 2046) + 1, 65537),
    "16384 bits": rsa_jwk((1 << 16383) + 1, 65537),
    "even n": rsa_jwk(_N & ~1, 65537),
    "factor 3": rsa_jwk(_N * 3, 65537),
    "e 1": rsa_jwk(_N, 1),
    "e 2": rsa_jwk(_N, 2),
    "e 2^33+1": rsa_jwk(_N, (1 << 33) + 1),
    "e 0": {"kty": "RSA", "n": b64(_N.to_bytes(256, "big")), "e": "AA"},
    "n 0": {"kty": "RSA", "n": "AA", "e": "AQAB"},
    "n empty": {"kty": "RSA", "n": "", "e": "AQAB"},
    "power": rsa_jwk(pow(2**1024 - 105, 2), 65537),
}


@pytest.mark.parametrize("jwk", _BAD_RSA.values(), ids=_BAD_RSA.keys())
def test_e28_weak_rsa_keys(jwk: dict[str, str]) -> None:
    """Rows J7, E28: 400 badPublicKey with the reason."""
    problem = _key_problem(jwk, "RS256")
    assert (problem.type, problem.status) == ("badPublicKey", 400)


_P256_PRIME = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_BAD_POINTS: dict[str, dict[str, Any]] = {
    "off the curve": point(1, 1),
    "zero": point(0, 0),
    "coordinate of the prime": point(_P256_PRIME, 1),
    "33 bytes": {**KEY.jwk, "x": b64(b"\0" + unb64(KEY.jwk["x"]))},
    "31 bytes": {**KEY.jwk, "x": b64(bytes(31))},
    "P-224": {**KEY.jwk, "crv": "P-224"},
    "secp256k1": {**KEY.jwk, "crv": "secp256k1"},
    "P-384 by ES256": KEYS["ES384"].jwk,
    "RSA by ES256": KEYS["RS256"].jwk,
    "Ed25519 by ES256": KEYS["EdDSA"].jwk,
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
    problem = _key_problem(KEY.jwk | members)
    assert problem.type == "badPublicKey"
    assert "AA" not in problem.detail


def test_j18_agreeing_members_are_fine() -> None:
    """alg, use and key_ops that agree, and a kid inside the jwk, are no fault."""
    signed = sign(jwk=KEY.jwk | {"alg": "ES256", "use": "sig", "key_ops": ["verify"], "kid": "x"})
    assert signed.jwk == KEY.jwk_text


def test_e22_the_algorithm_fits_the_accounts_key() -> None:
    """Row E22: a request by kid whose alg is not of the account's key type is badPublicKey."""
    signed = sign(kid=KID, jwk=ABSENT)
    for alg in ("RS256", "ES384", "EdDSA"):
        with pytest.raises(Problem) as caught:
            verify(signed, KEYS[alg].jwk_text)
        assert caught.value.type == "badPublicKey"
