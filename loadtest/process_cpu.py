"""Processor time by process, from /proc: where the time of an order goes."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POSTGRES_TITLE = re.compile(r"^postgres: (?:[\w-]+: )?(.+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    pid: int
    parent: int
    cpu_s: float


def tree_cpu_s(roots: Sequence[int]) -> dict[str, float]:
    """Processor seconds, user and system, of these processes and all below them, summed by what they are."""
    processes = {process.pid: process for process in _processes()}
    children = defaultdict(list)
    for process in processes.values():
        children[process.parent].append(process.pid)
    spent: dict[str, float] = defaultdict(float)
    waiting, seen = list(roots), set()
    while waiting:
        pid = waiting.pop()
        if pid in seen or pid not in processes:
            continue
        seen.add(pid)
        waiting += children[pid]
        spent[label(_command_line(pid))] += processes[pid].cpu_s
    return dict(spent)


def spent_between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was spent in between, without what rounds to nothing."""
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    return {name: seconds for name, seconds in spent.items() if seconds > 0}


def label(arguments: Sequence[str]) -> str:
    """`wfe`, `va`, ... for Chancery's processes, the role for a PostgreSQL backend, else the program's name."""
    if not arguments:
        return "kernel or ended"
    title = _POSTGRES_TITLE.match(arguments[0])
    if title is not None:
        words = title.group(1).split()
        # A backend's title is "role database where what"; a worker's is its own name.
        return f"postgres {words[0]}" if "[local]" in words or len(words) > 3 else f"postgres {title.group(1).strip()}"
    names = [Path(argument).name for argument in arguments]
    for command in ("run", "demo"):
        if command in names[1:4]:
            place = names.index(command)
            return names[place + 1] if command == "run" and place + 1 < len(names) else "supervisor"
    return "postgres postmaster" if names[0] == "postgres" else names[0]


def memory_bytes(roots: Sequence[int], name: str) -> list[int]:
    """Anonymous resident memory of each process with this label: mapped files are the page cache's."""
    found = []
    parents = {process.pid: process.parent for process in _processes()}
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor not in roots:
            ancestor = parents[ancestor]
        if ancestor in roots and label(_command_line(pid)) == name:
            found += [int(line.split()[1]) * 1024 for line in _read(Path(f"/proc/{pid}/status")).splitlines()
                      if line.startswith("RssAnon:")]
    return found


def postmaster_pid(data_dir: Path) -> int | None:
    """The embedded PostgreSQL of a data directory: a daemon, so no child of the supervisor."""
    lines = _read(data_dir / "postgres" / "postmaster.pid").splitlines()
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def stolen_and_all() -> tuple[int, int]:
    """Ticks since boot that the host gave to others while this machine wanted them, and all ticks."""
    fields = [int(field) for field in _read(Path("/proc/stat")).partition("\n")[0].split()[1:9]]
    return (fields[7], sum(fields)) if len(fields) == 8 else (0, 0)


def _processes() -> Iterator[_Process]:
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        text = _read(Path(entry.path) / "stat")
        fields = text.rpartition(")")[2].split()  # the name before it may hold spaces
        if len(fields) > 12:
            yield _Process(pid=int(entry.name), parent=int(fields[1]),
                           cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def _command_line(pid: int) -> list[str]:
    text = _read(Path(f"/proc/{pid}/cmdline")).rstrip("\0")
    return text.split("\0") if text else []


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
