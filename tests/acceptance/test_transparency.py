"""A whole demo with Certificate Transparency: its publisher, four logs, orders while logs fail and it is killed."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.acceptance.acme_session import AcmeSession, ChallengeServer, challenge_server
from tests.acceptance.demo_process import REPOSITORY, Demo, run_demo
from tests.fixtures_dns import DnsProgram


@dataclass(frozen=True, slots=True)
class LogProgram:
    """The logs as a process of their own."""

    control: str

    def set(self, log: str, mode: str) -> None:
        """Changes a log's manners."""
        body = json.dumps({"log": log, "mode": mode}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.control}/set", data=body, method="POST"), timeout=10)

    def entries(self) -> int:
        """How many entries all logs have together."""
        with urllib.request.urlopen(f"{self.control}/counts", timeout=10) as response:
            return sum(counts["entries"] for counts in json.load(response).values())


@contextmanager
def log_program(log_list: Path, roots: Path) -> Iterator[LogProgram]:
    """Four logs that take certificates of these roots."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ct_log", "--list", str(log_list), "--roots", str(roots)],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield LogProgram(json.loads(process.stdout.readline())["control"])
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def transparent(
    tmp_path_factory: pytest.TempPathFactory, acceptance_dns: DnsProgram
) -> Iterator[tuple[Demo, LogProgram]]:
    """A demo that was made without CT and goes on with it, as an operator would switch it on."""
    place = tmp_path_factory.mktemp("ct") / "chancery"
    with run_demo(place, resolver=acceptance_dns.address) as first:
        assert first.stop() == 0
    config = place / "chancery.toml"
    config.write_text(config.read_text("utf-8").replace(
        "enabled = false", 'enabled = true\nlog_list = "logs.json"\nstagger_ms = 200'), "utf-8")
    with (log_program(place / "logs.json", first.roots) as logs,
          run_demo(place, port_base=first.port_base, http_01_port=first.http_01_port,
                   resolver=acceptance_dns.address) as demo):
        yield demo, logs


@pytest.fixture
def server(transparent: tuple[Demo, LogProgram]) -> Iterator[ChallengeServer]:
    """Answers http-01."""
    with challenge_server(transparent[0]) as running:
        yield running


def _issue(demo: Demo, server: ChallengeServer, name: str) -> x509.Certificate:
    session = AcmeSession(demo)
    order = session.order(name)
    session.answer(order, server)
    session.wait_for(order, "ready")
    session.finalize(order)
    assert session.wait_for(order, "valid", "invalid") == "valid"
    return session.download(order)


def _scts(certificate: x509.Certificate) -> int:
    found = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
    return len(list(found.value))


def test_a_client_gets_a_logged_certificate(
    transparent: tuple[Demo, LogProgram], server: ChallengeServer, tmp_path: Path
) -> None:
    """Two SCTs inside, as openssl reads them too; the logs have precertificate and certificate; all is well."""
    demo, logs = transparent
    certificate = _issue(demo, server, "www.ct.example")
    assert _scts(certificate) == 2
    assert logs.entries() >= 2
    leaf = tmp_path / "leaf.der"
    leaf.write_bytes(certificate.public_bytes(Encoding.DER))
    shown = subprocess.run(["openssl", "x509", "-inform", "DER", "-in", str(leaf), "-noout", "-text"],
                           capture_output=True, text=True, check=True).stdout
    assert shown.count("Signed Certificate Timestamp:") == 2
    status = demo.run("status")
    assert "publisher" in status
    demo.run("audit", "check")


def test_logs_fail_and_the_publisher_is_killed(
    transparent: tuple[Demo, LogProgram], server: ChallengeServer
) -> None:
    """All logs away and kill -9 of the publisher: the order waits, and is valid soon after logs answer again."""
    demo, logs = transparent
    for log in ("log1", "log2", "log3", "log4"):
        logs.set(log, "drop")
    session = AcmeSession(demo)
    order = session.order("waits.ct.example")
    session.answer(order, server)
    session.wait_for(order, "ready")
    assert session.finalize(order) == "processing"
    for pid in demo.child_pids()["publisher"]:
        os.kill(pid, signal.SIGKILL)
    for log in ("log1", "log2", "log3", "log4"):
        logs.set(log, "ok")
    assert session.wait_for(order, "valid", "invalid") == "valid"
    assert _scts(session.download(order)) == 2
    demo.run("audit", "check")
