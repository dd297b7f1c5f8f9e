"""The pages of `acme_api/clients/`: their marked lines, made to fit a running demo, and run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.acceptance.demo_process import REPOSITORY, Demo

FOLDER = REPOSITORY / "acme_api" / "clients"
_FENCE = re.compile(r"^```(\w*) ?([\w-]*)\n(.*?)^```$", re.M | re.S)
_HOOK = REPOSITORY / "tests" / "acceptance" / "dns_hook.py"


def fences(page: str) -> list[tuple[str, str, str]]:
    """All blocks of a page: language, name or nothing, text."""
    return _FENCE.findall((FOLDER / f"{page}.md").read_text("utf-8"))


def blocks(page: str) -> dict[str, str]:
    """The marked blocks of a page, by their names."""
    found = [(name, text) for _, name, text in fences(page) if name]
    assert len(dict(found)) == len(found), f"{page}.md has two blocks of one name"
    return dict(found)


class Lines:
    """The lines of one page against a running demo: placeholders become what they stand for, and nothing else."""

    def __init__(self, page: str, demo: Demo, place: Path, domain: str, *, dns_control: str = "",
                 changes: Mapping[str, str] | None = None) -> None:
        """`changes` are the page's own paths and the options that give a client its ports and directories."""
        self.page, self.place = page, place
        self._changes = {"https://ca.example/directory": demo.directory_url, "/etc/chancery/roots.pem": str(demo.roots),
                         "example.com": domain, **(changes or {})}
        for name, action in (("set-txt", "add"), ("remove-txt", "clear"), ("dns-hook", "")):
            hook = place / name
            hook.write_text(f"#!/bin/sh\nexport MOCK_DNS_CONTROL={dns_control}\n"
                            f"exec {sys.executable} {_HOOK} {action} \"$@\"\n")
            hook.chmod(0o755)

    def text(self, block: str, values: Mapping[str, str] | None = None) -> str:
        """A marked block for this demo; `values` are words like KID and what stands in their place."""
        text = "\n" + blocks(self.page)[block]
        for old, new in self._changes.items():
            text = text.replace(old, new)
        for word, new in (values or {}).items():
            text = re.sub(rf"\b{re.escape(word)}\b", lambda _, new=new: new, text)  # type: ignore[misc]
        assert "ca.example/" not in text, text
        assert "/etc/chancery" not in text, text
        return text.removeprefix("\n")

    def run(self, block: str, values: Mapping[str, str] | None = None, *, exit_code: int = 0,
            environment: Mapping[str, str] | None = None) -> str:
        """Runs a block of shell lines as somebody who copies them; returns both outputs."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", self.text(block, values)], cwd=self.place,
                              env=os.environ | {"PATH": path, "HOME": str(self.place)} | dict(environment or {}),
                              capture_output=True, text=True, timeout=180, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == exit_code, f"{self.page} {block}: {done.returncode}\n{said}"
        return said


@contextmanager
def web_server(demo: Demo, root: Path) -> Iterator[Path]:
    """A web server out of a directory on the port where the demo validates http-01; yields the challenge directory."""
    challenges = root / ".well-known" / "acme-challenge"
    challenges.mkdir(parents=True)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", demo.http_01_port), partial(Handler, directory=str(root)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield challenges
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
