"""Certificates byte for byte: any change of a profile shows as a readable diff, and other programs accept them."""

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.pki.lint import allowances, lint_certificate, require_clean
from ca.pki.profile import PROFILES
from tests.ca.pki.authority import NOW, Authority
from tests.golden.make_certificates import DIRECTORY, PRECERTIFICATE, cases, der_of

_CASES = {stem: (certificate, issued_by) for stem, certificate, issued_by in cases()}
_CERTIFICATES = sorted(stem for stem in _CASES if not stem.endswith(PRECERTIFICATE))


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


@pytest.mark.parametrize("stem", _CERTIFICATES)
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


def _chain(stem: str, directory: Path, of: Mapping[str, tuple[bytes, Authority]] = _CASES) -> tuple[str, str, str]:
    """PEM files of leaf, issuer and root."""
    certificate, issued_by = of[stem]
    return (_write(directory / "leaf.pem", certificate), _write(directory / "issuer.pem", issued_by.certificate),
            _write(directory / "root.pem", issued_by.root_certificate))


@pytest.mark.parametrize("stem", [stem + PRECERTIFICATE for stem in _CERTIFICATES if "-by-p256" in stem])
def test_openssl_takes_no_precertificate(stem: str, tmp_path: Path) -> None:
    """The poison is critical and nobody knows it: a precertificate is no certificate (RFC 6962 3.1)."""
    leaf, issuer, root = _chain(stem, tmp_path)
    refused = subprocess.run(["openssl", "verify", "-attime", str(int(NOW.timestamp())), "-CAfile", root, "-untrusted",
                              issuer, leaf], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "unhandled critical extension" in refused.stdout + refused.stderr


@pytest.fixture(scope="module")
def today() -> Mapping[str, tuple[bytes, Authority]]:
    """The same certificates, made now: not every program can be told another time."""
    return {stem: (certificate, issued_by)
            for stem, certificate, issued_by in cases(datetime.now(UTC).replace(microsecond=0))}


@pytest.mark.parametrize("stem", _CERTIFICATES)
def test_gnutls_verifies_the_chain(
    stem: str, tmp_path: Path, today: Mapping[str, tuple[bytes, Authority]]
) -> None:
    """`certtool --verify` accepts the chain for a server of the name."""
    leaf, issuer, root = _chain(stem, tmp_path, today)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(Path(leaf).read_bytes() + Path(issuer).read_bytes())
    verified = subprocess.run(
        ["certtool", "--verify", "--infile", str(chain), "--load-ca-certificate", root, "--verify-hostname",
         "www.example.com", "--verify-purpose", "1.3.6.1.5.5.7.3.1"],
        capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "Chain verification output: Verified. The certificate is trusted." in verified.stdout


@pytest.mark.parametrize("issuer_kind", ["p256", "p384", "rsa2048"])
def test_nss_verifies_the_chains(
    issuer_kind: str, tmp_path: Path, today: Mapping[str, tuple[bytes, Authority]]
) -> None:
    """`certutil -V` accepts each certificate for a TLS server, and refuses a precertificate.

    NSS's own verifier, unlike the one of Firefox, wants keyEncipherment of every RSA key: that is the one thing it has
    against the profiles without it, and the reason why the profile for old clients has it.
    """
    database = f"sql:{tmp_path}"

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["certutil", "-d", database, *arguments], capture_output=True, text=True, check=False)

    def add(name: str, trust: str, path: str) -> None:
        added = run("-A", "-n", name, "-t", trust, "-i", path)
        assert added.returncode == 0, added.stderr

    assert run("-N", "--empty-password").returncode == 0
    stems = [stem for stem in _CERTIFICATES if stem.endswith(f"-by-{issuer_kind}")]
    assert len(stems) == len(PROFILES) * 3
    _, issuer, root = _chain(stems[0], tmp_path, today)
    add("root", "C,,", root)
    add("issuer", ",,", issuer)
    for stem in stems:
        # One serial number in all of them, so each has its turn alone.
        for each, accepted in ((stem, True), (stem + PRECERTIFICATE, False)):
            add("leaf", ",,", _write(tmp_path / "leaf.pem", today[each][0]))
            verified = run("-V", "-n", "leaf", "-u", "V", "-e")
            if "-rsa2048-by-" in each and accepted and not PROFILES[each.partition("-")[0]].rsa_key_encipherment:
                assert "Certificate key usage inadequate for attempted operation" in verified.stdout
            else:
                assert (verified.returncode == 0) is accepted, each + verified.stdout + verified.stderr
            assert run("-D", "-n", "leaf").returncode == 0
