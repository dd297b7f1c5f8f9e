"""`chancery run ca`: issues, revokes and makes CRLs until it is told to stop."""

import asyncio
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from ca.issuing import ct_store, issuer_store, queue_store, revocation_store
from ca.issuing.audit import AuditTrail
from ca.issuing.authorities import Authority, lives, open_authorities
from ca.issuing.breaker import TokenBreaker
from ca.issuing.crls import CrlPublisher
from ca.issuing.cycle import IssuingProcess, issue_batch
from ca.issuing.policy import IssuancePolicy, issuance_policy
from ca.issuing.responders import ResponderCertifier
from ca.issuing.revoke import revoke_requested
from ca.issuing.signer import Signer
from ca.issuing.transparency import Transparency
from ca.pki import lint
from ca.pki.ct_log_list import LogList, LogListError, parse_log_list
from ca.pki.identifier import Identifier, IdentifierError, require_permitted
from ca.pki.ocsp_responder import Delegation
from ca.process.ambient import Ambient, system_ambient
from ca.process.audit_anchor import anchor_heads, open_audit_log
from ca.process.audit_log import AuditLog
from ca.process.lifecycle import NoRetryError, StartupError, ready, run_process
from ca.process.postgres import Listener, Pool, create_pool
from ca.process.settings import Settings
from ca.process.watched_file import WatchedFile
from ca.process.worker import is_dead, run_claim_loop, wait_any, worker_name
from hsm.errors import HsmError, PinRefusedError
from hsm.thread import HsmThread

ROLE: Final = "ca_issuer"
BATCH: Final = 16
_POLL_S: Final = 1.0
_CRL_POLL_S: Final = 10.0
_RESPONDER_POLL_S: Final = 60.0
_MASS_PAUSE_S: Final = 0.1
_RETRY_AFTER_FAULT_S: Final = 1.0
_CAUTIOUS_TURNS: Final = 20
_ISSUERS_EVERY_S: Final = 5.0


def main(settings: Settings) -> int:
    """Runs the CA; returns the exit code."""

    async def run(stop: asyncio.Event) -> None:
        policy = issuance_policy(settings)
        async with (await create_pool(settings.database, ROLE, process="ca",
                                      options=queue_store.SESSION_OPTIONS) as pool,
                    await _open_token(settings) as thread):
            token = await thread.run(lambda: thread.token.info)
            async with open_audit_log(settings, "ca", system_ambient(), token=asdict(token)) as audit_log:
                await _serve(settings, policy, pool, thread, audit_log, stop)

    return run_process("ca", run)


async def _open_token(settings: Settings) -> HsmThread:
    try:
        return await HsmThread.open(module=settings.hsm.module, token_label=settings.hsm.token_label,
                                    pin_file=settings.hsm.pin_file, conf=settings.hsm.conf)
    except PinRefusedError as fault:
        raise NoRetryError(str(fault)) from fault
    except HsmError as fault:
        raise StartupError(str(fault)) from fault


async def _serve(
    settings: Settings, policy: IssuancePolicy, pool: Pool, thread: HsmThread, audit_log: AuditLog, stop: asyncio.Event
) -> None:
    log: FilteringBoundLogger = structlog.get_logger()
    ambient = system_ambient()
    audit = AuditTrail(log=log, file=audit_log)
    breaker = TokenBreaker(thread, log)
    signer = Signer(thread, audit, breaker)
    authorities = await _authorities(pool, thread, ambient.now())
    for authority in authorities.values():
        signer.prepare(authority.issuer)
    _warm_up(policy, precertificates=settings.ct_enabled)
    ca = IssuingProcess(pool=pool, ambient=ambient, policy=policy, transparency=transparency_of(settings, log),
                        authorities=authorities, signer=signer, audit=audit, log=log, worker=worker_name())
    publisher = CrlPublisher(pool=pool, ambient=ambient, policy=policy, authorities=authorities, signer=signer,
                             audit=audit, log=log)
    certifier = ResponderCertifier(
        pool=pool, ambient=ambient, authorities=authorities, signer=signer, audit=audit, log=log,
        delegation=Delegation(rule=settings.delegation_rule(), delegated=settings.ocsp.delegated_issuers,
                              direct=settings.ocsp.direct_issuers))
    await _free_dead_leases(pool)
    turns = IssuanceTurns(ca)
    issue, revoke = asyncio.Event(), asyncio.Event()

    def logged(request_id: str) -> None:
        turns.wake(request_id)
        issue.set()

    def looked(payload: str) -> None:
        if ca.caa_waits.looked(payload):
            issue.set()

    await publisher.publish_missing()
    async with (Listener(settings.database, ROLE, "ca", {
            "issuance": lambda _: issue.set(), "scts": logged, "caa_checked": looked,
            "revocation": lambda _: revoke.set(),
            "ocsp_responder_key": lambda _: certifier.wake.set()}),
            asyncio.TaskGroup() as tasks):
        tasks.create_task(run_claim_loop(wake=issue, poll_s=_POLL_S, stop=stop, step=turns.step, log=log))
        tasks.create_task(run_claim_loop(wake=revoke, poll_s=_POLL_S, stop=stop, log=log,
                                         step=lambda: revocation_step(pool, ambient, audit, publisher, log)))
        tasks.create_task(run_claim_loop(wake=publisher.wake, poll_s=_CRL_POLL_S, stop=stop, log=log,
                                         step=lambda: _publish(publisher, stop)))
        tasks.create_task(run_claim_loop(wake=certifier.wake, poll_s=_RESPONDER_POLL_S, stop=stop, log=log,
                                         step=certifier.certify_due))
        tasks.create_task(breaker.watch(stop))
        tasks.create_task(anchor_heads(pool, audit_log, stop, log))
        tasks.create_task(_follow_issuers(pool, thread, authorities, signer, publisher, stop, log))
        ready()


