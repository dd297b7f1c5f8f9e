"""What OCSP costs at 10 thousand, 100 thousand, 1 million, 10 million certificates: a database and a responder grow.

Certificates are made up, in the real tables. As many as asked for are really signed, the others get batches whose
signatures are noise, which a responder cannot tell. At each size: answers a second beside nginx in turn, signatures a
second beside a bare loop, a second responder that catches up from nothing, bytes on disk; at the last one revocations
while everything is busy.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import cast

from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from loadtest.chancery_process import Chancery
from loadtest.database import Connection, connected, table_sizes
from loadtest.http_connection import HttpConnection, HttpFault, Origin, loopback_origin
from loadtest.ocsp_load import (
    OcspFault,
    RequestMaker,
    Subject,
    WrkResult,
    ask,
    get_path,
    rate_one_by_one,
    run_wrk,
    write_script,
)
from loadtest.peers import Nginx, OpensslResponder
from loadtest.plot import Chart, Line, write_svg
from loadtest.process_cpu import memory_bytes
from loadtest.program import ProgramFault
from loadtest.report import Row, median, percentile
from loadtest.scenario_ocsp import check_answers, one_run, responder_cpu_s
from loadtest.scenario_presign import signing_token
from loadtest.second_responder import CatchUp, catch_up
from loadtest.session import Session, Steps
from loadtest.signing_loop import BareRate, Token, bare_rate
from loadtest.synthetic import (
    Issuer,
    SignedRound,
    active_issuers,
    publish_unsigned,
    request_responses,
    require_own,
    revoke_made_up,
    sign_made_up,
)
from loadtest.targets import (
    CATCH_UP_PER_S,
    FORTY_MILLION_MIN,
    OCSP_GET,
    OCSP_MANY_RESPONSES,
    OCSP_POST,
    PRESIGN,
    RESPONDER_MEMORY_MB,
    REVOCATION_SEEN_P99_MS,
)

_SCENARIO = "ocsp sizes"
_CHUNK = 200_000
_SIGNED_EACH = 20_000           # signed at each size, so that the rate is known there
_SAMPLE = 300_000
_PATIENCE_S = 600.0
_OPENSSL_CERTIFICATES = 10_000
_FORTY_MILLION = 40_000_000
_LOAD_SECONDS = 600


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
class _AtSize:
    size: int
    get: list[WrkResult] = field(default_factory=list)
    nginx: list[WrkResult] = field(default_factory=list)
    bare: BareRate | None = None
    signed: SignedRound | None = None
    catch_up: CatchUp | None = None
    private_bytes: int = 0
    database_bytes: int = 0

    @property
    def ratio(self) -> float | None:
        """Answers a second by nginx's in the same rounds."""
        mine, theirs = median([one.per_s for one in self.get]), median([one.per_s for one in self.nginx])
        return mine / theirs if mine and theirs else None


@dataclass(slots=True, kw_only=True)
class _Run:
    """What grows, and who is measured."""

    session: Session
    options: SizesOptions
    chancery: Chancery
    origin: Origin
    connection: Connection
    issuer: Issuer
    nginx: Nginx | None
    token: Token | None
    processes: int
    held: int = 0
    sample: list[Subject] = field(default_factory=list)
    rounds: list[SignedRound] = field(default_factory=list)
    signed: list[Subject] = field(default_factory=list)


async def run_sizes(session: Session, options: SizesOptions, origin: Origin, answer_bytes: int) -> None:
    """Measures and adds rows, and writes the plot. Raises ProgramFault."""
    chancery = await session.chancery()
    require_own(chancery)
    settings = chancery.settings()
    processes = int(os.environ.get("CHANCERY_OCSP__PRESIGN_WORKERS")
                    or settings.get("ocsp", {}).get("presign_workers", 1))
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(connected(chancery))
        issuer = next(one for one in await active_issuers(connection) if one.key_type == "ec")
        nginx = None
        if options.peer and Nginx.missing() is None:
            nginx = await Nginx.start(session.peer_work(), answer_bytes)
            stack.callback(nginx.stop)
        run = _Run(session=session, options=options, chancery=chancery, origin=origin, connection=connection,
                   issuer=issuer, nginx=nginx, processes=processes,
                   token=await signing_token(session, settings["hsm"]) if options.peer else None)
        await _take_up(run)
        found = []
        for size in options.sizes:
            await _grow(run, size)
            found.append(await _measure(run, size))
            session.report.details[_SCENARIO] = [asdict(one) for one in found]
        _report(run, found)
        await _post(run)
        await _openssl(run, found)
        await _revocations(run)
    path = session.report_dir / f"{session.report.started_at:%Y%m%dT%H%M%SZ}-ocsp-sizes.svg"
    session.report_dir.mkdir(parents=True, exist_ok=True)
    write_svg(path, "What OCSP costs, by the number of certificates", _charts(found))
    session.report.note(f"cost against size is drawn in {path}")


