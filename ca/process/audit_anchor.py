"""The audit log through a process's life: opened at its start, its head put into the database now and then, closed.

A head in the database shows that a log was cut off later, or written anew.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from ca.process.ambient import Ambient
from ca.process.audit_log import AuditLog, AuditLogError
from ca.process.lifecycle import StartupError
from ca.process.postgres import UNAVAILABLE, Pool, PostgresError
from ca.process.settings import Settings, audit_directory
from ca.process.worker import wait_any

ANCHOR_EVERY_S: Final = 300.0
ANCHOR: Final = "SELECT anchor_audit_head($1, $2, $3)"


@asynccontextmanager
async def open_audit_log(settings: Settings, process: str, ambient: Ambient, **about: Any) -> AsyncIterator[AuditLog]:
    """The audit log of this process; `about` and the program's version go into its first line. Raises StartupError."""
    try:
        log = AuditLog.open(audit_directory(settings), process, now=ambient.now, random_bytes=ambient.random_bytes,
                            version=metadata.version("chancery"), **about)
    except AuditLogError as fault:
        raise StartupError(str(fault)) from fault
    try:
        yield log
    finally:
        await log.close()


async def anchor_heads(pool: Pool, audit: AuditLog, stop: asyncio.Event, log: FilteringBoundLogger) -> None:
    """At once, every five minutes, and at `stop`; a database that is away gets it the next time."""
    anchored = 0
    while True:
        try:
            await audit.flush()
            head = audit.head
            if head.number > anchored:
                await pool.fetchval(ANCHOR, head.chain, head.number, head.digest)
                anchored = head.number
        except (AuditLogError, PostgresError, TimeoutError, *UNAVAILABLE) as fault:
            log.error("the audit log's head is not anchored", fault=str(fault) or type(fault).__name__)
        if stop.is_set():
            return
        await wait_any(stop, timeout_s=ANCHOR_EVERY_S)
