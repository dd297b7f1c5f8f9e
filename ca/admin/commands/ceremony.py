"""`chancery ceremony`: make roots and issuing CAs from a plan, and look at what was made.

Needs no configuration file and no database but for `record`: the machine with the root token is offline.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NoReturn, TypeVar

import click
import msgspec
from cryptography import x509

from ca.admin.ceremony.act import run_ceremony
from ca.admin.ceremony.discard import discard_unfinished
from ca.admin.ceremony.errors import CeremonyError, PlanError, RefusedError
from ca.admin.ceremony.outputs import leftover_of, require_new
from ca.admin.ceremony.plan import CeremonyPlan, load_plan
from ca.admin.ceremony.read import check_ceremony, read_ceremony
from ca.admin.ceremony.result import CeremonyResult
from ca.admin.ceremony.store import record_ceremony
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, output_option, yes_option
from ca.admin.output import Column, print_facts, print_json, print_line, print_table
from ca.admin.run_all import database_at_hand
from ca.process.ambient import Ambient, system_ambient
from ca.process.settings import HsmSettings
from hsm.errors import HsmError
from hsm.softhsm import default_module, initialise_softhsm_token

_Result = TypeVar("_Result")
_OPERATORS = 2
_PIN_BYTES = 12
_LONGEST_ORGANIZATION = 64
_MEMORY = Path("/dev/shm")  # noqa: S108 - only when it is there, in a private directory of a random name
_directory = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
_plan = click.argument("plan", type=click.Path(path_type=Path, dir_okay=False))
_out = click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR",
                    help="Where the outputs are released.")
_ask_pins = click.option("--ask-pins", is_flag=True, help="Ask for the PINs instead of reading the plan's PIN files.")


@click.group()
def ceremony() -> None:
    """Key ceremonies: rehearse, run, verify, show, record, discard."""


@ceremony.command()
@_plan
@_out
@click.option("--operator", "operators", multiple=True, metavar="NAME", help="Who is present; asked for otherwise.")
@click.option("--yes", is_flag=True, help="Ask nothing. Only for a plan that says `demonstration = true`.")
@_ask_pins
@output_option
def run(plan: Path, out: Path, operators: tuple[str, ...], yes: bool, ask_pins: bool, output: str) -> None:
    """Make everything that PLAN says. Two people confirm it by name."""
    parsed, text = _guarded(lambda: _load(plan))
    _guarded(lambda: require_new(out))
    if yes and not parsed.demonstration:
        raise CommandError("a root is made by the direct command of people who are present (BR 4.3.1.1): run this "
                           "without --yes, or with a plan that says `demonstration = true`", ExitCode.REFUSED)
    if not yes:
        operators = _confirmed(parsed, {plan.name: text}, operators)
    with _pins(parsed, ask=ask_pins) as (root_hsm, online_hsm):
        result = _guarded(lambda: run_ceremony(
            parsed, out_dir=out, root_hsm=root_hsm, online_hsm=online_hsm, ambient=system_ambient(),
            progress=lambda line: click.echo(line, err=True), operators=operators, inputs={plan.name: text}))
    _print(result, output)


@ceremony.command()
@_plan
@_out
@click.option("--operator", "operators", multiple=True, metavar="NAME", help="Who is present; asked for otherwise.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@output_option
def rehearse(plan: Path, out: Path, operators: tuple[str, ...], yes: bool, output: str) -> None:
    """Hold the whole ceremony of PLAN with two SoftHSM tokens that are thrown away at the end.

    For people to practise, and to see every output before the day. The plan's own tokens are not touched; all
    certificates say REHEARSAL.
    """
    parsed, text = _guarded(lambda: _load(plan))
    _guarded(lambda: require_new(out))
    if any(root.certificate is not None for root in parsed.roots):
        raise CommandError("the plan goes on from roots whose keys are in the real root token alone; `ceremony run` "
                           "rehearses it with throw-away keys before it makes anything", ExitCode.USAGE)
    if not yes:
        operators = _confirmed(parsed, {plan.name: text}, operators)
    ambient = system_ambient()
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as place:
        root_hsm, online_hsm = _guarded(lambda: (_thrown_away_token(Path(place), "root", ambient),
                                                 _thrown_away_token(Path(place), "online", ambient)))
        practised = msgspec.structs.replace(parsed, title=f"REHEARSAL of {parsed.title}", organization=f"REHEARSAL "
                                            f"{parsed.organization}"[:_LONGEST_ORGANIZATION])
        result = _guarded(lambda: run_ceremony(
            practised, out_dir=out, root_hsm=root_hsm, online_hsm=online_hsm, ambient=ambient,
            progress=lambda line: click.echo(line, err=True), operators=operators, inputs={plan.name: text}))
    _print(result, output)


def _thrown_away_token(place: Path, name: str, ambient: Ambient) -> HsmSettings:
    made = initialise_softhsm_token(place / name, f"rehearsal-{name}", ambient.random_bytes(_PIN_BYTES).hex())
    return HsmSettings(module=default_module(), conf=made.conf, token_label=made.label, pin_file=made.pin_file)


@ceremony.command()
@_directory
@output_option
def verify(directory: Path, output: str) -> None:
    """Check the manifest, the transcript's hashes, and every signature in DIRECTORY."""
    _require_directory(directory)
    faults, result = check_ceremony(directory)
    if output == "json":
        print_json({"directory": str(directory.resolve()), "ok": result is not None, "faults": faults,
                    "manifest_sha256": result.manifest_sha256 if result else None})
    elif result is not None:
        print_line(f"ok: {directory} is what the ceremony released, manifest SHA-256 {result.manifest_sha256}")
    for fault in faults:
        click.echo(f"chancery: {fault}", err=True)
    click.get_current_context().exit(ExitCode.OK if result is not None else ExitCode.FAILED)


