"""What the role ca_issuer commits of an issuance: its intent, its signature, or the refusal that stands in their place.

What decides is one statement each, so that it happens as a whole.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from ca.issuing.intent import NewIntent, StoredIntent
from ca.issuing.queue_store import LEASE_S
from ca.process.postgres import Connection

# The intent: fenced by the lease, one per request, and with it everything that makes the serial number known.
COMMIT_INTENTS: Final = """
WITH mine AS (
    UPDATE issuance_requests SET leased_until = now() + make_interval(secs => $2)
    WHERE id = ANY($3::bytea[]) AND leased_by = $1 RETURNING id
), new AS (
    SELECT * FROM unnest($3::bytea[], $4::bytea[], $5::bytea[], $6::smallint[], $7::text[], $8::timestamptz[],
                         $9::timestamptz[], $10::bytea[], $11::bytea[], $15::boolean[])
        AS t (request_id, serial, account_id, issuer_id, profile, not_before, not_after, spki_sha256, tbs, has_ocsp)
    WHERE request_id IN (SELECT id FROM mine)
), issued AS (
    INSERT INTO issuances (request_id, serial) SELECT request_id, serial FROM new
    ON CONFLICT (request_id) DO NOTHING RETURNING request_id, serial
), certified AS (
    INSERT INTO certificates (serial, request_id, account_id, issuer_id, profile, not_before, not_after, spki_sha256,
        tbs, created_at, has_ocsp)
    SELECT serial, request_id, account_id, issuer_id, profile, not_before, not_after, spki_sha256, tbs, $12, has_ocsp
    FROM new JOIN issued USING (request_id, serial)
), named AS (
    INSERT INTO certificate_names (reversed_name, serial)
    SELECT reverse(name), serial FROM unnest($13::text[], $14::bytea[]) AS t (name, serial) JOIN issued USING (serial)
), asked AS (
    INSERT INTO ocsp_requests (serial, version, issuer_id, request_id, requested_at, not_after)
    SELECT serial, 0, issuer_id, request_id, $12, not_after FROM new JOIN issued USING (request_id, serial)
    WHERE has_ocsp
)
SELECT request_id FROM issued
"""
COMMIT_SIGNATURES: Final = """
WITH signed AS (
    INSERT INTO certificate_signatures (serial, signed_at, signature)
    SELECT serial, $3, signature FROM unnest($1::bytea[], $2::bytea[]) AS t (serial, signature)
    ON CONFLICT (serial) DO NOTHING
), logged AS (
    INSERT INTO ct_submissions (serial, kind, request_id, requested_at)
    SELECT serial, 'certificate', request_id, $3 FROM unnest($5::bytea[], $6::bytea[]) AS t (serial, request_id)
    ON CONFLICT (serial, kind) DO NOTHING
)
DELETE FROM issuance_requests WHERE id = ANY($4)
"""
COMMIT_REFUSAL: Final = """
WITH mine AS (
    DELETE FROM issuance_requests WHERE id = $2 AND leased_by = $1 RETURNING id
)
INSERT INTO refusals (request_id, refused_at, problem) SELECT id, $3, $4 FROM mine
ON CONFLICT (request_id) DO NOTHING RETURNING request_id
"""


async def commit_intents(
    connection: Connection, new: Sequence[NewIntent], *, worker: str, now: datetime
) -> set[bytes]:
    """Stores intents; returns the request ids whose intent is ours.

    Left out is a request that has an intent already, or whose lease has gone to another worker: one serial number each.
    """
    rows = await connection.fetch(
        COMMIT_INTENTS, worker, LEASE_S, [item.request_id for item in new], [item.serial for item in new],
        [item.account_id for item in new], [item.issuer_id for item in new], [item.profile for item in new],
        [item.not_before for item in new], [item.not_after for item in new], [item.spki_sha256 for item in new],
        [item.tbs for item in new], now, [name for item in new for name in item.names],
        [item.serial for item in new for _ in item.names], [item.has_ocsp for item in new])
    return {row["request_id"] for row in rows}


async def commit_signatures(
    connection: Connection, signed: Sequence[tuple[StoredIntent, bytes]], ended: Sequence[bytes], *, now: datetime
) -> None:
    """Stores signatures and ends requests. A signature that is there already stays. Final certificates are queued for
    logs in the same statement."""
    logged = [intent for intent, _ in signed if intent.final_tbs is not None]
    await connection.execute(
        COMMIT_SIGNATURES, [intent.serial for intent, _ in signed], [signature for _, signature in signed], now,
        list(ended), [intent.serial for intent in logged], [intent.request_id for intent in logged])


async def commit_refusal(
    connection: Connection, request_id: bytes, problem: dict[str, Any], *, worker: str, now: datetime
) -> bool:
    """Stores why there will be no certificate and ends the request; False when another worker has it now."""
    return await connection.fetchval(COMMIT_REFUSAL, worker, request_id, now, problem) is not None
