"""A publicly trusted CA on the small Internet, set up as deploy/PUBLIC.md says and from the files that it names."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from requests import PreparedRequest
from requests.adapters import HTTPAdapter

from ca.admin.cli import cli
from hsm.softhsm import default_module, initialise_softhsm_token
from tests.acceptance.demo_process import CHANCERY, REPOSITORY
from tests.acceptance.internet import NAMES, PUBLIC_CA, SHOP, Internet, enroll
from tests.acceptance.openssl import openssl
from tests.namespaces import Namespace, resolving, route
from tests.signed_dns import unbound

_PORT = 8551
_PATIENCE_S = 120.0
_PIN = "2718281828"
_HOST = "acme.example.com"
# Where the sample says loopback, with a proxy at port 80 in front, the servers are at their addresses by themselves.
_PLACES = {
    'listen = ["0.0.0.0:443", "[::]:443"]': f'listen = ["{PUBLIC_CA[0]}:443"]',
    'listen = ["127.0.0.1:14001", "[::1]:14001"]': f'listen = ["{PUBLIC_CA[1]}:80"]',
    'listen = ["127.0.0.1:14002", "[::1]:14002"]': f'listen = ["{PUBLIC_CA[2]}:80"]',
    '"[::1]:14003"': "",
}
# The plan of hsm/CEREMONY.md, but for the RSA half, whose keys take long to make.
_PLAN = """
title = "Example CA, first roots, 2026"
country = "GB"
organization = "Example"
aia_base_url = "http://aia.example.com"
crl_base_url = "http://crl.example.com"
[root_hsm]
module = "{module}"
conf = "root/softhsm2.conf"
token_label = "example-root"
pin_file = "root/pin"
[online_hsm]
module = "{module}"
conf = "{data_dir}/hsm/online/softhsm2.conf"
token_label = "example-online"
pin_file = "{data_dir}/hsm/online/pin"
[[roots]]
common_name = "Example Root X2"
key = "p-384"
[[intermediates]]
common_name = "Example E1"
key = "p-256"
issuer = "Example Root X2"
crl_shards = 8
"""


class AtAddress(HTTPAdapter):
    """https to the CA's address, under its name, which only the DNS of the small Internet knows."""

    def build_connection_pool_key_attributes(
        self, request: PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The name is still what the certificate must have."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        assert host["host"] == _HOST
        return host | {"host": PUBLIC_CA[0]}, pool | {"server_hostname": _HOST, "assert_hostname": _HOST}

    def add_headers(self, request: PreparedRequest, **_: Any) -> None:
        """Host is the URL's."""
        request.headers["Host"] = _HOST


@dataclass(slots=True, kw_only=True)
class PublicCa:
    """The running CA. `directory_url` and `roots` are the ACME server's; `ca_roots` those that it issues under."""

    internet: Internet
    data_dir: Path
    ceremony: Path
    program: "subprocess.Popen[bytes] | None" = None
    directory_url: str = f"https://{_HOST}/directory"
    perspectives: list[tuple[Namespace, "subprocess.Popen[bytes]"]] = field(default_factory=list)

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.data_dir / "chancery.toml"

    @property
    def roots(self) -> Path:
        """The root of the ACME server's certificate, another CA's."""
        return self.data_dir / "tls" / "certificate.pem"

    @property
    def ca_roots(self) -> Path:
        """The roots of the ceremony."""
        return self.ceremony / "out" / "roots.pem"

    @property
    def issuer(self) -> Path:
        """The issuing certificate, PEM."""
        return self.ceremony / "out" / "certificates" / "example-e1.pem"

    def run(self, *arguments: str) -> str:
        """`chancery ARGUMENTS` on its configuration; what it printed. The exit code must be 0."""
        done = CliRunner().invoke(cli, [*arguments, "--config", str(self.config)])
        assert done.exit_code == 0, (arguments, done.output, done.exception)
        return done.stdout

    def refused_start(self, role: str, config: Path) -> str:
        """The last line of a process that does not start with this configuration."""
        done = subprocess.run([str(CHANCERY), "run", role, "--config", str(config)], capture_output=True, text=True,
                              timeout=_PATIENCE_S, check=False)
        assert done.returncode == 1, done.stderr
        return done.stderr.strip().splitlines()[-1]

    def anywhere(self, *command: str) -> str:
        """A program of a subscriber or of a relying party, on a host with a resolver of its own; both outputs, whatever
        the exit code."""
        done = self.internet.net.run(*resolving(self.data_dir, *command), timeout_s=_PATIENCE_S)
        return done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        """`chancery status`, whether ok or degraded."""
        done = CliRunner().invoke(cli, ["status", "--output", "json", "--config", str(self.config)])
        assert done.exit_code in (0, 5), done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def await_perspectives(self) -> None:
        """Returns when all five answer."""
        give_up_at = time.monotonic() + _PATIENCE_S
        while [each["reachable"] for each in self.status()["perspectives"]] != [True] * len(NAMES):
            assert time.monotonic() < give_up_at, self.status()["perspectives"]
            time.sleep(0.3)


def configure(data_dir: Path) -> None:
    """The sample with this machine's module and addresses, the secrets, and somebody else's TLS certificate."""
    text = (REPOSITORY / "deploy" / "public.toml").read_text("utf-8")
    for old, new in {**_PLACES, "/usr/lib/softhsm/libsofthsm2.so": default_module()}.items():
        assert old in text, old
        text = text.replace(old, new)
    (data_dir / "chancery.toml").write_text(text, "utf-8")
    for name in ("secrets", "tls", "ocsp"):
        (data_dir / name).mkdir(mode=0o700)
    key = data_dir / "secrets" / "nonce.key"
    key.touch(mode=0o600)
    key.write_text(os.urandom(32).hex() + "\n", "ascii")
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", f"/CN={_HOST}", "-addext", f"subjectAltName=DNS:{_HOST}",
            "-keyout", str(data_dir / "tls" / "key.pem"), "-out", str(data_dir / "tls" / "certificate.pem"))
    initialise_softhsm_token(data_dir / "hsm" / "online", "example-online", _PIN)


