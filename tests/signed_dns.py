"""A DNS of its own, for tests: a signed root, its trust anchor, authoritative servers (nsd), a validating resolver
(unbound with the configuration of deploy/unbound). Everything on port 53 of addresses inside one network namespace."""

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import dns.exception
import dns.message
import dns.query

from tests.namespaces import Namespace

REPOSITORY = Path(__file__).resolve().parent.parent
ROOT_SERVER = "198.41.0.4"
_PATIENCE_S = 30.0
# On a busy machine the two processes that nsd begins with lose each other now and then, and it ends.
_STARTS = 4
_ALGORITHM = "ECDSAP256SHA256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One zone as it is served by the name server at `server`, and how it is made wrong.

    `signed`: "" for an unsigned zone, "nsec" or "nsec3" (with opt-out: "optout"). `expired`: its signatures are.
    `replace`: text of the signed zone file -> other text, after signing. `ds`: what the parent says: "true", "none", or
    "wrong", a DS record of another key. `served`: "yes", "refused" (its server does not know it), "servfail" (its
    server has lost the file), "dead" (nobody is at the address). `delegated`: its parent knows it.
    """

    name: str
    records: str
    server: str
    signed: str = "nsec"
    ds: str = "true"
    expired: bool = False
    replace: Mapping[str, str] = field(default_factory=dict)
    served: str = "yes"
    delegated: bool = True


def write_zones(zones: Sequence[Zone], directory: Path) -> Path:
    """Makes and signs every zone, the leaves first, so that parents know the DS records; returns the trust anchor."""
    delegations: dict[str, str] = {}
    anchor = ""
    for zone in sorted(zones, key=lambda each: -len(each.name.split(".")) if each.name != "." else 1):
        parent = zone.name.partition(".")[2] or "."
        ds = _write_zone(zone, delegations.get(zone.name, ""), directory)
        if zone.name == ".":
            anchor = ds
            continue
        if not zone.delegated:
            (directory / f"{zone.name}.key").write_text(ds, "ascii")
            continue
        host = f"ns.{zone.name}."
        lines = f"{zone.name}. 60 IN NS {host}\n{host} 60 IN A {zone.server}\n"
        if zone.ds == "true":
            lines += ds
        elif zone.ds == "wrong":
            lines += f"{zone.name}. 60 IN DS 4711 13 2 {'0f' * 32}\n"
        delegations[parent] = delegations.get(parent, "") + lines
    trust_anchor = directory / "root.key"
    trust_anchor.write_text(anchor, "ascii")
    return trust_anchor


def _write_zone(zone: Zone, delegations: str, directory: Path) -> str:
    """Writes the zone's file; returns its DS record, "" when it is not signed."""
    apex = "." if zone.name == "." else f"{zone.name}."
    server = "ns." if zone.name == "." else f"ns.{zone.name}."
    text = (f"$ORIGIN {apex}\n$TTL 60\n{apex} IN SOA {server} hostmaster.invalid. 1 3600 600 86400 1\n"
            f"{apex} IN NS {server}\n{server} IN A {zone.server}\n{zone.records}\n{delegations}")
    plain, place = directory / f"{zone.name}.plain", zone_file(directory, zone)
    if not zone.signed:
        place.write_text(text, "ascii")
        return ""
    plain.write_text(text, "ascii")
    keys = [_run(directory, "ldns-keygen", *flags, "-a", _ALGORITHM, apex).strip() for flags in (("-k",), ())]
    now = datetime.now(UTC)
    begin, end = (now - timedelta(days=30), now - timedelta(days=2)) if zone.expired else (
        now - timedelta(hours=1), now + timedelta(days=2))
    denial = {"nsec": (), "nsec3": ("-n",), "optout": ("-n", "-p")}[zone.signed]
    _run(directory, "ldns-signzone", *denial, "-i", f"{begin:%Y%m%d%H%M%S}", "-e", f"{end:%Y%m%d%H%M%S}",
         "-f", str(place), str(plain), *keys)
    signed = place.read_text("ascii")
    for old, new in zone.replace.items():
        assert old in signed, (zone.name, old)
        signed = signed.replace(old, new)
    place.write_text(signed, "ascii")
    return (directory / f"{keys[0]}.ds").read_text("ascii")


def zone_file(directory: Path, zone: Zone) -> Path:
    """Where a zone is, signed if it is to be."""
    return directory / f"{zone.name}.zone"


