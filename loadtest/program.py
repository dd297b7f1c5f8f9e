"""Other programs as child processes: started on free loopback ports, waited for, stopped by their own process id."""

import asyncio
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_STOP_TIMEOUT_S = 20.0
_FIRST_PORT = 20_000
_EPHEMERAL_PORT = 32_768


class ProgramFault(Exception):
    """A program did not start or did not stay."""


def find_program(name: str) -> str | None:
    """Its path; also from the directories of system daemons, which are not on every user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def free_port(count: int = 1) -> int:
    """The first of `count` consecutive ports that nobody listens on at 127.0.0.1 and ::1.

    Below those that the system gives to outgoing connections: of these one may be taken a moment later.
    """
    for _ in range(200):
        first = random.randrange(_FIRST_PORT, _EPHEMERAL_PORT - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise ProgramFault("no free ports on loopback")


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except OSError:
            if family == socket.AF_INET or _has_ipv6_loopback():
                return False
    return True


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class Program:
    """A child process whose output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, environ: Mapping[str, str],
                 quiet: bool = False) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=dict(environ), stderr=output,
                                             stdout=subprocess.DEVNULL if quiet else output)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def require_running(self) -> None:
        """Raises ProgramFault with the end of its output when it has ended."""
        code = self._process.poll()
        if code is not None:
            raise ProgramFault(f"{self.name} ended with code {code}: {self.output_end()}")

    def output_end(self) -> str:
        """The last lines that it wrote."""
        return " | ".join(self._log.read_text("utf-8", errors="replace").strip().splitlines()[-4:])[-1500:]

    async def wait_for_output(self, text: str, *, timeout_s: float = 15.0) -> None:
        """Returns when it has written this. Raises ProgramFault."""
        give_up_at = time.monotonic() + timeout_s
        while text not in self.output_end():
            self.require_running()
            if time.monotonic() > give_up_at:
                raise ProgramFault(f"{self.name} does not say {text!r}: {self.output_end()}")
            await asyncio.sleep(0.02)

    async def wait_for_port(self, port: int, *, timeout_s: float = 15.0) -> None:
        """Returns when it accepts connections on 127.0.0.1. Raises ProgramFault."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            self.require_running()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError as fault:
                if time.monotonic() > give_up_at:
                    raise ProgramFault(f"{self.name} does not listen on port {port}: {self.output_end()}") from fault
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    def stop(self, *, timeout_s: float = _STOP_TIMEOUT_S) -> int:
        """SIGTERM, then SIGKILL for one that does not listen. Returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode
