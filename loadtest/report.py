"""Rows of figures: kept, printed as a table, written as JSON."""

import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.targets import Target


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that `share` of the values do not exceed. NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float | None:
    """The median of what was measured; None of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure; `peer_value` is the peer's in the same run, where there is one."""

    scenario: str
    figure: str
    value: float | None
    unit: str
    peer: str = ""
    peer_value: float | None = None
    target: Target | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours by the peer's."""
        if self.value is None or not self.peer_value:
            return None
        return self.value / self.peer_value

    @property
    def reached(self) -> bool | None:
        """None without a target, or when it could not be measured."""
        return None if self.target is None else self.target.reached(self.value, self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """A table of its own below the figures: where something goes."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(slots=True, kw_only=True)
class Report:
    """What one command measured. `errors` decide the exit code; a target that is missed does not."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    rows: list[Row] = field(default_factory=list)
    breakdowns: list[Breakdown] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Keeps one figure."""
        self.rows.append(row)

    def note(self, text: str) -> None:
        """Keeps a sentence that the reader of the table needs, once."""
        if text not in self.notes:
            self.notes.append(text)

    def table(self) -> Table:
        """For people."""
        table = Table(title="Chancery under load", title_justify="left")
        for heading in ("scenario", "figure", "Chancery", "peer", "ratio", "target", "reached"):
            table.add_column(heading, justify="right" if heading in ("Chancery", "ratio") else "left",
                             overflow="fold")
        previous = ""
        for row in self.rows:
            if previous and row.scenario != previous:
                table.add_section()
            mark = {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}[row.reached]
            peer = "" if not row.peer else f"{row.peer}: {_number(row.peer_value)}"
            figure = f"{row.figure} [dim]({row.note})[/dim]" if row.note else row.figure
            table.add_row("" if row.scenario == previous else row.scenario, figure,
                          f"{_number(row.value)} {row.unit}".strip(), peer, "" if row.ratio is None
                          else f"{row.ratio:.2f}", "" if row.target is None else str(row.target), mark)
            previous = row.scenario
        return table

    def as_json(self) -> dict[str, object]:
        """For programs: the rows with their ratios, and everything that was measured on the way."""
        rows = [{**asdict(row), "ratio": row.ratio, "reached": row.reached,
                 "target": str(row.target) if row.target else None} for row in self.rows]
        return {"started_at": self.started_at.isoformat(timespec="seconds"), "machine": machine(), "rows": rows,
                "breakdowns": [asdict(one) for one in self.breakdowns], "notes": self.notes, "errors": self.errors,
                "details": self.details}

    def write(self, directory: Path, name: str) -> Path:
        """Writes `<time>-<name>.json` into the directory, which is made."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.started_at:%Y%m%dT%H%M%SZ}-{name}.json"
        path.write_text(json.dumps(_finite(self.as_json()), indent=1) + "\n", "utf-8")
        return path

    def show(self, console: Console) -> None:
        """Table, notes and errors."""
        console.print(self.table())
        for breakdown in self.breakdowns:
            console.print(_breakdown_table(breakdown))
        for text in self.notes:
            console.print(f"· {text}", style="dim", markup=False)
        for text in self.errors:
            console.print(f"error: {text}", style="red", markup=False)


def _breakdown_table(breakdown: Breakdown) -> Table:
    table = Table(title=breakdown.title, title_justify="left")
    for number, heading in enumerate(breakdown.headings):
        text = number == 0 or heading == "statement"
        table.add_column(heading, justify="left" if text else "right", overflow="fold")
    for row in breakdown.rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text("utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"cores": os.cpu_count(), "processor": model, "system": platform.platform(),
            "python": platform.python_version()}


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _finite(value: object) -> object:
    """JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
