"""Other people's OCSP clients against a real responder: openssl, GnuTLS, curl, and servers from Debian that staple.

The cache in front is the configuration that is shipped, with its addresses replaced.
"""

import asyncio
import base64
import os
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from ocsp.protocol.response import MALFORMED_REQUEST, CertStatus
from ocsp.responder.memory import encode_issuers
from tests.acceptance.demo_process import REPOSITORY
from tests.acceptance.server_program import find, nginx_main, server
from tests.ca.pki.authority import Authority, authority
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.processes import add_issuer, port_of, publish, running, times_now, until, write_config
from tests.ocsp.protocol.test_request import FORMS
from tests.ocsp.responder.serving import ISSUER_ID, request_for, serving
from tests.ocsp.signing import TIMES, serial_of, signed
from tests.ports import free_port

_NOW = datetime.now(UTC).replace(microsecond=0)
_ISSUERS = {
    "ec": authority(ec.generate_private_key(ec.SECP256R1()), now=_NOW),
    "rsa": authority(rsa.generate_private_key(65_537, 2048), now=_NOW),
}
_MAX_AGE_S = 2


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
            not_after_s=4_000_000_000)], times, issuer_id=list(_ISSUERS).index(kind) + 1)


@pytest.fixture
async def responder(tmp_path: Path, database: TestDatabase) -> AsyncIterator[Responder]:
    """On a database with both issuers."""
    tmp_path.chmod(0o755)
    config = write_config(tmp_path, database.settings, ocsp=f"max_age_s = {_MAX_AGE_S}")
    port, sites, times = port_of(config), {}, times_now()
    for issuer_id, (kind, own) in enumerate(_ISSUERS.items(), 1):
        await add_issuer(database, own, issuer_id=issuer_id, name=f"Test {kind}")
        sites[kind] = make_site(tmp_path / kind, own, f"http://127.0.0.1:{port}/")
        await publish(database, [signed(own, sites[kind].serial, times=times, not_after_s=4_000_000_000)], times,
                      issuer_id=issuer_id)
    with running("ocsp", config) as process:
        await process.ready()
        yield Responder(database=database, port=port, sites=sites)


def stapled(site: Site, port: int) -> str:
    """What `openssl s_client -status` is told in the handshake."""
    return run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-status",
               "-CAfile", site.path("root.pem"), "-verify_return_error", input_bytes=b"")


async def until_stapled(site: Site, port: int, what: str) -> str:
    """Servers fetch the answer after they were first asked."""
    found = ""

    def is_there() -> bool:
        nonlocal found
        try:
            found = stapled(site, port)
        except AssertionError as fault:
            found = str(fault)
        return what in found

    try:
        await until(is_there, patience_s=40, every_s=0.1)
    except AssertionError:
        raise AssertionError(found) from None
    return found


async def test_nginx_staples(responder: Responder, tmp_path: Path) -> None:
    """nginx asks by GET over HTTP/1.0, verifies, and the client is given the answer of each kind of issuer."""
    for kind, site in responder.sites.items():
        port = free_port()
        config = nginx_main(tmp_path / f"nginx-{kind}", f"""
            server {{ listen 127.0.0.1:{port} ssl; server_name localhost;
                ssl_certificate {site.path("chain.pem")}; ssl_certificate_key {site.path("key.pem")};
                ssl_stapling on; ssl_stapling_verify on; ssl_trusted_certificate {site.path("ca.pem")}; }}""")
        with server(tmp_path, find("nginx"), "-c", config):
            said = await until_stapled(site, port, "OCSP Response Status: successful (0x0)")
        assert "Cert Status: good" in said, said
        assert site.serial.hex().upper() in said
        assert "Verify return code: 0 (ok)" in said


