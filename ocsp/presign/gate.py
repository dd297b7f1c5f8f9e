"""Who may use the token next: signatures are made in short slices, and lanes share the one HSM thread by weight.

A slice takes about 5 ms, so a revocation waits that long behind a batch of thousands; and because a lane that waits is
served in proportion to its weight, nothing starves, however much is revoked. The thread goes from slice to slice by
itself and tells the event loop when a whole request is done: a round trip between them for each slice would cost as
much as several signatures.
"""

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from time import perf_counter
from typing import Final

from ca.process.audit_log import AuditLog
from hsm.key import HsmPrivateKey, sign_many
from hsm.thread import HsmThread

_SLICE_S: Final = 0.005
_FIRST_GUESS_S: Final = 0.0005
# The thread looks for other calls (a new issuer's key, the end) after this time.
_TURN_S: Final = 0.25


class LaneName(Enum):
    """What is signed for, with its weight: revocations before new certificates before what is due again.

    Answers to single clients (live mode) need little, and get the next slice as long as it is little; however many are
    asked for, less than a tenth of the token's time is theirs while others want it.
    """

    CHANGED = 64
    NEW = 16
    LIVE = 8
    DUE = 4


@dataclass(slots=True, eq=False)
class _Request:
    key: HsmPrivateKey
    messages: Sequence[bytes]
    finished: "asyncio.Future[list[bytes]]"
    made: list[bytes] = field(default_factory=list)
    abandoned: bool = False


@dataclass(slots=True)
class _Lane:
    weight: int
    waiting: deque[_Request] = field(default_factory=deque)
    used_s: float = 0.0                 # of the token's time, by weight


class SigningGate:
    """All signatures of the process go through here."""

    def __init__(self, thread: HsmThread, audit: AuditLog | None = None) -> None:
        self._thread = thread
        self._audit = audit
        self._guard = threading.Lock()  # of everything below, which the event loop and the HSM thread share
        self._lanes = {name: _Lane(name.value) for name in LaneName}
        self._signature_s: dict[str, float] = {}
        self._asked: dict[LaneName, set[_Request]] = {name: set() for name in LaneName}     # the event loop's alone
        self._running = False
        self._turns: set[asyncio.Task[None]] = set()

    async def sign(self, lane: LaneName, key: HsmPrivateKey, messages: Sequence[bytes]) -> list[bytes]:
        """Signatures in the order of the messages. Raises HsmError, and AuditLogError.

        What is going to be signed is in the audit log, and on disk, before the token is asked (spec/pki.md 8.5).
        """
        request = _Request(key, messages, asyncio.get_running_loop().create_future())
        self._asked[lane].add(request)
        try:
            return await self._sign_recorded(lane, request)
        finally:
            self._asked[lane].discard(request)

    async def _sign_recorded(self, lane: LaneName, request: _Request) -> list[bytes]:
        key, messages = request.key, request.messages
        if self._audit is None:
            return await self._sign(lane, request)
        what = {"kind": "ocsp", "key": key.label, "tbs_sha256": hashlib.sha256(b"".join(messages)).hexdigest(),
                "count": len(messages)}
        self._audit.append("signing", lane=lane.name.lower(), **what)
        await self._audit.flush()
        signatures = await self._sign(lane, request)
        self._audit.append("signed", **what)
        return signatures

    async def _sign(self, lane: LaneName, request: _Request) -> list[bytes]:
        with self._guard:
            self._enter(self._lanes[lane], request)
            start, self._running = not self._running, True
        if start:
            self._begin_turn()
        try:
            return await request.finished
        finally:
            request.abandoned = True

    def left_s(self, lane: LaneName) -> float:
        """Seconds that what is asked for in a lane takes the token at least; nothing is known of a key that has not
        signed."""
        return sum(self._signature_s.get(request.key.label, 0.0) * (len(request.messages) - len(request.made))
                   for request in self._asked[lane])

    def signature_s(self, label: str, count: int) -> float | None:
        """Seconds that so many signatures of a key take; None when it has not signed yet."""
        each_s = self._signature_s.get(label)
        return None if each_s is None else count * each_s

    def _enter(self, lane: _Lane, request: _Request) -> None:
        if not lane.waiting:
            # A lane that did not ask for a while has no claim to the time it did not use.
            busy = [other.used_s for other in self._lanes.values() if other.waiting]
            lane.used_s = max(lane.used_s, min(busy, default=lane.used_s))
        lane.waiting.append(request)

    def _begin_turn(self) -> None:
        task = asyncio.create_task(self._turn(asyncio.get_running_loop()))
        self._turns.add(task)
        task.add_done_callback(self._turns.discard)

    async def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        while await self._thread.run(self._sign_for_a_while, loop):
            pass

    def _sign_for_a_while(self, loop: asyncio.AbstractEventLoop) -> bool:
        """In the HSM thread: slice after slice. Returns whether there is more to do."""
        until_s = perf_counter() + _TURN_S
        while True:
            with self._guard:
                lane = min((lane for lane in self._lanes.values() if lane.waiting),
                           key=lambda lane: (lane.used_s, -lane.weight), default=None)
                if lane is None:
                    self._running = False
                    return False
                request = lane.waiting[0]
            self._sign_slice(loop, lane, request)
            if perf_counter() > until_s:
                return True

    def _sign_slice(self, loop: asyncio.AbstractEventLoop, lane: _Lane, request: _Request) -> None:
        each_s = self._signature_s.get(request.key.label, _FIRST_GUESS_S)
        start = len(request.made)
        fault: Exception | None = None
        begun_s = perf_counter()
        if not request.abandoned:
            try:
                request.made += sign_many(request.key, request.messages[start:start + max(1, int(_SLICE_S / each_s))])
            except Exception as raised:
                fault = raised
        took_s, count = perf_counter() - begun_s, len(request.made) - start
        if count:
            # A slice of a few signatures says little of how fast the token is.
            weight = 0.2 * min(1.0, took_s / _SLICE_S) if request.key.label in self._signature_s else 1.0
            self._signature_s[request.key.label] = (1 - weight) * each_s + weight * took_s / count
        with self._guard:
            lane.used_s += took_s / lane.weight
            ended = fault is not None or request.abandoned or len(request.made) == len(request.messages)
            if ended:
                lane.waiting.popleft()
        if ended:
            with suppress(RuntimeError):        # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_finish, request, fault)


def _finish(request: _Request, fault: Exception | None) -> None:
    if request.finished.done():
        return
    if fault is not None:
        request.finished.set_exception(fault)
    else:
        request.finished.set_result(request.made)
