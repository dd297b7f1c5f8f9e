"""A second copy of the values, where one is found by two looks: among ten million nearly as fast as among ten thousand.

Each page of LMDB's tree is searched in halves, and among ten million values nearly every step of that waits for memory.
Here eight random octets of a serial number, its hash, name a slot, and the slot says where in a ring the record lies.
LMDB stays what holds: what is not found here is looked up there, so records may be overwritten when the ring has gone
round, and the file may be lost. It must only never be older: the writer puts a value here before it commits it there,
and notes the transaction first, so that readers leave a copy that lacks what somebody else has written to LMDB.

    header   words: format, boot, slots, bytes of the ring, reserved, transaction, slots in use, written, bytes of the
             file that are not a hole, 1 when everything has been put in that there was, bytes of the longest record
    slots    words: the high three octets of the hash, and where in the ring the record begins; 0 when it is free
    ring     records: key and value, from the second line on, each at the beginning of a line of 64 bytes, so that as
             few lines of memory as can be are waited for; behind it is as much as is read of the last one

The records of many keys are copied in one go (numpy), so that the processor waits for several of them at the same time:
among ten million, sixteen take two thirds of the time, and seventy half of it.

`reserved` is up to where the ring is written or just being written, since it was begun; `written` follows when it is.
What is read while they are not the same is not used. A record that has been overwritten is known by its key, whose
octets go first; its slot stays the key's, and when too many slots are in use a new file is begun. A retired file says
the highest number for `reserved`.

A hole of the file is never read: that would kill the process on some file systems (tmpfs) when they are full. So it is
written first, in blocks of the size of the largest pages and aligned like these; then Linux maps it with such pages
(ext4, XFS), without which finding a page costs as much as finding the record in it.
"""

import mmap
import os
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ocsp.protocol.batch import KEY_BYTES, is_whole

_FORMAT: Final = int.from_bytes(b"OCSPway3", "little")
_HEADER_BYTES: Final = mmap.ALLOCATIONGRANULARITY
(_FORMAT_AT, _BOOT_AT, _SLOTS_AT, _RING_AT, RESERVED_AT, _TRANSACTION_AT, _USED_AT, WRITTEN_AT, _EXTENT_AT,
 _COMPLETE_AT, _LONGEST_AT) = range(11)
_HEADER: Final = struct.Struct("<11Q")
_RETIRED: Final = 1 << 62
HASH_AT: Final = 2                                  # of a key: behind the day
_HASH: Final = struct.Struct("<Q").unpack_from
_HASHES: Final = np.dtype({"names": ["hash"], "formats": ["<u8"], "offsets": [HASH_AT], "itemsize": KEY_BYTES})
_LINE_BYTES: Final = 64
_PADDING: Final = bytes(_LINE_BYTES)
_OFFSET_BITS: Final = 40
START_OF_WORD: Final = (1 << _OFFSET_BITS) - 1
_FEWEST_SLOTS: Final = 1 << 16
_SMALLEST_RING: Final = 1 << 24
_SHARE: Final = 32                                  # of the ring, at most, is written at once
_LONGEST: Final = 4_096                             # record, by far
# Up to this length, which has two signatures of RSA-2048, whole records are gathered. It pays from so many keys on: in
# a large ring sooner, because each of its records is waited for.
_MOST_GATHERED: Final = 576
_LARGE_RING: Final = 1 << 26
_FEWEST_OF_LARGE: Final = 8
_FEWEST_OF_SMALL: Final = 24
_BLOCK: Final = bytes(4 << 20)
_BLOCKS_AT_ONCE: Final = 8                          # some hundredths of a second


class View(NamedTuple):
    """What a reader looks at. `gathered_from` is how many keys, at least, are looked for by `gather`, which gives
    `record_bytes` of each record."""

    slots: "memoryview[int]"
    mask: int
    ring: mmap.mmap | bytes
    header: "memoryview[int]"
    record_bytes: int
    gathered_from: int
    words: NDArray[np.int64]
    records: NDArray[np.void]

    def gather(self, hashes: NDArray[np.int64]) -> bytes:
        """The records that the slots of these hashes name, one behind the other. Most are those of the keys, some have
        to be looked for (`find`)."""
        found: bytes = self.records[self.words[hashes & self.mask] & START_OF_WORD].tobytes()
        return found

    def find(self, key: bytes) -> int:
        """Where in the ring the record of a key begins; -1 when it is not here."""
        slots, mask, ring = self.slots, self.mask, self.ring
        hashed: int = _HASH(key, HASH_AT)[0]
        place, high = hashed & mask, hashed >> _OFFSET_BITS
        while word := slots[place]:
            if word >> _OFFSET_BITS == high:
                start = word & START_OF_WORD
                if ring[start:start + KEY_BYTES] == key:
                    return start
            place = place + 1 & mask
        return -1


