"""Cost against size as an SVG file: one small chart a figure, the number of certificates on a logarithmic axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

_WIDTH, _HEIGHT, _COLUMNS = 380, 240, 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 44, 34
_COLOURS = ("#1f6f8b", "#c0392b", "#7f8c8d")
_TEXT = 'font-family="sans-serif" font-size="11" fill="#333"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A named series of (size, value)."""

    name: str
    points: Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn in one frame; values from zero upwards."""

    title: str
    unit: str
    lines: Sequence[Line]


def write_svg(path: Path, heading: str, charts: Sequence[Chart]) -> None:
    """Draws the charts in two columns below the heading."""
    rows = -(-len(charts) // _COLUMNS)
    width, height = _COLUMNS * _WIDTH, rows * _HEIGHT + 40
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             f'viewBox="0 0 {width} {height}"><rect width="100%" height="100%" fill="white"/>',
             f'<text x="16" y="26" font-family="sans-serif" font-size="15" fill="#111">{escape(heading)}</text>']
    for number, chart in enumerate(charts):
        x, y = number % _COLUMNS * _WIDTH, number // _COLUMNS * _HEIGHT + 40
        parts.append(f'<g transform="translate({x},{y})">{_chart(chart)}</g>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", "utf-8")


def _chart(chart: Chart) -> str:
    lines = [Line(name=line.name, points=[point for point in line.points if math.isfinite(point[1])])
             for line in chart.lines]
    points = [point for line in lines for point in line.points]
    if not points:
        return f'<text x="{_LEFT}" y="20" {_TEXT}>{escape(chart.title)}: not measured</text>'
    low, high = math.log10(min(size for size, _ in points)), math.log10(max(size for size, _ in points))
    top = _round_up(max(value for _, value in points))

    def place(size: int, value: float) -> tuple[float, float]:
        share = (math.log10(size) - low) / (high - low) if high > low else 0.5
        return (round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1),
                round(_HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM), 1))

    parts = [f'<text x="{_LEFT}" y="16" {_TEXT} font-weight="bold">{escape(chart.title)}</text>']
    for tick in range(5):
        value = top * tick / 4
        _, y = place(points[0][0], value)
        parts.append(f'<line x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}" stroke="#ddd"/>'
                     f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end" {_TEXT}>{_short(value)}</text>')
    for size in sorted({size for size, _ in points}):
        x, _ = place(size, 0)
        parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle" {_TEXT}>{_short(size)}</text>')
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [place(*point) for point in line.points]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                     + " ".join(f"{x},{y}" for x, y in placed) + '"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(f'<text x="{_LEFT + number * 130}" y="32" {_TEXT}><tspan fill="{colour}">● </tspan>'
                     f'{escape(line.name)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="16" text-anchor="end" {_TEXT}>{escape(chart.unit)}</text>')
    return "".join(parts)


def _round_up(value: float) -> float:
    """The next number that begins with 1, 2, 4 or 8, so that quarters of it are readable."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value * (1 - 1e-9))


def _short(value: float) -> str:
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= bound:
            return f"{value / bound:g}{letter}"
    return f"{value:.3g}"
