"""`chancery perspective enroll`: a remote perspective's certificate, configuration, and the lines that name it here."""

import re
from pathlib import Path
from typing import get_args

import click

from ca.admin.context import CommandError, ExitCode, config_option, output_option, read_settings
from ca.admin.output import print_json, print_line
from ca.admin.perspective_bundle import NewPerspective, lines_for_ca, make_bundle, make_va_certificate
from ca.process.ambient import system_ambient
from ca.process.http import parse_listen
from ca.process.lifecycle import StartupError
from ca.process.settings import Rir

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


@click.group()
def perspective() -> None:
    """Remote perspectives: validation from other places of the network (BR 3.2.2.9)."""


@perspective.command()
@click.argument("name")
@click.option("--address", required=True, metavar="HOST:PORT", help="Where the VA reaches it.")
@click.option("--rir", required=True, type=click.Choice(get_args(Rir)),
              help="The regional Internet registry whose service region it is in.")
@click.option("--distance-group", required=True, help="Those less than 500 km apart have the same, for example a city.")
@click.option("--bundle", type=click.Path(path_type=Path), default=None,
              help="The new directory for what goes to the host.  [default: <data_dir>/perspectives/NAME]")
@config_option
@output_option
def enroll(name: str, address: str, rir: Rir, distance_group: str, bundle: Path | None, config: Path | None,
           output: str) -> None:
    """Make everything that a new remote perspective needs; change nothing of what is there.

    NAME is what it is called in the configuration, in `chancery status` and in evidence. The bundle is a directory to
    copy to the host; the lines that are printed go to the end of the CA's own configuration file.
    """
    settings, path = read_settings(config)
    if not _NAME.fullmatch(name):
        raise CommandError(f"{name!r} is no name: expected a-z, 0-9 and -, at most 63", ExitCode.USAGE)
    if any(each.name == name for each in settings.perspectives.remotes):
        raise CommandError(f"{path} has a perspective {name} already")
    try:
        parse_listen(address)
    except StartupError as fault:
        raise CommandError(f"--address: {fault}", ExitCode.USAGE) from fault
    new = NewPerspective(name=name, address=address, rir=rir, distance_group=distance_group)
    ambient = system_ambient()
    directory = (settings.data_dir / "perspectives").resolve()
    place = (bundle or directory / name).resolve()
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        make_va_certificate(directory, now=ambient.now(), serial=ambient.random_bytes(16))
        make_bundle(new, settings, directory=directory, bundle=place, now=ambient.now(),
                    serial=ambient.random_bytes(16))
    except FileExistsError as fault:
        raise CommandError(f"{fault.filename} is there already: name another with --bundle, or remove it") from fault
    except OSError as fault:
        raise CommandError(f"{fault.filename} cannot be written: {fault.strerror}") from fault
    lines = lines_for_ca(new, settings, directory=directory)
    if output == "json":
        print_json({"name": name, "bundle": str(place), "configuration": lines})
        return
    print_line(f"1. Copy {place} to the host, then remove key.pem here.")
    print_line("2. There: set up its resolver, then `chancery run perspective --config perspective.toml`.")
    print_line(f"3. Put these lines at the end of {path} and restart the VA:")
    # As it is: a line that is wrapped cannot be copied.
    click.echo(f"\n{lines}")
