"""What the load generator reads from other programs: processor time, the database's log, wrk, OCSP answers."""

import base64
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp

from loadtest.database import TableSize
from loadtest.http_connection import HttpConnection, loopback_origin
from loadtest.ocsp_load import RequestMaker, Subject, get_path, run_wrk, verify, write_script, wrk_result
from loadtest.peers import Nginx
from loadtest.process_cpu import label, spent_between, tree_cpu_s
from loadtest.program import ProgramFault, find_program
from loadtest.signing_loop import backend_of, bare_rate, make_token
from loadtest.statements import tally
from loadtest.synthetic import make_serials
from tests.loadtest.certificates import self_signed

_LOG = """\
LOG:  parameter "log_min_duration_statement" changed to "0"
loadtest|acme_wfe|LOG:  duration: 0.100 ms  parse __asyncpg_stmt_1__: SELECT a
\tFROM orders WHERE id = $1
loadtest|acme_wfe|LOG:  duration: 0.050 ms  bind __asyncpg_stmt_1__: SELECT a
\tFROM orders WHERE id = $1
loadtest|acme_wfe|DETAIL:  Parameters: $1 = 'x'
loadtest|acme_wfe|LOG:  duration: 0.250 ms  execute __asyncpg_stmt_1__: SELECT a
\tFROM orders WHERE id = $1
loadtest|acme_wfe|LOG:  duration: 0.600 ms  execute __asyncpg_stmt_1__: SELECT a FROM orders WHERE id = $1
loadtest|ca_issuer|LOG:  duration: 2.000 ms  statement: COMMIT;
loadtest|postgres|LOG:  duration: 9.000 ms  statement: SELECT pg_reload_conf()
"""


@pytest.mark.parametrize(("arguments", "expected"), [
    (["/v/bin/python", "-m", "ca.admin.cli", "run", "wfe", "--config", "x"], "wfe"),
    (["/v/bin/python", "/v/bin/chancery", "demo", "--data", "x"], "supervisor"),
    (["postgres: acme_wfe chancery [local] idle"], "postgres acme_wfe"),
    (["postgres: ca_issuer chancery 127.0.0.1(5000) COMMIT"], "postgres ca_issuer"),
    (["postgres: walwriter "], "postgres walwriter"),
    (["postgres: io worker 1"], "postgres io worker 1"),
    (["/x/bin/postgres", "-D", "d"], "postgres postmaster"),
    (["/usr/bin/pebble", "-config", "x"], "pebble"),
])
def test_processes_are_named_by_their_duty(arguments: list[str], expected: str) -> None:
    """Each of Chancery's processes and each database role has its own line."""
    assert label(arguments) == expected


def test_processor_time_of_a_process_tree() -> None:
    """A child of a child is found, and what it spends is counted."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'], timeout=20)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as parent:
        try:
            before, give_up_at = tree_cpu_s([parent.pid]), time.monotonic() + 10
            spent = 0.0
            while spent < 0.2 and time.monotonic() < give_up_at:
                time.sleep(0.05)
                spent = sum(spent_between(before, tree_cpu_s([parent.pid])).values())
            assert spent >= 0.2
        finally:
            children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text("ascii").split()
            for child in children:
                os.kill(int(child), 9)
            parent.kill()


def test_statements_are_counted_by_role() -> None:
    """Phases of one statement are added, calls counted once; the load test's own are left out."""
    found = tally(_LOG)
    assert [(one.role, one.sql, one.calls, round(one.total_ms, 3)) for one in found] == [
        ("ca_issuer", "COMMIT;", 1, 2.0), ("acme_wfe", "SELECT a FROM orders WHERE id = $1", 2, 1.0)]


def test_table_growth() -> None:
    """Growth is counted apart for rows, out-of-line values and indexes; a new table grew by all of it."""
    after, before = TableSize(heap=30, toast=20, indexes=10), TableSize(heap=10, toast=20, indexes=5)
    assert after.minus(before) == TableSize(heap=20, toast=0, indexes=5)
    assert after.minus(None).total == 60


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()], ids=lambda one: one.name)  # noqa: S303
def test_requests_are_those_of_the_whole_certificates(kind: str, algorithm: hashes.SHA1 | hashes.SHA256) -> None:
    """Built from a serial number and the issuer alone, the request is the one built from both certificates."""
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    issuer = self_signed(key)
    mine = RequestMaker().request(Subject(serial=7, issuer=issuer), algorithm)
    theirs = ocsp.OCSPRequestBuilder().add_certificate(issuer, issuer, algorithm).build()
    assert mine == theirs.public_bytes(serialization.Encoding.DER)
    path = get_path(mine)
    assert not set(path[1:]) & set("/+=")
    assert base64.b64decode(unquote(path[1:]), validate=True) == mine


