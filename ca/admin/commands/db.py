"""`chancery db`: the tables, their partitions and their upkeep."""

import click

from ca.admin import migrate as migrations
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.maintenance import maintain as run_maintenance
from ca.admin.output import Column, print_json, print_line, print_table, size
from ca.admin.upkeep_store import partitions as partitions_of


@click.group()
def db() -> None:
    """The database: migrations, partitions, upkeep."""


@db.command()
@admin_command
async def migrate(context: AdminContext) -> ExitCode:
    """Bring the database to this version: roles, tables, grants. Safe to run again."""
    result = await migrations.migrate(context.settings.database, context.ambient)
    if context.output == "json":
        print_json({"applied": list(result.applied), "grants_changed": result.grants_changed})
        return ExitCode.OK
    for name in result.applied:
        print_line(f"applied {name}")
    if result.grants_changed:
        print_line("set the grants of every role")
    if not result.applied and not result.grants_changed:
        print_line("ok: nothing to do")
    return ExitCode.OK


@db.command()
@admin_command
async def partitions(context: AdminContext) -> ExitCode:
    """List every partition with its rows (an estimate) and size."""
    async with context.connection() as connection:
        found = await partitions_of(connection)
    if context.output == "json":
        print_json({"partitions": [
            {"table": partition.table, "name": partition.name, "rows": partition.rows,
             "size_bytes": partition.size_bytes} for partition in found]})
        return ExitCode.OK
    print_table(
        [Column(title="table"), Column(title="partition", whole=True), Column(title="rows", right=True),
         Column(title="size", right=True)],
        [(partition.table, partition.name, f"{partition.rows:,}", size(partition.size_bytes)) for partition in found])
    return ExitCode.OK


@db.command()
@yes_option
@admin_command
async def maintain(context: AdminContext, yes: bool) -> ExitCode:
    """Make the partitions that come next, drop those that have expired, prune old CRLs.

    `chancery run admin` does this every hour. The tables' keeping times decide what is dropped.
    """
    async with context.connection() as connection:
        trial = connection.transaction()
        await trial.start()
        result = await run_maintenance(connection, now=context.ambient.now())
        await (trial.commit() if yes else trial.rollback())
    if context.output == "json":
        print_json({"done": yes, "created": result.created, "dropped": list(result.dropped),
                    "crls_pruned": result.crls_pruned})
    else:
        verbs = ("made", "dropped", "pruned") if yes else ("to make", "to drop", "to prune")
        print_line(f"{'ok: ' if yes else ''}{result.created} partitions {verbs[0]}, {len(result.dropped)} {verbs[1]}, "
                   f"{result.crls_pruned} CRLs {verbs[2]}")
        for name in result.dropped:
            print_line(f"{verbs[1]}: {name}")
    if yes:
        return ExitCode.OK
    raise CommandError("nothing was done: say --yes to do it", ExitCode.REFUSED)
