"""The claim loop: work while there is some, else wait for a wake-up, with a slow poll as the backstop."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

_FIRST_BACK_OFF_S = 0.1
_LONGEST_BACK_OFF_S = 5.0


async def run_claim_loop(
    *,
    wake: asyncio.Event,
    poll_s: float,
    stop: asyncio.Event,
    step: Callable[[], Awaitable[bool]],
    log: FilteringBoundLogger,
) -> None:
    """Calls `step` until it says that nothing was claimed (False), then waits for `wake` or `poll_s` seconds.

    A step that raises is logged and tried again after 0.1 s, then twice as long each time up to 5 s: its claim stays
    leased, so another process or a later step takes it up. Ends when `stop` is set and the running step is done.
    """
    back_off_s = _FIRST_BACK_OFF_S
    while not stop.is_set():
        wake.clear()
        try:
            worked = await step()
        except Exception:
            log.exception("step failed", retry_in_s=back_off_s)
            await wait_any(stop, timeout_s=back_off_s)
            back_off_s = min(back_off_s * 2, _LONGEST_BACK_OFF_S)
            continue
        back_off_s = _FIRST_BACK_OFF_S
        if not worked:
            await wait_any(wake, stop, timeout_s=poll_s)


async def wait_any(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Returns when any of the events is set, or after `timeout_s` seconds."""
    if any(event.is_set() for event in events):
        return
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


def worker_name() -> str:
    """Who holds a lease: this host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_dead(worker: str) -> bool:
    """Whether a lease's holder is a process of this host that no longer runs, so that its lease may be freed at once.

    The name may go on behind the process id (`host:pid:more`). False for another host's process and when in doubt (a
    process id that was given out again): the lease runs out then.
    """
    host, _, rest = worker.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
