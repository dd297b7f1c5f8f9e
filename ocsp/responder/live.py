"""Live mode at the responder (spec/pki.md 5.9): who has a question that nothing pre-signed answers waits here for the
pre-signer, which is asked through the database.

Nothing of this makes anybody's answer worse than without live mode, except that a full queue is `tryLater`, as the
specification has it. A client beyond its limit, all of them beyond theirs, a signer or a database that is away: each
time the request gets at once what it gets without live mode. Who has waited in vain gets it, too; then the issuer's
questions are not asked for some seconds, and after that one alone, until an answer comes. A client that leaves gives
its place back.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from time import monotonic
from typing import Final

from structlog.typing import FilteringBoundLogger

from ca.process.ambient import Ambient
from ca.process.client_address import IpAddress, behind_proxies, parse_address, parse_networks
from ca.process.lifecycle import StartupError
from ca.process.postgres import UNAVAILABLE, Listener, Pool, PostgresError, create_pool
from ca.process.settings import DatabaseSettings, OcspSettings
from ca.process.worker import wait_any
from ocsp.protocol.live import Question
from ocsp.protocol.rates import Rates
from ocsp.responder import live_store

_ROLE: Final = "ocsp_reader"
_ID_BYTES: Final = 16
_CONNECTIONS: Final = 4
_AWAY_S: Final = 5.0
_CONNECT_AGAIN_S: Final = 2.0
# A notification may be lost: at the end of the wait there is one more look, which is not waited for any longer.
_LAST_LOOK_S: Final = 0.25
_STOP_PATIENCE_S: Final = 1.0
_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_ALL: Final = b""
_PREFIX_BYTES: Final = 8


class Refusal(Enum):
    """Why a question was not asked, or not answered; the names are those of the metrics."""

    CLIENT_LIMIT = "client_limit"
    TOTAL_LIMIT = "total_limit"
    QUEUE = "queue"
    DATABASE = "database"
    SIGNER = "signer"
    LATE = "late"
    NOT_SIGNED = "not_signed"
    GONE = "gone"


# What is wrong with signer or database, not with the question or its client.
_FAILURES: Final = (Refusal.LATE, Refusal.DATABASE)
_ANSWERED: Final = (None, Refusal.NOT_SIGNED)


class Ticket:
    """A question on its way. When `is_done`, there is a `response`, or it says why not."""

    __slots__ = ("begun_s", "is_done", "issuer_id", "refusal", "response", "stirred", "tell")

    def __init__(self, issuer_id: int, tell: Callable[[], None]) -> None:
        self.issuer_id = issuer_id
        self.tell = tell
        self.begun_s = monotonic()
        self.is_done = False
        self.response: bytes | None = None
        self.refusal: Refusal | None = None
        self.stirred = asyncio.Event()          # answered, or nobody waits any more


class LiveMetrics:
    """Counts of one worker since its start."""

    def __init__(self) -> None:
        self.requests = 0
        self.signed = 0
        self.refused = dict.fromkeys(Refusal, 0)
        self._waits = [0] * (len(_BOUNDS_S) + 1)
        self._waited_s = 0.0

    def wait(self, seconds: float) -> None:
        """How long somebody waited for a response."""
        self._waits[bisect_left(_BOUNDS_S, seconds)] += 1
        self._waited_s += seconds

    def counts(self) -> dict[str, float]:
        """By name and label, as Prometheus wants them."""
        counts: dict[str, float] = {"requests_total": self.requests, "signed_total": self.signed}
        counts |= {f'refused_total{{reason="{reason.value}"}}': count for reason, count in self.refused.items()}
        below = 0
        for bound_s, count in zip((*_BOUNDS_S, None), self._waits, strict=True):
            below += count
            counts[f'wait_seconds_bucket{{le="{"+Inf" if bound_s is None else bound_s}"}}'] = below
        return counts | {"wait_seconds_sum": self._waited_s, "wait_seconds_count": below}


class LiveDesk:
    """Takes questions of one worker's clients to the signer, and the responses back."""

    def __init__(self, settings: OcspSettings, *, ambient: Ambient, log: FilteringBoundLogger) -> None:
        self._wait_s = settings.live_wait_ms / 1_000
        self._places = settings.live_queue
        # All workers of a machine together keep the rate; the kernel gives each about the same share.
        self._total = Rates(per_s=settings.live_per_s / settings.workers, burst=settings.live_burst / settings.workers)
        self._clients = Rates(per_s=settings.live_client_per_s, burst=settings.live_client_burst)
        self._trusted = parse_networks(settings.live_trusted_proxies)
        self._ambient = ambient
        self._log = log
        self._pool: Pool | None = None
        self._open: dict[bytes, Ticket] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._away_until_s: dict[int, float] = {}
        self._tried: set[int] = set()           # issuers of which one question finds out whether the signer is back
        self.metrics = LiveMetrics()

    async def run(self, database: DatabaseSettings, stop: asyncio.Event) -> None:
        """Keeps connected to the primary, which alone can be written to, until `stop`."""
        while not stop.is_set():
            try:
                pool = await create_pool(database, _ROLE, process="ocsp-live", max_size=_CONNECTIONS)
                async with pool, Listener(database, _ROLE, "ocsp-live", {"ocsp_live_answer": self._hear}):
                    self._pool = pool
                    try:
                        await stop.wait()
                    finally:
                        self._pool = None
                        await self._end()
            except (StartupError, PostgresError, *UNAVAILABLE, TimeoutError) as fault:
                self._log.warning("live mode has no database", fault=str(fault) or repr(fault))
                await wait_any(stop, timeout_s=_CONNECT_AGAIN_S)

    def client(self, peer: str, forwarded: bytes | None) -> IpAddress | None:
        """Who asks, by the address of the connection and X-Forwarded-For; None when that is no address."""
        address = parse_address(peer.partition("%")[0])
        if address is None or forwarded is None:
            return address
        return behind_proxies(address, [forwarded.decode("latin-1")], self._trusted, rfc_7239=False)

    def ask(self, question: Question, client: IpAddress | None, tell: Callable[[], None]) -> Ticket | Refusal:
        """Sends a question off; `tell` is called when its ticket is done. Or says why it is not asked."""
        self.metrics.requests += 1
        refusal = self._refusal(question.issuer_id, client)
        if refusal is not None:
            self.metrics.refused[refusal] += 1
            return refusal
        question_id = self._ambient.random_bytes(_ID_BYTES)
        ticket = self._open[question_id] = Ticket(question.issuer_id, tell)
        if question.issuer_id in self._away_until_s:
            self._tried.add(question.issuer_id)
        task = asyncio.create_task(self._carry(question_id, question, ticket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return ticket

    def give_up(self, ticket: Ticket) -> None:
        """The client has left: its place is given back, signed or not."""
        self._finish(ticket, None, Refusal.GONE)
        ticket.stirred.set()

    def _refusal(self, issuer_id: int, client: IpAddress | None) -> Refusal | None:
        now_s = monotonic()
        if self._pool is None:
            return Refusal.DATABASE
        if issuer_id in self._tried or now_s < self._away_until_s.get(issuer_id, now_s):
            return Refusal.SIGNER
        if not self._clients.take(_ALL if client is None else client_key(client), now_s):
            return Refusal.CLIENT_LIMIT
        if not self._total.take(_ALL, now_s):
            return Refusal.TOTAL_LIMIT
        return Refusal.QUEUE if len(self._open) >= self._places else None

    def _hear(self, payload: str) -> None:
        """A notification names the questions that were answered, of all responders."""
        for text in payload.split(","):
            with suppress(ValueError):
                ticket = self._open.get(bytes.fromhex(text))
                if ticket is not None:
                    ticket.stirred.set()

    async def _carry(self, question_id: bytes, question: Question, ticket: Ticket) -> None:
        """One question, from taking a place to giving it back."""
        assert self._pool is not None  # noqa: S101 - asked before
        pool, response, refusal = self._pool, None, None
        late = asyncio.get_running_loop().call_later(
            self._wait_s + _LAST_LOOK_S, self._finish, ticket, None, Refusal.LATE)
        try:
            if not await live_store.ask(pool, question_id, question, places=self._places,
                                        patience_ms=int(self._wait_s * 1_000)):
                refusal = Refusal.QUEUE
            else:
                await wait_any(ticket.stirred, timeout_s=self._wait_s)
                response = await live_store.take(pool, question_id)
                if response is None:
                    refusal = Refusal.NOT_SIGNED if ticket.stirred.is_set() else Refusal.LATE
        except (PostgresError, *UNAVAILABLE, TimeoutError) as fault:
            self._log.warning("live mode cannot ask", fault=repr(fault))
            refusal = Refusal.DATABASE
        finally:
            late.cancel()
            del self._open[question_id]
            self._finish(ticket, response, refusal)

    def _finish(self, ticket: Ticket, response: bytes | None, refusal: Refusal | None) -> None:
        """The first word counts: an answer that comes too late is nobody's."""
        if ticket.is_done:
            return
        ticket.is_done, ticket.response, ticket.refusal = True, response, refusal
        self._note(ticket.issuer_id, refusal)
        if refusal is None:
            self.metrics.signed += 1
            self.metrics.wait(monotonic() - ticket.begun_s)
        else:
            self.metrics.refused[refusal] += 1
        if refusal is not Refusal.GONE:
            ticket.tell()

    def _note(self, issuer_id: int, refusal: Refusal | None) -> None:
        """Whether somebody signs for an issuer."""
        self._tried.discard(issuer_id)
        if refusal in _FAILURES:
            if issuer_id not in self._away_until_s:
                self._log.warning("nobody signs live; falling back", issuer_id=issuer_id)
            self._away_until_s[issuer_id] = monotonic() + _AWAY_S
        elif refusal in _ANSWERED and self._away_until_s.pop(issuer_id, None) is not None:
            self._log.info("live answers are signed again", issuer_id=issuer_id)

    async def _end(self) -> None:
        """Gives the places back."""
        for ticket in tuple(self._open.values()):
            ticket.stirred.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_PATIENCE_S)


def client_key(address: IpAddress) -> bytes:
    """Who an address is: itself, or the /64 prefix that one subscriber has all of."""
    return address.packed if address.version == 4 else address.packed[:_PREFIX_BYTES]
