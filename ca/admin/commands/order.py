"""`chancery order`: what an order is, and why."""

from collections.abc import Iterator

import click

from acme_api.protocol.directory import account_url, certificate_url, order_url
from ca.admin import account_store, order_store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command
from ca.admin.order_view import OrderView, Step, order_view, story, why
from ca.admin.outline import outline
from ca.admin.output import moment, moment_json, print_facts, print_json, print_line, relative
from ca.admin.records import Authorization
from ca.admin.reference import parse_id
from ca.pki.object_id import to_text
from ca.pki.serial import serial_hex


@click.group()
def order() -> None:
    """Orders: show, explain."""


async def _view(context: AdminContext, text: str) -> OrderView:
    """The order that is meant. Raises CommandError when there is none."""
    order_id = parse_id(text, of="order")
    async with context.connection() as connection:
        found = await order_store.order(connection, order_id)
        if found is None:
            raise CommandError(f"there is no order {text}", ExitCode.NOT_FOUND)
        account = await account_store.account(connection, found.account_id)
        authorizations = await order_store.authorizations(connection, found.authorization_ids)
    if account is None or len(authorizations) != len(found.authorization_ids):
        raise CommandError(f"the account or authorizations of order {text} have been dropped with their partition",
                           ExitCode.NOT_FOUND)
    return order_view(found, account, tuple(authorizations), context.ambient.now())


def _document(context: AdminContext, view: OrderView) -> dict[str, object]:
    found, base = view.order, context.settings.acme.base_url
    return {
        "id": to_text(found.id), "url": order_url(base, found.id), "status": view.status.value, "why": why(view),
        "error": view.error, "profile": found.profile, "expires_at": moment_json(found.expires_at),
        "account": to_text(found.account_id),
        "identifiers": [{"type": kind, "value": value} for kind, value in found.identifiers],
        "authorizations": [_authorization_document(authorization, status.value)
                           for authorization, status in view.distinct_authorizations()],
        "finalized_at": moment_json(found.finalized_at), "refused_at": moment_json(found.refused_at),
        "queued_at": moment_json(found.queued_at), "attempts": found.attempts, "leased_by": found.leased_by,
        "serial": None if found.serial is None else serial_hex(found.serial),
        "precertificate_at": moment_json(found.precertificate_at), "scts": found.scts,
        "signed_at": moment_json(found.signed_at), "ocsp_waits_since": moment_json(found.ocsp_waits_since),
    }


def _authorization_document(authorization: Authorization, status: str) -> dict[str, object]:
    seen = authorization.validation
    return {
        "id": to_text(authorization.id), "status": status, "wildcard": authorization.wildcard,
        "subdomains": authorization.subdomains,
        "identifier": {"type": authorization.identifier_type, "value": authorization.identifier_value},
        "expires_at": moment_json(authorization.expires_at), "challenge_types": list(authorization.challenge_types),
        "deactivated_at": moment_json(authorization.deactivated_at),
        "queued_at": moment_json(authorization.queued_at), "queued_type": authorization.queued_type,
        "attempts": authorization.attempts, "leased_by": authorization.leased_by,
        "caa_queued_at": moment_json(authorization.caa_queued_at),
        "validation": None if seen is None else {
            "challenge_type": seen.challenge_type, "validated_at": moment_json(seen.validated_at),
            "valid_until": moment_json(seen.valid_until), "caa_checked_at": moment_json(seen.caa_checked_at),
            "thumbprint_sha256": seen.thumbprint.hex(), "problem": seen.problem, "evidence": seen.evidence},
        "caa_checks": [{"name": check.name or None, "checked_at": moment_json(check.checked_at),
                        "problem": check.problem, "evidence": check.evidence} for check in authorization.caa_checks],
    }


@order.command()
@click.argument("order_id", metavar="ORDER")
@admin_command
async def show(context: AdminContext, order_id: str) -> ExitCode:
    """Show one order by its URL or id."""
    view = await _view(context, order_id)
    if context.output == "json":
        print_json(_document(context, view))
        return ExitCode.OK
    found, base = view.order, context.settings.acme.base_url
    names = [f"{value}  {status.value}" for (_, value), status in
             zip(found.identifiers, view.authorization_statuses, strict=True)]
    print_facts([
        ("order", order_url(base, found.id)),
        ("status", view.status.value),
        ("why", why(view)),
        ("identifiers", "\n".join(names)),
        ("profile", found.profile),
        ("account", account_url(base, found.account_id)),
        ("expires", relative(found.expires_at, view.now)),
        ("finalized", moment(found.finalized_at)),
        ("certificate", "-" if found.serial is None else certificate_url(base, found.serial, found.id)),
    ])
    return ExitCode.OK


@order.command()
@click.argument("order_id", metavar="ORDER")
@admin_command
async def explain(context: AdminContext, order_id: str) -> ExitCode:
    """Explain why an order is in its status: validations, CAA, evidence, queues, the CA's refusal."""
    view = await _view(context, order_id)
    if context.output == "json":
        print_json(_document(context, view) | {"story": [
            {"subject": step.subject, "text": step.text, "evidence": step.evidence} for step in story(view)]})
        return ExitCode.OK
    names = ", ".join(value for _, value in view.order.identifiers)
    print_line(f"{view.status.value}: {why(view)}")
    print_facts([("order", f"{to_text(view.order.id)} for {names}"), ("account", to_text(view.order.account_id))])
    subject = ""
    for step in story(view):
        if step.subject != subject:
            subject = step.subject
            print_line(f"\n{subject}")
        print_facts(_lines(step))
    return ExitCode.OK


def _lines(step: Step) -> Iterator[tuple[str, str]]:
    """The step, and below it what was seen, indented."""
    yield "  -", step.text
    if step.evidence is not None:
        yield "", "\n".join(outline(step.evidence))
