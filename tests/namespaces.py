"""Network namespaces: hosts of their own, with their own addresses, routes and servers, on one machine.

They need root on Linux and iproute2. Where they cannot be made the tests that want them fail and say so: what they show
(several perspectives, a hijacked route, a resolver with its own root) cannot be shown otherwise.
"""

import ctypes
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x4000_0000
_NUMBERS = itertools.count()


def environment() -> dict[str, str]:
    """Servers and `ip` are in sbin, which is not on everybody's PATH."""
    return os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"}


def ip(*arguments: str) -> None:
    """Runs `ip ARGUMENTS`."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


@dataclass(slots=True)
class Namespace:
    """One host. Programs are started in it; `entered` puts the test itself there."""

    name: str
    _programs: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def address(self, *addresses: str) -> None:
        """Addresses of this host, on its loopback interface so that every route may lead to them."""
        for address in addresses:
            ip("-n", self.name, "address", "add", f"{address}/32", "dev", "lo")

    def start(self, *command: str, log: Path, cwd: Path | None = None) -> "subprocess.Popen[bytes]":
        """A program that runs until the namespace is taken down."""
        with log.open("ab") as output:
            program = subprocess.Popen(["ip", "netns", "exec", self.name, *command], stdout=output, stderr=output,
                                       stdin=subprocess.DEVNULL, cwd=cwd, start_new_session=True, env=environment())
        self._programs.append(program)
        return program

    def run(self, *command: str, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """A program that ends by itself, with what it printed."""
        return subprocess.run(["ip", "netns", "exec", self.name, *command], capture_output=True, text=True,
                              timeout=timeout_s, check=False, env=environment())

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread opens meanwhile are this host's; those of other threads are not."""
        libc = ctypes.CDLL(None, use_errno=True)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _set(libc, there)
            try:
                yield
            finally:
                _set(libc, home)
        finally:
            os.close(there)
            os.close(home)

    def stop(self, program: "subprocess.Popen[bytes]") -> None:
        """Ends one program and what it has started."""
        if program.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGTERM)
            try:
                program.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGKILL)
                program.wait(timeout=20)

    def take_down(self) -> None:
        """Ends every program and removes the host."""
        for program in self._programs:
            self.stop(program)
        ip("netns", "delete", self.name)


def resolving(directory: Path, *command: str) -> tuple[str, ...]:
    """The command where names are resolved by the host's own resolver at 127.0.0.1, as its /etc/resolv.conf would say:
    `ip netns exec` gives each program mounts of its own."""
    resolv_conf = directory / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n", "ascii")
    return ("sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(resolv_conf), *command)


def _set(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def make_namespace(label: str) -> Namespace:
    """A host without any neighbour. Fails the test where the machine does not let us."""
    name = f"chancery-{os.getpid()}-{next(_NUMBERS)}-{label}"
    try:
        done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False,
                              env=environment())
        refused = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError:
        refused = "there is no program `ip`: install iproute2"
    if refused:
        pytest.fail(f"network namespaces cannot be made here, and this test needs them (root on Linux): {refused}",
                    pytrace=False)
    ip("-n", name, "link", "set", "lo", "up")
    return Namespace(name)


@contextmanager
def namespaces(*labels: str) -> Iterator[Sequence[Namespace]]:
    """Hosts that are removed at the end."""
    made: list[Namespace] = []
    try:
        for label in labels:
            made.append(make_namespace(label))
        yield made
    finally:
        for each in reversed(made):
            each.take_down()


def link(one: Namespace, one_address: str, other: Namespace, other_address: str) -> None:
    """A cable between two hosts, with an address (in a /30) at each end."""
    number = next(_NUMBERS)
    here, there = f"v{number}a", f"v{number}b"
    ip("-n", one.name, "link", "add", here, "type", "veth", "peer", "name", there, "netns", other.name)
    for host, interface, address in ((one, here, one_address), (other, there, other_address)):
        ip("-n", host.name, "address", "add", f"{address}/30", "dev", interface)
        ip("-n", host.name, "link", "set", interface, "up")


def route(host: Namespace, destination: str, via: str) -> None:
    """From now on this host reaches the destination by that neighbour."""
    ip("-n", host.name, "route", "replace", destination, "via", via)
