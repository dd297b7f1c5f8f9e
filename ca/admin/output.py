"""How commands print: tables and facts for people, one JSON document for programs.

Everything that a subscriber or a DNS server could have chosen passes through `plain`, so that no text in the database
can move a cursor or colour an operator's terminal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Characters; a longer one is broken after all, and none of its kind moves everything else apart.
_MAX_WORD = 150
_LEAST_CELL = 12
_STYLES = {
    "valid": "green", "good": "green", "ok": "green", "yes": "green", "active": "green",
    "pending": "yellow", "ready": "yellow", "processing": "yellow", "unsigned": "yellow",
    "invalid": "red", "revoked": "red", "missing": "red", "degraded": "red", "deactivated": "red", "no": "red",
    "broken": "red", "late": "yellow",
    "expired": "dim", "standby": "dim",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table; `whole` is for what must never be cut or broken (serial numbers, ids)."""

    title: str
    whole: bool = False
    right: bool = False


def print_json(document: Mapping[str, object]) -> None:
    """One JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def console() -> Console:
    """The terminal of people: as wide as it is, 80 columns when there is none."""
    return Console(highlight=False, soft_wrap=False)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """A table that fits the terminal: long cells go on in the next line, whole ones stay whole. Where those leave no
    room for the others, the table is wider than the terminal rather than a letter a line."""
    rows = list(rows)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        justify: Literal["right", "left"] = "right" if column.right else "left"
        table.add_column(column.title, no_wrap=column.whole, overflow="fold", justify=justify)
    for row in rows:
        table.add_row(*[styled(cell) for cell in row])
    widths = [max((len(plain(row[place])) for row in rows), default=0) for place in range(len(columns))]
    _print(table, least_width=sum(
        max(len(column.title), width if column.whole else min(width, _LEAST_CELL)) + 2
        for column, width in zip(columns, widths, strict=True)))


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other; a value of several lines stays in its column. A value that is one word, a URL
    or a hash, is not broken, so that it can be copied, also where the terminal is narrow."""
    facts = list(facts)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(name, styled(value))
    longest = max((len(value) for _, value in facts if len(plain(value).split()) == 1 and len(value) <= _MAX_WORD),
                  default=0)
    _print(grid, least_width=max((len(name) for name, _ in facts), default=0) + 2 + longest + 2)


def print_line(text: str) -> None:
    """One sentence."""
    _print(styled(text))


def _print(what: Table | Text, *, least_width: int = 0) -> None:
    """Without the spaces that fill a line: they only disturb who copies from the terminal."""
    terminal = console()
    terminal.width = max(terminal.width, least_width)
    with terminal.capture() as captured:
        terminal.print(what)
    for line in captured.get().splitlines():
        click.echo(line.rstrip(), color=not terminal.no_color and terminal.is_terminal)


def styled(text: str) -> Text:
    """The text, coloured when it starts with the name of a state."""
    return Text(plain(text), style=_STYLES.get(text.split(" ", 1)[0].rstrip(",:"), ""))


def plain(text: str) -> str:
    """The text with every control and invisible character written out, line breaks excepted."""
    return "".join(character if character.isprintable() or character == "\n"
                   else character.encode("unicode_escape").decode("ascii") for character in text)


def moment(value: datetime | None) -> str:
    """A time for people, in UTC."""
    return "-" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def moment_json(value: datetime | None) -> str | None:
    """RFC 3339 in UTC with whole seconds, as ACME writes it."""
    return None if value is None else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(length: timedelta) -> str:
    """How long, in the one unit that says enough: '45 s', '12 min', '30 h', '89 d'."""
    seconds = abs(length.total_seconds())
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    if seconds < 259_200:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} d"


def hours(length: timedelta) -> str:
    """How long, where two times are compared of which `span` would give one in days: '96 h'."""
    return f"{length.total_seconds() / 3600:.0f} h"


def relative(value: datetime | None, now: datetime) -> str:
    """A time for people with its distance: '2026-11-24 03:01:02Z (2 h ago)'."""
    return "-" if value is None else f"{moment(value)} ({distance(value, now)})"


def distance(value: datetime, now: datetime) -> str:
    """How far away a time is: 'in 89 d', '2 h ago'."""
    length = span(value - now)
    return f"in {length}" if value > now else f"{length} ago"


def day(value: datetime, now: datetime) -> str:
    """A day for people with its distance: '2029-08-20 (in 1000 d)'."""
    return f"{value.astimezone(UTC):%Y-%m-%d} ({distance(value, now)})"


def count(number: int, noun: str) -> str:
    """'1 range', '1,234 ranges'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(value_bytes: int) -> str:
    """Bytes in the unit that says enough."""
    number = float(value_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
