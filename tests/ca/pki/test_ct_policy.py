"""Which SCTs are enough (spec/pki.md 3.2), and in which order logs are asked (3.4)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.ct_log_list import CtLog
from ca.pki.ct_policy import Precertificate, VerifiedSct, choose_scts, complies, submission_order
from ca.pki.policy import DAY_S
from ca.pki.sct import Sct

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def make_log(number: int, operator: str, *, tiled: bool = False) -> CtLog:
    """A log of an operator."""
    return CtLog(log_id=bytes([number]) * 32, description=f"log{number}", operator=operator, key=KEY,
                 url="https://l.example/", tiled=tiled, not_after_from=None, not_after_before=None)


A, A2 = make_log(1, "Alder"), make_log(2, "Alder", tiled=True)
B, B2 = make_log(3, "Birch"), make_log(4, "Birch", tiled=True)
C2 = make_log(5, "Cedar", tiled=True)
ALL = (A, A2, B, B2, C2)


def _scts(logs: Sequence[CtLog]) -> list[VerifiedSct]:
    return [VerifiedSct(sct=Sct(log_id=log.log_id, timestamp_ms=1, extensions=b"", signature_algorithm=3,
                                signature=b""), data=log.log_id, log=log) for log in logs]


@pytest.mark.parametrize(("length_s", "needed"), [
    (160 * 3600, 2), (90 * DAY_S, 2), (180 * DAY_S, 2), (180 * DAY_S + 1, 3), (200 * DAY_S, 3)])
def test_how_many(length_s: int, needed: int) -> None:
    """Two up to 180 days, three above."""
    assert Precertificate(tbs=b"", issuer_key_hash=b"", not_after=NOW, length_s=length_s).scts_needed == needed


@pytest.mark.parametrize(("logs", "needed", "candidates", "enough"), [
    ((A, B), 2, ALL, True), ((A, B2), 2, ALL, True), ((A2, B2), 2, ALL, False), ((A2, B2), 2, (A2, B2, C2), True),
    ((A, A2), 2, ALL, False), ((A,), 2, ALL, False), ((A, A), 2, ALL, False), ((A, B), 3, ALL, False),
    ((A, A2, B2), 3, ALL, True), ((A, A2, C2), 3, ALL, True), ((), 2, ALL, False)])
def test_what_complies(logs: Sequence[CtLog], needed: int, candidates: Sequence[CtLog], enough: bool) -> None:
    """Distinct logs, two operators, one of RFC 6962 when the list has one."""
    assert complies(logs, needed=needed, candidates=candidates) is enough


@pytest.mark.parametrize(("arrived", "chosen"), [
    ((A, B, C2), (A, B)), ((A, A2, B2), (A, B2)), ((A2, B2, C2, A), (B2, A)), ((B2, A2), None), ((A2, A), None)])
def test_the_first_set_in_the_order_of_arrival(arrived: Sequence[CtLog], chosen: Sequence[CtLog] | None) -> None:
    """What was there first is embedded, in its order, and no more than is needed."""
    found = choose_scts(_scts(arrived), needed=2, candidates=ALL)
    assert (None if found is None else tuple(each.log for each in found)) == chosen


@given(st.lists(st.sampled_from(ALL), max_size=5, unique=True), st.integers(2, 3))
def test_a_choice_complies_and_none_is_missed(logs: list[CtLog], needed: int) -> None:
    """A choice is made exactly when all that arrived could comply, and it complies by itself."""
    found = choose_scts(_scts(logs), needed=needed, candidates=ALL)
    if found is not None:
        assert complies([each.log for each in found], needed=needed, candidates=ALL)
        assert [logs.index(each.log) for each in found] == sorted(logs.index(each.log) for each in found)
    else:
        possible = (len(logs) >= needed and len({log.operator for log in logs}) > 1
                    and any(not log.tiled for log in logs))
        assert not possible


@given(st.binary(min_size=16, max_size=16), st.lists(st.sampled_from(ALL), min_size=2, max_size=5, unique=True))
def test_submission_order(random16: bytes, candidates: list[CtLog]) -> None:
    """Every log once; the first two comply by themselves if any two do, one of each kind when that is possible."""
    order = submission_order(candidates, random16)
    assert sorted(log.log_id for log in order) == sorted(log.log_id for log in candidates)
    pairs = [(one, other) for one in candidates for other in candidates
             if complies((one, other), needed=2, candidates=candidates)]
    if pairs:
        assert complies(order[:2], needed=2, candidates=candidates)
        if any(one.tiled != other.tiled for one, other in pairs):
            assert order[0].tiled != order[1].tiled


def test_every_log_comes_first_at_times() -> None:
    """The load is spread: with different random bytes different logs are asked first."""
    firsts: set[Any] = {log.log_id for number in range(200)
                        for log in submission_order(ALL, number.to_bytes(16, "big"))[:2]}
    assert len(firsts) == len(ALL)


def test_intervals() -> None:
    """`takes` counts the start in and the end out."""
    log = CtLog(log_id=b"", description="", operator="", key=KEY, url="", tiled=False, not_after_from=NOW,
                not_after_before=NOW + timedelta(days=1))
    assert [log.takes(NOW + timedelta(seconds=number)) for number in (-1, 0, 86_399, 86_400)] == [
        False, True, True, False]