async def test_apache_staples(responder: Responder, tmp_path: Path) -> None:
    """Apache asks by POST and staples good, and revoked after that."""
    site = responder.sites["ec"]
    port, modules = free_port(), Path("/usr/lib/apache2/modules")
    config = tmp_path / "apache.conf"
    loads = "\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so"
                      for name in ("mpm_event", "socache_shmcb", "ssl", "authz_core"))
    config.write_text(f"""\
ServerRoot {tmp_path}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {tmp_path}/apache.pid
ErrorLog {tmp_path}/apache-error.log
{loads}
{"User www-data" if os.geteuid() == 0 else ""}
{"Group www-data" if os.geteuid() == 0 else ""}
DefaultRuntimeDir {tmp_path}
SSLStaplingCache shmcb:{tmp_path}/stapling(128000)
SSLUseStapling on
SSLStaplingReturnResponderErrors off
SSLStaplingStandardCacheTimeout 1
<VirtualHost 127.0.0.1:{port}>
    SSLEngine on
    SSLCertificateFile {site.path("chain.pem")}
    SSLCertificateKeyFile {site.path("key.pem")}
</VirtualHost>
""")
    with server(tmp_path, find("apache2"), "-f", str(config), "-DFOREGROUND"):
        said = await until_stapled(site, port, "Cert Status: good")
        assert site.serial.hex().upper() in said
        await responder.revoke("ec")
        await until_stapled(site, port, "Cert Status: revoked")


async def test_haproxy_staples(responder: Responder, tmp_path: Path) -> None:
    """HAProxy takes answers from a file and through its runtime API, as its own updater of 2.8 does, checks them
    against certificate and issuer, staples good, goes on with a newer one, and refuses that of another certificate.
    """
    site, stranger = responder.sites["ec"], responder.sites["rsa"]
    port, control, bundle = free_port(), tmp_path / "control", tmp_path / "site.pem"
    bundle.write_bytes(b"".join(Path(site.path(name)).read_bytes() for name in ("chain.pem", "key.pem")))

    def answer(of: Site) -> bytes:
        # As HAProxy writes it: everything escaped that has to be, behind a slash of its own.
        path = quote(base64.b64encode(request_for(of.own, of.serial)), safe="")
        headers, body = curl(responder.port, f"/{path}", "--http1.0")
        assert headers["content-type"] == "application/ocsp-response"
        return body

    def tell(command: str) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(control))
            client.sendall(command.encode("ascii") + b"\n")
            return client.makefile("rb").read().decode("utf-8", "replace")

    Path(f"{bundle}.ocsp").write_bytes(answer(site))
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"""\
global
    stats socket {control} level admin
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend site
    bind 127.0.0.1:{port} ssl crt {bundle}
    http-request return status 200
""")
    with server(tmp_path, find("haproxy"), "-f", str(config)):
        said = await until_stapled(site, port, "OCSP Response Status: successful (0x0)")
        assert "Cert Status: good" in said, said
        assert site.serial.hex().upper() in said
        assert "Verify return code: 0 (ok)" in said
        newer, old = times_now(life_s=86_400), answer(site)
        await publish(responder.database, [signed(site.own, site.serial, times=newer, version=1,
                                                  not_after_s=4_000_000_000)], newer)
        await until(lambda: answer(site) != old, patience_s=30, every_s=0.05)
        command = "set ssl ocsp-response "
        assert "OCSP Response updated" in tell(command + base64.b64encode(answer(site)).decode("ascii"))
        read = ocsp.load_der_ocsp_response(answer(site)).next_update_utc
        assert read is not None
        assert f"Next Update: {read:%b} {read.day:2d} {read:%H:%M:%S %Y} GMT" in stapled(site, port)
        assert "updated" not in tell(command + base64.b64encode(answer(stranger)).decode("ascii"))