@ceremony.command()
@_directory
@output_option
def show(directory: Path, output: str) -> None:
    """Show what was made in DIRECTORY, after verifying it."""
    _require_directory(directory)
    _print(_guarded(lambda: read_ceremony(directory)), output)


@ceremony.command()
@_directory
@admin_command
async def record(context: AdminContext, directory: Path) -> ExitCode:
    """Put issuers, chains, CA certificates and root CRLs of DIRECTORY into the database. Safe to run again.

    An embedded database is made, and run for as long as this takes, where no CA has been started yet.
    """
    _require_directory(directory)
    result = await asyncio.to_thread(_guarded, lambda: read_ceremony(directory))
    async with database_at_hand(context.settings, context.ambient), context.connection() as connection:
        try:
            written = await record_ceremony(connection, result)
        except CeremonyError as fault:
            raise CommandError(str(fault), ExitCode.REFUSED) from fault
    if context.output == "json":
        print_json({"written": written})
    else:
        print_line("\n".join(written) or "ok: it was all there")
    return ExitCode.OK


@ceremony.command()
@_plan
@_out
@yes_option
@_ask_pins
@output_option
def discard(plan: Path, out: Path, yes: bool, ask_pins: bool, output: str) -> None:
    """After an interrupted `run`: destroy the keys that it made in vain, and set its directory aside."""
    parsed, _ = _guarded(lambda: _load(plan))
    leftover = leftover_of(out)
    if leftover is None:
        raise CommandError(f"there is no interrupted ceremony for {out}", ExitCode.NOT_FOUND)
    if not yes:
        for key in leftover.keys:
            print_line(f"would destroy key {key.label!r} (id {key.key_id}) in the {key.token} token")
        raise CommandError(f"nothing was done: give --yes to destroy {len(leftover.keys)} keys and set "
                           f"{leftover.directory} aside", ExitCode.REFUSED)
    with _pins(parsed, ask=ask_pins) as (root_hsm, online_hsm):
        tokens = {"root": root_hsm} | ({"online": online_hsm} if online_hsm is not None else {})
        done, aside = _guarded(lambda: discard_unfinished(out, tokens, system_ambient().now()))
    if output == "json":
        print_json({"done": done, "set_aside": str(aside)})
    else:
        print_line("\n".join([*done, f"set aside: {aside}"]))


def _load(path: Path) -> tuple[CeremonyPlan, bytes]:
    if not path.is_file():
        raise CommandError(f"{path}: there is no such plan", ExitCode.NOT_FOUND)
    return load_plan(path)


def _guarded(act: Callable[[], _Result]) -> _Result:
    """Every fault that people can meet here, as one line with its exit code."""
    try:
        return act()
    except RefusedError as fault:
        raise CommandError(str(fault), ExitCode.REFUSED) from fault
    except PlanError as fault:
        raise CommandError(str(fault), ExitCode.USAGE) from fault
    except (CeremonyError, HsmError) as fault:
        raise CommandError(str(fault)) from fault
    except OSError as fault:
        raise CommandError(f"{fault.filename or 'a file'}: {fault.strerror or fault}") from fault


def _require_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise CommandError(f"{directory}: there is no such ceremony", ExitCode.NOT_FOUND)


