"""Is everything well? One look at the database, the reasons why it is not, and the same view for terminal and page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from cryptography import x509

from ca.admin import status_store as store
from ca.admin.ocsp_outlook import Outlook, outlook
from ca.admin.output import Column, count, day, distance, hours, moment, moment_json, relative, size, span
from ca.admin.records import CrlFreshness, Facts, Issuer, Queue
from ca.process.postgres import Connection
from ca.process.settings import OcspSettings
from ocsp.protocol.schedule import oldest_allowed, warning_age

# Every process that always runs; one that keeps no connection to the database does no work.
EXPECTED_PROCESSES = ("wfe", "va", "ca", "presign", "ocsp", "crl", "admin")
_CT_PROCESSES = ("publisher",)
_OWN_PROCESSES = ("cli",)
# How long the oldest entry of a queue may wait before somebody should look. The first OCSP response is due after
# 15 minutes (BR 4.9.9), a validation may try for a minute (RFC 8555 8.2).
_QUEUE_PATIENCE = {
    "validation": timedelta(minutes=5),
    "issuance": timedelta(minutes=1),
    "revocation": timedelta(minutes=5),
    "ocsp": timedelta(minutes=5),
    "transparency": timedelta(minutes=1),
}
_OLDEST_CRL = timedelta(hours=24)        # BR 4.9.7: after a revocation; every shard is made anew within 6 hours
_ISSUER_NOTICE = timedelta(days=100)     # a certificate of 90 days would outlive it
_PARTITION_NOTICE = timedelta(days=3)    # eight days are made ahead
_SERIAL_EPOCH = date(2020, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Something that is not as it should be; `code` is stable, for programs."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The facts of one moment and what is wrong with them."""

    looked_at: datetime
    facts: Facts
    outlook: Outlook
    processes: tuple[str, ...]         # those that should run
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A titled table of the view."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


async def look(
    connection: Connection, *, now: datetime, ocsp: OcspSettings, transparency: bool = False,
    notices: Iterable[Reason] = (),
) -> Status:
    """Asks the database and judges the answer. `transparency`: whether certificates are logged. `notices`: what else is
    known to be degraded."""
    # A certificate is signed within moments of its serial number; two days are enough for any half-issued one.
    day = (now.astimezone(UTC) - timedelta(days=2)).date()
    facts = await store.facts(connection, now=now, serials_from=(256 + (day - _SERIAL_EPOCH).days).to_bytes(2, "big"),
                              signed_after=now - timedelta(days=1))
    processes = EXPECTED_PROCESSES + _CT_PROCESSES if transparency else EXPECTED_PROCESSES
    ahead = await outlook(connection, now=now, life_s=ocsp.response_life_s)
    found = (*reasons(facts, processes, now=now, ocsp=ocsp),
             *(Reason(code=code, text=text) for code, text in ahead.alarms(now)), *notices)
    return Status(looked_at=now, facts=facts, processes=processes, outlook=ahead, reasons=found)


def not_after(issuer: Issuer) -> datetime:
    """When an issuing certificate ends."""
    return x509.load_der_x509_certificate(issuer.certificate).not_valid_after_utc


