"""`chancery validation`: what was seen of a name, and what would be seen of it now."""

import asyncio
import ipaddress
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from acme_api.protocol.challenge import DNS_ACCOUNT_01, DNS_PERSIST_01, offered
from acme_api.protocol.directory import account_url, authorization_url
from ca.admin import order_store as store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command
from ca.admin.outline import outline
from ca.admin.output import moment, moment_json, print_facts, print_json, print_line
from ca.admin.records import Authorization
from ca.admin.reference import parse_id, parse_name
from ca.pki.identifier import Identifier, IdentifierError, NamePolicy, parse_identifier, require_permitted
from ca.pki.object_id import from_text, to_text
from ca.process.settings import Settings

_METHODS = ("http-01", "dns-01", "tls-alpn-01", DNS_ACCOUNT_01, DNS_PERSIST_01)
_NEED_ACCOUNT = (DNS_ACCOUNT_01, DNS_PERSIST_01)
_PATIENCE_S = 120.0


@click.group()
def validation() -> None:
    """Validations: show, test."""


@validation.command()
@click.argument("what", metavar="ID|NAME")
@click.option("--limit", type=click.IntRange(1, 1000), default=5, show_default=True,
              help="Of a name, the newest so many.")
@admin_command
async def show(context: AdminContext, what: str, limit: int) -> ExitCode:
    """Show what was seen: of one authorization by its URL or id, or of the newest ones of a name or address."""
    by_id = any(from_text(part) is not None for part in what.strip().split("/"))
    async with context.connection() as connection:
        if by_id:
            wanted: Sequence[bytes] = [parse_id(what, of="authorization")]
        else:
            wanted = await store.validated_authorizations(connection, parse_name(what.removeprefix("*.")), limit=limit)
        found = await store.authorizations(connection, wanted)
        accounts = await store.accounts_of_authorizations(connection, wanted)
    seen = [each for each in found if each.validation is not None]
    if not seen:
        missing = f"authorization {what} has no validation" if found else f"no validation of {what} is stored"
        raise CommandError(missing, ExitCode.NOT_FOUND)
    if context.output == "json":
        print_json({"validations": [_document(context, each, accounts[each.id]) for each in seen]})
        return ExitCode.OK
    for number, each in enumerate(seen):
        if number:
            print_line("")
        print_facts(_facts(context, each, accounts[each.id]))
    return ExitCode.OK


def _name(authorization: Authorization) -> str:
    return ("*." if authorization.wildcard else "") + authorization.identifier_value


def _document(context: AdminContext, authorization: Authorization, account_id: bytes) -> dict[str, object]:
    seen, base = authorization.validation, context.settings.acme.base_url
    assert seen is not None  # noqa: S101 - those without are left out
    return {
        "authorization": authorization_url(base, authorization.id), "account": account_url(base, account_id),
        "identifier": {"type": authorization.identifier_type, "value": _name(authorization)},
        "subdomains": authorization.subdomains, "method": seen.challenge_type,
        "validated_at": moment_json(seen.validated_at),
        "valid_until": moment_json(seen.valid_until), "caa_checked_at": moment_json(seen.caa_checked_at),
        "thumbprint_sha256": seen.thumbprint.hex(), "problem": seen.problem, "evidence": seen.evidence,
        "caa_checks": [{"name": check.name or None, "checked_at": moment_json(check.checked_at),
                        "problem": check.problem, "evidence": check.evidence} for check in authorization.caa_checks]}


def _facts(context: AdminContext, authorization: Authorization, account_id: bytes) -> Iterator[tuple[str, str]]:
    seen, base = authorization.validation, context.settings.acme.base_url
    assert seen is not None  # noqa: S101 - those without are left out
    yield "name", _name(authorization) + (" and all names below it" if authorization.subdomains else "")
    yield "authorization", authorization_url(base, authorization.id)
    yield "account", account_url(base, account_id)
    yield "method", seen.challenge_type
    if seen.problem is None:
        yield "outcome", f"valid, from {moment(seen.validated_at)} until {moment(seen.valid_until)}"
        yield "CAA permitted", moment(seen.caa_checked_at)
    else:
        yield "outcome", f"failed at {moment(seen.validated_at)}"
        yield "problem", "\n".join(outline(seen.problem))
    yield "account key", f"SHA-256 thumbprint {seen.thumbprint.hex()}"
    yield "evidence", "\n".join(outline(seen.evidence))
    for check in authorization.caa_checks:
        outcome = "permitted" if check.problem is None else str(check.problem.get("detail", "forbidden"))
        yield "CAA again", f"{f'{check.name}, ' if check.name else ''}{moment(check.checked_at)}: {outcome}"
        yield "", "\n".join(outline(check.evidence))


