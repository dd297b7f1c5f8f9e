"""Large pages for what a process has on its heap when it begins its work.

An order goes through five processes and as many database sessions on few cores, and each of them finds the processor's
table of pages full of the others' when its turn comes. A process whose modules, tables and caches lie in pages of two
megabytes needs some dozens of entries instead of ten thousand. Linux alone can be asked for that (6.1 and later,
whatever its setting for transparent huge pages is); elsewhere nothing happens.
"""

import ctypes
import re
from pathlib import Path
from typing import Final

PAGE_BYTES: Final = 2 << 20
_MADV_COLLAPSE: Final = 25
_MAPS: Final = Path("/proc/self/maps")
# Private, writable, and no file's, or the heap of malloc: "7f3a00000000-7f3a00100000 rw-p 00000000 00:00 0".
_ANONYMOUS: Final = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *(?:\[heap\])?$", re.ASCII | re.MULTILINE)


def use_large_pages() -> int:
    """Moves what is on the heap into large pages, as far as it fills them; how many bytes that were."""
    try:
        maps = _MAPS.read_text("ascii", errors="replace")
        madvise = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    moved_bytes = 0
    for found in _ANONYMOUS.finditer(maps):
        begin = -(-int(found[1], 16) // PAGE_BYTES) * PAGE_BYTES
        # One at a time: one that cannot be had, for lack of memory or because nothing is in it, is left as it is.
        for address in range(begin, int(found[2], 16) - PAGE_BYTES + 1, PAGE_BYTES):
            if madvise(address, PAGE_BYTES, _MADV_COLLAPSE) == 0:
                moved_bytes += PAGE_BYTES
    return moved_bytes
