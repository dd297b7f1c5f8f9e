"""`chancery key`: keys that are never certified. Blocking one revokes every certificate that has it."""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from acme_api.protocol.directory import account_url
from acme_api.protocol.jws import jwk_of_public_key, thumbprint
from ca.admin import block_store as store
from ca.admin.block_store import AccountWithKey
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.output import Column, moment, moment_json, print_json, print_line, print_table
from ca.admin.reference import key_of_file, parse_key
from ca.admin.revoke import operator_name
from ca.pki.key_loss import NoProofError, NoRequestError, ProvenLoss, proven_loss
from ca.pki.public_key import spki_of_tbs
from ca.pki.weak_list import FORMS, WeakListError, parse_list
from ca.process.postgres import Connection

BLOCK: Final = "block key"
UNBLOCK: Final = "unblock key"
_POLL_S: Final = 0.1
_IMPORTED_AT_ONCE: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenKey:
    """A key as the operator gave it; `proof` says how its loss is proven, empty when it is not."""

    spki_sha256: bytes
    spki: bytes | None
    proof: str = ""


@click.group()
def key() -> None:
    """Keys that are never certified: block, unblock, list; lists of weak keys: import-list, lists, drop-list."""


@key.command()
@click.option("--spki", help="The key: SHA-256 of its SubjectPublicKeyInfo, or a file with a certificate, a "
              "certification request or a public key.")
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="The private key itself: the proof that it is lost. It is read, and stored nowhere.")
@click.option("--csr", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="A certification request signed by the key, with a common name that says it is lost: the proof.")
@click.option("--comment", default="", help="Why, for those who ask later.")
@click.option("--wait-s", type=click.IntRange(0, 3600), default=60, show_default=True,
              help="How long to wait until its certificates are revoked.")
@yes_option
@admin_command
async def block(context: AdminContext, spki: str | None, key_file: Path | None, csr: Path | None, comment: str,
                wait_s: int, yes: bool) -> ExitCode:
    """Block a key: its certificates are revoked for keyCompromise, its account is closed, it is never certified."""
    given = _given(spki, key_file, csr)
    now = context.ambient.now()
    text = given.spki_sha256.hex()
    async with context.connection() as connection:
        known = await store.blocked_key(connection, given.spki_sha256)
        if known is not None:
            raise CommandError(f"key {text} is blocked since {moment(known.blocked_at)}", ExitCode.REFUSED)
        given = await _completed(connection, given)
        certificates = await store.unrevoked_with_key(connection, given.spki_sha256, now=now)
        account = await _account(connection, given)
        document = _document(context, given, certificates, account)
        what = _consequences(context, given, certificates, account)
        if not yes:
            _tell(context, document, f"would block key {text}; {what}")
            raise CommandError("nothing was done: say --yes to block it", ExitCode.REFUSED)
        async with connection.transaction():
            detail = {"spki": "" if given.spki is None else given.spki.hex(), "comment": comment, "proof": given.proof}
            act_id = await store.act(connection, context.ambient, operator=operator_name(), act=BLOCK, subject=text,
                                     detail=detail)
        done = await _wait(connection, act_id, given.spki_sha256, context, wait_s)
    _tell(context, document | {"blocked": done}, f"{'blocked' if done else 'asked to block'} key {text}; {what}")
    if not done:
        raise CommandError(f"the CA has not done all of it within {wait_s} s; it will: see `chancery status`",
                           ExitCode.DEGRADED)
    return ExitCode.OK


@key.command()
@click.argument("spki")
@click.option("--comment", default="", help="Why, for those who ask later.")
@yes_option
@admin_command
async def unblock(context: AdminContext, spki: str, comment: str, yes: bool) -> ExitCode:
    """Take a block back that was an operator's word. One that rests on a proof stays (BR 6.1.1.3)."""
    sha256 = parse_key(spki)
    text = sha256.hex()
    async with context.connection() as connection:
        known = await store.blocked_key(connection, sha256)
        if known is None:
            raise CommandError(f"key {text} is not blocked", ExitCode.NOT_FOUND)
        if known.authority != "operator" or "proof" in known.evidence:
            raise CommandError(f"the loss of key {text} is proven: it stays blocked (BR 6.1.1.3)", ExitCode.REFUSED)
        if not yes:
            print_line(f"would unblock key {text}; certificates and accounts stay revoked")
            raise CommandError("nothing was done: say --yes to unblock it", ExitCode.REFUSED)
        async with connection.transaction():
            await store.act(connection, context.ambient, operator=operator_name(), act=UNBLOCK, subject=text,
                            detail={"comment": comment})
    _tell(context, {"spki_sha256": text, "unblocked": True}, f"asked the CA to unblock key {text}")
    return ExitCode.OK


