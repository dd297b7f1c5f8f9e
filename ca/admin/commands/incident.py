"""`chancery incident`: certificates that something is wrong with. While one is open, their subscribers are told to
renew at once (RFC 9773); `chancery revoke` revokes them."""

import re
from typing import Final

import click

from ca.admin import block_store
from ca.admin import incident_store as store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.forecast import Forecast, forecast
from ca.admin.incident_store import Incident
from ca.admin.output import Column, moment, moment_json, print_facts, print_json, print_line, print_table, relative
from ca.admin.revoke import operator_name
from ca.admin.selection import FIELDS, Selection, parse_selection
from ca.pki.revocation import REASON_NAMES
from ca.process.postgres import Connection

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
query_option = click.option(
    "--query", metavar="'FIELD=VALUE ...'", help="Which certificates; all parts have to hold.\b\n\n"
    + "; ".join(f"{name}: {what}" for name, what in FIELDS.items()))


class _DryRun(Exception):
    """Ends the transaction without doing anything."""


@click.group()
def incident() -> None:
    """Incidents: open, close, list, show, halt, resume."""


@incident.command(name="open")
@click.argument("name")
@query_option
@click.option("--url", default="", help="Where subscribers can read about it (ARI's explanationURL).")
@click.option("--comment", default="", help="What is wrong, for those who ask later.")
@yes_option
@admin_command
async def open_incident(context: AdminContext, name: str, query: str | None, url: str, comment: str, yes: bool
                        ) -> ExitCode:
    """Open an incident: from now on the subscribers of its certificates are told to renew. Nothing is revoked."""
    selection = parse_selection(query or "")
    async with context.connection() as connection:
        found = await opened(connection, context, name, selection, comment=comment, url=url, really=yes)
    _show(context, name, found, {"opened": yes})
    if not yes:
        raise CommandError("nothing was done: say --yes to open the incident", ExitCode.REFUSED)
    return ExitCode.OK


@incident.command()
@click.argument("name")
@yes_option
@admin_command
async def close(context: AdminContext, name: str, yes: bool) -> ExitCode:
    """Close an incident: renewal windows are as usual again. What is being revoked goes on."""
    async with context.connection() as connection:
        found = await require_incident(connection, name)
        if found.closed_at is not None:
            raise CommandError(f"incident {name} is closed since {moment(found.closed_at)}", ExitCode.REFUSED)
        if not yes:
            raise CommandError(f"nothing was done: say --yes to close {name}", ExitCode.REFUSED)
        async with connection.transaction():
            await store.close_incident(connection, name, now=context.ambient.now())
            await block_store.act(connection, context.ambient, operator=operator_name(), act="close incident",
                                  subject=name, detail={})
    _tell(context, {"name": name, "closed": True}, f"closed {name}")
    return ExitCode.OK


