"""A CA process, a publisher and test logs, in one event loop, on the world's database and token."""

import asyncio
import io
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from cryptography import x509

from ca.issuing import queue_store
from ca.issuing.__main__ import IssuanceTurns
from ca.issuing.cycle import IssuingProcess
from ca.issuing.transparency import Transparency
from ca.pki.ct_log_list import LogList, parse_log_list
from ca.process.ambient import Ambient
from ca.process.postgres import Pool, create_pool
from ca.publisher import store as publisher_store
from ca.publisher.log_client import LogClient
from ca.publisher.logs import Logs
from ca.publisher.publish import Limits, Publisher
from tests.ca.issuing.world import World
from tests.ct_log import CtLogs, Log

PATIENCE = timedelta(minutes=10)


class Killed(BaseException):
    """The process has died: nothing of it runs any more, not even what catches exceptions."""


@dataclass(slots=True)
class TransparentWorld:
    """`ca()` and `publisher()` are new processes; `turn()` lets both do all that can be done at present."""

    world: World
    logs: CtLogs
    pool: Pool
    client: LogClient
    ambient: Ambient
    events: list[dict[str, Any]] = field(default_factory=list)

    def log_list(self) -> LogList:
        """The list of the logs as they are now."""
        return parse_log_list(self.logs.list_json())

    def transparency(self, **changes: Any) -> Transparency:
        """Certificate Transparency that is on."""
        return Transparency(**{"enabled": True, "patience": PATIENCE, "log_list": self.log_list, **changes})

    def ca(self, name: str = "ca", **changes: Any) -> IssuingProcess:
        """A CA process that logs what it issues."""
        return self.world.process(name, transparency=self.transparency(**changes))

    def publisher(self, name: str = "publisher", **changes: Any) -> Publisher:
        """A publisher with short times."""
        log = structlog.wrap_logger(structlog.PrintLogger(io.StringIO()), processors=[self._record])
        limits = Limits(**{"stagger_s": 0.05, "race_s": 30.0, "patience": PATIENCE, "concurrency": 20, **changes})
        return Publisher(
            pool=self.pool, ambient=self.ambient, logs=Logs(client=self.client, ambient=self.ambient, log=log),
            log_list=self.log_list, limits=limits, log=log, worker=f"test-host-{name}:{os.getpid()}")

    def _record(self, _logger: object, _method: str, event: Any) -> str:
        self.events.append(dict(event))
        return ""

    async def turn(self, ca: IssuingProcess, publisher: Publisher) -> None:
        """Everything that is due, and what follows from it, without waiting for a pause to pass."""
        turns = IssuanceTurns(ca)
        worked = True
        while worked:
            worked = await turns.step()
            while await publisher.step():
                worked = True
            await publisher.settle()
            worked = bool(await self.wake_logged()) or worked

    async def turn_once(self, ca: IssuingProcess) -> None:
        """One batch of the CA alone."""
        await IssuanceTurns(ca).step()

    async def wake_logged(self) -> int:
        """What the notifications of the publisher do: requests whose submission has ended may be claimed."""
        return int((await self.world.owner.fetchval("""
            WITH woken AS (
                UPDATE issuance_requests q SET leased_until = '-infinity' FROM issuances i
                WHERE i.request_id = q.id AND q.leased_by IS NULL AND q.leased_until > now()
                    AND EXISTS (SELECT FROM scts WHERE scts.serial = i.serial)
                    AND NOT EXISTS (SELECT FROM ct_submissions s WHERE s.serial = i.serial)
                RETURNING 1)
            SELECT count(*) FROM woken""")) or 0)

    async def let_pauses_pass(self) -> None:
        """Every lease and pause is over."""
        await self.world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
        await self.world.owner.execute("UPDATE ct_submissions SET leased_until = '-infinity'")

    async def scts_of(self, request_id: bytes) -> list[x509.certificate_transparency.SignedCertificateTimestamp]:
        """The SCTs in a request's certificate, as cryptography reads them."""
        certificate = await self.world.issued(request_id)
        found = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
        return list(found.value)

    async def statement(self, text: str, *values: object) -> Any:
        """One value, as the owner of all tables."""
        return await self.world.owner.fetchval(text, *values)


@asynccontextmanager
async def transparent(world: World, logs: Sequence[Log]) -> AsyncIterator[TransparentWorld]:
    """The world with these logs; they take certificates of the world's root alone."""
    root = x509.load_der_x509_certificate(world.root)
    for log in logs:
        log.roots = (root,)
    ambient = Ambient(now=world.now, random_bytes=os.urandom)
    pool = await create_pool(world.database.settings, "ca_publisher", process="publisher",
                             options=publisher_store.SESSION_OPTIONS)
    client = LogClient(ambient, user_agent="Chancery-Tests", timeout_s=20.0)
    try:
        async with CtLogs(logs) as served, client:
            yield TransparentWorld(world, served, pool, client, ambient)
    finally:
        await asyncio.wait_for(pool.close(), 30)


async def free_all(world: World) -> None:
    """What a start does with the leases of dead processes, whoever held them."""
    await queue_store.free_leases(world.pool, await queue_store.lease_holders(world.pool))