@key.command(name="list")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest so many.")
@admin_command
async def list_keys(context: AdminContext, limit: int) -> ExitCode:
    """List blocked keys, newest first."""
    async with context.connection() as connection:
        found = await store.blocked_keys(connection, limit + 1)
    shown = found[:limit]
    if context.output == "json":
        print_json({"keys": [{
            "spki_sha256": one.spki_sha256.hex(), "blocked_at": moment_json(one.blocked_at), "by": one.authority,
            "proven": one.authority != "operator" or "proof" in one.evidence, "revoking": one.sweep_at is not None,
            "comment": one.evidence.get("comment", "")} for one in shown], "truncated": len(found) > limit})
        return ExitCode.OK
    print_table([Column(title="SHA-256 of SPKI", whole=True), Column(title="blocked", whole=True),
                 Column(title="by right of")],
                [(one.spki_sha256.hex(), f"{one.blocked_at:%Y-%m-%d}", one.authority.replace("_", " ")
                  + ("" if not one.evidence.get("comment") else f": {one.evidence['comment']}")) for one in shown])
    if len(found) > limit:
        click.echo(f"chancery: there are more than these {limit}: see --limit", err=True)
    return ExitCode.OK


@key.command(name="import-list")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--form", type=click.Choice([*FORMS]), required=True,
              help="What a line of the list is; openssl-blacklist is Debian's.")
@click.option("--source", required=True, help="A name for the list, to see it and to take it out by.")
@admin_command
async def import_list(context: AdminContext, file: Path, form: str, source: str) -> ExitCode:
    """Refuse the keys of a published list of weak keys from now on, for certificates and accounts (BR 6.1.1.3).

    Nothing is revoked: the number of unexpired certificates with such a key is shown for lists of whole keys.
    """
    try:
        digests = sorted(set(parse_list(_read(file).decode("utf-8", "replace"), form)))
    except WeakListError as fault:
        raise CommandError(f"{file}, {fault}", ExitCode.USAGE) from fault
    if not digests:
        raise CommandError(f"{file} holds no key", ExitCode.USAGE)
    async with context.connection() as connection:
        async with connection.transaction():
            new = sum([await store.add_weak(connection, digests[first:first + _IMPORTED_AT_ONCE], source)
                       for first in range(0, len(digests), _IMPORTED_AT_ONCE)])
            await store.act(connection, context.ambient, operator=operator_name(), act="import weak keys",
                            subject=source, detail={"form": form, "keys": len(digests), "new": new})
        certificates = await store.weak_certificates(connection, now=context.ambient.now())
    _tell(context, {"source": source, "keys": len(digests), "new": new, "certificates": certificates},
          f"{len(digests):,} keys of {source}, {new:,} of them new; {certificates:,} unexpired certificates have "
          "such a key")
    return ExitCode.OK


@key.command(name="drop-list")
@click.argument("source")
@yes_option
@admin_command
async def drop_list(context: AdminContext, source: str, yes: bool) -> ExitCode:
    """Take an imported list out again."""
    async with context.connection() as connection:
        known = await store.weak_lists(connection)
        if source not in known:
            raise CommandError(f"there is no list {source!r}: there are {', '.join(known) or 'none'}",
                               ExitCode.NOT_FOUND)
        if not yes:
            print_line(f"would take out {known[source]:,} keys of {source}")
            raise CommandError("nothing was done: say --yes", ExitCode.REFUSED)
        async with connection.transaction():
            dropped = await store.drop_weak(connection, source)
            await store.act(connection, context.ambient, operator=operator_name(), act="drop weak keys", subject=source,
                            detail={"keys": dropped})
    _tell(context, {"source": source, "dropped": dropped}, f"took out {dropped:,} keys of {source}")
    return ExitCode.OK


@key.command(name="lists")
@admin_command
async def lists(context: AdminContext) -> ExitCode:
    """Show the lists of weak keys that were imported."""
    async with context.connection() as connection:
        known = await store.weak_lists(connection)
    if context.output == "json":
        print_json({"lists": [{"source": source, "keys": count} for source, count in known.items()]})
    else:
        print_table([Column(title="source"), Column(title="keys", right=True)],
                    [(source, f"{count:,}") for source, count in known.items()])
    return ExitCode.OK


