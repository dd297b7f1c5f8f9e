"""How many network perspectives have to see what the primary one saw (BR 3.2.2.9; row MP1).

The validation authority decides by it, and the CA judges by it again what the validation authority stored: so a
validation authority that was configured down to fewer perspectives shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

# From when on how many remote perspectives are the least (BR 3.2.2.9).
_SCHEDULE: Final = (
    (datetime(2025, 9, 15, tzinfo=UTC), 2),
    (datetime(2026, 3, 15, tzinfo=UTC), 3),
    (datetime(2026, 6, 15, tzinfo=UTC), 4),
    (datetime(2026, 12, 15, tzinfo=UTC), 5),
)
_LEAST_RIRS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Corroboration:
    """How a validation was confirmed: remote perspectives asked, those that saw the same, and how many regional
    Internet registries' service regions the latter are in."""

    asked: int
    corroborated: int
    rirs: int


ALONE: Final = Corroboration(asked=0, corroborated=0, rirs=0)
"""The primary perspective saw it, and nobody else was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorroborationRule:
    """The least that a corroboration has to be. All zero: the primary perspective is enough."""

    least_asked: int
    least_corroborated: int
    least_rirs: int


def rule_at(moment: datetime, *, public: bool, least_corroborated: int = 0) -> CorroborationRule:
    """What holds for a validation made at `moment`; an operator may ask for more corroborations than the BR."""
    if not public:
        return CorroborationRule(least_asked=0, least_corroborated=least_corroborated, least_rirs=0)
    least = max((number for since, number in _SCHEDULE if moment >= since), default=0)
    return CorroborationRule(least_asked=least, least_corroborated=least_corroborated,
                             least_rirs=_LEAST_RIRS if least else 0)


def next_change(moment: datetime) -> tuple[datetime, int] | None:
    """The next date at which more remote perspectives are needed, and how many."""
    return next(((since, number) for since, number in _SCHEDULE if since > moment), None)


def allowed_dissent(asked: int) -> int:
    """How many of the remote perspectives asked may fail to corroborate (the table of BR 3.2.2.9)."""
    if asked < 2:
        return 0
    return 1 if asked <= 5 else 2


def least_voices(rule: CorroborationRule) -> int:
    """What has at least to be corroborated under the rule, however many perspectives were asked."""
    return max(rule.least_asked - allowed_dissent(rule.least_asked), rule.least_corroborated)


def shortfall(corroboration: Corroboration, rule: CorroborationRule) -> str | None:
    """In what it is less than the rule, in words that follow "the validation"; None when it is enough."""
    asked, seen = corroboration.asked, corroboration.corroborated
    if asked < rule.least_asked:
        return f"was made with {asked} remote perspectives, where {rule.least_asked} are needed (BR 3.2.2.9)"
    least = max(asked - allowed_dissent(asked), rule.least_corroborated)
    if seen < least:
        return f"was corroborated by {seen} of {asked} remote perspectives, where {least} are needed"
    if corroboration.rirs < rule.least_rirs:
        return (f"was corroborated in {corroboration.rirs} regional Internet registries' regions, where "
                f"{rule.least_rirs} are needed (BR 3.2.2.9)")
    return None


def set_up_shortfall(
    rirs: Sequence[str], groups: Sequence[str], rule: CorroborationRule, *, public: bool
) -> str | None:
    """Why remote perspectives in these regions cannot satisfy the rule even when all of them confirm; None when they
    can. `groups` are their distance groups and the primary perspective's."""
    best = Corroboration(asked=len(rirs), corroborated=len(rirs), rirs=len(set(rirs)))
    missing = shortfall(best, rule)
    if missing is not None:
        return f"every validation {missing}"
    if public and len(groups) != len(set(groups)):
        return ("two perspectives have the same distance_group: those less than 500 km apart count as one "
                "(BR 3.2.2.9)")
    return None
