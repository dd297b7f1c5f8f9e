"""What the responders of this machine say of themselves: state, and how far behind the batch log they are."""

import asyncio
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_TIMEOUT_S: Final = 2.0
_LINE: Final = re.compile(r"^chancery_ocsp_responder_(\w+) (\S+)$", re.MULTILINE)
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - where to ask one that listens everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderState:
    """One address: 'ok', 'reading the batch log' or 'missing' with the reason."""

    address: str
    state: str
    batch_id: int | None
    lag_s: float | None


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
    return ResponderState(address=address, state="ok" if complete else "pending: reading the batch log",
                          batch_id=int(float(values.get("batch_id", "0"))), lag_s=float(values.get("lag_seconds", "0")))
