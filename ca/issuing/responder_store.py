"""What the role ca_issuer does about delegated OCSP responders: read their keys, store their certificates."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca.process.postgres import Connection, Pool

LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('chancery ocsp responders'))"
# Of each issuer the key that was made last: whoever could make keys without end gets no certificates without end.
KEYS: Final = """
SELECT DISTINCT ON (k.issuer_id) k.label, k.issuer_id, k.csr,
    (SELECT max(r.not_after) FROM ocsp_responders r WHERE r.key_label = k.label) AS certified_until,
    (SELECT count(*) FROM ocsp_responders r WHERE r.issuer_id = k.issuer_id AND r.not_after > $1) AS living
FROM ocsp_responder_keys k ORDER BY k.issuer_id, k.made_at DESC, k.label
"""
INSERT: Final = """
WITH certified AS (
    INSERT INTO certificates (serial, request_id, account_id, issuer_id, profile, not_before, not_after, spki_sha256,
        tbs, created_at, has_ocsp)
    VALUES ($3, $8, NULL, $1, $7, $4, $5, $9, $6, $10, false)
)
INSERT INTO ocsp_responders (id, issuer_id, key_label, serial, not_before, not_after)
SELECT coalesce(max(id), 0) + 1, $1, $2, $3, $4, $5 FROM ocsp_responders
"""
UNSIGNED: Final = """
SELECT r.id, r.issuer_id, r.serial, c.tbs FROM ocsp_responders r JOIN certificates c ON c.serial = r.serial
WHERE r.certificate IS NULL AND r.not_after > $1 ORDER BY r.id
"""
# The first signature stays: another process may have finished the same intent.
SIGNED: Final = """
WITH finished AS (
    UPDATE ocsp_responders SET certificate = $2 WHERE serial = $1 AND certificate IS NULL RETURNING serial
)
INSERT INTO certificate_signatures (serial, signed_at, signature) SELECT serial, $4, $3 FROM finished
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderKey:
    """The key of a delegated responder: until when it is certified, and how many certificates its issuer has."""

    label: str
    issuer_id: int
    csr: bytes
    certified_until: datetime | None
    living: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResponder:
    """What is committed before the token is asked."""

    issuer_id: int
    key_label: str
    serial: bytes
    not_before: datetime
    not_after: datetime
    tbs: bytes
    profile: str
    request_id: bytes
    spki_sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsignedResponder:
    """An intent without its signature."""

    id: int
    issuer_id: int
    serial: bytes
    tbs: bytes


async def lock(connection: Connection) -> None:
    """Until the transaction ends nobody else gives a responder a certificate."""
    await connection.execute(LOCK)


async def keys(connection: Connection, *, now: datetime) -> list[ResponderKey]:
    """The newest responder key of each issuer."""
    return [ResponderKey(label=row["label"], issuer_id=row["issuer_id"], csr=row["csr"], living=row["living"],
                         certified_until=row["certified_until"]) for row in await connection.fetch(KEYS, now)]


async def insert(connection: Connection, new: NewResponder, *, now: datetime) -> None:
    """Stores the intent, which makes the serial number known."""
    await connection.execute(INSERT, new.issuer_id, new.key_label, new.serial, new.not_before, new.not_after, new.tbs,
                             new.profile, new.request_id, new.spki_sha256, now)


async def unsigned(pool: Pool, *, now: datetime) -> list[UnsignedResponder]:
    """Intents that have no signature yet."""
    return [UnsignedResponder(id=row["id"], issuer_id=row["issuer_id"], serial=row["serial"], tbs=row["tbs"])
            for row in await pool.fetch(UNSIGNED, now)]


async def signed(pool: Pool, serial: bytes, *, certificate: bytes, signature: bytes, now: datetime) -> None:
    """Stores the certificate of an intent."""
    await pool.execute(SIGNED, serial, certificate, signature, now)
