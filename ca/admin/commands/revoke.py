"""`chancery revoke`: many certificates at once. The CA does it in batches, beside everything else that it does."""

import asyncio

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ca.admin import incident_store as store
from ca.admin.certificate import REASONS
from ca.admin.commands.incident import foretold, opened, ordered, query_option, require_incident
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.forecast import Forecast
from ca.admin.incident_store import Incident
from ca.admin.output import console, print_facts, print_json, print_line
from ca.admin.selection import parse_selection
from ca.process.postgres import Connection

_POLL_S = 0.5


@click.command()
@query_option
@click.option("--incident", "name", metavar="NAME", help="With --query, the name of the new incident; without, the "
              "incident whose certificates are meant, or whose revocation is to be watched.")
@click.option("--reason", type=click.Choice([*REASONS], case_sensitive=False),
              help="RFC 5280 5.3.1; BR 4.9.1.1 says which one when. keyCompromise blocks the keys, too.")
@click.option("--url", default="", help="Where subscribers can read about it (ARI's explanationURL).")
@click.option("--comment", default="", help="Why, for those who ask later.")
@click.option("--wait-s", type=click.IntRange(0, 86_400), default=86_400, show_default=True,
              help="How long to watch until all is revoked and signed. The CA goes on without being watched.")
@yes_option
@admin_command
async def revoke(context: AdminContext, query: str | None, name: str | None, reason: str | None, url: str, comment: str,
                 wait_s: int, yes: bool) -> ExitCode:
    """Revoke every certificate of a query, or of an incident. Without --yes it says what that would take.

    It makes an incident, so that subscribers are told to renew. Halt it with `chancery incident halt NAME`.
    """
    if query is None and name is None:
        raise CommandError("say which certificates: --query, or --incident", ExitCode.USAGE)
    now = context.ambient.now()
    incident = name or f"revoke-{now:%Y%m%dt%H%M%Sz}"
    async with context.connection() as connection:
        known = None if query is not None else await require_incident(connection, incident)
        if known is None or known.reason is None:
            if reason is None:
                raise CommandError("say why, with --reason", ExitCode.USAGE)
            foreseen = await _order(connection, context, incident, query, REASONS[reason], comment, url, yes)
            _announce(context, incident, foreseen, yes)
            if not yes:
                raise CommandError("nothing was done: say --yes to revoke them all, for good", ExitCode.REFUSED)
        elif reason is not None:
            raise CommandError(f"the certificates of {incident} are being revoked, or were: leave out --reason to "
                               "watch", ExitCode.REFUSED)
        return await _watch(connection, context, await require_incident(connection, incident), wait_s)


async def _order(connection: Connection, context: AdminContext, incident: str, query: str | None, reason: int,
                 comment: str, url: str, yes: bool) -> Forecast:
    if query is not None:
        return await opened(connection, context, incident, parse_selection(query), comment=comment, url=url, really=yes,
                            revocation=reason)
    foreseen = await foretold(connection, incident)
    if yes:
        async with connection.transaction():
            await ordered(connection, context, incident, reason, comment)
    return foreseen


def _announce(context: AdminContext, incident: str, foreseen: Forecast, yes: bool) -> None:
    if context.output == "json":
        if not yes:
            print_json({"incident": incident, "ordered": False, "forecast": foreseen.document()})
        return
    print_facts([("incident", incident), *foreseen.facts()])


async def _watch(connection: Connection, context: AdminContext, incident: Incident, wait_s: int) -> ExitCode:
    """A bar until the CA has decided about every certificate, and until OCSP says so."""
    clock = asyncio.get_running_loop()
    give_up_at = clock.time() + wait_s
    terminal = console()
    terminal.stderr = True
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  console=terminal, transient=True) as bar:
        task = bar.add_task("revoking", total=incident.certificates)
        while True:
            found = await store.progress(connection, incident.name)
            assert found is not None  # noqa: S101 - it was ordered
            signed = found.finished_at is not None and not found.ocsp_waiting
            bar.update(task, completed=found.examined, description="halted" if found.halted else (
                "revoking" if found.finished_at is None else f"OCSP: {found.ocsp_waiting:,} to sign"))
            if signed or found.halted or clock.time() >= give_up_at:
                break
            await asyncio.sleep(_POLL_S)
    document = {"incident": incident.name, "ordered": True, "certificates": incident.certificates,
                "examined": found.examined, "revoked": found.changed, "halted": found.halted,
                "finished": found.finished_at is not None, "ocsp_waiting": found.ocsp_waiting}
    if context.output == "json":
        print_json(document)
    else:
        print_line(f"{incident.name}: decided about {found.examined:,} of {incident.certificates:,}, revoked "
                   f"{found.changed:,}, OCSP responses to be signed: {found.ocsp_waiting:,}")
    if signed:
        return ExitCode.OK
    raise CommandError(f"it is {'halted' if found.halted else 'not done yet, and goes on'}; watch it with `chancery "
                       f"revoke --incident {incident.name}`", ExitCode.DEGRADED)