def _view(slots: "memoryview[int]", ring: mmap.mmap | bytes, header: "memoryview[int]") -> View:
    record_bytes = max(header[_LONGEST_AT], _LINE_BYTES)
    gathered_from = _FEWEST_OF_LARGE if len(ring) >= _LARGE_RING else _FEWEST_OF_SMALL
    return View(slots, len(slots) - 1, ring, header, record_bytes,
                gathered_from if record_bytes <= _MOST_GATHERED else sys.maxsize,
                np.frombuffer(slots, "<i8"),
                np.ndarray((len(ring) - record_bytes + 1,), f"V{record_bytes}", buffer=ring, strides=(1,)))


# Nothing is here, and what is found elsewhere may be as long as it likes.
EMPTY_VIEW: Final = _view(memoryview(bytes(8)).cast("Q"), bytes(_LONGEST),
                          memoryview(_HEADER.pack(*[0] * _LONGEST_AT, _LONGEST)).cast("Q"))


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
        if writes and reserved != self._header[WRITTEN_AT]:
            raise ValueError("a writer ended in the middle of a record, perhaps of one that is still found")
        self._ring_at = _HEADER_BYTES + slots * 8
        if not slots or os.fstat(self._file).st_size != self._ring_at + self._size + _LONGEST:
            raise ValueError("another length")
        self._slots = memoryview(mmap.mmap(self._file, slots * 8, access=access, offset=_HEADER_BYTES)).cast("Q")
        ring = mmap.mmap(self._file, self._size + _LONGEST, access=mmap.ACCESS_READ, offset=self._ring_at)
        self._view = _view(self._slots, ring, self._header)

    @property
    def view(self) -> View:
        """What is looked at from now on; another one when records have become longer."""
        if self._header[_LONGEST_AT] > self._view.record_bytes:
            self._view = _view(self._slots, self._view.ring, self._header)
        return self._view

    def has_room_for(self, records: int, record_bytes: int) -> bool:
        """Whether so many of this length are found quickly, and are signed again before the ring has gone round."""
        return records <= len(self._slots) * 3 // 8 and records * record_bytes <= self._size * 9 // 10

    @property
    def transaction(self) -> int:
        """The last one of LMDB that is in here."""
        return self._header[_TRANSACTION_AT]

    def has_all(self, committed: int) -> bool:
        """Whether nothing is missing that was in LMDB after that transaction, and more is put in."""
        return self._header[RESERVED_AT] < _RETIRED and self.transaction >= committed

    def close(self) -> None:
        """Lets the file go; the maps go with their last reader."""
        os.close(self._file)

    @property
    def is_complete(self) -> bool:
        """Whether everything has been put in that was there when it was begun."""
        return self._header[_COMPLETE_AT] == 1

    def complete(self) -> None:
        """Says so. Only the writer calls this."""
        self._header[_COMPLETE_AT] = 1

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Stores values of different keys; older ones of these are seen no more. Only the writer calls this. Raises
        OSError when the disk is full, ShortcutFault when the slots are, or for a value that cannot be read."""
        parts: list[bytes] = []
        keys: list[bytes] = []
        offsets: list[int] = []
        length = longest = 0
        for key, value in items:
            if not is_whole(value):
                raise ShortcutFault("no value of this version")
            taken = len(key) + len(value)
            padded = padded_bytes(taken)
            if padded > longest:
                longest = padded
                if longest > _LONGEST:
                    raise ShortcutFault("no value of this version")
            if length + padded > self._margin:
                self._write(b"".join(parts), keys, offsets, longest)
                parts, keys, offsets, length = [], [], [], 0
            parts += (key, value, _PADDING[:padded - taken])
            keys.append(key)
            offsets.append(length)
            length += padded
        if keys:
            self._write(b"".join(parts), keys, offsets, longest)

    def note(self, transaction: int) -> None:
        """Before a transaction of LMDB is committed, all whose values are here. Only the writer calls this."""
        self._header[_TRANSACTION_AT] = transaction

    def retire(self) -> None:
        """From now on nobody looks here. Only the writer calls this."""
        self._header[RESERVED_AT] = _RETIRED

    def _write(self, data: bytes, keys: Sequence[bytes], offsets: Sequence[int], longest: int) -> None:
        begin = self._header[RESERVED_AT]
        if (begin - 1) % self._size + 1 + len(data) > self._size:
            begin += -begin % self._size + _LINE_BYTES
        self._header[RESERVED_AT] = begin + len(data)
        self._header[_LONGEST_AT] = max(longest, self._header[_LONGEST_AT])
        begin %= self._size
        while self._header[_EXTENT_AT] < self._ring_at + begin + len(data) + _LONGEST:
            self._header[_EXTENT_AT] = _write_block(self._file, self._header[_EXTENT_AT],
                                                    limit=self._ring_at + self._size + _LONGEST)
        done = 0
        while done < len(data):
            done += os.pwrite(self._file, memoryview(data)[done:], self._ring_at + begin + done)
        self._header[WRITTEN_AT] = self._header[RESERVED_AT]
        self._point(np.frombuffer(b"".join(keys), _HASHES)["hash"], np.array(offsets, np.uint64) + np.uint64(begin))

    def _point(self, hashes: NDArray[np.uint64], starts: NDArray[np.uint64]) -> None:
        """From now on the records of these keys are there, and in no other slot that a look-up comes to: in the first
        one from their own on that is theirs already, or free."""
        slots = np.frombuffer(self._slots, np.uint64)
        high, last = hashes >> np.uint64(_OFFSET_BITS), np.int64(len(slots) - 1)
        words, places = high << np.uint64(_OFFSET_BITS) | starts, hashes.astype(np.int64) & last
        while len(words):
            found = slots[places]
            free = found == 0
            # Another key's word is taken for this one's once in many million times: that one is then in LMDB only.
            usable = free | (found >> np.uint64(_OFFSET_BITS) == high)
            # A look-up goes on until a free slot: there have to be some.
            if int(self._header[_USED_AT]) + np.count_nonzero(free) > len(slots) // 4 * 3:
                raise ShortcutFault("no slot is left")
            slots[places[usable]] = words[usable]
            done = slots[places] == words       # of those who came to the same free slot one has it
            self._header[_USED_AT] += int(np.count_nonzero(free & done))
            places = (places + 1 & last)[~done]
            words, high = words[~done], high[~done]


def remove_shortcut(path: Path) -> None:
    """The file and what was prepared. Only the writer calls this."""
    for one in (path, path.with_suffix(".new")):
        one.unlink(missing_ok=True)


def padded_bytes(taken: int) -> int:
    """What a record takes of the ring, which has so many octets."""
    return taken + _LINE_BYTES - 1 & -_LINE_BYTES


def prepare_shortcut(path: Path, *, records: int, record_bytes: int) -> Iterator[None]:
    """Writes the file for half more records, beside `path` and step by step: some hundredths of a second each. Only the
    writer calls this. Raises OSError, and ShortcutFault where starts of the machine have no names."""
    if not _boot():
        raise ShortcutFault("nobody could tell whether it is of this start of the machine")
    slots = max(_FEWEST_SLOTS, 1 << (4 * records).bit_length())
    size = max(_SMALLEST_RING, records * record_bytes * 3 // 2 & -mmap.PAGESIZE)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        extent, ring_at = 0, _HEADER_BYTES + slots * 8
        os.ftruncate(file, ring_at + size + _LONGEST)
        while extent < ring_at + _LONGEST:
            for _ in range(_BLOCKS_AT_ONCE):
                extent = _write_block(file, extent, limit=ring_at + size + _LONGEST)
            yield
        os.pwrite(file, _HEADER.pack(_FORMAT, _boot(), slots, size, _LINE_BYTES, 0, 0, _LINE_BYTES, extent, 0,
                                  record_bytes), 0)
    finally:
        os.close(file)


def begin_shortcut(path: Path, *, transaction: int) -> Shortcut:
    """Puts the empty file that was prepared in the place of another one. Only the writer calls this."""
    new = path.with_suffix(".new")
    begun = Shortcut(new, writes=True)
    begun.note(transaction)
    new.replace(path)
    return begun


def _write_block(file: int, extent: int, *, limit: int) -> int:
    """Puts zeros behind what is written; returns up to where that is. Raises OSError when the disk is full."""
    done = extent
    while done < min(extent + len(_BLOCK), limit):
        done += os.pwrite(file, memoryview(_BLOCK)[:min(extent + len(_BLOCK), limit) - done], done)
    return done


def _boot() -> int:
    """Names this start of the machine: after another one nobody knows which pages had reached the disk."""
    try:
        return int(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").replace("-", ""), 16) & (1 << 64) - 1
    except (OSError, ValueError):
        return 0
