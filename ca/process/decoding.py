"""What is wrong with a TOML document, for whoever wrote it: where, what was found, and what was probably meant."""

import re
from difflib import get_close_matches
from typing import Any, Final, get_args, get_type_hints

import msgspec

_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")


def explain(fault: msgspec.ValidationError, kind: type) -> str:
    """'acme.workers: Expected `int`, got `str`', or 'acme: there is no key worker; is workers meant?', for a document
    that was to become `kind`, a struct."""
    text, _, place = str(fault).partition(" - at `$.")
    place = place.rstrip("`")
    unknown = _UNKNOWN.fullmatch(text)
    if unknown is not None:
        known = _keys_at(kind, place)
        meant = get_close_matches(unknown[1], known, n=1)
        hint = f"is {meant[0]} meant?" if meant else f"known are {', '.join(known)}"
        text = f"there is no key {unknown[1]}; {hint}"
    return f"{place}: {text}" if place else text


def _keys_at(kind: Any, place: str) -> list[str]:
    """The keys of the table at a place like `acme` or `intermediates[0]`; none where it cannot be told."""
    for name in place.split(".") if place else ():
        kind = _table_of(get_type_hints(kind).get(name.partition("[")[0])) if _is_table(kind) else None
    return sorted(get_type_hints(kind)) if _is_table(kind) else []


def _table_of(hint: Any) -> Any:
    """The struct in `X`, `X | None`, `list[X]` or `dict[str, X]`."""
    return hint if _is_table(hint) else next(
        (found for each in get_args(hint) if (found := _table_of(each)) is not None), None)


def _is_table(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)
