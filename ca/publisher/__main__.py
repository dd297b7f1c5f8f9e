"""`chancery run publisher`: submits to Certificate Transparency logs until it is told to stop."""

import asyncio
from datetime import timedelta
from importlib.metadata import version
from typing import Final

import structlog

from ca.pki.ct_log_list import parse_log_list
from ca.process.ambient import system_ambient
from ca.process.lifecycle import StartupError, ready, run_process
from ca.process.postgres import Listener, create_pool
from ca.process.settings import Settings
from ca.process.watched_file import WatchedFile
from ca.process.worker import is_dead, run_claim_loop, worker_name
from ca.publisher import store
from ca.publisher.log_client import LogClient
from ca.publisher.logs import Logs
from ca.publisher.publish import Limits, Publisher

ROLE: Final = "ca_publisher"
_POLL_S: Final = 1.0


def main(settings: Settings) -> int:
    """Runs the publisher; returns the exit code."""
    return run_process("publisher", lambda stop: _run(settings, stop))


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    log = structlog.get_logger()
    if settings.ct.log_list is None:
        raise StartupError("ct.log_list: expected the path of a list of CT logs")
    log_list = WatchedFile(settings.ct.log_list, parse_log_list, log)
    log_list.require_usable("ct.log_list")
    ambient, wake = system_ambient(), asyncio.Event()
    pool = await create_pool(settings.database, ROLE, process="publisher", options=store.SESSION_OPTIONS)
    website = f" (+{settings.acme.website})" if settings.acme.website else ""
    client = LogClient(ambient, user_agent=f"Chancery-Publisher/{version('chancery')}{website}",
                       timeout_s=settings.ct.log_timeout_ms / 1000)
    try:
        async with client, Listener(settings.database, ROLE, "publisher", {"ct_due": lambda _payload: wake.set()}):
            publisher = Publisher(
                pool=pool, ambient=ambient, logs=Logs(client=client, ambient=ambient, log=log),
                log_list=log_list.current, limits=limits_of(settings), log=log, worker=worker_name())
            dead = [worker for worker in await store.lease_holders(pool) if is_dead(worker)]
            await store.free_leases(pool, dead)
            keeping = asyncio.create_task(publisher.keep_leases())
            ready()
            try:
                await run_claim_loop(wake=wake, poll_s=_POLL_S, stop=stop, step=publisher.step, log=log)
            finally:
                keeping.cancel()
                await publisher.drain()
    finally:
        pool.terminate()


def limits_of(settings: Settings) -> Limits:
    """The limits of the configuration."""
    ct = settings.ct
    return Limits(stagger_s=ct.stagger_ms / 1000, race_s=ct.race_timeout_ms / 1000,
                  patience=timedelta(seconds=ct.patience_s), concurrency=ct.concurrency)
