"""certbot, unmodified, with what goes beyond the plainest use: addresses, profiles, external accounts."""

import json
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from tests.acceptance.certbot_program import certbot
from tests.acceptance.demo_process import Demo
from tests.acceptance.openssl import crl_of, verify

_CRL_PATIENCE_S = 60.0
_NEWCOMER = ("--agree-tos", "--register-unsafely-without-email")


def _leaf(place: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((place / "config" / "live" / name / "cert.pem").read_bytes())


def test_certbot_gets_a_certificate_for_an_address(demo: Demo, tmp_path: Path) -> None:
    """Rows IP1, IP2, IP4, PR3: http-01 at the address itself; a short-lived certificate with an iPAddress and without
    OCSP, which is valid at once, and revoked by its CRL alone."""
    certbot(demo, tmp_path, "certonly", "--standalone", "--http-01-port", str(demo.http_01_port),
            "--ip-address", "127.0.0.1", *_NEWCOMER)
    live = tmp_path / "config" / "live" / "127.0.0.1"
    verify(live / "cert.pem", trusted=demo.roots, untrusted=live / "chain.pem")
    leaf = _leaf(tmp_path, "127.0.0.1")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["127.0.0.1"]
    access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [each.access_method for each in access] == [AuthorityInformationAccessOID.CA_ISSUERS]
    assert "none: the certificate is short-lived" in demo.run("cert", "show", f"{leaf.serial_number:036x}")
    certbot(demo, tmp_path, "revoke", "--cert-name", "127.0.0.1", "--reason", "superseded", "--no-delete-after-revoke")
    give_up_at = time.monotonic() + _CRL_PATIENCE_S
    while crl_of(live / "cert.pem").get_revoked_certificate_by_serial_number(leaf.serial_number) is None:
        assert time.monotonic() < give_up_at, "the CRL does not list the certificate"
        time.sleep(0.2)


@pytest.mark.parametrize(("profile", "hours"), [("shortlived", 160), ("tlsserver", 1080)])
def test_certbot_asks_for_a_profile(demo: Demo, tmp_path: Path, profile: str, hours: int) -> None:
    """Rows PR1 to PR3: --required-profile reads meta.profiles and gets the length that it stands for."""
    name = f"{profile}.certbot.example"
    certbot(demo, tmp_path, "certonly", "--standalone", "--http-01-port", str(demo.http_01_port), "-d", name,
            "--required-profile", profile, *_NEWCOMER)
    leaf = _leaf(tmp_path, name)
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() == hours * 3600 - 1


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_certbot_binds_an_external_account(closed_demo: Demo, tmp_path: Path, algorithm: str) -> None:
    """Rows AC11, AC12, AC14, NM9: certbot needs --eab-kid and --eab-hmac-key, gets a certificate inside the names of
    its credential, is refused others, and cannot use a single-use credential again."""
    domain = f"{algorithm.lower()}.certbot.example"
    document = json.loads(closed_demo.run("eab", "create", "--name", domain, "--output", "json"))
    with pytest.raises(AssertionError, match=r"external account"):
        certbot(closed_demo, tmp_path, "register", *_NEWCOMER)
    binding = ("--eab-kid", document["kid"], "--eab-hmac-key", document["hmac_key"], "--eab-hmac-alg", algorithm)
    certbot(closed_demo, tmp_path, "register", *_NEWCOMER, *binding)
    order = ("certonly", "--standalone", "--http-01-port", str(closed_demo.http_01_port))
    certbot(closed_demo, tmp_path, *order, "-d", f"www.{domain}")
    with pytest.raises(AssertionError, match="is not among the names"):
        certbot(closed_demo, tmp_path, *order, "-d", "other.certbot.example")
    with pytest.raises(AssertionError, match="unknown, used, expired or revoked"):
        certbot(closed_demo, tmp_path / "second", "register", *_NEWCOMER, *binding)
    listed = json.loads(closed_demo.run("eab", "list", "--all", "--output", "json"))["credentials"]
    assert [one["state"] for one in listed if one["kid"] == document["kid"]] == ["used"]
    assert document["hmac_key"] not in "".join(
        log.read_text("utf-8") for log in (closed_demo.data_dir / "log").glob("*.log"))


def test_certbot_renews_because_of_an_incident(demo: Demo, tmp_path: Path) -> None:
    """Rows AR1 to AR4, AR6: of two fresh certificates `certbot renew` renews the one that an operator has opened an
    incident about, because its window is in the past; the other is not yet due."""
    for name in ("affected.certbot.example", "sound.certbot.example"):
        certbot(demo, tmp_path, "certonly", "--standalone", "--http-01-port", str(demo.http_01_port), "-d", name,
                *_NEWCOMER)
    before = {name: _leaf(tmp_path, name).serial_number for name in (
        "affected.certbot.example", "sound.certbot.example")}
    demo.run("incident", "open", "certbot-renews", "--query", "name=affected.certbot.example", "--yes")
    assert "not yet due" in certbot(demo, tmp_path, "renew", "--no-random-sleep-on-renew")
    assert {name for name, serial in before.items() if _leaf(tmp_path, name).serial_number != serial} == {
        "affected.certbot.example"}
