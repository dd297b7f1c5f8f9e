"""The writer's end of the shortcut: begins it, puts in what is committed next and, step by step, what is there."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ocsp.protocol.batch import KEY_BYTES, is_whole
from ocsp.responder.shortcut import Shortcut, ShortcutFault, begin_shortcut

# Up to so many values a new file has room for four times of what there is: a store that grows copies all of it each
# time that the file has become too small, and the file takes only the disk that is written.
_AMPLE_UP_TO: Final = 700_000
_AMPLE: Final = 4


class ShortcutKeeper:
    """Of one LMDB environment, whose lock the caller holds. Without a file it does nothing until `tend`, which begins
    none for fewer than `needed_from` values."""

    def __init__(self, path: Path, environment: Any, *, needed_from: int) -> None:
        self._path = path
        self._environment = environment
        self._needed_from = needed_from
        self._kept: Shortcut | None = None
        self._behind: bytes | None = b""        # up to this key it has what the store has; None: all

    def tend(self, *, limit: int) -> bool:
        """Looks at `limit` entries that the shortcut may not have; begins it where one is needed, or where it is too
        small. Returns whether there is more to do."""
        try:
            records, record_bytes = self._extent()
            if self._kept is None and records < self._needed_from:
                return False
            if self._kept is None or not self._kept.has_room_for(records, record_bytes):
                self._begin()
            return self._put_older(limit)
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
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _begin(self) -> None:
        """With the file of the writer before, if it has everything, or with a new one."""
        self._behind = b""
        committed, (records, record_bytes) = int(self._environment.info()["last_txnid"]), self._extent()
        if self._kept is None:
            with suppress(ShortcutFault):
                self._kept = Shortcut(self._path, writes=True)
        if self._kept is not None and (
                self._kept.transaction != committed or not self._kept.has_room_for(records, record_bytes)):
            self._give_up()
        if self._kept is None:
            self._kept = begin_shortcut(self._path, records=max(records, min(records * _AMPLE, _AMPLE_UP_TO)),
                                        record_bytes=record_bytes, transaction=committed)

    def _extent(self) -> tuple[int, int]:
        """How many values there are, and how many octets of the file each has."""
        stat = self._environment.stat()
        pages = stat["leaf_pages"] + stat["overflow_pages"]
        return stat["entries"], -(-pages * stat["psize"] // max(1, stat["entries"]))

    def _put_older(self, limit: int) -> bool:
        kept, behind = self._kept, self._behind
        if kept is None or behind is None:
            return False
        items: list[tuple[bytes, bytes]] = []
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(behind + b"\0")
            for _ in range(limit):
                if not found:
                    behind = None
                    break
                behind = cursor.key()
                if len(behind) == KEY_BYTES and not kept.holds(behind):
                    value = cursor.value()
                    if is_whole(value):
                        items.append((behind, value))
                found = cursor.next()
        kept.put(items)
        self._behind = behind
        return behind is not None

    def _give_up(self) -> None:
        if self._kept is not None:
            self._kept.retire()
            self._kept.close()
            self._kept = None
