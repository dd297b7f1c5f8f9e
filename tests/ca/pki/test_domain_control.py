"""The right to issue, and each way in which it is missing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.corroboration import ALONE, Corroboration
from ca.pki.domain_control import (
    CaaCheck,
    DomainControl,
    Evidence,
    PerspectivePolicy,
    StaleCaa,
    Validation,
    require_domain_control,
)
from ca.pki.identifier import Identifier
from ca.pki.refusal import Refusal, RefusalReason

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
A, OTHER_ACCOUNT = b"account", b"another"


def _dns(value: str) -> Identifier:
    return Identifier(type="dns", value=value)


def _validation(name: str = "a.example", **changes: Any) -> Validation:
    base = Validation(
        authorization_id=b"1:" + name.encode(), account_id=A, identifier=_dns(name), wildcard=False, method="http-01",
        thumbprint=b"t", validated_at=NOW - HOUR, valid_until=NOW + 29 * DAY, caa_checked_at=NOW - HOUR)
    return replace(base, **changes)


def _evidence(*validations: Validation, names: tuple[Identifier, ...] = (_dns("a.example"),),
              checks: tuple[CaaCheck, ...] = (), deactivated: tuple[bytes, ...] = (),
              ordered_at: datetime = NOW - 300 * DAY) -> Evidence:
    return Evidence(account_id=A, identifiers=names, validations=validations, caa_checks=checks,
                    deactivated=deactivated, ordered_at=ordered_at, requested_at=NOW - timedelta(minutes=1))


def _refusal(evidence: Evidence, now: datetime = NOW) -> Refusal:
    with pytest.raises(Refusal) as refused:
        require_domain_control(evidence, now)
    return refused.value


def test_every_name_covered() -> None:
    """Name, wildcard and address, each by its own validation."""
    plain = _validation()
    wildcard = _validation(wildcard=True, method="dns-01", authorization_id=b"w")
    address = _validation(identifier=Identifier(type="ip", value="192.0.2.1"), authorization_id=b"i",
                          caa_checked_at=None)
    names = (_dns("a.example"), _dns("*.a.example"), Identifier(type="ip", value="192.0.2.1"))
    assert require_domain_control(_evidence(address, wildcard, plain, names=names), NOW) == DomainControl(
        validations=(plain, wildcard, address), stale_caa=())


@pytest.mark.parametrize("changes", [
    {"account_id": OTHER_ACCOUNT},
    {"identifier": _dns("b.example")},
    {"identifier": _dns("example")},
    {"identifier": Identifier(type="ip", value="a.example")},
    {"wildcard": True},
    {"wildcard": True, "method": "dns-01"},
    {"method": "unknown-01"},
    {"method": "dns-persist-01"},
    {"valid_until": NOW},
    {"valid_until": NOW - HOUR},
    {"validated_at": NOW - 200 * DAY, "valid_until": NOW + 300 * DAY},
], ids=str)
def test_what_does_not_cover_a_name(changes: dict[str, Any]) -> None:
    """Another account's, another name's, a wildcard's, an expired or too old validation gives no right."""
    refusal = _refusal(_evidence(_validation(**changes)))
    assert refusal.reason is RefusalReason.NOT_AUTHORIZED
    assert [part.identifier.value for part in refusal.subproblems] == ["a.example"]


@pytest.mark.parametrize("method", ["http-01", "tls-alpn-01"])
def test_wildcards_need_dns(method: str) -> None:
    """RU2: what one server showed says nothing about the names below."""
    wanted = (_dns("*.a.example"),)
    assert _refusal(_evidence(_validation(wildcard=True, method=method), names=wanted)).subproblems
    assert _refusal(_evidence(_validation(method="dns-01"), names=wanted)).subproblems
    require_domain_control(_evidence(_validation(wildcard=True, method="dns-01"), names=wanted), NOW)


@pytest.mark.parametrize("wildcard", [False, True])
def test_x1_persistent_records_need_the_operators_word(wildcard: bool) -> None:
    """X1, DP3: without it a stored validation by dns-persist-01 gives no right, with it also to a wild card."""
    evidence = _evidence(_validation(wildcard=wildcard, method="dns-persist-01"),
                         names=(_dns("*.a.example" if wildcard else "a.example"),))
    assert _refusal(evidence).reason is RefusalReason.NOT_AUTHORIZED
    require_domain_control(replace(evidence, persist=True), NOW)


