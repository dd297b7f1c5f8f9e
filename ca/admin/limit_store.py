"""What the role ca_admin does with rate limits: look at buckets and failures, make exceptions, forgive."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from acme_api.protocol.rate_limit import LimitName, Rate
from ca.pki.object_id import object_id
from ca.process.postgres import Connection

BUCKETS = "SELECT limit_name, subject, full_at FROM rate_limits WHERE subject = ANY($1::text[]) ORDER BY 1, 2"
OVERRIDES = "SELECT limit_name, subject, burst, period_s, until, reason FROM limit_overrides ORDER BY 1, 2"
SET_OVERRIDE = """
INSERT INTO limit_overrides (limit_name, subject, burst, period_s, until, reason, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (limit_name, subject) DO UPDATE SET burst = excluded.burst, period_s = excluded.period_s,
    until = excluded.until, reason = excluded.reason, created_at = excluded.created_at
"""
REMOVE_OVERRIDE = "DELETE FROM limit_overrides WHERE limit_name = $1 AND subject = $2 RETURNING subject"
NOTIFY_LIMITS = "SELECT pg_notify('limits', '')"
# Names whose latest validation failed: how many failed since the last success or pardon, and when the last did.
FAILING = """
WITH ended AS (
    SELECT a.identifier_value AS name, v.validated_at, v.problem IS NOT NULL AS failed
    FROM authorizations a JOIN validations v ON v.authorization_id = a.id
    WHERE a.account_id = $1 AND a.id >= $2 AND v.authorization_id >= $2
        AND v.problem ->> 'type' IS DISTINCT FROM 'urn:ietf:params:acme:error:serverInternal'
), since AS (
    SELECT name, greatest(max(validated_at) FILTER (WHERE NOT failed), (
        SELECT max(unpaused_at) FROM limit_unpauses WHERE account_id = $1 AND identifier_value IN ('', name)))
        AS moment
    FROM ended GROUP BY name
)
SELECT e.name, count(*) AS failures, max(e.validated_at) AS last_at
FROM ended e JOIN since s USING (name)
WHERE e.failed AND (s.moment IS NULL OR e.validated_at > s.moment)
GROUP BY e.name ORDER BY failures DESC, e.name
"""
UNPAUSE = """
INSERT INTO limit_unpauses (account_id, identifier_value, unpaused_at)
SELECT $1, name, $3 FROM unnest($2::text[]) AS name
ON CONFLICT (account_id, identifier_value) DO UPDATE SET unpaused_at = excluded.unpaused_at
"""
PRUNE_LIMITS = "SELECT prune_rate_limits()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What somebody has used: all of it is free again at `full_at`."""

    limit: LimitName
    subject: str
    full_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An exception; `rate` None: no limit."""

    limit: LimitName
    subject: str
    rate: Rate | None
    until: datetime
    reason: str


async def buckets(connection: Connection, *subjects: str) -> list[Bucket]:
    """The buckets of these subjects that are not full."""
    return [Bucket(limit=LimitName(row["limit_name"]), subject=row["subject"], full_at=row["full_at"])
            for row in await connection.fetch(BUCKETS, list(subjects))]


async def overrides(connection: Connection) -> list[Override]:
    """Every exception, also those that ended lately."""
    return [Override(limit=LimitName(row["limit_name"]), subject=row["subject"], until=row["until"],
                     reason=row["reason"],
                     rate=Rate(burst=row["burst"], period_s=row["period_s"]) if row["burst"] else None)
            for row in await connection.fetch(OVERRIDES)]


async def set_override(connection: Connection, override: Override, *, now: datetime) -> None:
    """Makes or changes an exception, and tells the servers."""
    burst, period_s = (override.rate.burst, override.rate.period_s) if override.rate else (0, 1)
    async with connection.transaction():
        await connection.execute(SET_OVERRIDE, override.limit.value, override.subject, burst, period_s, override.until,
                                 override.reason, now)
        await connection.execute(NOTIFY_LIMITS)


async def remove_override(connection: Connection, limit: LimitName, subject: str) -> bool:
    """Ends an exception, and tells the servers; False when there is none."""
    async with connection.transaction():
        removed = await connection.fetchval(REMOVE_OVERRIDE, limit.value, subject) is not None
        await connection.execute(NOTIFY_LIMITS)
    return removed


async def failing(connection: Connection, account_id: bytes, *, since: datetime) -> list[tuple[str, int, datetime]]:
    """Names of an account whose latest validations failed: how many in a row, and when the last did."""
    return [(row["name"], row["failures"], row["last_at"])
            for row in await connection.fetch(FAILING, account_id, object_id(since, bytes(16)))]


async def unpause(connection: Connection, account_id: bytes, names: Sequence[str], *, now: datetime) -> None:
    """Forgives what failed until now; the name "" stands for all."""
    await connection.execute(UNPAUSE, account_id, list(names), now)


async def prune(connection: Connection) -> int:
    """Forgets buckets that are full and exceptions that ended long ago; how many buckets."""
    pruned: int = await connection.fetchval(PRUNE_LIMITS)
    return pruned
