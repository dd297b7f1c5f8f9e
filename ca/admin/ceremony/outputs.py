"""The directory of a ceremony: made under another name, released by one rename, never written again.

`NAME.unfinished` is the lock against a second run, and what a crash leaves behind: its transcript and `keys.jsonl`
say how far it came and which keys it may have made. After the rename every file is read-only and listed with its
SHA-256 in `SHA256SUMS` (`sha256sum -c` reads it).
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from ca.admin.ceremony.errors import OutputError, RefusedError

MANIFEST = "SHA256SUMS"
TRANSCRIPT = "transcript.txt"
KEYS = "keys.jsonl"
INDEX = "ceremony.json"
_READ_ONLY = 0o444
_WRITABLE = 0o222


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key that a ceremony is about to generate, or has: `token` is "root" or "online"."""

    token: str
    label: str
    key_id: str             # hexadecimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """What an interrupted ceremony left behind."""

    directory: Path
    last_line: str
    keys: tuple[KeyRecord, ...]


def unfinished_directory(out_dir: Path) -> Path:
    """Where the ceremony for `out_dir` works before it is released."""
    return out_dir.with_name(f"{out_dir.name}.unfinished")


def leftover_of(out_dir: Path) -> Leftover | None:
    """What an interrupted run for `out_dir` left, or None."""
    directory = unfinished_directory(out_dir)
    if not directory.is_dir():
        return None
    lines = _text(directory / TRANSCRIPT).splitlines()
    keys = []
    for line in _text(directory / KEYS).splitlines():
        try:
            keys.append(msgspec.json.decode(line, type=KeyRecord))
        except msgspec.DecodeError:
            continue        # The last line, cut off by the crash before its key was asked for.
    return Leftover(directory=directory, last_line=lines[-1] if lines else "(nothing)", keys=tuple(keys))


def require_new(out_dir: Path) -> None:
    """Returns when no ceremony was held or begun for this directory. Raises RefusedError with what to do."""
    if out_dir.exists():
        raise RefusedError(f"{out_dir} exists already: a ceremony is held once, and its outputs are never overwritten; "
                           "name another directory for another ceremony")
    leftover = leftover_of(out_dir)
    if leftover is not None:
        keys = ", ".join(f"{key.label!r} in the {key.token} token" for key in leftover.keys) or "none"
        raise RefusedError(
            f"{leftover.directory} is what an interrupted ceremony left: nothing was released; it came to "
            f"{leftover.last_line!r} and may have made these keys: {keys}. `chancery ceremony discard` destroys them "
            "and sets the directory aside; then start again")


class Outputs:
    """The working directory of one running ceremony."""

    def __init__(self, out_dir: Path, now: Callable[[], datetime]) -> None:
        """Makes the directory. Raises RefusedError when there was a ceremony, OutputError when it cannot be made."""
        require_new(out_dir)
        self._out_dir = out_dir
        self._directory = unfinished_directory(out_dir)
        self._now = now
        try:
            out_dir.parent.mkdir(parents=True, exist_ok=True)
            self._directory.mkdir()
        except FileExistsError:
            require_new(out_dir)
            raise
        except OSError as fault:
            raise OutputError(f"{self._directory} cannot be made: {fault.strerror}") from fault

    def log(self, text: str) -> None:
        """One line of the transcript, on the disk before this returns."""
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._append(TRANSCRIPT, f"{stamp} {' '.join(text.split())}\n")

    def log_key(self, key: KeyRecord) -> None:
        """A key that will be generated now."""
        self._append(KEYS, msgspec.json.encode(key).decode() + "\n")

    def write(self, name: str, content: bytes) -> None:
        """A new file, read-only and on the disk before this returns; its hash goes into the transcript."""
        path = self._directory / name
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _READ_ONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.log(f"output {name} sha256 {hashlib.sha256(content).hexdigest()}")

    def release(self) -> str:
        """Writes the manifest and gives the directory its name. Returns the manifest's SHA-256, for the minutes."""
        self.log("released: everything above was made, linted and verified")
        for name in (TRANSCRIPT, KEYS):
            (self._directory / name).touch()
            (self._directory / name).chmod(_READ_ONLY)
        lines = [f"{_sha256(path)}  {path.relative_to(self._directory)}\n" for path in files_of(self._directory)]
        manifest = "".join(lines).encode()
        path = self._directory / MANIFEST
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _READ_ONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(manifest)
            file.flush()
            os.fsync(file.fileno())
        for directory in [*{each.parent for each in files_of(self._directory)}, self._directory]:
            _sync_directory(directory)
        if self._out_dir.exists():
            raise RefusedError(f"{self._out_dir} appeared meanwhile: nothing was overwritten, see {self._directory}")
        self._directory.rename(self._out_dir)
        _sync_directory(self._out_dir.parent)
        return hashlib.sha256(manifest).hexdigest()

    def _append(self, name: str, text: str) -> None:
        with (self._directory / name).open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def verify_files(directory: Path) -> Iterator[str]:
    """Each difference between a released directory and its manifest and transcript, as one line."""
    try:
        manifest = (directory / MANIFEST).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        yield f"{MANIFEST} cannot be read: {fault}"
        return
    listed: dict[str, str] = {}
    for line in manifest.splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or name in listed:
            yield f"{MANIFEST} has a line that is not one: {line!r}"
        listed[name] = digest
    present = {str(path.relative_to(directory)): path for path in files_of(directory)} | {}
    present.pop(MANIFEST, None)
    for name in sorted(listed.keys() - present.keys()):
        yield f"{name} is missing"
    for name in sorted(present.keys() - listed.keys()):
        yield f"{name} is not in {MANIFEST}: it was not made by the ceremony"
    logged = set(_text(directory / TRANSCRIPT).split("\n"))
    said = {" ".join(line.split(" ")[1:]) for line in logged}
    for name in sorted(listed.keys() & present.keys()):
        if _sha256(present[name]) != listed[name]:
            yield f"{name} is not what the ceremony released: its SHA-256 differs"
        if name not in (TRANSCRIPT, KEYS) and f"output {name} sha256 {listed[name]}" not in said:
            yield f"{name} is not in the {TRANSCRIPT} with this SHA-256"
        if present[name].stat().st_mode & _WRITABLE:
            yield f"{name} is writable: chmod 444 it"


def files_of(directory: Path) -> list[Path]:
    """Every file below the directory, sorted."""
    return sorted(path for path in directory.rglob("*") if not path.is_dir())


def manifest_sha256(directory: Path) -> str:
    """SHA-256 of the manifest: one value that stands for the whole ceremony."""
    return _sha256(directory / MANIFEST)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
