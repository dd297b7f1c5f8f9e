"""What the scenarios of one command share: work directory, report, progress, and one Chancery."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.challenge_server import ChallengeServer
from loadtest.chancery_process import Chancery, remove_tree
from loadtest.mute_dns import MuteDns
from loadtest.ocsp_load import Subject
from loadtest.process_cpu import stolen_and_all
from loadtest.program import ProgramFault
from loadtest.report import Report

_KEPT_BYTES = 200_000
_QUIET_LOAD = 0.7
_QUIET_STOLEN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A Chancery that runs already, as typed."""

    directory_url: str
    roots: Path
    http_01_port: int
    data_dir: Path | None


@dataclass(slots=True, kw_only=True)
class Session:
    """Entered once a command; starts Chancery when the first scenario asks for it, stops it at the end."""

    report: Report
    console: Console
    running: Running | None
    data_dir: Path | None
    report_dir: Path
    work: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="chancery-loadtest-")))
    challenges: ChallengeServer = field(default_factory=ChallengeServer)
    dns: MuteDns = field(default_factory=MuteDns)              # names under .localhost need none
    synthetic: list[Subject] = field(default_factory=list)     # made-up certificates that have been signed for
    _stolen_before: tuple[int, int] = (0, 0)
    _chancery: Chancery | None = None
    _progress: Progress | None = None

    async def __aenter__(self) -> "Session":
        self.work.chmod(0o755)  # the embedded PostgreSQL runs as another user when this one is root
        load = os.getloadavg()[0]
        self.report.details["load average before"] = load
        if load > _QUIET_LOAD:
            self.report.note(f"the load average was {load:.1f} before the start: other programs share this machine, so "
                             "look at ratios and at processor time rather than at rates")
        self._stolen_before = stolen_and_all()
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                                  TimeElapsedColumn(), console=self.console, transient=True)
        self._progress.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._progress is not None
        self._progress.stop()
        await self.challenges.stop()
        self.dns.stop()
        stolen, total = (after - before for after, before in zip(stolen_and_all(), self._stolen_before, strict=True))
        self.report.details["processor time taken by the host"] = round(stolen / max(total, 1), 4)
        if stolen > _QUIET_STOLEN * total:
            self.report.note(f"the host took {stolen / total:.0%} of the processor time away from this machine")
        if self._chancery is not None:
            try:
                await self._chancery.stop()
            except ProgramFault as fault:
                self.report.errors.append(str(fault))
        if self.report.errors:
            self._keep_logs()
        remove_tree(self.work)

    async def chancery(self) -> Chancery:
        """The one under test, serving, with somebody to answer its http-01 questions. Raises ProgramFault."""
        if self._chancery is not None:
            return self._chancery
        if self.running is not None:
            found = Chancery.running(self.running.directory_url, self.running.roots, self.running.http_01_port,
                                     self.running.data_dir)
        else:
            with self.steps("starting Chancery", 1):
                await self.dns.start()
                found = await Chancery.start(
                    self.data_dir or self.work / "ca", self.work / "chancery.log", self.dns.address)
        self._chancery = found
        self.report.details["file system"] = _file_system(found.data_dir or self.work)
        await self.challenges.start(found.http_01_port)
        return found

    def _keep_logs(self) -> None:
        """The ends of the logs of what was started here, beside the report: its directory is about to go."""
        data_dir = self.data_dir or self.work / "ca"
        logs = [self.work / "chancery.log", *(data_dir / "log").glob("*.log"), data_dir / "postgres" / "server.log"]
        place = self.report_dir / f"{self.report.started_at:%Y%m%dT%H%M%SZ}-logs"
        for log in logs:
            if log.exists():
                place.mkdir(parents=True, exist_ok=True)
                (place / log.name).write_bytes(log.read_bytes()[-_KEPT_BYTES:])
        if place.exists():
            self.report.note(f"logs are in {place}")

    def steps(self, description: str, total: int) -> "Steps":
        """A progress bar."""
        assert self._progress is not None
        return Steps(self._progress, description, total)

    def peer_work(self) -> Path:
        """A directory for one more peer."""
        return Path(tempfile.mkdtemp(prefix="peer-", dir=self.work))


class Steps:
    """One progress bar, gone when its work is done."""

    def __init__(self, progress: Progress, description: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total)

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.remove_task(self._task)

    def now(self, description: str) -> None:
        """Says what is going on."""
        self._progress.update(self._task, description=description)

    def done(self, count: int = 1) -> None:
        """Moves on."""
        self._progress.advance(self._task, count)


def _file_system(directory: Path) -> str:
    """Where commits go: a figure with a disk and one with memory are two figures."""
    place, found = directory.resolve(), ("", "unknown")
    mounts = Path("/proc/mounts")
    lines = mounts.read_text("utf-8").splitlines() if mounts.exists() else []
    for line in lines:
        _, mount, kind = line.split()[:3]
        if place.is_relative_to(mount) and len(mount) >= len(found[0]) and os.path.isdir(mount):
            found = (mount, kind)
    return found[1]


