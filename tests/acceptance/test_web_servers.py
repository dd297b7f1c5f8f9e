"""Web servers that obtain and renew by themselves: Caddy and Apache with mod_md, set up as their pages say."""

import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from tests.acceptance.demo_process import Demo
from tests.acceptance.pages import Lines
from tests.fixtures_dns import DnsProgram
from tests.ports import free_port

_PATIENCE_S = 120.0
_MODULES = Path("/usr/lib/apache2/modules")


def _served(port: int, name: str, roots: Path) -> x509.Certificate | None:
    """The certificate that a TLS server shows for a name, when it verifies against the roots."""
    context = ssl.create_default_context(cafile=str(roots))
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain, \
                context.wrap_socket(plain, server_hostname=name) as connection:
            der = connection.getpeercert(binary_form=True)
    except OSError:
        return None
    assert der is not None
    return x509.load_der_x509_certificate(der)


def _until_served(port: int, name: str, roots: Path, log: Path, *, other_than: frozenset[int] = frozenset(),
                  meanwhile: Callable[[], object] = lambda: None) -> int:
    """The serial number of the first certificate for a name that is served and is none of those."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        found = _served(port, name, roots)
        if found is not None and found.serial_number not in other_than:
            return found.serial_number
        assert time.monotonic() < give_up_at, log.read_text("utf-8", "replace")[-6000:]
        meanwhile()
        time.sleep(0.2)


@contextmanager
def _caddy(place: Path, caddyfile: str, *, renewing: bool) -> Iterator[Path]:
    """Runs caddy; `renewing` has it look every second, at certificates that are due from their first hour on."""
    log = place / "caddy.log"
    (place / "Caddyfile").write_text(caddyfile)
    home = os.environ | {"HOME": str(place), "XDG_CONFIG_HOME": str(place), "XDG_DATA_HOME": str(place)}
    adapted = subprocess.run(["caddy", "adapt", "--config", str(place / "Caddyfile"), "--adapter", "caddyfile"],
                             capture_output=True, text=True, timeout=60, check=False, env=home)
    assert adapted.returncode == 0, adapted.stderr
    config = json.loads(adapted.stdout)
    if renewing:
        automation = config["apps"]["tls"]["automation"]
        automation["renew_interval"] = "1s"
        for policy in automation["policies"]:
            policy["renewal_window_ratio"] = 0.9999
    (place / "caddy.json").write_text(json.dumps(config))
    with log.open("w") as output:
        process = subprocess.Popen(["caddy", "run", "--config", str(place / "caddy.json")],
                                   stdout=output, stderr=output, env=home)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(timeout=60)


def _caddy_lines(demo: Demo, place: Path, domain: str) -> Lines:
    place.mkdir()
    own = ("admin off", "skip_install_trust", f"http_port {demo.http_01_port}", f"https_port {demo.tls_alpn_01_port}")
    return Lines("caddy", demo, place, domain, changes={"\n{\n": "\n{\n\t" + "\n\t".join(own) + "\n"})


def test_caddy_obtains_and_renews_by_itself(demo: Demo, closed_demo: Demo, tmp_path: Path) -> None:
    """Rows Z1 to Z4, X3: tls-alpn-01 or http-01 as Caddy chooses, a second certificate without anybody's doing, EAB."""
    domain, port = "page-caddy.example", demo.tls_alpn_01_port
    lines = _caddy_lines(demo, tmp_path / "open", domain)
    with _caddy(lines.place, lines.text("site"), renewing=True) as log:
        first = _until_served(port, f"www.{domain}", demo.roots, log)
        _until_served(port, f"www.{domain}", demo.roots, log, other_than=frozenset({first}))

    made = json.loads(closed_demo.run("eab", "create", "--output", "json"))
    closed = _caddy_lines(closed_demo, tmp_path / "closed", domain)
    binding = closed.text("eab", {"KID": made["kid"], "HMAC_KEY": made["hmac_key"]})
    site = closed.text("site").replace("\temail ", binding + "\temail ")
    with _caddy(closed.place, site, renewing=False) as log:
        _until_served(closed_demo.tls_alpn_01_port, f"www.{domain}", closed_demo.roots, log)


