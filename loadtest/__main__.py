"""`python -m loadtest acme|ocsp|presign|revoke|storage|validation|all`."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop
from rich.console import Console

from loadtest.driver_acme import AcmeFault
from loadtest.http_connection import HttpFault, NotLoopbackError
from loadtest.ocsp_load import OcspFault
from loadtest.poll import PollPolicy
from loadtest.program import ProgramFault
from loadtest.report import Report
from loadtest.scenario_acme import AcmeOptions, run_acme
from loadtest.scenario_fuzz import FuzzOptions, run_fuzz
from loadtest.scenario_ocsp import OcspOptions, run_ocsp
from loadtest.scenario_presign import PresignOptions, run_presign
from loadtest.scenario_revoke import RevokeOptions, run_revoke
from loadtest.scenario_sizes import SizesOptions, run_sizes
from loadtest.scenario_storage import StorageOptions, run_storage
from loadtest.scenario_validation import ValidationOptions, run_validation
from loadtest.session import Running, Session

_FAULTS = (ProgramFault, AcmeFault, OcspFault, HttpFault, NotLoopbackError, OSError, TimeoutError)
_Scenario = Callable[[Session], Awaitable[None]]
_Command = TypeVar("_Command", bound=Callable[..., Any])
_COUNT = click.IntRange(1, 10_000_000)
_ROUNDS = click.IntRange(1, 50)
_FILE_WIDTH = 150
_SECONDS = click.IntRange(1, 600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which Chancery, and where the report goes."""

    running: Running | None
    data_dir: Path | None
    report_dir: Path


def _accounts(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as fault:
        raise click.BadParameter("expected numbers with commas, as in 1,8,32") from fault
    if not found or min(found) < 1 or max(found) > 1000:
        raise click.BadParameter("expected numbers from 1 to 1000")
    return found


def _sizes(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",") if part}))
    except ValueError as fault:
        raise click.BadParameter("expected numbers with commas, as in 10000,1000000") from fault
    if (found and not 40_000 <= found[-1] <= 100_000_000) or (found and found[0] < 10_000):
        raise click.BadParameter("expected numbers from 10000, the largest from 40000 to 100000000")
    return found


_ROUNDS_OPTION = click.option("--rounds", type=_ROUNDS, default=3, show_default=True,
                              help="Rounds with each server in turn; medians are reported.")
_PEER_OPTION = click.option("--peer/--no-peer", default=True, help="Measure the peers on this machine too.")
_OPTIONS: dict[str, Sequence[Callable[[_Command], _Command]]] = {
    "acme": (
        click.option("--accounts", callback=_accounts, default="1,8,32,128", show_default=True,
                     help="How many accounts order at once."),
        click.option("--seconds", type=_SECONDS, default=10, show_default=True, help="Length of a round."),
        click.option("--poll-ms", type=click.IntRange(1, 5000), default=4, show_default=True,
                     help="First delay of polling; it doubles up to 250 ms."),
        click.option("--cpu", is_flag=True, help="Show processor time and statements of an order."),
    ),
    "storage": (
        click.option("--storage-certificates", type=_COUNT, default=1000, show_default=True),
    ),
    "validation": (
        click.option("--pending", type=click.IntRange(2, 100_000), default=10_000, show_default=True,
                     help="Validations pending at once; half of them hang."),
        click.option("--single-rate", type=click.IntRange(1, 1000), default=20, show_default=True,
                     help="Single names a second, beside those that hang and alone."),
        click.option("--single-seconds", type=_SECONDS, default=15, show_default=True),
    ),
    "presign": (
        click.option("--ec-serials", type=_COUNT, default=30_000, show_default=True, help="A round, P-256."),
        click.option("--rsa-serials", type=_COUNT, default=3_000, show_default=True, help="A round, RSA-2048."),
        click.option("--loop-seconds", type=_SECONDS, default=3, show_default=True, help="Length of a bare loop."),
    ),
    "revoke": (
        click.option("--ec-certificates", type=click.IntRange(0, 10_000_000), default=200_000, show_default=True,
                     help="Made-up ones of the EC issuer that are revoked."),
        click.option("--rsa-certificates", type=click.IntRange(0, 10_000_000), default=0, show_default=True,
                     help="Made-up ones of the RSA issuer."),
    ),
    "ocsp": (
        click.option("--certificates", type=_COUNT, default=300, show_default=True, help="Issued to be asked about."),
        click.option("--revocations", type=click.IntRange(1, 1000), default=50, show_default=True),
        click.option("--wrk-seconds", type=_SECONDS, default=5, show_default=True, help="Length of a wrk run."),
        click.option("--sizes", callback=_sizes, default="", metavar="N,N,...",
                     help="Measure again at each of these numbers of made-up certificates, and draw the plot: "
                          "10000,100000,1000000,10000000 needs 20 GB of disk."),
        click.option("--signed", type=click.IntRange(10_000, 100_000_000), default=2_000_000, show_default=True,
                     help="How many of them are really signed; the others get signatures of noise."),
        click.option("--connections", type=click.IntRange(1, 1000), default=32, show_default=True),
    ),
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--data", "data_dir", type=click.Path(path_type=Path, file_okay=False), default=None,
              help="Data directory of the Chancery that is started (default: a temporary one), or of the running one.")
