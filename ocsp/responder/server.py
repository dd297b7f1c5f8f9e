"""What all connections of one worker share: the answers, the current second, and the end of slow clients."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from ocsp.responder.answers import Answer, Answers
from ocsp.responder.http_text import Second
from ocsp.responder.memory import MemoryFault, ResponseMemory, decode_issuers
from ocsp.responder.store import StoredIssuer

MAX_CONNECTIONS: Final = 20_000
_REFRESH_S: Final = 0.05
_LOOK_AROUND_S: Final = 1.0
_STOP_PATIENCE_S: Final = 2.0
_ALARM_EVERY_S: Final = 60.0
_MAX_REMEMBERED: Final = 512
_MAX_REMEMBERED_BYTES: Final = 1_024


class Client(Protocol):
    """A connection, as the server sees it."""

    def end_if_late(self, now_s: int) -> None:
        """Ends it if it is slow."""

    def end_if_idle(self) -> None:
        """Ends it after what is being written."""


class OcspServer:
    """Serves one memory on listening sockets.

    Every 50 ms, and before an answer if the loop was held up for longer, the clock is read and the memory renewed: no
    answer is older than that, and none is given past its nextUpdate.
    """

    def __init__(self, memory: ResponseMemory, *, now: Callable[[], datetime], max_age_s: int,
                 log: FilteringBoundLogger) -> None:
        self._memory = memory
        self._now = now
        self._log = log
        self._connections: set[Client] = set()
        self._encoded_issuers = b""
        self._withheld_before = 0
        self._alarm_at: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[asyncio.Server] = []
        self.second = Second(int(now().timestamp()), max_age_s=max_age_s)
        self.known_tails: dict[bytes, bool] = {}
        self.known_posts: dict[bytes, int] = {}
        self._answers = Answers((), memory, self.second)
        self.quick = self._answers.quick
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

    def health(self) -> tuple[bytes, bytes]:
        """For load balancers: header lines and content; 503 while the log has not been read to its end."""
        complete = self._memory.complete
        content = b"ok\n" if complete else b"reading the batch log\n"
        return b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n%bContent-Length: %d\r\n" % (
            b"200 OK" if complete else b"503 Service Unavailable", self.second.date, len(content)), content

    def metrics(self) -> tuple[bytes, bytes]:
        """For Prometheus and `chancery ocsp status`, from this machine alone: header lines and content."""
        mark, read_at_s = self._memory.mark(), self._memory.read_at_s()
        values = {
            "complete": float(self._memory.complete), "batch_id": float(mark.batch_id),
            "lag_seconds": max(0.0, self._now().timestamp() - read_at_s), "held": float(self._memory.entries()),
            "withheld_total": float(self._answers.past_next_update), "connections": float(len(self._connections))}
        content = "".join(f"chancery_ocsp_responder_{name} {value:.10g}\n" for name, value in values.items()).encode()
        return (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                b"Cache-Control: no-store\r\n%bContent-Length: %d\r\n") % (self.second.date, len(content)), content

    def admit(self, connection: Client) -> bool:
        """Whether there is room for one more."""
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: Client) -> None:
        """It is closed."""
        self._connections.discard(connection)

    def remember_tail(self, tail: bytes) -> None:
        """What stood behind the target of a plain GET."""
        if len(tail) <= _MAX_REMEMBERED_BYTES:
            if len(self.known_tails) >= _MAX_REMEMBERED:
                self.known_tails.clear()
            self.known_tails[tail] = True

    def remember_post(self, head: bytes, content_length: int) -> None:
        """The head of a plain POST."""
        if len(head) <= _MAX_REMEMBERED_BYTES:
            if len(self.known_posts) >= _MAX_REMEMBERED:
                self.known_posts.clear()
            self.known_posts[head] = content_length

    async def start(
        self, sockets: Sequence[socket.socket], connection: "Callable[[OcspServer], asyncio.Protocol]"
    ) -> None:
        """Takes connections from now on."""
        loop = asyncio.get_running_loop()
        self._listeners = [await loop.create_server(lambda: connection(self), sock=item) for item in sockets]
        self._tasks = [asyncio.create_task(self._every(_REFRESH_S, self.refresh)),
                       asyncio.create_task(self._every(_LOOK_AROUND_S, self.look_around))]

    async def stop(self) -> None:
        """Takes no more connections and closes those there are, after what is being written."""
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self._connections):
            connection.end_if_idle()
        give_up_at = monotonic() + _STOP_PATIENCE_S
        while self._connections and monotonic() < give_up_at:  # noqa: ASYNC110 - nobody waits for the last one
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()

    async def _every(self, period_s: float, act: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                act()
            except Exception:
                self._log.exception("the responder goes on after a fault")

    def look_around(self) -> None:
        """Once a second: slow clients, another generation of the memory, other issuers, withheld answers."""
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
            self.quick = self._answers.quick
            self._log.info("issuers", ids=[issuer.id for issuer in issuers])
        withheld = self._answers.past_next_update
        if withheld > self._withheld_before:
            # BR 4.9.9: somebody has to look why nothing was signed.
            self._alarm("answers withheld: past nextUpdate", count=withheld)
            self._withheld_before = withheld

    def _alarm(self, event: str, **values: object) -> None:
        """At most once a minute for each kind of event: a log must not fill because something is broken."""
        if monotonic() >= self._alarm_at.get(event, 0.0):
            self._alarm_at[event] = monotonic() + _ALARM_EVERY_S
            self._log.error(event, **values)
