"""The life of a process: one event loop, SIGTERM and SIGINT drain it, and it never outlives its supervisor."""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import structlog
import uvloop

from ca.process.large_pages import use_large_pages
from ca.process.log import set_up_logging

SUPERVISOR_VARIABLE = "CHANCERY_SUPERVISOR_PID"
READY_VARIABLE = "CHANCERY_READY_FILE"
_PARENT_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1


# What a supervisor must not try again by itself (sysexits.h: EX_CONFIG).
NO_RETRY_EXIT_CODE = 78


class StartupError(Exception):
    """The process cannot start; the message is one line that says what to do about it."""

    exit_code = 1


class NoRetryError(StartupError):
    """Starting again would make it worse before a person has acted: a refused PIN counts towards the token's lock."""

    exit_code = NO_RETRY_EXIT_CODE


def run_process(
    name: str, main: Callable[[asyncio.Event], Awaitable[None]], *, log_level: int = logging.INFO, prompt: bool = False
) -> int:
    """Runs `main(stop)` to its end and returns the exit code: 0, or 1 after one clear line on stderr.

    `stop` is set by SIGTERM, by SIGINT, and when the supervisor that started the process is gone. `prompt`: it may take
    the processor from others when it is woken (`wait_for_a_turn`), and so may what it starts.
    """
    set_up_logging(name, level=log_level)
    if not prompt:
        wait_for_a_turn()
    _die_with_supervisor()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(name, main))
    except StartupError as fault:
        sys.stderr.write(f"chancery {name}: {fault}\n")
        return fault.exit_code if os.environ.get(SUPERVISOR_VARIABLE) else StartupError.exit_code
    return 0


async def _run(name: str, main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watcher = asyncio.create_task(_stop_without_supervisor(stop))
    log = structlog.get_logger()
    log.info("starting", pid=os.getpid())
    try:
        await main(stop)
    finally:
        watcher.cancel()
    log.info("stopped")


def wait_for_a_turn(pid: int = 0) -> None:
    """Has a process (0: this one) wait, when it is woken, until the processor's current user has done what it is at, or
    has had its share. Its own share stays the same.

    An order goes through five processes and their database sessions, each of which wakes the next one. By default the
    kernel lets the woken one interrupt who woke it, often in the middle of the very send that did: twice as many
    switches, each with cold caches, for nothing, since the order is not done sooner. Linux alone has a word for it
    (SCHED_BATCH); where it is not allowed nothing changes.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


def ready() -> None:
    """Tells the supervisor, if there is one, that this process does its work from now on.

    What exists at this moment (modules, tables, linters) stays, so the cycle collector need not look at it again, and
    large pages are worth while for it.
    """
    gc.collect()
    gc.freeze()
    use_large_pages()
    path = os.environ.get(READY_VARIABLE)
    if path:
        Path(path).touch()
    structlog.get_logger().info("ready")


def _die_with_supervisor() -> None:
    """Linux ends us with SIGTERM when the supervisor dies, even by kill -9; elsewhere the poll below sees it."""
    if os.environ.get(SUPERVISOR_VARIABLE) and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _stop_without_supervisor(stop: asyncio.Event) -> None:
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if not supervisor:
        return
    while os.getppid() == int(supervisor):  # noqa: ASYNC110 - nothing signals a parent's death everywhere
        await asyncio.sleep(_PARENT_POLL_S)
    stop.set()
