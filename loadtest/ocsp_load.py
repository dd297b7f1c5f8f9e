"""OCSP requests (RFC 6960), the answers' proof, and wrk as the sender of many."""

import asyncio
import base64
import hashlib
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from loadtest.http_connection import HttpConnection, Origin
from loadtest.program import ProgramFault, find_program

_TIMEOUT_S = 10.0
_REQUEST_TYPE = "application/ocsp-request"
_RESPONSE_TYPE = "application/ocsp-response"
_MARK = "wrk-result "


class OcspFault(Exception):
    """An answer that is not what a client can accept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A certificate that can be asked about: its serial number and its issuer."""

    serial: int
    issuer: x509.Certificate


def subject_of(chain_pem: bytes) -> Subject:
    """The leaf of a chain and the certificate above it."""
    leaf, issuer = x509.load_pem_x509_certificates(chain_pem)[:2]
    return Subject(serial=leaf.serial_number, issuer=issuer)


def responder_url(chain_pem: bytes) -> str:
    """Where the leaf says that its status is told."""
    leaf = x509.load_pem_x509_certificates(chain_pem)[0]
    access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    for description in access:
        if description.access_method == AuthorityInformationAccessOID.OCSP:
            return str(description.access_location.value)
    raise OcspFault("the certificate names no OCSP responder")


class RequestMaker:
    """Builds requests; the issuer's hashes are computed once."""

    def __init__(self) -> None:
        self._hashes: dict[tuple[bytes, str], tuple[bytes, bytes]] = {}

    def request(self, subject: Subject, algorithm: hashes.SHA1 | hashes.SHA256) -> bytes:
        """The DER of a request without extensions, as most clients send it."""
        issuer = subject.issuer
        name, key = self._issuer_hashes(issuer, algorithm)
        return (ocsp.OCSPRequestBuilder().add_certificate_by_hash(name, key, subject.serial, algorithm).build()
                .public_bytes(serialization.Encoding.DER))

    def _issuer_hashes(self, issuer: x509.Certificate, algorithm: hashes.SHA1 | hashes.SHA256) -> tuple[bytes, bytes]:
        which = (issuer.subject.public_bytes() + issuer.serial_number.to_bytes(20, "big"), algorithm.name)
        if which not in self._hashes:
            public_key = issuer.public_key()
            if isinstance(public_key, ec.EllipticCurvePublicKey):
                bits = public_key.public_bytes(serialization.Encoding.X962,
                                               serialization.PublicFormat.UncompressedPoint)
            else:
                bits = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
            self._hashes[which] = (hashlib.new(algorithm.name, issuer.subject.public_bytes()).digest(),
                                   hashlib.new(algorithm.name, bits).digest())
        return self._hashes[which]


def get_path(request: bytes, prefix: str = "/") -> str:
    """The canonical GET form: percent-encoding of the base64 of the DER (RFC 6960 A.1)."""
    return prefix.rstrip("/") + "/" + quote(base64.b64encode(request).decode("ascii"), safe="")


async def ask(connection: HttpConnection, subject: Subject, request: bytes, method: Literal["GET", "POST"]
              ) -> tuple[ocsp.OCSPResponse, int]:
    """One answer, proved: signature, serial number, times. Also its length. Raises OcspFault."""
    path, body = (get_path(request), None) if method == "GET" else ("/", request)
    answer = await connection.request(method, path, body, content_type=_REQUEST_TYPE, timeout_s=_TIMEOUT_S)
    if answer.status != 200 or answer.headers.get("content-type") != _RESPONSE_TYPE:
        raise OcspFault(f"HTTP {answer.status} {answer.headers.get('content-type')}")
    response = ocsp.load_der_ocsp_response(answer.body)
    if response.response_status != ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise OcspFault(f"the responder says {response.response_status.name}")
    if response.serial_number != subject.serial:
        raise OcspFault("the answer is about another certificate")
    now, next_update = datetime.now(UTC), response.next_update_utc
    if next_update is None or not response.this_update_utc <= now < next_update:
        raise OcspFault("the answer is not current")
    verify(response, subject.issuer)
    return response, len(answer.body)


