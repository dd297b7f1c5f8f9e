"""`chancery eab`: credentials for external account binding (RFC 8555 7.3.4), made, listed, ended."""

from datetime import timedelta

import click

from acme_api.protocol.directory import directory_url
from acme_api.protocol.external_account import KID_BYTES, MAC_KEY_BYTES, key_text, make_kid
from ca.admin import eab_store as store
from ca.admin.block_store import act
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.eab_store import Credential
from ca.admin.output import Column, moment, moment_json, print_facts, print_json, print_line, print_table, relative
from ca.admin.revoke import operator_name
from ca.pki.name_scope import parse_scope


@click.group()
def eab() -> None:
    """External accounts: create, list, revoke the credentials that new accounts need."""


@eab.command()
@click.option("--multi-use", is_flag=True, help="Any number of accounts.  [default: one account]")
@click.option("--expires-days", type=click.IntRange(1, 3_650),
              help="New accounts for so many days.  [default: for ever]")
@click.option("--name", "names", multiple=True, metavar="NAME",
              help="Accounts may order this name and those below it, or these addresses (10.0.0.0/8); may be repeated."
              "  [default: everything that this CA certifies]")
@click.option("--comment", default="", help="For whom, for those who ask later.")
@admin_command
async def create(context: AdminContext, multi_use: bool, expires_days: int | None, names: tuple[str, ...],
                 comment: str) -> ExitCode:
    """Make a credential and show it, once: its HMAC key cannot be read again."""
    scope = sorted({_scope(name) for name in names})
    now = context.ambient.now()
    kid = make_kid(context.ambient.random_bytes(KID_BYTES))
    shown_key = None
    while shown_key is None:
        mac_key = context.ambient.random_bytes(MAC_KEY_BYTES)
        shown_key = key_text(mac_key)
    expires_at = None if expires_days is None else now + timedelta(days=expires_days)
    operator = operator_name()
    async with context.connection() as connection, connection.transaction():
        await store.insert_credential(connection, kid=kid, mac_key=mac_key, now=now, operator=operator,
                                      comment=comment, single_use=not multi_use, expires_at=expires_at,
                                      allowed_names=scope)
        await act(connection, context.ambient, operator=operator, act="create external account", subject=kid,
                  detail={"single_use": not multi_use, "expires_at": moment_json(expires_at), "allowed_names": scope,
                          "comment": comment})
    acme = context.settings.acme
    if context.output == "json":
        print_json({"kid": kid, "hmac_key": shown_key, "single_use": not multi_use,
                    "expires_at": moment_json(expires_at), "allowed_names": scope, "comment": comment,
                    "required": acme.external_account_required, "directory": directory_url(acme.base_url)})
        return ExitCode.OK
    print_facts([
        ("key identifier", kid), ("HMAC key", shown_key),
        ("for", "any number of accounts" if multi_use else "one account"),
        ("until", "it is revoked" if expires_at is None else relative(expires_at, now)),
        ("names", "\n".join(scope) or "all that this CA certifies")])
    click.echo(f"\ncertbot register --server {directory_url(acme.base_url)} \\\n    --eab-kid {kid} \\\n"
               f"    --eab-hmac-key {shown_key}")
    if not acme.external_account_required:
        click.echo("chancery: acme.external_account_required is false: bindings are ignored, and accounts need none",
                   err=True)
    return ExitCode.OK


def _scope(name: str) -> str:
    try:
        return parse_scope(name)
    except ValueError as fault:
        raise CommandError(f"--name {name}: {fault}", ExitCode.USAGE) from fault


@eab.command(name="list")
@click.option("--all", "every", is_flag=True, help="Also those that are used, expired or revoked.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Show the newest so many.")
@admin_command
async def list_credentials(context: AdminContext, every: bool, limit: int) -> ExitCode:
    """List credentials, newest first, without their keys."""
    now = context.ambient.now()
    async with context.connection() as connection:
        found = await store.credentials(connection, every=every, now=now, limit=limit + 1)
    shown = found[:limit]
    if context.output == "json":
        print_json({"credentials": [{
            "kid": one.kid, "state": one.state(now), "single_use": one.single_use, "accounts": one.accounts,
            "allowed_names": list(one.allowed_names), "comment": one.comment, "created_by": one.created_by,
            "created_at": moment_json(one.created_at), "expires_at": moment_json(one.expires_at),
            "revoked_at": moment_json(one.revoked_at)} for one in shown], "truncated": len(found) > limit})
        return ExitCode.OK
    print_table(
        [Column(title="key identifier", whole=True), Column(title="state", whole=True), Column(title="use"),
         Column(title="expires", whole=True), Column(title="names"), Column(title="comment")],
        [(one.kid, one.state(now), _use(one), "never" if one.expires_at is None else f"{one.expires_at:%Y-%m-%d}",
          "\n".join(one.allowed_names) or "all", one.comment or "-") for one in shown])
    if len(found) > limit:
        click.echo(f"chancery: there are more than these {limit}: see --limit", err=True)
    return ExitCode.OK


def _use(one: Credential) -> str:
    if one.single_use:
        return "single"
    return f"{one.accounts} account{'' if one.accounts == 1 else 's'}"


@eab.command()
@click.argument("kid")
@click.option("--with-accounts", is_flag=True, help="Also revoke the accounts that were made with it.")
@yes_option
@admin_command
async def revoke(context: AdminContext, kid: str, with_accounts: bool, yes: bool) -> ExitCode:
    """End a credential for good. Accounts that were made with it stay, unless --with-accounts."""
    now = context.ambient.now()
    async with context.connection() as connection:
        found = await store.credential(connection, kid)
        if found is None:
            raise CommandError(f"there is no credential {kid}", ExitCode.NOT_FOUND)
        accounts = await store.open_accounts(connection, kid)
        if found.revoked_at is not None and not (with_accounts and accounts):
            raise CommandError(f"credential {kid} is revoked since {moment(found.revoked_at)}", ExitCode.REFUSED)
        if yes:
            async with connection.transaction():
                await store.revoke_credential(connection, kid, with_accounts=with_accounts, now=now)
                await act(connection, context.ambient, operator=operator_name(), act="revoke external account",
                          subject=kid, detail={"with_accounts": with_accounts})
    if context.output == "json":
        print_json({"kid": kid, "revoked": yes, "open_accounts": accounts, "accounts_revoked": yes and with_accounts})
    else:
        comment = f" ({found.comment})" if found.comment else ""
        fate = "revoked with it" if with_accounts else "left open"
        print_line(f"{'revoked' if yes else 'would revoke'} credential {kid}{comment}; accounts {fate}: {accounts}")
    if not yes:
        raise CommandError("nothing was done: say --yes to revoke it", ExitCode.REFUSED)
    return ExitCode.OK
