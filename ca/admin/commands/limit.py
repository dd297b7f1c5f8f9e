"""`chancery limit`: which rate limits hold, who is near them, exceptions with an end, a way back for the paused."""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

import click

from acme_api.protocol.rate_limit import LimitName, Rate, spoken
from ca.admin import block_store
from ca.admin import limit_store as store
from ca.admin.commands.account import find_account
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.limit_store import Bucket, Override
from ca.admin.output import Column, moment_json, print_json, print_line, print_table, relative
from ca.admin.reference import parse_id, parse_name
from ca.admin.revoke import operator_name
from ca.pki.identifier import registered_domain
from ca.pki.object_id import from_text, to_text
from ca.process.limit_settings import RateSettings
from ca.process.postgres import Connection
from ca.process.settings import Settings

_DAY_S = 86_400
_OF_ACCOUNT = (LimitName.ORDERS_PER_ACCOUNT, LimitName.PENDING_PER_ACCOUNT, LimitName.FAILURES_PER_NAME,
               LimitName.PAUSED_NAMES)
_OF_NETWORK = (LimitName.ACCOUNTS_PER_ADDRESS, LimitName.ACCOUNTS_PER_RANGE, LimitName.NONCES_PER_ADDRESS,
               LimitName.RENEWAL_INFO_PER_ADDRESS)
_OF_DOMAIN = (LimitName.CERTIFICATES_PER_DOMAIN,)
_OVERRIDABLE = [name.value for name in (*_OF_ACCOUNT, *_OF_DOMAIN, *_OF_NETWORK)]


@click.group()
def limit() -> None:
    """Rate limits: list, show, override, unpause."""


def configured(settings: Settings) -> dict[LimitName, Rate | None]:
    """The rate of every limit by the configuration; None: it is off."""
    rates = {name: settings.limit_rates.get(name.value) for name in LimitName}
    pause = settings.effective_limits.pause_after_failures
    rates[LimitName.PAUSED_NAMES] = RateSettings(burst=pause, period_s=_DAY_S) if pause else None
    return {name: None if rate is None else Rate(burst=rate.burst, period_s=rate.period_s)
            for name, rate in rates.items()}


def _says(name: LimitName, rate: Rate | None) -> str:
    if rate is None:
        return "no limit"
    if name is LimitName.PAUSED_NAMES:
        return f"after {rate.burst:,} failures in a row, one attempt a day"
    return f"{rate.burst:,} in {spoken(rate.period_s)}"


def _override_document(override: Override) -> dict[str, object]:
    return {"limit": override.limit.value, "subject": override.subject, "burst": override.rate and override.rate.burst,
            "period_s": override.rate and override.rate.period_s, "until": moment_json(override.until),
            "reason": override.reason}


@limit.command(name="list")
@admin_command
async def list_limits(context: AdminContext) -> ExitCode:
    """List the limits that hold, and every exception from them."""
    now = context.ambient.now()
    async with context.connection() as connection:
        overrides = await store.overrides(connection)
    limits = configured(context.settings)
    if context.output == "json":
        print_json({"policy": context.settings.policy, "limits": {
            name.value: None if rate is None else {"burst": rate.burst, "period_s": rate.period_s}
            for name, rate in limits.items()}, "overrides": [_override_document(each) for each in overrides]})
        return ExitCode.OK
    print_table([Column(title="limit", whole=True), Column(title=f"policy {context.settings.policy}")],
                [(name.value, _says(name, rate)) for name, rate in limits.items()])
    if overrides:
        print_line("")
        print_table(
            [Column(title="exception", whole=True), Column(title="for", whole=True), Column(title="rate"),
             Column(title="until"), Column(title="reason")],
            [(each.limit.value, each.subject, _says(each.limit, each.rate), relative(each.until, now)
              if each.until > now else f"expired {relative(each.until, now)}", each.reason) for each in overrides])
    return ExitCode.OK