def verify(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> None:
    """The signature, by the issuer or by a responder that it certified. Raises OcspFault or InvalidSignature."""
    signer = issuer
    if response.certificates:
        signer = response.certificates[0]
        signer.verify_directly_issued_by(issuer)
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    if algorithm is None:
        raise OcspFault("the answer's signature has no hash")
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm)
    else:
        raise OcspFault("the answer is signed by a key of another kind")


async def rate_one_by_one(origin: Origin, requests: Sequence[bytes], *, seconds_s: float) -> float:
    """Answers a second with one connection after another, for a server that knows no more than one. Raises OcspFault.

    wrk cannot ask openssl's responder: it opens a connection first on which nothing is asked, and openssl waits for it.
    """
    count, started = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - started) < seconds_s:
        reader, writer = await asyncio.open_connection(origin.address, origin.port)
        writer.write(f"GET {get_path(requests[count % len(requests)])} HTTP/1.0\r\nHost: x\r\n\r\n".encode("ascii"))
        answer = await asyncio.wait_for(reader.read(), _TIMEOUT_S)
        writer.close()
        if b" 200 " not in answer[:20]:
            raise OcspFault(f"the server says {answer[:40]!r}")
        count += 1
    return count / elapsed_s


@dataclass(frozen=True, slots=True, kw_only=True)
class WrkResult:
    """What wrk counted."""

    per_s: float
    requests: int
    bad_statuses: int
    socket_errors: int
    p50_ms: float
    p99_ms: float
    server_cpu_s: float = 0.0

    @property
    def per_cpu_s(self) -> float:
        """Answers for each second of the server's processor time; NaN when it was not seen."""
        return self.requests / self.server_cpu_s if self.server_cpu_s else math.nan


_SCRIPT = """
local ready, size = {}, 0
local function bytes_of(hex) return (hex:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end)) end
function init(arguments)
  math.randomseed(os.time())
  for line in io.lines("%(file)s") do
    size = size + 1
    if "%(method)s" == "GET" then ready[size] = wrk.format("GET", line)
    else ready[size] = wrk.format("POST", "/", {["Content-Type"] = "%(type)s", ["Host"] = wrk.headers["Host"]},
                                  bytes_of(line)) end
  end
end
function request() return ready[math.random(size)] end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('\\n%(mark)s{"requests": %%d, "duration_us": %%d, "status": %%d, "socket": %%d, '
    .. '"p50_us": %%f, "p99_us": %%f}\\n', summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


def write_script(work: Path, method: Literal["GET", "POST"], requests: Iterable[bytes]) -> Path:
    """A wrk script that sends these requests in random order, each made ready before the clock runs."""
    lines = [get_path(one) if method == "GET" else one.hex() for one in requests]
    data, script = work / f"requests-{method}.txt", work / f"requests-{method}.lua"
    data.write_text("\n".join(lines) + "\n", "ascii")
    script.write_text(_SCRIPT % {"file": data, "method": method, "type": _REQUEST_TYPE, "mark": _MARK}, "ascii")
    return script


async def run_wrk(script: Path, origin: Origin, *, connections: int, seconds: int) -> WrkResult:
    """One thread, so that the server has the other core of two. Raises ProgramFault."""
    command: Sequence[str] = [str(find_program("wrk")), "-t", "1", "-c", str(connections), "-d", f"{seconds}s",
                              "--timeout", "5s", "-s", str(script), f"http://{origin.address}:{origin.port}/"]
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL,
                                                   stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    try:
        output = (await process.communicate())[0].decode("utf-8", errors="replace")
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    return wrk_result(output)


def wrk_result(output: str) -> WrkResult:
    """Reads the line that the script wrote. Raises ProgramFault when there is none."""
    line = next((one for one in output.splitlines() if one.startswith(_MARK)), None)
    if line is None:
        raise ProgramFault(f"wrk failed: {output.strip()[-300:]}")
    found = json.loads(line[len(_MARK):])
    return WrkResult(per_s=found["requests"] / (found["duration_us"] / 1e6), requests=found["requests"],
                     bad_statuses=found["status"], socket_errors=found["socket"], p50_ms=found["p50_us"] / 1e3,
                     p99_ms=found["p99_us"] / 1e3)
