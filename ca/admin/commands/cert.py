"""`chancery cert`: find certificates, look at one, revoke one."""

import functools
import hashlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acme_api.protocol.directory import account_url, order_url
from ca.admin import certificate_store as store
from ca.admin.certificate import (
    REASONS,
    certificate_der,
    certificate_document,
    certificate_state,
    key_name,
    names_of,
    parsed,
)
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command, yes_option
from ca.admin.output import Column, moment, moment_json, print_facts, print_json, print_line, print_table, relative
from ca.admin.records import Certificate
from ca.admin.reference import SerialRange, parse_id, parse_key, parse_name, parse_serial
from ca.admin.revoke import operator_name, require_revocable, revoke_and_wait
from ca.pki.crl import shard_url
from ca.pki.object_id import to_text
from ca.pki.revocation import REASON_NAMES, proves_key_compromise
from ca.pki.serial import serial_hex, shard
from ca.process.postgres import Connection

_NAMES_SHOWN = 3


@click.group()
def cert() -> None:
    """Certificates: search, show, revoke."""


@cert.command()
@click.argument("name", required=False)
@click.option("--serial", help="A serial number, or at least its first 8 digits.")
@click.option("--account", help="An account, by its URL or id.")
@click.option("--spki", help="A public key: SHA-256 of its SubjectPublicKeyInfo, or a file that holds it.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Show the newest so many.")
@admin_command
async def search(context: AdminContext, name: str | None, serial: str | None, account: str | None, spki: str | None,
                 limit: int) -> ExitCode:
    """Find certificates for NAME and every name under it, or by serial number, account or key. Newest first."""
    given = [(kind, text) for kind, text in (("name", name), ("serial", serial), ("account", account), ("spki", spki))
             if text is not None]
    if len(given) != 1:
        raise CommandError("say what to search for: NAME, --serial, --account or --spki, and one of them alone",
                           ExitCode.USAGE)
    now = context.ambient.now()
    find = _finder(*given[0])
    async with context.connection() as connection:
        serials = await find(connection, limit=limit + 1)
        found = await store.certificates(connection, serials[:limit])
    if context.output == "json":
        print_json({"certificates": [certificate_document(certificate, now) for certificate in found],
                    "truncated": len(serials) > limit})
    elif found:
        print_table(
            [Column(title="serial", whole=True), Column(title="names"), Column(title="state", whole=True),
             Column(title="not after", whole=True)],
            [(serial_hex(certificate.serial), _names_in_short(names_of(parsed(certificate))),
              certificate_state(certificate, now), f"{certificate.not_after:%Y-%m-%d}") for certificate in found])
    if not found:
        raise CommandError(f"no certificate has this {given[0][0]}: {given[0][1]}", ExitCode.NOT_FOUND)
    if len(serials) > limit:
        click.echo(f"chancery: there are more than these {limit}: see --limit", err=True)
    return ExitCode.OK


def _finder(kind: str, text: str) -> Callable[..., Awaitable[list[bytes]]]:
    """What asks the database for the serial numbers that are meant. Raises CommandError when the text means nothing."""
    if kind == "name":
        return functools.partial(store.serials_by_name, name=parse_name(text))
    if kind == "serial":
        wanted = parse_serial(text)
        return functools.partial(store.serials_between, first=wanted.first, last=wanted.last)
    if kind == "account":
        return functools.partial(store.serials_by_account, account_id=parse_id(text, of="account"))
    return functools.partial(store.serials_by_key, spki_sha256=parse_key(text))


def _names_in_short(names: list[str]) -> str:
    shown = names if len(names) <= _NAMES_SHOWN else [*names[:_NAMES_SHOWN - 1], f"and {len(names) - 2} more"]
    return "\n".join(shown)


