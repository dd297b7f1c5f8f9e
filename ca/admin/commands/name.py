"""`chancery name`: names that are never certified, whoever controls them."""

import click

from ca.admin import block_store as store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.output import Column, moment, moment_json, print_json, print_line, print_table
from ca.admin.reference import parse_name
from ca.admin.revoke import operator_name


@click.group()
def name() -> None:
    """Names that are never certified: block, unblock, list."""


@name.command()
@click.argument("blocked", metavar="NAME")
@click.option("--exact", is_flag=True, help="The name and its wildcard alone, not every name below it.")
@click.option("--comment", default="", help="Why, for those who ask later.")
@yes_option
@admin_command
async def block(context: AdminContext, blocked: str, exact: bool, comment: str, yes: bool) -> ExitCode:
    """Refuse NAME, and everything below it, to everybody from now on. Its certificates stay: see `chancery revoke`."""
    wanted = parse_name(blocked).removeprefix("*.")
    scope = "and its wildcard" if exact else "and every name below it"
    async with context.connection() as connection:
        if await store.blocked_names(connection, [wanted], 1):
            raise CommandError(f"{wanted} is blocked already: unblock it first to change that", ExitCode.REFUSED)
        if not yes:
            print_line(f"would block {wanted} {scope}")
            raise CommandError("nothing was done: say --yes to block it", ExitCode.REFUSED)
        operator = operator_name()
        async with connection.transaction():
            if not await store.block_name(connection, wanted, and_below=not exact, operator=operator, comment=comment,
                                          now=context.ambient.now()):
                raise CommandError(f"{wanted} has been blocked by somebody else meanwhile", ExitCode.REFUSED)
            await store.act(connection, context.ambient, operator=operator, act="block name", subject=wanted,
                            detail={"and_below": not exact, "comment": comment})
    _tell(context, {"name": wanted, "blocked": True, "and_below": not exact}, f"blocked {wanted} {scope}")
    return ExitCode.OK


@name.command()
@click.argument("blocked", metavar="NAME")
@click.option("--comment", default="", help="Why, for those who ask later.")
@yes_option
@admin_command
async def unblock(context: AdminContext, blocked: str, comment: str, yes: bool) -> ExitCode:
    """Certify NAME again for those who control it."""
    wanted = parse_name(blocked).removeprefix("*.")
    async with context.connection() as connection:
        if not await store.blocked_names(connection, [wanted], 1):
            raise CommandError(f"{wanted} is not blocked by itself", ExitCode.NOT_FOUND)
        if not yes:
            print_line(f"would unblock {wanted}")
            raise CommandError("nothing was done: say --yes to unblock it", ExitCode.REFUSED)
        async with connection.transaction():
            await store.unblock_name(connection, wanted)
            await store.act(connection, context.ambient, operator=operator_name(), act="unblock name", subject=wanted,
                            detail={"comment": comment})
    _tell(context, {"name": wanted, "blocked": False}, f"unblocked {wanted}")
    return ExitCode.OK


@name.command(name="list")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="Show so many.")
@admin_command
async def list_names(context: AdminContext, limit: int) -> ExitCode:
    """List blocked names."""
    async with context.connection() as connection:
        found = await store.blocked_names(connection, None, limit + 1)
    shown = found[:limit]
    if context.output == "json":
        print_json({"names": [{"name": one.name, "and_below": one.and_below, "blocked_at": moment_json(one.blocked_at),
                               "operator": one.operator, "comment": one.comment} for one in shown],
                    "truncated": len(found) > limit})
        return ExitCode.OK
    print_table([Column(title="name"), Column(title="blocks"), Column(title="since", whole=True), Column(title="by"),
                 Column(title="comment")],
                [(one.name, "it and all below" if one.and_below else "it alone", moment(one.blocked_at), one.operator,
                  one.comment or "-") for one in shown])
    if len(found) > limit:
        click.echo(f"chancery: there are more than these {limit}: see --limit", err=True)
    return ExitCode.OK


def _tell(context: AdminContext, document: dict[str, object], sentence: str) -> None:
    if context.output == "json":
        print_json(document)
    else:
        print_line(sentence)
