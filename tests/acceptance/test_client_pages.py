"""Clients from Debian and PyPI, unmodified, run by the very lines of their pages in `acme_api/clients/`."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from tests.acceptance.demo_process import Demo
from tests.acceptance.openssl import ocsp_status, split_chain, verify, wait_until_revoked
from tests.acceptance.pages import FOLDER, Lines, blocks, fences, web_server
from tests.fixtures_dns import DnsProgram


def _leaf(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _names(path: Path) -> list[str]:
    names = _leaf(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return sorted(names.get_values_for_type(x509.DNSName))


class _Issued:
    """What a client left on the disk: a whole chain that verifies, and a leaf that the responder knows."""

    def __init__(self, demo: Demo, chain: Path, place: Path) -> None:
        self.demo = demo
        target = place / f"chain-{os.urandom(4).hex()}"
        target.mkdir()
        self.leaf, *above = split_chain(chain, target)
        self.issuer = above[0]
        rest = target / "rest.pem"
        rest.write_bytes(b"".join(path.read_bytes() for path in above))
        verify(self.leaf, trusted=demo.roots, untrusted=rest)
        assert ocsp_status(demo, leaf=self.leaf, issuer=self.issuer) == "good"
        self.serial = _leaf(self.leaf).serial_number

    def is_revoked(self) -> None:
        """Returns when openssl is told so."""
        wait_until_revoked(self.demo, leaf=self.leaf, issuer=self.issuer)


def _binding(demo: Demo, domain: str) -> dict[str, str]:
    made = json.loads(demo.run("eab", "create", "--name", domain, "--output", "json"))
    return {"KID": made["kid"], "HMAC_KEY": made["hmac_key"]}


def _accounts(demo: Demo, domain: str) -> list[str]:
    """Statuses of the accounts that have the domain's contact, newest first."""
    found = json.loads(demo.run("account", "list", "--contact", f"@{domain}", "--output", "json"))["accounts"]
    return [each["state"] for each in found]


def test_certbot(demo: Demo, closed_demo: Demo, tmp_path: Path, acceptance_dns: DnsProgram) -> None:
    """Rows X3, CB5: issue, wildcard, EAB, revoke in two ways, the account's life; renewal when ARI says so, which is
    never for a new certificate, and at once for a revoked one."""
    domain = "page-certbot.example"
    lines = Lines("certbot", demo, tmp_path, domain, dns_control=acceptance_dns.control,
                  changes={"certbot renew": "certbot renew --no-random-sleep-on-renew"})
    home = tmp_path / "letsencrypt"
    settings = f"config-dir = {home}\nwork-dir = {home}/work\nlogs-dir = {home}/log\n"
    (tmp_path / "letsencrypt").mkdir()
    (tmp_path / "letsencrypt" / "cli.ini").write_text(f"{settings}http-01-port = {demo.http_01_port}\n")
    here = {"XDG_CONFIG_HOME": str(tmp_path)}
    lines.run("issue", environment=here)
    live = home / "live" / f"www.{domain}"
    first = _Issued(demo, live / "fullchain.pem", tmp_path)
    assert "not yet due" in lines.run("renew", environment=here)
    lines.run("revoke", environment=here)
    first.is_revoked()
    assert "all renewals succeeded" in lines.run("renew", environment=here)
    assert _Issued(demo, live / "fullchain.pem", tmp_path).serial != first.serial
    lines.run("wildcard", environment=here)
    wild = home / "live" / domain
    assert _names(wild / "cert.pem") == [f"*.{domain}", domain]
    second = _Issued(demo, wild / "fullchain.pem", tmp_path)
    for name in ("cert.pem", "privkey.pem"):
        (tmp_path / name).write_bytes((wild / name).read_bytes())
    lines.run("revoke-by-key", environment=here)
    second.is_revoked()
    assert "other@" in lines.run("account", environment=here)
    assert _accounts(demo, domain) == ["deactivated"]

    place = tmp_path / "closed"
    place.mkdir()
    closed = Lines("certbot", closed_demo, place, domain)
    said = closed.run("eab", _binding(closed_demo, domain), environment=here)
    assert "Account registered" in said


def test_lego(demo: Demo, closed_demo: Demo, tmp_path: Path, acceptance_dns: DnsProgram) -> None:
    """Row X3: issue, renew, wildcard, EAB, revoke."""
    domain = "page-lego.example"

    def lines_for(ca: Demo, place: Path) -> Lines:
        place.mkdir()
        return Lines("lego", ca, place, domain, dns_control=acceptance_dns.control, changes={
            "--http ": f"--http --http.port 127.0.0.1:{ca.http_01_port} ", "--days 30": "--days 3650 --no-random-sleep",
            "--dns.disable-cp": f"--dns.disable-cp --dns.resolvers {acceptance_dns.address}"})

    lines = lines_for(demo, tmp_path / "open")
    lines.run("issue")
    chain = lines.place / ".lego" / "certificates" / f"www.{domain}.crt"
    first = _Issued(demo, chain, tmp_path)
    lines.run("renew")
    second = _Issued(demo, chain, tmp_path)
    assert second.serial != first.serial
    lines.run("revoke")
    second.is_revoked()
    lines.run("wildcard", environment={"EXEC_POLLING_INTERVAL": "1", "EXEC_SEQUENCE_INTERVAL": "1"})
    assert _names(lines.place / ".lego" / "certificates" / f"{domain}.crt") == [f"*.{domain}", domain]

    closed = lines_for(closed_demo, tmp_path / "closed")
    closed.run("eab", _binding(closed_demo, domain))
    _Issued(closed_demo, closed.place / ".lego" / "certificates" / f"www.{domain}.crt", tmp_path)


