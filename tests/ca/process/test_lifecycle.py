"""The life of a process: how the kernel schedules it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures_postgres import TestDatabase

_CHILD = """
import os, sys
from ca.process.lifecycle import run_process

async def main(stop):
    print(os.sched_getscheduler(0), flush=True)

sys.exit(run_process("test", main, prompt=sys.argv[1] == "prompt"))
"""


@pytest.mark.parametrize(("kind", "policy"), [("patient", os.SCHED_BATCH), ("prompt", os.SCHED_OTHER)])
def test_who_waits_for_a_turn(kind: str, policy: int) -> None:
    """A process of ours interrupts nobody by being woken, unless it is one that must (the OCSP responder), or one whose
    children would inherit it (the supervisor)."""
    done = subprocess.run([sys.executable, "-c", _CHILD, kind], check=True, capture_output=True, text=True,
                          cwd=Path(__file__).parents[3])
    assert int(done.stdout) == policy


async def test_sessions_of_the_embedded_server_wait_for_their_turn(database: TestDatabase) -> None:
    """So do the sessions of a PostgreSQL that is ours alone."""
    connection = await database.connect()
    try:
        assert os.sched_getscheduler(await connection.fetchval("SELECT pg_backend_pid()")) == os.SCHED_BATCH
    finally:
        await connection.close()
