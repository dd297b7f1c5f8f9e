"""What all connections of one worker share: the answers, the current second, and the end of slow clients."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from ocsp.protocol.live import Question
from ocsp.responder.answers import Answer, Answers
from ocsp.responder.http_text import Second
from ocsp.responder.live import LiveDesk
from ocsp.responder.memory import MemoryFault, ResponseMemory, decode_issuers
from ocsp.responder.question import question_of
from ocsp.responder.quick import KnownHeads, make_quick
from ocsp.responder.store import StoredIssuer
from ocsp.responder.tally import Tally

MAX_CONNECTIONS: Final = 20_000
# When there are as many, one that has been slow for so long is ended for a new one, if it is among the next few.
_SLOW_IN_NEED_S: Final = 2
_LOOKED_AT: Final = 16
_REFRESH_S: Final = 0.05
_LOOK_AROUND_S: Final = 1.0
_STOP_PATIENCE_S: Final = 2.0
_ALARM_EVERY_S: Final = 60.0
# An order becomes valid when the first response is published. Some milliseconds later it is here, and a server that
# staples asks at once. The bound keeps made-up serial numbers from costing more than a few looks at the memory.
MAX_WAITING: Final = 64
_WAITING_LIMIT_S: Final = 0.5


class Client(Protocol):
    """A connection, as the server sees it."""

    def end_if_late(self, now_s: int, limit_s: int | None = None) -> bool:
        """Ends it if it is slow, or has been for so long; whether it has."""

    def end_if_idle(self) -> None:
        """Ends it after what is being written."""

    def look_again(self, *, is_last: bool) -> None:
        """What it waits for may be there."""


class Sockets(Protocol):
    """Those on which clients come, and theirs."""

    def close_listeners(self) -> None:
        """Takes no more clients."""

    def close(self) -> None:
        """Ends all."""


Listen = Callable[["OcspServer", Sequence[socket.socket]], Awaitable[Sockets]]


class OcspServer:
    """Serves one memory on listening sockets.

    Every 50 ms, and before an answer if the loop was held up for longer, the clock is read and the memory renewed: no
    answer is older than that, and none is given past its nextUpdate.
    """

    def __init__(self, memory: ResponseMemory, *, now: Callable[[], datetime], max_age_s: int, tally: Tally,
                 log: FilteringBoundLogger, live: LiveDesk | None = None,
                 max_connections: int = MAX_CONNECTIONS) -> None:
        self._memory = memory
        self._now = now
        self._tally = tally
        self._log = log
        self.live = live
        self.max_connections = max_connections
        self._connections: dict[Client, None] = {}  # those that were not looked at for the longest first
        self._waiting: dict[Client, float] = {}     # until when
        self._encoded_issuers = b""
        self._withheld_before = 0
        self._alarm_at: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: Sockets | None = None
        self.second = Second(int(now().timestamp()), max_age_s=max_age_s)
        self.known = KnownHeads()
        self._answers = Answers((), memory, self.second)
        self.answer_plain = make_quick(self._answers, self.known)
        self.refresh()
        self.look_around()

    def refresh(self) -> None:
        """Reads the clock and lets the memory see what was written."""
        self.stale_at = monotonic() + _REFRESH_S
        self.second.advance(int(self._now().timestamp()))
        try:
            self._memory.renew()
        except (MemoryFault, OSError) as fault:
            self._memory.distrust()
            self._alarm("the memory cannot be read", fault=repr(fault))

    def answer(self, request: bytes) -> Answer:
        """The response to a DER request."""
        return self._answers.answer(request)

    def quick(self, data: bytes) -> bytes | None:
        """The whole answer to one plain request; None for what is not so plain."""
        return self.answer_plain((data,))[0]

    def question(self, request: bytes, answer: Answer) -> Question | None:
        """What the live signer could say better than this answer."""
        return question_of(self._answers, request, answer)

    def health(self) -> tuple[bytes, bytes]:
        """For load balancers: header lines and content; 503 while the log has not been read to its end."""
        complete = self._memory.complete
        content = b"ok\n" if complete else b"reading the batch log\n"
        return b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n%bContent-Length: %d\r\n" % (
            b"200 OK" if complete else b"503 Service Unavailable", self.second.date, len(content)), content

    def metrics(self) -> tuple[bytes, bytes]:
        """For Prometheus and `chancery ocsp status`, from this machine alone: header lines and content. What the store
        holds is told once, what is counted for each worker."""
        mark, read_at_s = self._memory.mark(), self._memory.read_at_s() or float("-inf")
        values = {
            "complete": float(self._memory.complete), "batch_id": float(mark.batch_id),
            "lag_seconds": max(0.0, self._now().timestamp() - read_at_s), "held": float(self._memory.entries()),
            "shortcut_complete": float(self._memory.has_all_at_hand)}
        lines = [f"chancery_ocsp_responder_{name} {value:.10g}" for name, value in values.items()]
        own = self._counts()
        for worker, counts in sorted((self._tally.others(own) | {self._tally.worker: own}).items()):
            for labelled, value in counts.items():
                name, _, labels = labelled.removesuffix("}").partition("{")
                labels = f'worker="{worker}"' + (f",{labels}" if labels else "")
                lines.append(f"chancery_ocsp_responder_{name}{{{labels}}} {value:.15g}")
        content = "".join(f"{line}\n" for line in lines).encode()
        return (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                b"Cache-Control: no-store\r\n%bContent-Length: %d\r\n") % (self.second.date, len(content)), content

    def _counts(self) -> dict[str, float]:
        """Of this worker, since its start."""
        counts = {"withheld_total": float(self._answers.past_next_update),
                  "connections": float(len(self._connections))}
        if self.live is not None:
            counts |= {f"live_{name}": value for name, value in self.live.metrics.counts().items()}
        return counts

    def admit(self, connection: Client) -> bool:
        """Whether there is room for one more: many slow clients must not keep out the others."""
        if len(self._connections) >= self.max_connections and not self._make_room():
            return False
        self._connections[connection] = None
        return True

    def _make_room(self) -> bool:
        for connection in list(islice(self._connections, _LOOKED_AT)):
            self._connections[connection] = self._connections.pop(connection)
            if connection.end_if_late(self.second.now_s, _SLOW_IN_NEED_S):
                return True
        return False

    def forget(self, connection: Client) -> None:
        """It is closed."""
        self._connections.pop(connection, None)
        self.release(connection)

    def hold(self, connection: Client) -> bool:
        """Whether it may wait until the response to a new certificate is here; it is told to look again, soon."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting[connection] = monotonic() + _WAITING_LIMIT_S
        return True

    def release(self, connection: Client) -> None:
        """It waits no more."""
        self._waiting.pop(connection, None)

    async def start(self, listeners: Sequence[socket.socket], listen: Listen) -> None:
        """Takes connections from now on."""
        self._sockets = await listen(self, listeners)
        self._tasks = [asyncio.create_task(self._every(_REFRESH_S, self._refresh_for_all)),
                       asyncio.create_task(self._every(_LOOK_AROUND_S, self.look_around))]

    async def stop(self) -> None:
        """Takes no more connections and closes those there are, after what is being written."""
        if self._sockets is not None:
            self._sockets.close_listeners()
        for connection in tuple(self._connections):
            connection.end_if_idle()
        give_up_at = monotonic() + _STOP_PATIENCE_S
        while self._connections and monotonic() < give_up_at:  # noqa: ASYNC110 - nobody waits for the last one
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
        self._tally.close()

    def _refresh_for_all(self) -> None:
        self.refresh()
        for connection, until in tuple(self._waiting.items()):
            connection.look_again(is_last=monotonic() >= until)

    async def _every(self, period_s: float, act: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                act()
            except Exception:
                self._log.exception("the responder goes on after a fault")

    def look_around(self) -> None:
        """Once a second: slow clients, another generation of the memory, other issuers, withheld answers, counts."""
        for connection in tuple(self._connections):
            connection.end_if_late(self.second.now_s)
        self._memory.follow()
        encoded = self._memory.issuers()
        if encoded != self._encoded_issuers:
            self._encoded_issuers = encoded
            issuers = [StoredIssuer(id=issuer_id, certificate=der) for issuer_id, der in decode_issuers(encoded)]
            withheld = self._answers.past_next_update
            self._answers = Answers(issuers, self._memory, self.second)
            self._answers.past_next_update = withheld
            self.answer_plain = make_quick(self._answers, self.known)
            self._log.info("issuers", ids=[issuer.id for issuer in issuers])
        withheld = self._answers.past_next_update
        if withheld > self._withheld_before:
            # BR 4.9.9: somebody has to look why nothing was signed.
            self._alarm("answers withheld: past nextUpdate", count=withheld)
            self._withheld_before = withheld
        self._tally.write(self._counts())

    def say_fault(self, fault: Exception) -> None:
        """A request met a fault of this program, or of what is stored; its connection has ended."""
        self._alarm("a request could not be dealt with", fault=repr(fault), exc_info=fault)

    def _alarm(self, event: str, **values: object) -> None:
        """At most once a minute for each kind of event: a log must not fill because something is broken."""
        if monotonic() >= self._alarm_at.get(event, 0.0):
            self._alarm_at[event] = monotonic() + _ALARM_EVERY_S
            self._log.error(event, **values)
