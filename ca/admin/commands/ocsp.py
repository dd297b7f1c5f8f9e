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
from ca.admin.ocsp_responders import ResponderState, ask_responders
from ca.admin.output import (
    Column,
    distance,
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
from ca.admin.supervise import allocator_of
from ca.pki.object_id import object_id
from ca.process.lifecycle import SUPERVISOR_VARIABLE
from ca.process.postgres import Connection

_LOOK_EVERY_S: Final = 1.0
_SAY_EVERY: Final = timedelta(seconds=10)
_STALLED_AFTER: Final = timedelta(seconds=120)


@click.group()
def ocsp() -> None:
    """OCSP: signed responses, backlog and forecast."""


@ocsp.command()
@admin_command
async def status(context: AdminContext) -> ExitCode:
    """Show signers, responders, the backlog and when it will be done; exit with 5 when a rule is in danger."""
    now = context.ambient.now()
    async with context.connection() as connection:
        found = await outlook(connection, now=now)
        names = await issuer_names(connection)
    responders = await ask_responders(context.settings.ocsp.listen)
    alarms = found.alarms(now)
    if context.output == "json":
        print_json(_document(found, names, responders, now))
    else:
        _print(found, names, responders, now)
        for _, text in alarms:
            print_line(f"degraded: {text}")
    return ExitCode.DEGRADED if alarms else ExitCode.OK


def _print(found: Outlook, names: dict[int, str], responders: list[ResponderState], now: datetime) -> None:
    print_line("SIGNERS")
    print_table((Column(title="issuer"), Column(title="signed by"), Column(title="process", whole=True),
                 Column(title="certificates/s", right=True), Column(title="seen", right=True)),
                [(names.get(one.issuer_id, str(one.issuer_id)), _signed_by(found, one.issuer_id, one.responder_id, now),
                  one.worker, "-" if not one.certificate_s else f"{1 / one.certificate_s:,.0f}",
                  distance(one.seen_at, now)) for one in found.signers])
    if not found.signers:
        print_line("missing: no pre-signer is running")
    print_line("")
    print_line("RESPONDERS OF THIS MACHINE")
    print_table((Column(title="address", whole=True), Column(title="state"), Column(title="batch", right=True),
                 Column(title="behind", right=True)),
                [(one.address, one.state, "-" if one.batch_id is None else f"{one.batch_id:,}",
                  "-" if one.lag_s is None else f"{one.lag_s:.1f} s") for one in responders])
    print_line("")
    _print_live(responders)
    backlog = found.forecast
    print_facts([
        ("certificates answered for", f"{found.certificates:,} in {found.ranges - found.uncounted:,} ranges" + (
            f", and {found.uncounted:,} of today that are not counted" if found.uncounted else "")),
        ("wait for the first response", f"{found.waiting:,}" + (
            f", done in {span(found.new_done_in)}" if found.waiting and found.new_done_in is not None else "")),
        ("due to be signed again", f"{backlog.overdue:,}" + (
            f", done {distance(backlog.done_at, now)}" if backlog.overdue and backlog.done_at is not None else "")),
        ("oldest response of the next days", f"{span(backlog.oldest)} (the rule: 96 h)" if found.ranges else "-"),
        ("rule broken", "never, at this speed" if backlog.breach_at is None else relative(backlog.breach_at, now)),
        ("newest batch", "-" if found.last_batch_at is None
         else f"{found.last_batch_id:,}, {relative(found.last_batch_at, now)}")])


def _print_live(responders: list[ResponderState]) -> None:
    live = [(one.address, one.live) for one in responders if one.live is not None]
    if not live:
        return
    print_line("LIVE MODE, of the worker that answered, since its start")
    print_table((Column(title="address", whole=True), Column(title="asked", right=True),
                 Column(title="signed", right=True), Column(title="mean wait", right=True),
                 Column(title="99 % within", right=True), Column(title="answered without it")),
                [(address, f"{counts.requests:,}", f"{counts.signed:,}",
                  f"{counts.mean_wait_s * 1e3:.1f} ms" if counts.signed else "-",
                  f"{counts.p99_wait_s * 1e3:.0f} ms" if counts.signed and counts.p99_wait_s is not None else "-",
                  ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.refused.items()
                            if count) or "-") for address, counts in live])
    print_line("")


def _signed_by(found: Outlook, issuer_id: int, responder_id: int, now: datetime) -> str:
    if not responder_id:
        return "its own key"
    known = found.responders.get(issuer_id)
    until = "" if known is None or known[0] != responder_id else f", ends {distance(known[1], now)}"
    return f"responder {responder_id}{until}"


def _document(found: Outlook, names: dict[int, str], responders: list[ResponderState],
              now: datetime) -> dict[str, object]:
    alarms = found.alarms(now)
    return {
        "status": "degraded" if alarms else "ok", "looked_at": moment_json(now),
        "alarms": [{"code": code, "text": text} for code, text in alarms],
        "certificates": found.certificates, "ranges": found.ranges,
        "uncounted_ranges": found.uncounted, "waiting": found.waiting,
        "waiting_done_in_s": None if found.new_done_in is None else round(found.new_done_in.total_seconds(), 1),
        "overdue": found.forecast.overdue, "overdue_done_at": moment_json(found.forecast.done_at),
        "oldest_s": round(found.forecast.oldest.total_seconds()), "breach_at": moment_json(found.forecast.breach_at),
        "certificates_per_s": {names.get(issuer_id, str(issuer_id)): round(1 / seconds, 1)
                               for issuer_id, seconds in certificate_seconds(found.signers).items()},
        "signers": [{"issuer": names.get(one.issuer_id), "process": one.worker, "responder_id": one.responder_id,
                     "certificate_s": one.certificate_s, "seen_at": moment_json(one.seen_at)} for one in found.signers],
        "responders": [{"address": one.address, "state": one.state, "batch_id": one.batch_id, "lag_s": one.lag_s,
                        "live": None if one.live is None else asdict(one.live)} for one in responders],
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
            print_line(f"would sign {certificates:,} certificates in {ranges:,} ranges again: say --yes to do it")
            return ExitCode.REFUSED
        seen = (await outlook(connection, now=begun)).signers
        if not ranges:
            print_line("ok: nothing is due")
            return ExitCode.OK
        if not seen and not workers:
            raise CommandError("no pre-signer is running: start one (`chancery run presign`), or give --workers N")
        if everything:
            await ask_to_sign_again(connection, operator=operator_name(), now=begun,
                                    request_id=object_id(begun, context.ambient.random_bytes(16)))
        with _more_signers(context, workers):
            await _watch(context, connection, certificates)
    print_line(f"ok: {certificates:,} certificates in {span(context.ambient.now() - begun)}")
    return ExitCode.OK


async def _watch(context: AdminContext, connection: Connection, total: int) -> None:
    """Until nothing is left. Raises CommandError when nothing moves for two minutes."""
    console = Console(stderr=True)
    moved_at = said_at = context.ambient.now()
    before = total
    with Progress(TextColumn("signing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
                  console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("signing", total=total)
        while True:
            now = context.ambient.now()
            left, ranges = await left_to_sign(connection, now=now)
            if not ranges:
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
    environ = allocator_of("presign") | os.environ | {SUPERVISOR_VARIABLE: str(os.getpid())}
    running = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env=environ) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
