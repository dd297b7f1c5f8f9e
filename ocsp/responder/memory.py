"""The responder's store: an LMDB file that every worker of the machine maps and one of them writes.

It is derived data. What is in it was signed, so damage cannot make a wrong answer, only none; a file that cannot be
read is thrown away and filled again from the batch log.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import lmdb

from ocsp.protocol.batch import KEY_BYTES, replaces

# Keys of certificates have 20 octets, so this one cannot be one.
_LAST_BATCH: Final = b"last batch"
_MAX_READERS: Final = 256
_LIVE_RUN: Final = 1_000
_NEXT_UPDATE: Final = slice(10, 14)


class ResponseMemory:
    """Opened once a process. Reads are one lookup in the map; writes come from the one worker that holds the lock."""

    def __init__(self, directory: Path, *, map_size_gib: int) -> None:
        self._directory = directory / "responses"
        self._map_bytes = map_size_gib << 30
        self._environment = self._open_or_remake()

    def _open_or_remake(self) -> Any:
        try:
            environment = self._open()
            with environment.begin() as transaction:
                transaction.get(_LAST_BATCH)
        except lmdb.Error:
            shutil.rmtree(self._directory, ignore_errors=True)
            return self._open()
        return environment

    def _open(self) -> Any:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # metasync off: after a power failure the last moments are read again from the log.
        return lmdb.open(str(self._directory), map_size=self._map_bytes, max_readers=_MAX_READERS, metasync=False,
                         readahead=False)

    def get(self, key: bytes) -> bytes | None:
        """The stored value as of now."""
        with self._environment.begin() as transaction:
            value: bytes | None = transaction.get(key)
        return value

    def last_batch_id(self) -> int:
        """How far the log has been applied, 0 when nothing has."""
        with self._environment.begin() as transaction:
            value = transaction.get(_LAST_BATCH)
        return int.from_bytes(value, "big") if value else 0

    def apply(self, items: Iterable[tuple[bytes, bytes]], *, last_batch_id: int) -> int:
        """Stores what is newer than what is there, and how far the log is applied, in one write. Returns the count."""
        stored = 0
        with self._environment.begin(write=True) as transaction:
            get, put = transaction.get, transaction.put
            for key, value in items:
                old = get(key)
                if old is None or replaces(value, old):
                    put(key, value)
                    stored += 1
            put(_LAST_BATCH, last_batch_id.to_bytes(8, "big"))
        return stored

    def forget_expired(self, now_s: int) -> int:
        """Removes responses that have ended from the old end of each issuer's serial numbers. Returns the count."""
        removed, live = 0, 0
        limit = now_s.to_bytes(4, "big")
        with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            found = cursor.first()
            while found:
                key = cursor.key()
                if len(key) == KEY_BYTES and cursor.value()[_NEXT_UPDATE] < limit:
                    removed += 1
                    found = cursor.delete()
                    continue
                live += 1
                if live >= _LIVE_RUN and len(key) == KEY_BYTES:
                    live = 0
                    found = cursor.set_range((int.from_bytes(key[:2], "big") + 1).to_bytes(2, "big"))
                else:
                    found = cursor.next()
        return removed

    def clear(self) -> None:
        """Empties the store: the log it was filled from is gone."""
        with self._environment.begin(write=True) as transaction:
            transaction.drop(self._environment.open_db(None, txn=transaction), delete=False)

    def entries(self) -> int:
        """How many values there are."""
        return int(self._environment.stat()["entries"])

    def close(self) -> None:
        """Unmaps the file."""
        self._environment.close()
