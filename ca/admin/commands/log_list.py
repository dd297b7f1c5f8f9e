"""`chancery log-list`: the list of Certificate Transparency logs: is it good, what would a new one change, install it.

CA and publisher read the file again when it has changed; nothing is restarted.
"""

from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import click

from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command
from ca.admin.log_list import Candidate, FetchFault, accepted, age, fetch, install, installed
from ca.admin.notices import transparency_notices
from ca.admin.output import Column, day, moment, moment_json, print_facts, print_json, print_line, print_table, span
from ca.pki.ct_log_list import CtLog, LogList, LogListError
from ca.pki.ct_outlook import LogChange, changes, covered_until, require_installable
from ca.pki.profile import longest_life

_dry_run = click.option("--dry-run", is_flag=True, help="Check it and say what would change; leave the file alone.")


@click.group()
def log_list() -> None:
    """The list of CT logs: show, fetch, install, check."""


@log_list.command()
@admin_command
async def show(context: AdminContext) -> ExitCode:
    """Show the logs of the installed list and until when certificates can be logged by it; exit with 5 when somebody
    should see to it."""
    path = _path(context)
    now = context.ambient.now()
    logs = installed(path)
    if logs is None:
        raise CommandError(next((reason.text for reason in transparency_notices(context.settings, now)),
                                f"{path} holds no list of CT logs"), ExitCode.NOT_FOUND)
    reasons = list(transparency_notices(context.settings, now))
    if context.output == "json":
        print_json({**_document(logs, now), "file": str(path), "reasons": [
            {"code": reason.code, "text": reason.text} for reason in reasons]})
    else:
        longest = longest_life(context.settings.ca.profiles)
        print_table(
            [Column(title="log"), Column(title="operator"), Column(title="kind", whole=True),
             Column(title="takes certificates that end from", whole=True), Column(title="before", whole=True),
             Column(title="now", whole=True)],
            [(log.description, log.operator, "tiled" if log.tiled else "rfc6962", _date(log.not_after_from),
              _date(log.not_after_before), _takes(log, now, longest)) for log in _sorted(logs)])
        print_line("")
        print_facts([("file", str(path)), *_facts(logs, now),
                     ("status", "degraded" if reasons else "ok"), *(("", reason.text) for reason in reasons)])
    return ExitCode.DEGRADED if reasons else ExitCode.OK


@log_list.command(name="fetch")
@click.option("--url", help="Where the list is.  [default: ct.log_list_url]")
@_dry_run
@admin_command
async def fetch_command(context: AdminContext, url: str | None, dry_run: bool) -> ExitCode:
    """Fetch the list, check it, say what changes, and put it in the place of the installed one; once a day will do.

    It is refused (4) when its publisher has not signed it (ct.log_list_key), when it is older than the installed one,
    or when our certificates could not be logged by it.
    """
    path, key_pem = _path(context), _key(context)
    website = f" (+{context.settings.acme.website})" if context.settings.acme.website else ""
    try:
        candidate = await fetch(url or context.settings.ct.log_list_url, signed=key_pem is not None,
                                user_agent=f"Chancery/{version('chancery')}{website}")
    except FetchFault as fault:
        raise CommandError(str(fault)) from fault
    return _take(context, path, candidate, key_pem, dry_run=dry_run)


@log_list.command(name="install")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--signature", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Its detached signature, needed with ct.log_list_key.")
@_dry_run
@admin_command
async def install_command(context: AdminContext, file: Path, signature: Path | None, dry_run: bool) -> ExitCode:
    """Do with a file what `fetch` does with a URL: for a machine without the network."""
    return _take(context, _path(context), _from_file(file, signature), _key(context), dry_run=dry_run)


@log_list.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--signature", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Its detached signature, needed with ct.log_list_key.")
@admin_command
async def check(context: AdminContext, file: Path | None, signature: Path | None) -> ExitCode:
    """Check a list as `fetch` does, or the installed one; exit with 4 when it would be refused."""
    if file is not None:
        return _take(context, _path(context), _from_file(file, signature), _key(context), dry_run=True)
    path = _path(context)
    now = context.ambient.now()
    try:
        logs = accepted(Candidate(data=path.read_bytes(), signature=None), key_pem=None)
        require_installable(logs, None, now=now, longest=longest_life(context.settings.ca.profiles))
    except OSError as fault:
        raise CommandError(f"{path} cannot be read: {fault.strerror}", ExitCode.NOT_FOUND) from fault
    except LogListError as fault:
        raise CommandError(f"{path}: {fault}", ExitCode.REFUSED) from fault
    _print(context, logs, (), now, {"installed": True})
    return ExitCode.OK


