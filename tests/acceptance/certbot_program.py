"""certbot from PyPI as a program, with directories of its own, against a running demo."""

import os
import subprocess
import sys
from pathlib import Path

from tests.acceptance.demo_process import Demo

CERTBOT = Path(sys.executable).parent / "certbot"


def certbot(demo: Demo, place: Path, *arguments: str, extra: dict[str, str] | None = None) -> str:
    """Runs `certbot ARGUMENTS`, which must succeed, and returns what it printed; `extra` are environment variables."""
    environment = os.environ | {"REQUESTS_CA_BUNDLE": str(demo.roots)} | (extra or {})
    done = subprocess.run(
        [str(CERTBOT), *arguments, "--server", demo.directory_url, "--config-dir", str(place / "config"),
         "--work-dir", str(place / "work"), "--logs-dir", str(place / "logs"), "-n"],
        env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
