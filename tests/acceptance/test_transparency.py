"""A whole demo with Certificate Transparency: its publisher, four logs, orders while logs fail and it is killed; whole
lives of certificates by each profile and issuer (spec/pki.md A.5, scenario 1), whose end after their notAfter is in
simulated time in tests/ca/issuing/test_crls.py and tests/ocsp/responder/test_answers.py."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from acme import client, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from josepy.jwa import ES256, RS256
from josepy.jwk import JWKEC, JWKRSA

from tests.acceptance.acme_session import AcmeSession, ChallengeServer, challenge_server, patiently
from tests.acceptance.demo_process import REPOSITORY, Demo, run_demo
from tests.acceptance.openssl import ocsp_status, verify, wait_until_revoked
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


_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_REASONS = {None: 0, x509.ReasonFlags.key_compromise: 1, x509.ReasonFlags.superseded: 4,
            x509.ReasonFlags.cessation_of_operation: 5, x509.ReasonFlags.privilege_withdrawn: 9}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Life:
    """How one certificate's life goes: who ends it, what for, and which reason is told."""

    profile: str
    issuer: str
    authority: str
    asked: int
    told: int

    @property
    def name(self) -> str:
        """A name of its own."""
        return f"{self.profile}-{self.issuer}.life.example"

    def key(self) -> _Key:
        """A key of the kind that the issuer certifies."""
        return (ec.generate_private_key(ec.SECP256R1()) if self.issuer == "e1"
                else rsa.generate_private_key(65_537, 2048))


_LIVES = (
    _Life(profile="classic", issuer="e1", authority="account", asked=0, told=0),
    _Life(profile="tlsserver", issuer="e1", authority="account", asked=4, told=4),
    _Life(profile="shortlived", issuer="e1", authority="account", asked=5, told=5),
    _Life(profile="classic", issuer="r1", authority="authorizations", asked=4, told=5),
    _Life(profile="tlsserver", issuer="r1", authority="certificate_key", asked=0, told=1),
    _Life(profile="shortlived", issuer="r1", authority="operator", asked=9, told=9),
)


def _ready(session: AcmeSession, server: ChallengeServer, life: _Life, key: _Key) -> messages.OrderResource:
    request = (x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
               .add_extension(x509.SubjectAlternativeName([x509.DNSName(life.name)]), critical=False)
               .sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    order: messages.OrderResource = patiently(lambda: session.client.new_order(request, profile=life.profile))
    session.answer(order, server)
    assert session.wait_for(order, "ready", "invalid") == "ready"
    return order


def _asked_by_get(demo: Demo, certificate: x509.Certificate, issuer: x509.Certificate) -> ocsp.OCSPResponse:
    request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA256()).build()
    path = quote(base64.b64encode(request.public_bytes(Encoding.DER)), safe="")
    with urllib.request.urlopen(f"{demo.ocsp_url}/{path}", timeout=30) as answer:
        response = ocsp.load_der_ocsp_response(answer.read())
    assert response.serial_number == certificate.serial_number
    return response


def _revoke(demo: Demo, session: AcmeSession, server: ChallengeServer, life: _Life, certificate: x509.Certificate,
            key: _Key) -> None:
    """As the one who may."""
    if life.authority == "operator":
        demo.run("cert", "revoke", f"{certificate.serial_number:036x}", "--reason", "privilegeWithdrawn", "--yes")
        return
    by: client.ClientV2 = session.client
    if life.authority == "authorizations":
        other = AcmeSession(demo)
        _ready(other, server, life, life.key())
        by = other.client
    elif life.authority == "certificate_key":
        jwk = JWKEC(key=key) if isinstance(key, ec.EllipticCurvePrivateKey) else JWKRSA(key=key)
        by = client.ClientV2(session.client.directory, client.ClientNetwork(
            jwk, alg=ES256 if isinstance(jwk, JWKEC) else RS256, verify_ssl=str(demo.roots)))  # type: ignore[arg-type]
    patiently(lambda: by.revoke(certificate, life.asked))


def test_whole_lives(transparent: tuple[Demo, LogProgram], server: ChallengeServer, tmp_path: Path) -> None:
    """A.5, 1: three profiles by an EC and an RSA issuer: logged, linted, chains verified, good by POST and GET; revoked
    by each authority; revoked in OCSP with the reason, listed in its shard's CRL with the reason, and in no other."""
    demo, _ = transparent
    session = AcmeSession(demo)
    leaves = {}
    for life in _LIVES:
        key = life.key()
        order = _ready(session, server, life, key)
        session.finalize(order)
        assert session.wait_for(order, "valid", "invalid") == "valid"
        certificate = session.download(order)
        assert _scts(certificate) == 2
        leaf, issuer = tmp_path / f"{life.name}.pem", demo.data_dir / "issuers" / f"chancery-demo-{life.issuer}.pem"
        leaf.write_bytes(certificate.public_bytes(Encoding.PEM))
        verify(leaf, trusted=demo.roots, untrusted=issuer)
        if life.profile != "shortlived":
            assert ocsp_status(demo, leaf=leaf, issuer=issuer) == "good"
            response = _asked_by_get(demo, certificate, x509.load_pem_x509_certificate(issuer.read_bytes()))
            assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
        leaves[life] = certificate, key, leaf, issuer

    for life, (certificate, key, _leaf, _issuer) in leaves.items():
        _revoke(demo, session, server, life, certificate, key)
    for life, (certificate, _key, leaf, issuer) in leaves.items():
        if life.profile == "shortlived":
            continue
        wait_until_revoked(demo, leaf=leaf, issuer=issuer)
        response = _asked_by_get(demo, certificate, x509.load_pem_x509_certificate(issuer.read_bytes()))
        assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert _REASONS[response.revocation_reason] == life.told

    wanted = {certificate.serial_number: {_crl_url(certificate): life.told}
              for life, (certificate, *_) in leaves.items()}
    give_up_at = time.monotonic() + 60
    while not wanted.keys() <= (found := _listed(demo)).keys():
        assert time.monotonic() < give_up_at, "CRLs do not list what is revoked"
        time.sleep(0.2)
    assert {serial: found[serial] for serial in wanted} == wanted
    demo.run("audit", "check")


def _listed(demo: Demo) -> dict[int, dict[str, int]]:
    """Serial number -> URL of each CRL that lists it -> reason."""
    found: dict[int, dict[str, int]] = {}
    for shard in json.loads(demo.run("crl", "list", "--output", "json"))["crls"]:
        with urllib.request.urlopen(shard["url"], timeout=30) as answer:
            for entry in x509.load_der_x509_crl(answer.read()):
                reasons = [each.value.reason for each in entry.extensions]
                found.setdefault(entry.serial_number, {})[shard["url"]] = _REASONS[reasons[0] if reasons else None]
    return found


def _crl_url(certificate: x509.Certificate) -> str:
    point = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0]
    return str((point.full_name or [])[0].value)