def test_uacme(demo: Demo, closed_demo: Demo, tmp_path: Path, acceptance_dns: DnsProgram) -> None:
    """Rows U1, U2, X3: issue, renew, wildcard, EAB, revoke, key change, contact, deactivation."""
    domain = "page-uacme.example"
    web = tmp_path / "web"

    def lines_for(ca: Demo, name: str) -> Lines:
        place = tmp_path / name
        place.mkdir()
        # uacme reads the system's trust store alone; proot shows it the CA's roots in that place.
        return Lines("uacme", ca, place, domain, dns_control=acceptance_dns.control, changes={
            "\nuacme ": f"\nproot -b {ca.roots}:/etc/ssl/certs/ca-certificates.crt uacme -c {place / 'uacme'} ",
            "/var/www": str(web), "/etc/ssl/uacme": str(place / "uacme")})

    lines = lines_for(demo, "open")
    lines.run("account")
    with web_server(demo, web):
        lines.run("issue")
        chain = lines.place / "uacme" / f"www.{domain}" / "cert.pem"
        first = _Issued(demo, chain, tmp_path)
        lines.run("newkey")
        lines.run("renew")
    second = _Issued(demo, chain, tmp_path)
    assert second.serial != first.serial
    lines.run("revoke")
    second.is_revoked()
    lines.run("wildcard")
    assert _names(lines.place / "uacme" / domain / "cert.pem") == [f"*.{domain}", domain]
    lines.run("update")
    lines.run("deactivate")
    assert _accounts(demo, domain) == ["deactivated"]

    closed = lines_for(closed_demo, "closed")
    closed.run("eab", _binding(closed_demo, domain))
    assert _accounts(closed_demo, domain) == ["valid"]


def test_dehydrated(demo: Demo, closed_demo: Demo, tmp_path: Path, acceptance_dns: DnsProgram) -> None:
    """Rows DH1, X3: issue, renew, wildcard, EAB, revoke, contact, deactivation."""
    domain = "page-dehydrated.example"

    def lines_for(ca: Demo, name: str, values: dict[str, str] | None = None) -> Lines:
        place = tmp_path / name
        place.mkdir()
        lines = Lines("dehydrated", ca, place, domain, dns_control=acceptance_dns.control, changes={
            "\ndehydrated ": f"\ndehydrated --config {place / 'config'} ", "/var/lib/dehydrated": str(place),
            "/var/www": str(place / "web")})
        config = lines.text("config") + (lines.text("config-eab", values) if values else "")
        (place / "config").write_text(f"BASEDIR={place}\nACCOUNT_KEYSIZE=2048\n{config}")
        return lines

    lines = lines_for(demo, "open")
    chain = lines.place / "certs" / f"www.{domain}" / "fullchain.pem"
    with web_server(demo, lines.place / "web"):
        lines.run("issue")
        first = _Issued(demo, chain, tmp_path)
        lines.run("renew")
    second = _Issued(demo, chain, tmp_path)
    assert second.serial != first.serial
    lines.run("wildcard")
    assert _names(lines.place / "certs" / "star" / "cert.pem") == [f"*.{domain}", domain]
    lines.run("revoke")
    second.is_revoked()
    lines.run("account")
    assert _accounts(demo, domain) == ["deactivated"]

    closed = lines_for(closed_demo, "closed", _binding(closed_demo, domain))
    with web_server(closed_demo, closed.place / "web"):
        closed.run("issue")
    _Issued(closed_demo, closed.place / "certs" / f"www.{domain}" / "fullchain.pem", tmp_path)


def test_acme_tiny(demo: Demo, tmp_path: Path) -> None:
    """Row X3: the smallest client, with an RSA account key and a request made by openssl."""
    web = tmp_path / "web"
    lines = Lines("acme-tiny", demo, tmp_path, "page-tiny.example", changes={
        "/var/www": str(web), "\nacme-tiny ": "\nacme-tiny --disable-check "})    # The name is known to the CA alone.
    with web_server(demo, web):
        lines.run("issue")
    _Issued(demo, tmp_path / "www.pem", tmp_path)


_PAGES = ["certbot", "lego", "uacme", "dehydrated", "acme-tiny", "caddy", "mod_md", "acme.sh", "posh-acme",
          "cert-manager", "traefik"]


@pytest.mark.parametrize("page", _PAGES)
def test_pages_are_complete(page: str) -> None:
    """Each page names directory and roots and is in the index; every marked block is run or written by a test."""
    text = (FOLDER / f"{page}.md").read_text("utf-8")
    assert "https://ca.example/directory" in text
    assert "roots" in text
    assert f"[{page}.md]({page}.md)" in (FOLDER / "README.md").read_text("utf-8")
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for name in blocks(page):
        assert re.search(rf'\.(run|text)\(\s*"{re.escape(name)}"', tests), f"{page}.md: no test uses {name}"


def test_no_page_is_forgotten() -> None:
    """The pages that are there are those of the list above."""
    assert sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "README") == sorted(_PAGES)


def test_shell_lines_are_well_formed() -> None:
    """bash reads every block of shell lines, also of the clients that are not run here."""
    for page in _PAGES:
        for language, _, text in fences(page):
            if language == "sh":
                subprocess.run(["bash", "-n", "-c", text], check=True, timeout=10)