def reasons(
    facts: Facts, processes: Sequence[str], *, now: datetime, ocsp: OcspSettings
) -> tuple[Reason, ...]:
    """Everything that is degraded, the most pressing first."""
    connected = {process.process for process in facts.processes}
    found = [Reason(code="process_missing", text=f"no process {name} is connected to the database")
             for name in processes if name not in connected]
    for queue in facts.queues:
        if is_stuck(queue, now):
            assert queue.oldest_at is not None  # noqa: S101 - is_stuck says so
            found.append(Reason(code="queue_stuck", text=f"the oldest of {queue.depth} in the {queue.name} queue has "
                                f"waited for {span(now - queue.oldest_at)}"))
    found += [Reason(code="perspective_away", text=f"perspective {each.name} does not answer: {each.fault}")
              for each in facts.perspectives if each.fault is not None]
    oldest = facts.ocsp.oldest_signed_at
    life, age = timedelta(seconds=ocsp.response_life_s), timedelta(seconds=ocsp.resign_age_s)
    if oldest is not None and now - oldest > warning_age(life=life, age=age):
        found.append(Reason(code="ocsp_old", text=f"the oldest OCSP response was signed {hours(now - oldest)} ago; "
                            f"{hours(warning_age(life=life, age=age))} is our limit and {hours(oldest_allowed(life))} "
                            "that of BR 4.9.9"))
    for crls in facts.crls:
        state = crl_state(crls, now)
        if state != "ok":
            found.append(Reason(code="crl_" + state.split()[0], text=f"CRLs of {crls.issuer_name}: {state}"))
    if not any(issuer.active and not_after(issuer) > now for issuer in facts.issuers):
        found.append(Reason(code="issuer_none", text="no issuer is active: nothing can be issued"))
    found += [Reason(code="issuer_ends", text=f"issuer {issuer.name} ends {relative(not_after(issuer), now)}; make its "
                     "successor in a ceremony")
              for issuer in facts.issuers if issuer.active and not_after(issuer) - now < _ISSUER_NOTICE]
    until = facts.partitions_until
    if until is None or until < (now + _PARTITION_NOTICE).date():
        found.append(Reason(code="partitions_end", text=f"partitions end at {until}: nothing can be stored after that; "
                            "run `chancery db maintain`, and see why `chancery run admin` does not"))
    return tuple(found)


def is_stuck(queue: Queue, now: datetime) -> bool:
    """Whether the oldest entry has waited for too long."""
    return queue.oldest_at is not None and now - queue.oldest_at > _QUEUE_PATIENCE[queue.name]


def crl_state(crls: CrlFreshness, now: datetime) -> str:
    """'ok', or what is wrong with an issuer's CRLs."""
    if crls.published < crls.shards:
        return f"missing {crls.shards - crls.published} of {crls.shards} shards"
    if crls.first_next_update is not None and crls.first_next_update <= now:
        return f"expired at {moment(crls.first_next_update)}"
    if crls.oldest_this_update is not None and now - crls.oldest_this_update > _OLDEST_CRL:
        return f"old: not made anew for {span(now - crls.oldest_this_update)}"
    return "ok"


def sections(status: Status) -> tuple[Section, ...]:
    """The view that the command and the page share."""
    perspectives = (_perspectives(status),) if status.facts.perspectives else ()
    return (_processes(status), _queues(status), *perspectives, _issuers(status), _freshness(status), _store(status))


def _processes(status: Status) -> Section:
    known = {process.process: process for process in status.facts.processes}
    others = [name for name in known if name not in status.processes and name not in _OWN_PROCESSES]
    rows = []
    for name in (*status.processes, *others):
        if name in known:
            rows.append((name, "ok", str(known[name].connections),
                         relative(known[name].connected_since, status.looked_at)))
        else:
            rows.append((name, "missing", "0", "-"))
    return Section(title="Processes", rows=tuple(rows), columns=(
        Column(title="process", whole=True), Column(title="state"), Column(title="connections", right=True),
        Column(title="connected since")))


def _queues(status: Status) -> Section:
    rows = tuple((queue.name, "stuck" if is_stuck(queue, status.looked_at) else "ok", str(queue.depth),
                  "-" if queue.oldest_at is None else span(status.looked_at - queue.oldest_at))
                 for queue in status.facts.queues)
    return Section(title="Queues", rows=rows, columns=(
        Column(title="queue", whole=True), Column(title="state"), Column(title="waiting", right=True),
        Column(title="oldest", right=True)))


def _perspectives(status: Status) -> Section:
    now = status.looked_at
    rows = []
    for each in status.facts.perspectives:
        waits = each.retry_at is not None and each.retry_at > now
        state = "ok" if each.fault is None else f"away, asked again in {span(each.retry_at - now)}" if (
            waits and each.retry_at is not None) else "away"
        rows.append((each.name, each.rir, state, "-" if each.lag_ms is None else f"{each.lag_ms} ms",
                     str(each.failures), "-" if each.answered_at is None else relative(each.answered_at, now)))
    return Section(title="Perspectives", rows=tuple(rows), columns=(
        Column(title="perspective", whole=True), Column(title="region"), Column(title="state"),
        Column(title="lag", right=True), Column(title="failures", right=True), Column(title="answered")))


