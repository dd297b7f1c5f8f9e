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
_LINE: Final = re.compile(r"^chancery_ocsp_responder_(\w+) (\S+)$", re.MULTILINE)
_REFUSED: Final = re.compile(r'^chancery_ocsp_responder_live_refused_total\{reason="(\w+)"\} (\d+)$', re.MULTILINE)
_WAITED: Final = re.compile(r'^chancery_ocsp_responder_live_wait_seconds_bucket\{le="([\d.]+)"\} (\d+)$', re.MULTILINE)
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - where to ask one that listens everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCounts:
    """Live mode of the worker that answered, since its start: what was asked for, what was signed, what got what it
    would have got without live mode, by reason. `mean_wait_s` is over what was signed; 99 of 100 waited no longer than
    `p99_wait_s` (None: longer than is counted)."""

    requests: int
    signed: int
    refused: dict[str, int]
    mean_wait_s: float
    p99_wait_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderState:
    """One address: 'ok', 'reading the batch log' or 'missing' with the reason. `lag_s` is None for one that has never
    read the log to its end, `live` where that is off."""

    address: str
    state: str
    batch_id: int | None
    lag_s: float | None
    live: LiveCounts | None = None


async def ask_responders(listen: Sequence[str]) -> list[ResponderState]:
    """Asks each address that the configuration lists, in order."""
    return list(await asyncio.gather(*(asyncio.to_thread(_ask, address) for address in listen)))


def _ask(address: str) -> ResponderState:
    host, _, port = address.rpartition(":")
    url = f"http://{_EVERYWHERE.get(host, host)}:{port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
            text = reply.read(65_536).decode("ascii", "replace")
    except (urllib.error.URLError, OSError) as fault:
        reason = getattr(fault, "reason", fault)
        return ResponderState(address=address, state=f"missing: {reason}", batch_id=None, lag_s=None)
    values = dict(_LINE.findall(text))
    complete = values.get("complete") == "1"
    lag_s = float(values.get("lag_seconds", "inf"))
    return ResponderState(address=address, state="ok" if complete else "pending: reading the batch log",
                          batch_id=int(float(values.get("batch_id", "0"))), lag_s=None if lag_s == inf else lag_s,
                          live=_live(text, values) if "live_requests_total" in values else None)


def _live(text: str, values: dict[str, str]) -> LiveCounts:
    waited = int(values["live_wait_seconds_count"])
    p99_wait_s = next((float(bound) for bound, count in _WAITED.findall(text) if int(count) >= 0.99 * waited), None)
    return LiveCounts(
        requests=int(values["live_requests_total"]), signed=int(values["live_signed_total"]),
        refused={reason: int(count) for reason, count in _REFUSED.findall(text)},
        mean_wait_s=float(values["live_wait_seconds_sum"]) / max(1, waited), p99_wait_s=p99_wait_s)