@pytest.mark.parametrize(("age", "covers"), [(10 * DAY - HOUR, True), (10 * DAY, False), (11 * DAY, False)])
def test_dp3_ru1_persistent_records_hold_for_ten_days(age: timedelta, covers: bool) -> None:
    """DP3, RU1: ten days, whatever the validation was stored with; other methods hold for longer."""
    validation = _validation(method="dns-persist-01", validated_at=NOW - age, caa_checked_at=NOW)
    if covers:
        require_domain_control(replace(_evidence(validation), persist=True), NOW)
    else:
        _refusal(replace(_evidence(validation), persist=True))
    require_domain_control(_evidence(replace(validation, method="dns-account-01")), NOW)


def test_addresses_are_not_validated_by_dns() -> None:
    """IP4: dns-01 is never a proof for an address."""
    address = Identifier(type="ip", value="192.0.2.1")
    assert _refusal(_evidence(_validation(identifier=address, method="dns-01"), names=(address,))).subproblems


def test_an_ended_authorization_gives_no_right() -> None:
    """AZ5: deactivation by the subscriber, even after the order was ready."""
    validation = _validation()
    assert _refusal(_evidence(validation, deactivated=(validation.authorization_id,))).subproblems


def test_missing_names_are_all_told() -> None:
    """P3: one refusal, a subproblem per name, none for the names that are fine."""
    names = (_dns("a.example"), _dns("b.example"), _dns("c.example"))
    refusal = _refusal(_evidence(_validation(), names=names))
    assert [part.identifier.value for part in refusal.subproblems] == ["b.example", "c.example"]
    assert "some names" in refusal.detail


@pytest.mark.parametrize(("now", "age", "covers"), [
    (datetime(2027, 3, 14, 23, tzinfo=UTC), 150 * DAY, True), (datetime(2027, 3, 15, tzinfo=UTC), 150 * DAY, False),
    (datetime(2029, 3, 14, 23, tzinfo=UTC), 11 * DAY, True), (datetime(2029, 3, 15, tzinfo=UTC), 11 * DAY, False),
    (datetime(2029, 3, 15, tzinfo=UTC), 9 * DAY, True),
])
def test_reuse_shrinks_with_the_schedule(now: datetime, age: timedelta, covers: bool) -> None:
    """RU1: the limit counts at signing, whatever the validation was stored with."""
    validation = _validation(validated_at=now - age, valid_until=now + 300 * DAY, caa_checked_at=now)
    if covers:
        require_domain_control(_evidence(validation), now)
    else:
        _refusal(_evidence(validation), now)


def _check(age: timedelta, refusal: RefusalReason | None = None) -> CaaCheck:
    return CaaCheck(authorization_id=b"1:a.example", checked_at=NOW - age, refusal=refusal, detail="because")


@pytest.mark.parametrize(("at_validation", "checks", "stale"), [
    (8 * HOUR, (), False),
    (8 * HOUR + timedelta(seconds=1), (), True),
    (None, (), True),
    (9 * HOUR, (_check(HOUR),), False),
    (9 * HOUR, (_check(9 * HOUR),), True),
    (None, (_check(timedelta(seconds=1)),), False),
    # Forbidden for an earlier request: the records may have changed, so they are asked again.
    (2 * HOUR, (_check(HOUR, RefusalReason.CAA_FORBIDS),), True),
    (9 * HOUR, (_check(3 * DAY, RefusalReason.CAA_FORBIDS),), True),
    (9 * HOUR, (_check(HOUR, RefusalReason.CAA_FORBIDS), _check(timedelta(seconds=5))), False),
    # Another authorization's check says nothing.
    (9 * HOUR, (replace(_check(HOUR), authorization_id=b"other"),), True),
], ids=str)
def test_caa_is_looked_at_again(at_validation: timedelta | None, checks: tuple[CaaCheck, ...], stale: bool) -> None:
    """CA9: after eight hours, and whenever the last word was a no to somebody else's request."""
    validation = _validation(caa_checked_at=None if at_validation is None else NOW - at_validation)
    control = require_domain_control(_evidence(validation, checks=checks), NOW)
    assert control.stale_caa == ((StaleCaa(authorization_id=validation.authorization_id),) if stale else ())


@pytest.mark.parametrize(("checked_ago", "check", "stale"), [
    (HOUR, None, True), (timedelta(minutes=10), None, False), (HOUR, timedelta(minutes=10), False),
    (HOUR, timedelta(minutes=40), True)])
