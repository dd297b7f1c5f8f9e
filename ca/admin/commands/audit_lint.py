"""`chancery audit lint` and `audit findings`: certificates that were issued, by the rules of today."""

from datetime import UTC, datetime

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ca.admin import block_store
from ca.admin import lint_store as store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command
from ca.admin.lint_store import Wanted
from ca.admin.output import Column, console, moment, moment_json, print_facts, print_json, print_line, print_table
from ca.admin.relint import Relinted, relint
from ca.admin.revoke import operator_name
from ca.admin.status_store import issuers
from ca.pki.profile import PROFILES

_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@click.command()
@click.option("--issuer", help="Those of one issuer alone, by its name.")
@click.option("--profile", type=click.Choice([*PROFILES]), help="Those of one profile alone.")
@click.option("--since", type=_TIME, help="Signed at or after this time (UTC).")
@click.option("--until", type=_TIME, help="Signed before this time (UTC).")
@click.option("--expired", is_flag=True, help="Expired ones, too.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes that lint; each takes a core, for about a thousand certificates a second.")
@admin_command
async def lint(context: AdminContext, issuer: str | None, profile: str | None, since: datetime | None,
               until: datetime | None, expired: bool, jobs: int) -> ExitCode:
    """Lint what was issued with the linters and rules of today, and keep what they find.

    `audit findings` lists it; `chancery revoke --query finding=CODE` revokes what has a finding. Exits with 5 when
    something was found. An interrupted run has kept what it found; give --since to go on.
    """
    now = context.ambient.now()
    wanted = Wanted(not_after=_EVER if expired else now, issuer=issuer, profile=profile, since=_utc(since),
                    until=_utc(until))
    async with context.connection() as connection:
        known = await issuers(connection)
        if issuer is not None and issuer not in {each.name for each in known}:
            raise CommandError(f"there is no issuer {issuer}", ExitCode.NOT_FOUND)
        await store.prune_findings(connection)
        total = await store.count_wanted(connection, wanted)
        terminal = console()
        terminal.stderr = True
        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                      console=terminal, transient=True) as bar:
            task = bar.add_task("linting", total=total)

            def show(done: Relinted) -> None:
                bar.update(task, completed=done.certificates, description=f"linting, {done.with_findings:,} found")

            done = await relint(connection, wanted, {each.id: each.certificate for each in known}, jobs=jobs,
                                ambient=context.ambient, public=context.settings.policy == "public", progress=show)
        async with connection.transaction():
            await block_store.act(
                connection, context.ambient, operator=operator_name(), act="lint certificates", subject=issuer or "all",
                detail={"certificates": done.certificates, "with_findings": done.with_findings,
                        "findings": dict(done.by_code), "profile": profile, "since": moment_json(wanted.since),
                        "until": moment_json(wanted.until)})
    _print(context, done)
    return ExitCode.DEGRADED if done.with_findings else ExitCode.OK


def _print(context: AdminContext, done: Relinted) -> None:
    if context.output == "json":
        print_json({"certificates": done.certificates, "with_findings": done.with_findings, "findings": [
            {"code": code, "certificates": count} for code, count in done.by_code.most_common()]})
        return
    if done.by_code:
        print_table([Column(title="finding"), Column(title="certificates", right=True)],
                    [(code, f"{count:,}") for code, count in done.by_code.most_common()])
        print_line("")
    print_facts([("looked at", f"{done.certificates:,} certificates"),
                 ("with findings", f"{done.with_findings:,}"),
                 *([("next", "chancery audit findings; chancery revoke --query finding=CODE --reason superseded")]
                   if done.with_findings else [])])


@click.command()
@admin_command
async def findings(context: AdminContext) -> ExitCode:
    """List what `audit lint` has found about unexpired certificates, by the finding's code."""
    async with context.connection() as connection:
        found = await store.findings(connection, now=context.ambient.now())
    if context.output == "json":
        print_json({"findings": [
            {"code": each.code, "severity": each.severity, "certificates": each.certificates, "revoked": each.revoked,
             "example": each.example.hex(), "detail": each.detail, "found_at": moment_json(each.found_at)}
            for each in found]})
        return ExitCode.OK
    if not found:
        print_line("no findings: run `chancery audit lint`, unless you have")
        return ExitCode.OK
    for each in found:
        print_facts([(each.severity.lower(), each.code),
                     ("certificates", f"{each.certificates:,}, of which {each.revoked:,} are revoked"),
                     ("newest", each.example.hex()), ("says", each.detail or "-"),
                     ("looked at", moment(each.found_at))])
        print_line("")
    return ExitCode.OK


def _utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.replace(tzinfo=UTC)
