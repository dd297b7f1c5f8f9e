"""OCSP answers a second, GET and POST, beside nginx with one worker returning a constant body of the same size."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from loadtest.acme_round import Target, closed_round, open_accounts, prepare_orders
from loadtest.http_connection import HttpConnection, HttpFault, Origin, loopback_origin
from loadtest.ocsp_load import (
    OcspFault,
    RequestMaker,
    Subject,
    WrkResult,
    ask,
    responder_url,
    run_wrk,
    subject_of,
    write_script,
)
from loadtest.peers import Nginx, tls_trusting
from loadtest.poll import PollPolicy
from loadtest.process_cpu import memory_bytes
from loadtest.program import ProgramFault, find_program
from loadtest.report import Row, median, percentile
from loadtest.session import Session, Steps
from loadtest.targets import (
    OCSP_GET,
    OCSP_POST,
    RESPONDER_MEMORY_MB,
    REVOCATION_SEEN_P99_MS,
)
from loadtest.targets import Target as Bound

_SCENARIO = "ocsp"
_ACCOUNTS = 8
_ISSUE_TIMEOUT_S = 180.0
_SEEN_PATIENCE_S = 10.0
_CHECKED = 50
_SAMPLE_LIMIT = 200_000
_KEY_COMPROMISE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspOptions:
    """Sizes of the scenario."""

    certificates: int
    revocations: int
    rounds: int
    seconds: int
    connections: int
    peer: bool


async def run_ocsp(session: Session, options: OcspOptions) -> tuple[Origin, int]:
    """Measures and adds rows; returns where the responder is, and the usual length of an answer.

    Raises ProgramFault when Chancery cannot be started.
    """
    chains = await issue(session, options.certificates)
    origin = loopback_origin(responder_url(chains[0]))
    real = [subject_of(chain) for chain in chains]
    subjects = (real + session.synthetic)[:_SAMPLE_LIMIT]
    answer_bytes = await check_answers(real[:_CHECKED] + session.synthetic[-_CHECKED:], origin)
    if find_program("wrk") is None:
        session.report.note("ocsp: answers a second not measured: wrk is not on this machine")
    else:
        await _load(session, options, origin, subjects, answer_bytes)
    await _memory(session)
    await _revocations(session, options, origin)
    return origin, answer_bytes


async def issue(session: Session, count: int) -> list[bytes]:
    """Chains of certificates that were ordered for this. Raises ProgramFault when there is none."""
    chancery = await session.chancery()
    target = Target(name="Chancery", directory_url=chancery.directory_url, tls=tls_trusting(chancery.roots),
                    cpu_s=dict)
    accounts = await open_accounts(target, _ACCOUNTS, session.challenges, PollPolicy())
    with session.steps(f"ocsp: {count} orders", 1):
        found = await closed_round(target, accounts, prepare_orders(count), seconds_s=_ISSUE_TIMEOUT_S, keep=count)
    for account in accounts:
        account.close()
    session.report.errors += [f"ocsp, issuing: {number} x {text}" for text, number in found.faults.items()]
    if not found.certificates:
        raise ProgramFault("no certificate was issued to ask about")
    return found.certificates


async def check_answers(subjects: Sequence[Subject], origin: Origin) -> int:
    """Both methods and both hashes give a proved answer for each; returns the usual length of one."""
    maker, connection = RequestMaker(), HttpConnection(origin, None)
    lengths: list[float] = []
    algorithms: tuple[hashes.SHA1 | hashes.SHA256, ...] = (hashes.SHA1(), hashes.SHA256())  # noqa: S303
    methods: tuple[Literal["GET", "POST"], ...] = ("GET", "POST")
    try:
        for subject in subjects:
            for algorithm in algorithms:
                for method in methods:
                    length = await _patient_answer(connection, subject, maker.request(subject, algorithm), method)
                    if isinstance(algorithm, hashes.SHA1):
                        lengths.append(length)
    finally:
        connection.close()
    return round(median(lengths) or 0)


async def _patient_answer(connection: HttpConnection, subject: Subject, request: bytes,
                          method: Literal["GET", "POST"]) -> int:
    give_up_at = time.monotonic() + _SEEN_PATIENCE_S
    while True:
        try:
            response, length = await ask(connection, subject, request, method)
        except (OcspFault, HttpFault, OSError) as fault:
            if time.monotonic() > give_up_at:
                raise ProgramFault(f"OCSP {method} is not answered properly: {fault}") from fault
            await asyncio.sleep(0.05)
        else:
            if response.certificate_status != ocsp.OCSPCertStatus.GOOD:
                raise ProgramFault(f"a fresh certificate is {response.certificate_status.name}")
            return length


async def _load(session: Session, options: OcspOptions, origin: Origin, subjects: Sequence[Subject],
                answer_bytes: int) -> None:
    maker, work, cpu_s = RequestMaker(), session.peer_work(), await responder_cpu_s(session)
    requests = [maker.request(subject, hashes.SHA1()) for subject in subjects]  # noqa: S303
    nginx = None
    if options.peer and Nginx.missing() is None:
        nginx = await Nginx.start(session.peer_work(), answer_bytes)
    else:
        session.report.note("ocsp: not measured against nginx: "
                            + ("it is not on this machine" if options.peer else "--no-peer was given"))
    bounds: tuple[tuple[Literal["GET", "POST"], Bound], ...] = (("GET", OCSP_GET), ("POST", OCSP_POST))
    try:
        with session.steps("ocsp", len(bounds) * options.rounds * 2) as steps:
            for method, bound in bounds:
                script = write_script(work, method, requests)
                mine: list[WrkResult] = []
                theirs: list[WrkResult] = []
                for number in range(options.rounds):
                    where = f"ocsp {method}, round {number + 1} of {options.rounds}"
                    mine.append(await one_run(steps, f"{where}, Chancery", options, origin, script, cpu_s))
                    if nginx is not None:
                        theirs.append(await one_run(steps, f"{where}, nginx", options, loopback_origin(nginx.url),
                                                     script, nginx.cpu_s))
                _report_load(session, method, len(subjects), answer_bytes, mine, theirs, bound)
    finally:
        if nginx is not None:
            nginx.stop()


async def responder_cpu_s(session: Session) -> Callable[[], float]:
    """What tells the processor seconds of the responder's workers."""
    chancery = await session.chancery()
    return lambda: chancery.cpu_s().get("ocsp", 0.0)


