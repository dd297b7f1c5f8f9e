"""Hostile names beside honest ones: 10,000 validations pending at once, half of which hang, must not delay the others.

Requests are put into the queue of the validation authority as the front end puts them there, and the clock of each runs
until the authority announces its outcome. Those that hang take turns: a resolver that never answers, a web server that
takes the question and says nothing, and one that sends an octet a second. Control, in the same run: as many names, of
which none hangs. Then single names come at a steady rate, while the others still hang and when nothing does.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from loadtest.challenge_server import HANGING_HOSTS, TRICKLING_HOSTS
from loadtest.chancery_process import Chancery
from loadtest.database import Connection, connected
from loadtest.driver_acme import base64url
from loadtest.process_cpu import spent_between
from loadtest.program import ProgramFault
from loadtest.report import Row, median, percentile
from loadtest.session import Session, Steps
from loadtest.synthetic import require_own
from loadtest.targets import OTHERS_BESIDE_HANGING

_SCENARIO = "validation"
_ACCOUNTS = 100
_THUMBPRINT = bytes(range(32))
_RAW_TOKEN = bytes(range(32, 64))
_TOKEN = base64url(_RAW_TOKEN)
_KEY_AUTHORIZATION = f"{_TOKEN}.{base64url(_THUMBPRINT)}"
_HANGING_NAMES = (f"{HANGING_HOSTS}{{}}.localhost", f"{TRICKLING_HOSTS}{{}}.localhost", "mute{}.load.example")
_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationOptions:
    """How many are pending at once, half of them hanging; how many a second come afterwards, and for how long."""

    pending: int
    rate_per_s: int
    seconds_s: float
    rounds: int


@dataclass(slots=True)
class _Clock:
    """When each authorization's request was queued, and how long its outcome took, by hexadecimal id."""

    queued_at: dict[str, float] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def on_changed(self, *notification: object) -> None:
        """A notification of the channel `changed`."""
        payload = str(notification[-1])
        queued_at = self.queued_at.get(payload)
        if queued_at is not None and payload not in self.took_s:
            self.took_s[payload] = time.perf_counter() - queued_at
            self.ended.set()

    async def wait_for(self, ids: Sequence[str]) -> list[float]:
        """How long each took, in milliseconds. Raises ProgramFault when nothing ends for a long time."""
        while any(each not in self.took_s for each in ids):
            self.ended.clear()
            try:
                await asyncio.wait_for(self.ended.wait(), _PATIENCE_S)
            except TimeoutError as fault:
                left = sum(each not in self.took_s for each in ids)
                raise ProgramFault(f"{left} of {len(ids)} validations have no outcome") from fault
        return [self.took_s[each] * 1000 for each in ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Milliseconds of each honest name in one round, and processor seconds of the authority."""

    alone: list[float]
    beside: list[float]
    steady_quiet: list[float]
    steady_beside: list[float]
    alone_cpu_s: float
    beside_cpu_s: float


async def run_validation(session: Session, options: ValidationOptions) -> None:
    """Measures and adds rows. Raises ProgramFault when Chancery or its database cannot be reached."""
    chancery = await session.chancery()
    require_own(chancery)
    session.challenges.publish(_TOKEN, _KEY_AUTHORIZATION)
    rounds = []
    async with connected(chancery) as connection, connected(chancery) as listening:
        clock = _Clock()
        accounts = await _open_accounts(connection)
        await listening.add_listener("changed", clock.on_changed)
        with session.steps("validation", options.rounds * 4) as steps:
            for number in range(options.rounds):
                rounds.append(await _round(chancery, connection, clock, accounts, options, steps, number))
        succeeded = await connection.fetchval(
            "SELECT count(*) FROM validations WHERE problem IS NULL AND account_id = ANY($1)", accounts)
        hung = await connection.fetchval("SELECT count(*) FROM validations WHERE problem IS NOT NULL")
    _report(session, options, rounds, succeeded, hung)


async def _round(
    chancery: Chancery, connection: Connection, clock: _Clock, accounts: Sequence[bytes], options: ValidationOptions,
    steps: Steps, number: int,
) -> _Measured:
    honest, hanging = options.pending - options.pending // 2, options.pending // 2
    titles = iter(("none hangs", "half of them hang", "single names beside those that hang", "single names alone"))

    def now() -> None:
        steps.now(f"validation, round {number + 1} of {options.rounds}: {next(titles)}")

    now()
    async with _cpu_of(chancery) as alone_cpu:
        ids = await _queue(connection, clock, accounts, [f"good{each}.localhost" for each in range(options.pending)])
        alone = await clock.wait_for(ids)
    steps.done()
    now()
    names = [f"good{each}.localhost" for each in range(honest)] + [
        _HANGING_NAMES[each % len(_HANGING_NAMES)].format(each) for each in range(hanging)]
    random.shuffle(names)
    async with _cpu_of(chancery) as beside_cpu:
        ids = await _queue(connection, clock, accounts, names)
        beside = await clock.wait_for(
            [each for each, name in zip(ids, names, strict=True) if name.startswith("good")])
    steps.done()
    now()
    steady_beside = await _steady(connection, clock, accounts, options)
    steps.done()
    now()
    await _until_queue_is_empty(connection)
    steady_quiet = await _steady(connection, clock, accounts, options)
    steps.done()
    return _Measured(alone=alone, beside=beside, steady_quiet=steady_quiet, steady_beside=steady_beside,
                     alone_cpu_s=alone_cpu[0], beside_cpu_s=beside_cpu[0])


@contextlib.asynccontextmanager
async def _cpu_of(chancery: Chancery) -> AsyncIterator[list[float]]:
    """Processor seconds of the validation authority, in the list when the block is over."""
    before = chancery.cpu_s()
    spent: list[float] = []
    yield spent
    spent.append(spent_between(before, chancery.cpu_s()).get("va", 0.0))


async def _open_accounts(connection: Connection) -> list[bytes]:
    ids = [_new_id() for _ in range(_ACCOUNTS)]
    await connection.executemany(
        "INSERT INTO accounts (id, created_at, thumbprint, jwk) VALUES ($1, now(), $2, '{}')",
        [(each, os.urandom(32)) for each in ids])
    return ids


def _new_id() -> bytes:
    return int(time.time() * 1000).to_bytes(6, "big") + os.urandom(16)


async def _queue(
    connection: Connection, clock: _Clock, accounts: Sequence[bytes], names: Sequence[str]
) -> list[str]:
    """Authorizations and requests for the names, in one transaction as the front end's many are in many; the ids."""
    now, expires_at = datetime.now(UTC), datetime.now(UTC) + timedelta(hours=1)
    made = [(_new_id(), accounts[number % len(accounts)], name) for number, name in enumerate(names)]
    async with connection.transaction():
        await connection.copy_records_to_table("authorizations", records=[
            (each, account, "dns", name, False, expires_at, 1, _RAW_TOKEN) for each, account, name in made],
            columns=["id", "account_id", "identifier_type", "identifier_value", "wildcard", "expires_at",
                     "challenge_types", "challenge_tokens"])
        await connection.copy_records_to_table("validation_requests", records=[
            (_new_id(), "challenge", each, account, "http-01", _THUMBPRINT, now) for each, account, _ in made],
            columns=["id", "kind", "authorization_id", "account_id", "challenge_type", "thumbprint", "requested_at"])
        await connection.execute("NOTIFY validation")
        queued_at = time.perf_counter()
        for each, _, _ in made:
            clock.queued_at[each.hex()] = queued_at
    return [each.hex() for each, _, _ in made]


async def _steady(
    connection: Connection, clock: _Clock, accounts: Sequence[bytes], options: ValidationOptions
) -> list[float]:
    """One name after the other, at a rate that does not wait for outcomes."""
    ids: list[str] = []
    began = time.perf_counter()
    for number in range(int(options.rate_per_s * options.seconds_s)):
        await asyncio.sleep(max(0.0, began + number / options.rate_per_s - time.perf_counter()))
        ids += await _queue(connection, clock, accounts[number % len(accounts):], [f"good{number}.localhost"])
    return await clock.wait_for(ids)


async def _until_queue_is_empty(connection: Connection) -> None:
    give_up_at = time.perf_counter() + _PATIENCE_S
    while await connection.fetchval("SELECT EXISTS (SELECT FROM validation_requests)"):
        if time.perf_counter() > give_up_at:
            raise ProgramFault("the validations that hang have no end")
        await asyncio.sleep(0.2)


def _report(
    session: Session, options: ValidationOptions, rounds: Sequence[_Measured], succeeded: int, hung: int
) -> None:
    def p99(values: Sequence[Sequence[float]]) -> float | None:
        return median([percentile(each, 0.99) for each in values])

    half = options.pending // 2
    session.report.add(Row(
        scenario=_SCENARIO, figure=f"p99 of {options.pending - half} names while {half} others hang", unit="ms",
        value=p99([each.beside for each in rounds]), peer=f"{options.pending} names, none hangs",
        peer_value=p99([each.alone for each in rounds]), target=OTHERS_BESIDE_HANGING))
    session.report.add(Row(
        scenario=_SCENARIO, figure=f"p99 of single names, {options.rate_per_s}/s, while {half} others hang", unit="ms",
        value=p99([each.steady_beside for each in rounds]), peer="nothing hangs",
        peer_value=p99([each.steady_quiet for each in rounds]), target=OTHERS_BESIDE_HANGING))
    session.report.add(Row(
        scenario=_SCENARIO, figure="validations/s, none hangs", unit="",
        value=median([options.pending / (max(each.alone) / 1000) for each in rounds]),
        note=f"{succeeded} succeeded, {hung} hung to their end"))
    session.report.details["validation rounds"] = [
        {"alone p99 ms": percentile(each.alone, 0.99), "beside p99 ms": percentile(each.beside, 0.99),
         "single quiet p99 ms": percentile(each.steady_quiet, 0.99),
         "single beside p99 ms": percentile(each.steady_beside, 0.99),
         "single quiet median ms": percentile(each.steady_quiet, 0.5),
         "single beside median ms": percentile(each.steady_beside, 0.5),
         "alone processor s": each.alone_cpu_s, "beside processor s": each.beside_cpu_s} for each in rounds]