@click.option("--directory", default=None, metavar="URL", help="ACME directory of a running Chancery on loopback.")
@click.option("--roots", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=None,
              help="PEM file of the roots to trust with --directory.")
@click.option("--http-01-port", type=click.IntRange(1, 65_535), default=80, show_default=True,
              help="Where the running Chancery validates http-01.")
@click.option("--report-dir", type=click.Path(path_type=Path, file_okay=False), default=Path("loadtest-report"),
              show_default=True)
@click.pass_context
def cli(context: click.Context, data_dir: Path | None, directory: str | None, roots: Path | None, http_01_port: int,
        report_dir: Path) -> None:
    """Load Chancery from outside, beside the peers on this machine, and say what the ratio is."""
    if (directory is None) != (roots is None):
        raise click.UsageError("--directory and --roots belong together")
    running = None
    if directory is not None and roots is not None:
        running = Running(directory_url=directory, roots=roots, http_01_port=http_01_port, data_dir=data_dir)
    context.obj = Place(running=running, data_dir=data_dir, report_dir=report_dir)


def _with_options(*names: str) -> Callable[[_Command], _Command]:
    options = [_ROUNDS_OPTION, _PEER_OPTION] if set(names) - {"storage", "revoke"} else []
    options += [option for name in names for option in _OPTIONS[name]]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _acme(options: dict[str, Any]) -> _Scenario:
    chosen = AcmeOptions(accounts=options["accounts"], rounds=options["rounds"], seconds_s=float(options["seconds"]),
                         cpu=options["cpu"], peer=options["peer"],
                         polling=PollPolicy(first_s=options["poll_ms"] / 1e3))
    return lambda session: run_acme(session, chosen)


def _storage(options: dict[str, Any]) -> _Scenario:
    chosen = StorageOptions(certificates=options["storage_certificates"])
    return lambda session: run_storage(session, chosen)


def _validation(options: dict[str, Any]) -> _Scenario:
    chosen = ValidationOptions(pending=options["pending"], rate_per_s=options["single_rate"],
                               seconds_s=float(options["single_seconds"]), rounds=options["rounds"])
    return lambda session: run_validation(session, chosen)


def _presign(options: dict[str, Any]) -> _Scenario:
    chosen = PresignOptions(ec_serials=options["ec_serials"], rsa_serials=options["rsa_serials"],
                            rounds=options["rounds"], seconds_s=float(options["loop_seconds"]), peer=options["peer"])
    return lambda session: run_presign(session, chosen)


def _revoke(options: dict[str, Any]) -> _Scenario:
    chosen = RevokeOptions(ec_certificates=options["ec_certificates"], rsa_certificates=options["rsa_certificates"])
    return lambda session: run_revoke(session, chosen)


