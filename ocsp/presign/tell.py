"""What a pre-signer says of itself in the database, so that others can foretell when the backlog is done, and what it
is told there: that everything has to be signed again."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

from structlog.typing import FilteringBoundLogger

from ca.process.postgres import UNAVAILABLE, Pool, PostgresError
from ca.process.worker import wait_any, worker_name
from ocsp.presign import store
from ocsp.presign.round import Presigner

_EVERY_S: Final = 5.0
_GONE_AFTER: Final = timedelta(seconds=15)
_FORGOTTEN_AFTER: Final = timedelta(days=1)


async def tell(
    pool: Pool, presigner: Presigner, again: asyncio.Event, stop: asyncio.Event, log: FilteringBoundLogger
) -> None:
    """Every five seconds, and when `again` is set, until `stop`."""
    worker = worker_name()
    while not stop.is_set():
        again.clear()
        now = presigner.ambient.now()
        try:
            if await store.sign_again(pool, now=now):
                presigner.due.wake.set()
            await store.count_range(pool, now=now)
            await store.show_signer(pool, worker=worker, speeds=presigner.speeds(), now=now)
            presigner.sharers = max(1, await store.count_signers(pool, since=now - _GONE_AFTER))
        except (PostgresError, *UNAVAILABLE, TimeoutError) as fault:
            log.warning("the database does not answer", fault=repr(fault))
        await wait_any(again, stop, timeout_s=_EVERY_S)
    with suppress(PostgresError, *UNAVAILABLE, TimeoutError):
        await store.forget_signers(pool, worker=worker, before=presigner.ambient.now() - _FORGOTTEN_AFTER)