class _Apache:
    """A running apache2 with directories of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", command: list[str], place: Path) -> None:
        self.process, self.command = process, command
        self.log, self.messages = place / "error.log", place / "messages"

    def told(self, event: str) -> int:
        """How often mod_md has told of an event."""
        return sum(line.split()[0] == event for line in self.messages.read_text("ascii").splitlines())

    def until_told(self, event: str, times: int) -> None:
        """Waits until mod_md has told so often of an event."""
        give_up_at = time.monotonic() + _PATIENCE_S
        while self.told(event) < times:
            assert self.process.poll() is None, self.log.read_text("utf-8", "replace")[-6000:]
            assert time.monotonic() < give_up_at, self.log.read_text("utf-8", "replace")[-6000:]
            time.sleep(0.2)


@contextmanager
def _apache(demo: Demo, lines: Lines, site: str, https_port: int, domain: str) -> Iterator[_Apache]:
    place = lines.place
    tell = place / "tell"
    tell.write_text(f"#!/bin/sh\necho \"$@\" >> {place}/messages\n")
    tell.chmod(0o755)
    (place / "messages").touch(mode=0o666)
    (place / "messages").chmod(0o666)
    (place / "htdocs").mkdir()
    # Workers of a server that root starts run as another user: they and their hooks must reach the directory.
    for directory in (place, *place.parents):
        if directory.stat().st_uid == os.getuid() and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o711)
    modules = ("mpm_event", "authz_core", "ssl", "socache_shmcb", "md")
    user = "User www-data\nGroup www-data\n" if os.getuid() == 0 else ""
    hosts = "".join(
        f"<VirtualHost *:{port}>\nServerName {name}\nDocumentRoot {place}/htdocs\n{tls}</VirtualHost>\n"
        for name in (f"www.{domain}",) for port, tls in ((demo.http_01_port, ""), (https_port, "SSLEngine on\n")))
    (place / "httpd.conf").write_text(
        f"ServerRoot {place}\nServerName localhost\nPidFile {place}/pid\nErrorLog {place}/error.log\n"
        f"LogLevel info md:debug\n{user}DefaultRuntimeDir {place}\n"
        + "".join(f"LoadModule {name}_module {_MODULES}/mod_{name}.so\n" for name in modules)
        + f"Listen 127.0.0.1:{demo.http_01_port}\nListen 127.0.0.1:{https_port}\n"
        f"MDPortMap 80:{demo.http_01_port} 443:{https_port}\nMDStoreDir {place}/md\nMDMessageCmd {tell}\n"
        # A window of the whole life: every certificate is due for renewal at once.
        f"MDRenewWindow 90d\n{site}{hosts}")
    command = ["apache2", "-f", str(place / "httpd.conf")]
    search = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with (place / "apache.out").open("wb") as output:
        process = subprocess.Popen([*command, "-DFOREGROUND"], stdout=output, stderr=output, env=search)
    running = _Apache(process, command, place)
    try:
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _graceful(lines: Lines, apache: _Apache) -> None:
    lines.run("reload", {"apachectl graceful": " ".join([*apache.command, "-k", "graceful"])})


def _mod_md_lines(demo: Demo, place: Path, domain: str) -> Lines:
    place.mkdir()
    return Lines("mod_md", demo, place, domain, changes={"./dns-hook": str(place / "hook")})


def _write_hook(place: Path, control: str) -> None:
    """The program of the page's wildcard; a user who may not enter this repository runs it."""
    (place / "hook").write_text(
        "#!/bin/sh\nif [ $1 = setup ]; then call=add; else call=clear; fi\n"
        'exec curl -sf -d "{\\"name\\":\\"_acme-challenge.$2\\",\\"type\\":\\"TXT\\",\\"values\\":[\\"$3\\"]}" '
        f"{control}/$call\n")
    (place / "hook").chmod(0o755)


def test_mod_md_obtains_and_renews_by_itself(
    demo: Demo, closed_demo: Demo, tmp_path: Path, acceptance_dns: DnsProgram
) -> None:
    """Rows M1, M2, X3: obtained while Apache runs, in use after a graceful restart, renewed, and EAB."""
    domain, port = "page-mod-md.example", free_port()
    lines = _mod_md_lines(demo, tmp_path / "open", domain)
    with _apache(demo, lines, lines.text("site"), port, domain) as apache:
        apache.until_told("renewed", 1)
        _graceful(lines, apache)
        first = _until_served(port, f"www.{domain}", demo.roots, apache.log)
        apache.until_told("renewed", 2)
        _graceful(lines, apache)
        _until_served(port, f"www.{domain}", demo.roots, apache.log, other_than=frozenset({first}))

    made = json.loads(closed_demo.run("eab", "create", "--name", domain, "--output", "json"))
    closed = _mod_md_lines(closed_demo, tmp_path / "closed", domain)
    _write_hook(closed.place, acceptance_dns.control)
    site = closed.text("site").replace(f"MDomain www.{domain}\n", closed.text("wildcard")) + closed.text(
        "eab", {"KID": made["kid"], "HMAC_KEY": made["hmac_key"]})
    with _apache(closed_demo, closed, site, port, domain) as apache:
        apache.until_told("renewed", 1)
        _graceful(closed, apache)
        _until_served(port, f"www.{domain}", closed_demo.roots, apache.log)