@validation.command()
@click.argument("name", metavar="NAME")
@click.option("--method", type=click.Choice(_METHODS), default=None,
              help="Default: http-01, for wildcards dns-01.")
@click.option("--account", "account", default="", metavar="ACCOUNT",
              help="Its URL or id, for CAA records with accounturi and for the methods that name the account.")
@admin_command
async def test(context: AdminContext, name: str, method: str | None, account: str) -> ExitCode:
    """Look at a name as the validation authority would, without an order: addresses, connections, CAA.

    It runs on this machine with its configuration, in a process of its own. Exit code 0: CAA permits, and the place
    where the challenge would be was reached; 4: CAA or the name policy forbids; 1: it was not reached.
    """
    identifier = _identifier(name)
    method = method or ("dns-01" if identifier.is_wildcard else "http-01")
    if method not in offered(identifier.type, wildcard=identifier.is_wildcard, persist=True):
        raise CommandError(f"{method} cannot validate {identifier.value}", ExitCode.USAGE)
    if method in _NEED_ACCOUNT and not account:
        raise CommandError(f"{method} depends on the account: name it with --account", ExitCode.USAGE)
    account_id = to_text(parse_id(account, of="account")) if account else ""
    document = await _look(context, identifier, method, account_id)
    document["policy"] = _policy(identifier, context.settings)
    code = _exit_code(document)
    if context.output == "json":
        print_json(document)
        return code
    print_facts(_told(document))
    return code


def _identifier(text: str) -> Identifier:
    try:
        ipaddress.ip_address(text.strip("[]"))
        kind = "ip"
    except ValueError:
        kind = "dns"
    try:
        return parse_identifier(kind, parse_name(text))
    except IdentifierError as fault:
        raise CommandError(fault.detail, ExitCode.USAGE) from fault


async def _look(context: AdminContext, identifier: Identifier, method: str, account_id: str) -> dict[str, Any]:
    """What the validation authority's own program says, run as a process: nothing of it is loaded here."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "acme_api.va.dry_run", "--config", str(context.settings_path), "--type", identifier.type,
        "--method", method, "--account", account_id, "--", identifier.value,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    try:
        output, faults = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
    except TimeoutError as fault:
        process.kill()
        raise CommandError(f"the look at {identifier.value} did not end") from fault
    if process.returncode != 0:
        lines = faults.decode("utf-8", "replace").strip().splitlines()
        raise CommandError(lines[-1] if lines else f"the look ended with code {process.returncode}")
    document: dict[str, Any] = json.loads(output)
    return document


def _policy(identifier: Identifier, settings: Settings) -> dict[str, Any]:
    """Whether an order may have this name at all; what an operator has blocked is `chancery name show`'s to say."""
    try:
        require_permitted(identifier, NamePolicy(
            internal_suffixes=tuple(settings.ca.internal_suffixes), public=settings.policy == "public",
            internal_prefixes=tuple(settings.va.allowed_prefixes), allow_loopback=settings.va.allow_loopback))
    except IdentifierError as fault:
        return {"ok": False, "detail": fault.detail}
    return {"ok": True, "detail": None}


def _exit_code(document: Mapping[str, Any]) -> ExitCode:
    if not document["policy"]["ok"] or document["caa"]["type"] == "caa":
        return ExitCode.REFUSED
    return ExitCode.OK if document["caa"]["ok"] and document["challenge"]["reached"] else ExitCode.FAILED


def _told(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    challenge, caa, policy = document["challenge"], document["caa"], document["policy"]
    yield "name", f"{document['name']} by {document['method']}"
    yield "name policy", "permitted" if policy["ok"] else policy["detail"]
    if challenge["ok"]:
        yield "challenge", "answered rightly"
    elif challenge["reached"]:
        yield "challenge", f"reached; there is no order, so no challenge was found: {challenge['detail']}"
    else:
        yield "challenge", f"not reached: {challenge['type']}: {challenge['detail']}"
    yield "", "\n".join(outline(challenge["seen"]))
    hint = "; name the account with --account" if document["account"] is None and "accounturi" in str(caa) else ""
    yield "CAA", "permits" if caa["ok"] else f"{caa['type']}: {caa['detail']}{hint}"
    yield "", "\n".join(outline(caa["seen"]))
