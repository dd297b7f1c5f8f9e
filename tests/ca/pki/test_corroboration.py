"""Promises of the corroboration rule: row MP1 and its dates."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.corroboration import ALONE, Corroboration, allowed_dissent, next_change, rule_at, shortfall


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(("before", "since", "needed"), [
    ("2026-03-14T23:59:59", "2026-03-15T00:00:00", 3), ("2026-06-14T23:59:59", "2026-06-15T00:00:00", 4),
    ("2026-12-14T23:59:59", "2026-12-15T00:00:00", 5)])
def test_mp1_the_dates(before: str, since: str, needed: int) -> None:
    """MP1: from each date on one remote perspective more is needed, by the second; the date before says so."""
    assert rule_at(_at(before), public=True).least_asked == needed - 1
    assert rule_at(_at(since), public=True).least_asked == needed
    assert next_change(_at(before)) == (_at(since), needed)


def test_mp1_nothing_is_needed_of_an_internal_ca() -> None:
    """MP1: the internal policy is content with the primary; no more dates come after the last one."""
    assert shortfall(ALONE, rule_at(_at("2027-01-01"), public=False)) is None
    assert next_change(_at("2027-01-01")) is None


@pytest.mark.parametrize(("asked", "allowed"), [(0, 0), (1, 0), (2, 1), (5, 1), (6, 2), (7, 2), (20, 2)])
def test_mp1_the_table(asked: int, allowed: int) -> None:
    """MP1: one non-corroboration with 2 to 5 remotes, two with 6 or more; a single remote has to agree."""
    assert allowed_dissent(asked) == allowed


@pytest.mark.parametrize(("asked", "corroborated", "rirs", "words"), [
    (3, 3, 3, "made with 3 remote perspectives, where 4 are needed"),
    (4, 2, 2, "corroborated by 2 of 4 remote perspectives, where 3 are needed"),
    (6, 3, 2, "corroborated by 3 of 6 remote perspectives, where 4 are needed"),
    (4, 4, 1, "corroborated in 1 regional"),
    (4, 3, 2, None), (5, 4, 2, None), (6, 4, 2, None)])
def test_mp1_the_public_rule_in_words(asked: int, corroborated: int, rirs: int, words: str | None) -> None:
    """MP1: number, quorum and two RIR regions; each shortfall says what is missing."""
    rule = rule_at(_at("2026-11-25"), public=True)
    said = shortfall(Corroboration(asked=asked, corroborated=corroborated, rirs=rirs), rule)
    assert said is None if words is None else words in str(said)


@given(asked=st.integers(0, 12), corroborated=st.integers(0, 12), rirs=st.integers(0, 5), days=st.integers(0, 2_000),
       least=st.integers(0, 5))
def test_more_corroboration_never_makes_it_less(
    asked: int, corroborated: int, rirs: int, days: int, least: int
) -> None:
    """Whatever satisfies the public rule satisfies the internal one, and one more voice or region never harms."""
    seen = min(asked, corroborated)
    moment = _at("2025-01-01") + timedelta(days=days)
    rule = rule_at(moment, public=True, least_corroborated=least)
    if shortfall(Corroboration(asked=asked, corroborated=seen, rirs=rirs), rule) is None:
        assert shortfall(Corroboration(asked=asked, corroborated=min(seen + 1, asked), rirs=rirs + 1), rule) is None
        assert shortfall(Corroboration(asked=asked, corroborated=seen, rirs=rirs),
                         rule_at(moment, public=False, least_corroborated=least)) is None
        assert seen >= least
