"""The Chancery that is measured: started in a directory of its own and stopped at the end, or one that runs already."""

import asyncio
import os
import shutil
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from loadtest.process_cpu import postmaster_pid, tree_cpu_s
from loadtest.program import Program, ProgramFault, find_program, free_port

_READY_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chancery:
    """Where it serves, what to trust, and its data directory when that can be seen."""

    directory_url: str
    roots: Path
    http_01_port: int
    data_dir: Path | None
    program: Program | None

    @classmethod
    async def start(cls, data_dir: Path, log: Path, resolver: str) -> Self:
        """Runs `chancery demo` on free ports, or those of the CA that is there, till it serves. Raises ProgramFault."""
        chancery = chancery_command()
        port_base, http_01_port, tls_alpn_01_port = _ports_of(data_dir) or (free_port(4), free_port(), free_port())
        program = Program("chancery demo", [
            chancery, "demo", "--data", str(data_dir), "--port-base", str(port_base), "--http-01-port",
            str(http_01_port), "--tls-alpn-01-port", str(tls_alpn_01_port), "--resolver", resolver], log,
            environ=os.environ)
        try:
            await _wait_for(data_dir / "ready", program)
        except BaseException:
            await asyncio.to_thread(program.stop, timeout_s=_STOP_TIMEOUT_S)
            raise
        return cls(directory_url=f"https://localhost:{port_base}/directory", roots=data_dir / "roots.pem",
                   http_01_port=http_01_port, data_dir=data_dir, program=program)

    @classmethod
    def running(cls, directory_url: str, roots: Path, http_01_port: int, data_dir: Path | None) -> Self:
        """One that somebody else started and will stop."""
        return cls(directory_url=directory_url, roots=roots, http_01_port=http_01_port, data_dir=data_dir,
                   program=None)

    async def stop(self) -> None:
        """SIGTERM to the one that was started here. Raises ProgramFault when it does not end cleanly."""
        if self.program is None:
            return
        code = await asyncio.to_thread(self.program.stop, timeout_s=_STOP_TIMEOUT_S)
        if code != 0:
            raise ProgramFault(f"chancery demo stopped with code {code}: {self.program.output_end()}")

    def settings(self) -> dict[str, Any]:
        """Its effective configuration. Raises ProgramFault when its directory is not known."""
        return tomllib.loads((self.require_data_dir() / "chancery.toml").read_text("utf-8"))

    def require_data_dir(self) -> Path:
        """Its directory. Raises ProgramFault when it was not told."""
        if self.data_dir is None:
            raise ProgramFault("this needs Chancery's data directory: give --data DIR beside --directory")
        return self.data_dir

    def process_ids(self) -> list[int]:
        """Its supervisor and its PostgreSQL, as far as they can be seen."""
        found = [self.program.pid] if self.program is not None else []
        if self.data_dir is not None:
            if not found:
                found = _lock_holder(self.data_dir)
            database = postmaster_pid(self.data_dir)
            found += [database] if database is not None else []
        return found

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds so far, by process."""
        return tree_cpu_s(self.process_ids())


def chancery_command() -> str:
    """The path of the command. Raises ProgramFault when there is none."""
    command = Path(sys.executable).parent / "chancery"
    chancery = str(command) if command.exists() else find_program("chancery")
    if chancery is None:
        raise ProgramFault(f"the command chancery is neither beside {sys.executable} nor on PATH")
    return chancery


def _ports_of(data_dir: Path) -> tuple[int, int, int] | None:
    """The ports of an earlier run, which are in its certificates; None in a new directory."""
    config = data_dir / "chancery.toml"
    if not config.exists():
        return None
    settings = tomllib.loads(config.read_text("utf-8"))
    return (urlsplit(settings["acme"]["base_url"]).port or 443, int(settings["va"]["http_01_port"]),
            int(settings["va"]["tls_alpn_01_port"]))


def _lock_holder(data_dir: Path) -> list[int]:
    """The supervisor writes its process id into the file that it locks."""
    lock = data_dir / "lock"
    text = lock.read_text("ascii").strip() if lock.exists() else ""
    return [int(text)] if text.isdigit() else []


async def _wait_for(ready: Path, program: Program) -> None:
    give_up_at = time.monotonic() + _READY_TIMEOUT_S
    while not ready.exists():  # noqa: ASYNC240 - one stat call
        program.require_running()
        if time.monotonic() > give_up_at:
            raise ProgramFault(f"chancery demo is not ready after {_READY_TIMEOUT_S:.0f} s: {program.output_end()}")
        await asyncio.sleep(0.1)


def remove_tree(directory: Path) -> None:
    """The work directory; a file that the database's user left goes with it."""
    shutil.rmtree(directory, ignore_errors=True)