async def find_one(connection: Connection, wanted: SerialRange) -> Certificate:
    """The one certificate that is meant. Raises CommandError when there is none, or a prefix fits several."""
    serials = await store.serials_between(connection, first=wanted.first, last=wanted.last, limit=2)
    if len(serials) > 1:
        raise CommandError(f"several serial numbers begin with {wanted.text}: give more digits", ExitCode.USAGE)
    found = await store.certificates(connection, serials)
    if not found:
        raise CommandError(f"no certificate has the serial number {wanted.text}", ExitCode.NOT_FOUND)
    return found[0]


@cert.command()
@click.argument("serial")
@click.option("--pem", is_flag=True, help="Print the certificate alone, in PEM.")
@click.option("--der", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), metavar="FILE",
              help="Write the certificate alone to FILE, in DER ('-' is stdout).")
@admin_command
async def show(context: AdminContext, serial: str, pem: bool, der: Path | None) -> ExitCode:
    """Show one certificate by its serial number (or at least its first 8 digits) or URL."""
    now = context.ambient.now()
    wanted = parse_serial(serial)
    async with context.connection() as connection:
        certificate = await find_one(connection, wanted)
        waits_since = await store.ocsp_waits_since(connection, certificate.serial)
        revocation_since = await store.revocation_waits_since(connection, certificate.serial)
    if pem or der is not None:
        _write(certificate, pem=pem, der=der)
        return ExitCode.OK
    document = certificate_document(certificate, now) | {
        "ocsp_published": waits_since is None and certificate.has_ocsp and certificate.signature is not None,
        "revocation_requested_at": moment_json(revocation_since),
        "crl_url": crl_url(context, certificate),
        "sha256": None if certificate.signature is None else hashlib.sha256(certificate_der(certificate)).hexdigest(),
    }
    if context.output == "json":
        print_json(document)
        return ExitCode.OK
    content = parsed(certificate)
    base = context.settings.acme.base_url
    facts = [
        ("serial", serial_hex(certificate.serial)),
        ("state", certificate_state(certificate, now)),
        ("names", "\n".join(names_of(content))),
        ("issuer", certificate.issuer_name),
        ("profile", certificate.profile),
        ("key", f"{key_name(content)}, SHA-256 of SPKI\n{certificate.spki_sha256.hex()}"),
        ("not before", moment(certificate.not_before)),
        ("not after", relative(certificate.not_after, now)),
        ("signed at", "not yet" if certificate.signed_at is None else relative(certificate.signed_at, now)),
        ("OCSP", "none: the certificate is short-lived" if not certificate.has_ocsp else "published"
         if waits_since is None else f"waits to be signed since {relative(waits_since, now)}"),
        ("CRL", crl_url(context, certificate)),
        *_owner_facts(certificate, base),
        *_revocation_facts(certificate, content),
    ]
    if revocation_since is not None:
        facts.append(("revocation", f"asked for at {relative(revocation_since, now)}, not carried out yet"))
    print_facts(facts)
    return ExitCode.OK


def crl_url(context: AdminContext, certificate: Certificate) -> str:
    """Where the CRL is that lists this certificate if it is revoked."""
    return shard_url(context.settings.ca.crl_base_url, certificate.issuer_name,
                     shard(certificate.serial, certificate.crl_shards))


def _owner_facts(certificate: Certificate, base: str) -> list[tuple[str, str]]:
    if certificate.account_id is None:
        return [("for", f"a service of our own, request {to_text(certificate.request_id)}")]
    return [("account", account_url(base, certificate.account_id)),
            ("order", order_url(base, certificate.request_id))]


def _revocation_facts(certificate: Certificate, content: x509.Certificate) -> list[tuple[str, str]]:
    revocation = certificate.revocation
    if revocation is None:
        return []
    facts = [("revoked at", moment(revocation.revoked_at)), ("reason", REASON_NAMES[revocation.reason]),
             ("by right of", revocation.authority.replace("_", " "))]
    if isinstance(revocation.evidence, dict):
        facts += [(key, str(revocation.evidence[key])) for key in ("operator", "comment") if key in revocation.evidence]
    return facts


