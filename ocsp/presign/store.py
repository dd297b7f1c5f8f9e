"""All that the database role `ocsp_signer` does: claim what needs a response, publish batches, keep the schedule.

A claim is a row lock, held by the transaction that publishes the response: nothing is written to claim, and when the
process dies the server gives its rows back at once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from ca.pki.serial import serial_number
from ca.process.postgres import Connection, Pool, Record
from ocsp.protocol.schedule import SerialRange

# Everything here is found by an index. A queue that was just filled looks empty in the statistics, and a plan that
# reads all of it for each batch costs more than signing; planning costs a lone certificate as much as its claim does.
OPTIONS: Final = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_bitmapscan": "off"}
_ISSUERS: Final = "SELECT id, name, certificate FROM issuers ORDER BY id"
# In the order of the serial numbers. A batch is looked up in which a request does not say when its certificate ends, or
# that has revocations between its ends.
_CLAIM_NEW: Final = """
WITH claimed AS MATERIALIZED (
    SELECT serial, issuer_id, not_after FROM ocsp_requests
    WHERE version = 0 AND issuer_id = ANY($1) AND serial > $3 AND serial <= $4
    ORDER BY serial LIMIT $2 FOR UPDATE SKIP LOCKED
)
SELECT serial, issuer_id, floor(date_part('epoch', not_after))::bigint, EXISTS (
    SELECT FROM revocations WHERE serial >= (SELECT min(serial) FROM claimed)
    AND serial <= (SELECT max(serial) FROM claimed))
FROM claimed
"""
_LAST_NEW: Final = """
SELECT serial FROM ocsp_requests WHERE version = 0 AND issuer_id = ANY($1) AND serial > $2
ORDER BY serial DESC, version DESC LIMIT 1
"""
# LATERAL makes it one index look-up a row, in the partition of the serial number, whatever the planner thinks.
_LOOK_UP: Final = """
SELECT q.serial, q.version, c.issuer_id, floor(date_part('epoch', c.not_after))::bigint,
    floor(date_part('epoch', r.revoked_at))::bigint, r.reason, r.version
FROM claimed q
LEFT JOIN LATERAL (SELECT issuer_id, not_after FROM certificates WHERE serial = q.serial AND has_ocsp LIMIT 1) c ON true
LEFT JOIN LATERAL (SELECT revoked_at, reason, version FROM revocations WHERE serial = q.serial LIMIT 1) r ON true
ORDER BY q.serial, q.version
"""
# One snapshot: a request is never seen without its certificate and revocation, which were committed with it.
_CLAIM_CHANGED: Final = f"""
WITH claimed AS MATERIALIZED (
    SELECT serial, version FROM ocsp_requests
    WHERE version > 0 AND issuer_id = ANY($1) AND serial > $3 AND serial <= $4
    ORDER BY serial LIMIT $2 FOR UPDATE SKIP LOCKED
) {_LOOK_UP}
"""  # noqa: S608 - of constants
_LOOK_UP_NEW: Final = f"""
WITH claimed AS (SELECT serial, 0 AS version FROM unnest($1::bytea[]) AS t (serial)) {_LOOK_UP}
"""  # noqa: S608 - of constants
# The newest certificate of each issuer's responder; the one before it may have weeks left.
_RESPONDERS: Final = """
SELECT DISTINCT ON (issuer_id) id, issuer_id, key_label, certificate FROM ocsp_responders
WHERE certificate IS NOT NULL AND not_after > $1 ORDER BY issuer_id, not_after DESC, id DESC
"""
_LOCK_KEYS: Final = "SELECT pg_advisory_xact_lock(hashtext('chancery ocsp responder keys'))"
_INSERT_KEY: Final = """
INSERT INTO ocsp_responder_keys (label, issuer_id, csr, made_at) VALUES ($1, $2, $3, $4) ON CONFLICT (label) DO NOTHING
"""
_WAKE_CA: Final = "SELECT pg_notify('ocsp_responder_key', '')"
_CERTIFICATES_OF_RANGE: Final = """
SELECT c.serial, c.issuer_id, floor(date_part('epoch', c.not_after))::bigint,
    floor(date_part('epoch', r.revoked_at))::bigint, r.reason, r.version