@incident.command(name="list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="The newest so many.")
@admin_command
async def list_incidents(context: AdminContext, limit: int) -> ExitCode:
    """List incidents, newest first."""
    async with context.connection() as connection:
        found = await store.incidents(connection, None, limit)
    if context.output == "json":
        print_json({"incidents": [_document(one) for one in found]})
        return ExitCode.OK
    print_table([Column(title="name"), Column(title="opened", whole=True), Column(title="certificates", right=True),
                 Column(title="state"), Column(title="revocation")],
                [(one.name, moment(one.opened_at), f"{one.certificates:,}", "closed" if one.closed_at else "open",
                  revocation_state(one)) for one in found])
    return ExitCode.OK


@incident.command()
@click.argument("name")
@admin_command
async def show(context: AdminContext, name: str) -> ExitCode:
    """Show an incident, and how far its revocation has come."""
    async with context.connection() as connection:
        found = await require_incident(connection, name)
    if context.output == "json":
        print_json(_document(found))
        return ExitCode.OK
    now = context.ambient.now()
    print_facts([
        ("incident", found.name), ("query", found.query), ("certificates", f"{found.certificates:,}"),
        ("opened", f"{relative(found.opened_at, now)} by {found.operator}"),
        ("closed", relative(found.closed_at, now)), ("comment", found.comment or "-"),
        ("explanation", found.explanation_url or "-"), ("revocation", revocation_state(found)),
        ("decided about", "-" if found.examined is None else f"{found.examined:,}"),
        ("revoked by it", "-" if found.changed is None else f"{found.changed:,}")])
    return ExitCode.OK


@incident.command()
@click.argument("name")
@admin_command
async def halt(context: AdminContext, name: str) -> ExitCode:
    """Halt a mass revocation after the batch that it is in; what is revoked stays so."""
    return await _set_halted(context, name, halted=True)


@incident.command()
@click.argument("name")
@admin_command
async def resume(context: AdminContext, name: str) -> ExitCode:
    """Let a halted mass revocation go on where it stopped."""
    return await _set_halted(context, name, halted=False)


async def _set_halted(context: AdminContext, name: str, *, halted: bool) -> ExitCode:
    verb = "halt" if halted else "resume"
    async with context.connection() as connection:
        found = await require_incident(connection, name)
        async with connection.transaction():
            if not await store.halt(connection, name, halted=halted):
                raise CommandError(f"there is nothing to {verb}: the revocation of {name} is {revocation_state(found)}",
                                   ExitCode.REFUSED)
            await block_store.act(connection, context.ambient, operator=operator_name(), act=f"{verb} mass revocation",
                                  subject=name, detail={})
    _tell(context, {"name": name, "halted": halted}, f"{verb}ed" if halted else "resumed")
    return ExitCode.OK


async def opened(
    connection: Connection, context: AdminContext, name: str, selection: Selection, *, comment: str, url: str,
    really: bool, revocation: int | None = None,
) -> Forecast:
    """Opens an incident and orders its revocation for a reason, in one transaction; all of it is undone unless
    `really`, so that what is foretold is what would be done. Raises CommandError."""
    if not _NAME.fullmatch(name):
        raise CommandError(f"{name!r} is not a name for an incident: expected up to 64 of a-z, 0-9, '.' and '-'",
                           ExitCode.USAGE)
    operator, now = operator_name(), context.ambient.now()
    found = Forecast(issuers=())
    try:
        async with connection.transaction():
            count = await store.open_incident(connection, name, selection, operator=operator, comment=comment,
                                              explanation_url=url, now=now)
            if count is None:
                raise CommandError(f"there is an incident {name} already", ExitCode.REFUSED)
            if not count:
                raise CommandError("no unexpired certificate is meant by this query", ExitCode.NOT_FOUND)
            found = await foretold(connection, name)
            await block_store.act(connection, context.ambient, operator=operator, act="open incident", subject=name,
                                  detail={"query": selection.text, "certificates": count, "comment": comment})
            if revocation is not None:
                await ordered(connection, context, name, revocation, comment)
            if not really:
                raise _DryRun
    except _DryRun:
        pass
    return found


async def ordered(connection: Connection, context: AdminContext, name: str, reason: int, comment: str) -> None:
    """Orders the revocation of an incident's certificates. Raises CommandError when that was ordered before."""
    operator = operator_name()
    if not await store.order_revocation(connection, name, reason=reason, operator=operator, comment=comment,
                                        now=context.ambient.now()):
        raise CommandError(f"the certificates of {name} are being revoked, or were: see `chancery incident show "
                           f"{name}`", ExitCode.REFUSED)
    await block_store.act(connection, context.ambient, operator=operator, act="revoke incident", subject=name,
                          detail={"reason": REASON_NAMES[reason], "comment": comment})


async def foretold(connection: Connection, name: str) -> Forecast:
    """What the revocation of an incident's certificates costs."""
    census = await store.census(connection, name)
    return forecast(census, await store.crl_sizes(connection, [(part.issuer_id, part.shard) for part in census]))


async def require_incident(connection: Connection, name: str) -> Incident:
    """The incident. Raises CommandError when there is none."""
    found = await store.incidents(connection, name, 1)
    if not found:
        raise CommandError(f"there is no incident {name}", ExitCode.NOT_FOUND)
    return found[0]


def revocation_state(found: Incident) -> str:
    """'not ordered', 'going on', 'halted' or 'done'."""
    if found.reason is None:
        return "not ordered"
    if found.finished_at is not None:
        return f"done ({REASON_NAMES[found.reason]})"
    return f"{'halted' if found.halted else 'going on'} ({REASON_NAMES[found.reason]})"


def _document(found: Incident) -> dict[str, object]:
    return {
        "name": found.name, "query": found.query, "certificates": found.certificates,
        "opened_at": moment_json(found.opened_at), "closed_at": moment_json(found.closed_at),
        "operator": found.operator, "comment": found.comment, "explanation_url": found.explanation_url,
        "revocation": None if found.reason is None else {
            "reason": REASON_NAMES[found.reason], "requested_at": moment_json(found.requested_at),
            "halted": found.halted, "examined": found.examined, "revoked": found.changed,
            "finished_at": moment_json(found.finished_at)}}


def _show(context: AdminContext, name: str, found: Forecast, more: dict[str, object]) -> None:
    if context.output == "json":
        print_json({"incident": name, **more, "forecast": found.document()})
    else:
        print_facts([("incident", name), *found.facts()])


def _tell(context: AdminContext, document: dict[str, object], sentence: str) -> None:
    if context.output == "json":
        print_json(document)
    else:
        print_line(sentence)