def test_ca9_an_order_looks_at_caa_for_itself(
    checked_ago: timedelta, check: timedelta | None, stale: bool
) -> None:
    """CA9: a look that was made for an earlier order, half an hour before this one, does not count for it."""
    validation = _validation(caa_checked_at=NOW - checked_ago)
    checks = () if check is None else (_check(check),)
    evidence = _evidence(validation, checks=checks, ordered_at=NOW - timedelta(minutes=30))
    wanted = (StaleCaa(authorization_id=validation.authorization_id),) if stale else ()
    assert require_domain_control(evidence, NOW).stale_caa == wanted


def test_caa_refuses() -> None:
    """A check that was made for this request and forbids, or could not be made, is the answer."""
    for reason in (RefusalReason.CAA_FORBIDS, RefusalReason.DNS_FAILED):
        refusal = _refusal(_evidence(_validation(), checks=(_check(timedelta(seconds=5), reason),)))
        assert refusal.reason is reason
        assert refusal.detail == "because"
        assert refusal.subproblems[0].identifier.value == "a.example"


def _above(name: str = "a.example.com", **changes: Any) -> Validation:
    return _validation(name, **{"subdomains": True, "method": "dns-01"} | changes)


@pytest.mark.parametrize("name", ["www.a.example.com", "x.y.a.example.com", "*.a.example.com", "*.c.a.example.com"])
def test_su1_a_validation_for_subdomains_stands_for_what_is_below(name: str) -> None:
    """SU1: names and wildcards below it, by whole labels, where the operator lets it; CAA has to be looked at for the
    name itself, whatever was seen at the ancestor."""
    above = _above()
    evidence = replace(_evidence(above, names=(_dns(name),)), subdomains=True)
    assert require_domain_control(evidence, NOW) == DomainControl(
        validations=(above,), stale_caa=(StaleCaa(authorization_id=above.authorization_id, name=name),))
    _refusal(replace(evidence, subdomains=False))


@pytest.mark.parametrize("changes", [
    {"subdomains": False}, {"method": "http-01"}, {"method": "tls-alpn-01"}, {"method": "dns-persist-01"},
    {"wildcard": True}, {"account_id": OTHER_ACCOUNT}, {"valid_until": NOW}, {"validated_at": NOW - 200 * DAY},
    {"identifier": _dns("b.a.example.com")}, {"identifier": _dns("xample.com")}, {"identifier": _dns("com")},
    {"identifier": _dns("w.a.example.com")}, {"identifier": Identifier(type="ip", value="a.example.com")}], ids=str)
def test_su1_what_does_not_stand_for_what_is_below(changes: dict[str, Any]) -> None:
    """SU1, RU2: an ordinary validation, one of a server's content, one for a wildcard, another account's, an old one,
    one for another name, or for a public suffix: whatever an order points to."""
    refusal = _refusal(replace(_evidence(_above(**changes), names=(_dns("www.a.example.com"),)), subdomains=True))
    assert refusal.reason is RefusalReason.NOT_AUTHORIZED


def test_su1_nobody_speaks_for_a_public_suffix() -> None:
    """SU1: neither of the ICANN section nor of the private one, even if the VA had stored it."""
    for suffix, name in (("co.uk", "a.co.uk"), ("github.io", "a.github.io"), ("com", "*.a.com")):
        _refusal(replace(_evidence(_above(suffix), names=(_dns(name),)), subdomains=True))


def test_su1_an_ended_authorization_ends_for_all_below() -> None:
    """SU1, AZ5: deactivated once, it stands for no name any more."""
    above = _above()
    _refusal(replace(_evidence(above, names=(_dns("www.a.example.com"), _dns("x.a.example.com")),
                               deactivated=(above.authorization_id,)), subdomains=True))


def test_su1_caa_is_each_names_own() -> None:
    """SU1, CA9: what was seen for one name says nothing about another, or about the ancestor; each forbids for itself.
    """
    above = _above(caa_checked_at=NOW)
    names = (_dns("a.example.com"), _dns("www.a.example.com"), _dns("*.www.a.example.com"))

    def seen(name: str, refusal: RefusalReason | None = None) -> CaaCheck:
        return CaaCheck(authorization_id=above.authorization_id, name=name, checked_at=NOW, refusal=refusal)

    evidence = replace(_evidence(above, names=names, checks=(seen("www.a.example.com"),)), subdomains=True)
    assert [each.name for each in require_domain_control(evidence, NOW).stale_caa] == ["*.www.a.example.com"]
    both = replace(evidence, caa_checks=(*evidence.caa_checks, seen("*.www.a.example.com")))
    assert require_domain_control(both, NOW).stale_caa == ()
    with pytest.raises(Refusal) as refused:
        require_domain_control(replace(evidence, caa_checks=(
            seen("www.a.example.com"), seen("*.www.a.example.com", RefusalReason.CAA_FORBIDS))), NOW)
    assert [part.identifier.value for part in refused.value.subproblems] == ["*.www.a.example.com"]
    old = replace(evidence, caa_checks=tuple(
        replace(seen(name.value), checked_at=NOW - 9 * HOUR) for name in names[1:]))
    assert len(require_domain_control(old, NOW).stale_caa) == 2


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.booleans(), st.sampled_from([A, OTHER_ACCOUNT]),
                          st.integers(min_value=-300, max_value=0), st.integers(min_value=-10, max_value=10)),
                max_size=6), st.sampled_from(["a", "b", "*.a"]))
