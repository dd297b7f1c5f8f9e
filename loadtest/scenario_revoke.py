"""A mass revocation as an operator orders it: made-up certificates, until all are revoked, signed for, and in CRLs."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from loadtest.chancery_process import Chancery, chancery_command
from loadtest.database import Connection, connected
from loadtest.mass_revoked import seen_from_outside
from loadtest.process_cpu import spent_between
from loadtest.program import ProgramFault
from loadtest.report import Row
from loadtest.session import Session
from loadtest.synthetic import Issuer, active_issuers, insert_certificates, make_serials, require_own
from loadtest.targets import MILLION_REVOCATIONS_S

_SCENARIO = "revoke"
_MILLION = 1_000_000
_POLL_S = 0.5
# CRLs wait for each other while there are very many; then they have minutes for the last ones.
_CRL_PATIENCE_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeOptions:
    """How many certificates of each kind of issuer are revoked."""

    ec_certificates: int
    rsa_certificates: int


@dataclass(slots=True, kw_only=True)
class _Times:
    """Seconds since the order: all in the database, all signed for, all in CRLs."""

    rows_s: float = 0.0
    ocsp_s: float = 0.0
    crls_s: float = 0.0


async def run_revoke(session: Session, options: RevokeOptions) -> None:
    """Measures and adds rows. Raises ProgramFault when Chancery or its database cannot be reached."""
    chancery = await session.chancery()
    require_own(chancery)
    async with connected(chancery) as connection:
        for issuer in await active_issuers(connection):
            count = options.ec_certificates if issuer.key_type == "ec" else options.rsa_certificates
            if count:
                with session.steps(f"revoke {count:,} of {issuer.name}", 1):
                    since = datetime.now(UTC)
                    serials = make_serials(count, since)
                    await insert_certificates(connection, issuer, serials)
                    await connection.execute("ANALYZE certificates")
                    await _measure(session, chancery, connection, issuer, serials, since)


async def _measure(session: Session, chancery: Chancery, connection: Connection, issuer: Issuer,
                   serials: Sequence[bytes], since: datetime) -> None:
    count = len(serials)
    before = chancery.cpu_s()
    started = time.perf_counter()
    ordering = asyncio.create_task(_order(chancery, issuer, since))
    times = await _watch(connection, issuer, count, started, since)
    told = await ordering
    cpu_s = spent_between(before, chancery.cpu_s())
    sizes = await connection.fetch("""
        SELECT DISTINCT ON (shard) entries, octet_length(der) AS size, der FROM crls WHERE issuer_id = $1
        ORDER BY shard, number DESC""", issuer.id)
    made = await connection.fetchval("SELECT count(*) FROM crls WHERE issuer_id = $1 AND this_update >= $2", issuer.id,
                                     since)
    seen = await seen_from_outside(issuer, serials, [row["der"] for row in sizes],
                                   responder_url=chancery.settings()["ca"]["ocsp_url"])
    session.report.details[f"revoke {issuer.name}"] = {
        "certificates": count, "rows_s": times.rows_s, "ocsp_s": times.ocsp_s, "crls_s": times.crls_s, "cpu_s": cpu_s,
        "told": told, "crls_made": made, "seen": asdict(seen),
        "crls": [{"entries": row["entries"], "size": row["size"]} for row in sizes]}
    most = max(sizes, key=lambda row: row["entries"])
    for what, seconds_s, target in (("in the database", times.rows_s, None), ("and every OCSP response", times.ocsp_s,
                                    MILLION_REVOCATIONS_S), ("and every CRL", times.crls_s, None)):
        session.report.add(Row(
            scenario=_SCENARIO, figure=f"a million revoked, {issuer.key_type.upper()} issuer: {what}", unit="s",
            value=seconds_s * _MILLION / count, target=target, note=f"{count:,} in {seconds_s:.0f} s"))
    session.report.add(Row(scenario=_SCENARIO, figure=f"largest CRL, {issuer.key_type.upper()} issuer", unit="B",
                           value=most["size"], note=f"{most['entries']:,} entries"))
    session.report.note(f"revoke, {issuer.key_type.upper()} issuer: all {seen.listed:,} are in the {len(sizes)} CRLs "
                        f"as they are served, and {seen.asked:,} answers of the responder say revoked")


async def _order(chancery: Chancery, issuer: Issuer, since: datetime) -> object:
    """`chancery revoke`, to its end. Raises ProgramFault when it fails."""
    command = await asyncio.create_subprocess_exec(
        chancery_command(), "revoke", "--query", f"issuer='{issuer.name}' since={since.isoformat()}", "--reason",
        "superseded", "--comment", "load test", "--yes", "--output", "json", "--config",
        str(chancery.require_data_dir() / "chancery.toml"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await command.communicate()
    if command.returncode:
        raise ProgramFault(f"chancery revoke ended with code {command.returncode}: {err.decode().strip()[-500:]}")
    return json.loads(out)


async def _watch(connection: Connection, issuer: Issuer, count: int, started: float, since: datetime) -> _Times:
    """`since`: the order is of this time or later. Raises ProgramFault when the CRLs do not follow."""
    times = _Times()
    while True:
        await asyncio.sleep(_POLL_S)
        now_s = time.perf_counter() - started
        if not times.rows_s:
            done = await connection.fetchval(
                "SELECT finished_at IS NOT NULL FROM mass_revocations WHERE requested_at >= $1", since)
            times.rows_s = now_s if done else 0.0
            continue
        if not times.ocsp_s and not await connection.fetchval(
                "SELECT EXISTS (SELECT FROM ocsp_requests WHERE version > 0 AND issuer_id = $1)", issuer.id):
            times.ocsp_s = now_s
        listed = await connection.fetchval("""
            SELECT sum(entries) FROM (SELECT DISTINCT ON (shard) entries FROM crls WHERE issuer_id = $1
                                      ORDER BY shard, number DESC) AS latest""", issuer.id)
        if not times.crls_s and listed >= count:
            times.crls_s = now_s
        if times.ocsp_s and times.crls_s:
            return times
        if now_s - times.rows_s > _CRL_PATIENCE_S:
            raise ProgramFault(f"CRLs list {listed:,} of {count:,} revocations, {_CRL_PATIENCE_S:.0f} s after the last")
