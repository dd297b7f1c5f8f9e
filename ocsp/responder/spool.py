"""Filling an empty store from a long log: records are sorted apart into files first, then stored file by file.

Serial numbers are random, so records in the order of the log would go to pages all over the store, and each write would
copy as many pages as it has records: for ten million certificates 40 GB. Records with the same first random octet lie
close together, sixteen on a page.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from ocsp.protocol.batch import KEY_BYTES

_BUCKETS: Final = 256
_BUCKET_AT: Final = 2                   # of a key: behind the day
_MOST_HELD: Final = 60_000              # records that wait in memory to be written


class Spool:
    """A directory of 256 files, gone when it is left."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: list[BinaryIO] = []
        self._held: list[list[bytes]] = [[] for _ in range(_BUCKETS)]
        self._count = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(mode=0o700, parents=True)
        self._files = [(self._directory / f"{number:02x}").open("w+b") for number in range(_BUCKETS)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def add(self, items: Iterable[tuple[bytes, bytes]]) -> int:
        """Keeps (key, value) records; returns how many there were."""
        held, before = self._held, self._count
        for key, value in items:
            held[key[_BUCKET_AT]].append(len(value).to_bytes(2, "big") + key + value)
            self._count += 1
        if sum(map(len, held)) > _MOST_HELD:
            self._flush()
        return self._count - before

    def buckets(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """All records, those of one file at a time, in the order in which they came."""
        self._flush()
        for file in self._files:
            file.seek(0)
            data, offset, found = file.read(), 0, []
            while offset < len(data):
                value_at = offset + 2 + KEY_BYTES
                end = value_at + int.from_bytes(data[offset:offset + 2], "big")
                found.append((data[offset + 2:value_at], data[value_at:end]))
                offset = end
            file.truncate(0)
            yield found

    def _flush(self) -> None:
        for number, records in enumerate(self._held):
            if records:
                self._files[number].write(b"".join(records))
                self._held[number] = []
