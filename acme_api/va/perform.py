"""The work of the process: claim requests, check them side by side, store every outcome in its one transaction.

A request is leased for a minute and the lease is extended while it is worked on, so kill -9 costs a minute and nothing
else: no outcome is half stored, and a result that nobody waits for any more is dropped where it is stored (E79).
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from structlog.typing import FilteringBoundLogger

from acme_api.va.check import Checker
from acme_api.va.lanes import Lanes
from acme_api.va.store import LEASE_S, ClaimedRequest, DatabaseAway, Outcome, VaStore
from ca.pki.object_id import to_text
from ca.process.worker import run_claim_loop, wait_any

_CLAIM_LIMIT: Final = 100
_STORE_LIMIT: Final = 100
_STORE_SLOW_LIMIT: Final = 20
_QUICK_S: Final = 1.0
_EXTEND_LIMIT: Final = 200
_POLL_S: Final = 1.0
_MAX_CLAIMS: Final = 5
"""A request that was claimed more often without an end has broken our own code each time."""
_AFTER_FAULT_S: Final = 5.0
_DRAIN_S: Final = 2.0
_FIRST_BACK_OFF_S: Final = 0.1
_LONGEST_BACK_OFF_S: Final = 5.0


@dataclass(slots=True)
class _Work:
    request: ClaimedRequest
    task: asyncio.Task[None]


class Performer:
    """Runs until it is stopped; then it ends what ends at once and gives the rest back to the queue."""

    def __init__(self, *, store: VaStore, checker: Checker, lanes: Lanes, log: FilteringBoundLogger) -> None:
        self._store = store
        self._checker = checker
        self._lanes = lanes
        self._log = log
        self._work: dict[bytes, _Work] = {}
        self._outcomes = _OutcomeWriter(store, log)
        # A claim may be committed and its answer lost; then its rows are given back instead of waiting for a minute.
        self._claim_lost = False

    async def run(self, *, wake: asyncio.Event, stop: asyncio.Event, poll_s: float = _POLL_S) -> None:
        """Claims and checks until `stop` is set."""
        writing = asyncio.create_task(self._outcomes.run())
        extending = asyncio.create_task(self._extend_leases())
        try:
            await run_claim_loop(wake=wake, poll_s=poll_s, stop=stop, step=lambda: self._step(stop), log=self._log)
            await self._drain()
        finally:
            for task in (writing, extending, *(work.task for work in self._work.values())):
                task.cancel()

    async def _step(self, stop: asyncio.Event) -> bool:
        """Claims as many as may start now. False when the queue had fewer than that."""
        self._lanes.changed.clear()
        limit = min(self._lanes.room, _CLAIM_LIMIT)
        if limit == 0:
            await wait_any(self._lanes.changed, stop, timeout_s=_POLL_S)
            return True
        if self._claim_lost:
            await self._store.release_strays(list(self._work))
        self._claim_lost = True
        requests = await self._store.claim(limit, busy_accounts=self._lanes.busy_accounts())
        self._claim_lost = False
        for request in requests:
            # A lease that ran out under us (a stalled machine) may come back to us: the first run goes on.
            if request.id not in self._work:
                self._work[request.id] = _Work(request, asyncio.create_task(self._perform(request)))
        # Lets each of them take its starting place before the next claim counts what is free.
        await asyncio.sleep(0)
        return len(requests) == limit

    async def _perform(self, request: ClaimedRequest) -> None:
        try:
            async with self._lanes.flight(request.account_id):
                await self._perform_in_flight(request)
        finally:
            del self._work[request.id]

    async def _perform_in_flight(self, request: ClaimedRequest) -> None:
        log = self._log.bind(authorization=to_text(request.authorization_id), kind=request.kind,
                             method=request.challenge_type, identifier=request.identifier_value)
        began = asyncio.get_running_loop().time()
        try:
            if request.obsolete is not None:
                await self._store.drop(request)
                log.info("validation dropped", why=request.obsolete)
                return
            outcome = (self._checker.give_up(request) if request.attempts > _MAX_CLAIMS
                       else await self._checker.check(request))
            await self._outcomes.store(outcome, quick=asyncio.get_running_loop().time() - began < _QUICK_S)
        except Exception:
            log.exception("validation broke", retry_in_s=_AFTER_FAULT_S)
            with suppress(Exception):
                await self._store.release([request.id], after_s=_AFTER_FAULT_S)
            return
        problem = outcome.problem or {}
        log.info("validation ended", valid=outcome.problem is None, type=problem.get("type"),
                 detail=problem.get("detail"))

    async def _extend_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            ids = list(self._work)
            try:
                # In parts: rows that are being extended are locked, and outcomes wait for them.
                for start in range(0, len(ids), _EXTEND_LIMIT):
                    await self._store.extend(ids[start:start + _EXTEND_LIMIT])
            except Exception:
                self._log.exception("leases were not extended")

    async def _drain(self) -> None:
        """Two seconds for what is nearly done; the rest may be claimed by others at once."""
        if self._work:
            await asyncio.wait([work.task for work in self._work.values()], timeout=_DRAIN_S)
        left = dict(self._work)
        for work in left.values():
            work.task.cancel()
        if left:
            await asyncio.gather(*(work.task for work in left.values()), return_exceptions=True)
            await self._store.release(list(left), after_s=0.0, uncounted=1)
            self._log.info("validations given back", count=len(left))


class _OutcomeWriter:
    """Stores outcomes in groups: what has ended while one transaction runs goes into the next one together.

    A commit that notifies is serialised by PostgreSQL with every other such commit, so fewer of them is faster for all.
    Quick ones go first, and few slow ones go with them: names that hung have much evidence and end by the thousand.
    """

    def __init__(self, store: VaStore, log: FilteringBoundLogger) -> None:
        self._store = store
        self._log = log
        self._quick: deque[tuple[Outcome, asyncio.Future[None]]] = deque()
        self._slow: deque[tuple[Outcome, asyncio.Future[None]]] = deque()
        self._some = asyncio.Event()

    async def store(self, outcome: Outcome, *, quick: bool) -> None:
        """Returns when the outcome is committed; raises what the database says against it."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._quick if quick else self._slow).append((outcome, stored))
        self._some.set()
        await stored

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while True:
            await self._some.wait()
            group = [queue.popleft() for queue, limit in ((self._quick, _STORE_LIMIT), (self._slow, _STORE_SLOW_LIMIT))
                     for _ in range(min(len(queue), limit))]
            if not self._quick and not self._slow:
                self._some.clear()
            await self._write([each for each in group if not each[1].done()])

    async def _write(self, group: list[tuple[Outcome, asyncio.Future[None]]]) -> None:
        if not group:
            return
        try:
            wanted = await self._complete([outcome for outcome, _ in group])
        except Exception as fault:
            if len(group) > 1:
                # One that the database refuses must not take the others with it.
                for each in group:
                    await self._write([each])
            else:
                _settle(group[0][1], fault)
            return
        if wanted < len(group):
            self._log.info("late results dropped", count=len(group) - wanted)
        for _, stored in group:
            _settle(stored, None)

    async def _complete(self, outcomes: list[Outcome]) -> int:
        """Waits for a database that is away: what was found out is not lost with a restart of PostgreSQL."""
        back_off_s = _FIRST_BACK_OFF_S
        while True:
            try:
                return await self._store.complete(outcomes)
            except DatabaseAway as fault:
                self._log.warning("outcomes wait for the database", count=len(outcomes), fault=str(fault))
                await asyncio.sleep(back_off_s)
                back_off_s = min(back_off_s * 2, _LONGEST_BACK_OFF_S)


def _settle(stored: asyncio.Future[None], fault: Exception | None) -> None:
    if stored.done():
        return
    if fault is None:
        stored.set_result(None)
    else:
        stored.set_exception(fault)
