"""`chancery issuer`: issuing CAs through their life (staged, active, retired), their kill switch, their chains.

Roll over: record the new issuer's ceremony (it is staged), wait until the CA has published its CRLs, activate it: new
certificates come from it at once. Retire the old one some days later; its CRLs and OCSP responses go on to its end.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime

import click
from cryptography import x509
from cryptography.x509.oid import NameOID

from ca.admin import block_store
from ca.admin import issuer_store as store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.issuer_store import StoredIssuer
from ca.admin.output import Column, day, moment, moment_json, print_json, print_line, print_table
from ca.admin.revoke import operator_name
from ca.pki.profile import PROFILES
from ca.process.postgres import Connection

_comment_option = click.option("--comment", default="", help="Why, for those who ask later.")


@click.group()
def issuer() -> None:
    """Issuers: list, activate, stage, retire, disable, enable, chains, prefer."""


@issuer.command(name="list")
@admin_command
async def list_issuers(context: AdminContext) -> ExitCode:
    """List issuers with their state."""
    now = context.ambient.now()
    async with context.connection() as connection:
        found = await store.issuers(connection, now=now)
    if context.output == "json":
        print_json({"issuers": [{
            "id": one.id, "name": one.name, "key_type": one.key_type, "state": one.state, "crl_shards": one.crl_shards,
            "crls_in_force": one.crls, "chains": one.chains, "not_after": moment_json(_not_after(one)),
            "disabled_at": moment_json(one.disabled_at), "retired_at": moment_json(one.retired_at)} for one in found]})
        return ExitCode.OK
    print_table([Column(title="name"), Column(title="state", whole=True), Column(title="key"),
                 Column(title="CRLs", right=True), Column(title="chains", right=True), Column(title="not after")],
                [(one.name, one.state, one.key_type.upper(), f"{one.crls}/{one.crl_shards}", str(one.chains),
                  day(_not_after(one), now)) for one in found])
    return ExitCode.OK


@issuer.command()
@click.argument("name")
@_comment_option
@yes_option
@admin_command
async def activate(context: AdminContext, name: str, comment: str, yes: bool) -> ExitCode:
    """Put an issuer to work. Of several for the same kind of key the newest certifies."""
    async def act(connection: Connection, found: StoredIssuer) -> None:
        if found.state != "staged":
            raise CommandError(f"issuer {name} is {found.state}, not staged", ExitCode.REFUSED)
        if found.crls < found.crl_shards:
            raise CommandError(f"{found.crls} of {found.crl_shards} CRLs of {name} are published: the CA has not taken "
                               "the issuer up (is its key in the token?)", ExitCode.REFUSED)
        if _not_after(found) <= context.ambient.now():
            raise CommandError(f"the certificate of {name} has ended", ExitCode.REFUSED)
        await store.set_active(connection, found.id, active=True)

    return await _change(context, name, "activate", comment, yes, act)


@issuer.command()
@click.argument("name")
@_comment_option
@yes_option
@admin_command
async def stage(context: AdminContext, name: str, comment: str, yes: bool) -> ExitCode:
    """Take an active issuer back to where it certifies nothing yet."""
    async def act(connection: Connection, found: StoredIssuer) -> None:
        if found.state != "active":
            raise CommandError(f"issuer {name} is {found.state}, not active", ExitCode.REFUSED)
        await _require_another(connection, context, found)
        await store.set_active(connection, found.id, active=False)

    return await _change(context, name, "stage", comment, yes, act)


@issuer.command()
@click.argument("name")
@_comment_option
@yes_option
@admin_command
async def retire(context: AdminContext, name: str, comment: str, yes: bool) -> ExitCode:
    """End an issuer's work for good. What it has certified stays, with CRLs and OCSP, until all of it has expired."""
    async def act(connection: Connection, found: StoredIssuer) -> None:
        if found.state == "retired":
            raise CommandError(f"issuer {name} is retired since {moment(found.retired_at)}", ExitCode.REFUSED)
        await _require_another(connection, context, found)
        await store.retire(connection, found.id, now=context.ambient.now())

    return await _change(context, name, "retire", comment, yes, act)


@issuer.command()
@click.argument("name")
@_comment_option
@yes_option
@admin_command
async def disable(context: AdminContext, name: str, comment: str, yes: bool) -> ExitCode:
    """The kill switch: within a second this issuer certifies nothing, also what has been begun. Its CRLs and OCSP
    responses go on."""
    async def act(connection: Connection, found: StoredIssuer) -> None:
        if found.disabled_at is not None:
            raise CommandError(f"issuer {name} is disabled since {moment(found.disabled_at)}", ExitCode.REFUSED)
        await store.set_disabled(connection, found.id, context.ambient.now())

    return await _change(context, name, "disable", comment, yes, act)


