"""Which authorizations would stand for identifiers: those of the names themselves, and of domains above (RFC 9444)."""

from collections.abc import Sequence
from typing import TypeAlias

from ca.pki.identifier import Identifier, authorizable_ancestors

Columns: TypeAlias = tuple[list[str], list[str], list[bool], list[int], list[bool]]


def coverage(identifiers: Sequence[Identifier], *, subdomains: bool) -> Columns:
    """What stands for the identifiers, as columns: (type, value without `*.`, wildcard) stands for the identifier at a
    position, from 0; where `above`, only if it was validated for the names below it. `subdomains`: such count, too."""
    rows: list[tuple[str, str, bool, int, bool]] = []
    for position, identifier in enumerate(identifiers):
        rows.append((identifier.type, identifier.base, identifier.is_wildcard, position, False))
        if subdomains:
            rows += [("dns", above, False, position, True) for above in authorizable_ancestors(identifier)]
    return ([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows],
            [row[4] for row in rows])
