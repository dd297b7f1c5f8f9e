"""The writer's end of the shortcut: begins it, puts in what is committed next and, step by step, what is there."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from ocsp.protocol.batch import KEY_BYTES, is_whole
from ocsp.responder.shortcut import (
    Shortcut,
    ShortcutFault,
    begin_shortcut,
    padded_bytes,
    prepare_shortcut,
    remove_shortcut,
)

# Up to so many values a new file has room for four times of what there is: a store that grows copies all of it each
# time that the file has become too small, and the file takes only the disk that is written.
_AMPLE_UP_TO: Final = 700_000
_AMPLE: Final = 4
# Of so many values the length is looked at.
_MEASURED: Final = 1_000


class ShortcutKeeper:
    """Of one LMDB environment, whose lock the caller holds. Without a file it does nothing until `tend`."""

    def __init__(self, path: Path, environment: Any) -> None:
        self._path = path
        self._environment = environment
        self._kept: Shortcut | None = None
        self._preparing: Iterator[None] | None = None
        self._behind = b""      # up to this key it has what the store has

    def tend(self, *, limit: int) -> bool:
        """Puts in `limit` entries that the shortcut may not have; begins it where there is none, or where it is too
        small. Returns whether there is more to do."""
        try:
            if self._kept is not None and not self._kept.is_complete:
                return self._put_older(self._kept, limit)
            if self._kept is None or not self._kept.has_room_for(*self._extent()):
                return self._begin()
            return False
        except (OSError, ShortcutFault):    # the disk is full, say: it is looked up without
            self._give_up()
            return False

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Before they are committed, so that the shortcut never has what is older."""
        if self._kept is not None:
            try:
                self._kept.put(items)
            except (OSError, ShortcutFault):
                self._give_up()

    def begins(self, transaction: int) -> None:
        """A transaction; if it is not the next one another process has written meanwhile."""
        if self._kept is not None and self._kept.transaction != transaction - 1:
            self._give_up()

    def commits(self, transaction: int) -> None:
        """The same, before it is committed."""
        if self._kept is not None:
            self._kept.note(transaction)

    def close(self) -> None:
        """The file stays for the next writer."""
        self._preparing = None
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _begin(self) -> bool:
        """With the file of the writer before, if it has everything, or with a new one, in steps. Returns whether there
        is more to do."""
        committed, (records, record_bytes) = int(self._environment.info()["last_txnid"]), self._extent()
        if self._kept is None and self._preparing is None:
            with suppress(ShortcutFault):
                self._kept = Shortcut(self._path, writes=True)
        if self._kept is not None:
            if self._kept.is_complete and self._kept.transaction == committed and self._kept.has_room_for(
                    records, record_bytes):
                return False
            self._give_up()
        if self._preparing is None:
            self._preparing = prepare_shortcut(
                self._path, records=max(records, min(records * _AMPLE, _AMPLE_UP_TO)), record_bytes=record_bytes)
        if next(self._preparing, self) is self:
            self._preparing, self._behind = None, b""
            self._kept = begin_shortcut(self._path, transaction=committed)
        return True

    def _extent(self) -> tuple[int, int]:
        """How many values there are, and how many octets each takes in the ring."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            lengths = [padded_bytes(KEY_BYTES + len(value)) for key, value in islice(cursor, _MEASURED)
                       if len(key) == KEY_BYTES]
        return self._environment.stat()["entries"], -(-sum(lengths) // max(1, len(lengths)))

    def _put_older(self, kept: Shortcut, limit: int) -> bool:
        """Among it may be what was put in since, which is the same, because nothing is between that and its commit."""
        items: list[tuple[bytes, bytes]] = []
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            if cursor.set_range(self._behind + b"\0"):
                items = list(islice(cursor.iternext(), limit))
        kept.put((key, value) for key, value in items if len(key) == KEY_BYTES and is_whole(value))
        if len(items) < limit:
            kept.complete()
            return False
        self._behind = items[-1][0]
        return True

    def _give_up(self) -> None:
        """Also gives back the disk that it took, which may be what is missing."""
        self._preparing = None
        if self._kept is not None:
            self._kept.retire()
            self._kept.close()
            self._kept = None
        with suppress(OSError):
            remove_shortcut(self._path)