FROM (SELECT serial, issuer_id, not_after FROM certificates
      WHERE serial >= $1 AND serial <= $2 AND issuer_id = $3 AND not_after >= $4 AND has_ocsp
      ORDER BY serial LIMIT $5) AS c
LEFT JOIN LATERAL (SELECT revoked_at, reason, version FROM revocations WHERE serial = c.serial LIMIT 1) r ON true
ORDER BY c.serial
"""
_PUBLISH: Final = """
SELECT batch_id, changed FROM publish_ocsp_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""
_END_REQUESTS: Final = "SELECT end_ocsp_requests($1, $2)"
_INSERT_SHARDS: Final = """
INSERT INTO ocsp_shards (issuer_id, first_serial, last_serial, due_at, signed_at)
SELECT $1, first_serial, last_serial, due_at, $5
FROM unnest($2::bytea[], $3::bytea[], $4::timestamptz[]) AS t (first_serial, last_serial, due_at)
ON CONFLICT (issuer_id, first_serial) DO NOTHING
"""
_CLAIM_SHARD: Final = """
SELECT issuer_id, first_serial, last_serial, due_at, signed_at FROM ocsp_shards
WHERE due_at <= $1 AND issuer_id = ANY($2) ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_RESCHEDULE_SHARD: Final = """
UPDATE ocsp_shards SET last_serial = $3, due_at = $4, signed_at = $5, certificates = $6
WHERE issuer_id = $1 AND first_serial = $2
"""
_SHOW_SIGNER: Final = """
INSERT INTO ocsp_signers (worker, issuer_id, responder_id, certificate_s, seen_at)
SELECT $1, issuer_id, responder_id, certificate_s, $5
FROM unnest($2::smallint[], $3::smallint[], $4::float8[]) AS t (issuer_id, responder_id, certificate_s)
ON CONFLICT (worker, issuer_id) DO UPDATE SET responder_id = excluded.responder_id, seen_at = excluded.seen_at,
    certificate_s = excluded.certificate_s
