"""All that the database role `ocsp_signer` does for live mode: claim questions, with the statuses that they ask about,
and answer them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ca.pki.serial import SERIAL_BYTES, serial_number
from ca.process.postgres import Connection
from ocsp.presign.store import StatusOfCertificate
from ocsp.protocol.live import Question

# As a claim of the pre-signer's queue (store.py): a row lock, and every status from the same snapshot, the authority's
# at this moment.
_CLAIM: Final = """
WITH claimed AS MATERIALIZED (
    SELECT id, issuer_id, hashes, serials, nonce FROM ocsp_live_requests
    WHERE answered_at IS NULL AND ends_at > clock_timestamp() AND issuer_id = ANY($1) LIMIT $2 FOR UPDATE SKIP LOCKED
)
SELECT q.id, q.issuer_id, q.nonce, t.hash, t.serial, c.issuer_id, floor(date_part('epoch', c.not_after))::bigint,
    c.has_ocsp, floor(date_part('epoch', r.revoked_at))::bigint, r.reason, r.version
FROM claimed q CROSS JOIN LATERAL unnest(q.hashes, q.serials) WITH ORDINALITY AS t (hash, serial, position)
LEFT JOIN LATERAL (SELECT issuer_id, not_after, has_ocsp FROM certificates WHERE serial = t.serial LIMIT 1) c ON true
LEFT JOIN LATERAL (SELECT revoked_at, reason, version FROM revocations WHERE serial = t.serial LIMIT 1) r ON true
ORDER BY q.id, t.position
"""
# Partitions bear the first day of their month.
_OLDEST_KEPT: Final = """
SELECT min(right(c.relname, 8)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'certificates'::regclass AND c.relname ~ '_[0-9]{8}$'
"""
# The last look: what was revoked since the claim stays unanswered and is claimed again. A serial number that was
# unknown stays so: nobody knew it before it was given out.
_ANSWER: Final = """
WITH changed AS (
    SELECT t.id FROM unnest($3::bytea[], $4::bytea[], $5::smallint[]) AS t (id, serial, version)
    WHERE t.version <> coalesce((SELECT r.version FROM revocations r WHERE r.serial = t.serial), 0)
), answered AS (
    UPDATE ocsp_live_requests q SET answered_at = clock_timestamp(), response = t.response
    FROM unnest($1::bytea[], $2::bytea[]) AS t (id, response)
    WHERE q.id = t.id AND q.id NOT IN (SELECT id FROM changed) RETURNING q.id
), told AS MATERIALIZED (
    SELECT pg_notify('ocsp_live_answer', string_agg(encode(id, 'hex'), ',')) FROM answered
)
SELECT answered.id FROM answered CROSS JOIN told
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A locked question, and for each of its CertIDs the certificate with that serial number, of whichever issuer: None
    when there is none; `has_ocsp` says that all of those are answered for by OCSP."""

    id: bytes
    question: Question
    found: tuple[StatusOfCertificate | None, ...]
    has_ocsp: bool


async def claim(connection: Connection, issuer_ids: Sequence[int], limit: int) -> list[Asked]:
    """Locks questions that somebody still waits for, and reads the statuses."""
    grouped: dict[bytes, list[tuple[int, bytes, StatusOfCertificate | None, bool]]] = {}
    heads: dict[bytes, tuple[int, bytes | None]] = {}
    for (question_id, asked_issuer, nonce, number, serial, issuer_id, not_after_s, has_ocsp, revoked_at_s, reason,
         version) in await connection.fetch(_CLAIM, list(issuer_ids), limit):
        status = None if issuer_id is None else StatusOfCertificate(
            serial, issuer_id, not_after_s, revoked_at_s, reason or 0, version or 0)
        heads[question_id] = asked_issuer, nonce
        grouped.setdefault(question_id, []).append((number, serial, status, status is None or has_ocsp))
    return [Asked(
        id=question_id, found=tuple(status for _, _, status, _ in each), has_ocsp=all(has for _, _, _, has in each),
        question=Question(issuer_id=heads[question_id][0], nonce=heads[question_id][1],
                          cert_ids=tuple((number, serial) for number, serial, _, _ in each)))
        for question_id, each in grouped.items()]


async def oldest_kept(connection: Connection) -> bytes:
    """The first serial number of the time of which every certificate is kept."""
    day: str | None = await connection.fetchval(_OLDEST_KEPT)
    if day is None:
        return b"\xff" * SERIAL_BYTES
    return serial_number(datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC), bytes(SERIAL_BYTES - 2))


async def answer(
    connection: Connection, answers: Sequence[tuple[bytes, bytes | None]], told: Sequence[tuple[bytes, bytes, int]]
) -> set[bytes]:
    """Gives (question, response) back, None where none may be signed. `told` are (question, serial number, version of
    its status, 0 good) of what the responses say; questions of which that has changed stay. Returns who was answered.
    """
    return {row["id"] for row in await connection.fetch(
        _ANSWER, [one for one, _ in answers], [response for _, response in answers], [one for one, _, _ in told],
        [serial for _, serial, _ in told], [version for _, _, version in told])}
