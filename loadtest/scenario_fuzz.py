"""Mutated OCSP requests, a million and more: the responder has to go on answering, and never answers for what was not
issued.

Each connection sends some damaged requests behind each other and ends its side; everything that comes back has to be
HTTP with an OCSP response of a known kind. In between a clean request is answered and proved.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from loadtest.http_connection import HttpConnection, Origin, loopback_origin
from loadtest.ocsp_load import RequestMaker, Subject, ask, get_path, responder_url, subject_of
from loadtest.process_cpu import memory_bytes
from loadtest.program import ProgramFault
from loadtest.report import Breakdown, Row
from loadtest.scenario_ocsp import issue
from loadtest.session import Session
from loadtest.targets import FUZZ_MEMORY_MB

_SCENARIO = "fuzz"
_CERTIFICATES = 20
_PER_CONNECTION = 25
_AT_ONCE = 64
_CHECKED_EVERY = 400            # connections
_TIMEOUT_S = 30.0
_ERRORS = {bytes.fromhex(f"30030a01{code:02x}") for code in (1, 2, 3, 6)}
_STATUSES = (100, 200, 304, 400, 405, 411, 413, 414, 415, 417, 431, 500, 503, 505)
_WORDS = (b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n", b"Content-Length: 10\r\n", b"Transfer-Encoding: chunked\r\n",
          b"Host: x\r\n", b"\x00", b"\xff" * 8, b"%2F", b"%", b"//", b"?", b"=", b" ", b"HTTP/9.9", b"\x30\x80",
          b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Range: bytes=0-1\r\n", b"9" * 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class FuzzOptions:
    """How many damaged requests, and where chance begins."""

    requests: int
    seed: int


async def run_fuzz(session: Session, options: FuzzOptions) -> None:
    """Sends, checks and adds rows. Raises ProgramFault when an answer is not one."""
    chains = await issue(session, _CERTIFICATES)
    origin, subjects = loopback_origin(responder_url(chains[0])), [subject_of(chain) for chain in chains]
    chancery = await session.chancery()
    before = max(memory_bytes(chancery.process_ids(), "ocsp"), default=0)
    requests, known = requests_about(subjects), {subject.serial for subject in subjects}
    source, seen = random.Random(options.seed), Counter[str]()
    connections = -(-options.requests // _PER_CONNECTION)
    with session.steps(f"fuzz: {options.requests:,} damaged requests", connections) as steps:
        for first in range(0, connections, _AT_ONCE):
            count = min(_AT_ONCE, connections - first)
            sent = [conversation(source, requests, _PER_CONNECTION) for _ in range(count)]
            for answered in await asyncio.gather(*(_exchange(origin, data) for data in sent)):
                check_answers_to_noise(answered, known, seen)
            if first % _CHECKED_EVERY < _AT_ONCE:
                await _prove(origin, source.choice(subjects))
            steps.done(count)
    await _prove(origin, subjects[0])
    require_answers(seen, connections * (_PER_CONNECTION - 1))
    grown = (max(memory_bytes(chancery.process_ids(), "ocsp"), default=0) - before) / 1e6
    session.report.add(Row(scenario=_SCENARIO, figure="damaged requests, all answered or refused", unit="",
                           value=float(connections * _PER_CONNECTION), note=f"seed {options.seed}"))
    session.report.add(Row(scenario=_SCENARIO, figure="memory that a responder worker grew by", unit="MB", value=grown,
                           target=FUZZ_MEMORY_MB))
    session.report.breakdowns.append(Breakdown(
        title="Answers to damaged requests", headings=("answer", "count"),
        rows=[(name, f"{count:,}") for name, count in seen.most_common()]))


def requests_about(subjects: Sequence[Subject]) -> list[bytes]:
    """Clean DER requests with both hashes."""
    maker = RequestMaker()
    return [maker.request(subject, algorithm) for subject in subjects
            for algorithm in (hashes.SHA1(), hashes.SHA256())]  # noqa: S303 - what clients send


def conversation(source: random.Random, requests: Sequence[bytes], count: int) -> bytes:
    """Damaged requests in whole HTTP, so that each of them is read, and at the end one whose HTTP is damaged, too."""
    framed = [_framed(source, mutated(source, source.choice(requests))) for _ in range(count - 1)]
    return b"".join([*framed, mutated(source, _framed(source, source.choice(requests)))])


def _framed(source: random.Random, request: bytes) -> bytes:
    """In one of the forms that clients send."""
    path = get_path(request).encode("ascii")
    kind = source.randrange(4)
    if kind == 0:
        return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path
    if kind == 1:
        return b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path
    if kind == 2:
        return b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\nIf-None-Match: *\r\n\r\n" % path
    return (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nContent-Length: %d\r\n\r\n%b"
            % (len(request), request))


def mutated(source: random.Random, clean: bytes) -> bytes:
    """One to four damages: bytes changed, cut out, put in, doubled, or a word that means something to a parser."""
    data = bytearray(clean)
    for _ in range(source.randrange(1, 5)):
        at = source.randrange(len(data) + 1)
        kind = source.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            del data[at:at + source.randrange(1, 6)]
        elif kind == 2:
            data[at:at] = source.randbytes(source.randrange(1, 6))
        elif kind == 3:
            data[at:at] = data[at:at + source.randrange(1, 40)]
        else:
            data[at:at] = source.choice(_WORDS)
        if not data:
            break
    return bytes(data)


async def _exchange(origin: Origin, data: bytes) -> bytes:
    """Everything that comes back. A reset is an answer too: the server closed while we still sent."""
    reader, writer = await asyncio.open_connection(origin.address, origin.port)
    received = bytearray()
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(_TIMEOUT_S):
            while part := await reader.read(65_536):
                received += part
    except (ConnectionError, OSError):
        pass
    except TimeoutError as fault:
        raise ProgramFault(f"the responder keeps a connection open behind {data[-80:]!r}") from fault
    finally:
        writer.close()
    return bytes(received)


def check_answers_to_noise(received: bytes, known: set[int], seen: Counter[str]) -> None:
    """Each answer is HTTP with a known status; its body an OCSP error, or a response about a certificate that exists.

    Raises ProgramFault. An answer to HEAD has no body, and the last one may be cut off by a reset.
    """
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        if not separator:
            return
        lines = head.split(b"\r\n")
        status = lines[0].split(b" ")[1] if lines[0].startswith(b"HTTP/1.1 ") else b""
        if not status.isdigit() or int(status) not in _STATUSES:
            raise ProgramFault(f"not an answer: {lines[0][:80]!r}")
        seen[lines[0][9:].decode("ascii", "replace")] += 1
        length = next((int(line[16:]) for line in lines if line.lower().startswith(b"content-length: ")), 0)
        if status in (b"304", b"100") or rest.startswith(b"HTTP/1.1 ") or (length and not rest):
            received = rest         # without a body, or an answer to HEAD
            continue
        body, received = rest[:length], rest[length:]
        if len(body) == length and body not in _ERRORS and length:
            _require_known(body, known)


def require_answers(seen: Counter[str], least: int) -> None:
    """Raises ProgramFault when some of what was sent in whole HTTP was not answered at all."""
    if seen.total() < least:
        raise ProgramFault(f"{seen.total():,} answers, where {least:,} requests could be read")


def _require_known(body: bytes, known: set[int]) -> None:
    read = ocsp.load_der_ocsp_response(body)
    if read.response_status == ocsp.OCSPResponseStatus.SUCCESSFUL and read.serial_number not in known:
        raise ProgramFault(f"an answer about {read.serial_number:x}, which was never issued")


async def _prove(origin: Origin, subject: Subject) -> None:
    """A clean request is answered as ever."""
    connection = HttpConnection(origin, None)
    try:
        request = RequestMaker().request(subject, hashes.SHA1())  # noqa: S303 - what clients send
        response, _ = await ask(connection, subject, request, "GET")
    finally:
        connection.close()
    if response.certificate_status != ocsp.OCSPCertStatus.GOOD:
        raise ProgramFault("a certificate that was good is not any more")