def _given(spki: str | None, key_file: Path | None, csr: Path | None) -> GivenKey:
    """The key that is meant. Raises CommandError unless exactly one is given, and a proof proves."""
    if sum(option is not None for option in (spki, key_file, csr)) != 1:
        raise CommandError("say which key: --spki, --key-file or --csr, and one of them alone", ExitCode.USAGE)
    if key_file is not None:
        shown = _spki_of_private_key(key_file)
        return GivenKey(spki_sha256=hashlib.sha256(shown).digest(), spki=shown, proof="the private key was shown")
    if csr is not None:
        loss = _proven_loss(csr)
        return GivenKey(spki_sha256=hashlib.sha256(loss.spki).digest(), spki=loss.spki,
                        proof=f"a certification request says: {loss.sentence}")
    assert spki is not None  # noqa: S101 - one of the three is given
    found = key_of_file(spki)
    return GivenKey(spki_sha256=parse_key(spki), spki=found)


def _spki_of_private_key(path: Path) -> bytes:
    data = _read(path)
    for load in (load_pem_private_key, load_der_private_key):
        try:
            return load(data, None).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except TypeError as fault:
            raise CommandError(f"{path} is encrypted: decrypt it first", ExitCode.USAGE) from fault
        except (ValueError, UnsupportedAlgorithm):
            continue
    raise CommandError(f"{path} holds no private key in PEM or DER", ExitCode.USAGE)


def _proven_loss(path: Path) -> ProvenLoss:
    try:
        return proven_loss(_read(path))
    except NoRequestError as fault:
        raise CommandError(f"{path} holds no certification request", ExitCode.USAGE) from fault
    except NoProofError as fault:
        raise CommandError(f"{path}: {fault}", ExitCode.REFUSED) from fault


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise CommandError(f"{path} cannot be read: {fault.strerror}") from fault


async def _completed(connection: Connection, given: GivenKey) -> GivenKey:
    """With the key itself, when we have certified it: its account is found by that."""
    if given.spki is not None:
        return given
    tbs = await store.tbs_with_key(connection, given.spki_sha256)
    return given if tbs is None else GivenKey(spki_sha256=given.spki_sha256, spki=spki_of_tbs(tbs), proof=given.proof)


async def _account(connection: Connection, given: GivenKey) -> AccountWithKey | None:
    if given.spki is None:
        return None
    try:
        jwk = jwk_of_public_key(given.spki)
    except (ValueError, UnsupportedAlgorithm):
        return None         # of a kind that no account has
    return await store.account_with_key(connection, thumbprint(jwk))


def _document(context: AdminContext, given: GivenKey, certificates: int, account: AccountWithKey | None
              ) -> dict[str, object]:
    return {"spki_sha256": given.spki_sha256.hex(), "blocked": False, "proof": given.proof,
            "certificates": certificates, "account": None if account is None else {
                "url": account_url(context.settings.acme.base_url, account.id), "contacts": list(account.contacts)}}


def _consequences(context: AdminContext, given: GivenKey, certificates: int, account: AccountWithKey | None) -> str:
    parts = [f"unexpired certificates to revoke: {certificates:,}"]
    if account is not None:
        contacts = f" (tell {', '.join(account.contacts)})" if account.contacts else ""
        parts.append(f"account to close: {account_url(context.settings.acme.base_url, account.id)}{contacts}")
    elif given.spki is None:
        parts.append("an account that has the key is not looked for, because its hash alone is known: give the key")
    return "; ".join(parts)


async def _wait(connection: Connection, act_id: bytes, spki_sha256: bytes, context: AdminContext, wait_s: int) -> bool:
    """Whether the CA blocked the key and revoked its certificates while we waited."""
    clock = asyncio.get_running_loop()
    give_up_at = clock.time() + wait_s
    while True:
        if (await store.recorded_at(connection, act_id) is not None
                and not await store.unrevoked_with_key(connection, spki_sha256, now=context.ambient.now())):
            return True
        if clock.time() >= give_up_at:
            return False
        await asyncio.sleep(_POLL_S)


def _tell(context: AdminContext, document: dict[str, object], sentence: str) -> None:
    if context.output == "json":
        print_json(document)
    else:
        print_line(sentence)
