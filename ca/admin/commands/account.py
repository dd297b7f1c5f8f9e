"""`chancery account`: subscribers, what they did, what they may do beyond others, and how to end one."""

import click

from acme_api.protocol import account as protocol
from acme_api.protocol.account import account_status
from acme_api.protocol.challenge import DNS_PERSIST_01
from acme_api.protocol.directory import account_url
from ca.admin import account_store as store
from ca.admin.block_store import act
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.output import Column, moment, moment_json, print_facts, print_json, print_line, print_table, relative
from ca.admin.records import Account
from ca.admin.reference import parse_id
from ca.admin.revoke import operator_name
from ca.admin.terms_store import confirm_terms
from ca.pki.object_id import to_text
from ca.process.postgres import Connection


@click.group()
def account() -> None:
    """Accounts: list, show, revoke, allow, forbid, agree."""


def account_state(found: Account) -> str:
    """The status that the subscriber sees: valid, deactivated (by itself) or revoked (by an operator)."""
    return account_status(protocol.Account(
        id=found.id, thumbprint=found.thumbprint, jwk=found.jwk, contacts=found.contacts,
        terms_agreed_at=found.terms_agreed_at, deactivated_at=found.deactivated_at, revoked_at=found.revoked_at)).value


def account_document(found: Account) -> dict[str, object]:
    """The account as JSON."""
    return {
        "id": to_text(found.id), "state": account_state(found), "contacts": list(found.contacts),
        "thumbprint_sha256": found.thumbprint.hex(), "created_at": moment_json(found.created_at),
        "terms_agreed_at": moment_json(found.terms_agreed_at), "deactivated_at": moment_json(found.deactivated_at),
        "revoked_at": moment_json(found.revoked_at), "eab_kid": found.eab_kid,
        "dns_persist_allowed_at": moment_json(found.dns_persist_allowed_at),
    }


async def find_account(connection: Connection, account_id: bytes) -> Account:
    """The account that is meant. Raises CommandError when there is none."""
    found = await store.account(connection, account_id)
    if found is None:
        raise CommandError(f"there is no account {to_text(account_id)}", ExitCode.NOT_FOUND)
    return found


