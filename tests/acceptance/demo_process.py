"""A demo as a process of its own, started by deploy/demo.sh, and what is read from its directory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.ports import free_port, free_port_base

REPOSITORY = Path(__file__).resolve().parents[2]
CHANCERY = Path(sys.executable).parent / "chancery"
_READY_PATIENCE_S = 120.0
_STOP_PATIENCE_S = 40.0


@dataclass(slots=True, kw_only=True)
class Demo:
    """A running demo. `run` calls the command line on its configuration, with the environment that it has itself."""

    data_dir: Path
    port_base: int
    http_01_port: int
    tls_alpn_01_port: int
    process: "subprocess.Popen[str]" = field(repr=False)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def directory_url(self) -> str:
        """Where ACME clients are pointed at."""
        return f"https://localhost:{self.port_base}/directory"

    @property
    def ocsp_url(self) -> str:
        """The responder, as it stands in certificates."""
        return f"http://localhost:{self.port_base + 1}"

    @property
    def roots(self) -> Path:
        """Both roots."""
        return self.data_dir / "roots.pem"

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        """Runs `chancery ARGUMENTS --config ...` and returns what it printed; its exit code must be as said."""
        done = subprocess.run([str(CHANCERY), *arguments, "--config", str(self.data_dir / "chancery.toml")],
                              capture_output=True, text=True, timeout=60, check=False,
                              env=os.environ | self.environment)
        assert done.returncode == exit_code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr if exit_code else done.stdout

    def child_pids(self) -> dict[str, list[int]]:
        """Process ids of the running roles, by role."""
        found: dict[str, list[int]] = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_bytes().split(b"\0")
                parent = int((place / "stat").read_text("ascii").rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == self.process.pid and b"run" in words:
                found.setdefault(words[words.index(b"run") + 1].decode(), []).append(int(place.name))
        return found

    def stop(self) -> int:
        """SIGTERM, as a service manager does; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=_STOP_PATIENCE_S)


@contextmanager
def run_demo(data_dir: Path, *, port_base: int | None = None, http_01_port: int | None = None,
             resolver: str = "127.0.0.1:9", arguments: tuple[str, ...] = (),
             environment: dict[str, str] | None = None) -> Iterator[Demo]:
    """Starts the demo by its script and waits until it serves; afterwards the global checker must be content with what
    the test has left, and the demo is stopped."""
    base = port_base or free_port_base(4)
    validation_port, alpn_port = http_01_port or free_port(), free_port()
    log = data_dir.with_name(data_dir.name + ".log")
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [str(REPOSITORY / "deploy" / "demo.sh"), "--data", str(data_dir), "--port-base", str(base),
             "--http-01-port", str(validation_port), "--tls-alpn-01-port", str(alpn_port), "--resolver", resolver,
             *arguments],
            stdout=output, stderr=output, text=True, start_new_session=True, env=os.environ | (environment or {}))
    demo = Demo(data_dir=data_dir, port_base=base, http_01_port=validation_port,
                tls_alpn_01_port=alpn_port, process=process, environment=environment or {})
    try:
        give_up_at = time.monotonic() + _READY_PATIENCE_S
        while not (data_dir / "ready").exists():
            assert process.poll() is None, f"the demo ended: {log.read_text('utf-8')}"
            assert time.monotonic() < give_up_at, f"the demo is not ready: {log.read_text('utf-8')}"
            time.sleep(0.05)
        yield demo
        if process.poll() is None:
            demo.run("audit", "check")
    finally:
        if process.poll() is None:
            demo.stop()