def _issuers(status: Status) -> Section:
    rows = tuple((issuer.name, "active" if issuer.active else "standby", issuer.key_type.upper(),
                  day(not_after(issuer), status.looked_at)) for issuer in status.facts.issuers)
    return Section(title="Issuers", rows=rows, columns=(
        Column(title="issuer"), Column(title="state"), Column(title="key"), Column(title="not after")))


def _freshness(status: Status) -> Section:
    """OCSP and CRLs in one table: what it is, how much of it, the oldest signature, when the first ends."""
    now = status.looked_at
    ocsp = status.facts.ocsp
    codes = {reason.code for reason in status.reasons}
    rows = [("OCSP", "old" if "ocsp_old" in codes else "ok",
             f"{count(ocsp.shards, 'range')}, {ocsp.overdue} due", _age(ocsp.oldest_signed_at, now), "-")]
    rows += [(f"CRL {crls.issuer_name}", crl_state(crls, now),
              f"{count(crls.published, 'CRL')}, {crls.entries:,} revoked", _age(crls.oldest_this_update, now),
              "-" if crls.first_next_update is None else distance(crls.first_next_update, now))
             for crls in status.facts.crls]
    return Section(title="Revocation status", rows=tuple(rows), columns=(
        Column(title="what"), Column(title="state"), Column(title="holds"), Column(title="oldest", right=True),
        Column(title="ends", right=True)))


def _age(value: datetime | None, now: datetime) -> str:
    return "-" if value is None else span(now - value)


def _store(status: Status) -> Section:
    facts = status.facts
    about = "" if facts.certificates.exact else "about "
    return Section(title="Database", columns=(Column(title="what"), Column(title="value")), rows=(
        ("certificates stored", f"{about}{facts.certificates.stored:,}"),
        ("certificates signed in 24 h", f"{facts.certificates.last_24_h:,}"),
        ("PostgreSQL", f"{facts.database_version}, {size(facts.database_size_bytes)}"),
        ("partitions until", str(facts.partitions_until or "missing")),
    ))


def document(status: Status) -> dict[str, object]:
    """The status as JSON."""
    facts = status.facts
    connections = {process.process: process for process in facts.processes}
    return {
        "status": "degraded" if status.reasons else "ok",
        "looked_at": moment_json(status.looked_at),
        "reasons": [{"code": reason.code, "text": reason.text} for reason in status.reasons],
        "processes": [
            {"process": name, "connected": name in connections,
             "connections": connections[name].connections if name in connections else 0,
             "connected_since": moment_json(connections[name].connected_since) if name in connections else None}
            for name in sorted({*status.processes, *connections} - {*_OWN_PROCESSES})],
        "queues": [
            {"queue": queue.name, "depth": queue.depth, "oldest_at": moment_json(queue.oldest_at),
             "oldest_age_s": None if queue.oldest_at is None
             else max(0, int((status.looked_at - queue.oldest_at).total_seconds()))} for queue in facts.queues],
        "perspectives": [
            {"name": each.name, "rir": each.rir, "reachable": each.fault is None, "lag_ms": each.lag_ms,
             "failures": each.failures, "answered_at": moment_json(each.answered_at),
             "retry_at": moment_json(each.retry_at), "fault": each.fault} for each in facts.perspectives],
        "issuers": [
            {"name": issuer.name, "key_type": issuer.key_type, "active": issuer.active,
             "not_after": moment_json(not_after(issuer))} for issuer in facts.issuers],
        "certificates": {"stored": facts.certificates.stored, "exact": facts.certificates.exact,
                         "last_24_h": facts.certificates.last_24_h},
        "ocsp": {"shards": facts.ocsp.shards, "overdue": facts.ocsp.overdue,
                 "oldest_signed_at": moment_json(facts.ocsp.oldest_signed_at)},
        "crls": [
            {"issuer": crls.issuer_name, "shards": crls.shards, "published": crls.published, "entries": crls.entries,
             "oldest_this_update": moment_json(crls.oldest_this_update),
             "first_next_update": moment_json(crls.first_next_update)} for crls in facts.crls],
        "database": {"version": facts.database_version, "size_bytes": facts.database_size_bytes,
                     "partitions_until": None if facts.partitions_until is None
                     else facts.partitions_until.isoformat()},
    }