def hold_ceremony(place: Path, data_dir: Path) -> None:
    """Two operators make a root and an issuing CA."""
    place.mkdir()
    initialise_softhsm_token(place / "root", "example-root", _PIN)
    plan = place / "plan.toml"
    plan.write_text(_PLAN.format(module=default_module(), data_dir=data_dir), "utf-8")
    digits = hashlib.sha256(plan.read_bytes()).hexdigest()[:8]
    done = CliRunner().invoke(cli, ["ceremony", "run", str(plan), "--out", str(place / "out")],
                              input=f"Alice\n{digits}\nBob\n{digits}\n")
    assert done.exit_code == 0, done.output


@contextmanager
def _logs(host: Namespace, log_list: Path, roots: Path) -> Iterator[None]:
    """Four logs of two operators on the CA's host, which take certificates of these roots alone."""
    program = host.start(sys.executable, "-m", "tests.ct_log", "--list", str(log_list), "--roots", str(roots),
                         log=log_list.with_suffix(".log"), cwd=REPOSITORY)
    try:
        give_up_at = time.monotonic() + _PATIENCE_S
        while not log_list.exists() or not log_list.read_bytes().rstrip().endswith(b"}"):
            assert program.poll() is None, log_list.with_suffix(".log").read_text("utf-8")
            assert time.monotonic() < give_up_at, "the logs have not written their list"
            time.sleep(0.05)
        yield
    finally:
        host.stop(program)


def _start(ca: PublicCa) -> None:
    """`chancery run all` until it serves."""
    log = ca.data_dir / "run.log"
    ca.program = ca.internet.ca.start(
        *resolving(ca.data_dir, str(CHANCERY), "run", "all", "--config", str(ca.config)), log=log)
    give_up_at = time.monotonic() + _PATIENCE_S
    while not (ca.data_dir / "ready").exists():
        assert ca.program.poll() is None, log.read_text("utf-8")
        assert time.monotonic() < give_up_at, log.read_text("utf-8")
        time.sleep(0.05)


def _stop(ca: PublicCa) -> None:
    for host, program in ca.perspectives:
        host.stop(program)
    if ca.program is not None and ca.program.poll() is None:
        ca.program.send_signal(signal.SIGTERM)
        ca.program.wait(timeout=_PATIENCE_S)


@contextmanager
def run_public_ca(internet: Internet, directory: Path) -> Iterator[PublicCa]:
    """Everything of deploy/PUBLIC.md, from the empty directory to the running CA."""
    data_dir = directory / "ca"
    data_dir.mkdir()
    ca = PublicCa(internet=internet, data_dir=data_dir, ceremony=directory / "ceremony")
    internet.ca.address(*PUBLIC_CA)
    for address in PUBLIC_CA:
        route(internet.net, address, "10.201.0.1")
    internet.net.address(SHOP)
    with ExitStack() as stack:
        stack.enter_context(unbound(internet.net, internet.directory, internet.directory / "root.key"))
        configure(data_dir)
        hold_ceremony(ca.ceremony, data_dir)
        ca.run("ceremony", "record", str(ca.ceremony / "out"))
        enroll(ca.config, port=_PORT)
        stack.callback(_stop, ca)
        for name, host in zip(NAMES, internet.perspectives, strict=True):
            bundle = data_dir / "perspectives" / name / "perspective.toml"
            ca.perspectives.append((host, host.start(
                str(CHANCERY), "run", "perspective", "--config", str(bundle), log=directory / f"{name}.log")))
        stack.enter_context(_logs(internet.ca, data_dir / "log_list.json", ca.ca_roots))
        ca.run("config", "check")
        _start(ca)
        ca.await_perspectives()
        yield ca
        ca.run("audit", "check")
        ca.run("audit", "verify")


def edited(config: Path, pattern: str, replacement: str = "") -> Path:
    """A copy of a configuration beside it, in which what the pattern matches is something else."""
    text, count = re.subn(pattern, replacement, config.read_text("utf-8"))
    assert count, pattern
    copy = config.with_name("edited.toml")
    copy.write_text(text, "utf-8")
    return copy