"""
_COUNT_SIGNERS: Final = "SELECT count(DISTINCT worker) FROM ocsp_signers WHERE seen_at > $1"
_FORGET_SIGNERS: Final = "DELETE FROM ocsp_signers WHERE worker = $1 OR seen_at < $2"
# Ranges that somebody signs at this moment are left: what they get is newer than what was asked for.
_SIGN_AGAIN: Final = """
WITH asked AS (
    DELETE FROM ocsp_resign_requests RETURNING signed_before
), old AS (
    SELECT issuer_id, first_serial FROM ocsp_shards
    WHERE signed_at < (SELECT max(signed_before) FROM asked) AND due_at > $1 FOR UPDATE SKIP LOCKED
)
UPDATE ocsp_shards SET due_at = $1 FROM old
WHERE ocsp_shards.issuer_id = old.issuer_id AND ocsp_shards.first_serial = old.first_serial
"""
# One range of a day that is over and that was not signed again yet: later its signing says how much it holds.
_COUNT_RANGE: Final = """
WITH unknown AS (
    SELECT issuer_id, first_serial, last_serial FROM ocsp_shards
    WHERE certificates = 0 AND last_serial < $1 ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE ocsp_shards SET certificates = greatest(1, (
    SELECT count(*) FROM certificates c WHERE c.serial >= unknown.first_serial AND c.serial <= unknown.last_serial
        AND c.issuer_id = unknown.issuer_id))
FROM unknown WHERE ocsp_shards.issuer_id = unknown.issuer_id AND ocsp_shards.first_serial = unknown.first_serial
"""
_DROP_SHARD: Final = "DELETE FROM ocsp_shards WHERE issuer_id = $1 AND first_serial = $2"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIssuer:
    """A row of `issuers`: `name` is the label of its key."""

    id: int
    name: str
    certificate: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponder:
    """A delegated responder that the CA has certified, and the label of its key."""

    id: int
    issuer_id: int
    key_label: str
    certificate: bytes


class ClaimedRequest(msgspec.Struct, frozen=True, gc=False):
    """A serial number that has no response for its status of this version."""

    serial: bytes
    version: int


class StatusOfCertificate(msgspec.Struct, frozen=True, gc=False):
    """The authority on one certificate, times in Unix seconds; version 0 is good, and its `revoked_at_s` is None."""

    serial: bytes
    issuer_id: int
    not_after_s: int
    revoked_at_s: int | None = None
    reason: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """So many locked requests, up to `last`, and the status of each of their certificates, in the order of the serial
    numbers; those that are not known are left out. A good one was asked for with version 0; all other requests are
    `others`. So many as `wanted` would have been taken."""

    count: int
    last: bytes
    statuses: list[StatusOfCertificate]
    others: list[ClaimedRequest]
    wanted: int = 0

    def before(self, other: "Claim") -> "Claim":
        """Both, when all of the other's serial numbers come behind these."""
        return Claim(count=self.count + other.count, last=other.last or self.last,
                     statuses=self.statuses + other.statuses, others=self.others + other.others)


NOTHING: Final = Claim(count=0, last=b"", statuses=[], others=[])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A range of serial numbers that is signed together, both ends included."""

    issuer_id: int
    first: bytes
    last: bytes
    due_at: datetime
    signed_at: datetime


async def issuers(pool: Pool) -> list[StoredIssuer]:
    """Every issuer."""
    return [StoredIssuer(id=row["id"], name=row["name"], certificate=row["certificate"])
            for row in await pool.fetch(_ISSUERS)]


async def responders(pool: Pool, *, now: datetime) -> dict[int, StoredResponder]:
    """Issuer id -> its delegated responder."""
    return {row["issuer_id"]: StoredResponder(id=row["id"], issuer_id=row["issuer_id"], key_label=row["key_label"],
                                              certificate=row["certificate"])
            for row in await pool.fetch(_RESPONDERS, now)}


async def lock_keys(connection: Connection) -> None:
    """Until the transaction ends nobody else makes a responder's key."""
    await connection.execute(_LOCK_KEYS)


async def ask_for_certificate(
    connection: Connection, *, label: str, issuer_id: int, csr: bytes, now: datetime
) -> None:
    """Says that there is a key, and wakes the CA; a key that is known stays as it is."""
    await connection.execute(_INSERT_KEY, label, issuer_id, csr, now)
    await connection.execute(_WAKE_CA)


async def claim_changed(
    connection: Connection, issuer_ids: Collection[int], limit: int, part: SerialRange
) -> Claim:
    """Locks requests of certificates that were revoked, or whose reason changed, behind the first serial number of a
    part and up to its last."""
    return _claim(await connection.fetch(_CLAIM_CHANGED, list(issuer_ids), limit, part.first, part.last))


async def claim_new(connection: Connection, issuer_ids: Collection[int], limit: int, part: SerialRange) -> Claim:
    """Locks requests of new certificates, in the order of their serial numbers."""
    rows = await connection.fetch(_CLAIM_NEW, list(issuer_ids), limit, part.first, part.last)
    statuses = [StatusOfCertificate(serial, issuer_id, not_after_s)
                for serial, issuer_id, not_after_s, is_among_revoked in rows
                if not_after_s is not None and not is_among_revoked]
    if len(statuses) < len(rows):
        return _claim(await connection.fetch(_LOOK_UP_NEW, [row["serial"] for row in rows]))
    return Claim(count=len(rows), last=rows[-1]["serial"] if rows else b"", statuses=statuses, others=[])


async def last_new(connection: Connection, issuer_ids: Collection[int], behind: bytes) -> bytes | None:
    """The highest serial number behind this one that a first response is asked for, even if somebody has locked it."""
    found: bytes | None = await connection.fetchval(_LAST_NEW, list(issuer_ids), behind)
    return found


def _claim(rows: Sequence[Record]) -> Claim:
    statuses: list[StatusOfCertificate] = []
    others: list[ClaimedRequest] = []
    for serial, wanted, issuer_id, not_after_s, revoked_at_s, reason, version in rows:
        if issuer_id is not None and version is None:
            statuses.append(StatusOfCertificate(serial, issuer_id, not_after_s))
            continue
        others.append(ClaimedRequest(serial, wanted))
        if issuer_id is not None and (not statuses or statuses[-1].serial != serial):
            statuses.append(StatusOfCertificate(serial, issuer_id, not_after_s, revoked_at_s, reason, version))
    return Claim(count=len(rows), last=rows[-1]["serial"] if rows else b"", statuses=statuses, others=others)


async def statuses_of_shard(
    connection: Connection, shard: Shard, *, now: datetime, limit: int
) -> list[StatusOfCertificate]:
    """The first unexpired certificates of a range, in order."""
    rows = await connection.fetch(_CERTIFICATES_OF_RANGE, shard.first, shard.last, shard.issuer_id, now, limit)
    return [StatusOfCertificate(serial, issuer_id, not_after_s) if version is None else
            StatusOfCertificate(serial, issuer_id, not_after_s, revoked_at_s, reason, version)
            for serial, issuer_id, not_after_s, revoked_at_s, reason, version in rows]


async def publish_batch(
    connection: Connection, *, issuer_id: int, produced_at: datetime, next_update: datetime, payload: bytes,
    good: Sequence[bytes], is_new: bool, revoked: Mapping[bytes, int], ended: Sequence[ClaimedRequest],
) -> tuple[int | None, list[bytes]]:
    """Appends a batch to the log and ends requests, under the log's lock, which is held until the commit.

    `good` serial numbers in order, and `revoked` ones with their versions, are what the payload says of each. Requests
    for the first response of the good ones end if they are new, and `ended` do. Returns the batch's id; or None, and
    which serial numbers have another status by now: nothing is published then.
    """
    row = await connection.fetchrow(
        _PUBLISH, issuer_id, produced_at, len(good) + len(revoked), next_update, payload, good, is_new, list(revoked),
        list(revoked.values()), [request.serial for request in ended], [request.version for request in ended])
    assert row is not None  # noqa: S101 - a function with OUT parameters gives one row
    return row["batch_id"], row["changed"]


async def end_requests(connection: Connection, ended: Sequence[ClaimedRequest]) -> None:
    """Ends requests for which there is nothing to publish, and tells the orders that wait."""
    await connection.execute(_END_REQUESTS, [request.serial for request in ended],
                             [request.version for request in ended])


async def insert_shards(connection: Connection, issuer_id: int, shards: Sequence[tuple[bytes, bytes, datetime]], *,
                        signed_at: datetime) -> None:
    """Schedules (first, last, due) ranges; those that are there already stay as they are."""
    await connection.execute(_INSERT_SHARDS, issuer_id, [first for first, _, _ in shards],
                             [last for _, last, _ in shards], [due for _, _, due in shards], signed_at)


async def claim_shard(connection: Connection, issuer_ids: Collection[int], *, now: datetime) -> Shard | None:
    """Locks the range that has been due the longest."""
    row = await connection.fetchrow(_CLAIM_SHARD, now, list(issuer_ids))
    return None if row is None else Shard(issuer_id=row["issuer_id"], first=row["first_serial"],
                                          last=row["last_serial"], due_at=row["due_at"], signed_at=row["signed_at"])


async def reschedule_shard(connection: Connection, shard: Shard, *, certificates: int) -> None:
    """The range, which may have become shorter and holds so many certificates, is signed again at its new time."""
    await connection.execute(_RESCHEDULE_SHARD, shard.issuer_id, shard.first, shard.last, shard.due_at,
                             shard.signed_at, certificates)


async def sign_again(pool: Pool, *, now: datetime) -> bool:
    """Makes everything due that an operator wants signed again; whether there was anything."""
    return await pool.execute(_SIGN_AGAIN, now) != "UPDATE 0"


async def count_range(pool: Pool, *, now: datetime) -> None:
    """Counts what a range holds, so that its signing can be foretold."""
    await pool.execute(_COUNT_RANGE, serial_number(now, bytes(16)))


async def show_signer(
    pool: Pool, *, worker: str, speeds: Sequence[tuple[int, int, float | None]], now: datetime
) -> None:
    """Says that this process runs, and for each (issuer, responder) how many seconds a certificate takes it."""
    await pool.execute(_SHOW_SIGNER, worker, [issuer for issuer, _, _ in speeds],
                       [responder for _, responder, _ in speeds], [seconds for _, _, seconds in speeds], now)


async def count_signers(pool: Pool, *, since: datetime) -> int:
    """How many processes have said since then that they run."""
    found: int = await pool.fetchval(_COUNT_SIGNERS, since)
    return found


async def forget_signers(pool: Pool, *, worker: str, before: datetime) -> None:
    """Takes away what a process said, and what others said that are long gone."""
    await pool.execute(_FORGET_SIGNERS, worker, before)


async def drop_shard(connection: Connection, shard: Shard) -> None:
    """Every certificate of the range has expired."""
    await connection.execute(_DROP_SHARD, shard.issuer_id, shard.first)
