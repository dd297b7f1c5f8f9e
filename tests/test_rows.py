"""Every row of the ACME conformance checklist is shown by a test: its id stands in the docstring of one, or of what a
test does after every answer or every rule.

Rows are named as in the tests themselves: a letter or two for the subject, and a number.
"""

import ast
import re
from pathlib import Path
from typing import Final

_ROWS: Final = {
    "RFC 8555": "T1-14 J1-18 N1-11 P1-8 D1-4 AC1-17 OR1-18 FI1-11 AZ1-5 CH1-10 CE1-6 RV1-6",
    "extensions": "AR1-10 PR1-4 IP1-5 PA1-1 DA1-1 DP1-4 DV1-3 SU1-1 ST1-1 ON1-1 TK1-1 DT1-1",
    "clients": "CB1-9 SH1-5 L1-6 Z1-4 K1-3 M1-2 W1-2 U1-2 DH1-1 PO1-1 X1-3",
    "validation": "SF1-7 H1-5 DN1-5 TA1-5 CA1-11 MP1-2 RU1-2 NM1-10",
    "hostile inputs": "E1-102",
}
_AFTER_EACH: Final = ("_check", "everything_is_as_foretold")
# "Root X2" is no row.
_ID: Final = re.compile(r"(?<!oot )(?<!Demo )\b([A-Z]{1,3})([0-9]{1,3})\b(?:(?: to |-)(?:([A-Z]{1,3})([0-9]{1,3})\b))?")


def _checklist() -> set[str]:
    found = set()
    for rows in _ROWS.values():
        for part in rows.split():
            match = re.fullmatch(r"([A-Z]+)([0-9]+)-([0-9]+)", part)
            assert match is not None, part
            found |= {f"{match[1]}{number}" for number in range(int(match[2]), int(match[3]) + 1)}
    return found


def _shown() -> set[str]:
    """The ids in the docstrings of tests, ranges written out."""
    found = set()
    for path in Path(__file__).parent.rglob("*.py"):
        if path.name == Path(__file__).name:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not node.name.startswith("test_") and node.name not in _AFTER_EACH:
                continue
            for subject, first, last_subject, last in _ID.findall(ast.get_docstring(node) or ""):
                found |= {f"{subject}{number}" for number in range(
                    int(first), int(last if last_subject == subject else first) + 1)}
                if last:
                    found.add(f"{last_subject}{last}")
    return found


def test_every_row_has_a_test() -> None:
    """No row is without a test."""
    assert sorted(_checklist() - _shown()) == []
