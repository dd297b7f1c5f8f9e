"""Free TCP ports for the servers of tests.

They lie below the kernel's ephemeral range, so that no outgoing connection takes one between the moment it is found and
the moment a server listens on it; and each test process draws from a range of its own, which it holds by a file lock
until it ends, so that two workers, or two runs on one machine, are never given the same port.
"""

import errno
import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

_FIRST, _END, _RANGE = 17_000, 32_000, 250


@cache
def _own_range() -> int:
    """The first port of the range that is this process's from now on."""
    directory = Path(tempfile.gettempdir()) / f"chancery-test-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    for first in range(_FIRST, _END, _RANGE):
        descriptor = os.open(directory / str(first), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return first    # The descriptor stays open: the lock ends with the process.
    raise AssertionError("every range of ports is held by another test process")


@cache
def _candidates() -> Iterator[int]:
    first = _own_range()
    return itertools.cycle(range(first, first + _RANGE))


def free_port_base(count: int) -> int:
    """A port that is free together with the `count - 1` after it, on both loopback addresses."""
    for _ in range(2 * _RANGE):
        base = next(_candidates())
        if base + count > _own_range() + _RANGE or not all(_is_free(base + offset) for offset in range(count)):
            continue
        for _taken in range(count - 1):
            next(_candidates())
        return base
    raise AssertionError(f"no {count} free ports in a row")


def free_port() -> int:
    """A free port."""
    return free_port_base(1)


def _is_free(port: int) -> bool:
    with ExitStack() as stack:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                probe = stack.enter_context(socket.socket(family))
                probe.bind((address, port))
            except OSError as fault:
                if family is socket.AF_INET6 and fault.errno != errno.EADDRINUSE:
                    continue    # This machine has no IPv6.
                return False
    return True