def _ocsp(options: dict[str, Any]) -> _Scenario:
    chosen = OcspOptions(certificates=options["certificates"], revocations=options["revocations"],
                         rounds=options["rounds"], seconds=options["wrk_seconds"],
                         connections=options["connections"], peer=options["peer"])
    sizes = SizesOptions(sizes=options["sizes"], signed=options["signed"], rounds=options["rounds"],
                         seconds=options["wrk_seconds"], connections=options["connections"], peer=options["peer"],
                         revocations=options["revocations"])

    async def run(session: Session) -> None:
        origin, answer_bytes = await run_ocsp(session, chosen)
        if sizes.sizes:
            await run_sizes(session, sizes, origin, answer_bytes)

    return run


@cli.command()
@_with_options("acme")
@click.pass_obj
def acme(place: Place, /, **options: Any) -> None:
    """Whole orders by http-01, beside Pebble."""
    sys.exit(_run("acme", place, [_acme(options)]))


@cli.command()
@_with_options("storage")
@click.pass_obj
def storage(place: Place, /, **options: Any) -> None:
    """Database bytes per certificate, by table."""
    sys.exit(_run("storage", place, [_storage(options)]))


@cli.command()
@_with_options("validation")
@click.pass_obj
def validation(place: Place, /, **options: Any) -> None:
    """Honest names beside thousands that hang."""
    sys.exit(_run("validation", place, [_validation(options)]))


@cli.command()
@_with_options("presign")
@click.pass_obj
def presign(place: Place, /, **options: Any) -> None:
    """OCSP responses signed in bulk, beside a bare loop of signatures."""
    sys.exit(_run("presign", place, [_presign(options)]))


@cli.command()
@_with_options("ocsp")
@click.pass_obj
def ocsp(place: Place, /, **options: Any) -> None:
    """OCSP answers by GET and POST, beside nginx; revocations until they are seen."""
    sys.exit(_run("ocsp", place, [_ocsp(options)]))


@cli.command()
@_with_options("revoke")
@click.pass_obj
def revoke(place: Place, /, **options: Any) -> None:
    """A mass revocation, until every OCSP response and CRL says so."""
    sys.exit(_run("revoke", place, [_revoke(options)]))


@cli.command()
@click.option("--requests", type=click.IntRange(25, 100_000_000), default=1_000_000, show_default=True,
              help="Damaged requests.")
@click.option("--seed", type=int, default=5019, show_default=True, help="The same seed damages in the same way.")
@click.pass_obj
def fuzz(place: Place, /, requests: int, seed: int) -> None:
    """Damaged OCSP requests: the responder goes on answering, and only for what was issued."""
    chosen = FuzzOptions(requests=requests, seed=seed)
    sys.exit(_run("fuzz", place, [lambda session: run_fuzz(session, chosen)]))


@cli.command(name="all")
@_with_options("acme", "storage", "validation", "presign", "ocsp")
@click.pass_obj
def every(place: Place, /, **options: Any) -> None:
    """Everything, with one Chancery."""
    sys.exit(_run("all", place, [
        _storage(options), _acme(options), _validation(options), _presign(options), _ocsp(options)]))


def _run(name: str, place: Place, scenarios: Sequence[_Scenario]) -> int:
    """Runs the scenarios, shows and writes the report. 0 unless something went wrong; a missed target is no error."""
    report, console = Report(), Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    # Stopped from outside, it still stops what it started and reports what it has.
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_run_all(report, console, place, scenarios))
    path = report.write(place.report_dir, name)
    report.show(console)
    console.print(f"written to {path}", style="dim", markup=False)
    return 1 if report.errors else 0


async def _run_all(report: Report, console: Console, place: Place, scenarios: Sequence[_Scenario]) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    session = Session(report=report, console=console, running=place.running, report_dir=place.report_dir,
                      data_dir=None if place.running else place.data_dir)
    async with session:
        for scenario in scenarios:
            try:
                await scenario(session)
            except _FAULTS as fault:
                report.errors.append(f"{type(fault).__name__}: {fault}")
            except asyncio.CancelledError:
                report.errors.append("stopped before the end")
                return


if __name__ == "__main__":
    cli()
