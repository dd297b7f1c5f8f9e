"""`chancery run presign`: claims, signs and publishes until it is told to stop."""

import asyncio
import sys
from collections.abc import Mapping
from datetime import timedelta

import structlog
from structlog.typing import FilteringBoundLogger

from ca.pki.issuer import read_issuer
from ca.pki.key_identifier import key_identifier
from ca.process.ambient import Ambient, system_ambient
from ca.process.lifecycle import NoRetryError, StartupError, ready, run_process
from ca.process.postgres import Listener, Pool, create_pool
from ca.process.settings import Settings
from ca.process.worker import run_claim_loop, wait_any
from hsm.errors import HsmError, PinRefusedError
from hsm.thread import HsmThread
from hsm.token import Token
from ocsp.presign import store
from ocsp.presign.gate import SigningGate
from ocsp.presign.round import Presigner
from ocsp.presign.signer import IssuerSigner, open_signer
from ocsp.protocol.schedule import ScheduleError, require_lawful

_ROLE = "ocsp_signer"
_POLL_S = 1.0
_DUE_POLL_S = 5.0
_ISSUERS_EVERY_S = 30.0
# Three lanes with two rounds each, and the issuers.
_CONNECTIONS = 7
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
    token = settings.hsm
    pool = await create_pool(settings.database, _ROLE, process="presign", max_size=_CONNECTIONS,
                             options={"idle_in_transaction_session_timeout": str(_ROUND_LIMIT_MS)})
    async with pool:
        try:
            thread = await HsmThread.open(module=token.module, token_label=token.token_label, pin_file=token.pin_file,
                                          conf=token.conf)
        except HsmError as fault:
            raise (NoRetryError if isinstance(fault, PinRefusedError) else StartupError)(str(fault)) from fault
        async with thread:
            await _sign(settings, pool, thread, stop)


async def _sign(settings: Settings, pool: Pool, thread: HsmThread, stop: asyncio.Event) -> None:
    log: FilteringBoundLogger = structlog.get_logger()
    ambient = system_ambient()
    presigner = Presigner(pool=pool, gate=SigningGate(thread), signers=await _open_all(pool, thread, ambient),
                          settings=settings.ocsp, ambient=ambient, log=log)

    def wake(_payload: str) -> None:
        presigner.changed.wake.set()
        presigner.new.wake.set()

    lanes = ((presigner.changed, _POLL_S), (presigner.new, _POLL_S), (presigner.due, _DUE_POLL_S))
    async with Listener(settings.database, _ROLE, "presign", {"ocsp_due": wake}), asyncio.TaskGroup() as tasks:
        for lane, poll_s in lanes:
            tasks.create_task(run_claim_loop(wake=lane.wake, poll_s=poll_s, stop=stop, step=lane.step, log=log))
        tasks.create_task(_find_new_issuers(pool, thread, presigner, stop, log))
        ready()
    for lane, _ in lanes:
        await lane.drain()


async def _open_all(pool: Pool, thread: HsmThread, ambient: Ambient) -> Mapping[int, IssuerSigner]:
    """Every issuer that has not expired, with its key. Raises StartupError when there is none, or a key is missing."""
    try:
        signers = {stored.id: await open_signer(thread, stored) for stored in await store.issuers(pool)
                   if _lives(stored, ambient)}
        await thread.run(_require_no_root_key, thread.token, list(signers.values()))
    except (HsmError, ValueError) as fault:
        raise StartupError(str(fault)) from fault
    if not signers:
        raise StartupError("the database names no issuer with a valid certificate: hold the ceremony first "
                           "(`chancery ceremony`; `chancery demo` does it by itself)")
    return signers


def _lives(stored: store.StoredIssuer, ambient: Ambient) -> bool:
    return read_issuer(stored.certificate).validity.not_after > ambient.now()


def _require_no_root_key(token: Token, signers: list[IssuerSigner]) -> None:
    """Raises ForeignKeyError when a key that signed an issuer's certificate is in reach (spec/pki.md 8.4)."""
    roots = {signer.issuer.authority_key_id for signer in signers}
    token.require_without([listing.spki for listing in token.list_keys()
                           if listing.spki is not None and key_identifier(listing.spki) in roots])


async def _find_new_issuers(pool: Pool, thread: HsmThread, presigner: Presigner, stop: asyncio.Event,
                            log: FilteringBoundLogger) -> None:
    """A ceremony may add an issuer, and its key, while this process runs."""
    while not stop.is_set():
        await wait_any(stop, timeout_s=_ISSUERS_EVERY_S)
        try:
            for stored in await store.issuers(pool):
                if stored.id not in presigner.signers and _lives(stored, presigner.ambient) and not stop.is_set():
                    presigner.signers[stored.id] = await open_signer(thread, stored)
                    log.info("a new issuer", issuer=stored.name)
        except Exception as fault:
            log.error("an issuer cannot be signed for", fault=str(fault))