class IssuanceTurns:
    """Turns of the cycle. After a fault, requests are taken one by one for a while, so that one which breaks the
    database's rules cannot hold up those that were claimed with it."""

    def __init__(self, ca: IssuingProcess, breaker: TokenBreaker | None = None) -> None:
        self._ca = ca
        self._breaker = breaker
        self._cautious_turns = 0
        self._logged: set[bytes] = set()

    def wake(self, request_id: str) -> None:
        """The publisher has stored the SCTs of a request, by its id in hexadecimal digits; anything else is ignored,
        because a request that waits comes back by itself."""
        with suppress(ValueError):
            self._logged.add(bytes.fromhex(request_id))

    async def step(self) -> bool:
        """One batch; whether more may be waiting. A fault gives the claimed requests back for another try soon, and is
        raised. While the token is away nothing is claimed: another process may have a token that answers."""
        if self._breaker is not None and self._breaker.is_open:
            return False
        try:
            if self._logged:
                logged, self._logged = self._logged, set()
                await ct_store.wake(self._ca.pool, list(logged))
            if looked := self._ca.caa_waits.take_ready():
                await queue_store.wake(self._ca.pool, looked, worker=self._ca.worker)
            most = 1 if self._cautious_turns else BATCH
            claimed = await issue_batch(self._ca, most)
        except Exception:
            self._cautious_turns = _CAUTIOUS_TURNS
            await queue_store.give_back(self._ca.pool, worker=self._ca.worker, after_s=_RETRY_AFTER_FAULT_S)
            raise
        self._cautious_turns = max(0, self._cautious_turns - 1)
        # A batch that is not full has emptied the queue: what comes behind it has a wake-up of its own.
        return claimed == most


def transparency_of(settings: Settings, log: FilteringBoundLogger) -> Transparency:
    """Certificate Transparency as it is configured. Raises StartupError when it is on and the list cannot be used."""
    if settings.policy == "public" and not settings.ct_enabled:
        log.warning("certificates are not logged, and browsers accept none of them", setting="[ct] enabled = false",
                    policy=settings.policy)
    patience = timedelta(seconds=settings.ct.patience_s)
    if settings.ct.log_list is None:
        return Transparency(enabled=False, patience=patience, log_list=_no_log_list)
    watched = WatchedFile(settings.ct.log_list, parse_log_list, log)
    if settings.ct_enabled:
        watched.require_usable("ct.log_list")
    return Transparency(enabled=settings.ct_enabled, patience=patience, log_list=watched.current)


def _no_log_list() -> LogList:
    raise LogListError("Certificate Transparency is off, and no list of logs is configured")


async def revocation_step(
    pool: Pool, ambient: Ambient, audit: AuditTrail, publisher: CrlPublisher, log: FilteringBoundLogger
) -> bool:
    """Carries out a batch of revocations; whether to come again at once."""
    changed = await revoke_requested(pool, ambient, audit, log)
    publisher.mark(changed or [])
    publisher.more_to_come = await revocation_store.mass_is_open(pool)
    if changed is None and publisher.more_to_come:
        # One that waits for the pre-signer goes on as soon as there is room: nobody would wake us for it.
        await asyncio.sleep(_MASS_PAUSE_S)
    return changed is not None or publisher.more_to_come


async def _publish(publisher: CrlPublisher, stop: asyncio.Event) -> bool:
    if publisher.is_marked():
        await publisher.settle(stop)
    return await publisher.publish_due()


async def _authorities(pool: Pool, thread: HsmThread, now: datetime) -> dict[int, Authority]:
    return await thread.run(open_authorities, thread.token, await issuer_store.issuers(pool), now)


async def _follow_issuers(
    pool: Pool, thread: HsmThread, authorities: dict[int, Authority], signer: Signer, publisher: CrlPublisher,
    stop: asyncio.Event, log: FilteringBoundLogger,
) -> None:
    """Takes up issuers of a new ceremony while the process runs: its key, then its first CRLs, which let an operator
    activate it."""
    ambient = system_ambient()
    while not stop.is_set():
        await wait_any(stop, timeout_s=_ISSUERS_EVERY_S)
        try:
            for row in await issuer_store.issuers(pool):
                if row.id in authorities or stop.is_set() or not lives(row, ambient.now()):
                    continue
                opened = await thread.run(open_authorities, thread.token, [row], ambient.now())
                await asyncio.to_thread(signer.prepare, opened[row.id].issuer)
                authorities[row.id] = opened[row.id]
                await publisher.publish_missing()
                log.info("a new issuer", issuer=row.name)
        except Exception as fault:
            log.error("an issuer cannot be taken up", fault=str(fault))


def _warm_up(policy: IssuancePolicy, *, precertificates: bool) -> None:
    """What the first certificate should not wait for: the linters, the public suffix list."""
    lint.warm_up(precertificates=precertificates)
    with suppress(IdentifierError):
        require_permitted(Identifier(type="dns", value="a.example"), policy.names)


async def _free_dead_leases(pool: Pool) -> None:
    """Takes back at once what a killed process of this host held."""
    dead = [worker for worker in await queue_store.lease_holders(pool) if is_dead(worker)]
    if dead:
        await queue_store.free_leases(pool, dead)
