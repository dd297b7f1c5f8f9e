"""A list of logs: until when certificates can be logged by it, what a newer one changes, which one is refused."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.ct_log_list import CtLog, LogList, LogListError
from ca.pki.ct_outlook import changes, covered_until, require_installable, shortfall, suffices
from ca.pki.ct_policy import complies

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LONGEST = 90 * DAY
_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def _log(number: int, operator: str = "Alder", *, tiled: bool = False, start: int | None = None,
         end: int | None = None, url: str = "") -> CtLog:
    """A log; `start` and `end` are days from now."""
    return CtLog(log_id=bytes((number,)) * 32, description=f"log{number}", operator=operator, key=_KEY, tiled=tiled,
                 url=url or f"https://log{number}.example/",
                 not_after_from=None if start is None else NOW + start * DAY,
                 not_after_before=None if end is None else NOW + end * DAY)


def _list(*logs: CtLog, age: timedelta = timedelta()) -> LogList:
    return LogList(made_at=NOW - age, logs={log.log_id: log for log in logs})


_SOME_LOGS = st.lists(
    st.builds(lambda operator, tiled, start, days: (operator, tiled, start, None if days is None else start + days),
              st.sampled_from(["Alder", "Birch", "Cedar"]), st.booleans(), st.integers(-200, 200),
              st.one_of(st.none(), st.integers(1, 300))), max_size=6)


@given(_SOME_LOGS, st.sampled_from([2, 3]))
def test_enough_is_what_the_policy_can_choose_from(
    drawn: list[tuple[str, bool, int, int | None]], needed: int
) -> None:
    """`suffices` says yes exactly when some set of the logs complies."""
    logs = [_log(number, operator, tiled=tiled, start=start, end=end)
            for number, (operator, tiled, start, end) in enumerate(drawn)]
    sets: Sequence[tuple[CtLog, ...]] = list(combinations(logs, needed))
    assert suffices(logs, needed) is any(complies(chosen, needed=needed, candidates=logs) for chosen in sets)


@given(_SOME_LOGS)
def test_covered_until_is_the_first_day_without(drawn: list[tuple[str, bool, int, int | None]]) -> None:
    """Day by day: before it enough logs take a certificate that ends then, at it too few do."""
    logs = _list(*(_log(number, operator, tiled=tiled, start=start, end=end)
                   for number, (operator, tiled, start, end) in enumerate(drawn)))
    until = covered_until(logs, NOW)
    days = range(600)
    bad = [each for each in days if not suffices(logs.candidates(NOW + each * DAY))]
    assert (until is None and not bad) or until == NOW + bad[0] * DAY


def test_a_list_that_runs_out() -> None:
    """Shards of two operators end in half a year: until then, minus the life of the longest profile, all is well."""
    logs = _list(_log(1, end=40), _log(2, "Birch", end=40), _log(3, start=40, end=180),
                 _log(4, "Birch", start=40, end=200))
    assert covered_until(logs, NOW) == NOW + 180 * DAY
    assert shortfall(logs, now=NOW, longest=LONGEST) is None
    assert shortfall(logs, now=NOW + 89 * DAY, longest=LONGEST) is None
    short_of = shortfall(logs, now=NOW + 90 * DAY, longest=LONGEST)
    assert short_of == ("certificates that end at or after 2027-05-24 cannot be logged: 1 logs of 1 operators take "
                        "them, and 2 of 2 are needed")


def test_changes() -> None:
    """New, gone, and changed with what was before; nothing for the same logs, all new without an old list."""
    old = _list(_log(1), _log(2, "Birch", end=40), _log(3, "Cedar"))
    new = _list(_log(1), _log(2, "Birch", end=50, url="https://other.example/"), _log(4, "Cedar"))
    assert [(change.kind, change.log.description, change.detail) for change in changes(old, new)] == [
        ("changed", "log2", "URL was https://log2.example/, before was 2027-01-04"), ("gone", "log3", ""),
        ("new", "log4", "")]
    assert changes(old, old) == ()
    assert {change.kind for change in changes(None, new)} == {"new"}


@pytest.mark.parametrize(("new", "fault"), [
    (_list(_log(1), _log(2, "Birch"), age=71 * DAY), "more than 70 days old"),
    (_list(_log(1), _log(2, "Birch"), age=-2 * DAY), "that is in the future"),
    (_list(_log(1), _log(2, "Birch"), age=6 * DAY), "older than the one that is installed"),
    (_list(_log(1), _log(2)), "cannot be logged: 2 logs of 1 operators"),
    (_list(_log(1), _log(2, "Birch", end=90)), "at or after 2027-02-23 cannot be logged: 1 logs"),
    (_list(), "0 logs of 0 operators"),
], ids=["old", "future", "backwards", "one-operator", "a-shard-ends", "none"])
def test_lists_that_are_not_installed(new: LogList, fault: str) -> None:
    """Each for its reason; so that a mistake of the publisher does not stop all issuance."""
    with pytest.raises(LogListError, match=fault):
        require_installable(new, _list(age=5 * DAY), now=NOW, longest=LONGEST)


def test_lists_that_are_installed() -> None:
    """A newer one, the same one again, and any good one where none was."""
    good = _list(_log(1), _log(2, "Birch"), age=5 * DAY)
    require_installable(good, good, now=NOW, longest=LONGEST)
    require_installable(good, None, now=NOW, longest=LONGEST)
    require_installable(_list(_log(1), _log(2, "Birch", tiled=True)), good, now=NOW, longest=LONGEST)
