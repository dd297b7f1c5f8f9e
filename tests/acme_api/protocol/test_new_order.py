"""newOrder: what may be ordered (rows OR2 to OR9, OR15, PR1 to PR3, NM, E53 to E67)."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from acme_api.protocol.authorization import AuthorizationFacts, Validation
from acme_api.protocol.new_order import OrderPolicy, parse_new_order
from acme_api.protocol.order import (
    ENTROPY_PER_NAME_BYTES,
    ENTROPY_PER_ORDER_BYTES,
    Lives,
    OrderPlan,
    OrderRequest,
    OrderStatus,
    ReusableAuthorization,
    order_object,
    order_status,
    plan_order,
)
from acme_api.protocol.problem import Problem
from ca.pki.identifier import Identifier, NamePolicy
from ca.pki.profile import offered_profiles

_NOW = datetime(2026, 11, 24, 2, 38, 0, 123_456, tzinfo=UTC)
_POLICY = OrderPolicy(names=NamePolicy(internal_suffixes=("*",), public=False), default_profile="classic")
_LIVES = Lives(order=timedelta(days=7), authorization=timedelta(days=5))
_BASE = "https://ca.example"


def _names(*names: str) -> list[dict[str, str]]:
    return [{"type": "dns", "value": name} for name in names]


def _order(identifiers: Any, **members: Any) -> OrderRequest:
    return parse_new_order({"identifiers": identifiers, **members}, _POLICY, _NOW)


def _refusal(identifiers: Any, **members: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        _order(identifiers, **members)
    return caught.value


@pytest.mark.parametrize("identifiers", [None, [], {}, ["a.b"], [None], [{}], [{"type": "dns"}], [{"value": "a.b"}],
                                         [{"type": "dns", "value": 1}], [{"type": "dns", "value": None}],
                                         [{"type": 1, "value": "a.b"}], [{"type": "dns", "value": {}}],
                                         _names(*(f"a{number}.example.com" for number in range(101)))])
def test_e53_identifiers_of_another_shape(identifiers: Any) -> None:
    """Rows OR2, E53."""
    problem = _refusal(identifiers)
    assert (problem.type, problem.status, problem.subproblems) == ("malformed", 400, ())


def test_e53_no_identifiers() -> None:
    """Row OR2: the member is missing."""
    with pytest.raises(Problem) as caught:
        parse_new_order({}, _POLICY, _NOW)
    assert caught.value.type == "malformed"


@pytest.mark.parametrize("kind", ["DNS", "", "uri", "email", "TNAuthList", "bundleEID", "__proto__"])
def test_e54_other_identifier_types(kind: str) -> None:
    """Rows OR3, E54."""
    problem = _refusal([{"type": kind, "value": "a.b"}])
    assert (problem.type, problem.status, len(problem.subproblems)) == ("unsupportedIdentifier", 400, 1)


@pytest.mark.parametrize("name", ["", ".", "a..example.com", "a.com.", "-a.com", "a_b.com", "a b.com", "a.com\n",
                                  "http://a.com", "a.com:80", "localhost", "com", "1.2.3.4", "0x7f.1", "*", "*.*.a.com",
                                  "f*.a.com", "b\u00fccher.com", "\u0430pple.com", "\u212a.com", "xn--.com",
                                  "\u3002.com", "a\0.com", "*.com"])
def test_or4_names_that_are_none(name: str) -> None:
    """Rows OR4, E55 to E59: malformed, with the identifier as it was written in the one subproblem (row P3)."""
    problem = _refusal(_names(name))
    assert (problem.type, problem.status) == ("malformed", 400)
    document = problem.to_json()
    assert "identifier" not in document
    assert document["subproblems"][0]["identifier"] == {"type": "dns", "value": name}


@pytest.mark.parametrize("name", ["*.co.uk", "co.uk", "foo.ck", "ab--c.com", "1.0.0.127.in-addr.arpa", "x.ip6.arpa"])
def test_or4_names_that_policy_refuses(name: str) -> None:
    """Rows OR4, E57, E59, E60: 403 rejectedIdentifier."""
    problem = _refusal(_names(name))
    assert (problem.type, problem.status) == ("rejectedIdentifier", 403)


def test_p3_all_faults_in_one_answer() -> None:
    """Row P3: rejectedIdentifier leads when it occurs, compound when it does not and types differ."""
    mixed = _refusal(_names("good.example.com", "a_b.com", "*.co.uk"))
    assert (mixed.type, mixed.status) == ("rejectedIdentifier", 403)
    assert [fault.type for fault in mixed.subproblems] == ["malformed", "rejectedIdentifier"]
    other = _refusal([*_names("a_b.com"), {"type": "uri", "value": "x"}])
    assert (other.type, len(other.subproblems)) == ("compound", 2)


def test_e63_many_faults_stay_one_small_answer() -> None:
    """Row E63: 60 bad names of 100 are 60 subproblems in at most 64 KiB, whatever the names are."""
    names = [f"a{number}.example.com" for number in range(40)] + [f"{number}_" + "\0" * 600 for number in range(60)]
    problem = _refusal(_names(*names))
    assert len(problem.subproblems) == 60
    longest = _refusal(_names(*(f"{number}_" + "a" * 250 + ".com" for number in range(100))))
    for answer in (problem, longest):
        assert len(json.dumps(answer.to_json(), ensure_ascii=False)) <= 65_536


def test_or7_normalised_once_in_order() -> None:
    """Rows OR7, NM10, E63: lower case, each once, in the order in which they were first named."""
    request = _order(_names("B.example.com", "a.example.com", "b.EXAMPLE.com", "*.b.example.com"))
    assert [each.value for each in request.identifiers] == ["b.example.com", "a.example.com", "*.b.example.com"]
    assert len(_order(_names(*["X.example.com", "x.Example.com"] * 50)).identifiers) == 1


@pytest.mark.parametrize(("profile", "kind"), [("nope", "invalidProfile"), ("../x", "invalidProfile"),
                                               ("A" * 10_240, "invalidProfile"), ("__class__", "invalidProfile"),
                                               (1, "malformed"), ({}, "malformed"), (None, "malformed")])
def test_pr2_other_profiles(profile: Any, kind: str) -> None:
    """Rows PR2, E65."""
    problem = _refusal(_names("a.example.com"), profile=profile)
    assert (problem.type, problem.status) == (kind, 400)
    assert len(problem.detail) < 300


def test_pr2_profiles_that_do_not_fit() -> None:
    """Row PR2: too many names for tlsserver, addresses in a profile that has none, a profile that is not offered."""
    names = _names(*(f"a{number}.example.com" for number in range(26)))
    assert _refusal(names, profile="tlsserver").type == "invalidProfile"
    assert len(_order(names, profile="classic").identifiers) == 26
    for profile in ("classic", "tlsserver"):
        assert _refusal([{"type": "ip", "value": "8.8.8.8"}], profile=profile).type == "invalidProfile"
    policy = replace(_POLICY, profiles=offered_profiles(["classic", "tlsserver"]))
    for members in ({"profile": "shortlived"}, {"identifiers": [{"type": "ip", "value": "8.8.8.8"}]}):
        with pytest.raises(Problem) as refused:
            parse_new_order({"identifiers": _names("a.example.com"), **members}, policy, _NOW)
        assert refused.value.type == "invalidProfile"


def test_ip1_addresses_without_a_profile_are_short_lived() -> None:
    """Rows IP1, PR3: clients that order an address ask for no profile, and get the one that has addresses."""
    for values in (["8.8.8.8"], ["2606:4700::1111", "a.example.com"]):
        order = _order([{"type": "dns" if "." in value and value[0] == "a" else "ip", "value": value}
                        for value in values])
        assert (order.profile, [each.value for each in order.identifiers]) == ("shortlived", values)


def test_pr3_default_profile() -> None:
    """Row PR3: none asked for, or an empty one, is the default."""
    assert _order(_names("a.example.com")).profile == "classic"
    assert _order(_names("a.example.com"), profile="").profile == "classic"
    assert _order(_names("a.example.com"), profile="tlsserver").profile == "tlsserver"


@pytest.mark.parametrize("members", [
    {"notAfter": "yesterday"}, {"notAfter": "2026-12-01T00:00:00"}, {"notAfter": "2026-02-30T00:00:00Z"},
    {"notAfter": "10000-01-01T00:00:00Z"}, {"notAfter": "2026-11-01T00:00:00Z"}, {"notAfter": 1}, {"notAfter": None},
    {"notAfter": "2126-11-24T00:00:00Z"}, {"notBefore": "2026-12-24T00:00:00Z"}, {"notBefore": "2020-01-01T00:00:00Z"},
    {"notBefore": "2026-11-25T00:00:00Z", "notAfter": "2026-11-24T12:00:00Z"}, {"notBefore": "9999-12-31T23:59:59Z"},
    {"notAfter": "2026-12-01T00:00:00.5Z"}, {"notAfter": "2026-12-01T00:00:00Z\n"},
    {"notBefore": "0001-01-01T00:00:00+23:00"},
    {"notAfter": "2026-12-01 00:00:00Z"}, {"notBefore": "", "notAfter": ""}, {"notAfter": "2026-12-01T24:00:00Z"},
])
def test_or5_dates_that_cannot_be_honoured(members: dict[str, Any]) -> None:
    """Rows OR5, E64: malformed."""
    problem = _refusal(_names("a.example.com"), **members)
    assert (problem.type, problem.status) == ("malformed", 400)


def test_or5_dates_that_can() -> None:
    """Row OR5: kept to the second, in UTC, and shown again."""
    request = _order(_names("a.example.com"), notBefore="2026-11-24T03:00:00.000+01:00",
                     notAfter="2026-12-24t00:00:00z")
    assert request.not_before == datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
    assert request.not_after == datetime(2026, 12, 24, tzinfo=UTC)
    shown = order_object(_BASE, _plan(request).order, _NOW)
    assert (shown["notBefore"], shown["notAfter"]) == ("2026-11-24T02:00:00Z", "2026-12-24T00:00:00Z")


def test_e67_members_that_are_not_the_clients() -> None:
    """Row E67: ignored."""
    assert _order(_names("a.example.com"), status="valid", authorizations=[], certificate="x", finalize="y")


def _plan(request: OrderRequest, reusable: dict[Identifier, ReusableAuthorization] | None = None) -> OrderPlan:
    entropy = os.urandom(ENTROPY_PER_ORDER_BYTES + len(request.identifiers) * ENTROPY_PER_NAME_BYTES)
    return plan_order(request, account_id=bytes(22), reusable=reusable or {}, now=_NOW, lives=_LIVES, entropy=entropy)


def test_or8_or9_one_authorization_an_identifier() -> None:
    """Rows OR8, OR9, CH2, CH10: its own authorization, its own tokens, dns-01 alone for a wildcard."""
    plan = _plan(_order(_names("b.example.com", "*.b.example.com")))
    plain, wildcard = plan.new_authorizations
    assert plan.order.authorization_ids == (plain.id, wildcard.id)
    assert (plain.identifier_value, plain.wildcard) == ("b.example.com", False)
    assert (wildcard.identifier_value, wildcard.wildcard) == ("b.example.com", True)
    assert [each.type for each in plain.challenges] == ["http-01", "dns-01", "tls-alpn-01", "dns-account-01"]
    assert [each.type for each in wildcard.challenges] == ["dns-01", "dns-account-01"]
    tokens = [each.token or "" for authorization in plan.new_authorizations for each in authorization.challenges]
    assert len(set(tokens)) == 6
    assert {len(token) for token in tokens} == {43}
    assert order_status(plan.order.facts, _NOW) is OrderStatus.PENDING


def test_ch2_ten_thousand_tokens_differ() -> None:
    """Row CH2."""
    request = _order(_names(*(f"a{number}.example.com" for number in range(100))))
    tokens = [each.token for _ in range(25) for authorization in _plan(request).new_authorizations
              for each in authorization.challenges]
    assert len(set(tokens)) == len(tokens) == 10_000


def test_or15_a_reused_authorization_makes_the_order_ready() -> None:
    """Row OR15: nothing new is stored for it, and the order is ready at once when all are reused."""
    request = _order(_names("a.example.com", "b.example.com"))
    valid = AuthorizationFacts(expires_at=_NOW, validation=Validation(
        challenge_type="http-01", validated_at=_NOW - timedelta(hours=1), valid_until=_NOW + timedelta(days=1),
        problem=None))
    first, second = request.identifiers
    one = _plan(request, {first: ReusableAuthorization(id=b"1", facts=valid)})
    assert one.order.authorization_ids[0] == b"1"
    assert [each.identifier_value for each in one.new_authorizations] == ["b.example.com"]
    assert order_status(one.order.facts, _NOW) is OrderStatus.PENDING
    both = _plan(request, {first: ReusableAuthorization(id=b"1", facts=valid),
                           second: ReusableAuthorization(id=b"2", facts=valid)})
    assert both.new_authorizations == ()
    assert order_object(_BASE, both.order, _NOW)["status"] == "ready"


def test_su1_ancestors_are_ignored_where_they_are_not_offered() -> None:
    """Row SU1: by default the member means nothing, whatever it holds."""
    for ancestor in ("example.com", "other.example", 1, None):
        request = _order([{"type": "dns", "value": "a.example.com", "ancestorDomain": ancestor}])
        assert request.ancestors == {}
        assert request.to_validate == request.identifiers


def test_su1_one_authorization_for_an_ancestor() -> None:
    """Row SU1: identifiers with one ancestor share it, with the ancestor itself wherever it stands; what can be reused
    is reused, and makes none; the first ancestor that is named for an identifier counts."""
    policy = replace(_POLICY, subdomains=True)
    wanted = [{"type": "dns", "value": "a.example.com", "ancestorDomain": "EXAMPLE.com"},
              {"type": "dns", "value": "*.b.example.com", "ancestorDomain": "example.com"},
              {"type": "dns", "value": "example.com"}, {"type": "dns", "value": "*.example.com"},
              {"type": "dns", "value": "A.example.com", "ancestorDomain": "example.com"}]
    for identifiers in (wanted, wanted[::-1]):
        request = parse_new_order({"identifiers": identifiers}, policy, _NOW)
        assert sorted(each.value for each in request.to_validate) == ["*.example.com", "example.com"]
        plan = _plan(request)
        assert sorted((each.identifier_value, each.wildcard, each.subdomains) for each in plan.new_authorizations) == [
            ("example.com", False, True), ("example.com", True, False)]
        assert len(plan.order.authorization_ids) == 4
        assert len(order_object(_BASE, plan.order, _NOW)["authorizations"]) == 2
    valid = ReusableAuthorization(id=b"1", facts=AuthorizationFacts(expires_at=_NOW))
    request = parse_new_order({"identifiers": wanted}, policy, _NOW)
    reused = _plan(request, {each: valid for each in request.identifiers if each.value != "example.com"})
    plain, = reused.new_authorizations
    assert (plain.identifier_value, plain.subdomains) == ("example.com", False)