@limit.command()
@click.argument("subject")
@admin_command
async def show(context: AdminContext, subject: str) -> ExitCode:
    """Show what SUBJECT (an account, a domain, or an address or network) has used, and its exceptions."""
    now = context.ambient.now()
    account_id = _account_id(subject)
    network = None if account_id else _network(subject)
    async with context.connection() as connection:
        overrides = await store.overrides(connection)
        if account_id is not None:
            key = to_text((await find_account(connection, account_id)).id)
            buckets = await store.buckets(connection, key)
            failing = await store.failing(connection, account_id, since=now - timedelta(days=90))
        else:
            key = subject if network is not None else registered_domain(parse_name(subject))
            buckets = await store.buckets(connection, *_keys_of_network(network) if network is not None else (key,))
            failing = []
        found = [each for each in overrides if each.subject == key or _covers(each.subject, network)]
    limits = {each.limit: each.rate for each in found if each.until > now}
    rates = configured(context.settings) | limits
    if context.output == "json":
        print_json({
            "subject": key, "overrides": [_override_document(each) for each in found],
            "buckets": [{"limit": each.limit.value, "subject": each.subject, "full_at": moment_json(each.full_at),
                         "used": _used(each, rates.get(each.limit), now)} for each in buckets],
            "failing": [{"name": name, "failures": count, "last_at": moment_json(last)}
                        for name, count, last in failing]})
        return ExitCode.OK
    if buckets:
        print_table(
            [Column(title="limit", whole=True), Column(title="of", whole=True), Column(title="used", right=True),
             Column(title="rate"), Column(title="all free again")],
            [(each.limit.value, each.subject, f"{_used(each, rates.get(each.limit), now):,}",
              _says(each.limit, rates.get(each.limit)), relative(each.full_at, now)) for each in buckets])
    else:
        print_line(f"{key} has used nothing of any limit that is counted")
    if failing:
        pause = rates.get(LimitName.PAUSED_NAMES)
        print_line("")
        print_table([Column(title="failing name", whole=True), Column(title="failures in a row", right=True),
                     Column(title="last"), Column(title="state")],
                    [(name, f"{count:,}", relative(last, now),
                      "paused" if pause and count >= pause.burst else "failing") for name, count, last in failing])
    for each in found:
        print_line(f"exception: {each.limit.value} {_says(each.limit, each.rate)} until "
                   f"{relative(each.until, now)}: {each.reason}")
    return ExitCode.OK


@limit.command()
@click.argument("name", metavar="LIMIT", type=click.Choice(_OVERRIDABLE))
@click.argument("subject")
@click.option("--burst", type=click.IntRange(0, 2_000_000_000), help="How many at once; 0: no limit.")
@click.option("--period", "period_s", type=click.IntRange(1, 2_000_000_000), metavar="SECONDS",
              help="In which as many again become free.  [default: as configured]")
@click.option("--until", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]), help="When the exception ends.")
@click.option("--reason", default="", help="Why, for whoever reads it later.")
@click.option("--remove", is_flag=True, help="End the exception now.")
@admin_command
async def override(
    context: AdminContext, name: str, subject: str, burst: int | None, period_s: int | None, until: datetime | None,
    reason: str, remove: bool,
) -> ExitCode:
    """Make an exception from LIMIT for SUBJECT: an account, a domain, or an address or network, as the limit counts.

    It holds at every server within moments. --burst, --until and --reason are needed.
    """
    chosen = LimitName(name)
    now = context.ambient.now()
    key = _subject_of(chosen, subject)
    if remove:
        async with context.connection() as connection, connection.transaction():
            if not await store.remove_override(connection, chosen, key):
                raise CommandError(f"there is no exception from {name} for {key}", ExitCode.NOT_FOUND)
            await _record(context, connection, "end limit override", key, {"limit": name})
        print_line(f"removed the exception from {name} for {key}")
        return ExitCode.OK
    if burst is None or until is None or not reason.strip():
        raise CommandError("an exception takes --burst, --until and --reason", ExitCode.USAGE)
    end = until.replace(tzinfo=now.tzinfo)
    if end <= now:
        raise CommandError("--until is not in the future", ExitCode.USAGE)
    usual = configured(context.settings)[chosen]
    made = Override(limit=chosen, subject=key, until=end, reason=reason.strip(), rate=None if burst == 0 else Rate(
        burst=burst, period_s=period_s or (usual.period_s if usual else 3_600)))
    async with context.connection() as connection:
        if chosen in _OF_ACCOUNT:
            await find_account(connection, parse_id(key, of="account"))
        async with connection.transaction():
            await store.set_override(connection, made, now=now)
            await _record(context, connection, "override limit", key, _override_document(made))
    if context.output == "json":
        print_json(_override_document(made))
    else:
        print_line(f"{name} for {key}: {_says(chosen, made.rate)}, until {relative(end, now)}")
    return ExitCode.OK


