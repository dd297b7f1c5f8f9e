"""A responder beside the one that runs, with an empty store of its own: how fast does it catch up?"""

import asyncio
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from loadtest.chancery_process import Chancery
from loadtest.process_cpu import memory_bytes, tree_cpu_s
from loadtest.program import Program, ProgramFault, find_program, free_port

_PATIENCE_S = 900.0
_SAID = "the log has been read"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """From an empty store to the end of the log: wall and processor seconds, and what it took of memory and disk."""

    responses: int
    took_s: float
    cpu_s: float
    private_bytes: int
    store_bytes: int

    @property
    def per_s(self) -> float:
        """Responses a second."""
        return self.responses / self.took_s


async def catch_up(chancery: Chancery, work: Path) -> CatchUp:
    """Starts a responder, waits until it has read the log, and stops it. Raises ProgramFault."""
    store, log = work / "store", work / "responder.log"
    command = Path(sys.executable).parent / "chancery"
    environ = {**os.environ, "CHANCERY_OCSP__LISTEN": f'["127.0.0.1:{free_port()}"]',
               "CHANCERY_OCSP__STORE_DIR": str(store)}
    program = Program("chancery run ocsp", [
        str(command) if command.exists() else str(find_program("chancery")), "run", "ocsp", "--config",
        str(chancery.require_data_dir() / "chancery.toml")], log, environ=environ)
    try:
        said = await _said(program, log)
        cpu_s = sum(tree_cpu_s([program.pid]).values())
        private = max(memory_bytes([program.pid], "ocsp"), default=0)
        held = sum(path.stat().st_blocks * 512 for path in store.rglob("data.mdb"))
    finally:
        await asyncio.to_thread(program.stop)
        shutil.rmtree(store, ignore_errors=True)
    return CatchUp(responses=int(said["responses"]), took_s=said["took_s"], cpu_s=cpu_s, private_bytes=private,
                   store_bytes=held)


async def _said(program: Program, log: Path) -> dict[str, float]:
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        for line in log.read_text("utf-8", errors="replace").splitlines():  # noqa: ASYNC240 - a few lines
            if _SAID in line:
                found: dict[str, float] = json.loads(line)
                return found
        program.require_running()
        if time.monotonic() > give_up_at:
            raise ProgramFault(f"a new responder has not caught up after {_PATIENCE_S:.0f} s: {program.output_end()}")
        await asyncio.sleep(0.05)
