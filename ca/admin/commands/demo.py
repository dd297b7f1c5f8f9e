"""`chancery demo`: the whole CA in the foreground."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Literal

import click
from rich.console import Console

from ca.admin.demo import DemoRequest, run_demo
from ca.admin.demo_banner import banner_text, program
from ca.process.lifecycle import StartupError, run_process
from ca.process.settings import Settings, SettingsError

_PORT = click.IntRange(1, 65_535)


@click.command()
@click.option("--data", "data_dir", type=click.Path(path_type=Path, file_okay=False), default=Path("chancery-data"),
              show_default=True, help="Where everything of this CA is kept.")
@click.option("--port-base", type=click.IntRange(1, 65_500), default=None,
              help="ACME here, OCSP +1, CRLs +2, operators +3.  [default: 14000]")
@click.option("--resolver", metavar="HOST:PORT", default=None,
              help="DNS resolver of the validation.  [default: system]")
@click.option("--http-01-port", type=_PORT, default=None,
              help="Where http-01 is validated.  [default: 80, or port base + 80 for a user who may not open 80]")
@click.option("--tls-alpn-01-port", type=_PORT, default=None,
              help="Where tls-alpn-01 is validated.  [default: 443, or port base + 443]")
@click.option("--policy", type=click.Choice(["internal", "public"]), default=None, help="[default: internal]")
def demo(
    data_dir: Path,
    port_base: int | None,
    resolver: str | None,
    http_01_port: int | None,
    tls_alpn_01_port: int | None,
    policy: Literal["internal", "public"] | None,
) -> None:
    """Run a whole certificate authority in one directory, until Ctrl-C.

    The first start makes the keys and the database; every later one goes on with the same CA.
    """
    if resolver is not None and not _is_host_port(resolver):
        raise click.BadParameter("expected HOST:PORT, as in 127.0.0.1:8053", param_hint="--resolver")
    request = DemoRequest(data_dir=data_dir, port_base=port_base, resolver=resolver, http_01_port=http_01_port,
                          tls_alpn_01_port=tls_alpn_01_port, policy=policy)
    console = Console(stderr=True, highlight=False)
    with console.status("starting") if console.is_terminal else _NoStatus() as status:

        def on_progress(text: str) -> None:
            console.print(f"[dim]·[/dim] {text}", soft_wrap=True)
            status.update(text)

        def on_ready(settings: Settings, directory: Path) -> None:
            status.stop()
            click.echo(banner_text(settings, directory, program=program(sys.argv[0])))

        async def run(stop: asyncio.Event) -> None:
            try:
                await run_demo(request, stop, on_progress=on_progress, on_ready=on_ready)
            except SettingsError as fault:
                raise StartupError(str(fault)) from fault

        code = run_process("demo", run, log_level=logging.WARNING, prompt=True)
    sys.exit(code)


def _is_host_port(text: str) -> bool:
    host, separator, port = text.rpartition(":")
    return bool(host and separator) and port.isdigit() and 0 < int(port) < 65_536


class _NoStatus:
    """In place of the spinner where there is no terminal."""

    def __enter__(self) -> "_NoStatus":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, text: str) -> None:
        """Nothing to show."""

    def stop(self) -> None:
        """Nothing to stop."""
