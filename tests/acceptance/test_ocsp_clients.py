"""Other people's OCSP clients against a real responder: openssl, GnuTLS, curl, and servers from Debian that staple."""

import asyncio
import base64
import os
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.x509 import ocsp

from tests.acceptance.ocsp_site import ISSUERS, Responder, Site, curl, run
from tests.acceptance.server_program import find, nginx_main, server
from tests.ocsp.processes import publish, times_now, until
from tests.ocsp.protocol.test_request import FORMS
from tests.ocsp.responder.serving import request_for
from tests.ocsp.signing import signed
from tests.ports import free_port


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


@pytest.mark.parametrize("kind", sorted(ISSUERS))
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
