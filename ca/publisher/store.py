"""All that the database role ca_publisher does: claim submissions, store SCTs, end or put off submissions.

Leases go by the database's clock. A submission is claimed with everything that is needed to make its chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from ca.process.postgres import Pool

LEASE_S: Final = 120
SESSION_OPTIONS: Final = {"plan_cache_mode": "force_generic_plan"}

CLAIM: Final = """
WITH free AS (
    SELECT serial, kind FROM ct_submissions WHERE leased_until < now() ORDER BY leased_until LIMIT $2
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE ct_submissions AS submission
    SET leased_by = $1, leased_until = now() + make_interval(secs => $3),
        attempts = least(submission.attempts + 1, 32000)
    FROM free WHERE submission.serial = free.serial AND submission.kind = free.kind
    RETURNING submission.serial, submission.kind, submission.request_id, submission.requested_at, submission.attempts
)
SELECT claimed.*, c.issuer_id, c.tbs, c.not_before, c.not_after, p.signature AS precertificate_signature,
    f.tbs AS final_tbs, s.signature,
    ARRAY(SELECT scts.sct FROM scts WHERE scts.serial = claimed.serial ORDER BY received_at, log_id) AS scts
FROM claimed
JOIN certificates c ON c.serial = claimed.serial
LEFT JOIN precertificate_signatures p ON p.serial = claimed.serial
LEFT JOIN final_certificates f ON f.serial = claimed.serial
LEFT JOIN certificate_signatures s ON s.serial = claimed.serial
"""
EXTEND: Final = """
UPDATE ct_submissions SET leased_until = now() + make_interval(secs => $2) WHERE leased_by = $1
    AND leased_until > now()
"""
STORE_SCTS: Final = """
INSERT INTO scts (serial, log_id, received_at, sct)
SELECT $1, * FROM unnest($2::bytea[], $3::timestamptz[], $4::bytea[])
ON CONFLICT (serial, log_id) DO NOTHING
"""
END: Final = "DELETE FROM ct_submissions WHERE serial = $2 AND kind = $3 AND leased_by = $1"
PUT_OFF: Final = """
UPDATE ct_submissions SET leased_by = NULL, leased_until = now() + make_interval(secs => $4)
WHERE serial = $2 AND kind = $3 AND leased_by = $1
"""
LEASE_HOLDERS: Final = """
SELECT DISTINCT leased_by FROM ct_submissions WHERE leased_by IS NOT NULL AND leased_until > now()
"""
FREE_LEASES: Final = """
UPDATE ct_submissions SET leased_by = NULL, leased_until = '-infinity' WHERE leased_by = ANY($1::text[])
"""
CHAINS: Final = """
SELECT i.id, i.certificate, c.certificates FROM issuers i
LEFT JOIN issuer_chains c ON c.issuer_id = i.id AND c.position = 0
"""
NOTIFY: Final = "SELECT pg_notify('scts', $1)"

Kind = Literal["precertificate", "certificate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """An entry of the queue that is ours until its lease runs out. `tbs` and `signature` are those of its kind;
    `signature` None: there is nothing to submit."""

    serial: bytes
    kind: Kind
    request_id: bytes
    requested_at: datetime
    attempts: int
    issuer_id: int
    precertificate_tbs: bytes
    not_before: datetime
    not_after: datetime
    tbs: bytes
    signature: bytes | None
    scts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """An issuer and what stands between it and the root."""

    issuer: bytes
    above: tuple[bytes, ...]


async def claim(pool: Pool, *, worker: str, limit: int) -> list[Submission]:
    """Takes up to `limit` submissions, those that wait longest first; others' claims are passed over."""
    claimed = []
    for row in await pool.fetch(CLAIM, worker, limit, LEASE_S):
        is_final = row["kind"] == "certificate"
        claimed.append(Submission(
            serial=row["serial"], kind=row["kind"], request_id=row["request_id"], requested_at=row["requested_at"],
            attempts=row["attempts"], issuer_id=row["issuer_id"], precertificate_tbs=row["tbs"],
            not_before=row["not_before"], not_after=row["not_after"],
            tbs=(row["final_tbs"] or row["tbs"]) if is_final else row["tbs"],
            signature=row["signature"] if is_final else row["precertificate_signature"], scts=tuple(row["scts"])))
    return claimed


async def extend(pool: Pool, *, worker: str) -> None:
    """Keeps every lease that a worker still holds."""
    await pool.execute(EXTEND, worker, LEASE_S)


async def store_scts(pool: Pool, serial: bytes, scts: Sequence[tuple[bytes, datetime, bytes]]) -> None:
    """Stores (log id, moment of arrival, SCT); what a log has answered before stays."""
    await pool.execute(STORE_SCTS, serial, [log_id for log_id, _, _ in scts], [moment for _, moment, _ in scts],
                       [sct for _, _, sct in scts])


async def end(pool: Pool, submission: Submission, *, worker: str) -> None:
    """Takes a submission off the queue."""
    await pool.execute(END, worker, submission.serial, submission.kind)


async def put_off(pool: Pool, submission: Submission, *, worker: str, after_s: float) -> None:
    """Leaves a submission in the queue for some seconds."""
    await pool.execute(PUT_OFF, worker, submission.serial, submission.kind, after_s)


async def lease_holders(pool: Pool) -> list[str]:
    """Who holds leases that have not run out."""
    return [row["leased_by"] for row in await pool.fetch(LEASE_HOLDERS)]


async def free_leases(pool: Pool, workers: Sequence[str]) -> None:
    """Gives back what workers held that are known to be dead."""
    await pool.execute(FREE_LEASES, list(workers))


async def chains(pool: Pool) -> dict[int, Chain]:
    """Issuer id -> its chain."""
    return {row["id"]: Chain(issuer=row["certificate"],
                             above=tuple(each for each in row["certificates"] or () if each != row["certificate"]))
            for row in await pool.fetch(CHAINS)}


async def notify(pool: Pool, request_id: bytes) -> None:
    """Tells the CA that a request may go on, after its SCTs have been committed."""
    await pool.execute(NOTIFY, request_id.hex())