def test_answers_are_proved() -> None:
    """A signature of another key is refused."""
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = self_signed(key)
    now = datetime.now(UTC)

    response = (ocsp.OCSPResponseBuilder()
                .add_response(cert=issuer, issuer=issuer, algorithm=hashes.SHA1(),  # noqa: S303
                              cert_status=ocsp.OCSPCertStatus.GOOD, this_update=now,
                              next_update=now + timedelta(days=1), revocation_time=None, revocation_reason=None)
                .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer).sign(key, hashes.SHA256()))
    verify(response, issuer)
    with pytest.raises(InvalidSignature):
        verify(response, self_signed(other))


def test_wrk_output_is_read() -> None:
    """Rate, failures and latencies come from the script's line; without it wrk has failed."""
    found = wrk_result('Running 1s test\n\nwrk-result {"requests": 500, "duration_us": 2000000, "status": 3, '
                       '"socket": 1, "p50_us": 1500.000000, "p99_us": 9000.000000}\n')
    assert (found.per_s, found.bad_statuses, found.socket_errors, found.p50_ms, found.p99_ms) == (250, 3, 1, 1.5, 9)
    with pytest.raises(ProgramFault, match="unable to connect"):
        wrk_result("unable to connect to 127.0.0.1:1\n")


def test_made_up_serials_are_of_today() -> None:
    """Two bytes of day since 2020 plus 256, then chance; positive, and no two alike."""
    serials = make_serials(1000, datetime(2026, 11, 24, tzinfo=UTC))
    assert {serial[:2] for serial in serials} == {(256 + 2519).to_bytes(2, "big")}
    assert {len(serial) for serial in serials} == {18}
    assert len(set(serials)) == 1000


async def test_bare_loop_signs(tmp_path: Path) -> None:
    """With a token made here, a fresh process signs with P-256."""
    assert find_program("softhsm2-util") is not None, "softhsm2-util is not installed"
    module = next(path for path in ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so",
                                    "/opt/homebrew/lib/softhsm/libsofthsm2.so") if Path(path).exists())
    token = await make_token(tmp_path, module, backend_of(None))
    found = await bare_rate(token, "ec", processes=1, seconds_s=0.3)
    assert found.per_s > 50
    assert found.per_s < found.per_cpu_s * 1.2, "one thread cannot use more than one processor"


def test_object_store_of_a_token(tmp_path: Path) -> None:
    """The bare loop's token is of the kind that the CA's is."""
    conf = tmp_path / "softhsm2.conf"
    conf.write_text("directories.tokendir = /x\nobjectstore.backend = db\n", "utf-8")
    assert backend_of(conf) == "db"
    assert backend_of(None) == "file"


def test_a_command_line_that_makes_no_sense_is_refused() -> None:
    """Usage faults end with code 2 before anything is started."""
    for arguments in (["--directory", "https://localhost/x", "acme"], ["acme", "--accounts", "0"], ["fly"]):
        done = subprocess.run([sys.executable, "-m", "loadtest", *arguments], capture_output=True, text=True,
                              check=False, cwd=Path(__file__).resolve().parents[2])
        assert done.returncode == 2, done.stderr


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_wrk_and_nginx_side_by_side(tmp_path: Path, method: Literal["GET", "POST"]) -> None:
    """nginx answers every request of wrk with a body of the wanted length, over connections that stay open."""
    assert find_program("wrk") is not None, "wrk is not installed"
    assert Nginx.missing() is None, "nginx is not installed"
    nginx = await Nginx.start(tmp_path, 281)
    try:
        origin = loopback_origin(nginx.url)
        connection = HttpConnection(origin, None)
        answer = await connection.request("POST", "/", b"request", content_type="application/ocsp-request",
                                          timeout_s=5.0)
        connection.close()
        found = await run_wrk(write_script(tmp_path, method, [b"one", b"two"]), origin, connections=4, seconds=1)
    finally:
        nginx.stop()
    assert (answer.status, len(answer.body)) == (200, 281)
    assert answer.headers["content-type"] == "application/ocsp-response"
    assert found.requests > 100
    assert (found.bad_statuses, found.socket_errors) == (0, 0)
    assert 0 < found.p50_ms <= found.p99_ms
