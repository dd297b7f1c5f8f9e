"""`chancery profile`: the profiles of certificates, what each means, what a request would become, kill switches."""

from pathlib import Path

import click

from ca.admin import block_store
from ca.admin import issuer_store as store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.output import Column, moment, moment_json, print_facts, print_json, print_line, print_table
from ca.admin.profile_view import allowed, difference, facts, newest_issuer, request_der, trial, trial_facts
from ca.admin.revoke import operator_name
from ca.pki.csr import Csr, CsrError, parse_csr
from ca.pki.identifier import IdentifierError, NamePolicy, require_permitted
from ca.pki.profile import PROFILES, require_profile
from ca.pki.refusal import Refusal
from ca.process.settings import Settings


@click.group()
def profile() -> None:
    """Profiles: list, show, diff, test, disable, enable."""


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
@admin_command
async def show(context: AdminContext, name: str) -> ExitCode:
    """Show what a profile says about its certificates, now and from the dates on that are to come."""
    found = facts(PROFILES[name], now=context.ambient.now())
    codes = allowed(PROFILES[name], public=context.settings.policy == "public")
    if context.output == "json":
        print_json({**dict(found), "allowed": dict(codes)})
    else:
        print_facts(found)
        for code, reason in codes:
            print_line(f"\nlint allows {code}:\n  {reason}")
    return ExitCode.OK


@profile.command()
@click.argument("one", type=click.Choice([*PROFILES]))
@click.argument("other", type=click.Choice([*PROFILES]))
@admin_command
async def diff(context: AdminContext, one: str, other: str) -> ExitCode:
    """Show where two profiles differ."""
    now, public = context.ambient.now(), context.settings.policy == "public"
    left, right = ([*facts(PROFILES[name], now=now),
                    *((f"lint allows {code}", reason) for code, reason in allowed(PROFILES[name], public=public))]
                   for name in (one, other))
    found = difference(left, right)
    if context.output == "json":
        print_json({"differences": [{"what": what, one: first, other: second} for what, first, second in found]})
    elif not found:
        print_line("there is no difference")
    else:
        print_table([Column(title="what"), Column(title=one), Column(title=other)], found)
    return ExitCode.OK


@profile.command()
@click.argument("csr_file", metavar="CSR", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--profile", "name", type=click.Choice([*PROFILES]), help="[default: the configured one]")
@admin_command
async def test(context: AdminContext, csr_file: Path, name: str | None) -> ExitCode:
    """Say what a certification request (PEM or DER) would become, and what lint would say. Nothing is issued.

    Exits with 4 when the CA would refuse it. Control of the names is not looked at.
    """
    settings, now = context.settings, context.ambient.now()
    chosen = PROFILES[name or settings.ca.default_profile]
    public = settings.policy == "public"
    csr = _read_csr(csr_file)
    identifiers = tuple(sorted(csr.names))
    try:
        _require_names(csr, settings)
        require_profile(chosen.name, identifiers)
        async with context.connection() as connection:
            if await block_store.blocked_key(connection, csr.key.sha256) is not None:
                raise CommandError("it would be refused: the key is blocked", ExitCode.REFUSED)
            issuer = newest_issuer(await store.issuers(connection, now=now), csr.key_type)
        if issuer is None:
            raise CommandError(f"it would be refused: no issuer for {csr.key_type.upper()} keys is active",
                               ExitCode.REFUSED)
        made = trial(chosen, csr, identifiers, issuer, settings.ca, now=now, precertificate=settings.ct_enabled,
                     random16=context.ambient.random_bytes(16), public=public)
    except Refusal as refusal:
        raise CommandError(f"it would be refused: {refusal.detail}", ExitCode.REFUSED) from refusal
    findings = [(finding, made.allowed.get(finding.code)) for finding in made.findings]
    if context.output == "json":
        print_json({"profile": chosen.name, "accepted": not made.objections, **dict(trial_facts(made)),
                    "findings": [{"severity": finding.severity.name, "code": finding.code, "detail": finding.detail,
                                  "allowed": reason} for finding, reason in findings]})
    else:
        print_facts([("profile", chosen.name), *trial_facts(made)])
        for finding, reason in findings:
            print_line(f"{finding} (allowed: {reason})" if reason else str(finding))
        print_line("invalid: it would be refused" if made.objections else
                   "ok: it would be signed, once its names are validated")
    return ExitCode.REFUSED if made.objections else ExitCode.OK


def _read_csr(path: Path) -> Csr:
    try:
        return parse_csr(request_der(path.read_bytes()))
    except CsrError as fault:
        raise CommandError(f"it would be refused: {fault.detail}", ExitCode.REFUSED) from fault
    except OSError as fault:
        raise CommandError(f"{path} cannot be read: {fault.strerror}") from fault
    except ValueError as fault:
        raise CommandError(f"{path} holds no certification request in PEM or DER", ExitCode.USAGE) from fault


def _require_names(csr: Csr, settings: Settings) -> None:
    """The name policy of the configuration. Raises CommandError."""
    names = NamePolicy(internal_suffixes=tuple(settings.ca.internal_suffixes), public=settings.policy == "public",
                       internal_prefixes=tuple(settings.va.allowed_prefixes),
                       allow_loopback=settings.va.allow_loopback)
    for identifier in sorted(csr.names):
        try:
            require_permitted(identifier, names)
        except IdentifierError as fault:
            raise CommandError(f"it would be refused: {fault.detail}", ExitCode.REFUSED) from fault


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
