"""Private members in a JWK: a proof of loss where they are the key's, nothing where they are not (row J17)."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_api.protocol.exposed_key import proof_of_loss
from ca.pki.key_loss import SENTENCES, proven_loss
from tests.acme_client import SigningKey, b64

_KEYS = {alg: SigningKey.make(alg) for alg in ("ES256", "ES384", "ES512", "RS256", "EdDSA")}


def _number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _private(key: SigningKey) -> dict[str, str]:
    """The private members of its JWK (RFC 7518 6.2.2, 6.3.2, RFC 8037 2)."""
    if key.alg == "EdDSA":
        return {"d": b64(key.private.private_bytes_raw())}
    numbers = key.private.private_numbers()
    if key.alg != "RS256":
        return {"d": b64(numbers.private_value.to_bytes({"ES256": 32, "ES384": 48, "ES512": 66}[key.alg], "big"))}
    return {"d": _number(numbers.d), "p": _number(numbers.p), "q": _number(numbers.q), "dp": _number(numbers.dmp1),
            "dq": _number(numbers.dmq1), "qi": _number(numbers.iqmp)}


def _is_proven(key: SigningKey, members: dict[str, Any]) -> bool:
    proof = proof_of_loss(key.jwk | members)
    if proof is None:
        return False
    loss = proven_loss(proof)
    assert loss.sentence == SENTENCES[0]
    assert loss.spki == key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return True


@pytest.mark.parametrize("alg", sorted(_KEYS))
def test_j17_a_lost_key_says_so_itself(alg: str) -> None:
    """Row J17: for each kind of key, the private members make the same proof each time; another key's make none."""
    key, private = _KEYS[alg], _private(_KEYS[alg])
    assert _is_proven(key, private)
    assert proof_of_loss(key.jwk | private) == proof_of_loss(key.jwk | private)
    assert not _is_proven(key, _private(SigningKey.make(alg)))


@pytest.mark.parametrize("kept", [("d",), ("p",), ("q",), ("p", "q"), ("d", "p")])
def test_j17_part_of_an_rsa_key_is_the_key(kept: tuple[str, ...]) -> None:
    """Row J17: the exponent alone, or a prime alone, is the loss of the whole key."""
    private = _private(_KEYS["RS256"])
    assert _is_proven(_KEYS["RS256"], {name: private[name] for name in kept})


@pytest.mark.parametrize("members", [
    {"k": "AAAA"}, {"oth": []}, {"dp": "AQ"}, {"d": ""}, {"d": 5}, {"d": None}, {"d": "="}, {"p": "AQ"}, {"p": "AA"},
    {"p": "A" * 5_000}, {"q": []}, {"d": "AQ", "p": "AQ"}])
@pytest.mark.parametrize("alg", sorted(_KEYS))
def test_j17_members_that_are_no_key(alg: str, members: dict[str, Any]) -> None:
    """Row J17: what is no private key of this public one proves nothing and breaks nothing."""
    assert not _is_proven(_KEYS[alg], members)


def test_j17_the_modulus_itself_is_no_prime() -> None:
    """Row J17: 1 and the modulus divide it and are no factors."""
    assert not _is_proven(_KEYS["RS256"], {"p": _KEYS["RS256"].jwk["n"]})


def test_j17_large_keys_are_not_tried() -> None:
    """Row J17: what would take long for a stranger is left alone."""
    large = SigningKey("RS256", rsa.generate_private_key(65537, 4104))
    assert not _is_proven(large, _private(large))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "p", "q"]),
                       st.one_of(st.none(), st.integers(), st.text(max_size=50), st.binary(max_size=70).map(b64)),
                       max_size=9), st.sampled_from(sorted(_KEYS)))
def test_j17_anything_at_all(members: dict[str, Any], alg: str) -> None:
    """Row J17: whatever a stranger puts into a JWK, the answer is a proof or None."""
    proof = proof_of_loss(_KEYS[alg].jwk | members)
    assert proof is None or proven_loss(proof)
