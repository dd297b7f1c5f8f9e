"""`chancery audit`: the audit logs of the processes that sign, verified from their files; and whether all that is
stored holds together, with itself and with those logs."""

from pathlib import Path

import click

from ca.admin import upkeep_store as store
from ca.admin.checker import SLICE_ROWS, Report, check, check_logs
from ca.admin.commands.audit_lint import findings, lint
from ca.admin.context import (
    AdminContext,
    CommandError,
    ExitCode,
    admin_command,
)
from ca.admin.output import Column, moment, moment_json, print_facts, print_json, print_line, print_table
from ca.process.audit_reader import ChainBroken, ChainSummary, chain_directories, summarize
from ca.process.settings import audit_directory

_EXIT_CODES = {"ok": ExitCode.OK, "late": ExitCode.DEGRADED, "broken": ExitCode.FAILED}


@click.group()
def audit() -> None:
    """Audit logs: verify. Everything that is stored: check. Certificates by today's rules: lint, findings."""


audit.add_command(lint)
audit.add_command(findings)


@audit.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="The logs, or a copy of them.  [default: the configured directory]")
@click.option("--offline", is_flag=True, help="Do not ask the database for the heads that were anchored in it.")
@admin_command
async def verify(context: AdminContext, directory: Path | None, offline: bool) -> ExitCode:
    """Verify every chain: no record changed, missing or put in; each signature announced before it was made; and, with
    the database, nothing cut off since a head was anchored there. Exit code 1 when something is wrong."""
    root = directory or audit_directory(context.settings)
    chains = chain_directories(root)
    if not chains:
        raise CommandError(f"{root} holds no audit logs", ExitCode.NOT_FOUND)
    heads: dict[str, dict[int, bytes]] = {}
    if not offline:
        async with context.connection() as connection:
            heads = await store.audit_heads(connection)
    found = [_verified(chain, heads) for chain in chains]
    missing = sorted(set(heads) - {summary.chain for summary, _ in found if summary is not None})
    faults = [fault for _, faults in found for fault in faults] + [
        f"the database knows the chain {chain}, and {root} has it not" for chain in missing]
    _print(context, [summary for summary, _ in found if summary is not None], faults)
    if faults:
        raise CommandError(f"{len(faults)} things are wrong with the audit logs", ExitCode.FAILED)
    return ExitCode.OK


def _verified(chain: Path, heads: dict[str, dict[int, bytes]]) -> tuple[ChainSummary | None, list[str]]:
    """What a chain holds, and what is wrong with it."""
    try:
        summary, _ = summarize(chain)
        anchored = heads.get(summary.chain, {})
        digests = summarize(chain, anchored)[1] if anchored else {}
    except ChainBroken as fault:
        return None, [str(fault)]
    faults = [f"{chain.name}: record {number} says that something was signed which no record before announced"
              for number in summary.without_intent]
    for number, digest in anchored.items():
        if number not in digests:
            faults.append(f"{chain.name}: it ends at record {summary.records}, the database has seen record {number}")
        elif digests[number] != digest:
            faults.append(f"{chain.name}: record {number} is another than the one that the database has seen")
    return summary, faults


def _print(context: AdminContext, summaries: list[ChainSummary], faults: list[str]) -> None:
    if context.output == "json":
        print_json({"faults": faults, "chains": [{
            "name": each.name, "chain": each.chain, "records": each.records, "first_at": each.first_at,
            "last_at": each.last_at, "head_sha256": each.digest.hex(), "signatures": [
                {"kind": kind, "key": key, "asked": count, "signed": each.signed[kind, key]}
                for (kind, key), count in sorted(each.asked.items())]} for each in summaries]})
        return
    print_table(
        [Column(title="log", whole=True), Column(title="records", right=True), Column(title="from", whole=True),
         Column(title="to", whole=True), Column(title="signatures (asked for)")],
        [(each.name, f"{each.records:,}", each.first_at[:16], each.last_at[:16], "\n".join(
            f"{kind} by {key}: {each.signed[kind, key]:,} ({count:,})" for (kind, key), count
            in sorted(each.asked.items())) or "-") for each in summaries])
    for fault in faults:
        print_line(f"wrong: {fault}")


@audit.command(name="check")
@click.option("--dir", "directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="The audit logs of every CA process.  [default: the configured directory]")
@click.option("--no-logs", is_flag=True, help="Look at the database alone: the logs of some processes are elsewhere.")
@click.option("--slice", "slice_rows", type=click.IntRange(1, 1_000_000), default=SLICE_ROWS, show_default=True,
              help="Rows that are looked at together.")
@admin_command
async def check_command(context: AdminContext, directory: Path | None, no_logs: bool, slice_rows: int) -> ExitCode:
    """Put every rule to every row: serial numbers, intents, validations, CAA, SCTs, OCSP, CRLs, counts, signatures.

    Exits with 1 when something is broken, with 5 when something is late that will be made good.
    """
    async def progress(what: str) -> None:
        if context.output == "table":
            click.echo(f"checking {what} ...", err=True)

    chains = [] if no_logs else chain_directories(directory or audit_directory(context.settings))
    async with context.connection() as connection:
        report = await check(connection, now=context.ambient.now(), slice_rows=slice_rows, progress=progress)
        if chains:
            await progress("audit logs")
            try:
                report = report.with_result(await check_logs(connection, chains))
            except ChainBroken as fault:
                raise CommandError(f"{fault}: see `chancery audit verify`") from fault
    _print_report(context, report, has_logs=bool(chains))
    return _EXIT_CODES[report.state]


def _print_report(context: AdminContext, report: Report, *, has_logs: bool) -> None:
    if context.output == "json":
        print_json({"status": report.state, "looked_at": moment_json(report.looked_at), "counts": report.counts,
                    "signatures": report.signatures, "audit_logs": has_logs,
                    "rules": [{"code": result.code, "state": result.state, "rows": result.count, "text": result.text,
                               "examples": result.examples} for result in report.results]})
        return
    print_table([Column(title="rule", whole=True), Column(title="state", whole=True),
                 Column(title="rows", right=True), Column(title="what it says, and the first that break it")],
                [(result.code, result.state, f"{result.count:,}",
                  result.text if not result.count else f"{result.text}: {', '.join(result.examples)}")
                 for result in report.results])
    print_line("")
    print_facts([("looked at", moment(report.looked_at)),
                 *((name.replace("_", " "), f"{count:,}") for name, count in report.counts.items()),
                 ("signatures", f"{report.signatures:,} of issuing keys over certificates and precertificates"),
                 ("audit logs", "compared" if has_logs else "not compared"), ("status", report.state)])
