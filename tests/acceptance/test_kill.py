"""kill -9 of each process in the middle of an order: the supervisor restarts it and the order still ends well."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.acceptance.acme_session import AcmeSession, ChallengeServer, challenge_server
from tests.acceptance.demo_process import Demo, run_demo
from tests.acceptance.openssl import ocsp_status
from tests.fixtures_dns import DnsProgram

_RESTART_PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, acceptance_dns: DnsProgram) -> Iterator[Demo]:
    """A demo whose processes are killed one after the other."""
    with run_demo(tmp_path_factory.mktemp("kill") / "chancery", resolver=acceptance_dns.address) as running:
        yield running


@pytest.fixture
def server(victim: Demo) -> Iterator[ChallengeServer]:
    """Answers http-01 for the demo."""
    with challenge_server(victim) as running:
        yield running


def _kill(demo: Demo, role: str) -> None:
    for pid in demo.child_pids()[role]:
        os.kill(pid, signal.SIGKILL)


def _wait_for_restart(demo: Demo, role: str, old: list[int]) -> None:
    give_up_at = time.monotonic() + _RESTART_PATIENCE_S
    while not (set(demo.child_pids().get(role, [])) - set(old)):
        assert time.monotonic() < give_up_at, f"{role} was not restarted"
        time.sleep(0.05)


def test_the_validator_is_killed_while_it_waits_for_the_name(victim: Demo, server: ChallengeServer) -> None:
    """The claimed validation is taken up again and the order is issued."""
    session = AcmeSession(victim)
    order = session.order("va.kill.example")
    server.gate.clear()
    session.answer(order, server)
    assert server.asked.wait(60)
    old = victim.child_pids()["va"]
    _kill(victim, "va")
    server.gate.set()
    _wait_for_restart(victim, "va", old)
    session.wait_for(order, "ready")
    session.finalize(order)
    assert session.wait_for(order, "valid", "invalid") == "valid"


@pytest.mark.parametrize("role", ["ca", "presign"])
def test_a_signer_is_killed_while_the_order_waits_for_it(victim: Demo, server: ChallengeServer, role: str) -> None:
    """The signer is stopped, the order finalized, the signer killed: the next one issues exactly one certificate."""
    session = AcmeSession(victim)
    order = session.order(f"{role}.kill.example")
    session.answer(order, server)
    session.wait_for(order, "ready")
    old = victim.child_pids()[role]
    for pid in old:
        os.kill(pid, signal.SIGSTOP)
    assert session.finalize(order) == "processing"
    _kill(victim, role)
    _wait_for_restart(victim, role, old)
    assert session.wait_for(order, "valid", "invalid") == "valid"
    assert session.download(order).serial_number == session.download(order).serial_number


@pytest.mark.parametrize("role", ["wfe", "ocsp", "crl", "admin"])
def test_a_server_is_killed_in_mid_order(
    victim: Demo, server: ChallengeServer, role: str, tmp_path: Path
) -> None:
    """The process is gone between two requests of an order; a patient client still gets its certificate."""
    session = AcmeSession(victim)
    order = session.order(f"{role}.kill.example")
    old = victim.child_pids()[role]
    _kill(victim, role)
    session.answer(order, server)
    session.wait_for(order, "ready")
    session.finalize(order)
    assert session.wait_for(order, "valid", "invalid") == "valid"
    _wait_for_restart(victim, role, old)
    if role == "ocsp":
        leaf = tmp_path / "leaf.pem"
        leaf.write_bytes(session.download(order).public_bytes(Encoding.PEM))
        issuer = next(path for path in (victim.data_dir / "issuers").glob("*.pem") if _issued_by(leaf, path))
        _wait_until_it_listens(victim.port_base + 1)
        assert ocsp_status(victim, leaf=leaf, issuer=issuer) == "good"


def _wait_until_it_listens(port: int) -> None:
    give_up_at = time.monotonic() + _RESTART_PATIENCE_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < give_up_at, f"nothing listens on port {port}"
        time.sleep(0.05)


def _issued_by(leaf: Path, issuer: Path) -> bool:
    child = x509.load_pem_x509_certificate(leaf.read_bytes())
    return child.issuer == x509.load_pem_x509_certificate(issuer.read_bytes()).subject


def test_the_supervisor_is_killed_and_started_again(tmp_path: Path, acceptance_dns: DnsProgram) -> None:
    """kill -9 of the supervisor: nothing of it goes on alone, and the next start on the directory has the same CA."""
    place = tmp_path / "chancery"
    with run_demo(place, resolver=acceptance_dns.address) as first:
        roots = first.roots.read_bytes()
        base, port = first.port_base, first.http_01_port
        session = AcmeSession(first)
        order = session.order("again.kill.example")
        first.process.kill()
        first.process.wait()
        give_up_at = time.monotonic() + _RESTART_PATIENCE_S
        while first.child_pids():
            assert time.monotonic() < give_up_at, "processes outlived their supervisor"
            time.sleep(0.05)
        (place / "ready").unlink()
    with run_demo(place, port_base=base, http_01_port=port, resolver=acceptance_dns.address) as second:
        assert second.roots.read_bytes() == roots
        with challenge_server(second) as answers:
            session.answer(order, answers)
            session.wait_for(order, "ready")
            session.finalize(order)
            assert session.wait_for(order, "valid", "invalid") == "valid"