def test_no_right_without_a_fresh_validation(rows: list[tuple[str, bool, bytes, int, int]], name: str) -> None:
    """Whatever is stored: a right exists exactly when one row has account, name, wildcardness and both dates."""
    validations = [_validation(account_id=account, identifier=_dns(value), wildcard=wildcard, method="dns-01",
                               authorization_id=bytes((number,)), validated_at=NOW + validated * DAY,
                               valid_until=NOW + until * DAY)
                   for number, (value, wildcard, account, validated, until) in enumerate(rows)]
    identifier = _dns(name)
    right = any(value == identifier.base and wildcard == identifier.is_wildcard and account == A and validated > -200
                and until > 0 for value, wildcard, account, validated, until in rows)
    evidence = _evidence(*validations, names=(identifier,))
    if right:
        assert require_domain_control(evidence, NOW).validations[0].account_id == A
    else:
        _refusal(evidence)


FOUR_OF_FIVE = Corroboration(asked=5, corroborated=4, rirs=3)
PUBLIC = PerspectivePolicy(public=True)


def test_mp1_the_ca_counts_the_perspectives_again() -> None:
    """MP1: a validation that too few perspectives saw gives no right, and the refusal says so."""
    require_domain_control(_evidence(_validation(corroboration=FOUR_OF_FIVE)), NOW, PUBLIC)
    for less in (ALONE, Corroboration(asked=5, corroborated=3, rirs=3), Corroboration(asked=5, corroborated=5, rirs=1)):
        with pytest.raises(Refusal) as refused:
            require_domain_control(_evidence(_validation(corroboration=less)), NOW, PUBLIC)
        assert refused.value.reason is RefusalReason.NOT_CORROBORATED
        assert "a.example was" in refused.value.detail
    with pytest.raises(Refusal):
        require_domain_control(_evidence(_validation()), NOW, PerspectivePolicy(least_corroborated=1))


def test_mp1_the_rule_is_that_of_the_day_of_the_validation() -> None:
    """MP1: four remote perspectives were enough until 2026-12-15, and a validation of then is reused after it."""
    later = datetime(2026, 12, 20, tzinfo=UTC)
    four = Corroboration(asked=4, corroborated=4, rirs=2)
    checked = _validation(corroboration=four, caa_checked_at=None)
    check = CaaCheck(authorization_id=checked.authorization_id, checked_at=later, refusal=None,
                     corroboration=FOUR_OF_FIVE)
    assert not require_domain_control(_evidence(checked, checks=(check,)), later, PUBLIC).stale_caa
    with pytest.raises(Refusal):
        require_domain_control(_evidence(replace(checked, validated_at=later - HOUR), checks=(check,)), later, PUBLIC)


def test_mp1_a_look_at_caa_needs_its_perspectives_too() -> None:
    """MP1, CA9: one of before is made again; one made for this request that too few saw ends it, without a loop."""
    old = _validation(corroboration=FOUR_OF_FIVE, caa_checked_at=NOW - 9 * HOUR)
    before = CaaCheck(authorization_id=old.authorization_id, checked_at=NOW - HOUR, refusal=None)
    assert require_domain_control(_evidence(old, checks=(before,)), NOW, PUBLIC).stale_caa == (
        StaleCaa(authorization_id=old.authorization_id),)
    with pytest.raises(Refusal) as refused:
        require_domain_control(_evidence(old, checks=(replace(before, checked_at=NOW),)), NOW, PUBLIC)
    assert refused.value.reason is RefusalReason.NOT_CORROBORATED
    enough = replace(before, checked_at=NOW, corroboration=FOUR_OF_FIVE)
    assert not require_domain_control(_evidence(old, checks=(enough,)), NOW, PUBLIC).stale_caa
