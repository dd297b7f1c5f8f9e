"""`chancery hsm`: the online token, seen through its PKCS#11 module: what is in it, whether it works, how fast."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ca.admin import status_store as store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command
from ca.admin.output import Column, print_facts, print_json, print_line, print_table
from ca.process.settings import HsmSettings
from hsm.errors import HsmError
from hsm.generate import KeySpec
from hsm.token import KeyListing, Token
from hsm.trial import signing_rate, try_token

_Result = TypeVar("_Result")


@click.group()
def hsm() -> None:
    """The online token: probe, list, bench."""


@hsm.command()
@admin_command
async def probe(context: AdminContext) -> ExitCode:
    """Load the module, log in, sign with a key made for it and forgotten; see that every issuer's key is there. Exit
    code 5 when one is missing."""
    async with context.connection() as connection:
        issuers = {one.name: _spki(one.certificate) for one in await store.issuers(connection)}

    def look(token: Token) -> tuple[dict[str, str], float, list[KeyListing]]:
        return asdict(token.info), try_token(token), token.list_keys()

    info, took_s, keys = _with_token(context.settings.hsm, look)
    there = {key.spki for key in keys if key.has_private}
    missing = [name for name, spki in issuers.items() if spki not in there]
    if context.output == "json":
        print_json({"token": info, "signature_ms": round(took_s * 1000, 3), "keys": len(keys),
                    "issuers": {name: spki in there for name, spki in issuers.items()}})
    else:
        print_facts([*((name.replace("_", " "), value) for name, value in info.items()),
                     ("signature", f"verified, {took_s * 1000:.1f} ms"), ("keys", str(len(keys))),
                     *((f"key of {name}", "ok" if spki in there else "missing") for name, spki in issuers.items())])
    if missing:
        raise CommandError(f"the token has no key for {', '.join(missing)}", ExitCode.DEGRADED)
    return ExitCode.OK


@hsm.command(name="list")
@admin_command
async def list_keys(context: AdminContext) -> ExitCode:
    """List the keys of the online token, and whose they are."""
    async with context.connection() as connection:
        owners = {_spki(one.certificate): one.name for one in await store.issuers(connection)}
    keys = sorted(_with_token(context.settings.hsm, lambda token: token.list_keys()), key=lambda key: key.label)
    if context.output == "json":
        print_json({"keys": [{
            "label": key.label, "id": key.key_id.hex(), "kind": _kind(key), "private": key.has_private,
            "public": key.has_public, "issuer": owners.get(key.spki or b""),
            "spki_sha256": None if key.spki is None else hashlib.sha256(key.spki).hexdigest()} for key in keys]})
        return ExitCode.OK
    print_table([Column(title="label"), Column(title="kind", whole=True), Column(title="halves"),
                 Column(title="issuer")],
                [(key.label, _kind(key), " and ".join(half for half, there in (
                    ("private", key.has_private), ("public", key.has_public)) if there),
                  owners.get(key.spki or b"", "-")) for key in keys])
    return ExitCode.OK


@hsm.command()
@click.option("--seconds", type=click.IntRange(1, 60), default=2, show_default=True, help="For each kind of key.")
@admin_command
async def bench(context: AdminContext, seconds: int) -> ExitCode:
    """How fast one process signs, with keys made for it and forgotten. It takes the token's time from the CA."""
    kinds = (KeySpec.P_256, KeySpec.P_384, KeySpec.RSA_2048, KeySpec.RSA_4096)
    rates = _with_token(context.settings.hsm, lambda token: [
        signing_rate(token, kind, seconds_s=float(seconds)) for kind in kinds])
    if context.output == "json":
        print_json({"signatures_per_s": {kind.value: rate and round(rate.per_s, 1)
                                         for kind, rate in zip(kinds, rates, strict=True)}})
        return ExitCode.OK
    print_table([Column(title="key", whole=True), Column(title="signatures/s", right=True),
                 Column(title="ms each", right=True)],
                [(kind.value, "not made", "-") if rate is None else
                 (kind.value, f"{rate.per_s:,.0f}", f"{1000 / rate.per_s:.2f}")
                 for kind, rate in zip(kinds, rates, strict=True)])
    print_line("one process, one session; a certificate takes one signature, its OCSP status two")
    return ExitCode.OK


def _with_token(settings: HsmSettings, act: Callable[[Token], _Result]) -> _Result:
    """What `act` finds in the token. Raises CommandError for every fault that an operator can meet."""
    try:
        with Token.open(module=settings.module, token_label=settings.token_label, pin_file=settings.pin_file,
                        conf=settings.conf) as token:
            return act(token)
    except HsmError as fault:
        raise CommandError(str(fault)) from fault


def _spki(certificate: bytes) -> bytes:
    public = x509.load_der_x509_certificate(certificate).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _kind(key: KeyListing) -> str:
    if key.spki is None:
        return "unknown"
    public = load_der_public_key(key.spki)
    if isinstance(public, rsa.RSAPublicKey):
        return f"RSA {public.key_size}"
    if isinstance(public, ec.EllipticCurvePublicKey):
        return {"secp256r1": "P-256", "secp384r1": "P-384"}.get(public.curve.name, public.curve.name)
    return "other"