@issuer.command()
@click.argument("name")
@_comment_option
@yes_option
@admin_command
async def enable(context: AdminContext, name: str, comment: str, yes: bool) -> ExitCode:
    """Take the kill switch back; what had been begun is finished."""
    async def act(connection: Connection, found: StoredIssuer) -> None:
        if found.disabled_at is None:
            raise CommandError(f"issuer {name} is not disabled", ExitCode.REFUSED)
        await store.set_disabled(connection, found.id, None)

    return await _change(context, name, "enable", comment, yes, act)


@issuer.command()
@click.argument("name")
@admin_command
async def chains(context: AdminContext, name: str) -> ExitCode:
    """Show the chains that are offered for an issuer's certificates, and which one comes first for a profile."""
    async with context.connection() as connection:
        found = await _find(connection, context, name)
        offered = await store.chains(connection, found.id)
        preferred = await store.preferences(connection, found.id)
    first_for = {position: [profile for profile in PROFILES if preferred.get(profile, 0) == position]
                 for position in offered}
    names = {position: [_issuer_of(der) for der in above] for position, above in offered.items()}
    if context.output == "json":
        print_json({"issuer": name, "chains": [
            {"position": position, "through": names[position], "first_for": first_for[position]}
            for position in offered]})
        return ExitCode.OK
    print_table([Column(title="position", right=True), Column(title="through"), Column(title="first for")],
                [(str(position), "\n".join(names[position]), ", ".join(first_for[position]) or "-")
                 for position in offered])
    return ExitCode.OK


@issuer.command()
@click.argument("name")
@click.option("--profile", type=click.Choice([*PROFILES]), required=True,
              help="Whose certificates.")
@click.option("--position", type=click.IntRange(0), required=True, help="Of the chain, as `chains` shows it.")
@admin_command
async def prefer(context: AdminContext, name: str, profile: str, position: int) -> ExitCode:
    """Say which chain comes first for certificates of a profile; the others are offered as alternates."""
    async with context.connection() as connection:
        found = await _find(connection, context, name)
        if position not in await store.chains(connection, found.id):
            raise CommandError(f"issuer {name} has no chain at position {position}", ExitCode.NOT_FOUND)
        async with connection.transaction():
            await store.prefer(connection, found.id, profile, position)
            await block_store.act(connection, context.ambient, operator=operator_name(), act="prefer chain",
                                  subject=name, detail={"profile": profile, "position": position})
    _tell(context, {"issuer": name, "profile": profile, "position": position},
          f"chain {position} of {name} comes first for profile {profile}")
    return ExitCode.OK


async def _change(context: AdminContext, name: str, verb: str, comment: str, yes: bool,
                  act: Callable[[Connection, StoredIssuer], Awaitable[None]]) -> ExitCode:
    """Does what `act` does, on record, in one transaction."""
    async with context.connection() as connection:
        found = await _find(connection, context, name)
        async with connection.transaction():
            await act(connection, found)
            await block_store.act(connection, context.ambient, operator=operator_name(), act=f"{verb} issuer",
                                  subject=name, detail={"comment": comment})
            if not yes:
                print_line(f"would {verb} issuer {name}")
                raise CommandError(f"nothing was done: say --yes to {verb} it", ExitCode.REFUSED)
        changed = await _find(connection, context, name)
    _tell(context, {"issuer": name, "state": changed.state}, f"issuer {name} is {changed.state}")
    return ExitCode.OK


async def _find(connection: Connection, context: AdminContext, name: str) -> StoredIssuer:
    found = {one.name: one for one in await store.issuers(connection, now=context.ambient.now())}
    if name not in found:
        raise CommandError(f"there is no issuer {name!r}: there are {', '.join(found) or 'none'}", ExitCode.NOT_FOUND)
    return found[name]


async def _require_another(connection: Connection, context: AdminContext, ending: StoredIssuer) -> None:
    """Raises CommandError when nobody would certify keys of this kind any more: disable is for that."""
    if ending.state != "active":
        return
    others = [one for one in await store.issuers(connection, now=context.ambient.now())
              if one.id != ending.id and one.state == "active" and one.key_type == ending.key_type]
    if not others:
        raise CommandError(f"{ending.name} is the only active issuer for {ending.key_type.upper()} keys: activate its "
                           "successor first, or use `issuer disable` in an emergency", ExitCode.REFUSED)


def _not_after(one: StoredIssuer) -> datetime:
    return x509.load_der_x509_certificate(one.certificate).not_valid_after_utc


def _issuer_of(certificate: bytes) -> str:
    content = x509.load_der_x509_certificate(certificate)
    subject, signer = (str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
                       for name in (content.subject, content.issuer))
    return f"{subject} by {signer}"


def _tell(context: AdminContext, document: dict[str, object], sentence: str) -> None:
    if context.output == "json":
        print_json(document)
    else:
        print_line(sentence)
