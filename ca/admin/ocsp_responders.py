"""What the responders of this machine say of themselves: state, and how far behind the batch log they are."""

import asyncio
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

_TIMEOUT_S: Final = 2.0
_OF_ALL: Final = re.compile(r"^chancery_ocsp_responder_(\w+) (\S+)$", re.MULTILINE)
_OF_ONE: Final = re.compile(
    r'^chancery_ocsp_responder_(\w+)\{worker="([^"]*)"(?:,\w+="([^"]*)")?\} (\S+)$', re.MULTILINE)
_MOST_BYTES: Final = 1 << 20
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - where to ask one that listens everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCounts:
    """Live mode of one worker, since its start: what was asked for, what was signed, what got what it would have got
    without live mode, by reason. `mean_wait_s` is over what was signed; 99 of 100 waited no longer than `p99_wait_s`
    (None: longer than is counted)."""

    requests: int
    signed: int
    refused: dict[str, int]
    mean_wait_s: float
    p99_wait_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """What one worker has counted since its start; `live` where that is off is None."""

    worker: str
    connections: int
    withheld: int
    live: LiveCounts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderState:
    """One address: 'ok', 'pending' or 'missing' with the reason. `lag_s` is None for one that has never read the log to
    its end."""

    address: str
    state: str
    batch_id: int | None
    lag_s: float | None
    workers: tuple[WorkerState, ...] = ()


async def ask_responders(listen: Sequence[str]) -> list[ResponderState]:
    """Asks each address that the configuration lists, in order."""
    return list(await asyncio.gather(*(asyncio.to_thread(_ask, address) for address in listen)))


def _ask(address: str) -> ResponderState:
    host, _, port = address.rpartition(":")
    url = f"http://{_EVERYWHERE.get(host, host)}:{port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
            text = reply.read(_MOST_BYTES).decode("ascii", "replace")
    except (urllib.error.URLError, OSError) as fault:
        reason = getattr(fault, "reason", fault)
        return ResponderState(address=address, state=f"missing: {reason}", batch_id=None, lag_s=None)
    values = dict(_OF_ALL.findall(text))
    complete = values.get("complete") == "1"
    lag_s = float(values.get("lag_seconds", "inf"))
    return ResponderState(address=address, state="ok" if complete else "pending: reading the batch log",
                          batch_id=int(float(values.get("batch_id", "0"))), lag_s=None if lag_s == inf else lag_s,
                          workers=_workers(text))


def workers_of(responders: Sequence[ResponderState]) -> list[WorkerState]:
    """Each worker once, whichever addresses it was met at."""
    return sorted({one.worker: one for responder in responders for one in responder.workers}.values(),
                  key=lambda one: one.worker)


def _workers(text: str) -> tuple[WorkerState, ...]:
    counts: dict[str, dict[tuple[str, str], float]] = {}
    for name, worker, label, value in _OF_ONE.findall(text):
        counts.setdefault(worker, {})[name, label] = float(value)
    return tuple(WorkerState(
        worker=worker, connections=int(found.get(("connections", ""), 0)),
        withheld=int(found.get(("withheld_total", ""), 0)),
        live=_live(found) if ("live_requests_total", "") in found else None) for worker, found in counts.items())


def _live(found: dict[tuple[str, str], float]) -> LiveCounts:
    waited = found["live_wait_seconds_count", ""]
    bounds = [(float(label), count) for (name, label), count in found.items() if name == "live_wait_seconds_bucket"]
    p99_wait_s = min((bound for bound, count in bounds if count >= 0.99 * waited), default=inf)
    return LiveCounts(
        requests=int(found["live_requests_total", ""]), signed=int(found["live_signed_total", ""]),
        refused={label: int(count) for (name, label), count in found.items() if name == "live_refused_total"},
        mean_wait_s=found["live_wait_seconds_sum", ""] / max(1.0, waited),
        p99_wait_s=None if p99_wait_s == inf else p99_wait_s)