def _run(directory: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def authoritative(zones: Sequence[Zone], host: Namespace, directory: Path) -> Iterator[None]:
    """One nsd an address: the root's, top-level domains', hosters' servers do not know each other's zones."""
    alive = [zone for zone in zones if zone.served != "dead"]
    started = []
    for address in sorted({zone.server for zone in alive}):
        host.address(address)
        place = directory / f"nsd-{address}"
        place.mkdir()
        listed = "".join(
            f'zone:\n  name: "{zone.name}"\n  zonefile: "{_served_file(directory, zone)}"\n'
            for zone in alive if zone.server == address and zone.served != "refused")
        (place / "nsd.conf").write_text(
            f'server:\n  ip-address: {address}\n  username: ""\n  chroot: ""\n  zonesdir: "{directory}"\n'
            f'  pidfile: "{place}/nsd.pid"\n  xfrdfile: "{place}/xfrd.state"\n  zonelistfile: "{place}/zone.list"\n'
            f'  xfrdir: "{place}"\n  server-count: 1\n  refuse-any: no\n  rrl-ratelimit: 0\n'
            f'remote-control:\n  control-enable: no\n{listed}', "ascii")
        started.append((address, _start_nsd(host, place)))
    try:
        for number, (address, program) in enumerate(started):
            place = directory / f"nsd-{address}"
            for _ in range(_STARTS):
                if _answers(host, address, program, place / "log"):
                    break
                program = _start_nsd(host, place)
                started[number] = (address, program)
            else:
                raise AssertionError((place / "log").read_text("utf-8", "replace"))
        yield
    finally:
        for _, program in started:
            host.stop(program)


def _start_nsd(host: Namespace, place: Path) -> "subprocess.Popen[bytes]":
    return host.start("nsd", "-d", "-c", str(place / "nsd.conf"), log=place / "log")


def _served_file(directory: Path, zone: Zone) -> Path:
    return directory / "lost.zone" if zone.served == "servfail" else zone_file(directory, zone)


@contextmanager
def unbound(
    host: Namespace, directory: Path, trust_anchor: Path, *, port: int = 53, validating: bool = True,
    overlooks: str = "", internal: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """A resolver at 127.0.0.1 of the namespace, as deploy/unbound sets it up but for root and trust anchor.

    Made wrong: one that does not validate, or one that overlooks the signatures of a zone. `internal`: zones that no
    parent delegates -> their servers; those that have a key in `directory` get it as a trust anchor.
    """
    place = directory / f"unbound-{host.name}-{port}"
    place.mkdir()
    (place / "root.hints").write_text(f". 3600 IN NS ns.\nns. 3600 IN A {ROOT_SERVER}\n", "ascii")
    anchor = f'  trust-anchor-file: "{trust_anchor}"\n' if validating else '  module-config: "iterator"\n'
    if overlooks:
        anchor += f'  domain-insecure: "{overlooks}"\n'
    stubs = ""
    for zone, server in internal.items():
        key = directory / f"{zone}.key"
        anchor += f'  trust-anchor-file: "{key}"\n' if key.read_text("ascii") else f'  domain-insecure: "{zone}"\n'
        stubs += f'stub-zone:\n  name: "{zone}"\n  stub-addr: {server}\n'
    (place / "unbound.conf").write_text(
        f'include: "{REPOSITORY}/deploy/unbound/chancery.conf"\n'
        f'server:\n  directory: "{place}"\n  username: ""\n  chroot: ""\n  pidfile: "{place}/pid"\n  do-ip6: no\n'
        f'  root-hints: "{place}/root.hints"\n  use-syslog: no\n  do-daemonize: no\n  port: {port}\n'
        f'  log-servfail: yes\n{anchor}{stubs}', "ascii")
    program = host.start("unbound", "-d", "-c", str(place / "unbound.conf"), log=place / "log")
    try:
        assert _answers(host, "127.0.0.1", program, place / "log", port=port), (place / "log").read_text("utf-8")
        yield f"127.0.0.1:{port}"
    finally:
        host.stop(program)


def _answers(
    host: Namespace, address: str, program: "subprocess.Popen[bytes]", log: Path, *, port: int = 53
) -> bool:
    """True when a DNS server answers anything; False when it has ended by itself instead."""
    query = dns.message.make_query(".", "SOA")
    give_up_at = time.monotonic() + _PATIENCE_S
    with host.entered():
        while True:
            if program.poll() is not None:
                return False
            try:
                dns.query.udp(query, address, port=port, timeout=1.0)
                return True
            except (OSError, dns.exception.DNSException):
                assert time.monotonic() < give_up_at, log.read_text("utf-8", "replace")
                time.sleep(0.05)