class WrkOptions(Protocol):
    """How wrk is run."""

    @property
    def connections(self) -> int:
        """At once."""

    @property
    def seconds(self) -> int:
        """A run."""


async def one_run(steps: Steps, name: str, options: WrkOptions, origin: Origin, script: Path,
                  cpu_s: Callable[[], float]) -> WrkResult:
    """One run of wrk against a server whose processor time is read before and after."""
    steps.now(name)
    before = cpu_s()
    found = await run_wrk(script, origin, connections=options.connections, seconds=options.seconds)
    steps.done()
    return replace(found, server_cpu_s=cpu_s() - before)


def _report_load(session: Session, method: str, serials: int, answer_bytes: int, mine: Sequence[WrkResult],
                 theirs: Sequence[WrkResult], bound: Bound) -> None:
    session.report.details[f"ocsp {method}"] = {"Chancery": [asdict(one) for one in mine],
                                                "nginx": [asdict(one) for one in theirs],
                                                "answer_bytes": answer_bytes, "serials": serials}
    bad = sum(one.bad_statuses + one.socket_errors for one in mine)
    if bad:
        session.report.errors.append(f"ocsp {method}: {bad} of {sum(one.requests for one in mine)} requests failed")
    peer = "nginx" if theirs else ""
    session.report.add(Row(scenario=_SCENARIO, figure=f"{method} answers/s", unit="", peer=peer,
                           note=f"random among {serials} serials, {answer_bytes} B",
                           value=median([one.per_s for one in mine]),
                           peer_value=median([one.per_s for one in theirs]), target=bound if theirs else None))
    session.report.add(Row(scenario=_SCENARIO, figure=f"{method} answers per processor second of the server", unit="",
                           peer=peer, value=median([one.per_cpu_s for one in mine]),
                           peer_value=median([one.per_cpu_s for one in theirs])))
    session.report.add(Row(scenario=_SCENARIO, figure=f"{method} p99", unit="ms", peer=peer,
                           value=median([one.p99_ms for one in mine]),
                           peer_value=median([one.p99_ms for one in theirs])))


async def _memory(session: Session) -> None:
    chancery = await session.chancery()
    found = memory_bytes(chancery.process_ids(), "ocsp")
    if found:
        session.report.add(Row(scenario=_SCENARIO, figure="memory of a responder worker", unit="MB",
                               value=max(found) / 1e6, target=RESPONDER_MEMORY_MB))


async def _revocations(session: Session, options: OcspOptions, origin: Origin) -> None:
    """From sending revokeCert until the responder says revoked, one certificate after another."""
    chancery = await session.chancery()
    target = Target(name="Chancery", directory_url=chancery.directory_url, tls=tls_trusting(chancery.roots),
                    cpu_s=dict)
    account = (await open_accounts(target, 1, session.challenges, PollPolicy()))[0]
    connection, maker = HttpConnection(origin, None), RequestMaker()
    seen_s: list[float] = []
    try:
        with session.steps("ocsp: revocations", options.revocations) as steps:
            for prepared in prepare_orders(options.revocations):
                chain = (await account.order(prepared)).chain_pem
                subject = subject_of(chain)
                request = maker.request(subject, hashes.SHA1())  # noqa: S303
                await _patient_answer(connection, subject, request, "GET")
                leaf = x509.load_pem_x509_certificate(chain)
                started = time.perf_counter()
                await account.revoke(leaf.public_bytes(serialization.Encoding.DER), _KEY_COMPROMISE)
                await _until_revoked(connection, subject, request)
                seen_s.append(time.perf_counter() - started)
                steps.done()
    finally:
        account.close()
        connection.close()
    for share, bound in ((0.5, None), (0.99, REVOCATION_SEEN_P99_MS)):
        session.report.add(Row(scenario=_SCENARIO, figure=f"revokeCert sent to revoked answer, p{share * 100:.0f}",
                               unit="ms", note=f"{len(seen_s)} revocations", target=bound,
                               value=percentile(seen_s, share) * 1e3))


async def _until_revoked(connection: HttpConnection, subject: Subject, request: bytes) -> None:
    give_up_at = time.monotonic() + _SEEN_PATIENCE_S
    while True:
        response, _ = await ask(connection, subject, request, "GET")
        if response.certificate_status == ocsp.OCSPCertStatus.REVOKED:
            return
        if time.monotonic() > give_up_at:
            raise ProgramFault(f"a revocation is not seen after {_SEEN_PATIENCE_S:.0f} s")
        await asyncio.sleep(0.005)
