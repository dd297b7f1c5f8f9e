"""`chancery run presign`: claims, signs and publishes until it is told to stop."""

import asyncio
import gc
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta

import structlog
from structlog.typing import FilteringBoundLogger

from ca.pki.ocsp_responder import Delegation
from ca.process.ambient import system_ambient
from ca.process.audit_anchor import anchor_heads, open_audit_log
from ca.process.audit_log import AuditLog
from ca.process.lifecycle import NoRetryError, StartupError, ready, run_process
from ca.process.postgres import Listener, Pool, create_pool
from ca.process.settings import Settings
from ca.process.worker import run_claim_loop, wait_any
from hsm.errors import HsmError, PinRefusedError
from hsm.thread import HsmThread
from ocsp.presign import store
from ocsp.presign.gate import SigningGate
from ocsp.presign.live import LiveRound
from ocsp.presign.round import Lane, Presigner
from ocsp.presign.signers import Signers, living
from ocsp.presign.tell import tell
from ocsp.protocol.rates import Rates
from ocsp.protocol.schedule import ScheduleError, require_lawful

_ROLE = "ocsp_signer"
_POLL_S = 1.0
_DUE_POLL_S = 5.0
_ISSUERS_EVERY_S = 30.0
# Three lanes with two rounds each, the issuers, the audit log's head, and what is told of this process.
_CONNECTIONS = 9
# One lane more.
_LIVE_CONNECTIONS = 2
# Who asks waits for a second: only what a notification was lost for is found by this.
_LIVE_POLL_S = 5.0
# A round whose process hangs gives its rows back after this time; it signs for seconds.
_ROUND_LIMIT_MS = 300_000
# How long one thread may keep the interpreter from the other: the token's thread needs it between two signatures.
_SWITCH_S = 0.0005


def main(settings: Settings) -> int:
    """Runs the pre-signer; returns the exit code."""

    async def run(stop: asyncio.Event) -> None:
        sys.setswitchinterval(_SWITCH_S)
        await _presign(settings, stop)

    return run_process("presign", run)


async def _presign(settings: Settings, stop: asyncio.Event) -> None:
    try:
        require_lawful(life=timedelta(seconds=settings.ocsp.response_life_s),
                       age=timedelta(seconds=settings.ocsp.resign_age_s))
    except ScheduleError as fault:
        raise StartupError(f"ocsp.response_life_s, ocsp.resign_age_s: {fault}") from fault
    token = settings.ocsp_hsm or settings.hsm
    delegation = Delegation(rule=settings.delegation_rule(), delegated=settings.ocsp.delegated_issuers,
                            direct=settings.ocsp.direct_issuers)
    pool = await create_pool(settings.database, _ROLE, process="presign",
                             max_size=_CONNECTIONS + (_LIVE_CONNECTIONS if settings.ocsp.live else 0),
                             options={"idle_in_transaction_session_timeout": str(_ROUND_LIMIT_MS)} | store.OPTIONS)
    async with pool:
        try:
            # Only where a responder's key may have to be made does this process open the token for writing.
            issuers = living(await store.issuers(pool), system_ambient().now())
            thread = await HsmThread.open(
                module=token.module, token_label=token.token_label, pin_file=token.pin_file, conf=token.conf,
                writable=any(delegation.holds_for(issuer, stored.name) for stored, issuer in issuers))
        except HsmError as fault:
            raise (NoRetryError if isinstance(fault, PinRefusedError) else StartupError)(str(fault)) from fault
        except ValueError as fault:
            raise StartupError(str(fault)) from fault
        async with thread:
            about = asdict(await thread.run(lambda: thread.token.info))
            async with open_audit_log(settings, "presign", system_ambient(), token=about) as audit_log:
                await _sign(settings, delegation, pool, thread, audit_log, stop)


async def _sign(
    settings: Settings, delegation: Delegation, pool: Pool, thread: HsmThread, audit_log: AuditLog, stop: asyncio.Event
) -> None:
    log: FilteringBoundLogger = structlog.get_logger()
    ambient = system_ambient()
    signers = Signers(pool=pool, thread=thread, delegation=delegation, ambient=ambient, log=log)
    await _open(signers)
    presigner = Presigner(pool=pool, gate=SigningGate(thread, audit_log), signers=signers.by_issuer,
                          settings=settings.ocsp, ambient=ambient, log=log)
    certified, again = asyncio.Event(), asyncio.Event()

    def wake(payload: str) -> None:
        """A look in vain costs three statements, so who knows says what is due: `new` or `changed`."""
        if payload != "new":
            presigner.changed.wake.set()
        if payload != "changed":
            presigner.new.wake.set()

    lanes = [(presigner.changed, presigner.changed.full_step, _POLL_S),
             (presigner.new, presigner.new.full_step, _POLL_S), (presigner.due, presigner.due.step, _DUE_POLL_S)]
    channels = {"ocsp_due": wake, "ocsp_responder": lambda _: certified.set(), "ocsp_resign": lambda _: again.set()}
    if settings.ocsp.live:
        rates = Rates(per_s=settings.ocsp.live_per_s, burst=settings.ocsp.live_burst)
        live = Lane(pool, lambda: LiveRound(presigner, rates))
        lanes.append((live, live.full_step, _LIVE_POLL_S))
        channels["ocsp_live"] = lambda _: live.wake.set()
    async with Listener(settings.database, _ROLE, "presign", channels), asyncio.TaskGroup() as tasks:
        for lane, step, poll_s in lanes:
            tasks.create_task(run_claim_loop(wake=lane.wake, poll_s=poll_s, stop=stop, step=step, log=log))
        tasks.create_task(_follow_issuers(signers, certified, wake, stop, log))
        tasks.create_task(tell(pool, presigner, again, stop, log))
        tasks.create_task(anchor_heads(pool, audit_log, stop, log))
        # What is here now stays: no later collection has to look at it again.
        gc.collect()
        gc.freeze()
        ready()
    for lane, _, _ in lanes:
        await lane.drain()


async def _open(signers: Signers) -> None:
    try:
        found = await signers.open()
    except (HsmError, ValueError) as fault:
        raise StartupError(str(fault)) from fault
    if not found:
        raise StartupError("the database names no issuer with a valid certificate: hold the ceremony first "
                           "(`chancery ceremony`; `chancery demo` does it by itself)")


async def _follow_issuers(
    signers: Signers, certified: asyncio.Event, wake: Callable[[str], None], stop: asyncio.Event,
    log: FilteringBoundLogger,
) -> None:
    """A ceremony may add an issuer, and its key, while this process runs; the CA certifies and renews responders."""
    while not stop.is_set():
        await wait_any(certified, stop, timeout_s=_ISSUERS_EVERY_S)
        certified.clear()
        if stop.is_set():
            return
        before = dict(signers.by_issuer)
        try:
            await signers.refresh()
        except Exception as fault:
            log.error("issuers cannot be looked up", fault=str(fault))
        if signers.by_issuer != before:
            wake("")
