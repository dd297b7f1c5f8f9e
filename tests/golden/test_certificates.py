"""Certificates byte for byte: any change of a profile shows as a readable diff, and other programs accept them."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.pki.lint import allowances, lint_certificate, require_clean
from ca.pki.profile import PROFILES
from tests.ca.pki.authority import NOW, Authority
from tests.golden.make_certificates import DIRECTORY, cases, der_of

_CASES = {stem: (certificate, issued_by) for stem, certificate, issued_by in cases()}


@pytest.mark.parametrize("stem", sorted(_CASES))
def test_same_bytes_as_ever(stem: str) -> None:
    """Regenerate with `python -m tests.golden.make_certificates` only when a profile changes on purpose."""
    assert _CASES[stem][0].hex() == der_of((DIRECTORY / f"{stem}.txt").read_text("utf-8")).hex()


def test_no_golden_file_without_a_case() -> None:
    """Nothing in the directory that no code makes."""
    assert {path.stem for path in DIRECTORY.glob("*.txt")} == set(_CASES)


@pytest.mark.parametrize("stem", sorted(_CASES))
def test_pkilint_has_no_objection(stem: str) -> None:
    """Under the public policy, with the allowances of the profile."""
    certificate, issued_by = _CASES[stem]
    require_clean(lint_certificate(certificate, issued_by.issuer),
                  allowances(PROFILES[stem.partition("-")[0]], public=True), stem)


def _write(path: Path, certificate: x509.Certificate | bytes) -> str:
    parsed = x509.load_der_x509_certificate(certificate) if isinstance(certificate, bytes) else certificate
    path.write_bytes(parsed.public_bytes(Encoding.PEM))
    return str(path)


@pytest.mark.parametrize("stem", sorted(_CASES))
def test_openssl_verifies_the_chain(stem: str, tmp_path: Path) -> None:
    """`openssl verify -x509_strict` accepts leaf, issuing CA and root, for a TLS server of each name."""
    certificate: bytes
    issued_by: Authority
    certificate, issued_by = _CASES[stem]
    for expected in (("-verify_hostname", "www.example.com"), ("-verify_hostname", "a.example.com"),
                     ("-verify_ip", "1.1.1.1")):
        verified = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-attime", str(int(NOW.timestamp())),
             *expected, "-CAfile", _write(tmp_path / "root.pem", issued_by.root_certificate),
             "-untrusted", _write(tmp_path / "issuer.pem", issued_by.certificate),
             _write(tmp_path / "leaf.pem", certificate)], capture_output=True, text=True, check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr
