"""The publisher's work: claim, race, store; then the final certificate, as well as it goes.

kill -9 costs nothing: a submission is claimed again when its lease is freed, and a log answers the same chain with the
same SCT. SCTs are stored before the submission ends, and the CA is told after both.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from structlog.typing import FilteringBoundLogger

from ca.pki.ct_log_list import CtLog, LogList
from ca.pki.ct_policy import Precertificate, VerifiedSct, choose_scts, submission_order, verified_among
from ca.pki.issuer import Issuer, read_issuer
from ca.pki.precertificate import without_poison
from ca.pki.tbs import assemble
from ca.pki.validity import Validity
from ca.process.ambient import Ambient
from ca.process.postgres import Pool
from ca.process.worker import wait_any
from ca.publisher import store
from ca.publisher.logs import Logs
from ca.publisher.race import Race
from ca.publisher.store import Chain, Submission

_FIRST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 30.0
_FIRST_FINAL_RETRY_S: Final = 30.0
_LONGEST_FINAL_RETRY_S: Final = 3_600.0
_FINAL_PATIENCE: Final = timedelta(hours=24)      # Chrome: the final certificate SHOULD be logged within a day
_FINAL_LOGS: Final = 2                            # asked one after the other; one that takes it is enough
_ROOM_POLL_S: Final = 1.0


async def _no_test_watches(_step: int) -> None:
    """In production nothing happens between two steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times of one race, how long a precertificate is tried, how many submissions are under way at once."""

    stagger_s: float
    race_s: float
    patience: timedelta
    concurrency: int


@dataclass(slots=True, kw_only=True)
class Publisher:
    """See the module. `log_list` gives the list in force, or raises ValueError or OSError. `after_step` is where tests
    stop the process between two steps.
    """


    pool: Pool
    ambient: Ambient
    logs: Logs
    log_list: Callable[[], LogList]
    limits: Limits
    log: FilteringBoundLogger
    worker: str
    after_step: Callable[[int], Awaitable[None]] = field(default=_no_test_watches)
    _chains: dict[int, tuple[Issuer, Chain]] = field(default_factory=dict, init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _room: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def step(self) -> bool:
        """Claims as many submissions as there is room for. False when the queue had none."""
        limit = self.limits.concurrency - len(self._tasks)
        if limit <= 0:
            self._room.clear()
            await wait_any(self._room, timeout_s=_ROOM_POLL_S)
            return True
        claimed = await store.claim(self.pool, worker=self.worker, limit=limit)
        for submission in claimed:
            task = asyncio.create_task(self._work(submission))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        return bool(claimed)

    async def settle(self) -> None:
        """Waits for what is under way."""
        await asyncio.gather(*self._tasks)

    async def drain(self) -> None:
        """Ends what is under way: its leases are freed by the next start, and nothing was promised."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def keep_leases(self) -> None:
        """Runs beside the claims, because many races may take longer than a lease."""
        while True:
            await asyncio.sleep(store.LEASE_S / 4)
            try:
                if self._tasks:
                    await store.extend(self.pool, worker=self.worker)
            except Exception:
                self.log.exception("leases were not extended")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.set()

    async def _work(self, submission: Submission) -> None:
        publish = self._publish_precertificate if submission.kind == "precertificate" else self._publish_final
        try:
            if submission.signature is None:
                self.log.error("a submission has no signature behind it", serial=submission.serial.hex())
                await store.end(self.pool, submission, worker=self.worker)
            else:
                await publish(submission, assemble(submission.tbs, submission.signature))
        except Exception:
            self.log.exception("submission failed", serial=submission.serial.hex(), kind=submission.kind)
            try:
                await store.put_off(self.pool, submission, worker=self.worker, after_s=_pause_s(submission.attempts))
            except Exception:
                self.log.exception("submission stays leased", serial=submission.serial.hex())

    async def _publish_precertificate(self, submission: Submission, certificate: bytes) -> None:
        now = self.ambient.now()
        issuer, chain = await self._chain(submission.issuer_id)
        logs = self._fresh_list(now)
        precertificate = Precertificate(
            tbs=without_poison(submission.tbs), not_after=submission.not_after,
            issuer_key_hash=hashlib.sha256(issuer.spki_der).digest(),
            length_s=Validity(not_before=submission.not_before, not_after=submission.not_after).length_s)
        candidates = logs.candidates(submission.not_after)
        whole = (certificate, chain.issuer, *chain.above)
        arrivals: dict[bytes, datetime] = {}

        def is_enough(scts: Sequence[VerifiedSct]) -> bool:
            return choose_scts(scts, needed=precertificate.scts_needed, candidates=candidates) is not None

        async def ask(log: CtLog) -> VerifiedSct | None:
            verified = await self.logs.precertificate_sct(log, whole, precertificate, logs)
            arrivals[log.log_id] = self.ambient.now()
            return verified

        known, _ = verified_among(submission.scts, precertificate, logs, now)
        have = {each.log.log_id for each in known}
        order = [log for log in submission_order(candidates, self.ambient.random_bytes(16))
                 if log.log_id not in have and self.logs.admits(log)]
        # 9. Logs race. 10. What they answered is committed, and then the end of the submission.
        found = await Race(ask=ask, stagger_s=self.limits.stagger_s, total_s=self.limits.race_s).run(
            order, known, is_enough)
        await self.after_step(9)
        new = [each for each in found if each.log.log_id not in have]
        if new:
            await store.store_scts(self.pool, submission.serial,
                                   [(each.log.log_id, arrivals[each.log.log_id], each.data) for each in new])
            await self.after_step(10)
        if is_enough(found):
            await store.end(self.pool, submission, worker=self.worker)
            await store.notify(self.pool, submission.request_id)
        else:
            await self._try_later(submission, scts=len(found), candidates=len(candidates), asked=len(order))

    async def _try_later(self, submission: Submission, **facts: int) -> None:
        """Puts a precertificate off, or gives it up: the CA has refused the order then, or asks anew."""
        if self.ambient.now() - submission.requested_at > self.limits.patience:
            self.log.error("precertificate given up: too few logs have answered", serial=submission.serial.hex(),
                           **facts)
            await store.end(self.pool, submission, worker=self.worker)
            return
        self.log.warning("too few SCTs yet", serial=submission.serial.hex(), **facts)
        await store.put_off(self.pool, submission, worker=self.worker, after_s=_pause_s(submission.attempts))

    async def _publish_final(self, submission: Submission, certificate: bytes) -> None:
        """For a day it is tried: clients need the SCTs that are in the certificate, not this."""
        _, chain = await self._chain(submission.issuer_id)
        now = self.ambient.now()
        candidates = self._fresh_list(now).candidates(submission.not_after)
        order = [log for log in submission_order(candidates, self.ambient.random_bytes(16)) if self.logs.admits(log)]
        for log in order[:_FINAL_LOGS]:
            if await self.logs.takes_final(log, (certificate, chain.issuer, *chain.above)):
                self.log.info("final certificate logged", serial=submission.serial.hex(), log=log.description)
                await store.end(self.pool, submission, worker=self.worker)
                return
        if now - submission.requested_at > _FINAL_PATIENCE:
            self.log.warning("final certificate is not logged after a day", serial=submission.serial.hex())
            await store.end(self.pool, submission, worker=self.worker)
            return
        pause_s = min(_FIRST_FINAL_RETRY_S * 2.0 ** min(submission.attempts - 1, 10), _LONGEST_FINAL_RETRY_S)
        await store.put_off(self.pool, submission, worker=self.worker, after_s=pause_s)

    def _fresh_list(self, now: datetime) -> LogList:
        logs = self.log_list()
        logs.require_fresh(now)
        return logs

    async def _chain(self, issuer_id: int) -> tuple[Issuer, Chain]:
        if issuer_id not in self._chains:
            self._chains = {number: (read_issuer(chain.issuer), chain)
                            for number, chain in (await store.chains(self.pool)).items()}
        return self._chains[issuer_id]


def _pause_s(attempts: int) -> float:
    return min(_FIRST_RETRY_S * 2.0 ** min(attempts - 1, 10), _LONGEST_RETRY_S)
