"""Names that an operator has blocked: the name itself, and mostly every name below it."""

from collections.abc import Iterable, Mapping

from ca.pki.identifier import Identifier
from ca.pki.refusal import IdentifierRefusal, Refusal, RefusalReason

_DETAIL = "this CA does not issue for {}: it is blocked"


def lookup_names(identifiers: Iterable[Identifier]) -> list[str]:
    """Every name whose block would matter: the identifiers without `*.`, and all that they are below."""
    return sorted({name for identifier in identifiers for name in _ancestry(identifier)})


def require_unblocked(identifiers: Iterable[Identifier], blocked: Mapping[str, bool]) -> None:
    """Returns when none of the identifiers is blocked. `blocked`: name -> whether everything below it is, too.

    A blocked name also blocks its wildcard, which would be for names below it. Raises Refusal.
    """
    refused = tuple(IdentifierRefusal(identifier=identifier, reason=RefusalReason.REJECTED_IDENTIFIER,
                                      detail=_DETAIL.format(identifier.value))
                    for identifier in identifiers if _is_blocked(identifier, blocked))
    if refused:
        raise Refusal(RefusalReason.REJECTED_IDENTIFIER,
                      refused[0].detail if len(refused) == 1 else "some of the names are blocked", refused)


def _ancestry(identifier: Identifier) -> list[str]:
    if identifier.type == "ip":
        return [identifier.value]
    labels = identifier.base.split(".")
    return [".".join(labels[first:]) for first in range(len(labels))]


def _is_blocked(identifier: Identifier, blocked: Mapping[str, bool]) -> bool:
    if not blocked:
        return False
    itself, *above = _ancestry(identifier)
    return itself in blocked or any(blocked.get(name, False) for name in above)
