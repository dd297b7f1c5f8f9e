"""One round of whole orders against one server: a number of accounts at once, or a steady rate."""

import asyncio
import ssl
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from loadtest.challenge_server import ChallengeServer
from loadtest.driver_acme import AcmeAccount, AcmeFault, AcmeServer, PreparedOrder, prepare_order
from loadtest.http_connection import HttpFault
from loadtest.poll import PollPolicy
from loadtest.process_cpu import spent_between
from loadtest.report import percentile

_STALL_S = 8.0
_FEWEST_ORDERS = 100
_ORDER_FAULTS = (AcmeFault, HttpFault, OSError, TimeoutError)
NAMES_SUFFIX = "load.localhost"
LOAD_GENERATOR = "load generator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server under test."""

    name: str
    directory_url: str
    tls: ssl.SSLContext | None
    cpu_s: Callable[[], dict[str, float]]


@dataclass(slots=True, kw_only=True)
class Round:
    """What happened in it. Times in seconds, one entry an order that ended in time.

    A server that stopped answering is given the time until its last order.
    """

    accounts: int
    elapsed_s: float = 0.0
    last_order_at: float = 0.0
    orders_s: list[float] = field(default_factory=list)
    validations_s: list[float] = field(default_factory=list)
    finalizations_s: list[float] = field(default_factory=list)
    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    stalled: bool = False
    bad_nonces: int = 0
    cpu_s: dict[str, float] = field(default_factory=dict)
    certificates: list[bytes] = field(default_factory=list)

    @property
    def orders_per_s(self) -> float:
        """Whole orders; NaN when too few ended to say so."""
        if not self.elapsed_s or (self.stalled and len(self.orders_s) < _FEWEST_ORDERS):
            return float("nan")
        return len(self.orders_s) / self.elapsed_s

    def as_json(self) -> dict[str, object]:
        """Figures of the round, without its single orders."""
        return {"accounts": self.accounts, "orders": len(self.orders_s), "elapsed_s": round(self.elapsed_s, 3),
                "orders_per_s": round(self.orders_per_s, 2), "stalled": self.stalled, "faults": dict(self.faults),
                "bad_nonces": self.bad_nonces, "requests": self.requests,
                "order_p50_ms": percentile(self.orders_s, 0.5) * 1e3,
                "order_p99_ms": percentile(self.orders_s, 0.99) * 1e3,
                "validation_p50_ms": percentile(self.validations_s, 0.5) * 1e3,
                "finalize_p50_ms": percentile(self.finalizations_s, 0.5) * 1e3,
                "finalize_p99_ms": percentile(self.finalizations_s, 0.99) * 1e3, "cpu_s": self.cpu_s}


def prepare_orders(count: int) -> list[PreparedOrder]:
    """Names that nobody has asked for before, so that no authorization is reused; keys and CSRs made now."""
    return [prepare_order(f"{uuid.uuid4().hex}.{NAMES_SUFFIX}") for _ in range(count)]


async def open_accounts(target: Target, count: int, challenges: ChallengeServer,
                        polling: PollPolicy) -> list[AcmeAccount]:
    """New accounts, each with its connection. Raises AcmeFault, HttpFault, OSError or TimeoutError."""
    server = await AcmeServer.discover(target.directory_url, target.tls)
    accounts = [AcmeAccount(server, challenges, polling) for _ in range(count)]
    for first in range(0, count, 16):
        await asyncio.gather(*(account.register() for account in accounts[first:first + 16]))
    return accounts


async def closed_round(target: Target, accounts: list[AcmeAccount], orders: list[PreparedOrder], *, seconds_s: float,
                       keep: int = 0) -> Round:
    """Each account does one order after another until the time is over or `orders` are used up.

    Orders that end after the time are not counted. `keep` chains are kept.
    """
    found = Round(accounts=len(accounts))

    async def work(account: AcmeAccount) -> None:
        while orders and time.perf_counter() < deadline:
            await _one_order(account, orders.pop(), found, deadline=deadline, keep=keep)

    started, deadline, cpu_before = _start(target, seconds_s)
    await _watched(asyncio.gather(*(work(account) for account in accounts)), found)
    # Used up before the time: what counts is when the last one ended.
    ended = found.last_order_at if found.stalled else min(time.perf_counter(), deadline)
    _finish(target, accounts, found, ended - started, cpu_before)
    return found


async def paced_round(target: Target, accounts: list[AcmeAccount], orders: list[PreparedOrder], *, per_s: float,
                      seconds_s: float) -> Round:
    """Starts an order every 1/`per_s` seconds with whichever account is free, as clients that know nothing of each
    other do; a server that falls behind is not given fewer orders, as long as accounts are left."""
    found = Round(accounts=len(accounts))
    free: asyncio.Queue[AcmeAccount] = asyncio.Queue()
    for account in accounts:
        free.put_nowait(account)

    async def work(prepared: PreparedOrder) -> None:
        account = await free.get()
        try:
            await _one_order(account, prepared, found, deadline=float("inf"), keep=0)
        finally:
            free.put_nowait(account)

    async def begin_all() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(min(int(per_s * seconds_s), len(orders))):
                await asyncio.sleep(max(0.0, started + number / per_s - time.perf_counter()))
                group.create_task(work(orders.pop()))

    started, _, cpu_before = _start(target, seconds_s)
    await _watched(begin_all(), found)
    _finish(target, accounts, found, time.perf_counter() - started, cpu_before)
    return found


async def _one_order(account: AcmeAccount, prepared: PreparedOrder, found: Round, *, deadline: float,
                     keep: int) -> None:
    try:
        issued = await account.order(prepared)
    except _ORDER_FAULTS as fault:
        found.faults[f"{type(fault).__name__}: {fault}"[:200]] += 1
        account.close()
        return
    if time.perf_counter() > deadline:
        return
    found.last_order_at = time.perf_counter()
    found.orders_s.append(issued.order_s)
    found.validations_s.append(issued.validation_s)
    found.finalizations_s.append(issued.finalize_s)
    found.requests += issued.requests
    if len(found.certificates) < keep:
        found.certificates.append(issued.chain_pem)


def _start(target: Target, seconds_s: float) -> tuple[float, float, dict[str, float]]:
    cpu_before = _cpu_s(target)
    started = time.perf_counter()
    return started, started + seconds_s, cpu_before


def _cpu_s(target: Target) -> dict[str, float]:
    return {**target.cpu_s(), LOAD_GENERATOR: time.process_time()}


def _finish(target: Target, accounts: list[AcmeAccount], found: Round, elapsed_s: float,
            cpu_before: dict[str, float]) -> None:
    found.elapsed_s = elapsed_s
    found.cpu_s = spent_between(cpu_before, _cpu_s(target))
    found.bad_nonces = sum(account.bad_nonces for account in accounts)


async def _watched(work: Awaitable[object], found: Round) -> None:
    """Ends a round in which nothing has happened for a while: a server can deadlock, and Pebble 2.4 does."""
    task = asyncio.ensure_future(work)
    seen, quiet_s = -1, 0.0
    while not task.done():
        done, _ = await asyncio.wait([task], timeout=0.5)
        progress = len(found.orders_s) + sum(found.faults.values())
        quiet_s = 0.0 if progress != seen else quiet_s + 0.5
        seen = progress
        if not done and quiet_s >= _STALL_S:
            found.stalled = True
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            return
    await task
