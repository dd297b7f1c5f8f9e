"""A responder with a certificate of each issuer for other people's programs, and what asks it and stands in front."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from ocsp.protocol.response import CertStatus
from tests.acceptance.demo_process import REPOSITORY
from tests.acceptance.server_program import find, nginx_main, server
from tests.ca.pki.authority import Authority, authority
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.processes import publish, times_now
from tests.ocsp.signing import signed
from tests.ports import free_port

_NOW = datetime.now(UTC).replace(microsecond=0)
ISSUERS = {
    "ec": authority(ec.generate_private_key(ec.SECP256R1()), now=_NOW),
    "rsa": authority(rsa.generate_private_key(65_537, 2048), now=_NOW),
}
MAX_AGE_S = 2


def run(*command: str, input_bytes: bytes | None = None) -> str:
    """Both outputs of a program that has to succeed."""
    done = subprocess.run(command, input=input_bytes, capture_output=True, timeout=60, check=False)
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, text
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A server certificate, as files: leaf, its chain, its key."""

    own: Authority
    serial: bytes
    directory: Path

    def path(self, name: str) -> str:
        """`leaf.pem`, `chain.pem`, `issuer.pem`, `root.pem`, `key.pem`."""
        return str(self.directory / name)


def make_site(directory: Path, own: Authority, ocsp_url: str) -> Site:
    """A certificate for localhost under one of the issuers, whose serial number has '++++' and '////' in base64."""
    serial = (256 + (_NOW - datetime(2020, 1, 1, tzinfo=UTC)).days).to_bytes(2, "big") + (
        bytes.fromhex("fbefbe ffffff") + os.urandom(10))
    key = ec.generate_private_key(ec.SECP256R1())
    access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp_url))
    leaf = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
            .issuer_name(own.certificate.subject).public_key(key.public_key())
            .serial_number(int.from_bytes(serial, "big")).not_valid_before(_NOW - timedelta(hours=1))
            .not_valid_after(_NOW + timedelta(days=90))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .add_extension(x509.AuthorityKeyIdentifier(own.issuer.key_id, None, None), False)
            .add_extension(x509.AuthorityInformationAccess([access]), False)
            .sign(own.key, hashes.SHA256()))
    directory.mkdir()
    texts = {name: one.public_bytes(Encoding.PEM) for name, one in (
        ("leaf.pem", leaf), ("issuer.pem", own.certificate), ("root.pem", own.root_certificate))}
    texts["chain.pem"] = texts["leaf.pem"] + texts["issuer.pem"]
    texts["ca.pem"] = texts["issuer.pem"] + texts["root.pem"]
    texts["key.pem"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, text in texts.items():
        (directory / name).write_bytes(text)
    return Site(own=own, serial=serial, directory=directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Responder:
    """A running one, with a good certificate of each issuer."""

    database: TestDatabase
    port: int
    sites: dict[str, Site]

    async def revoke(self, kind: str) -> None:
        """Publishes the revoked response, as the pre-signer does."""
        times, site = times_now(), self.sites[kind]
        await publish(self.database, [signed(
            site.own, site.serial, CertStatus(revoked_at_s=times.this_update_s, reason=4), version=1, times=times,
            not_after_s=4_000_000_000)], times, issuer_id=list(ISSUERS).index(kind) + 1)


@contextmanager
def cache_in_front(directory: Path, *responder_ports: int) -> Iterator[int]:
    """nginx in front of responders, as `deploy/nginx/ocsp.conf` says it, on another port."""
    port, text = free_port(), (REPOSITORY / "deploy" / "nginx" / "ocsp.conf").read_text("utf-8")
    for old, new in ((r"listen 80;", f"listen 127.0.0.1:{port};"), (r"\n *listen \[::\]:80;", ""),
                     ("/var/cache/nginx/ocsp", str(directory / "cache")),
                     ("server 127.0.0.1:14001;", " ".join(f"server 127.0.0.1:{one};" for one in responder_ports))):
        text, changed = re.subn(old, new, text)
        assert changed == 1, old
    with server(directory, find("nginx"), "-c", nginx_main(directory / "front", text)):
        yield port


def curl(port: int, path: str, *options: str) -> tuple[dict[str, str], bytes]:
    """Headers, `status` among them, and body."""
    done = subprocess.run([find("curl"), "-sS", "--retry-connrefused", "--retry", "20", "--retry-delay", "1",
                           "--path-as-is", "-D", "/dev/stderr", *options, f"http://127.0.0.1:{port}{path}"],
                          capture_output=True, timeout=60, check=True)
    first, *lines = done.stderr.decode("latin-1").strip().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    return {name.lower(): value for name, value in fields.items()} | {"status": first.split(" ")[1]}, done.stdout
