"""Large pages for the heap: nothing in memory changes, and where the system has them they are used."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from ca.process.large_pages import PAGE_BYTES, use_large_pages

_PROGRAM = """
import hashlib, re
from pathlib import Path
from ca.process.large_pages import use_large_pages
rollup = Path("/proc/self/smaps_rollup")
kept = [bytes([number % 256]) * 100_000 for number in range(800)]
before = hashlib.sha256(b"".join(kept)).hexdigest()
had = int(re.search(r"AnonHugePages:\\s+(\\d+)", rollup.read_text())[1])
moved_bytes = use_large_pages()
has = int(re.search(r"AnonHugePages:\\s+(\\d+)", rollup.read_text())[1])
assert hashlib.sha256(b"".join(kept)).hexdigest() == before
print(moved_bytes, (has - had) * 1024)
"""


def test_memory_stays_what_it_was() -> None:
    """What is on the heap reads the same behind the move, also a second time; whole pages are counted."""
    kept = [hashlib.sha256(bytes([number])).digest() * 4_000 for number in range(64)]
    before = hashlib.sha256(b"".join(kept)).digest()
    assert use_large_pages() % PAGE_BYTES == 0
    assert use_large_pages() % PAGE_BYTES == 0
    assert hashlib.sha256(b"".join(kept)).digest() == before


def test_what_is_said_to_be_moved_is_in_large_pages() -> None:
    """The kernel's own count of large pages of a process grows by no more than what is said, and where the kernel can
    collapse pages (Linux 6.1) and has not been told never to, some of eighty megabytes are."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    moved_bytes, grown_bytes = map(int, done.stdout.split())
    assert grown_bytes <= moved_bytes
    release = re.match(r"(\d+)\.(\d+)", Path("/proc/sys/kernel/osrelease").read_text("ascii"))
    assert release is not None
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    is_allowed = setting.exists() and "[never]" not in setting.read_text("ascii")
    assert moved_bytes > 0 or not is_allowed or (int(release[1]), int(release[2])) < (6, 1)
