"""lego from Debian, unmodified, with EC keys: http-01, wildcard by dns-01, renewal, revocation."""

import os
import subprocess
import sys
from pathlib import Path

from cryptography import x509

from tests.acceptance.demo_process import REPOSITORY, Demo
from tests.acceptance.openssl import ocsp_status, split_chain, verify, wait_until_revoked
from tests.fixtures_dns import DnsProgram


def _lego(demo: Demo, place: Path, *arguments: str, extra: dict[str, str] | None = None) -> str:
    environment = os.environ | {"LEGO_CA_CERTIFICATES": str(demo.roots)} | (extra or {})
    done = subprocess.run(["lego", "--server", demo.directory_url, "--path", str(place), "--email", "lego@mail.example",
                           "--accept-tos", "--key-type", "ec256", *arguments],
                          env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_lego_issues_renews_and_revokes(demo: Demo, tmp_path: Path) -> None:
    """http-01 with lego's own server: the certificate verifies, renews, and is revoked."""
    http = ("--http", "--http.port", f"127.0.0.1:{demo.http_01_port}",
            "-d", "one.lego.example", "-d", "two.lego.example")
    _lego(demo, tmp_path, *http, "run")
    chain = tmp_path / "certificates" / "one.lego.example.crt"
    leaf, *above = split_chain(chain, tmp_path)
    rest = tmp_path / "rest.pem"
    rest.write_bytes(b"".join(path.read_bytes() for path in above))
    verify(leaf, trusted=demo.roots, untrusted=rest)
    assert ocsp_status(demo, leaf=leaf, issuer=above[0]) == "good"
    first = x509.load_pem_x509_certificate(leaf.read_bytes()).serial_number

    _lego(demo, tmp_path, *http, "renew", "--days", "3650", "--no-random-sleep")
    renewed = split_chain(chain, tmp_path)[0]
    assert x509.load_pem_x509_certificate(renewed.read_bytes()).serial_number != first

    _lego(demo, tmp_path, *http, "revoke", "--keep")
    wait_until_revoked(demo, leaf=renewed, issuer=above[0])


def test_lego_gets_a_wildcard_by_dns(demo: Demo, tmp_path: Path, acceptance_dns: DnsProgram) -> None:
    """dns-01 through lego's exec provider, against the resolver that the demo asks."""
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\nexec {sys.executable} {REPOSITORY / 'tests' / 'acceptance' / 'dns_hook.py'} \"$@\"\n")
    hook.chmod(0o755)
    _lego(demo, tmp_path, "--dns", "exec", "--dns.disable-cp", "--dns.resolvers", acceptance_dns.address,
          "-d", "*.lego-wild.example", "-d", "lego-wild.example", "run",
          extra={"EXEC_PATH": str(hook), "MOCK_DNS_CONTROL": acceptance_dns.control, "EXEC_POLLING_INTERVAL": "1",
                 "EXEC_SEQUENCE_INTERVAL": "1"})
    certificate = tmp_path / "certificates" / "_.lego-wild.example.crt"
    names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert sorted(names) == ["*.lego-wild.example", "lego-wild.example"]
