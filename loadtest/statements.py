"""Which statements an order costs, by role: the embedded server logs every one of them for a short run.

The log is switched on for these orders alone, because writing it costs time that the other rounds do not pay.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.acme_round import Target, closed_round, open_accounts, prepare_orders
from loadtest.chancery_process import Chancery
from loadtest.database import connected, server_counters, server_log
from loadtest.poll import PollPolicy
from loadtest.program import ProgramFault
from loadtest.report import Breakdown
from loadtest.session import Session

_ORDERS = 100
_ACCOUNTS = 4
_SETTLE_S = 1.5
_PREFIX = "loadtest|%u|"
_LINE = re.compile(r"^loadtest\|(?P<role>[^|]*)\|LOG:\s+duration: (?P<ms>[\d.]+) ms\s+"
                   r"(?P<phase>parse|bind|execute|statement)(?: [^:]*)?: (?P<sql>.*)$", re.DOTALL)
_SHOWN_CHARACTERS = 110


@dataclass(slots=True, kw_only=True)
class Statement:
    """How often one statement ran, and the milliseconds of parsing, planning and running it."""

    role: str
    sql: str
    calls: int = 0
    total_ms: float = 0.0


async def statements_of_orders(session: Session, chancery: Chancery, target: Target, polling: PollPolicy) -> None:
    """Adds two breakdowns: server counters an order, and statements an order."""
    try:
        async with connected(chancery, superuser=True) as connection:
            log = server_log(chancery)
            accounts = await open_accounts(target, _ACCOUNTS, session.challenges, polling)
            with session.steps("acme: statements of an order", 1):
                for name, value in (("log_line_prefix", _PREFIX), ("log_min_duration_statement", "0")):
                    await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
                await connection.execute("SELECT pg_reload_conf()")
                await asyncio.sleep(0.5)
                begins_at, before = log.stat().st_size, await server_counters(connection)
                try:
                    found = await closed_round(target, accounts, prepare_orders(_ORDERS), seconds_s=60.0)
                    await asyncio.sleep(_SETTLE_S)  # the counters of a backend arrive when it is idle
                    counted = (await server_counters(connection)).minus(before)
                finally:
                    for name in ("log_line_prefix", "log_min_duration_statement"):
                        await connection.execute(f"ALTER SYSTEM RESET {name}")
                    await connection.execute("SELECT pg_reload_conf()")
                    for account in accounts:
                        account.close()
            with log.open("r", encoding="utf-8", errors="replace") as file:
                file.seek(begins_at)
                statements = tally(file.read())
    except ProgramFault as fault:
        session.report.note(f"acme: statements of an order not counted: {fault}")
        return
    orders = len(found.orders_s)
    if not orders:
        session.report.note("acme: statements of an order not counted: no order succeeded")
        return
    session.report.breakdowns.append(_breakdown(statements, orders))
    session.report.details["acme database, an order"] = {
        "transactions": round(counted.transactions / orders, 1), "wal_bytes": round(counted.wal_bytes / orders),
        "wal_syncs": round(counted.wal_syncs / orders, 2), "http_requests": round(found.requests / orders, 2)}
    session.report.breakdowns.append(Breakdown(
        title="Database, one order", headings=("what", "an order"), rows=[
            ("transactions", f"{counted.transactions / orders:.1f}"),
            ("write-ahead log, bytes", f"{counted.wal_bytes / orders:,.0f}"),
            ("write-ahead log forced to disk", f"{counted.wal_syncs / orders:.1f}"),
            ("HTTP requests of the client", f"{found.requests / orders:.1f}")]))


def tally(text: str) -> list[Statement]:
    """Statements of a server log, the one that took longest in all first."""
    found: dict[tuple[str, str], Statement] = {}
    for entry in _entries(text):
        match = _LINE.match(entry)
        if match is None or match["role"] == "postgres":
            continue
        sql = " ".join(match["sql"].split())
        statement = found.setdefault((match["role"], sql), Statement(role=match["role"], sql=sql))
        statement.total_ms += float(match["ms"])
        if match["phase"] in ("execute", "statement"):
            statement.calls += 1
    return sorted(found.values(), key=lambda one: -one.total_ms)


def _entries(text: str) -> Iterator[str]:
    """Log entries; the lines of a statement after its first begin with a tab."""
    entry: list[str] = []
    for line in text.splitlines():
        if line.startswith("\t"):
            entry.append(line)
            continue
        if entry:
            yield "\n".join(entry)
        entry = [line]
    if entry:
        yield "\n".join(entry)


def _breakdown(statements: list[Statement], orders: int) -> Breakdown:
    by_role: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in statements:
        by_role[one.role][0] += one.calls
        by_role[one.role][1] += one.total_ms
    rows = [(role, "all statements", f"{calls / orders:.1f}", f"{total_ms / orders:.2f}")
            for role, (calls, total_ms) in sorted(by_role.items(), key=lambda one: -one[1][1])]
    rows += [(one.role, one.sql[:_SHOWN_CHARACTERS], f"{one.calls / orders:.2f}", f"{one.total_ms / orders:.3f}")
             for one in statements[:40]]
    return Breakdown(title="Statements of one order (times while all are logged)",
                     headings=("role", "statement", "calls", "ms"), rows=rows)
