"""Key changes: the stored text alone proves that the old key handed over to the new one (rows AC15, E47, E48)."""

import json
from typing import Any

import pytest

from acme_api.protocol.jwk import PrivateKeyShown
from acme_api.protocol.jws import link_of_key_change, parse_key_change
from acme_api.protocol.problem import Problem
from tests.acme_api.protocol.signed_requests import HEADER, KEY, KEYS, KID, NONCE, parse, point
from tests.acme_client import ABSENT, SigningKey, b64, flatten


def _key_change(old: SigningKey, new: SigningKey, *, inner_header: dict[str, Any] | None = None,
                payload: Any = None, inner: Any = None) -> dict[str, Any]:
    url = "https://ca.example/acme/key-change"
    header = {"alg": new.alg, "jwk": new.jwk, "url": url} | (inner_header or {})
    claim = {"account": KID, "oldKey": old.jwk} if payload is None else payload
    return flatten(old, {"alg": old.alg, "kid": KID, "nonce": NONCE, "url": url},
                   flatten(new, header, claim) if inner is None else inner)


@pytest.mark.parametrize("alg", KEYS)
def test_ac15_a_key_change_proves_the_link(alg: str) -> None:
    """The stored text alone shows that the old key handed over to the new one."""
    new = SigningKey.make(alg)
    link = link_of_key_change(json.dumps(_key_change(KEY, new)))
    assert (link.old_thumbprint, link.new_thumbprint, link.account_url) == (KEY.thumbprint, new.thumbprint, KID)


_E47: dict[str, dict[str, Any]] = {
    "inner nonce": {"inner_header": {"nonce": NONCE}},
    "inner kid": {"inner_header": {"kid": KID, "jwk": ABSENT}},
    "inner jwk and kid": {"inner_header": {"kid": KID}},
    "other url": {"inner_header": {"url": "https://ca.example/acme/new-order"}},
    "no jwk": {"inner_header": {"jwk": ABSENT}},
    "payload array": {"payload": b"[]"},
    "oldKey missing": {"payload": {"account": KID}},
    "oldKey a string": {"payload": {"account": KID, "oldKey": "x"}},
    "account missing": {"payload": {"oldKey": KEY.jwk}},
    "compact": {"inner": b'"a.b.c"'},
    "empty": {"inner": b""},
    "outer again": {"inner": flatten(KEY, HEADER, None)},
}


@pytest.mark.parametrize("case", _E47.values(), ids=_E47.keys())
def test_e47_key_changes_of_another_form(case: dict[str, Any]) -> None:
    """Row E47: malformed."""
    with pytest.raises(Problem) as caught:
        parse_key_change(parse(_key_change(KEY, SigningKey.make(), **case)))
    assert caught.value.type == "malformed"


def test_j17_an_old_key_with_private_members() -> None:
    """Row J17: badPublicKey wherever a JWK shows them, so that the key can be blocked."""
    document = _key_change(KEY, SigningKey.make(), payload={"account": KID, "oldKey": {**KEY.jwk, "d": "AA"}})
    with pytest.raises(PrivateKeyShown) as caught:
        parse_key_change(parse(document))
    assert caught.value.type == "badPublicKey"


def test_e47_links_that_do_not_hold() -> None:
    """Another old key, another account, another signer: no link."""
    new, stranger = SigningKey.make(), SigningKey.make()
    for document in (
        _key_change(KEY, new, payload={"account": KID, "oldKey": stranger.jwk}),
        _key_change(KEY, new, payload={"account": KID + "x", "oldKey": KEY.jwk}),
        _key_change(KEY, new, inner_header={"jwk": stranger.jwk}),
        _key_change(KEY, new) | {"signature": b64(bytes(64))},
    ):
        with pytest.raises(Problem):
            link_of_key_change(json.dumps(document))


def test_e48_bad_inner_algorithm_and_key() -> None:
    """Row E48: the inner JWS gets the same answers as an outer one."""
    new = SigningKey.make()
    for changes, kind in (({"alg": "HS256"}, "badSignatureAlgorithm"), ({"alg": "none"}, "badSignatureAlgorithm"),
                          ({"jwk": KEYS["RS256"].jwk}, "badPublicKey"), ({"jwk": point(1, 1)}, "badPublicKey")):
        with pytest.raises(Problem) as caught:
            parse_key_change(parse(_key_change(KEY, new, inner_header=changes)))
        assert caught.value.type == kind
