"""Other people's servers, run by tests in the foreground: where they are, how they end, what nginx needs to start."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def find(program: str) -> str:
    """Its path; servers are not on every user's PATH."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    assert path, f"{program} is missing: tests/run.sh installs it"
    return path


@contextmanager
def server(directory: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A program in the foreground, ended at the end."""
    log = directory / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def nginx_main(work: Path, http: str) -> str:
    """Writes a whole nginx configuration around an http block; returns its path."""
    work.mkdir()
    paths = "".join(f"{name}_temp_path {work}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = work / "nginx.conf"
    config.write_text(f"daemon off; pid {work}/pid; error_log {work}/error.log warn; worker_processes 1;\n"
                      + ("user root;\n" if os.geteuid() == 0 else "")
                      + f"events {{ worker_connections 256; }}\nhttp {{ access_log off; {paths}\n{http}\n}}\n")
    return str(config)
