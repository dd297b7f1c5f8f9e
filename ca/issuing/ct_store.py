"""What the database role ca_issuer does about Certificate Transparency: precertificates out, SCTs in, final intents.

A request that waits for logs stays in its queue without a holder (`leased_by` null) until it is woken, or its pause is
over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca.issuing.intent import StoredIntent
from ca.issuing.queue_store import LEASE_S
from ca.process.postgres import Connection, Pool

# One statement: the precertificate is stored, the publisher asked, and the request waits. A signature that is there
# already stays, and a publisher that has ended is not asked again.
COMMIT_PRECERTIFICATES: Final = """
WITH mine AS (
    UPDATE issuance_requests SET leased_by = NULL, leased_until = now() + make_interval(secs => $2)
    WHERE id = ANY($3::bytea[]) AND leased_by = $1 RETURNING id
), stored AS (
    INSERT INTO precertificate_signatures (serial, signed_at, signature)
    SELECT serial, $6, signature FROM unnest($4::bytea[], $5::bytea[]) AS t (serial, signature)
    ON CONFLICT (serial) DO NOTHING RETURNING serial
)
INSERT INTO ct_submissions (serial, kind, request_id, requested_at)
SELECT serial, 'precertificate', request_id, $6
FROM unnest($4::bytea[], $3::bytea[]) AS t (serial, request_id) JOIN stored USING (serial)
ON CONFLICT (serial, kind) DO NOTHING
"""
SCTS: Final = "SELECT serial, sct FROM scts WHERE serial = ANY($1::bytea[]) ORDER BY received_at, log_id"
# The intent of a final certificate, fenced by the lease: one for a serial number, whoever comes second gets nothing.
COMMIT_FINALS: Final = """
WITH mine AS (
    UPDATE issuance_requests SET leased_until = now() + make_interval(secs => $2)
    WHERE id = ANY($3::bytea[]) AND leased_by = $1 RETURNING id
)
INSERT INTO final_certificates (serial, tbs, created_at)
SELECT serial, tbs, $6 FROM unnest($3::bytea[], $4::bytea[], $5::bytea[]) AS t (request_id, serial, tbs)
WHERE request_id IN (SELECT id FROM mine)
ON CONFLICT (serial) DO NOTHING RETURNING serial
"""
PARK: Final = """
WITH parked AS (
    UPDATE issuance_requests AS request
    SET leased_by = NULL, leased_until = now() + make_interval(secs => least(2 ^ least(request.attempts, 10), $2))
    WHERE id = ANY($3::bytea[]) AND leased_by = $1 RETURNING id
)
INSERT INTO ct_submissions (serial, kind, request_id, requested_at)
SELECT serial, 'precertificate', request_id, $5
FROM unnest($3::bytea[], $4::bytea[]) AS t (request_id, serial) JOIN parked ON parked.id = request_id
ON CONFLICT (serial, kind) DO NOTHING
"""
WAKE: Final = """
UPDATE issuance_requests SET leased_until = '-infinity' WHERE id = ANY($1::bytea[]) AND leased_by IS NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFinal:
    """A final certificate whose bytes are fixed: linted, and found to correspond to its precertificate."""

    intent: StoredIntent
    tbs: bytes


async def commit_precertificates(
    connection: Connection, signed: Sequence[tuple[StoredIntent, bytes]], *, worker: str, now: datetime, wait_s: float
) -> None:
    """Stores the signatures of precertificates, asks the publisher to submit them, and leaves their requests waiting
    for `wait_s` seconds or until they are woken."""
    await connection.execute(
        COMMIT_PRECERTIFICATES, worker, wait_s, [intent.request_id for intent, _ in signed],
        [intent.serial for intent, _ in signed], [signature for _, signature in signed], now)


async def scts(connection: Connection, serials: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """What logs answered, by serial number, in the order of arrival."""
    found: dict[bytes, list[bytes]] = {}
    for row in await connection.fetch(SCTS, list(serials)):
        found.setdefault(row["serial"], []).append(row["sct"])
    return found


async def commit_finals(
    connection: Connection, new: Sequence[NewFinal], *, worker: str, now: datetime
) -> set[bytes]:
    """Stores intents of final certificates; returns the serial numbers whose intent is ours."""
    rows = await connection.fetch(
        COMMIT_FINALS, worker, LEASE_S, [each.intent.request_id for each in new],
        [each.intent.serial for each in new], [each.tbs for each in new], now)
    return {row["serial"] for row in rows}


async def park(
    connection: Connection, intents: Sequence[StoredIntent], *, worker: str, now: datetime, longest_s: float
) -> None:
    """Leaves requests waiting for more SCTs, longer at each try, and sees to it that the publisher is asked."""
    await connection.execute(PARK, worker, longest_s, [intent.request_id for intent in intents],
                             [intent.serial for intent in intents], now)


async def wake(pool: Pool, request_ids: Sequence[bytes]) -> None:
    """Requests that wait may be claimed now."""
    await pool.execute(WAKE, list(request_ids))