def _confirmed(plan: CeremonyPlan, inputs: dict[str, bytes], operators: Sequence[str]) -> tuple[str, ...]:
    """Shows the plan and the SHA-256 of every input; two people type their names and the first digits of the plan's."""
    digest = hashlib.sha256(b"".join(inputs.values())).hexdigest()
    click.echo(_announcement(plan), err=True)
    for name, content in inputs.items():
        click.echo(f"\n{name} SHA-256 {hashlib.sha256(content).hexdigest()}", err=True)
    names: list[str] = []
    for number in range(max(_OPERATORS, len(operators))):
        name = operators[number] if number < len(operators) else ""
        while not name.strip() or name.strip().casefold() in {known.casefold() for known in names}:
            if name.strip():
                click.echo("That is the name of somebody who has confirmed already.", err=True)
            name = click.prompt(f"Operator {number + 1}, your name", err=True)
        typed = click.prompt(f"{name.strip()}, compare the SHA-256 with your copy of the plan, and type its first 8 "
                             "digits to go on", err=True)
        if typed.strip().lower() != digest[:8]:
            _refuse(f"{name.strip()} did not confirm the plan: nothing was made")
        names.append(name.strip())
    return tuple(names)


def _refuse(message: str) -> NoReturn:
    raise CommandError(message, ExitCode.REFUSED)


def _announcement(plan: CeremonyPlan) -> str:
    lines = [plan.title, ""]
    for root in plan.roots:
        lines.append(f"root          {root.common_name}: " + (
            f"{root.key}, {root.valid_days} days" if root.certificate is None else f"exists, {root.certificate}"))
    lines += [f"cross-sign    {cross.subject} by {cross.issuer}: " + (
        f"{cross.valid_days} days" if cross.certificate is None else "exists") for cross in plan.cross_signs]
    lines += [f"intermediate  {each.common_name} by {each.issuer}: {each.key}, {each.valid_days} days, "
              f"{each.crl_shards} CRL shards" for each in plan.intermediates]
    lines += [f"root CRL      {root.common_name}: {plan.crl_days} days, {len(root.revoked)} entries"
              for root in plan.roots]
    lines += [f"accepted      lint finding {each.code}: {each.reason}" for each in plan.accepted_findings]
    return "\n".join(lines)


@contextmanager
def _pins(plan: CeremonyPlan, *, ask: bool) -> Iterator[tuple[HsmSettings, HsmSettings | None]]:
    """The plan's tokens. With `ask` the PINs are typed, and kept in memory-backed files until the command ends."""
    if plan.root_hsm is None or (plan.online_hsm is None and plan.intermediates):
        raise CommandError("the plan needs the sections [root_hsm] and, for intermediates, [online_hsm]: module, "
                           "token_label, pin_file, and conf for SoftHSM", ExitCode.USAGE)
    if not ask:
        yield plan.root_hsm, plan.online_hsm
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as place:
        def typed(settings: HsmSettings) -> HsmSettings:
            pin = click.prompt(f"PIN of token {settings.token_label!r}", hide_input=True, err=True)
            file = Path(place) / hashlib.sha256(settings.token_label.encode()).hexdigest()
            file.touch(mode=0o600)
            file.write_text(pin + "\n", "utf-8")
            return msgspec.structs.replace(settings, pin_file=file)

        yield typed(plan.root_hsm), typed(plan.online_hsm) if plan.online_hsm is not None else None


def _print(result: CeremonyResult, output: str) -> None:
    if output == "json":
        print_json({
            "directory": str(result.directory.resolve()), "title": result.title,
            "held_at": result.held_at, "manifest_sha256": result.manifest_sha256,
            "certificates": [{
                "name": each.name, "role": each.role, "issuer": each.issuer, "key_type": each.key_type,
                "file": f"certificates/{each.slug}.crt", "not_after": _not_after(each.certificate),
                "sha256": hashlib.sha256(each.certificate).hexdigest()} for each in result.certificates],
            "crls": [{"root": crl.root, "file": f"crls/{crl.slug}.crl", "next_update": _next_update(crl.der)}
                     for crl in result.crls],
        })
        return
    print_facts([("ceremony", result.title), ("held", f"{result.held_at:%Y-%m-%d %H:%M:%S} UTC"),
                 ("directory", str(result.directory)), ("SHA-256", result.manifest_sha256)])
    print_table(
        [Column(title="certificate"), Column(title="role", whole=True), Column(title="issuer"),
         Column(title="until", whole=True)],
        [(each.name, each.role, each.issuer, f"{_not_after(each.certificate):%Y-%m-%d}")
         for each in result.certificates]
        + [(crl.root, "CRL", crl.root, f"{_next_update(crl.der):%Y-%m-%d}") for crl in result.crls])


def _not_after(certificate: bytes) -> datetime:
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


def _next_update(crl: bytes) -> datetime | None:
    return x509.load_der_x509_crl(crl).next_update_utc
