"""Nested facts as a person reads them: evidence of validations, problem documents."""

from collections.abc import Iterator


def outline(value: object, indent: str = "") -> Iterator[str]:
    """Nested facts as indented lines; what is flat stays on one line."""
    line = _one_line(value)
    if line is not None:
        yield indent + line
        return
    members = value.items() if isinstance(value, dict) else enumerate(value, 1) if isinstance(value, list) else ()
    for key, member in members:
        mark = f"{key}:" if isinstance(value, dict) else f"{key}."
        line = _one_line(member)
        # A flat mapping under a name has names of its own: they stand below each other.
        if line is not None and not (isinstance(value, dict) and isinstance(member, dict) and member):
            yield f"{indent}{mark} {line}"
        else:
            yield f"{indent}{mark}"
            yield from _outline_members(member, indent + "  ")


def _outline_members(value: object, indent: str) -> Iterator[str]:
    if isinstance(value, dict) and _one_line(value) is not None:
        for key, member in value.items():
            yield f"{indent}{key}: {_one_line(member)}"
    else:
        yield from outline(value, indent)


def _one_line(value: object) -> str | None:
    """A scalar, or a list or mapping of scalars, on one line; None when it has inner structure."""
    if isinstance(value, dict | list) and not value:
        return "none"
    if isinstance(value, list):
        return None if any(isinstance(one, dict | list) for one in value) else ", ".join(map(_scalar, value))
    if isinstance(value, dict):
        inner = {key: _one_line(member) for key, member in value.items() if not isinstance(member, dict)}
        if len(inner) < len(value) or None in inner.values():
            return None
        return ", ".join(f"{key}: {line}" for key, line in inner.items())
    return _scalar(value)


def _scalar(value: object) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