def _write(certificate: Certificate, *, pem: bool, der: Path | None) -> None:
    if certificate.signature is None:
        raise CommandError("the certificate is not signed yet: only its serial number and contents are decided")
    content = parsed(certificate)
    if pem:
        click.echo(content.public_bytes(Encoding.PEM).decode("ascii"), nl=False)
    if der is not None and str(der) == "-":
        sys.stdout.buffer.write(content.public_bytes(Encoding.DER))
    elif der is not None:
        try:
            der.write_bytes(content.public_bytes(Encoding.DER))
        except OSError as fault:
            raise CommandError(f"{der} cannot be written: {fault.strerror}") from fault


@cert.command()
@click.argument("serial")
@click.option("--reason", type=click.Choice([*REASONS], case_sensitive=False), required=True,
              help="RFC 5280 5.3.1; BR 4.9.1.1 says which one when.")
@click.option("--comment", default="", help="Why, for those who ask later.")
@click.option("--wait-s", type=click.IntRange(0, 3600), default=60, show_default=True,
              help="How long to wait until it is done.")
@yes_option
@admin_command
async def revoke(context: AdminContext, serial: str, reason: str, comment: str, wait_s: int, yes: bool) -> ExitCode:
    """Revoke one certificate; returns when OCSP says so. Its CRL follows within 15 minutes. There is no way back."""
    now = context.ambient.now()
    number = REASONS[reason]
    wanted = parse_serial(serial)
    async with context.connection() as connection:
        certificate = await find_one(connection, wanted)
        require_revocable(certificate, number, now)
        text = serial_hex(certificate.serial)
        siblings = await _siblings(connection, certificate, number)
        also = f", and every other unexpired one with its key ({siblings} have it)" if siblings > 1 else ""
        if not yes:
            names = ", ".join(names_of(parsed(certificate)))
            _tell(context, {"serial": text, "revoked": False, "reason": reason, "certificates_with_key": siblings},
                  f"would revoke {text} ({names}) of {certificate.issuer_name} for {reason}{also}, for good")
            raise CommandError("nothing was done: say --yes to revoke it", ExitCode.REFUSED)
        done = await revoke_and_wait(connection, certificate, reason=number, comment=comment,
                                     operator=operator_name(), ambient=context.ambient, wait_s=wait_s)
    document: dict[str, object] = {"serial": text, "revoked": done.revoked, "reason": reason,
                                   "certificates_with_key": siblings,
                                   "ocsp_published": done.ocsp_published and certificate.has_ocsp,
                                   "waited_s": round(done.waited_s, 1)}
    if done.ocsp_published:
        told = (f"OCSP says so since {done.waited_s:.1f} s after the request; the CRL follows" if certificate.has_ocsp
                else "It has no OCSP; the CRL says so")
        _tell(context, document, f"revoked {text} for {reason}{also}\n{told} within 15 minutes: "
              f"{crl_url(context, certificate)}")
        return ExitCode.OK
    _tell(context, document, f"the revocation of {text} is {'done' if done.revoked else 'recorded'} and cannot be lost")
    missing = "the OCSP pre-signer has not signed it" if done.revoked else "the CA has not carried it out"
    raise CommandError(f"{missing} within {wait_s} s: see `chancery status`", ExitCode.DEGRADED)


async def _siblings(connection: Connection, certificate: Certificate, reason: int) -> int:
    """How many certificates the CA will revoke: all that have the key, when its compromise is what we say."""
    if not proves_key_compromise(reason, "operator"):
        return 1
    return len(await store.serials_by_key(connection, spki_sha256=certificate.spki_sha256, limit=1_000_000))


def _tell(context: AdminContext, document: dict[str, object], sentence: str) -> None:
    if context.output == "json":
        print_json(document)
    else:
        print_line(sentence)
