"""`chancery run presign`: claims, signs and publishes until it is told to stop."""

import asyncio

import structlog

from ca.process.ambient import system_ambient
from ca.process.lifecycle import NoRetryError, StartupError, ready, run_process
from ca.process.postgres import Listener, create_pool
from ca.process.settings import Settings
from ca.process.worker import run_claim_loop
from hsm.errors import HsmError, PinRefusedError
from hsm.thread import HsmThread
from ocsp.presign import store
from ocsp.presign.round import Presigner
from ocsp.presign.signer import SignatureFault, open_signer

_ROLE = "ocsp_signer"
_POLL_S = 1.0
_DUE_POLL_S = 5.0


def main(settings: Settings) -> int:
    """Runs the pre-signer; returns the exit code."""

    async def run(stop: asyncio.Event) -> None:
        await _presign(settings, stop)

    return run_process("presign", run)


async def _presign(settings: Settings, stop: asyncio.Event) -> None:
    log = structlog.get_logger()
    token = settings.hsm
    pool = await create_pool(settings.database, _ROLE, process="presign", max_size=4)
    try:
        thread = await HsmThread.open(module=token.module, token_label=token.token_label, pin_file=token.pin_file,
                                      conf=token.conf)
    except HsmError as fault:
        await pool.close()
        raise (NoRetryError if isinstance(fault, PinRefusedError) else StartupError)(str(fault)) from fault
    try:
        async with pool, thread:
            signers = {issuer.id: await open_signer(thread, issuer) for issuer in await store.issuers(pool)}
            if not signers:
                raise StartupError("the database names no issuer: hold the ceremony first (`chancery ceremony run`)")
            presigner = Presigner(pool=pool, thread=thread, signers=signers, settings=settings.ocsp,
                                  ambient=system_ambient(), log=log)
            await presigner.free_dead_leases()
            wake = asyncio.Event()
            async with Listener(settings.database, _ROLE, "presign", {"ocsp_due": lambda _: wake.set()}):
                ready()
                await asyncio.gather(
                    run_claim_loop(wake=wake, poll_s=_POLL_S, stop=stop, step=presigner.sign_requested, log=log),
                    run_claim_loop(wake=asyncio.Event(), poll_s=_DUE_POLL_S, stop=stop, step=presigner.sign_due,
                                   log=log))
    except (HsmError, SignatureFault) as fault:
        raise StartupError(str(fault)) from fault
