"""A pre-signer inside a test, with a gate that can be held."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from ca.process.ambient import Ambient, system_ambient
from ca.process.postgres import Pool, create_pool
from ca.process.settings import OcspSettings
from hsm.key import HsmPrivateKey
from hsm.thread import HsmThread
from ocsp.presign import store
from ocsp.presign.gate import LaneName, SigningGate
from ocsp.presign.live import LiveRound
from ocsp.presign.round import Lane, Presigner
from ocsp.presign.signer import open_signer
from ocsp.protocol.rates import Rates
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase


class HeldGate(SigningGate):
    """A gate in which the test can stop what has been signed, and spoil it."""

    held: asyncio.Event | None = None
    signed = 0
    spoil = False

    async def sign(self, lane: LaneName, key: HsmPrivateKey, messages: Sequence[bytes]) -> list[bytes]:
        """Signs, then waits if it is held."""
        made = await super().sign(lane, key, messages)
        self.signed += len(messages)
        if self.held is not None:
            await self.held.wait()
        return [bytes(len(one)) for one in made] if self.spoil else made


class Bench:
    """A pre-signer inside the test, with a clock that can be moved."""

    def __init__(self, presigner: Presigner, gate: HeldGate, pool: Pool) -> None:
        self.presigner = presigner
        self.gate = gate
        self.pool = pool
        self.live_rates = Rates(per_s=1_000.0, burst=1_000)
        self.live = Lane(pool, lambda: LiveRound(presigner, self.live_rates))

    async def run(self, lane: Lane) -> int:
        """Rounds of one lane until there is nothing to do; returns how many did something."""
        rounds = 0
        lane.wake.set()
        while lane.wake.is_set():
            lane.wake.clear()
            while await lane.step():
                rounds += 1
            await lane.drain()
        return rounds


@asynccontextmanager
async def bench(database: TestDatabase, softhsm: SoftHsm, *, thread: HsmThread | None = None,
                ambient: Ambient | None = None) -> AsyncIterator[Bench]:
    """Opened like the process does it."""
    settings = OcspSettings(listen=[], store_dir=softhsm.pin_file)
    pool = await create_pool(database.settings, "ocsp_signer", process="test", max_size=7, options=store.OPTIONS)
    own = thread or await HsmThread.open(module=softhsm.module, conf=softhsm.conf, pin_file=softhsm.pin_file,
                                         token_label=softhsm.token_label)
    gate = HeldGate(own)
    async with pool:
        try:
            signers = {stored.id: await open_signer(own, stored) for stored in await store.issuers(pool)}
            yield Bench(Presigner(pool=pool, gate=gate, signers=signers, settings=settings, log=structlog.get_logger(),
                                  ambient=ambient or system_ambient()), gate, pool)
        finally:
            if thread is None:
                await own.close()
