"""A small Internet of network namespaces: a CA, five remote perspectives with resolvers of their own, name servers, a
subscriber's web server, and a hijacker who can take any of their routes to it (as false BGP announcements do)."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from acme import challenges, messages
from click.testing import CliRunner
from cryptography import x509
from requests.adapters import HTTPAdapter

from ca.admin.cli import cli
from tests.acceptance.acme_session import AcmeSession, Server
from tests.acceptance.demo_process import CHANCERY, Demo, run_demo
from tests.namespaces import Namespace, ip, link, namespaces, route
from tests.signed_dns import ROOT_SERVER, Zone, authoritative, unbound, write_zones

SUBSCRIBER = "45.66.77.88"
SHOP = "45.66.77.89"
ATTACKER = "45.66.77.90"
UNSIGNED_SERVER = "192.0.2.99"
PUBLIC_CA = ("45.66.70.1", "45.66.70.2", "45.66.70.3")      # ACME; OCSP; CA certificates and CRLs
RIRS = ("RIPE NCC", "ARIN", "APNIC", "LACNIC", "AFRINIC")
NAMES = ("fra1", "iad1", "sin1", "gru1", "jnb1")
_PORT = 8550
_PATIENCE_S = 60.0
ZONES = (
    Zone(name=".", records="", server=ROOT_SERVER),
    Zone(name="lab", records="", server="192.0.2.1", signed="optout"),
    Zone(name="subscriber.lab", server="192.0.2.53",
         records=f'* IN A {SUBSCRIBER}\n@ IN CAA 0 issue "chancery.example"'),
    # Not signed, so that whoever takes the route to its name server can answer for it.
    Zone(name="unsigned.lab", server=UNSIGNED_SERVER, signed="",
         records=f'* IN A {SUBSCRIBER}\n@ IN CAA 0 issue "chancery.example"'),
    # What a public CA has and certifies: suffixes that the whole Internet knows, here with other owners.
    Zone(name="com", records="", server="192.0.2.1", signed="optout"),
    Zone(name="example.com", server="192.0.2.53", records=f"acme IN A {PUBLIC_CA[0]}\nocsp IN A {PUBLIC_CA[1]}\n"
         f"aia IN A {PUBLIC_CA[2]}\ncrl IN A {PUBLIC_CA[2]}"),
    Zone(name="subscriber.com", server="192.0.2.53",
         records=f'* IN A {SUBSCRIBER}\nshop IN A {SHOP}\n@ IN CAA 0 issue "ca.example.com"'),
    Zone(name="customer.com", server="192.0.2.53",
         records=f'* IN A {SUBSCRIBER}\n@ IN CAA 0 issue "other.example.net"'),
)

_FORGED = (Zone(name="unsigned.lab", server=UNSIGNED_SERVER, signed="",
                records=f'* IN A {ATTACKER}\n@ IN CAA 0 issue "chancery.example"'),)


class WebServer:
    """A host's web server: what was put in for a path, something else for every other path."""

    def __init__(self, host: Namespace, address: str) -> None:
        self.answers: dict[str, str] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = outer.answers.get(self.path, "another site").encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        with host.entered():
            self.server = ThreadingHTTPServer((address, 80), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Serves no more."""
        self.server.shutdown()
        self.server.server_close()


class Client:
    """An account at an ACME server, used from a host."""

    def __init__(self, host: Namespace, server: Server, adapter: HTTPAdapter | None = None) -> None:
        self._host = host
        with host.entered():
            self.session = AcmeSession(server, adapter)

    def order(self, name: str, site: WebServer) -> messages.OrderResource:
        """An order for the name, answered on that site, and waited for: ready or invalid."""
        with self._host.entered():
            order = self.session.order(name)
            for authorization in order.authorizations:
                for item in authorization.body.challenges:
                    if isinstance(item.chall, challenges.HTTP01):
                        response, validation = item.response_and_validation(self.session._key)
                        site.answers[item.chall.path] = validation
                        self.session.client.answer_challenge(item, response)
            self.session.wait_for(order, "ready", "invalid")
        return order

    def issue(self, order: messages.OrderResource) -> x509.Certificate:
        """The certificate of a ready order."""
        with self._host.entered():
            self.session.finalize(order)
            assert self.session.wait_for(order, "valid", "invalid") == "valid"
            return self.session.download(order)

    def revoke(self, certificate: x509.Certificate) -> None:
        """By the account that ordered it."""
        with self._host.entered():
            self.session.client.revoke(certificate, 0)

    def refusal(self, name: str) -> messages.Error:
        """The problem with which an order for this name is answered."""
        with self._host.entered():
            try:
                self.session.order(name)
            except messages.Error as problem:
                return problem
        raise AssertionError(f"{name} may be ordered")

    def status(self, order: messages.OrderResource) -> str:
        """Of the order, now."""
        with self._host.entered():
            return self.session.status(order)


@dataclass(slots=True, kw_only=True)
class Internet:
    """Everything that runs. Positions 0 to 4 are those of NAMES; -1 is the CA's own host."""

    net: Namespace
    ca: Namespace
    perspectives: Sequence[Namespace]
    demo: Demo
    true_site: WebServer
    false_site: WebServer
    attackers_site: WebServer
    directory: Path
    running: dict[int, object] = field(default_factory=dict)

    @contextmanager
    def hijacked(self, *positions: int, address: str = SUBSCRIBER) -> Iterator[None]:
        """These hosts reach the false site at the subscriber's address; with `address` UNSIGNED_SERVER the false name
        server, which says that its names are at the attacker's."""
        hosts = [self._host(position) for position in positions]
        try:
            for position, host in zip(positions, hosts, strict=True):
                route(host, address, f"10.202.{position + 1}.2")
            yield
        finally:
            for host in hosts:
                ip("-n", host.name, "route", "delete", address)

    def _host(self, position: int) -> Namespace:
        return self.ca if position < 0 else self.perspectives[position]

    def start(self, position: int, *, bundle: str | None = None) -> None:
        """Starts a perspective from its bundle, or from another's files."""
        place = self.bundle(position) if bundle is None else self.directory / bundle
        self.running[position] = self.perspectives[position].start(
            str(CHANCERY), "run", "perspective", "--config", str(place / "perspective.toml"),
            log=self.directory / f"{NAMES[position]}.log")

    def stop(self, *positions: int) -> None:
        """These hosts are away."""
        for position in positions:
            self.perspectives[position].stop(self.running.pop(position))  # type: ignore[arg-type]

    def bundle(self, position: int) -> Path:
        """What `perspective enroll` made for a host."""
        return self.demo.data_dir / "perspectives" / NAMES[position]

    def restart(self, *roles: str) -> None:
        """The processes of these roles begin anew, with the configuration as it is now."""
        before = self.demo.child_pids()
        for role in roles:
            for pid in before[role]:
                os.kill(pid, signal.SIGTERM)
        give_up_at = time.monotonic() + _PATIENCE_S
        while any(set(self.demo.child_pids().get(role, [])) <= set(before[role]) for role in roles):
            assert time.monotonic() < give_up_at, "the processes are not started again"
            time.sleep(0.1)

    def await_status(self, *, away: int) -> None:
        """Returns when `chancery status` says that so many perspectives are away."""
        give_up_at = time.monotonic() + _PATIENCE_S
        while True:
            seen = self.perspective_status()
            if len(seen) == len(NAMES) and sum(not each["reachable"] for each in seen) == away:
                return
            assert time.monotonic() < give_up_at, seen
            time.sleep(0.3)

    def await_fault(self, position: int, words: str) -> dict[str, object]:
        """The status of a perspective, as soon as its fault has these words."""
        give_up_at = time.monotonic() + _PATIENCE_S
        while True:
            seen = self.perspective_status()
            if len(seen) == len(NAMES) and words in str(seen[position]["fault"]):
                return seen[position]
            assert time.monotonic() < give_up_at, seen
            time.sleep(0.3)

    def perspective_status(self) -> list[dict[str, object]]:
        """What `chancery status` says about each."""
        done = CliRunner().invoke(cli, ["status", "--output", "json", "--config",
                                        str(self.demo.data_dir / "chancery.toml")])
        assert done.exit_code in (0, 5), done.output
        found: list[dict[str, object]] = json.loads(done.stdout)["perspectives"]
        return found


def _cables(internet: Namespace, false: Namespace, hosts: Sequence[Namespace]) -> None:
    """Every host has two neighbours: the Internet, by which it reaches everything, and the hijacker."""
    for number, host in enumerate(hosts):
        link(host, f"10.201.{number}.1", internet, f"10.201.{number}.2")
        link(host, f"10.202.{number}.1", false, f"10.202.{number}.2")
        route(host, "default", f"10.201.{number}.2")


def _strict(config: Path) -> None:
    """What a public CA does always, for the internal one."""
    text = config.read_text("utf-8").replace("\n[va]\n", "\n[va]\nrequire_dnssec = true\n").replace(
        "\n[ca]\n", "\n[ca]\nleast_corroborated = 4\n")
    config.write_text(text, "utf-8")


def enroll(config: Path, *, port: int) -> None:
    """Makes the bundle of each host, and puts the printed lines to the end of the configuration."""
    often = "[perspectives]\nprobe_interval_s = 1.0\nstraggler_grace_s = 20.0\n"
    for position, name in enumerate(NAMES):
        shown = CliRunner().invoke(cli, [
            "perspective", "enroll", name, "--address", f"10.201.{position + 1}.1:{port}", "--rir", RIRS[position],
            "--distance-group", name, "--config", str(config)])
        assert shown.exit_code == 0, shown.output
        lines = shown.stdout.partition("\n\n")[2].replace("[perspectives]\n", often)
        config.write_text(f"{config.read_text('utf-8')}\n{lines}", "utf-8")


@contextmanager
def run_internet(directory: Path) -> Iterator[Internet]:
    """Builds it, starts the CA as a newcomer does, enrolls five perspectives and waits until all answer."""
    anchor = write_zones(ZONES, directory)
    with ExitStack() as stack:
        internet, false, ca, *perspectives = stack.enter_context(namespaces("net", "false", "ca", *NAMES))
        _cables(internet, false, [ca, *perspectives])
        with internet.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1", "ascii")
        internet.address(SUBSCRIBER, ATTACKER)
        false.address(SUBSCRIBER)
        stack.enter_context(authoritative(ZONES, internet, directory))
        forged = directory / "forged"
        forged.mkdir()
        write_zones(_FORGED, forged)
        stack.enter_context(authoritative(_FORGED, false, forged))
        resolver, *_ = [stack.enter_context(unbound(host, directory, anchor)) for host in (ca, *perspectives)]
        true_site, false_site = WebServer(internet, SUBSCRIBER), WebServer(false, SUBSCRIBER)
        attackers_site = WebServer(internet, ATTACKER)
        for site in (true_site, false_site, attackers_site):
            stack.callback(site.close)
        with ca.entered():
            demo = stack.enter_context(run_demo(directory / "ca", http_01_port=80, resolver=resolver))
        _strict(demo.data_dir / "chancery.toml")
        enroll(demo.data_dir / "chancery.toml", port=_PORT)
        world = Internet(net=internet, ca=ca, perspectives=perspectives, demo=demo, true_site=true_site,
                         false_site=false_site, attackers_site=attackers_site, directory=directory)
        for position in range(len(NAMES)):
            world.start(position)
        world.restart("va", "ca")
        world.await_status(away=0)
        yield world