@account.command(name="list")
@click.option("--contact", default="", help="Only accounts with this text in a contact.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Show the newest so many.")
@admin_command
async def list_accounts(context: AdminContext, contact: str, limit: int) -> ExitCode:
    """List accounts, newest first."""
    async with context.connection() as connection:
        found = await store.accounts(connection, contact=contact, limit=limit + 1)
    shown = found[:limit]
    if context.output == "json":
        print_json({"accounts": [account_document(one) for one in shown], "truncated": len(found) > limit})
        return ExitCode.OK
    print_table(
        [Column(title="id", whole=True), Column(title="state"), Column(title="created", whole=True),
         Column(title="contacts")],
        [(to_text(one.id), account_state(one), f"{one.created_at:%Y-%m-%d}", "\n".join(one.contacts) or "-")
         for one in shown])
    if len(found) > limit:
        click.echo(f"chancery: there are more than these {limit}: see --limit", err=True)
    return ExitCode.OK


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@admin_command
async def show(context: AdminContext, account_id: str) -> ExitCode:
    """Show one account by its URL or id, with how much it did."""
    now = context.ambient.now()
    wanted = parse_id(account_id, of="account")
    async with context.connection() as connection:
        found = await find_account(connection, wanted)
        activity = await store.activity(connection, found.id)
    base = context.settings.acme.base_url
    if context.output == "json":
        print_json(account_document(found) | {
            "url": account_url(base, found.id), "jwk": found.jwk,
            "orders": activity.orders, "certificates": activity.certificates,
            "latest_orders": [to_text(order_id) for order_id in activity.latest_order_ids],
            "key_changes": [{"changed_at": moment_json(changed_at), "old_thumbprint_sha256": old.hex(),
                             "new_thumbprint_sha256": new.hex()} for changed_at, old, new in activity.key_changes]})
        return ExitCode.OK
    print_facts([
        ("account", account_url(base, found.id)),
        ("state", account_state(found)),
        ("contacts", "\n".join(found.contacts) or "-"),
        ("created", relative(found.created_at, now)),
        ("terms agreed", moment(found.terms_agreed_at)),
        ("deactivated", moment(found.deactivated_at)),
        ("revoked", moment(found.revoked_at)),
        ("allowed", "-" if found.dns_persist_allowed_at is None
         else f"{DNS_PERSIST_01} since {moment(found.dns_persist_allowed_at)}"),
        ("external account", found.eab_kid or "-"),
        ("key", f"SHA-256 thumbprint {found.thumbprint.hex()}"),
        ("key changes", "\n".join(moment(changed_at) for changed_at, _, _ in activity.key_changes) or "none"),
        ("orders", f"{activity.orders:,}"),
        ("latest orders", "\n".join(to_text(order_id) for order_id in activity.latest_order_ids) or "-"),
        ("certificates", f"{activity.certificates:,}"),
    ])
    return ExitCode.OK


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@yes_option
@admin_command
async def revoke(context: AdminContext, account_id: str, yes: bool) -> ExitCode:
    """End an account for good: it can order nothing any more. Its certificates stay valid; see `cert revoke`."""
    wanted = parse_id(account_id, of="account")
    async with context.connection() as connection:
        found = await find_account(connection, wanted)
        text = to_text(found.id)
        if found.revoked_at is not None:
            raise CommandError(f"account {text} is revoked since {moment(found.revoked_at)}", ExitCode.REFUSED)
        if yes:
            async with connection.transaction():
                await store.revoke_account(connection, found.id, context.ambient.now())
                await act(connection, context.ambient, operator=operator_name(), act="revoke account", subject=text,
                          detail={})
        activity = await store.activity(connection, found.id)
    if context.output == "json":
        print_json({"id": text, "revoked": yes, "certificates": activity.certificates})
    else:
        contacts = f" ({', '.join(found.contacts)})" if found.contacts else ""
        print_line(f"{'revoked' if yes else 'would revoke'} account {text}{contacts}; its {activity.certificates:,} "
                   "certificates stay as they are")
    if not yes:
        raise CommandError("nothing was done: say --yes to revoke it", ExitCode.REFUSED)
    return ExitCode.OK


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.option("--comment", default="", help="How it is known, for those who ask later.")
@admin_command
async def agree(context: AdminContext, account_id: str, comment: str) -> ExitCode:
    """Record that a subscriber has agreed to the terms of service as they are now (see acme.terms_agreed_since)."""
    wanted = parse_id(account_id, of="account")
    now = context.ambient.now()
    async with context.connection() as connection:
        found = await find_account(connection, wanted)
        async with connection.transaction():
            await confirm_terms(connection, found.id, now)
            await act(connection, context.ambient, operator=operator_name(), act="agree to terms",
                      subject=to_text(found.id), detail={"terms": context.settings.acme.terms_of_service,
                                                         "comment": comment})
    if context.output == "json":
        print_json({"id": to_text(found.id), "terms_agreed_at": moment_json(now)})
    else:
        print_line(f"account {to_text(found.id)} has agreed to the terms of service at {moment(now)}")
    return ExitCode.OK


_method_argument = click.argument("method", metavar="METHOD", type=click.Choice([DNS_PERSIST_01]))


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@_method_argument
@admin_command
async def allow(context: AdminContext, account_id: str, method: str) -> ExitCode:
    """Let an account use a challenge that is not offered to everybody: dns-persist-01."""
    return await _set_permission(context, account_id, method, allowed=True)


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@_method_argument
@admin_command
async def forbid(context: AdminContext, account_id: str, method: str) -> ExitCode:
    """Take such a permission back: what the account validated so is not believed any more."""
    return await _set_permission(context, account_id, method, allowed=False)


async def _set_permission(context: AdminContext, account_id: str, method: str, *, allowed: bool) -> ExitCode:
    """Idempotent: an account that has the permission keeps the moment when it got it."""
    wanted = parse_id(account_id, of="account")
    async with context.connection() as connection:
        found = await find_account(connection, wanted)
        if allowed != (found.dns_persist_allowed_at is not None):
            await store.set_dns_persist(connection, found.id, context.ambient.now() if allowed else None)
    if context.output == "json":
        print_json({"id": to_text(found.id), "method": method, "allowed": allowed})
    else:
        print_line(f"account {to_text(found.id)} {'may' if allowed else 'may not'} use {method}")
    return ExitCode.OK
