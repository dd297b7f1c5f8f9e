"""What a list of CT logs is good for: until when certificates can be logged by it, and what a newer list changes.

Logs are sharded by the end of the certificates that they take, and shards end: a list that is never renewed runs out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from ca.pki.ct_log_list import CtLog, LogList, LogListError
from ca.pki.ct_policy import MIN_OPERATORS
from ca.pki.policy import DAY_S, SCTS_FOR_SHORT

# A list from the future would stay fresh for longer than browsers go by it.
_MOST_AHEAD: Final = timedelta(days=1)
# How long before the first certificates cannot be logged somebody should see to a new list.
NOTICE: Final = timedelta(seconds=30 * DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChange:
    """What becomes of one log; `detail` says what is different about one that stays."""

    kind: Literal["new", "gone", "changed"]
    log: CtLog
    detail: str


def suffices(candidates: Sequence[CtLog], needed: int = SCTS_FOR_SHORT) -> bool:
    """Whether some SCTs of these logs comply (ct_policy.complies): one of an RFC 6962 log, where there is one, and
    one of another operator are among them."""
    return len(candidates) >= needed and len({log.operator for log in candidates}) >= MIN_OPERATORS


def covered_until(logs: LogList, now: datetime) -> datetime | None:
    """The first notAfter from now on for which the logs do not suffice; None when they do for every one."""
    bounds = {bound for log in logs.logs.values() for bound in (log.not_after_from, log.not_after_before)
              if bound is not None and bound > now}
    return next((moment for moment in (now, *sorted(bounds)) if not suffices(logs.candidates(moment))), None)


def changes(old: LogList | None, new: LogList) -> tuple[LogChange, ...]:
    """What is different in `new`, by operator and name. A log that takes no certificates any more is gone."""
    before = {} if old is None else old.logs
    found = [LogChange(kind="new", log=log, detail="") for log_id, log in new.logs.items() if log_id not in before]
    found += [LogChange(kind="gone", log=log, detail="") for log_id, log in before.items() if log_id not in new.logs]
    for log_id, log in new.logs.items():
        if log_id in before and before[log_id] != log:
            found.append(LogChange(kind="changed", log=log, detail=_difference(before[log_id], log)))
    return tuple(sorted(found, key=lambda change: (change.log.operator, change.log.description, change.kind)))


def _difference(old: CtLog, new: CtLog) -> str:
    names = {"description": "name", "operator": "operator", "url": "URL", "tiled": "tiled", "not_after_from": "from",
             "not_after_before": "before"}
    return ", ".join(f"{name} was {_shown(getattr(old, field))}" for field, name in names.items()
                     if getattr(old, field) != getattr(new, field))


def _shown(value: object) -> str:
    return f"{value:%Y-%m-%d}" if isinstance(value, datetime) else str(value)


def require_installable(new: LogList, old: LogList | None, *, now: datetime, longest: timedelta) -> None:
    """Returns when the list may take the place of `old`, for certificates that live for `longest` at most.

    Raises LogListError: it is older, too old, of the future, or has not enough logs.
    """
    new.require_fresh(now)
    if new.made_at > now + _MOST_AHEAD:
        raise LogListError(f"the list is of {new.made_at:%Y-%m-%d %H:%M}: that is in the future")
    if old is not None and new.made_at < old.made_at:
        raise LogListError(f"the list is of {new.made_at:%Y-%m-%d %H:%M}, older than the one that is installed "
                           f"({old.made_at:%Y-%m-%d %H:%M})")
    short_of = shortfall(new, now=now, longest=longest)
    if short_of is not None:
        raise LogListError(short_of)


def shortfall(logs: LogList, *, now: datetime, longest: timedelta) -> str | None:
    """What cannot be logged of the certificates that are signed now and live for `longest` at most; None: nothing."""
    until = covered_until(logs, now)
    if until is None or until > now + longest:
        return None
    usable = logs.candidates(until)
    return (f"certificates that end at or after {until:%Y-%m-%d} cannot be logged: {len(usable)} logs of "
            f"{len({log.operator for log in usable})} operators take them, and {SCTS_FOR_SHORT} of {MIN_OPERATORS} are "
            "needed")
