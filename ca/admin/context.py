"""What every operator's command has: its settings, a connection under the role ca_admin, one way to fail, one to print.

`@admin_command` turns a coroutine into the body of a click command: it adds `--config` and `--output`, passes an
`AdminContext` first, and ends the process with the exit code that the coroutine returns.
"""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import IO, Any, Concatenate, Literal, ParamSpec

import click

from ca.process.ambient import Ambient, system_ambient
from ca.process.lifecycle import StartupError
from ca.process.postgres import UNAVAILABLE, Connection, PostgresError, connect
from ca.process.settings import Settings, SettingsError, load_settings

ROLE = "ca_admin"
PROCESS = "cli"
CONFIG_VARIABLE = "CHANCERY_CONFIG"
_PLACES = (Path("chancery.toml"), Path("chancery-data/chancery.toml"), Path("/etc/chancery/chancery.toml"))
_CONNECT_PATIENCE_S = 8.0
_OLD_SCHEMA = ("42P01", "42703", "42883")      # undefined table, column, function
_Parameters = ParamSpec("_Parameters")


class ExitCode(IntEnum):
    """What a command tells the program that called it."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    DEGRADED = 5


class CommandError(click.ClickException):
    """Ends a command with one line on stderr."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # a class variable for click, but read from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """The line, without click's usage text."""
        click.echo(f"chancery: {' '.join(self.message.split())}", err=True, file=file)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminContext:
    """The surroundings of one command."""

    settings: Settings
    settings_path: Path
    output: Literal["table", "json"]
    ambient: Ambient

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection under ca_admin. Raises StartupError when there is none within some seconds."""
        try:
            async with asyncio.timeout(_CONNECT_PATIENCE_S):
                opened = await connect(self.settings.database, ROLE, process=PROCESS)
        except TimeoutError as fault:
            raise StartupError(f"the database cannot be reached within {_CONNECT_PATIENCE_S:.0f} s; is PostgreSQL "
                               f"running, and is [database] url of {self.settings_path} right?") from fault
        try:
            yield opened
        finally:
            await opened.close()


def find_settings(config: Path | None, environ: Mapping[str, str]) -> Path:
    """The configuration file: as named, else of $CHANCERY_CONFIG, else the first usual place that has one.

    Raises CommandError when there is none.
    """
    if config is not None:
        return config
    if environ.get(CONFIG_VARIABLE):
        return Path(environ[CONFIG_VARIABLE])
    for place in _PLACES:
        if place.is_file():
            return place
    raise CommandError(f"no configuration: name one with --config FILE or ${CONFIG_VARIABLE}; looked for "
                       + ", ".join(str(place) for place in _PLACES))


def read_settings(config: Path | None) -> tuple[Settings, Path]:
    """The effective settings and their file. Raises CommandError with file, key and expected form."""
    path = find_settings(config, os.environ)
    try:
        return load_settings(path, os.environ), path
    except SettingsError as fault:
        raise CommandError(str(fault)) from fault


config_option = click.option("--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
                             help="The configuration file.  [default: $CHANCERY_CONFIG, ./chancery.toml, "
                             "./chancery-data/chancery.toml, /etc/chancery/chancery.toml]")
output_option = click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table",
                             show_default=True, help="For people, or one JSON document for programs.")
yes_option = click.option("--yes", is_flag=True, help="Do it. Without this, say what would be done and exit with 4.")


def admin_command(
    body: Callable[Concatenate[AdminContext, _Parameters], Awaitable[ExitCode]],
) -> Callable[..., None]:
    """The body of a click command from a coroutine that takes an AdminContext first and returns its exit code."""

    @functools.wraps(body)
    def command(config: Path | None, output: Literal["table", "json"],
                *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        settings, path = read_settings(config)
        context = AdminContext(settings=settings, settings_path=path, output=output, ambient=system_ambient())
        click.get_current_context().exit(run_body(functools.partial(body, context, *args, **kwargs)))

    return config_option(output_option(command))


def run_body(body: Callable[[], Awaitable[ExitCode]]) -> ExitCode:
    """Runs a coroutine to its exit code. Raises CommandError for every fault that an operator can meet."""

    async def run() -> ExitCode:
        return await body()

    try:
        return asyncio.run(run())
    except BrokenPipeError:
        raise       # of stdout, when a reader such as `head` has enough; click ends quietly
    except StartupError as fault:
        raise CommandError(str(fault)) from fault
    except (PostgresError, *UNAVAILABLE) as fault:
        if getattr(fault, "sqlstate", None) in _OLD_SCHEMA:
            raise CommandError(f"the database is older than this program: run `chancery db migrate` ({fault})"
                               ) from fault
        raise CommandError(f"the database failed: {fault or type(fault).__name__}") from fault
    except TimeoutError as fault:
        raise CommandError("the database did not answer in time") from fault
