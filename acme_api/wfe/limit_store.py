"""What the role acme_wfe does with rate limits.

A bucket is taken from in the statement that stores what is limited (`with_limits`). A
request that finds no room stores and writes nothing; of requests that race for the last room, the loser's whole
statement is undone by the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from acme_api.protocol.rate_limit import Attempt, LimitName, Rate, Standing, Take
from ca.pki.identifier import Identifier
from ca.process.postgres import Pool, PostgresError, Record
from ca.process.sessions import Sessions

_OVER_LIMIT: Final = "CH429"

_ROOM: Final = """wanted AS MATERIALIZED (
    SELECT limit_name, subject, weight_s * interval '1 second' AS weight, {now}::timestamptz
        + period_s * interval '1 second' AS latest
    FROM unnest({limits}::text[], {subjects}::text[], {weights}::float8[], {periods}::float8[])
        AS w (limit_name, subject, weight_s, period_s)
), room AS MATERIALIZED (
    SELECT bool_and(greatest(b.full_at, {now}::timestamptz) + w.weight <= w.latest) AS is_left
    FROM wanted w LEFT JOIN rate_limits b USING (limit_name, subject)
)"""
_TAKEN: Final = """, taken AS (
    INSERT INTO rate_limits AS bucket (limit_name, subject, full_at)
    SELECT w.limit_name, w.subject, {now}::timestamptz + w.weight FROM {gate} CROSS JOIN wanted w
    ORDER BY w.limit_name, w.subject
    ON CONFLICT (limit_name, subject) DO UPDATE
        SET full_at = greatest(bucket.full_at, {now}::timestamptz) + (excluded.full_at - {now}::timestamptz)
    RETURNING full_at <= (SELECT w.latest FROM wanted w
        WHERE w.limit_name = bucket.limit_name AND w.subject = bucket.subject) OR refuse_over_limit()
)"""
_BUCKETS: Final = """
SELECT b.limit_name, b.subject, b.full_at
FROM unnest($1::text[], $2::text[]) AS w (limit_name, subject) JOIN rate_limits b USING (limit_name, subject)
"""
# Of each name the newest $6 validations of this account that ended, newest first. A fault of ours is nobody's failure.
_STANDINGS: Final = """
SELECT w.position, seen.ended, seen.failed, forgiven.unpaused_at, running.count AS running
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS w (type, value, position)
CROSS JOIN LATERAL (
    SELECT array_agg(validated_at ORDER BY validated_at DESC) AS ended,
        array_agg(problem IS NOT NULL ORDER BY validated_at DESC) AS failed
    FROM (
        SELECT v.validated_at, v.problem FROM authorizations a JOIN validations v ON v.authorization_id = a.id
        WHERE a.account_id = $1 AND hashtext(a.identifier_value) = hashtext(w.value) AND a.identifier_value = w.value
            AND a.identifier_type = w.type AND a.id >= $4 AND v.authorization_id >= $4
            AND v.problem ->> 'type' IS DISTINCT FROM $5
        ORDER BY v.validated_at DESC LIMIT $6) AS newest
) AS seen
LEFT JOIN LATERAL (
    SELECT max(u.unpaused_at) AS unpaused_at FROM limit_unpauses u
    WHERE u.account_id = $1 AND u.identifier_value IN ('', w.value)) AS forgiven ON true
CROSS JOIN LATERAL (
    SELECT count(*) FROM authorizations a JOIN validation_requests q ON q.authorization_id = a.id
    WHERE $7 AND a.account_id = $1 AND hashtext(a.identifier_value) = hashtext(w.value)
        AND a.identifier_value = w.value AND a.identifier_type = w.type AND a.id >= $4
        AND q.kind = 'challenge') AS running
WHERE seen.ended IS NOT NULL OR running.count > 0
"""
# Whether a certificate for exactly the names $2, one of which is $1, was issued since $3: then this is its renewal.
_IS_RENEWAL: Final = """
SELECT EXISTS (
    SELECT FROM certificate_names n JOIN certificates c ON c.serial = n.serial JOIN orders o ON o.id = c.request_id
    WHERE n.reversed_name = reverse($1) AND n.serial >= $3 AND c.serial >= $3
        AND cardinality(o.identifier_values) = cardinality($2::text[]) AND o.identifier_values @> $2::text[])
"""
_LOCK_BUCKET: Final = "SELECT full_at FROM rate_limits WHERE limit_name = $1 AND subject = $2 FOR UPDATE"
_PENDING: Final = """
SELECT array_agg(expires_at ORDER BY expires_at) FROM (
    SELECT a.expires_at FROM authorizations a
    WHERE a.account_id = $1 AND a.id >= $2 AND a.deactivated_at IS NULL AND a.expires_at > $3
        AND NOT EXISTS (SELECT FROM validations v WHERE v.authorization_id = a.id AND v.authorization_id >= $2)
    LIMIT $4) AS pending