@pytest.mark.parametrize("kind", sorted(_ISSUERS))
async def test_ocsptool_and_openssl_verify(responder: Responder, kind: str) -> None:
    """GnuTLS and OpenSSL, with and without a nonce, both hashes: the answer verifies and says good, then revoked."""
    site, url = responder.sites[kind], f"http://127.0.0.1:{responder.port}/"

    def ocsptool(*options: str) -> str:
        done = subprocess.run(
            [find("ocsptool"), f"--ask={url}", "--load-cert", site.path("leaf.pem"), "--load-issuer",
             site.path("issuer.pem"), "--load-signer", site.path("issuer.pem"), *options],
            capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
        return done.stdout + done.stderr

    def openssl(*options: str) -> str:
        return run("openssl", "ocsp", "-url", url, "-CAfile", site.path("root.pem"), "-issuer", site.path("issuer.pem"),
                   *options, "-cert", site.path("leaf.pem"))

    said = await asyncio.to_thread(ocsptool)
    assert "Verifying OCSP Response: Success" in said, said
    assert "Certificate Status: good" in said, said
    for options in ((), ("-no_nonce",), ("-sha256",), ("-sha256", "-no_nonce")):
        said = await asyncio.to_thread(openssl, *options)
        assert "Response verify OK" in said, said
        assert f"{site.path('leaf.pem')}: good" in said
    await responder.revoke(kind)
    deadline = time.monotonic() + 30
    while "Certificate Status: revoked" not in (said := await asyncio.to_thread(ocsptool)):
        assert time.monotonic() < deadline, said
    assert ": revoked" in await asyncio.to_thread(openssl)


async def test_curl_gets_an_answer_by_every_encoding(responder: Responder, tmp_path: Path) -> None:
    """Every form of a GET that clients are known to send, through curl, which sends the path as it is given."""
    site, body = responder.sites["rsa"], tmp_path / "answer.der"
    request = request_for(site.own, site.serial)
    assert all(one in base64.b64encode(request) for one in (b"+", b"/", b"="))
    for form in sorted(FORMS):
        path = FORMS[form](base64.b64encode(request)).decode("ascii")
        for query in ("", "?x=1"):
            said = run(find("curl"), "-sS", "--path-as-is", "-o", str(body), "-w", "%{http_code} %{content_type}",
                       f"http://127.0.0.1:{responder.port}/{path}{query}")
            assert said == "200 application/ocsp-response", form
            read = ocsp.load_der_ocsp_response(body.read_bytes())
            assert read.certificate_status is ocsp.OCSPCertStatus.GOOD
            assert read.serial_number == int.from_bytes(site.serial, "big")


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


@pytest.fixture
def cached_port(responder: Responder, tmp_path: Path) -> Iterator[int]:
    """That of the cache in front."""
    with cache_in_front(tmp_path, responder.port) as port:
        yield port


def curl(port: int, path: str, *options: str) -> tuple[dict[str, str], bytes]:
    """Headers, `status` among them, and body."""
    done = subprocess.run([find("curl"), "-sS", "--retry-connrefused", "--retry", "20", "--retry-delay", "1",
                           "--path-as-is", "-D", "/dev/stderr", *options, f"http://127.0.0.1:{port}{path}"],
                          capture_output=True, timeout=60, check=True)
    first, *lines = done.stderr.decode("latin-1").strip().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    return {name.lower(): value for name, value in fields.items()} | {"status": first.split(" ")[1]}, done.stdout


async def test_the_cache_in_front_answers_the_repeats(responder: Responder, cached_port: int, tmp_path: Path) -> None:
    """GET and POST: the first is the responder's, the repeats are nginx's, byte for byte, with its headers."""
    site = responder.sites["ec"]
    request = request_for(site.own, site.serial)
    body = tmp_path / "request.der"
    body.write_bytes(request)
    path = "/" + base64.b64encode(request).decode()
    by_post = ("-H", "Content-Type: application/ocsp-request", "--data-binary", f"@{body}")
    for target, options in ((path, ()), ("/", by_post)):
        direct, expected = curl(responder.port, target, *options)
        headers, answer = curl(cached_port, target, *options)
        assert (headers["x-cache-status"], answer) == ("MISS", expected)
        made_at = headers["date"]
        give_up_at = time.monotonic() + 30
        # Kept for two seconds, which a busy machine may miss; in the second of the Date nobody knows whose it is.
        while headers["x-cache-status"] != "HIT" or int(time.time()) == int(parsedate_to_datetime(made_at).timestamp()):
            assert time.monotonic() < give_up_at
            made_at = headers["date"] if headers["x-cache-status"] != "HIT" else made_at
            headers, answer = curl(cached_port, target, *options)
            assert answer == expected
        assert headers["date"] == made_at, "a cache further out knows how old the answer is already"
        for name in ("content-type", "etag", "last-modified", "expires", "cache-control"):
            assert headers[name] == direct[name]
    known, _ = curl(cached_port, path, "-H", f"If-None-Match: {direct['etag']}")
    assert known["status"] == "304"
    known, _ = curl(cached_port, path, "-H", f"If-Modified-Since: {direct['last-modified']}")
    assert known["status"] == "200", "a date does not tell a good answer from the revoked one of the same minute"
    doubled = "//" + base64.b64encode(request).decode().replace("/", "%2F").replace("+", "%2B")
    assert curl(cached_port, doubled)[1] == expected
    wrong, _ = curl(cached_port, "/junk")
    assert (wrong["status"], wrong["x-cache-status"]) == ("400", "MISS")
    assert curl(cached_port, "/junk")[0]["x-cache-status"] == "MISS"
    other = responder.sites["rsa"]
    body.write_bytes(request_for(other.own, other.serial))
    assert curl(cached_port, "/", *by_post)[1] == curl(responder.port, "/", *by_post)[1] != expected
    body.write_bytes(bytes(10_000))
    assert curl(cached_port, "/", *by_post)[1] == curl(responder.port, "/", *by_post)[1] == MALFORMED_REQUEST
    for path in ("/healthz", "/metrics"):
        assert curl(cached_port, path)[0]["status"] == "404"


async def test_answers_that_say_try_later_take_no_responder_out(tmp_path: Path) -> None:
    """Two responders behind the cache that cannot know yet what was given out, or whose queue of live answers is full,
    are not what nginx calls failed: what they know is answered all the same. When they are away nothing is given out
    that is older than it may be."""
    own, known = _ISSUERS["ec"], signed(_ISSUERS["ec"], serial_of(1))
    tmp_path.chmod(0o755)
    async with serving(tmp_path / "one", own) as one, serving(tmp_path / "two", own) as two:
        for service in (one, two):
            service.memory.begin_anew()
            service.memory.set_issuers(encode_issuers([(ISSUER_ID, own.issuer.certificate_der)]))
            service.server.refresh()
            service.server.look_around()
            service.store([known], is_complete=False)
        with cache_in_front(tmp_path, one.port, two.port) as port:
            await asyncio.to_thread(curl, port, "/healthz")     # it listens
            for _ in range(3):
                for serial, expected in ((serial_of(2), "503"), (known.serial, "200")):
                    path = "/" + base64.b64encode(request_for(own, serial)).decode()
                    headers, _ = await asyncio.to_thread(curl, port, path, "--retry", "0")
                    assert headers["status"] == expected
                    assert ("retry-after" in headers) is (expected == "503")
            for service in (one, two):
                service.clock.now_s = TIMES.next_update_s - 3_600 - 1
                service.server.refresh()
            path = "//" + base64.b64encode(request_for(own, known.serial)).decode()
            headers, _ = await asyncio.to_thread(curl, port, path)
            assert headers["cache-control"].startswith("max-age=1,")
            for service in (one, two):
                await service.server.stop()
            await asyncio.sleep(2.1)
            headers, _ = await asyncio.to_thread(curl, port, path, "--retry", "0")
            assert headers["status"] == "502"


async def test_a_revocation_passes_the_cache_within_max_age(responder: Responder, cached_port: int) -> None:
    """However often it is asked for: `ocsp.max_age_s` after the revocation no cached `good` is left."""
    site = responder.sites["rsa"]
    path = "/" + base64.b64encode(request_for(site.own, site.serial)).decode()

    def status(port: int) -> ocsp.OCSPCertStatus:
        return ocsp.load_der_ocsp_response(curl(port, path)[1]).certificate_status

    assert status(cached_port) is ocsp.OCSPCertStatus.GOOD
    await responder.revoke("rsa")
    await until(lambda: status(responder.port) is ocsp.OCSPCertStatus.REVOKED, patience_s=30)
    revoked_at, last_good_at = time.monotonic(), 0.0
    while True:
        asked_at = time.monotonic()
        if status(cached_port) is ocsp.OCSPCertStatus.REVOKED:
            break
        last_good_at = asked_at
        assert asked_at - revoked_at < 30
        await asyncio.sleep(0.05)
    # nginx counts whole seconds, so one more than the header says.
    assert last_good_at - revoked_at <= _MAX_AGE_S + 1
