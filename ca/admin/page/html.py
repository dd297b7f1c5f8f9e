"""The page itself: one HTML document without scripts or outside assets, made anew for each request."""

import base64
import hashlib
from html import escape

from ca.admin.output import distance, moment, plain
from ca.admin.page.watch import View
from ca.admin.status import Section, sections

_REFRESH_S = 10
_CLASSES = {
    "ok": "good", "active": "good", "standby": "quiet", "-": "quiet",
    "stuck": "bad", "missing": "bad", "old": "bad", "expired": "bad",
}
_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1b1f24; --quiet: #667080; --line: #e3e6ea;
  --good: #1a7f4b; --good-ground: #e3f4ea; --bad: #b3261e; --bad-ground: #fbe9e7; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --card: #1d2125; --ink: #e6e8ea; --quiet: #98a2ad;
  --line: #2d3339; --good: #5fcf95; --good-ground: #17301f; --bad: #ff8f85; --bad-ground: #3b1d1b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; margin-bottom: 1rem; }
h1 { font-size: 1.4rem; margin: 0; }
header p { margin: 0; color: var(--quiet); font-size: .9rem; }
.verdict { border-radius: .6rem; padding: .8rem 1.1rem; margin-bottom: 1.25rem; font-weight: 600; }
.verdict.good { background: var(--good-ground); color: var(--good); }
.verdict.bad { background: var(--bad-ground); color: var(--bad); }
.verdict ul { margin: .4rem 0 0; padding-left: 1.2rem; font-weight: 400; color: var(--ink); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem;
  margin-bottom: 1.25rem; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem 1rem; }
.figure b { display: block; font-size: 1.55rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.figure span { color: var(--quiet); font-size: .85rem; }
.cards { columns: 2 32rem; column-gap: 1rem; }
section { break-inside: avoid; background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem 1rem .6rem; margin-bottom: 1rem; overflow-x: auto; }
h2 { font-size: .95rem; margin: 0 0 .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--quiet); font-size: .8rem; padding: .15rem .75rem .3rem 0; }
td { padding: .3rem .75rem .3rem 0; border-top: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
th { white-space: nowrap; }
.right { text-align: right; white-space: nowrap; }
.good { color: var(--good); }
.bad { color: var(--bad); font-weight: 600; }
.quiet { color: var(--quiet); }
"""
# The style is the only thing that the document may load, named by its digest; nothing may frame it or post from it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def page(view: View, *, policy: str, base_url: str) -> str:
    """The whole document."""
    body = [_header(view, policy, base_url), _verdict(view)]
    if view.status is not None:
        body.append(_figures(view))
        body.append('<div class="cards">' + "".join(_section(section) for section in sections(view.status)) + "</div>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{_REFRESH_S}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{'degraded' if view.reasons else 'ok'} · Chancery</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n")


def _header(view: View, policy: str, base_url: str) -> str:
    seen = moment(view.status.looked_at) if view.status else "never"
    return (f"<header><h1>Chancery</h1><p>{_text(base_url)} · {_text(policy)} policy · database seen {seen} · "
            f"refreshes every {_REFRESH_S} s</p></header>")


def _verdict(view: View) -> str:
    if not view.reasons:
        return '<div class="verdict good">Everything is working</div>'
    items = "".join(f"<li>{_text(reason.text)}</li>" for reason in view.reasons)
    count = "1 thing needs" if len(view.reasons) == 1 else f"{len(view.reasons)} things need"
    return f'<div class="verdict bad">Degraded: {count} attention<ul>{items}</ul></div>'


def _figures(view: View) -> str:
    assert view.status is not None  # noqa: S101 - the only caller asked
    facts = view.status.facts
    about = "" if facts.certificates.exact else "≈ "
    figures = [
        (f"{facts.certificates.last_24_h:,}", "certificates signed in 24 h"),
        (f"{about}{facts.certificates.stored:,}", "certificates stored"),
        (f"{sum(queue.depth for queue in facts.queues):,}", "waiting in queues"),
        ("never" if view.maintained_at is None else distance(view.maintained_at, view.at),
         "last upkeep of the database"),
    ]
    return '<div class="figures">' + "".join(
        f'<div class="figure"><b>{_text(number)}</b><span>{_text(name)}</span></div>' for number, name in figures
    ) + "</div>"


def _section(section: Section) -> str:
    head = "".join(f'<th scope="col"{_right(column.right)}>{_text(column.title)}</th>' for column in section.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td{_right(column.right)}>{_cell(text)}</td>"
                         for column, text in zip(section.columns, row, strict=True)) + "</tr>"
        for row in section.rows)
    return (f"<section><h2>{_text(section.title)}</h2><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table></section>")


def _right(is_right: bool) -> str:
    return ' class="right"' if is_right else ""


def _cell(text: str) -> str:
    kind = _CLASSES.get(text.split(" ", 1)[0].rstrip(":"))
    return f'<span class="{kind}">{_text(text)}</span>' if kind else _text(text)


def _text(value: str) -> str:
    return escape(plain(value))
