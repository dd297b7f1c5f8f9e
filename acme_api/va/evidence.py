"""What one validation asked, what came back, from which address and when: for operators, never for subscribers."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

_MAX_FACTS = 60
_MAX_TEXT_CHARS = 160
_MAX_LIST_ITEMS = 8
_MAX_TOTAL_CHARS = 6_000
_MAX_DEPTH = 4
_MAX_REMOTE_FACTS = 12
_MAX_NUMBER = 2**53


class Evidence:
    """A list of facts with the milliseconds since the beginning, bounded whatever the other side does.

    `phase` is what is being waited for now, in words that fit after "timed out while".
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._began_at = now()
        self._facts: list[dict[str, Any]] = []
        self._chars = 0
        self._left_out = 0
        self._perspectives: list[dict[str, Any]] = []
        self._about: dict[str, Any] = {}
        self.phase = "starting"
        self.waits_for_dns = False

    def set_about(self, *, rules: str, adn: str | None) -> None:
        """The rules that were followed and, where it is not the name itself, the Authorization Domain Name (BR 5.4.1,
        SC-099). The name, the method and the account are columns beside the evidence."""
        self._about = {"rules": rules} if adn is None else {"rules": rules, "adn": adn}

    def wait_for(self, phase: str, *, dns: bool = False) -> None:
        """Says what is waited for from now on; `dns` when a timeout there is the resolver's."""
        self.phase = phase
        self.waits_for_dns = dns

    def add(self, what: str, value: str, **facts: Any) -> None:
        """Records one fact, cut to size; the last ones are left out and counted when there are too many."""
        fact: dict[str, Any] = {"ms": round((self._now() - self._began_at).total_seconds() * 1000), what: _cut(value)}
        fact |= {name: _cut(fact_value) for name, fact_value in facts.items() if fact_value is not None}
        chars = len(repr(fact))
        if len(self._facts) >= _MAX_FACTS or self._chars + chars > _MAX_TOTAL_CHARS:
            self._left_out += 1
            return
        self._facts.append(fact)
        self._chars += chars

    def set_perspectives(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """What each remote perspective said; of several rounds the last one counts."""
        self._perspectives = [
            {name: _cut_deep(value, _MAX_DEPTH) for name, value in report.items() if value is not None}
            for report in reports]

    def to_json(self) -> dict[str, Any]:
        """The document that is stored beside the outcome."""
        document: dict[str, Any] = {
            **self._about, "began_at": self._began_at.isoformat(timespec="milliseconds"), "facts": self._facts}
        if self._left_out:
            document["left_out"] = self._left_out
        if self._perspectives:
            document["perspectives"] = self._perspectives
        return document


def _cut_deep(value: Any, depth: int) -> Any:
    """As `_cut`, for what another host sent: whatever it holds, it is stored printable and bounded."""
    if isinstance(value, Mapping):
        items = list(value.items())[:_MAX_LIST_ITEMS]
        return {_cut(str(name)): _cut_deep(each, depth - 1) for name, each in items} if depth else "(…)"
    if isinstance(value, list | tuple):
        return [_cut_deep(each, depth - 1) for each in value[:_MAX_REMOTE_FACTS]] if depth else "(…)"
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        return "(a number that is too large)"
    return _cut(value)


def _cut(value: Any) -> Any:
    """Printable ASCII of bounded length, so that no zone or server writes escapes into an operator's terminal."""
    if isinstance(value, str):
        if len(value) <= _MAX_TEXT_CHARS and value.isascii() and value.isprintable():
            return value
        shown = value[:_MAX_TEXT_CHARS].encode("ascii", "backslashreplace").decode()
        shown = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in shown)
        return shown + f" (… {len(value)} characters)" if len(value) > _MAX_TEXT_CHARS else shown
    if isinstance(value, list | tuple):
        items = [_cut(item) for item in value[:_MAX_LIST_ITEMS]]
        return [*items, f"(… {len(value)} items)"] if len(value) > _MAX_LIST_ITEMS else items
    return value
