"""`chancery run ca`: issues, revokes and makes CRLs until it is told to stop."""

import asyncio

import structlog

from ca.issuing import store
from ca.issuing.crls import CrlPublisher
from ca.issuing.cycle import IssuanceCycle
from ca.issuing.prelint import Prelint
from ca.issuing.revoke import revoke_requested
from ca.issuing.signer import open_signers
from ca.pki.identifier import NamePolicy
from ca.process.ambient import system_ambient
from ca.process.lifecycle import StartupError, ready, run_process
from ca.process.postgres import Listener, Pool, create_pool
from ca.process.settings import Settings
from ca.process.worker import run_claim_loop
from hsm.errors import HsmError
from hsm.thread import HsmThread

_ROLE = "ca_issuer"
_POLL_S = 1.0
_CRL_POLL_S = 10.0


def main(settings: Settings) -> int:
    """Runs the CA; returns the exit code."""

    async def run(stop: asyncio.Event) -> None:
        pool = await create_pool(settings.database, _ROLE, process="ca", max_size=4)
        token = settings.hsm
        try:
            thread = await HsmThread.open(module=token.module, token_label=token.token_label, pin_file=token.pin_file,
                                          conf=token.conf)
        except HsmError as fault:
            await pool.close()
            raise StartupError(str(fault)) from fault
        async with pool, thread:
            await _serve(settings, pool, thread, stop)

    return run_process("ca", run)


def name_policy(settings: Settings) -> NamePolicy:
    """Which names the configuration lets this CA certify."""
    return NamePolicy(internal_suffixes=tuple(settings.ca.internal_suffixes), public=settings.policy == "public",
                      internal_prefixes=tuple(settings.va.allowed_prefixes), allow_loopback=settings.va.allow_loopback)


async def _serve(settings: Settings, pool: Pool, thread: HsmThread, stop: asyncio.Event) -> None:
    log = structlog.get_logger()
    ambient = system_ambient()
    signers = await open_signers(thread, await store.issuers(pool))
    prelint = Prelint(public=settings.policy == "public")
    cycle = IssuanceCycle(pool=pool, thread=thread, signers=signers, prelint=prelint, settings=settings,
                          policy=name_policy(settings), ambient=ambient, log=log)
    crls = CrlPublisher(pool=pool, thread=thread, signers=signers, prelint=prelint,
                        crl_base_url=settings.ca.crl_base_url, ambient=ambient, log=log)
    issue, revoke, publish = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def wake(_: str) -> None:
        issue.set()
        revoke.set()

    async def carry_out_revocations() -> bool:
        worked = await revoke_requested(pool, ambient, log, on_changed=crls.mark_changed)
        if worked:
            publish.set()
        return worked

    await cycle.free_dead_leases()
    async with Listener(settings.database, _ROLE, "ca", {"issuance": wake}):
        # First: the CRL that a certificate names exists before the certificate does.
        await crls.publish_due()
        ready()
        await asyncio.gather(
            run_claim_loop(wake=issue, poll_s=_POLL_S, stop=stop, step=cycle.issue_claimed, log=log),
            run_claim_loop(wake=revoke, poll_s=_POLL_S, stop=stop, step=carry_out_revocations, log=log),
            run_claim_loop(wake=publish, poll_s=_CRL_POLL_S, stop=stop, step=crls.publish_due, log=log))
