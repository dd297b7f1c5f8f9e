"""What each worker of a machine has counted, where the others find it: whichever of them a request for metrics reaches
tells of all.

A worker has a file of its own: what its names are, in short, and a number for each. It holds a lock on it, which is
free when the process is no more; then the file is removed by whoever sees that. Nothing here is worth an error: on a
full disk a worker is told of by itself alone.
"""

import fcntl
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

_NAMES_BYTES: Final = 8


class Tally:
    """One worker's file, and a look at those of the others."""

    def __init__(self, directory: Path, worker: str) -> None:
        self.worker = worker
        self._directory = directory / "workers"
        self._file = -1

    def write(self, counts: Mapping[str, float]) -> None:
        """Tells the others. All workers give the same names in the same order, if they are of one version."""
        with suppress(OSError):
            if self._file < 0:
                self._file = self._begin()
            if self._file >= 0:
                os.pwrite(self._file, _names(counts) + struct.pack(f"<{len(counts)}d", *counts.values()), 0)

    def others(self, counts: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Worker -> what it counted, by the names of `counts`; those of another version are left out."""
        found: dict[str, dict[str, float]] = {}
        with suppress(OSError):
            for path in sorted(self._directory.iterdir()):
                if path.name != self.worker and (data := _of_living(path)):
                    head, numbers = data[:_NAMES_BYTES], data[_NAMES_BYTES:]
                    if head == _names(counts) and len(numbers) == 8 * len(counts):
                        found[path.name] = dict(zip(counts, struct.unpack(f"<{len(counts)}d", numbers), strict=True))
        return found

    def close(self) -> None:
        """The worker ends."""
        if self._file >= 0:
            with suppress(OSError):
                (self._directory / self.worker).unlink()
            os.close(self._file)
            self._file = -1

    def _begin(self) -> int:
        """A locked file; -1 when somebody looks at it just now, as at one that is left over."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._directory / self.worker
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(file)
        return -1


def _of_living(path: Path) -> bytes:
    """What a file holds whose worker lives; the others' files are removed. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read()
        path.unlink(missing_ok=True)
        return b""


def _names(counts: Mapping[str, float]) -> bytes:
    return sha256("\n".join(counts).encode("utf-8")).digest()[:_NAMES_BYTES]
