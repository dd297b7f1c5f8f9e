"""certbot from PyPI, unmodified: issue, renew, revoke by http-01; a wildcard by dns-01 with hooks."""

import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.acceptance.certbot_program import certbot
from tests.acceptance.demo_process import REPOSITORY, Demo
from tests.acceptance.openssl import crl_of, ocsp_status, openssl, split_chain, verify, wait_until_revoked
from tests.fixtures_dns import DnsProgram

_REVOCATION_PATIENCE_S = 30.0


def _issue(demo: Demo, place: Path, name: str, key_type: str) -> Path:
    certbot(demo, place, "certonly", "--standalone", "--http-01-port", str(demo.http_01_port), "-d", name,
             "--agree-tos", "--register-unsafely-without-email", "--key-type", key_type, "--rsa-key-size", "2048")
    return place / "config" / "live" / name


def _serial(live: Path) -> int:
    return x509.load_pem_x509_certificate((live / "cert.pem").read_bytes()).serial_number


@pytest.mark.parametrize(("key_type", "kind", "chain_length"), [("rsa", rsa.RSAPublicKey, 2),
                                                               ("ecdsa", ec.EllipticCurvePublicKey, 3)])
def test_certbot_issues_renews_and_revokes(
    demo: Demo, tmp_path: Path, key_type: str, kind: type, chain_length: int
) -> None:
    """A newcomer's certbot gets a certificate that verifies, renews it, and its revocation shows in OCSP and CRL."""
    name = f"{key_type}.certbot.example"
    live = _issue(demo, tmp_path, name, key_type)
    first = _serial(live)
    certificates = split_chain(live / "fullchain.pem", tmp_path)
    assert len(certificates) == chain_length
    leaf = x509.load_pem_x509_certificate(certificates[0].read_bytes())
    assert isinstance(leaf.public_key(), kind)
    verify(live / "cert.pem", trusted=demo.roots, untrusted=live / "chain.pem")
    assert ocsp_status(demo, leaf=live / "cert.pem", issuer=certificates[1]) == "good"

    certbot(demo, tmp_path, "renew", "--force-renewal", "--no-random-sleep-on-renew")
    assert _serial(live) != first
    assert ocsp_status(demo, leaf=live / "cert.pem", issuer=certificates[1]) == "good"

    revoked = tmp_path / "revoked.pem"
    revoked.write_bytes((live / "cert.pem").read_bytes())
    certbot(demo, tmp_path, "revoke", "--cert-name", name, "--reason", "superseded", "--no-delete-after-revoke")
    wait_until_revoked(demo, leaf=revoked, issuer=certificates[1])
    assert ocsp_status(demo, leaf=revoked, issuer=certificates[1], arguments=("-no_nonce", "-sha256")) == "revoked"
    assert ocsp_status(demo, leaf=certificates[0], issuer=certificates[1]) == "good"

    serial = x509.load_pem_x509_certificate(revoked.read_bytes()).serial_number
    give_up_at = time.monotonic() + _REVOCATION_PATIENCE_S
    while (entry := crl_of(revoked).get_revoked_certificate_by_serial_number(serial)) is None:
        assert time.monotonic() < give_up_at, "the CRL does not list the certificate"
        time.sleep(0.2)
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.superseded
    assert crl_of(revoked).get_revoked_certificate_by_serial_number(leaf.serial_number) is None


def test_both_ways_up_from_an_ec_leaf(demo: Demo, tmp_path: Path) -> None:
    """An EC leaf verifies against the EC root alone, and against the RSA root alone through the cross-sign."""
    live = _issue(demo, tmp_path, "cross.certbot.example", "ecdsa")
    roots = split_chain(demo.roots, tmp_path)
    assert len(roots) == 2
    first = x509.load_pem_x509_certificate(roots[0].read_bytes())
    rsa_root, ec_root = roots if isinstance(first.public_key(), rsa.RSAPublicKey) else roots[::-1]
    intermediate, cross = split_chain(live / "chain.pem", tmp_path)
    verify(live / "cert.pem", trusted=ec_root, untrusted=intermediate)
    chain = tmp_path / "cross-chain.pem"
    chain.write_text(intermediate.read_text("ascii") + cross.read_text("ascii"), "ascii")
    verify(live / "cert.pem", trusted=rsa_root, untrusted=chain)

    preferred = tmp_path / "preferred"
    ec_root_name = openssl("x509", "-in", str(ec_root), "-noout", "-subject", "-nameopt", "multiline")
    common_name = ec_root_name.rpartition("commonName")[2].strip(" =\n")
    certbot(demo, preferred, "certonly", "--standalone", "--http-01-port", str(demo.http_01_port),
             "-d", "preferred.certbot.example", "--agree-tos", "--register-unsafely-without-email",
             "--key-type", "ecdsa", "--preferred-chain", common_name)
    alternate = split_chain(preferred / "config" / "live" / "preferred.certbot.example" / "fullchain.pem", tmp_path)
    assert len(alternate) == 2, "certbot did not choose the alternate chain that ends below the EC root"


def test_certbot_gets_a_wildcard_by_dns(demo: Demo, tmp_path: Path, acceptance_dns: DnsProgram) -> None:
    """Base and wildcard name in one order: two TXT values at one name, set by certbot's hooks."""
    hook = f"{sys.executable} {REPOSITORY / 'tests' / 'acceptance' / 'dns_hook.py'}"
    certbot(demo, tmp_path, "certonly", "--manual", "--preferred-challenges", "dns", "--agree-tos",
             "--register-unsafely-without-email", "-d", "wild.example", "-d", "*.wild.example",
             "--manual-auth-hook", f"{hook} add", "--manual-cleanup-hook", f"{hook} clear",
             extra={"MOCK_DNS_CONTROL": acceptance_dns.control})
    live = tmp_path / "config" / "live" / "wild.example"
    leaf = x509.load_pem_x509_certificate((live / "cert.pem").read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert sorted(names) == ["*.wild.example", "wild.example"]
    verify(live / "cert.pem", trusted=demo.roots, untrusted=live / "chain.pem")


def test_certbot_reads_a_refusal(demo: Demo, tmp_path: Path, acceptance_dns: DnsProgram) -> None:
    """A CAA record of another CA stops issuance, and certbot shows the reason in words."""
    acceptance_dns.post("set", name="caa.certbot.example", type="A", values=["127.0.0.1"])
    acceptance_dns.post("set", name="caa.certbot.example", type="CAA", values=['0 issue "other.example"'])
    with pytest.raises(AssertionError, match="CAA"):
        _issue(demo, tmp_path, "caa.certbot.example", "ecdsa")


def test_certbot_manages_its_account(demo: Demo, tmp_path: Path) -> None:
    """Register, update the contact, look, unregister: the account's life as certbot drives it."""
    certbot(demo, tmp_path, "register", "--agree-tos", "-m", "first@mail.example", "--no-eff-email")
    certbot(demo, tmp_path, "update_account", "-m", "second@mail.example", "--no-eff-email")
    assert "second@mail.example" in certbot(demo, tmp_path, "show_account")
    assert "deactivated" in certbot(demo, tmp_path, "unregister")