@limit.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "all_names", is_flag=True, help="Every name of the account.")
@yes_option
@admin_command
async def unpause(
    context: AdminContext, account_id: str, names: tuple[str, ...], all_names: bool, yes: bool
) -> ExitCode:
    """Forget the failed validations of NAMEs of an account, so that it may try again at once, paused or not."""
    if bool(names) == all_names:
        raise CommandError("say which names, or --all", ExitCode.USAGE)
    now = context.ambient.now()
    wanted = parse_id(account_id, of="account")
    chosen = [parse_name(name).removeprefix("*.") for name in names]
    async with context.connection() as connection:
        found = await find_account(connection, wanted)
        failing = await store.failing(connection, found.id, since=now - timedelta(days=90))
        affected = [name for name, _, _ in failing if all_names or name in chosen]
        if yes:
            async with connection.transaction():
                await store.unpause(connection, found.id, chosen or [""], now=now)
                await _record(context, connection, "unpause names", to_text(found.id), {"names": chosen or "all"})
    if context.output == "json":
        print_json({"account": to_text(found.id), "names": affected, "unpaused": yes})
    else:
        print_line(f"{'forgot' if yes else 'would forget'} the failures of {', '.join(affected) or 'no name'}")
    if not yes:
        raise CommandError("nothing was done: say --yes to do it", ExitCode.REFUSED)
    return ExitCode.OK


async def _record(context: AdminContext, connection: Connection, act: str, subject: str, detail: object) -> None:
    await block_store.act(connection, context.ambient, operator=operator_name(), act=act, subject=subject,
                          detail=detail)


def _account_id(text: str) -> bytes | None:
    return next((found for part in text.strip().split("/") if (found := from_text(part)) is not None), None)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _subject_of(chosen: LimitName, text: str) -> str:
    """The subject as the limit writes it. Raises CommandError when it is of another kind."""
    if chosen in _OF_ACCOUNT:
        return to_text(parse_id(text, of="account"))
    if chosen in _OF_DOMAIN:
        name = parse_name(text)
        if registered_domain(name) != name:
            raise CommandError(f"{name} is counted as {registered_domain(name)}: name that", ExitCode.USAGE)
        return name
    network = _network(text)
    if network is None:
        raise CommandError(f"{text!r} is not an address or a network", ExitCode.USAGE)
    return str(network)


def _keys_of_network(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Sequence[str]:
    """As buckets are named: one IPv4 address, or the /64 and /48 of an IPv6 address."""
    if isinstance(network, ipaddress.IPv4Network):
        return [str(network.network_address)]
    return [str(ipaddress.IPv6Network((network.network_address, bits), strict=False)) for bits in (64, 48)]


def _covers(subject: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network | None) -> bool:
    other = None if network is None else _network(subject)
    if isinstance(other, ipaddress.IPv4Network) and isinstance(network, ipaddress.IPv4Network):
        return network.subnet_of(other)
    if isinstance(other, ipaddress.IPv6Network) and isinstance(network, ipaddress.IPv6Network):
        return network.subnet_of(other)
    return False


def _used(bucket: Bucket, rate: Rate | None, now: datetime) -> int:
    """How many of the burst are taken at this moment."""
    if rate is None:
        return 0
    return max(0, round((bucket.full_at - now).total_seconds() / rate.interval_s))
