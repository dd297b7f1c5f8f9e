"""Database bytes per certificate: what each table grew by while orders of one name were issued."""

from dataclasses import dataclass

from loadtest.acme_round import Target, closed_round, open_accounts, prepare_orders
from loadtest.database import TableSize, connected, table_sizes
from loadtest.peers import tls_trusting
from loadtest.poll import PollPolicy
from loadtest.report import Breakdown, Row
from loadtest.session import Session
from loadtest.targets import BYTES_PER_CERTIFICATE

_SCENARIO = "storage"
_ACCOUNTS = 16
# Rows of queues are deleted and their room is used again; partitions of spent nonces are dropped with the nonces' life.
_PASSING = ("spent_nonces", "validation_requests", "issuance_requests", "ocsp_requests")
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """How many certificates are issued between the two looks."""

    certificates: int


async def run_storage(session: Session, options: StorageOptions) -> None:
    """Measures and adds rows. Raises ProgramFault when Chancery or its database cannot be reached."""
    chancery = await session.chancery()
    target = Target(name="Chancery", directory_url=chancery.directory_url, tls=tls_trusting(chancery.roots),
                    cpu_s=chancery.cpu_s)
    accounts = await open_accounts(target, _ACCOUNTS, session.challenges, PollPolicy(first_s=0.02))
    async with connected(chancery) as connection:
        before = await table_sizes(connection)
        with session.steps(f"storage: {options.certificates} orders", 1):
            found = await closed_round(target, accounts, prepare_orders(options.certificates), seconds_s=_TIMEOUT_S)
        after = await table_sizes(connection)
    for account in accounts:
        account.close()
    session.report.errors += [f"storage: {count} x {text}" for text, count in found.faults.items()]
    issued = len(found.orders_s)
    if not issued:
        session.report.errors.append("storage: no certificate was issued")
        return
    grown = {name: size.minus(before.get(name)) for name, size in after.items()}
    _report(session, {name: size for name, size in grown.items() if size.total}, issued)


def _report(session: Session, grown: dict[str, TableSize], issued: int) -> None:
    total = sum(size.total for size in grown.values())
    session.report.add(Row(scenario=_SCENARIO, figure="database bytes per certificate, all tables and indexes",
                           note=f"{issued} orders of one name", value=total / issued, unit="B",
                           target=BYTES_PER_CERTIFICATE))
    lasting = sum(size.total for name, size in grown.items() if name not in _PASSING)
    session.report.add(Row(scenario=_SCENARIO, figure="database bytes per certificate, without queues and spent nonces",
                           note="what stays after hours", value=lasting / issued, unit="B"))
    ordered = sorted(grown.items(), key=lambda one: -one[1].total)
    session.report.details["storage bytes per certificate"] = {
        name: {"heap": size.heap / issued, "toast": size.toast / issued, "indexes": size.indexes / issued}
        for name, size in ordered}
    session.report.breakdowns.append(Breakdown(
        title="Bytes per certificate by table", headings=("table", "rows", "out of line", "indexes", "all"), rows=[
            (name, f"{size.heap / issued:,.0f}", f"{size.toast / issued:,.0f}", f"{size.indexes / issued:,.0f}",
             f"{size.total / issued:,.0f}") for name, size in ordered]))
