"""`chancery profile`: the profiles of certificates, and their kill switches."""

import click

from ca.admin import block_store
from ca.admin import issuer_store as store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.output import Column, moment, moment_json, print_json, print_line, print_table
from ca.admin.revoke import operator_name
from ca.pki.profile import PROFILES


@click.group()
def profile() -> None:
    """Profiles: list, disable, enable."""


@profile.command(name="list")
@admin_command
async def list_profiles(context: AdminContext) -> ExitCode:
    """List profiles with their state."""
    async with context.connection() as connection:
        disabled = {one.profile: one for one in await store.disabled_profiles(connection)}
    offered = context.settings.ca.profiles
    states = {name: "disabled" if name in disabled else "active" if name in offered else "not offered"
              for name in PROFILES}
    if context.output == "json":
        print_json({"profiles": [
            {"name": name, "state": states[name], "description": one.description,
             "disabled_at": moment_json(disabled[name].disabled_at) if name in disabled else None}
            for name, one in PROFILES.items()]})
        return ExitCode.OK
    print_table([Column(title="name", whole=True), Column(title="state", whole=True), Column(title="what it is")],
                [(name, states[name], one.description + (
                    f"\n(since {moment(disabled[name].disabled_at)} by {disabled[name].operator})"
                    if name in disabled else "")) for name, one in PROFILES.items()])
    return ExitCode.OK


@profile.command()
@click.argument("name", type=click.Choice([*PROFILES]))
@click.option("--comment", default="", help="Why, for those who ask later.")
@yes_option
@admin_command
async def disable(context: AdminContext, name: str, comment: str, yes: bool) -> ExitCode:
    """The kill switch: within a second no certificate of this profile is begun, whatever was ordered."""
    async with context.connection() as connection:
        if any(one.profile == name for one in await store.disabled_profiles(connection)):
            raise CommandError(f"profile {name} is disabled already", ExitCode.REFUSED)
        if not yes:
            print_line(f"would disable profile {name}")
            raise CommandError("nothing was done: say --yes to disable it", ExitCode.REFUSED)
        async with connection.transaction():
            await store.disable_profile(connection, name, operator=operator_name(), comment=comment,
                                        now=context.ambient.now())
            await block_store.act(connection, context.ambient, operator=operator_name(), act="disable profile",
                                  subject=name, detail={"comment": comment})
    _tell(context, {"profile": name, "state": "disabled"}, f"profile {name} is disabled")
    return ExitCode.OK


@profile.command()
@click.argument("name", type=click.Choice([*PROFILES]))
@yes_option
@admin_command
async def enable(context: AdminContext, name: str, yes: bool) -> ExitCode:
    """Take the kill switch back."""
    async with context.connection() as connection, connection.transaction():
        if not await store.enable_profile(connection, name):
            raise CommandError(f"profile {name} is not disabled", ExitCode.REFUSED)
        if not yes:
            print_line(f"would enable profile {name}")
            raise CommandError("nothing was done: say --yes to enable it", ExitCode.REFUSED)
        await block_store.act(connection, context.ambient, operator=operator_name(), act="enable profile",
                              subject=name, detail={})
    _tell(context, {"profile": name, "state": "enabled"}, f"profile {name} is enabled")
    return ExitCode.OK


def _tell(context: AdminContext, document: dict[str, object], sentence: str) -> None:
    if context.output == "json":
        print_json(document)
    else:
        print_line(sentence)
