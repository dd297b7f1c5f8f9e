"""The CA and the publisher as processes of their own, as `chancery run ca` and `chancery run publisher` start them."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ca.issuing.world import BASE, World

_PROGRAM = ("import sys; from pathlib import Path; from {package}.__main__ import main;"
            " from ca.process.settings import load_settings; sys.exit(main(load_settings(Path(sys.argv[1]), dict())))")


def write_settings(directory: Path, world: World, *, ct: str = "", **hsm: str) -> Path:
    """A configuration for the world's database and token; `ct` is the text of that section."""
    token = world.softhsm.settings
    values = {"module": token.module, "conf": str(token.conf), "token_label": token.token_label,
              "pin_file": str(token.pin_file), **hsm}
    path = directory / "chancery.toml"
    path.write_text(f"""
data_dir = "{directory}"
policy = "internal"
[database]
url = "{world.database.settings.url}"
secrets_dir = "{world.database.settings.secrets_dir}"
[hsm]
{chr(10).join(f'{name} = "{value}"' for name, value in values.items())}
[acme]
base_url = "{BASE}"
listen = ["127.0.0.1:1"]
tls = false
nonce_key = "nonce.key"
[va]
caa_identities = ["chancery.example"]
[ca]
service_names = ["localhost"]
internal_suffixes = ["*"]
ocsp_url = "http://localhost:14001"
aia_base_url = "http://localhost:14002"
crl_base_url = "http://localhost:14002"
[ocsp]
listen = ["127.0.0.1:1"]
store_dir = "ocsp"
[distribution]
listen = ["127.0.0.1:1"]
[admin]
listen = ["127.0.0.1:1"]
[ct]
{ct}
""", "utf-8")
    return path


@dataclass(slots=True)
class CaProcess:
    """A running process and what it has logged."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines that are JSON."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    async def read(self) -> None:
        """Reads the log to its end."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            if '"event":"ready"' in self.lines[-1].replace(" ", ""):
                self.ready.set()

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 20)


@asynccontextmanager
async def ca_process(settings: Path, *, wait: bool = True, package: str = "ca.issuing") -> AsyncIterator[CaProcess]:
    """A CA process (or that of another package), ready to work; killed at the end when it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM.format(package=package), str(settings), stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    running = CaProcess(process)
    reader = asyncio.create_task(running.read())
    try:
        if wait:
            ready = asyncio.create_task(running.ready.wait())
            await asyncio.wait([ready, reader], timeout=60, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            assert running.ready.is_set(), running.lines
        yield running
    finally:
        if process.returncode is None:
            await running.kill()
        await reader


async def until(world: World, condition: str, *values: object, timeout_s: float = 30.0) -> None:
    """Waits for another process to make the condition true."""
    async with asyncio.timeout(timeout_s):
        while not await world.owner.fetchval(f"SELECT {condition}", *values):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
