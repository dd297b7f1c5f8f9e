"""`chancery crl`: the CRLs, whether the world can read them, and their URLs for the CCADB."""

import hashlib

import click

from ca.admin import crl_store as store
from ca.admin.context import AdminContext, CommandError, ExitCode, admin_command
from ca.admin.crl_check import PublishedCrl, read_back
from ca.admin.output import Column, distance, moment_json, print_json, print_line, print_table, size, span
from ca.pki.crl import shard_url

_issuer_option = click.option("--issuer", help="One issuer alone, by its name.")


@click.group()
def crl() -> None:
    """CRLs: list, check, ccadb."""


@crl.command(name="list")
@_issuer_option
@click.option("--shards", is_flag=True, help="A line for each shard.")
@admin_command
async def list_crls(context: AdminContext, issuer: str | None, shards: bool) -> ExitCode:
    """List the newest CRLs of each issuer."""
    now = context.ambient.now()
    found = await _published(context, issuer)
    if context.output == "json":
        print_json({"crls": [{
            "issuer": one.issuer, "shard": one.shard + 1, "url": one.url, "number": one.number, "entries": one.entries,
            "bytes": one.size, "this_update": moment_json(one.this_update),
            "next_update": moment_json(one.next_update)} for one in found]})
        return ExitCode.OK
    if shards:
        print_table([Column(title="URL"), Column(title="entries", right=True), Column(title="size", right=True),
                     Column(title="age", right=True), Column(title="ends", right=True)],
                    [(one.url, f"{one.entries:,}", size(one.size), span(now - one.this_update),
                      distance(one.next_update, now)) for one in found])
        return ExitCode.OK
    by_issuer: dict[str, list[PublishedCrl]] = {}
    for one in found:
        by_issuer.setdefault(one.issuer, []).append(one)
    print_table([Column(title="issuer"), Column(title="CRLs", right=True), Column(title="entries", right=True),
                 Column(title="largest", right=True), Column(title="oldest", right=True),
                 Column(title="first ends", right=True)],
                [(name, str(len(crls)), f"{sum(one.entries for one in crls):,}", size(max(one.size for one in crls)),
                  span(now - min(one.this_update for one in crls)),
                  distance(min(one.next_update for one in crls), now)) for name, crls in by_issuer.items()])
    return ExitCode.OK


@crl.command()
@_issuer_option
@admin_command
async def check(context: AdminContext, issuer: str | None) -> ExitCode:
    """Read every CRL back through its public URL, verify it and compare it with what was published. Exit code 1 when
    one is missing, old, or not what it should be."""
    found = await _published(context, issuer)
    faults = await read_back(found, now=context.ambient.now())
    if context.output == "json":
        print_json({"checked": len(found), "faults": [{"url": one.url, "fault": one.fault} for one in faults]})
    else:
        for one in faults:
            print_line(f"{one.url}: {one.fault}")
        print_line(f"{len(found):,} CRLs read, {len(faults):,} of them not as they should be")
    if faults:
        raise CommandError(f"{len(faults)} CRLs are not what the world should see", ExitCode.FAILED)
    return ExitCode.OK


@crl.command()
@_issuer_option
@admin_command
async def ccadb(context: AdminContext, issuer: str | None) -> ExitCode:
    """The CRL URLs of each issuer in the form that CCADB's fields take, exactly as certificates name them."""
    async with context.connection() as connection:
        issuers = [one for one in await store.issuers(connection) if issuer in (None, one.name)]
    if not issuers:
        raise CommandError(f"there is no issuer {issuer!r}" if issuer else "there is no issuer", ExitCode.NOT_FOUND)
    base = context.settings.ca.crl_base_url
    print_json({"issuers": [{
        "name": one.name, "sha256_fingerprint": hashlib.sha256(one.certificate).hexdigest().upper(),
        "json_array_of_partitioned_crls": [shard_url(base, one.name, shard) for shard in range(one.crl_shards)]
        if one.crl_shards > 1 else [],
        "json_array_of_all_full_crl_urls": [] if one.crl_shards > 1 else [shard_url(base, one.name, 0)],
    } for one in issuers]})
    return ExitCode.OK


async def _published(context: AdminContext, issuer: str | None) -> list[PublishedCrl]:
    async with context.connection() as connection:
        found = await store.published(connection, context.settings.ca.crl_base_url)
    found = [one for one in found if issuer in (None, one.issuer)]
    if not found:
        raise CommandError(f"no CRL of issuer {issuer!r} is published" if issuer else "no CRL is published",
                           ExitCode.NOT_FOUND)
    return found
