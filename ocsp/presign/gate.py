"""Who may use the token next: signatures are made in short slices, and lanes share the one HSM thread by weight.

A slice takes about 5 ms, so a revocation waits that long behind a batch of thousands; and because a lane that waits is
served in proportion to its weight, nothing starves, however much is revoked. Two slices are given to the thread at a
time, so that it does not idle while the event loop reads the last one's result.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from time import perf_counter
from typing import Final

from hsm.key import HsmPrivateKey, sign_many
from hsm.thread import HsmThread

_SLICE_S: Final = 0.005
_FIRST_GUESS_S: Final = 0.0005
_IN_FLIGHT: Final = 2


class LaneName(Enum):
    """What is signed for, with its weight: revocations before new certificates before what is due again."""

    CHANGED = 64
    NEW = 16
    DUE = 4


@dataclass(frozen=True, slots=True)
class _Slice:
    key: HsmPrivateKey
    messages: Sequence[bytes]
    made: "asyncio.Future[list[bytes]]"


@dataclass(slots=True)
class _Lane:
    weight: int
    waiting: deque[_Slice] = field(default_factory=deque)
    used_s: float = 0.0                 # of the token's time, by weight


class SigningGate:
    """All signatures of the process go through here."""

    def __init__(self, thread: HsmThread) -> None:
        self._thread = thread
        self._lanes = {name: _Lane(name.value) for name in LaneName}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._signature_s: dict[str, float] = {}

    async def sign(self, lane: LaneName, key: HsmPrivateKey, messages: Sequence[bytes]) -> list[bytes]:
        """Signatures in the order of the messages. Raises HsmError; slices that were given to the token are made."""
        size = max(1, int(_SLICE_S / self._signature_s.get(key.label, _FIRST_GUESS_S)))
        loop = asyncio.get_running_loop()
        slices = [_Slice(key, messages[start:start + size], loop.create_future())
                  for start in range(0, len(messages), size)]
        self._enter(lane, slices)
        try:
            made = await asyncio.gather(*(item.made for item in slices))
        except BaseException:
            for item in slices:
                item.made.cancel()
            raise
        return [signature for part in made for signature in part]

    def _enter(self, name: LaneName, slices: Sequence[_Slice]) -> None:
        lane = self._lanes[name]
        if not lane.waiting:
            # A lane that did not ask for a while has no claim to the time it did not use.
            busy = [other.used_s for other in self._lanes.values() if other.waiting]
            lane.used_s = max(lane.used_s, min(busy, default=lane.used_s))
        lane.waiting.extend(slices)
        self._start()

    def _start(self) -> None:
        while len(self._in_flight) < _IN_FLIGHT:
            lane = min((lane for lane in self._lanes.values() if lane.waiting),
                       key=lambda lane: (lane.used_s, -lane.weight), default=None)
            if lane is None:
                return
            item = lane.waiting.popleft()
            if item.made.cancelled():
                continue
            lane.used_s += len(item.messages) * self._signature_s.get(item.key.label, _FIRST_GUESS_S) / lane.weight
            task = asyncio.create_task(self._make(item))
            self._in_flight.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._in_flight.discard(task)
        self._start()

    async def _make(self, item: _Slice) -> None:
        try:
            took_s, signatures = await self._thread.run(_timed, item.key, item.messages)
        except BaseException as fault:
            if not item.made.done():
                item.made.set_exception(fault)
            if not isinstance(fault, Exception):
                raise
            return
        each_s = took_s / len(signatures)
        self._signature_s[item.key.label] = 0.8 * self._signature_s.get(item.key.label, each_s) + 0.2 * each_s
        if not item.made.done():
            item.made.set_result(signatures)


def _timed(key: HsmPrivateKey, messages: Sequence[bytes]) -> tuple[float, list[bytes]]:
    started = perf_counter()
    signatures = sign_many(key, messages)
    return perf_counter() - started, signatures
