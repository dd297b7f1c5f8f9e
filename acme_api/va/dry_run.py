"""A look at one name without an order: `python -m acme_api.va.dry_run`, started by `chancery validation test`.

It runs in a process of its own, where the configuration says what the validation authority would do: its resolver, its
dialer, its perspectives. It reads and writes no database. One JSON document goes to stdout. Without an order there is
no challenge to be found, so what counts is how far the look came: a server that was reached and served something else
will be found when there is one.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import structlog
import uvloop

from acme_api.protocol import base64url
from acme_api.protocol.challenge import WITHOUT_TOKEN
from acme_api.protocol.directory import account_url
from acme_api.va.check import describe
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.lanes import Lanes
from acme_api.va.look import Kind, Looker
from acme_api.va.methods import Methods, Question
from acme_api.va.perspectives import Perspectives
from acme_api.va.remotes import make_perspectives
from acme_api.va.wiring import make_methods, primary
from ca.pki.identifier import Identifier
from ca.pki.object_id import from_text
from ca.process.ambient import Ambient, system_ambient
from ca.process.lifecycle import StartupError
from ca.process.settings import SettingsError, load_settings

_THUMBPRINT: Final = bytes(32)


async def look(
    methods: Methods, perspectives: Perspectives | None, ambient: Ambient, *, name: str, identifier_type: str,
    method: str, account: str | None,
) -> dict[str, Any]:
    """The document about one name: `challenge` and `caa`, each with its verdict and everything that was seen. `account`
    is a URL; without one, what is only for some account is not for this name."""
    wildcard = name.startswith("*.")
    question = Question(
        identifier=Identifier(type=identifier_type, value=name.removeprefix("*.")), wildcard=wildcard, method=method,
        token=None if method in WITHOUT_TOKEN else base64url.encode(ambient.random_bytes(32)), thumbprint=_THUMBPRINT,
        account_url=account or "", persist=True, now=ambient.now())
    looker = Looker(methods=methods, lanes=Lanes(concurrency=5), retry_delays_s=())
    document: dict[str, Any] = {"name": name, "type": identifier_type, "method": method, "account": account}
    for kind in ("challenge", "caa"):
        document[kind] = await _one(looker, methods, perspectives, ambient, kind, question)
    return document


async def _one(
    looker: Looker, methods: Methods, perspectives: Perspectives | None, ambient: Ambient, kind: Kind,
    question: Question,
) -> dict[str, Any]:
    """One of the two looks, from here and then from every perspective, whatever was seen here."""
    evidence = Evidence(ambient.now)
    describe(evidence, kind, question)
    verdict: dict[str, Any] = {"ok": True, "type": None, "detail": None}
    try:
        if kind == "caa":
            await looker.look("caa", question, evidence)
        else:
            async with asyncio.timeout(10):
                await methods.validate(question, evidence)
    except ValidationFailure as failure:
        verdict = {"ok": False, "type": failure.type, "detail": failure.detail}
    except TimeoutError:
        verdict = {"ok": False, "type": "dns" if evidence.waits_for_dns else "connection",
                   "detail": f"timed out after 10 seconds while {evidence.phase}"}
    if perspectives is not None:
        with suppress(ValidationFailure):
            await perspectives.corroborate(kind, question, evidence)
    seen = evidence.to_json()
    return verdict | {"reached": verdict["ok"] or _reached(verdict["type"], seen), "seen": seen}


def _reached(failure_type: str, seen: dict[str, Any]) -> bool:
    """Whether the look came to the place where the challenge would be: a server that answered, a name that resolves."""
    facts = seen["facts"]
    return failure_type == "incorrectResponse" or any("txt" in fact for fact in facts)


async def _run(config: Path, name: str, identifier_type: str, method: str, account: str) -> dict[str, Any]:
    settings = load_settings(config, os.environ)
    ambient = system_ambient()
    # A dry run says what it sees with the perspectives that there are, also where the policy wants more of them.
    perspectives = make_perspectives(settings, ambient, enough=False)
    account_id = from_text(account) if account else None
    try:
        return await look(make_methods(primary(settings), ambient), perspectives, ambient, name=name,
                          identifier_type=identifier_type, method=method,
                          account=None if account_id is None else account_url(settings.acme.base_url, account_id))
    finally:
        if perspectives is not None:
            await perspectives.close()


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True)
@click.option("--type", "identifier_type", type=click.Choice(["dns", "ip"]), required=True)
@click.option("--method", required=True)
@click.option("--account", default="", help="An account's id.")
@click.argument("name")
def main(config: Path, identifier_type: str, method: str, account: str, name: str) -> None:
    """Looks once and prints what was seen as JSON."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        document = uvloop.run(_run(config, name, identifier_type, method, account))
    except (SettingsError, StartupError) as fault:
        click.echo(str(fault), err=True)
        sys.exit(1)
    click.echo(msgspec.json.encode(document).decode())


if __name__ == "__main__":
    main()
