"""`chancery run va`: the validation authority's process, wired from the settings."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

import structlog

from acme_api.protocol.directory import account_url
from acme_api.va.check import Checker
from acme_api.va.lanes import Lanes
from acme_api.va.look import Looker
from acme_api.va.perform import Performer
from acme_api.va.perspectives import Perspectives
from acme_api.va.remotes import keep_probing, make_perspectives
from acme_api.va.store import VaStore
from acme_api.va.wiring import make_lanes, make_methods, primary
from ca.process.ambient import Ambient, system_ambient
from ca.process.garbage import collect_when_idle
from ca.process.lifecycle import ready, run_process
from ca.process.postgres import Listener, create_pool
from ca.process.settings import Settings
from ca.process.worker import is_dead, worker_name

ROLE: Final = "acme_va"
_FEW_IN_HAND: Final = 100


def main(settings: Settings) -> int:
    """Validates until it is told to stop; the exit code."""
    return run_process("va", lambda stop: _run(settings, stop))


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    ambient = system_ambient()
    lanes = make_lanes(settings.va)
    perspectives = make_perspectives(settings, ambient)
    checker = make_checker(settings, ambient, lanes, perspectives)
    wake = asyncio.Event()
    pool = await create_pool(settings.database, ROLE, process="va")
    probing: asyncio.Task[None] | None = None
    try:
        store = VaStore(pool, leased_by=f"{worker_name()}:{ambient.random_bytes(8).hex()}")
        dead = [worker for worker in await store.lease_holders() if is_dead(worker)]
        if dead:
            await store.free_dead(dead)
        if perspectives is not None:
            probing = asyncio.create_task(keep_probing(perspectives, store, settings.perspectives.probe_interval_s))
        performer = Performer(store=store, checker=checker, lanes=lanes, log=structlog.get_logger())
        async with Listener(settings.database, ROLE, "va", {"validation": lambda _payload: wake.set()}):
            ready()
            collecting = asyncio.create_task(collect_when_idle(lambda: lanes.in_flight < _FEW_IN_HAND))
            try:
                await performer.run(wake=wake, stop=stop)
            finally:
                collecting.cancel()
    finally:
        if probing is not None:
            probing.cancel()
            with suppress(asyncio.CancelledError):
                await probing
        if perspectives is not None:
            await perspectives.close()
        pool.terminate()


def make_checker(
    settings: Settings, ambient: Ambient, lanes: Lanes, perspectives: Perspectives | None = None
) -> Checker:
    """Everything that the settings say about how names are validated. Raises StartupError when they cannot be right."""
    return Checker(
        looker=Looker(methods=make_methods(primary(settings), ambient), lanes=lanes), ambient=ambient,
        account_url=lambda account_id: account_url(settings.acme.base_url, account_id),
        reuse=timedelta(seconds=settings.va.validation_reuse_s), persist=bool(settings.va.dns_persist_profiles),
        subdomains=settings.va.subdomains,
        corroborate=None if perspectives is None else perspectives.corroborate)
