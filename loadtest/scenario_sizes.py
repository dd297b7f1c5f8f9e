"""What OCSP costs at 10 thousand, 100 thousand, 1 million, 10 million certificates: a database and a responder grow.

At each size: answers a second by GET and POST beside nginx in turn, signatures a second beside a bare loop, a second
responder that catches up from nothing, bytes of memory and disk, and revocations while everything is busy.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Literal

from cryptography.x509 import ocsp

from loadtest.busy_revocations import busy_revocations
from loadtest.database import connected, table_sizes
from loadtest.growth import SAMPLE, SIGNED_EACH, Growth, sha1_requests
from loadtest.http_connection import HttpConnection, Origin, loopback_origin
from loadtest.ocsp_load import Subject, get_path, rate_one_by_one, write_script
from loadtest.peers import Nginx, OpensslResponder
from loadtest.plot import write_svg
from loadtest.process_cpu import memory_bytes
from loadtest.program import ProgramFault
from loadtest.report import Row
from loadtest.scenario_ocsp import check_answers, one_run, responder_cpu_s
from loadtest.scenario_presign import presign_workers, signing_token
from loadtest.second_responder import catch_up
from loadtest.session import Session, Steps
from loadtest.signing_loop import Token, bare_rate
from loadtest.sizes_report import SCENARIO, AtSize, Beside, add_rows, charts
from loadtest.synthetic import active_issuers, require_own

_POSTED = 100_000
_CHECKED = 200
_PATIENCE_S = 600.0
_SETTLED_S = 5.0
_BARE_S = 3.0
_OPENSSL_CERTIFICATES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SizesOptions:
    """Sizes in ascending order; how many certificates are really signed."""

    sizes: tuple[int, ...]
    signed: int
    rounds: int
    seconds: int
    connections: int
    revocations: int
    peer: bool


@dataclass(slots=True, kw_only=True)
class _Run:
    """Who is measured, with what, on what grows."""

    session: Session
    options: SizesOptions
    origin: Origin
    growth: Growth
    nginx: Nginx | None
    token: Token | None
    processes: int


async def run_sizes(session: Session, options: SizesOptions, origin: Origin, answer_bytes: int) -> None:
    """Measures and adds rows, and writes the plot. Raises ProgramFault."""
    chancery = await session.chancery()
    require_own(chancery)
    settings = chancery.settings()
    processes = presign_workers(settings)
    found: list[AtSize] = []
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(connected(chancery))
        issuer = next(one for one in await active_issuers(connection) if one.key_type == "ec")
        nginx = None
        if options.peer and Nginx.missing() is None:
            nginx = await Nginx.start(session.peer_work(), answer_bytes)
            stack.callback(nginx.stop)
        growth = Growth(session=session, chancery=chancery, connection=connection, issuer=issuer,
                        most_signed=options.signed)
        run = _Run(session=session, options=options, origin=origin, growth=growth, nginx=nginx, processes=processes,
                   token=await signing_token(session, settings["hsm"]) if options.peer else None)
        await growth.take_up()
        openssl_per_s = await _openssl(run)
        for size in options.sizes:
            if size < growth.held:
                session.report.note(f"ocsp: not measured with {size:,}: {growth.held:,} are held already")
                continue
            await growth.grow(size)
            found.append(await _measure(run, size))
            session.report.details[SCENARIO] = [asdict(one) for one in found]
    if not found:
        raise ProgramFault("more certificates are held already than any of the sizes: take another --data directory")
    add_rows(session.report, found, growth.rounds, processes=processes)
    if openssl_per_s is not None:
        session.report.add(Row(scenario=SCENARIO, figure="GET answers/s", unit="", peer="openssl ocsp, signing each",
                               value=found[-1].get.per_s, peer_value=openssl_per_s))
    path = session.report_dir / f"{session.report.started_at:%Y%m%dT%H%M%SZ}-ocsp-sizes.svg"
    session.report_dir.mkdir(parents=True, exist_ok=True)
    write_svg(path, "What OCSP costs, by the number of certificates", charts(found, openssl_per_s))
    session.report.note(f"cost against size is drawn in {path}")


async def _measure(run: _Run, size: int) -> AtSize:
    options, growth, at = run.options, run.growth, AtSize(size=size)
    with run.session.steps(f"ocsp: {size:,} held", 4 * options.rounds + 3 + options.revocations) as steps:
        if run.token is not None:
            at.bare = await bare_rate(run.token, "ec", processes=run.processes, seconds_s=_BARE_S)
        steps.done()
        at.signed = await growth.sign(size, min(SIGNED_EACH, size))
        await check_answers(growth.signed[-_CHECKED:], run.origin)
        await _until_served(run, growth.sample[-1])
        await _until_at_hand(run)
        steps.done()
        at.get = await _beside_nginx(run, steps, "GET", growth.sample)
        at.post = await _beside_nginx(run, steps, "POST", growth.sample[::max(1, len(growth.sample) // _POSTED)])
        at.private_bytes = max(memory_bytes(growth.chancery.process_ids(), "ocsp"), default=0)
        at.catch_up = await catch_up(growth.chancery, run.session.peer_work())
        steps.done()
        at.database_bytes = sum(table.total for table in (await table_sizes(growth.connection)).values())
        at.revoked_s = await busy_revocations(growth, run.origin, steps, count=options.revocations,
                                              connections=options.connections)
    return at


async def _beside_nginx(run: _Run, steps: Steps, method: Literal["GET", "POST"], subjects: Sequence[Subject]) -> Beside:
    found, cpu_s = Beside(), await responder_cpu_s(run.session)
    requests = sha1_requests(subjects)
    # wrk walks over all of them at random and shares the processor's caches: it holds as many whatever the size, so
    # that what is compared between sizes is the responder.
    lines = islice(cycle(requests), max(len(requests), SAMPLE if method == "GET" else _POSTED))
    script = write_script(run.session.peer_work(), method, lines)
    for _ in range(run.options.rounds):
        found.mine.append(await one_run(steps, f"ocsp: {method} among {run.growth.held:,}", run.options, run.origin,
                                        script, cpu_s))
        if run.nginx is not None:
            found.nginx.append(await one_run(steps, f"ocsp: {method}, nginx", run.options,
                                             loopback_origin(run.nginx.url), script, run.nginx.cpu_s))
    script.with_suffix(".txt").unlink(missing_ok=True)
    return found


async def _until_served(run: _Run, subject: Subject) -> None:
    """The responder has read the log up to this certificate."""
    def is_told(body: bytes) -> bool:
        read = ocsp.load_der_ocsp_response(body)
        return read.response_status == ocsp.OCSPResponseStatus.SUCCESSFUL and read.serial_number == subject.serial

    await _until(run, get_path(sha1_requests([subject])[0]), is_told, "the responder does not read the batch log")


async def _until_at_hand(run: _Run) -> None:
    """The responder's copy beside LMDB has everything, and is not found too small: it looks every second, and makes it
    anew when a store has grown."""
    since_s = None

    def has_settled(body: bytes) -> bool:
        nonlocal since_s
        if b"\nchancery_ocsp_responder_shortcut_complete 1\n" not in body:
            since_s = None
            return False
        since_s = since_s or time.monotonic()
        return time.monotonic() - since_s >= _SETTLED_S

    await _until(run, "/metrics", has_settled, "the responder does not complete its shortcut")


async def _until(run: _Run, path: str, holds: Callable[[bytes], bool], otherwise: str) -> None:
    """Asks the responder again and again. Raises ProgramFault when it takes too long."""
    connection, give_up_at = HttpConnection(run.origin, None), time.monotonic() + _PATIENCE_S
    try:
        while not holds((await connection.request("GET", path, None, content_type="", timeout_s=10.0)).body):
            if time.monotonic() > give_up_at:
                raise ProgramFault(otherwise)
            await asyncio.sleep(0.1)
    finally:
        connection.close()


async def _openssl(run: _Run) -> float | None:
    """openssl's responder, which signs when it is asked: what an answer costs without pre-signing."""
    if not run.options.peer or OpensslResponder.missing() is not None:
        run.session.report.note("ocsp: openssl's responder was not measured")
        return None
    peer = await OpensslResponder.start(run.session.peer_work(), _OPENSSL_CERTIFICATES)
    try:
        requests = sha1_requests([Subject(serial=serial, issuer=peer.issuer) for serial in peer.serials])
        with run.session.steps("ocsp: openssl's responder", 1):
            return await rate_one_by_one(loopback_origin(peer.url), requests, seconds_s=float(run.options.seconds))
    finally:
        peer.stop()
