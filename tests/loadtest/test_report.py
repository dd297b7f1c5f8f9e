"""The arithmetic of the report: percentiles, ratios, targets, and a file that any program reads."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadtest.report import Breakdown, Report, Row, median, percentile
from loadtest.targets import Target

_AT_LEAST_ONE = Target(of="ratio", sense="at least", bound=1.0)
_AT_MOST_250 = Target(of="value", sense="at most", bound=250.0)


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1), st.floats(min_value=0.01, max_value=1))
def test_percentile_is_one_of_the_values_and_covers_its_share(values: list[float], share: float) -> None:
    """Nearest rank: at least `share` of the values are not above it, and it is a value that was measured."""
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < max(1.0, share * len(values) + 1e-9)


def test_percentiles_of_a_hundred() -> None:
    """The ninety-ninth of 1..100 is 99."""
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]


def test_nothing_measured_is_no_figure() -> None:
    """A median of nothing is None, and a round without a figure does not count in it."""
    assert math.isnan(percentile([], 0.5))
    assert median([]) is None
    assert median([math.nan]) is None
    assert median([1.0, math.nan, 3.0, 2.0]) == 2.0


@pytest.mark.parametrize(("value", "peer", "target", "ratio", "reached"), [
    (200.0, 100.0, _AT_LEAST_ONE, 2.0, True),
    (100.0, 100.0, _AT_LEAST_ONE, 1.0, True),
    (99.0, 100.0, _AT_LEAST_ONE, 0.99, False),
    (99.0, None, _AT_LEAST_ONE, None, None),
    (None, 100.0, _AT_LEAST_ONE, None, None),
    (99.0, 0.0, _AT_LEAST_ONE, None, None),
    (250.0, None, _AT_MOST_250, None, True),
    (251.0, None, _AT_MOST_250, None, False),
    (251.0, None, None, None, None),
])
def test_ratio_and_target(value: float | None, peer: float | None, target: Target | None, ratio: float | None,
                          reached: bool | None) -> None:
    """A target that could not be measured is neither reached nor missed."""
    row = Row(scenario="s", figure="f", value=value, unit="", peer="p", peer_value=peer, target=target)
    assert row.ratio == ratio
    assert row.reached is reached


def test_report_file_is_json_and_the_table_shows_every_row(tmp_path: Path) -> None:
    """What is not a number is null, and nothing that was added is lost."""
    report = Report()
    report.add(Row(scenario="acme", figure="orders/s", value=120.0, unit="", peer="Pebble", peer_value=100.0,
                   target=_AT_LEAST_ONE))
    report.add(Row(scenario="acme", figure="p99", value=math.nan, unit="ms"))
    report.breakdowns.append(Breakdown(title="where", headings=("what", "ms"), rows=[("[wfe]", "1.0")]))
    report.note("twice")
    report.note("twice")
    report.errors.append("one [error]")
    path = report.write(tmp_path / "new", "acme")
    found = json.loads(path.read_text("utf-8"))
    assert found["rows"][0]["ratio"] == 1.2
    assert found["rows"][0]["reached"] is True
    assert found["rows"][1]["value"] is None
    assert found["notes"] == ["twice"]
    console = Console(record=True, width=150, file=(tmp_path / "shown").open("w", encoding="utf-8"))
    report.show(console)
    shown = console.export_text()
    for text in ("orders/s", "Pebble: 100", "1.20", "≥ 1 ×", "yes", "[wfe]", "one [error]"):
        assert text in shown
