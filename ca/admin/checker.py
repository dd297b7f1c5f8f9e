"""The global checker: is what the database holds what a CA may have done? Set-based, in slices, in one snapshot.

It believes no process: every rule is put to the rows as they are. What it finds is either broken (an incident) or late
(something that will be made good, and is not yet).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from ca.admin import check_store as store
from ca.admin.check_store import RULES, Rule
from ca.pki.crl import crl_serials
from ca.pki.serial import shard as shard_of
from ca.process.audit_reader import read_chain
from ca.process.postgres import Connection

SLICE_ROWS: Final = 50_000
_SHOWN: Final = 5
_LOGGED_KINDS: Final = ("certificate", "precertificate")
# BR 4.9.7: in a CRL within 24 hours; ours are there within seconds, and CRLs of a mass revocation within minutes.
_CRL_LATE: Final = timedelta(minutes=15)
_CRL_LIMIT: Final = timedelta(hours=24)


@dataclass(slots=True, kw_only=True)
class Result:
    """What a rule came to: how many rows break it, and the first of them."""

    code: str
    text: str
    late: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, keys: Sequence[bytes | str]) -> None:
        """Takes up offenders."""
        self.count += len(keys)
        self.examples += [key if isinstance(key, str) else key.hex() for key in keys][:_SHOWN - len(self.examples)]

    @property
    def state(self) -> str:
        """'ok', 'late' or 'broken'."""
        return "ok" if self.count == 0 else "late" if self.late else "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was looked at."""

    looked_at: datetime
    counts: dict[str, int]
    results: tuple[Result, ...]

    def with_result(self, result: Result) -> "Report":
        """The report with one more rule."""
        return replace(self, results=(*self.results, result))

    @property
    def state(self) -> str:
        """The worst state of all rules."""
        states = {result.state for result in self.results}
        return "broken" if "broken" in states else "late" if "late" in states else "ok"

    @property
    def signatures(self) -> int:
        """How many signatures of issuing keys over certificates and precertificates there must have been at least."""
        return self.counts["certificate_signatures"] + self.counts["precertificate_signatures"]


async def _tell_nobody(_text: str) -> None:
    """Nobody watches."""


async def check(
    connection: Connection, *, now: datetime, slice_rows: int = SLICE_ROWS,
    progress: Callable[[str], Awaitable[None]] = _tell_nobody,
) -> Report:
    """Puts every rule to every row, in one snapshot of the database."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await store.force_custom_plans(connection)
        results = [Result(code=rule.code, text=rule.text, late=rule.late) for rule in RULES]
        for table in dict.fromkeys(rule.table for rule in RULES):
            await progress(table)
            await _check_table(connection, [(rule, result) for rule, result in zip(RULES, results, strict=True)
                                            if rule.table == table], table, slice_rows)
        await progress("crls")
        results += await _check_crls(connection, now)
        await progress("counts")
        counts = await store.counts(connection)
    results.append(_check_counts(counts))
    return Report(looked_at=now, counts=counts, results=tuple(results))


async def check_logs(connection: Connection, chains: Sequence[Path]) -> Result:
    """Signatures that the CA's audit logs tell of, and the bytes that are stored with one: the same, both ways.

    A signature that was made and is not stored is late while its intent is there: it is made again, over the same
    bytes. Raises ChainBroken. What announces a signature is on disk before it is made; that it was made may be lost
    with the process. The logs are read after the rows, and the rows once more, so that what is signed meanwhile counts
    on both sides.
    """
    before = {digest async for digest in store.signed_tbs(connection)}
    announced: set[str] = set()
    made: set[str] = set()
    for chain in chains:
        for record in read_chain(chain):
            if record.event in ("signing", "signed") and record.values.get("kind") in _LOGGED_KINDS:
                (made if record.event == "signed" else announced).add(str(record.values.get("tbs_sha256")))
    stored = {digest async for digest in store.signed_tbs(connection)}
    begun = {digest async for digest in store.intended_tbs(connection)}
    unlogged, unstored = before - announced, made - stored
    broken = Result(code="signatures", late=False,
                    text="signatures by the audit logs and those that are stored are not the same")
    broken.add([*(f"stored and not announced: {digest}" for digest in sorted(unlogged)),
                *(f"made and never intended: {digest}" for digest in sorted(unstored - begun))])
    if broken.count or not unstored:
        return broken
    late = Result(code="signatures", late=True, text="signatures were made whose rows are still to come")
    late.add(sorted(unstored))
    return late


async def _check_table(
    connection: Connection, rules: Sequence[tuple[Rule, Result]], table: str, slice_rows: int
) -> None:
    first: bytes | str
    first, past_every_key = store.BOUNDS[table]
    while True:
        end = await store.slice_end(connection, table, first, slice_rows)
        last = past_every_key if end is None else end
        for rule, result in rules:
            result.add(await store.offenders(connection, rule, first, last))
        if end is None:
            return
        first = end


def _check_counts(counts: dict[str, int]) -> Result:
    """The sums that follow from one row for each act."""
    result = Result(code="counts", text="the numbers of rows do not agree", late=False)
    sums = (("certificates = issuances + responders",
             counts["certificates"], counts["issuances"] + counts["responders"]),
            ("signatures of certificates <= certificates",
             min(counts["certificate_signatures"], counts["certificates"]), counts["certificate_signatures"]),
            ("final certificates <= precertificates",
             min(counts["final_certificates"], counts["precertificate_signatures"]), counts["final_certificates"]))
    result.add([f"{what}: {left:,} and {right:,}" for what, left, right in sums if left != right])
    return result


async def _check_crls(connection: Connection, now: datetime) -> list[Result]:
    """Every shard of an issuer in use has a CRL in force, and it lists what was revoked."""
    uncovered = Result(code="without_crl", text="a shard of an issuer whose certificates are valid has no CRL in force",
                       late=False)
    unlisted = Result(code="not_in_crl", text="a revoked certificate is in no CRL after 24 hours (BR 4.9.7)",
                      late=False)
    late = Result(code="crl_late", text="a revoked certificate is in no CRL after 15 minutes", late=True)
    for issuer_id, name, shards in await store.issuers(connection):
        for shard in range(shards):
            crl = await store.newest_crl(connection, issuer_id, shard)
            if crl.is_used and (crl.next_update is None or crl.next_update <= now):
                uncovered.add([f"{name}, shard {shard + 1}"])
            listed = set() if crl.der is None else crl_serials(crl.der)
            last_bytes = [byte for byte in range(256) if byte % shards == shard]
            # An entry stays until a CRL after the certificate's end has had it; until then it has to be there.
            revoked = await store.revoked_in_shard(connection, issuer_id, last_bytes, not_after=now)
            missing = [(serial, at) for serial, at in revoked if serial not in listed
                       and shard_of(serial, shards) == shard]
            unlisted.add([serial for serial, at in missing if now - at > _CRL_LIMIT])
            late.add([serial for serial, at in missing if _CRL_LATE < now - at <= _CRL_LIMIT])
    return [uncovered, unlisted, late]
