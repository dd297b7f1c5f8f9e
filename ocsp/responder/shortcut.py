"""A second copy of the values, where one is found by two looks: among ten million nearly as fast as among ten thousand.

Each page of LMDB's tree is searched in halves, and among ten million values nearly every step of that waits for memory.
Here the random octets of a serial number name a slot, and the slot says where in a ring the record lies. LMDB stays
what holds: what is not found here is looked up there, so records may be overwritten when the ring has gone round, and
the file may be lost. It must only never be older: the writer puts a value here before it commits it there, and notes
the transaction first, so that readers leave a copy that lacks what somebody else has written to LMDB.

    header   words: format, boot, slots, bytes of the ring, reserved, transaction, longest record, slots in use
    slots    words: 16 bits of the key and the virtual offset of its record (48 bits), 0 when it is free
    ring     records: key and value, at multiples of 8

`reserved` is the virtual offset up to which the ring is written or just being written; a record that could have been
overwritten while it was read is not used. A retired file says the highest number there. Behind `reserved` there are
always some zeros: a look-up reads as much as the longest record has, and where nothing was written yet that would kill
the process on some file systems (tmpfs) when they are full.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from ocsp.protocol.batch import KEY_BYTES, is_whole

_FORMAT: Final = int.from_bytes(b"OCSPway1", "little")
_HEADER_BYTES: Final = mmap.ALLOCATIONGRANULARITY
_FORMAT_AT, _BOOT_AT, _SLOTS_AT, _RING_AT, _RESERVED_AT, _TRANSACTION_AT, _LONGEST_AT, _USED_AT = range(8)
_RETIRED: Final = 1 << 62
_OFFSET: Final = (1 << 48) - 1
_HASH: Final = struct.Struct("<IH").unpack_from     # place and tag
_HASHES: Final = struct.Struct(f"<4xIH{KEY_BYTES - 10}x").iter_unpack
_RANDOM_AT: Final = 4                               # of a key: behind the issuer's id and the day
_WINDOW: Final = 24                                 # slots in which a key may be
_FEWEST_SLOTS: Final = 1 << 16
_SMALLEST_RING: Final = 1 << 24
_SHARE: Final = 32                                  # of the ring, at most, is written at once
_LONGEST: Final = 4_096                             # record, by far
_ZEROS: Final = bytes(_LONGEST)

LookUp = Callable[[bytes], bytes | None]



class ShortcutFault(Exception):
    """There is no such file, or it is of another version, of an earlier start of the machine, retired or damaged."""


class Shortcut:
    """One file, mapped for looking things up; `writes` also for putting them in. Raises ShortcutFault."""

    def __init__(self, path: Path, *, writes: bool = False) -> None:
        try:
            self._file = os.open(path, os.O_RDWR if writes else os.O_RDONLY)
        except OSError as fault:
            raise ShortcutFault(path) from fault
        try:
            self._map(writes=writes)
        except (OSError, ValueError) as fault:
            os.close(self._file)
            raise ShortcutFault(path) from fault
        self._margin = self._size // _SHARE

    def _map(self, *, writes: bool) -> None:
        access = mmap.ACCESS_WRITE if writes else mmap.ACCESS_READ
        self._header = memoryview(mmap.mmap(self._file, _HEADER_BYTES, access=access)).cast("Q")
        found, boot, slots, self._size, reserved = self._header[:_TRANSACTION_AT]
        if (found, boot) != (_FORMAT, _boot() or -1) or reserved >= _RETIRED or slots & slots - 1:
            raise ValueError("not to be used")
        self._ring_at = _HEADER_BYTES + slots * 8
        if not slots or os.fstat(self._file).st_size != self._ring_at + self._size:
            raise ValueError("another length")
        self._slots = memoryview(mmap.mmap(self._file, slots * 8, access=access, offset=_HEADER_BYTES)).cast("Q")
        self._mask = slots - 1
        self._ring = mmap.mmap(self._file, self._size, access=mmap.ACCESS_READ, offset=self._ring_at)

    def has_room_for(self, records: int, record_bytes: int) -> bool:
        """Whether so many of this length are found quickly, and are signed again before the ring has gone round."""
        return records <= (self._mask + 1) * 5 // 8 and records * record_bytes <= self._size * 9 // 10

    @property
    def transaction(self) -> int:
        """The last one of LMDB that is in here."""
        return self._header[_TRANSACTION_AT]

    @property
    def is_retired(self) -> bool:
        """Nothing is put in any more."""
        return self._header[_RESERVED_AT] >= _RETIRED

    def close(self) -> None:
        """Lets the file go; the maps go with their last reader."""
        os.close(self._file)

    def look_up(self, keys: Sequence[bytes], otherwise: LookUp) -> list[bytes | None]:
        """Key and value of each, perhaps with more behind; `otherwise` is asked for what is not here."""
        header, slots, mask, ring, size = self._header, self._slots, self._mask, self._ring, self._size
        reserved, longest = header[_RESERVED_AT], header[_LONGEST_AT]
        oldest = reserved - size + self._margin
        places = list(_HASHES(b"".join(keys)))
        entries = [slots[place & mask] for place, _ in places]
        found: list[bytes | None] = []
        append = found.append
        for key, entry, (place, tag) in zip(keys, entries, places, strict=True):
            while entry >> 48 != tag and entry:
                place += 1
                entry = slots[place & mask]
            start = entry & _OFFSET
            if start >= oldest:
                start %= size
                record = ring[start:start + longest]
                if record.startswith(key):
                    append(record)
                    continue
            append(otherwise(key))
        # What has been written meanwhile went where no record was read, unless it was very much.
        return found if header[_RESERVED_AT] <= reserved + self._margin else list(map(otherwise, keys))

    def holds(self, key: bytes) -> bool:
        """Whether there is a value of this key. Only the writer calls this."""
        place, tag = _HASH(key, _RANDOM_AT)
        return self._find(key, place, tag)[0]

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Stores values; those of the same keys are seen no more. Only the writer calls this. Raises OSError when the
        disk is full, ShortcutFault when the slots are, or for a value that cannot be read."""
        parts: list[bytes] = []
        keys: list[tuple[bytes, int]] = []
        length = 0
        for key, value in items:
            padded = len(key) + len(value) + 7 & ~7
            if padded > _LONGEST or not is_whole(value):
                raise ShortcutFault("no value of this version")
            if length + padded > self._margin:
                self._write(b"".join(parts), keys)
                parts, keys, length = [], [], 0
            if padded > self._header[_LONGEST_AT]:
                self._header[_LONGEST_AT] = padded
            parts += (key, value, bytes(padded - len(key) - len(value)))
            keys.append((key, length))
            length += padded
        self._write(b"".join(parts), keys)

    def note(self, transaction: int) -> None:
        """Before a transaction of LMDB is committed, all whose values are here. Only the writer calls this."""
        self._header[_TRANSACTION_AT] = transaction

    def retire(self) -> None:
        """From now on nobody looks here. Only the writer calls this."""
        self._header[_RESERVED_AT] = _RETIRED

    def _write(self, data: bytes, keys: Sequence[tuple[bytes, int]]) -> None:
        if not data:
            return
        start = self._header[_RESERVED_AT]
        if start % self._size + len(data) > self._size:
            start += self._size - start % self._size
        self._header[_RESERVED_AT] = start + len(data)
        done, data = 0, data + _ZEROS[:self._size - start % self._size - len(data)]
        while done < len(data):
            done += os.pwrite(self._file, memoryview(data)[done:], self._ring_at + start % self._size + done)
        for key, offset in keys:
            place, tag = _HASH(key, _RANDOM_AT)
            at = self._find(key, place, tag)[1]
            if not self._slots[at]:
                # A look-up goes on until a free slot: there have to be some.
                if self._header[_USED_AT] >= (self._mask + 1) // 4 * 3:
                    raise ShortcutFault("no slot is left")
                self._header[_USED_AT] += 1
            self._slots[at] = tag << 48 | start + offset

    def _find(self, key: bytes, place: int, tag: int) -> tuple[bool, int]:
        """Whether the key has a slot, and which one it has or gets: a free one, one whose record is no more, or the
        first, whose key will be looked up in LMDB. Behind the first free slot there is nothing of this key."""
        slots, mask, gone = self._slots, self._mask, -1
        oldest = self._header[_RESERVED_AT] - self._size + _LONGEST
        for number in range(place, place + _WINDOW):
            entry = slots[number & mask]
            if not entry:
                return False, number & mask if gone < 0 else gone
            start = entry & _OFFSET
            if start < oldest:
                if gone < 0:
                    gone = number & mask
            elif entry >> 48 == tag and self._ring[start % self._size:start % self._size + KEY_BYTES] == key:
                return True, number & mask
        return False, place & mask if gone < 0 else gone


def begin_shortcut(path: Path, *, records: int, record_bytes: int, transaction: int) -> Shortcut:
    """An empty file in the place of another, for half more records. Only the writer calls this. Raises OSError, and
    ShortcutFault where starts of the machine have no names."""
    if not _boot():
        raise ShortcutFault("nobody could tell whether it is of this start of the machine")
    slots = max(_FEWEST_SLOTS, 1 << (2 * records).bit_length())
    size = max(_SMALLEST_RING, records * record_bytes * 3 // 2 & -mmap.PAGESIZE)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # A map of a file without blocks kills the process when the disk is full.
        os.posix_fallocate(file, 0, _HEADER_BYTES + slots * 8)
        os.ftruncate(file, _HEADER_BYTES + slots * 8 + size)
        os.pwrite(file, struct.pack("<8Q", _FORMAT, _boot(), slots, size, 8, transaction, 0, 0), 0)
    finally:
        os.close(file)
    new.replace(path)
    return Shortcut(path, writes=True)


def _boot() -> int:
    """Names this start of the machine: after another one nobody knows which pages had reached the disk."""
    try:
        return int(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").replace("-", ""), 16) & (1 << 64) - 1
    except (OSError, ValueError):
        return 0
