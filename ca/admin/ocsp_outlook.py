"""How OCSP is doing, and how it will be: ranges and signers as they are in the database, and what follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ca.admin.output import hours, span
from ca.process.postgres import Connection
from ocsp.protocol.forecast import DueRange, Forecast, forecast
from ocsp.protocol.schedule import oldest_allowed

# A pre-signer writes every five seconds that it runs.
_SEEN_WITHIN: Final = timedelta(seconds=60)
# Without any pre-signer everything breaks in the end; `process_missing` says that at once.
_SOON: Final = timedelta(hours=24)
# BR 4.9.9: the first response is there 15 minutes after the certificate; a queue that takes longer is a breach to come.
_FIRST_RESPONSE: Final = timedelta(minutes=15)
# Until a signer has signed something: slower than any P-256 token, faster than any RSA-4096.
_ASSUMED_CERTIFICATE_S: Final = 0.002

RANGES: Final = "SELECT issuer_id, signed_at, due_at, certificates FROM ocsp_shards"
SIGNERS: Final = """
SELECT worker, issuer_id, responder_id, certificate_s, seen_at FROM ocsp_signers WHERE seen_at > $1
ORDER BY worker, issuer_id
"""
WAITING: Final = "SELECT issuer_id, count(*) AS waiting FROM ocsp_requests GROUP BY issuer_id"
RESPONDERS: Final = """
SELECT DISTINCT ON (issuer_id) id, issuer_id, not_after FROM ocsp_responders WHERE certificate IS NOT NULL
ORDER BY issuer_id, not_after DESC
"""
LAST_BATCH: Final = "SELECT id, produced_at FROM ocsp_batches ORDER BY id DESC LIMIT 1"
SIGN_AGAIN: Final = "INSERT INTO ocsp_resign_requests (id, signed_before, operator) VALUES ($1, $2, $3)"
NOTIFY: Final = "SELECT pg_notify('ocsp_resign', '')"
NAMES: Final = "SELECT id, name FROM issuers"
# Ranges that were never signed again do not know yet what they hold.
LEFT: Final = """
SELECT count(*) AS ranges, coalesce(sum(CASE WHEN shard.certificates > 0 THEN shard.certificates ELSE (
    SELECT count(*) FROM certificates c WHERE c.serial >= shard.first_serial AND c.serial <= shard.last_serial
        AND c.issuer_id = shard.issuer_id AND c.not_after >= $1) END), 0)::bigint AS certificates
FROM ocsp_shards shard WHERE shard.due_at <= $1 OR $2 OR EXISTS (SELECT FROM ocsp_resign_requests)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspSigner:
    """A running pre-signer, for one issuer: `responder_id` 0 is the issuer's own key."""

    worker: str
    issuer_id: int
    responder_id: int
    certificate_s: float | None
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """The moment, and what will come of it. `uncounted`: ranges of days that are not over. `new_done_in`: until every
    waiting certificate has its first response."""

    forecast: Forecast
    certificates: int
    ranges: int
    uncounted: int
    signers: tuple[OcspSigner, ...]
    waiting: int
    new_done_in: timedelta | None
    responders: Mapping[int, tuple[int, datetime]]
    last_batch_id: int
    last_batch_at: datetime | None

    def alarms(self, now: datetime) -> list[tuple[str, str]]:
        """(code, text) of every rule that will be broken if nobody does anything."""
        found = []
        if self.forecast.breach_at is not None and (self.signers or self.forecast.breach_at - now < _SOON):
            when = "is broken since" if self.forecast.breach_at <= now else "will be broken in"
            found.append(("ocsp_breach", f"at this speed OCSP responses get {hours(self.forecast.oldest)} old; the "
                          f"rule of {hours(self.forecast.allowed)} (BR 4.9.9) {when} "
                          f"{span(self.forecast.breach_at - now)}: start more pre-signers"))
        if self.new_done_in is not None and self.new_done_in > _FIRST_RESPONSE:
            found.append(("ocsp_slow", f"{self.waiting:,} certificates wait for a response, the last for "
                          f"{span(self.new_done_in)} at the present speed; BR 4.9.9 allows {span(_FIRST_RESPONSE)}"))
        return found


async def outlook(connection: Connection, *, now: datetime, life_s: int) -> Outlook:
    """Asks the database and plays the next days through; responses live for `life_s` seconds."""
    ranges = [DueRange(issuer_id=row["issuer_id"], signed_at=row["signed_at"], due_at=row["due_at"],
                       certificates=row["certificates"]) for row in await connection.fetch(RANGES)]
    signers = tuple(OcspSigner(**row) for row in await connection.fetch(SIGNERS, now - _SEEN_WITHIN))
    speeds = certificate_seconds(signers)
    waiting = {row["issuer_id"]: row["waiting"] for row in await connection.fetch(WAITING)}
    last = await connection.fetchrow(LAST_BATCH)
    return Outlook(
        forecast=forecast(ranges, speeds, now=now, allowed=oldest_allowed(timedelta(seconds=life_s))),
        ranges=len(ranges), certificates=sum(one.certificates for one in ranges),
        uncounted=sum(1 for one in ranges if not one.certificates), signers=signers, waiting=sum(waiting.values()),
        new_done_in=_new_done_in(waiting, speeds),
        responders={row["issuer_id"]: (row["id"], row["not_after"]) for row in await connection.fetch(RESPONDERS)},
        last_batch_id=last["id"] if last else 0, last_batch_at=last["produced_at"] if last else None)


def certificate_seconds(signers: Sequence[OcspSigner]) -> dict[int, float]:
    """Issuer -> seconds that all its signers together need for one certificate."""
    rates: dict[int, float] = {}
    for signer in signers:
        rates[signer.issuer_id] = rates.get(signer.issuer_id, 0.0) + 1 / (signer.certificate_s
                                                                          or _ASSUMED_CERTIFICATE_S)
    return {issuer_id: 1 / rate for issuer_id, rate in rates.items()}


def _new_done_in(waiting: Mapping[int, int], speeds: Mapping[int, float]) -> timedelta | None:
    """None when something waits that nobody signs: the queue's own age says that."""
    if set(waiting) - set(speeds):
        return None
    return timedelta(seconds=sum(count * speeds[issuer_id] for issuer_id, count in waiting.items()))


async def ask_to_sign_again(connection: Connection, *, request_id: bytes, operator: str, now: datetime) -> None:
    """Everything signed before now is to be signed again."""
    async with connection.transaction():
        await connection.execute(SIGN_AGAIN, request_id, now, operator)
        await connection.execute(NOTIFY)


async def issuer_names(connection: Connection) -> dict[int, str]:
    """Issuer id -> name."""
    return {row["id"]: row["name"] for row in await connection.fetch(NAMES)}


async def left_to_sign(connection: Connection, *, now: datetime, everything: bool = False) -> tuple[int, int]:
    """(certificates, ranges) that are due: all of them while a request to sign them again waits, or when asked so."""
    row = await connection.fetchrow(LEFT, now, everything)
    assert row is not None  # noqa: S101 - an aggregate has one row
    return row["certificates"], row["ranges"]
