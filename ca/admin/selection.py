"""Which certificates an operator means: `field=value` pairs, all of which have to hold.

    --query "issuer='Example R1' since=2026-11-01 until=2026-11-02T12:00Z name=example.com"
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from ca.admin.context import CommandError, ExitCode
from ca.admin.reference import parse_id, parse_key, parse_name, parse_serial

FIELDS: Final[Mapping[str, str]] = {
    "serials": "a file with one serial number a line",
    "key": "SHA-256 of a SubjectPublicKeyInfo, or a file with the key or a certificate",
    "issuer": "the name of an issuer",
    "since": "signed at or after this time (UTC)",
    "until": "signed before this time (UTC)",
    "name": "a name, and every name below it",
    "account": "an account's URL or id",
    "profile": "the name of a profile",
    "finding": "what `chancery audit lint` has found, by its code; * stands for anything",
}
_SERIAL_BYTES: Final = 18
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What certificates must have in common; None: any. `text` is what was typed."""

    text: str
    serials: tuple[bytes, ...] | None = None
    key: bytes | None = None
    issuer: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    name: str | None = None
    account: bytes | None = None
    profile: str | None = None
    finding: str | None = None


def parse_selection(text: str) -> Selection:
    """The selection that was typed. Raises CommandError with the forms that exist, and for an empty selection."""
    try:
        pairs = [word.partition("=") for word in shlex.split(text)]
    except ValueError as fault:
        raise CommandError(f"the query is not field=value pairs: {fault}", ExitCode.USAGE) from fault
    given: dict[str, str] = {}
    for field, separator, value in pairs:
        if not separator or field not in FIELDS or not value:
            raise CommandError(f"{field!r} is not part of a query: expected field=value with one of "
                               + ", ".join(f"{name} ({what})" for name, what in FIELDS.items()), ExitCode.USAGE)
        if field in given:
            raise CommandError(f"{field} is given twice: all parts of a query have to hold at once", ExitCode.USAGE)
        given[field] = value
    if not given:
        raise CommandError("an empty query would mean every certificate: say what they have in common", ExitCode.USAGE)

    if "serials" in given and len(given) > 1:
        raise CommandError("serials is a query by itself: nothing else goes with it", ExitCode.USAGE)

    def parsed(field: str, parse: Callable[[str], _Value]) -> _Value | None:
        return parse(given[field]) if field in given else None

    return Selection(
        text=text, serials=parsed("serials", _serials), key=parsed("key", parse_key), issuer=given.get("issuer"),
        since=parsed("since", _moment), until=parsed("until", _moment), name=parsed("name", parse_name),
        account=parsed("account", lambda value: parse_id(value, of="account")), profile=given.get("profile"),
        finding=given.get("finding"))


def _serials(path: str) -> tuple[bytes, ...]:
    """Every serial number of a file, each once; empty lines and lines that begin with # are passed over."""
    try:
        lines = Path(path).read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise CommandError(f"{path} cannot be read: {fault}", ExitCode.USAGE) from fault
    found = set()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            serial = parse_serial(line.strip())
        except CommandError as fault:
            raise CommandError(f"{path}, line {number}: {fault.message}", ExitCode.USAGE) from fault
        if serial.first != serial.last or len(serial.first) != _SERIAL_BYTES:
            raise CommandError(f"{path}, line {number}: expected a whole serial number", ExitCode.USAGE)
        found.add(serial.first)
    if not found:
        raise CommandError(f"{path} holds no serial number", ExitCode.USAGE)
    return tuple(sorted(found))


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as fault:
        raise CommandError(f"{text!r} is not a time: expected 2026-11-24 or 2026-11-24T12:00:00Z", ExitCode.USAGE
                           ) from fault
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
