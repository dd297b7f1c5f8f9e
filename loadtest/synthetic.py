"""Certificates that exist in the database alone: the pre-signer has to sign for them as for real ones.

Only in a Chancery that the load test started itself: these rows have no certificate, and no CA should keep them.
"""

import asyncio
import os
import secrets
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from loadtest.chancery_process import Chancery
from loadtest.database import Connection
from loadtest.ocsp_load import Subject
from loadtest.process_cpu import spent_between
from loadtest.program import ProgramFault

_SERIAL_DAY_ZERO = datetime(2020, 1, 1, tzinfo=UTC)
_SERIAL_DAY_OFFSET = 256
_LIFE = timedelta(days=90)
_CHUNK_ROWS = 50_000
_SAMPLE_LIMIT = 200_000
_STALL_S = 30.0
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.005, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuing CA as its row says."""

    id: int
    name: str
    key_type: str
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRound:
    """Serial numbers that the pre-signer signed, in how many batches, and how long it took."""

    serials: int
    elapsed_s: float
    batches: int
    cpu_s: dict[str, float]     # by process


def require_own(chancery: Chancery) -> None:
    """Raises ProgramFault for a Chancery that somebody else started."""
    if chancery.program is None:
        raise ProgramFault("this makes up certificates in the database, so it only runs against a Chancery that the "
                           "load test starts itself: leave out --directory")


async def active_issuers(connection: Connection) -> list[Issuer]:
    """Those that sign new certificates."""
    rows = await connection.fetch("SELECT id, name, key_type, certificate FROM issuers WHERE active ORDER BY id")
    return [Issuer(id=row["id"], name=row["name"], key_type=row["key_type"],
                   certificate=x509.load_der_x509_certificate(row["certificate"])) for row in rows]


def make_serials(count: int, now: datetime) -> list[bytes]:
    """Serial numbers of today: two bytes of day, sixteen of chance."""
    day = _SERIAL_DAY_OFFSET + (now - _SERIAL_DAY_ZERO).days
    prefix = day.to_bytes(2, "big")
    return [prefix + secrets.token_bytes(16) for _ in range(count)]


async def insert_certificates(connection: Connection, issuer: Issuer, serials: Sequence[bytes]) -> None:
    """Rows in `certificates`, as an issuance leaves them."""
    now = datetime.now(UTC)
    id_prefix = int(now.timestamp() * 1000).to_bytes(6, "big")
    for first in range(0, len(serials), _CHUNK_ROWS):
        rows = [(serial, id_prefix + os.urandom(16), None, issuer.id, "classic", now - timedelta(hours=1),
                 now + _LIFE, os.urandom(32), b"synthetic", now)
                for serial in serials[first:first + _CHUNK_ROWS]]
        await connection.copy_records_to_table("certificates", records=rows, columns=[
            "serial", "request_id", "account_id", "issuer_id", "profile", "not_before", "not_after", "spki_sha256",
            "tbs", "created_at"])


async def request_responses(connection: Connection, issuer: Issuer, serials: Sequence[bytes]) -> None:
    """Queues all of them in one transaction and wakes the pre-signer, as an issuance does for one."""
    now = datetime.now(UTC)
    rows = [(serial, 0, issuer.id, serial + b"load", now, now + _LIFE) for serial in serials]
    async with connection.transaction():
        await connection.copy_records_to_table("ocsp_requests", records=rows, columns=[
            "serial", "version", "issuer_id", "request_id", "requested_at", "not_after"])
        await connection.execute("NOTIFY ocsp_due")


_BATCH_HEADER = struct.Struct(">BHIII")
_BATCH_RECORD = struct.Struct(">HHBBBII")
_BATCH_RECORDS = 4_000
_SIGNATURE_BYTES = 71
_SIGNED_WITHIN_S = 54 * 3_600
_FIRST_RESPONSES = 40       # one in so many: 54 hours of 90 days
_RESPONSE_LIFE_S = 604_800


async def publish_unsigned(connection: Connection, issuer: Issuer, count: int) -> list[bytes]:
    """Certificates with batches in the log whose signatures are noise: a responder holds and serves them as any other.

    For sizes that no signer could reach in the time; what is signed is measured elsewhere. Each batch has the times of
    another moment of the last 54 hours, as when all are signed again and again: thisUpdate is the begun hour, except
    for the share that is signed for the first time. Returns the serial numbers.
    """
    now = datetime.now(UTC)
    serials = sorted(make_serials(count, now))
    await insert_certificates(connection, issuer, serials)
    now_s, not_after_s = int(now.timestamp()), int((now + _LIFE).timestamp())
    record = _BATCH_RECORD.pack(_SIGNATURE_BYTES, _SIGNATURE_BYTES, 0, 0, 0, 0, not_after_s)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('chancery ocsp batches'))")
        for first in range(0, count, _BATCH_RECORDS):
            part = serials[first:first + _BATCH_RECORDS]
            produced_s = now_s - secrets.randbelow(_SIGNED_WITHIN_S)
            this_s = produced_s - produced_s % (3_600 if secrets.randbelow(_FIRST_RESPONSES) else 60)
            next_s = this_s + _RESPONSE_LIFE_S - 1
            header = _BATCH_HEADER.pack(2, 0, produced_s, this_s, next_s)
            noise = os.urandom(2 * _SIGNATURE_BYTES * len(part))
            payload = header + b"".join(
                serial + record + noise[at * 2 * _SIGNATURE_BYTES:(at + 1) * 2 * _SIGNATURE_BYTES]
                for at, serial in enumerate(part))
            await connection.execute(
                "INSERT INTO ocsp_batches VALUES (nextval('ocsp_batch_id'), $1, $2, $3, $4, $5)", now, issuer.id,
                len(part), datetime.fromtimestamp(next_s, UTC), payload)
        await connection.execute("NOTIFY ocsp_batch")
    return serials


async def revoke_made_up(connection: Connection, issuer: Issuer, serial: bytes) -> None:
    """Revokes as the CA does: fact and request in one transaction, then the wake-up."""
    now = datetime.now(UTC).replace(microsecond=0)
    async with connection.transaction():
        await connection.execute("INSERT INTO revocations (serial, revoked_at, reason, version, authority, evidence)"
                                 " VALUES ($1, $2, 4, 1, 'operator', '{}')", serial, now)
        await connection.execute("INSERT INTO ocsp_requests (serial, version, issuer_id, request_id, requested_at)"
                                 " VALUES ($1, 1, $2, $3, $4)", serial, issuer.id, serial + b"load", now)
    await connection.execute("NOTIFY ocsp_due")


async def sign_made_up(connection: Connection, chancery: Chancery, issuer: Issuer, count: int,
                       sample: list[Subject]) -> SignedRound:
    """Queues `count` new serial numbers and waits until none is left; some of them are added to `sample`.

    Raises ProgramFault when the queue stops moving.
    """
    serials = make_serials(count, datetime.now(UTC))
    await insert_certificates(connection, issuer, serials)
    last_batch = await connection.fetchval("SELECT COALESCE(max(id), 0) FROM ocsp_batches")
    await request_responses(connection, issuer, serials)
    cpu_before = chancery.cpu_s()
    started = time.perf_counter()
    waiting, moved_at = count, started
    pause_s = _SHORTEST_LOOK_S
    while waiting:
        # What is published ends its requests in one transaction, and is counted by the batch: to count the requests, as
        # is done in the end, costs the same cores. Rarely at first, often towards the end.
        await asyncio.sleep(pause_s)
        still = count - await connection.fetchval(
            "SELECT COALESCE(sum(count), 0) FROM ocsp_batches WHERE id > $1 AND issuer_id = $2", last_batch, issuer.id)
        if still <= 0:
            still = await connection.fetchval("SELECT count(*) FROM ocsp_requests WHERE issuer_id = $1", issuer.id)
        now = time.perf_counter()
        if still != waiting:
            waiting, moved_at = still, now
        elif now - moved_at > _STALL_S:
            raise ProgramFault(f"the pre-signer has left {waiting} of {count} serial numbers unsigned")
        # Until the first batch is there nothing can be foretold: a set that takes half a second is not slept through.
        left_s = waiting * (now - started) / (count - waiting) if waiting < count else 8 * pause_s
        pause_s = min(_LONGEST_LOOK_S, max(_SHORTEST_LOOK_S, left_s / 4))
    elapsed_s = time.perf_counter() - started
    cpu_s = spent_between(cpu_before, chancery.cpu_s())
    batches = await connection.fetchval("SELECT count(*) FROM ocsp_batches WHERE id > $1 AND issuer_id = $2",
                                        last_batch, issuer.id)
    room = max(1, _SAMPLE_LIMIT - len(sample))
    sample += [Subject(serial=int.from_bytes(serial, "big"), issuer=issuer.certificate) for serial in serials[-room:]]
    return SignedRound(serials=count, elapsed_s=elapsed_s, batches=batches, cpu_s=cpu_s)
