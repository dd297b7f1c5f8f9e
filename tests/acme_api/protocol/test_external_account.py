"""External account binding: form, MAC, and what is bound (rows AC12, AC14, E42, E43)."""

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol.external_account import is_lookup_worth, key_text, make_kid, parse_binding, verify_binding
from acme_api.protocol.problem import Problem
from tests.acme_client import ABSENT, HmacKey, SigningKey, b64, flatten, make_binding, unb64

_URL = "https://ca.example/acme/new-account"
_SECRET = bytes(range(64))
_MAC = HmacKey("HS256", _SECRET)
_KEY = SigningKey.make()


def _refusal(member: Any, jwk: Any = None, mac_key: bytes | None = _SECRET) -> Problem:
    with pytest.raises(Problem) as caught:
        verify_binding(parse_binding(member, outer_url=_URL), mac_key, jwk or _KEY.jwk)
    return caught.value


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_ac12_three_algorithms(algorithm: str) -> None:
    """Row AC12: each of them verifies, and gives the key identifier and the member as it was sent."""
    member = make_binding(HmacKey(algorithm, _SECRET), "kid-1", _URL, _KEY.jwk)
    binding = parse_binding(member, outer_url=_URL)
    verify_binding(binding, _SECRET, _KEY.jwk)
    assert (binding.kid, binding.document) == ("kid-1", member)


def test_ac12_an_outer_jwk_with_more_members() -> None:
    """Row AC12: the payload is the jwk of the request, as it is written there or with its required members alone."""
    outer = {**_KEY.jwk, "alg": "ES256", "kid": "mine"}
    for payload in (outer, _KEY.jwk):
        verify_binding(parse_binding(make_binding(_MAC, "k", _URL, payload), outer_url=_URL), _SECRET, outer)


_FORMS: Final[list[Any]] = [
    "x", [], None, 1, {}, "a.b.c", {"protected": "", "payload": "", "signature": ""},
    make_binding(_MAC, "k", _URL, _KEY.jwk, header={}), make_binding(_MAC, "k", _URL, _KEY.jwk, signature=ABSENT),
    make_binding(_MAC, "k", _URL, _KEY.jwk, signature=None), make_binding(_MAC, "k", _URL, _KEY.jwk, signature="A="),
    make_binding(_MAC, "k", _URL, _KEY.jwk, protected={"alg": "none"}),
    make_binding(_MAC, "k", _URL, _KEY.jwk, protected={"alg": "RS256"}),
    make_binding(_MAC, "k", _URL, _KEY.jwk, protected={"alg": "hs256"}),
    make_binding(_MAC, "k", _URL, _KEY.jwk, protected={"alg": ABSENT}),
    make_binding(_MAC, "k", _URL, _KEY.jwk, protected={"alg": ["HS256"]}),
    flatten(_KEY, {"alg": "ES256", "kid": "k", "url": _URL}, _KEY.jwk),
    make_binding(_MAC, ABSENT, _URL, _KEY.jwk), make_binding(_MAC, 1, _URL, _KEY.jwk),
    make_binding(_MAC, "", _URL, _KEY.jwk), make_binding(_MAC, "k", _URL, _KEY.jwk, protected={"jwk": _KEY.jwk}),
    make_binding(_MAC, "k", _URL, _KEY.jwk, protected={"nonce": "AAAA"}),
    make_binding(_MAC, "k", _URL, _KEY.jwk, protected={"crit": ["b64"], "b64": False}),
    make_binding(_MAC, "k", _URL + "/", _KEY.jwk), make_binding(_MAC, "k", "https://ca.example/directory", _KEY.jwk),
    make_binding(_MAC, "k", ABSENT, _KEY.jwk), flatten(_MAC, b"{", _KEY.jwk), flatten(_MAC, b"[]", _KEY.jwk),
]
_PAYLOADS: Final[list[Any]] = [
    SigningKey.make().jwk, {**_KEY.jwk, "use": "sig"}, {}, b"", b"null", b'"x"', {"jwk": _KEY.jwk},
    {**_KEY.jwk, "d": "AAAA"}, json.dumps(_KEY.jwk).encode() + b" x"]


@pytest.mark.parametrize("member", _FORMS, ids=range(len(_FORMS)))
def test_e42_another_form(member: Any) -> None:
    """Rows AC12, E42: malformed, before anything is looked up."""
    problem = _refusal(member)
    assert (problem.type, problem.status) == ("malformed", 400)


@pytest.mark.parametrize("payload", _PAYLOADS, ids=range(len(_PAYLOADS)))
def test_e42_another_key(payload: Any) -> None:
    """Rows AC12, E42, E44: a good MAC over another key, or over the key with an added member, is malformed."""
    problem = _refusal(make_binding(_MAC, "k", _URL, payload))
    assert (problem.type, problem.status) == ("malformed", 400)


def test_e43_one_answer_for_every_bad_credential() -> None:
    """Row E43: no credential, another key, a MAC that is cut, empty or too long: unauthorized, in the same words."""
    good = make_binding(_MAC, "k", _URL, _KEY.jwk)
    mac = unb64(good["signature"])
    problems = [_refusal(good, mac_key=None), _refusal(good, mac_key=b"other"),
                *(_refusal({**good, "signature": b64(other)}) for other in (b"", mac[:1], mac + b"\0", bytes(32)))]
    assert {(problem.type, problem.status, problem.detail) for problem in problems} == {
        ("unauthorized", 403, problems[0].detail)}
    nobodys = make_binding(HmacKey("HS256", bytes(64)), "k", _URL, _KEY.jwk)
    assert _refusal(nobodys, mac_key=None).type == "unauthorized"


@given(st.text())
def test_what_is_looked_up(kid: str) -> None:
    """Row E43: whatever is in a kid, the database is asked only for what it can hold."""
    if is_lookup_worth(kid):
        assert "\0" not in kid
        assert len(kid) <= 256
    binding = parse_binding(make_binding(_MAC, kid or "x", _URL, _KEY.jwk), outer_url=_URL)
    assert binding.kid == (kid or "x")


def test_ac14_key_identifiers() -> None:
    """Row AC14: digits and letters; neither it nor the key can be taken for an option of a program."""
    assert make_kid(bytes(range(246, 256))) == "f6f7f8f9fafbfcfdfeff"
    assert key_text(b"\xfb" * 64) is None
    assert key_text(_SECRET) == b64(_SECRET)
