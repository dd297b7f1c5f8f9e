"""A file that operators replace while processes run."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from structlog.typing import FilteringBoundLogger

from ca.process.lifecycle import StartupError

_Value = TypeVar("_Value")
_Mark = tuple[int, int, int]


class WatchedFile(Generic[_Value]):
    """What stands in a file, read again when the file has changed; a bad new version leaves the last good one in force.

    `parse` raises ValueError for contents that cannot be used.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], _Value], log: FilteringBoundLogger) -> None:
        self._path = path
        self._parse = parse
        self._log = log
        self._seen: _Mark | None = None
        self._value: _Value | None = None

    def require_usable(self, key: str) -> None:
        """Returns when there is a version to begin with. Raises StartupError, which names the setting `key`."""
        try:
            self.current()
        except OSError as fault:
            raise StartupError(f"{key}: {self._path}: {fault.strerror}") from fault
        except ValueError as fault:
            raise StartupError(f"{key}: {fault}") from fault

    def current(self) -> _Value:
        """The contents in force. Raises ValueError, or OSError, when there was never a good version."""
        try:
            facts = self._path.stat()
            mark = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if mark != self._seen:
                value = self._parse(self._path.read_bytes())
                self._seen, self._value = mark, value
        except (OSError, ValueError) as fault:
            if self._value is None:
                raise
            self._log.error("a changed file cannot be used, its last good version stays in force",
                            file=str(self._path), error=str(fault))
        assert self._value is not None  # noqa: S101 - set above, or raised
        return self._value
