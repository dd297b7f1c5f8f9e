"""`chancery ocsp`: how it is doing and how it will be, and signing all that is due with a look at the progress."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.ocsp_outlook import (
    Outlook,
    ask_to_sign_again,
    certificate_seconds,
    issuer_names,
    left_to_sign,
    outlook,
)
from ca.admin.ocsp_responders import ResponderState, WorkerState, ask_responders, workers_of
from ca.admin.output import (
    Column,
    count,
    distance,
    hours,
    moment,
    moment_json,
    print_facts,
    print_json,
    print_line,
    print_table,
    relative,
    span,
)
from ca.admin.revoke import operator_name
from ca.admin.supervise import environment_of
from ca.pki.object_id import object_id
from ca.process.lifecycle import SUPERVISOR_VARIABLE
from ca.process.postgres import Connection

_LOOK_EVERY_S: Final = 1.0
_SAY_EVERY: Final = timedelta(seconds=10)
_STALLED_AFTER: Final = timedelta(seconds=120)
_MOST_BEHIND_S: Final = 60.0


@click.group()
def ocsp() -> None:
    """OCSP: signed responses, backlog and forecast."""


@ocsp.command()
@admin_command
async def status(context: AdminContext) -> ExitCode:
    """Show signers, responders, the backlog and when it will be done.

    Exits with 5 when a rule is in danger, nobody signs, or a responder of this machine is missing or far behind.
    """
    now = context.ambient.now()
    async with context.connection() as connection:
        found = await outlook(connection, now=now, life_s=context.settings.ocsp.response_life_s)
        names = await issuer_names(connection)
    responders = await ask_responders(context.settings.ocsp.listen)
    alarms = [*found.alarms(now), *_missing(found, responders)]
    if context.output == "json":
        print_json(_document(found, names, responders, alarms, now))
    else:
        _print(found, names, responders, now)
        for _, text in alarms:
            print_line(f"degraded: {text}")
    return ExitCode.DEGRADED if alarms else ExitCode.OK


def _missing(found: Outlook, responders: list[ResponderState]) -> list[tuple[str, str]]:
    """(code, text) of processes that do not do their work."""
    alarms = [] if found.signers else [(
        "ocsp_signer_missing", "no pre-signer is running: new certificates get no response, and none is signed again")]
    for one in responders:
        if one.batch_id is None:
            alarms.append(("ocsp_responder_missing", f"the responder at {one.address} does not answer"))
        elif one.lag_s is not None and one.lag_s > _MOST_BEHIND_S:
            alarms.append(("ocsp_responder_behind", f"the responder at {one.address} is {one.lag_s:,.0f} s behind the "
                           "batch log: revocations of that time do not show"))
    return alarms


def _print(found: Outlook, names: dict[int, str], responders: list[ResponderState], now: datetime) -> None:
    print_line("SIGNERS")
    print_table((Column(title="issuer"), Column(title="signed by"), Column(title="process", whole=True),
                 Column(title="certificates/s", right=True), Column(title="seen", right=True)),
                [(names.get(one.issuer_id, str(one.issuer_id)), _signed_by(found, one.issuer_id, one.responder_id, now),
                  one.worker, "none yet" if not one.certificate_s else f"{1 / one.certificate_s:,.0f}",
                  distance(one.seen_at, now)) for one in found.signers])
    print_line("")
    print_line("RESPONDERS OF THIS MACHINE")
    print_table((Column(title="address", whole=True), Column(title="state"), Column(title="newest batch", right=True),
                 Column(title="behind", right=True)),
                [(one.address, one.state, "-" if one.batch_id is None else f"{one.batch_id:,}",
                  "-" if one.lag_s is None else f"{one.lag_s:.1f} s") for one in responders])
    print_line("")
    _print_workers(workers_of(responders))
    backlog = found.forecast
    counted = found.ranges - found.uncounted
    print_facts([
        ("newest batch", "-" if found.last_batch_at is None
         else f"{found.last_batch_id:,}, {relative(found.last_batch_at, now)}"),
        ("certificates answered for", f"{found.certificates:,} in {count(counted, 'range')} of serial numbers" + (
            f", without {count(found.uncounted, 'range')} of today, counted tomorrow" if found.uncounted else "")),
        ("wait for the first response", f"{found.waiting:,}" + (
            f", done in {span(found.new_done_in)}" if found.waiting and found.new_done_in is not None else "")),
        ("due to be signed again", f"{backlog.overdue:,}" + (
            f", done {distance(backlog.done_at, now)}" if backlog.overdue and backlog.done_at is not None else "")),
        ("greatest age to come", f"{hours(backlog.oldest)} of the {hours(backlog.allowed)} that BR 4.9.9 allows"
         if found.ranges else "-"),
        ("rule broken", "never, at this speed" if backlog.breach_at is None else relative(backlog.breach_at, now))])


def _print_workers(workers: list[WorkerState]) -> None:
    if not workers:
        return
    print_line("THEIR WORKERS, each since its start")
    print_table((Column(title="worker", whole=True), Column(title="connections", right=True),
                 Column(title="answers withheld", right=True)),
                [(one.worker, f"{one.connections:,}", f"{one.withheld:,}") for one in workers])
    print_line("")
    live = [(one.worker, one.live) for one in workers if one.live is not None]
    if not live:
        return
    print_line("LIVE MODE")
    print_table((Column(title="worker", whole=True), Column(title="asked", right=True),
                 Column(title="signed", right=True), Column(title="mean wait", right=True),
                 Column(title="99 % within", right=True), Column(title="answered without it")),
                [(worker, f"{counts.requests:,}", f"{counts.signed:,}",
                  f"{counts.mean_wait_s * 1e3:.1f} ms" if counts.signed else "-",
                  f"{counts.p99_wait_s * 1e3:.0f} ms" if counts.signed and counts.p99_wait_s is not None else "-",
                  ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.refused.items()
                            if count) or "-") for worker, counts in live])
    print_line("")


def _signed_by(found: Outlook, issuer_id: int, responder_id: int, now: datetime) -> str:
    if not responder_id:
        return "its own key"
    known = found.responders.get(issuer_id)
    until = "" if known is None or known[0] != responder_id else f", ends {distance(known[1], now)}"
    return f"responder {responder_id}{until}"


def _document(found: Outlook, names: dict[int, str], responders: list[ResponderState],
              alarms: list[tuple[str, str]], now: datetime) -> dict[str, object]:
    return {
        "status": "degraded" if alarms else "ok", "looked_at": moment_json(now),
        "alarms": [{"code": code, "text": text} for code, text in alarms],
        "certificates": found.certificates, "ranges": found.ranges,
        "uncounted_ranges": found.uncounted, "waiting": found.waiting,
        "waiting_done_in_s": None if found.new_done_in is None else round(found.new_done_in.total_seconds(), 1),
        "overdue": found.forecast.overdue, "overdue_done_at": moment_json(found.forecast.done_at),
        "oldest_s": round(found.forecast.oldest.total_seconds()),
        "oldest_allowed_s": round(found.forecast.allowed.total_seconds()),
        "breach_at": moment_json(found.forecast.breach_at),
        "certificates_per_s": {names.get(issuer_id, str(issuer_id)): round(1 / seconds, 1)
                               for issuer_id, seconds in certificate_seconds(found.signers).items()},
        "signers": [{"issuer": names.get(one.issuer_id), "process": one.worker, "responder_id": one.responder_id,
                     "certificate_s": one.certificate_s, "seen_at": moment_json(one.seen_at)} for one in found.signers],
        "responders": [{"address": one.address, "state": one.state, "batch_id": one.batch_id, "lag_s": one.lag_s}
                       for one in responders],
        "workers": [asdict(one) for one in workers_of(responders)],
        "last_batch_id": found.last_batch_id, "last_batch_at": moment_json(found.last_batch_at),
    }


@ocsp.command()
@click.option("--everything", is_flag=True, help="Sign every response again, not only what is due: needs --yes.")
@click.option("--workers", type=click.IntRange(0, 64), default=0, show_default=True,
              help="Start this many more pre-signers on this machine until it is done.")
@yes_option
@admin_command
async def presign(context: AdminContext, everything: bool, workers: int, yes: bool) -> ExitCode:
    """Wait until all that is due is signed, with a progress bar; pre-signers do the work, one a core.

    It may be stopped and started at any time: what is signed is signed.
    """
    begun = context.ambient.now()
    async with context.connection() as connection:
        certificates, ranges = await left_to_sign(connection, now=begun, everything=everything)
        if everything and not yes:
            _say(context, "would_sign", f"would sign {count(certificates, 'certificate')} in {count(ranges, 'range')} "
                 "of serial numbers again: say --yes to do it", certificates)
            return ExitCode.REFUSED
        seen = (await outlook(connection, now=begun, life_s=context.settings.ocsp.response_life_s)).signers
        if not ranges:
            _say(context, "ok", "ok: nothing is due", 0)
            return ExitCode.OK
        if not seen and not workers:
            raise CommandError("no pre-signer is running: start one (`chancery run presign`), or give --workers N")
        if everything:
            await ask_to_sign_again(connection, operator=operator_name(), now=begun,
                                    request_id=object_id(begun, context.ambient.random_bytes(16)))
        with _more_signers(context, workers):
            await _watch(context, connection, certificates)
    took = context.ambient.now() - begun
    _say(context, "ok", f"ok: {count(certificates, 'certificate')} in {span(took)}", certificates, took)
    return ExitCode.OK


def _say(context: AdminContext, status: str, text: str, certificates: int, took: timedelta = timedelta()) -> None:
    if context.output == "json":
        print_json({"status": status, "certificates": certificates, "took_s": round(took.total_seconds(), 1)})
    else:
        print_line(text)


async def _watch(context: AdminContext, connection: Connection, total: int) -> None:
    """Until nothing is left. Raises CommandError when nothing moves for two minutes."""
    console = Console(stderr=True)
    moved_at = said_at = context.ambient.now()
    before = total
    with Progress(TextColumn("signing"), BarColumn(), MofNCompleteColumn(), TextColumn("certificates"),
                  TimeElapsedColumn(), TextColumn("passed,"), TimeRemainingColumn(), TextColumn("left"),
                  console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("signing", total=total)
        while True:
            now = context.ambient.now()
            left, ranges = await left_to_sign(connection, now=now)
            if not ranges:
                progress.update(task, completed=total)
                return
            if left != before:
                before, moved_at = left, now
            elif now - moved_at > _STALLED_AFTER:
                raise CommandError(f"{left:,} certificates are left, and none was signed for {span(now - moved_at)}: "
                                   "see `chancery ocsp status`, and the log of the pre-signer")
            progress.update(task, completed=max(0, total - left))
            if not console.is_terminal and now - said_at > _SAY_EVERY:
                said_at = now
                click.echo(f"{moment(now)} {left:,} of {total:,} left", err=True)
            await asyncio.sleep(_LOOK_EVERY_S)


@contextmanager
def _more_signers(context: AdminContext, count: int) -> Iterator[None]:
    """Pre-signers of our own, as `chancery run presign`; their log is not the terminal's, and they end with us."""
    command = [sys.executable, "-m", "ca.admin.cli", "run", "presign", "--config", str(context.settings_path)]
    environ = environment_of("presign") | os.environ | {SUPERVISOR_VARIABLE: str(os.getpid())}
    running = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env=environ) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