def _take(context: AdminContext, path: Path, candidate: Candidate, key_pem: bytes | None, *, dry_run: bool) -> ExitCode:
    now = context.ambient.now()
    before = installed(path)
    try:
        logs = accepted(candidate, key_pem=key_pem)
        require_installable(logs, before, now=now, longest=longest_life(context.settings.ca.profiles))
    except LogListError as fault:
        raise CommandError(f"refused, the installed list stays: {fault}", ExitCode.REFUSED) from fault
    if not dry_run:
        try:
            install(path, candidate.data)
        except OSError as fault:
            raise CommandError(f"{path} cannot be replaced: {fault.strerror}") from fault
    _print(context, logs, changes(before, logs), now, {"installed": not dry_run, "signed": key_pem is not None})
    return ExitCode.OK


def _print(context: AdminContext, logs: LogList, found: tuple[LogChange, ...], now: datetime,
           what: dict[str, bool]) -> None:
    if context.output == "json":
        print_json({**what, **_document(logs, now), "changes": [
            {"kind": change.kind, "log_id": change.log.log_id.hex(), "description": change.log.description,
             "operator": change.log.operator, "detail": change.detail} for change in found]})
        return
    if found:
        print_table([Column(title="", whole=True), Column(title="log"), Column(title="operator"), Column(title="what")],
                    [(change.kind, change.log.description, change.log.operator, change.detail or _interval(change.log))
                     for change in found])
        print_line("")
    signed = () if "signed" not in what else (
        ("signature", "by the publisher's key" if what["signed"] else "not looked at: ct.log_list_key is not set"),)
    print_facts([*_facts(logs, now), *signed, ("installed", "yes" if what["installed"] else "no: a dry run")])


def _facts(logs: LogList, now: datetime) -> list[tuple[str, str]]:
    until = covered_until(logs, now)
    return [("made at", f"{moment(logs.made_at)} ({span(age(logs, now))} ago)"),
            ("logs", f"{len(logs.logs)} take certificates, of "
                     f"{len({log.operator for log in logs.logs.values()})} operators"),
            ("can be logged", "certificates of any end" if until is None
             else f"certificates that end before {day(until, now)}")]


def _document(logs: LogList, now: datetime) -> dict[str, object]:
    return {"made_at": moment_json(logs.made_at), "covered_until": moment_json(covered_until(logs, now)), "logs": [
        {"log_id": log.log_id.hex(), "description": log.description, "operator": log.operator, "url": log.url,
         "kind": "tiled" if log.tiled else "rfc6962", "not_after_from": moment_json(log.not_after_from),
         "not_after_before": moment_json(log.not_after_before)} for log in _sorted(logs)]}


def _sorted(logs: LogList) -> list[CtLog]:
    return sorted(logs.logs.values(), key=lambda log: (log.operator, log.description))


def _date(value: datetime | None) -> str:
    return "-" if value is None else f"{value:%Y-%m-%d}"


def _interval(log: CtLog) -> str:
    if log.not_after_from is None and log.not_after_before is None:
        return "takes every certificate"
    return f"takes what ends from {_date(log.not_after_from)}, before {_date(log.not_after_before)}"


def _takes(log: CtLog, now: datetime, longest: timedelta) -> str:
    """Whether a log takes certificates that are signed now: of the longest profile, only shorter ones, or none."""
    if log.takes(now + longest):
        return "yes"
    begun = log.not_after_from is None or log.not_after_from <= now + longest
    open_still = log.not_after_before is None or log.not_after_before > now
    return "shorter ones" if begun and open_still else ("later" if open_still else "ended")


def _from_file(file: Path, signature: Path | None) -> Candidate:
    try:
        return Candidate(data=file.read_bytes(), signature=None if signature is None else signature.read_bytes())
    except OSError as fault:
        raise CommandError(f"{fault.filename} cannot be read: {fault.strerror}") from fault


def _path(context: AdminContext) -> Path:
    path = context.settings.ct.log_list
    if path is None:
        raise CommandError("ct.log_list is not set: it says where the list of CT logs is", ExitCode.USAGE)
    return path


def _key(context: AdminContext) -> bytes | None:
    path = context.settings.ct.log_list_key
    try:
        return None if path is None else path.read_bytes()
    except OSError as fault:
        raise CommandError(f"ct.log_list_key: {path} cannot be read: {fault.strerror}") from fault