async def _take_up(run: _Run) -> None:
    """Certificates of an earlier run in the same `--data`."""
    run.held = await run.connection.fetchval("SELECT coalesce(sum(count), 0)::bigint FROM ocsp_batches")
    if run.held < _SIGNED_EACH:
        run.held = 0
        return
    share = min(100.0, 100.0 * _SAMPLE / run.held)
    rows = await run.connection.fetch(
        "SELECT serial FROM certificates TABLESAMPLE BERNOULLI ($2) WHERE issuer_id = $1 AND has_ocsp",
        run.issuer.id, share)
    run.sample = [Subject(serial=int.from_bytes(row["serial"], "big"), issuer=run.issuer.certificate) for row in rows]
    run.session.report.note(f"ocsp: went on with {run.held:,} responses of an earlier run")


async def _grow(run: _Run, size: int) -> None:
    """Certificates up to `size`, the last ones signed; `sample` stays evenly spread over all of them."""
    whole = max(0, size - run.held - _SIGNED_EACH)
    step = max(1, size // _SAMPLE)
    if run.held:
        run.sample = run.sample[::max(1, len(run.sample) * step // run.held)]
    with run.session.steps(f"ocsp: {size:,} certificates", size) as steps:
        steps.done(run.held)
        while whole:
            count = min(whole, _CHUNK)
            signed_so_far = sum(one.serials for one in run.rounds)
            if signed_so_far < run.options.signed:
                count = min(count, run.options.signed - signed_so_far)
                await _sign(run, count, step)
            else:
                serials = await publish_unsigned(run.connection, run.issuer, count)
                run.sample += [Subject(serial=int.from_bytes(one, "big"), issuer=run.issuer.certificate)
                               for one in serials[::step]]
                run.held += count
            whole -= count
            steps.done(count)


async def _sign(run: _Run, count: int, step: int) -> SignedRound:
    made: list[Subject] = []
    signed = await sign_made_up(run.connection, run.chancery, run.issuer, count, made)
    run.rounds.append(signed)
    run.signed = made[-200:]
    run.sample += made[::step]
    run.held += count
    return signed


async def _measure(run: _Run, size: int) -> _AtSize:
    options, at, work = run.options, _AtSize(size=size), run.session.peer_work()
    with run.session.steps(f"ocsp: {size:,} held", 2 * options.rounds + 3) as steps:
        if run.token is not None:
            at.bare = await bare_rate(run.token, "ec", processes=run.processes, seconds_s=3.0)
        steps.done()
        at.signed = await _sign(run, _SIGNED_EACH, max(1, size // _SAMPLE))
        await check_answers(run.signed, run.origin)
        await _until_served(run, run.sample[-1])
        steps.done()
        script = write_script(work, "GET", _requests(run.sample))
        cpu_s = await responder_cpu_s(run.session)
        for _ in range(options.rounds):
            at.get.append(await one_run(steps, f"ocsp: GET among {size:,}", options, run.origin, script, cpu_s))
            if run.nginx is not None:
                at.nginx.append(await one_run(steps, "ocsp: GET, nginx", options, loopback_origin(run.nginx.url),
                                              script, run.nginx.cpu_s))
        script.with_suffix(".txt").unlink(missing_ok=True)
        at.private_bytes = max(memory_bytes(run.chancery.process_ids(), "ocsp"), default=0)
        at.catch_up = await catch_up(run.chancery, run.session.peer_work())
        steps.done()
    at.database_bytes = sum(table.total for table in (await table_sizes(run.connection)).values())
    return at


def _requests(subjects: Sequence[Subject]) -> list[bytes]:
    maker = RequestMaker()
    return [maker.request(one, hashes.SHA1()) for one in subjects]  # noqa: S303 - what clients send


async def _until_served(run: _Run, subject: Subject) -> None:
    """The responder has read the log up to this certificate."""
    connection, request = HttpConnection(run.origin, None), _requests([subject])[0]
    give_up_at = time.monotonic() + _PATIENCE_S
    try:
        while True:
            answer = await connection.request("GET", get_path(request), None, content_type="", timeout_s=10.0)
            read = ocsp.load_der_ocsp_response(answer.body)
            if read.response_status == ocsp.OCSPResponseStatus.SUCCESSFUL and read.serial_number == subject.serial:
                return
            if time.monotonic() > give_up_at:
                raise ProgramFault("the responder does not read the batch log")
            await asyncio.sleep(0.1)
    finally:
        connection.close()


def _report(run: _Run, found: Sequence[_AtSize]) -> None:
    report, first, last = run.session.report, found[0], found[-1]
    peer = "nginx" if last.nginx else ""
    report.add(Row(scenario=_SCENARIO, figure=f"GET answers/s, random among {last.size:,}", unit="", peer=peer,
                   value=median([one.per_s for one in last.get]), target=OCSP_GET if peer else None,
                   peer_value=median([one.per_s for one in last.nginx])))
    report.add(Row(scenario=_SCENARIO, figure="... answers per processor second of the server", unit="", peer=peer,
                   value=median([one.per_cpu_s for one in last.get]),
                   peer_value=median([one.per_cpu_s for one in last.nginx])))
    report.add(Row(scenario=_SCENARIO, figure=f"GET by nginx's, {last.size:,} held", unit="", value=last.ratio,
                   peer=f"with {first.size:,}", peer_value=first.ratio, target=OCSP_MANY_RESPONSES))
    report.add(Row(scenario=_SCENARIO, figure=f"private memory of a worker, {last.size:,} held", unit="MB",
                   value=last.private_bytes / 1e6, target=RESPONDER_MEMORY_MB))
    caught = last.catch_up
    if caught is not None:
        report.add(Row(scenario=_SCENARIO, figure="catch-up of a new responder, responses/s", unit="",
                       note=f"{caught.responses:,} in {caught.took_s:.0f} s, "
                            f"{caught.responses / max(caught.cpu_s, 0.01):,.0f} a processor second",
                       value=caught.per_s, target=CATCH_UP_PER_S))
        report.add(Row(scenario=_SCENARIO, figure="bytes of the responder's store, a certificate", unit="B",
                       value=caught.store_bytes / max(1, caught.responses)))
    for one in found:
        if one.signed is not None:
            report.add(Row(
                scenario=_SCENARIO, figure=f"signatures/s, P-256, {one.size:,} stored", unit="",
                value=2 * one.signed.serials / one.signed.elapsed_s, target=PRESIGN if one.bare else None,
                peer=f"bare loop x {run.processes}" if one.bare else "",
                peer_value=one.bare.per_s if one.bare else None))
    serials, took_s = sum(one.serials for one in run.rounds), sum(one.elapsed_s for one in run.rounds)
    report.add(Row(scenario=_SCENARIO, figure="40 million responses in P-256 (extrapolated)", unit="min",
                   note=f"from {2 * serials:,} signed in {took_s:,.0f} s by {run.processes} processes",
                   value=_FORTY_MILLION * took_s / (2 * serials) / 60, target=FORTY_MILLION_MIN))
    report.add(Row(scenario=_SCENARIO, figure=f"database bytes per certificate and response, {last.size:,} stored",
                   unit="B", value=last.database_bytes / last.size))


async def _post(run: _Run) -> None:
    """POST at the last size, beside nginx."""
    options, mine, theirs = run.options, [], []
    cpu_s = await responder_cpu_s(run.session)
    script = write_script(run.session.peer_work(), "POST", _requests(run.sample[:100_000]))
    with run.session.steps("ocsp: POST", 2 * options.rounds) as steps:
        for _ in range(options.rounds):
            mine.append(await one_run(steps, "ocsp: POST", options, run.origin, script, cpu_s))
            if run.nginx is not None:
                theirs.append(await one_run(steps, "ocsp: POST, nginx", options, loopback_origin(run.nginx.url), script,
                                            run.nginx.cpu_s))
    run.session.report.add(Row(
        scenario=_SCENARIO, figure=f"POST answers/s, random among {run.held:,}", unit="",
        peer="nginx" if theirs else "", value=median([one.per_s for one in mine]),
        peer_value=median([one.per_s for one in theirs]), target=OCSP_POST if theirs else None))


async def _openssl(run: _Run, found: Sequence[_AtSize]) -> None:
    """openssl's responder, which signs when it is asked: what an answer costs without pre-signing."""
    if not run.options.peer or OpensslResponder.missing() is not None:
        run.session.report.note("ocsp: openssl's responder was not measured")
        return
    peer = await OpensslResponder.start(run.session.peer_work(), _OPENSSL_CERTIFICATES)
    try:
        requests = _requests([Subject(serial=serial, issuer=peer.issuer) for serial in peer.serials])
        with run.session.steps("ocsp: openssl's responder", 1):
            per_s = await rate_one_by_one(loopback_origin(peer.url), requests, seconds_s=float(run.options.seconds))
    finally:
        peer.stop()
    run.session.report.add(Row(
        scenario=_SCENARIO, figure="GET answers/s", unit="", peer="openssl ocsp, signing each",
        value=median([one.per_s for one in found[-1].get]), peer_value=per_s))


async def _revocations(run: _Run) -> None:
    """From the commit of a revocation until the responder says so, while it serves and the pre-signer signs."""
    options, maker = run.options, RequestMaker()
    origin, connection = run.origin, HttpConnection(run.origin, None)
    script = write_script(run.session.peer_work(), "GET", _requests(run.sample[:50_000]))
    load = asyncio.create_task(run_wrk(script, origin, connections=options.connections, seconds=_LOAD_SECONDS))
    signing = asyncio.create_task(_keep_signing(run))
    seen_s: list[float] = []
    try:
        async with connected(run.chancery) as own:
            with run.session.steps("ocsp: revocations under load", options.revocations) as steps:
                await _one_by_one(run, own, connection, maker, seen_s, steps)
    finally:
        for task in (load, signing):
            task.cancel()
        await asyncio.gather(load, signing, return_exceptions=True)
        connection.close()
    for share, bound in ((0.5, None), (0.99, REVOCATION_SEEN_P99_MS)):
        run.session.report.add(Row(
            scenario=_SCENARIO, figure=f"commit of a revocation to revoked answer under load, p{share * 100:.0f}",
            unit="ms", note=f"{len(seen_s)} revocations, {run.held:,} held", value=percentile(seen_s, share) * 1e3,
            target=bound))


async def _one_by_one(run: _Run, own: Connection, connection: HttpConnection, maker: RequestMaker,
                      seen_s: list[float], steps: Steps) -> None:
    for subject in run.signed[-run.options.revocations:]:
        request = maker.request(subject, hashes.SHA1())  # noqa: S303 - what clients send
        await revoke_made_up(own, run.issuer, subject.serial.to_bytes(18, "big"))
        committed = time.perf_counter()
        while True:
            try:
                response, _ = await ask(connection, subject, request, "GET")
            except (OcspFault, HttpFault) as fault:
                raise ProgramFault(f"a revoked certificate is not answered for: {fault}") from fault
            if response.certificate_status == ocsp.OCSPCertStatus.REVOKED:
                break
            if time.perf_counter() - committed > _PATIENCE_S:
                raise ProgramFault("a revocation is not seen")
            await asyncio.sleep(0.005)
        seen_s.append(time.perf_counter() - committed)
        steps.done()


async def _keep_signing(run: _Run) -> None:
    """New certificates without end, so that the pre-signer is never idle."""
    from loadtest.synthetic import insert_certificates, make_serials

    async with connected(run.chancery) as own:
        while True:
            waiting = await own.fetchval("SELECT count(*) FROM ocsp_requests")
            if waiting < _SIGNED_EACH:
                serials = make_serials(_SIGNED_EACH, run.session.report.started_at)
                await insert_certificates(own, run.issuer, serials)
                await request_responses(own, run.issuer, serials)
            await asyncio.sleep(0.2)


def _charts(found: Sequence[_AtSize]) -> list[Chart]:
    def line(name: str, value: object) -> Line:
        assert callable(value)
        points = [(one.size, cast(float | None, value(one))) for one in found]
        return Line(name=name, points=[(size, one) for size, one in points if one is not None])

    return [
        Chart(title="Processor time of an answer (GET)", unit="µs", lines=[
            line("Chancery", lambda one: _inverse(median([run.per_cpu_s for run in one.get]), 1e6)),
            line("nginx, constant body", lambda one: _inverse(median([run.per_cpu_s for run in one.nginx]), 1e6))]),
        Chart(title="Answers a second", unit="1/s", lines=[
            line("Chancery", lambda one: median([run.per_s for run in one.get])),
            line("nginx, constant body", lambda one: median([run.per_s for run in one.nginx]))]),
        Chart(title="Signatures a second (P-256)", unit="1/s", lines=[
            line("pre-signer", lambda one: one.signed and 2 * one.signed.serials / one.signed.elapsed_s),
            line("bare loop", lambda one: one.bare and one.bare.per_s)]),
        Chart(title="Catch-up of a new responder", unit="responses/s", lines=[
            line("Chancery", lambda one: one.catch_up and one.catch_up.per_s)]),
        Chart(title="Private memory of a worker", unit="MB", lines=[
            line("Chancery", lambda one: one.private_bytes / 1e6)]),
        Chart(title="Bytes on disk, a certificate", unit="B", lines=[
            line("database", lambda one: one.database_bytes / one.size),
            line("responder's store", lambda one: one.catch_up and one.catch_up.store_bytes / one.size)]),
    ]


def _inverse(value: float | None, scale: float) -> float | None:
    return scale / value if value else None