"""
_SET_BUCKET: Final = "UPDATE rate_limits SET full_at = $3 WHERE limit_name = $1 AND subject = $2"
_OVERRIDES: Final = "SELECT limit_name, subject, burst, period_s, until FROM limit_overrides"


def with_limits(statement: str, *, first: int, gate: str) -> str:
    """A statement that takes from buckets too; `store_limited` has the values of its parameters from `$first` on.

    Its `{room}` becomes common table expressions of which `room.is_left` says, before anything is written, whether all
    buckets have room; its `{taken}` becomes one that takes once for each row of `gate`, an earlier one or a subquery.
    The rows are touched in one order everywhere, so that no two requests wait for each other.
    """
    names = ("limits", "subjects", "weights", "periods", "now")
    parameters = {name: f"${first + offset}" for offset, name in enumerate(names)}
    return statement.format(room=_ROOM.format(**parameters), taken=_TAKEN.format(gate=gate, **parameters))


def without_limits(statement: str) -> str:
    """The statement when nothing is limited: not a word about buckets."""
    return statement.format(room="room AS (SELECT true AS is_left)", taken="")


async def fetch_limited(
    sessions: Sessions, statement: str, takes: Sequence[Take], now: datetime, *arguments: Any
) -> Record | None:
    """The row of a statement; None when there is none, or another request took the last room. `takes` become its last
    parameters when there are any."""
    if takes:
        arguments += ([take.limit.value for take in takes], [take.subject for take in takes],
                      [take.weight_s for take in takes], [float(take.rate.period_s) for take in takes], now)
    try:
        return await sessions.fetchrow(statement, *arguments)
    except PostgresError as fault:
        if fault.sqlstate == _OVER_LIMIT:
            return None
        raise


async def store_limited(
    sessions: Sessions, statement: str, takes: Sequence[Take], now: datetime, *arguments: Any
) -> bool:
    """As `fetch_limited`; whether the statement stored its row."""
    return await fetch_limited(sessions, statement, takes, now, *arguments) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A rate for one subject until a moment; None: no limit."""

    rate: Rate | None
    until: datetime


class LimitStore:
    """Statements about limits; decisions are made in limits.py and the protocol package."""

    def __init__(self, *, reads: Sessions, transactions: Pool) -> None:
        self._reads = reads
        self._transactions = transactions

    async def buckets(self, takes: Sequence[Take]) -> Mapping[tuple[LimitName, str], datetime]:
        """When buckets will be full again; one that is full is left out."""
        rows = await self._reads.fetch(_BUCKETS, [take.limit.value for take in takes],
                                       [take.subject for take in takes])
        return {(LimitName(row["limit_name"]), row["subject"]): row["full_at"] for row in rows}

    async def standings(
        self, account_id: bytes, identifiers: Sequence[Identifier], *, made_after: bytes, newest: int,
        with_running: bool,
    ) -> list[Standing]:
        """How validations went, of those identifiers that had any; authorizations made before are not looked at.
        `with_running`: those that have begun and not ended are counted too."""
        rows = await self._reads.fetch(
            _STANDINGS, account_id, [each.type for each in identifiers], [each.base for each in identifiers],
            made_after, "urn:ietf:params:acme:error:serverInternal", newest, with_running)
        return [Standing(
            identifier=identifiers[row["position"] - 1], forgiven_at=row["unpaused_at"],
            running=row["running"], attempts=[
                Attempt(at=at, failed=failed)
                for at, failed in zip(row["ended"] or (), row["failed"] or (), strict=True)])
            for row in rows]

    async def is_renewal(self, identifiers: Sequence[Identifier], *, since_serial: bytes) -> bool:
        """Whether a certificate for exactly these identifiers was issued with a serial number from there on."""
        values = [each.value for each in identifiers]
        return bool(await self._reads.fetchval(_IS_RENEWAL, values[0], values, since_serial))

    async def recount_pending(
        self, take: Take, account_id: bytes, *, made_after: bytes, now: datetime
    ) -> Sequence[datetime]:
        """When an account's pending authorizations expire, first to last, and at most `burst` of them; its bucket,
        which only knows how many were made, is set to that many."""
        async with self._transactions.acquire() as connection, connection.transaction():
            await connection.fetchval(_LOCK_BUCKET, take.limit.value, take.subject)
            expiries: Sequence[datetime] = await connection.fetchval(
                _PENDING, account_id, made_after, now, take.rate.burst) or []
            await connection.execute(_SET_BUCKET, take.limit.value, take.subject,
                                     now + timedelta(seconds=len(expiries) * take.rate.interval_s))
        return expiries

    async def overrides(self) -> Mapping[tuple[str, str], Override]:
        """Every override by limit and subject."""
        rows = await self._reads.fetch(_OVERRIDES)
        return {(row["limit_name"], row["subject"]): Override(
            rate=Rate(burst=row["burst"], period_s=row["period_s"]) if row["burst"] else None, until=row["until"])
            for row in rows}
