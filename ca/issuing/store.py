"""All that the database role `ca_issuer` does: claim requests, read evidence, store intents, signatures, refusals."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from ca.process.postgres import Connection, Pool, Record

_Executor: TypeAlias = Connection | Pool

_CLAIM = """
UPDATE issuance_requests SET leased_by = $1, leased_until = $2, attempts = attempts + 1
WHERE id IN (SELECT id FROM issuance_requests WHERE leased_until < $3
             ORDER BY requested_at LIMIT $4 FOR UPDATE SKIP LOCKED)
RETURNING id, kind, requested_at
"""
_DEFER = "UPDATE issuance_requests SET leased_until = $2 WHERE id = ANY($1) AND leased_by = $3"
_LEASE_HOLDERS = "SELECT DISTINCT leased_by FROM issuance_requests WHERE leased_by IS NOT NULL AND leased_until > $1"
_FREE_LEASES = "UPDATE issuance_requests SET leased_until = '-infinity' WHERE leased_by = ANY($1)"
_ORDERS = """
SELECT o.id, o.account_id, o.identifier_types, o.identifier_values, o.authorization_ids, o.profile,
       o.not_before, o.not_after, f.requested_at, f.jwk, f.jws_protected, f.jws_payload, f.jws_signature,
       a.deactivated_at AS account_deactivated_at, a.revoked_at AS account_revoked_at
FROM orders o JOIN finalizations f ON f.order_id = o.id JOIN accounts a ON a.id = o.account_id
WHERE o.id = ANY($1)
"""
_VALIDATIONS = """
SELECT v.authorization_id, v.account_id, v.identifier_type, v.identifier_value, v.wildcard, v.challenge_type,
       v.thumbprint, v.validated_at, v.valid_until, v.caa_checked_at, v.problem IS NULL AS succeeded,
       z.deactivated_at, c.checked_at AS rechecked_at, c.problem AS recheck_problem
FROM validations v
LEFT JOIN authorizations z ON z.id = v.authorization_id
LEFT JOIN LATERAL (SELECT checked_at, problem FROM caa_checks
                   WHERE authorization_id = v.authorization_id ORDER BY checked_at DESC LIMIT 1) c ON true
WHERE v.authorization_id = ANY($1)
"""
_KEY_CHANGES = "SELECT account_id, jws FROM key_changes WHERE account_id = ANY($1) ORDER BY changed_at"
_SERVICES = "SELECT id, csr FROM service_requests WHERE id = ANY($1)"
_INTENTS = """
SELECT i.request_id, c.serial, c.issuer_id, c.profile, c.tbs, s.serial IS NOT NULL AS signed
FROM issuances i JOIN certificates c ON c.serial = i.serial
LEFT JOIN certificate_signatures s ON s.serial = i.serial
WHERE i.request_id = ANY($1)
"""
_INSERT_ISSUANCES = """
INSERT INTO issuances (request_id, serial) SELECT * FROM unnest($1::bytea[], $2::bytea[])
ON CONFLICT (request_id) DO NOTHING RETURNING request_id
"""
_INSERT_CERTIFICATES = """
INSERT INTO certificates (serial, request_id, account_id, issuer_id, profile, not_before, not_after, spki_sha256, tbs,
                          created_at)
SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::smallint[], $5::text[], $6::timestamptz[],
                     $7::timestamptz[], $8::bytea[], $9::bytea[], $10::timestamptz[])
"""
_INSERT_NAMES = """
INSERT INTO certificate_names (reversed_name, serial)
SELECT DISTINCT reverse(name), serial FROM unnest($1::text[], $2::bytea[]) AS t (name, serial)
"""
_INSERT_OCSP_REQUESTS = """
INSERT INTO ocsp_requests (serial, version, issuer_id, request_id, requested_at)
SELECT serial, version, issuer_id, request_id, $5 FROM unnest($1::bytea[], $2::smallint[], $3::smallint[], $4::bytea[])
    AS t (serial, version, issuer_id, request_id)
ON CONFLICT (serial, version) DO NOTHING
"""
_INSERT_SIGNATURES = """
INSERT INTO certificate_signatures (serial, signed_at, signature)
SELECT serial, $3, signature FROM unnest($1::bytea[], $2::bytea[]) AS t (serial, signature)
ON CONFLICT (serial) DO NOTHING
"""
_INSERT_REFUSAL = """
INSERT INTO refusals (request_id, refused_at, problem) VALUES ($1, $2, $3) ON CONFLICT (request_id) DO NOTHING
"""
_DELETE_REQUESTS = "DELETE FROM issuance_requests WHERE id = ANY($1)"
_NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS t (payload)"
_ISSUERS = "SELECT id, name, key_type, certificate, crl_shards, active FROM issuers ORDER BY id"

RequestKind = Literal["order", "service"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRequest:
    """An entry of the queue that is ours until the lease runs out."""

    id: bytes
    kind: RequestKind
    requested_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIssuer:
    """A row of `issuers`."""

    id: int
    name: str
    key_type: str
    certificate: bytes
    crl_shards: int
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIntent:
    """A certificate whose bytes are fixed and committed; `signed` when its signature is stored too."""

    request_id: bytes
    serial: bytes
    issuer_id: int
    tbs: bytes
    signed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIntent:
    """What is committed before the HSM is asked."""

    request_id: bytes
    account_id: bytes | None
    serial: bytes
    issuer_id: int
    profile: str
    not_before: datetime
    not_after: datetime
    spki_sha256: bytes
    names: tuple[str, ...]
    tbs: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOrder:
    """An order with the finalize request that its subscriber signed."""

    id: bytes
    account_id: bytes
    identifiers: tuple[tuple[str, str], ...]
    authorization_ids: tuple[bytes, ...]
    profile: str
    not_before: datetime | None
    not_after: datetime | None
    finalized_at: datetime
    jwk: str
    jws_protected: bytes
    jws_payload: bytes
    jws_signature: bytes
    account_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValidation:
    """What the VA saw of one authorization, and its latest look at CAA."""

    authorization_id: bytes
    account_id: bytes
    identifier_type: str
    identifier_value: str
    wildcard: bool
    challenge_type: str
    thumbprint: bytes
    validated_at: datetime
    valid_until: datetime | None
    caa_checked_at: datetime | None
    succeeded: bool
    deactivated: bool
    rechecked_at: datetime | None
    recheck_problem: dict[str, Any] | None


async def claim(
    pool: _Executor, *, worker: str, now: datetime, lease: timedelta, limit: int
) -> list[ClaimedRequest]:
    """Takes up to `limit` requests, the oldest first; other workers' claims are passed over."""
    rows = await pool.fetch(_CLAIM, worker, now + lease, now, limit)
    return [ClaimedRequest(id=row["id"], kind=row["kind"], requested_at=row["requested_at"]) for row in rows]


async def defer(pool: _Executor, ids: Sequence[bytes], *, until: datetime, worker: str) -> None:
    """Leaves requests in the queue until a moment, because something that they need is not there yet."""
    await pool.execute(_DEFER, list(ids), until, worker)


async def lease_holders(pool: _Executor, *, now: datetime) -> list[str]:
    """Who holds leases that have not run out."""
    return [row["leased_by"] for row in await pool.fetch(_LEASE_HOLDERS, now)]


async def free_leases(pool: _Executor, workers: Sequence[str]) -> None:
    """Gives back what workers held that are known to be dead."""
    await pool.execute(_FREE_LEASES, list(workers))


async def issuers(pool: _Executor) -> list[StoredIssuer]:
    """Every issuer that a ceremony made."""
    return [StoredIssuer(id=row["id"], name=row["name"], key_type=row["key_type"], certificate=row["certificate"],
                         crl_shards=row["crl_shards"], active=row["active"]) for row in await pool.fetch(_ISSUERS)]


async def orders(pool: _Executor, ids: Sequence[bytes]) -> dict[bytes, StoredOrder]:
    """Orders that have been finalized, by id."""
    return {row["id"]: _order(row) for row in await pool.fetch(_ORDERS, list(ids))}


def _order(row: Record) -> StoredOrder:
    return StoredOrder(
        id=row["id"], account_id=row["account_id"],
        identifiers=tuple(zip(row["identifier_types"], row["identifier_values"], strict=True)),
        authorization_ids=tuple(row["authorization_ids"]), profile=row["profile"], not_before=row["not_before"],
        not_after=row["not_after"], finalized_at=row["requested_at"], jwk=row["jwk"],
        jws_protected=row["jws_protected"], jws_payload=row["jws_payload"], jws_signature=row["jws_signature"],
        account_open=row["account_deactivated_at"] is None and row["account_revoked_at"] is None)


async def validations(pool: _Executor, authorization_ids: Sequence[bytes]) -> dict[bytes, StoredValidation]:
    """What the VA stored, by authorization id."""
    rows = await pool.fetch(_VALIDATIONS, list(authorization_ids))
    return {row["authorization_id"]: StoredValidation(
        authorization_id=row["authorization_id"], account_id=row["account_id"],
        identifier_type=row["identifier_type"], identifier_value=row["identifier_value"], wildcard=row["wildcard"],
        challenge_type=row["challenge_type"], thumbprint=row["thumbprint"], validated_at=row["validated_at"],
        valid_until=row["valid_until"], caa_checked_at=row["caa_checked_at"], succeeded=row["succeeded"],
        deactivated=row["deactivated_at"] is not None, rechecked_at=row["rechecked_at"],
        recheck_problem=row["recheck_problem"]) for row in rows}


async def key_changes(pool: _Executor, account_ids: Sequence[bytes]) -> dict[bytes, list[str]]:
    """The stored JWS of every key change of the accounts, the oldest first."""
    found: dict[bytes, list[str]] = {}
    for row in await pool.fetch(_KEY_CHANGES, list(account_ids)):
        found.setdefault(row["account_id"], []).append(row["jws"])
    return found


async def service_csrs(pool: _Executor, ids: Sequence[bytes]) -> dict[bytes, bytes]:
    """The CSRs of requests for certificates of our own services, by request id."""
    return {row["id"]: row["csr"] for row in await pool.fetch(_SERVICES, list(ids))}


async def intents(pool: _Executor, request_ids: Sequence[bytes]) -> dict[bytes, StoredIntent]:
    """Intents that an earlier run has committed for these requests, by request id."""
    rows = await pool.fetch(_INTENTS, list(request_ids))
    return {row["request_id"]: StoredIntent(request_id=row["request_id"], serial=row["serial"],
                                            issuer_id=row["issuer_id"], tbs=row["tbs"], signed=row["signed"])
            for row in rows}


async def commit_intents(connection: Connection, new: Sequence[NewIntent], *, now: datetime) -> set[bytes]:
    """Stores intents and asks for their first OCSP responses; returns the request ids that were still without one.

    A request that another worker was quicker with is left out as a whole: one serial number a request.
    """
    async with connection.transaction():
        rows = await connection.fetch(_INSERT_ISSUANCES, [item.request_id for item in new],
                                      [item.serial for item in new])
        ours = {row["request_id"] for row in rows}
        kept = [item for item in new if item.request_id in ours]
        if not kept:
            return ours
        serials = [item.serial for item in kept]
        await connection.execute(
            _INSERT_CERTIFICATES, serials, [item.request_id for item in kept], [item.account_id for item in kept],
            [item.issuer_id for item in kept], [item.profile for item in kept], [item.not_before for item in kept],
            [item.not_after for item in kept], [item.spki_sha256 for item in kept], [item.tbs for item in kept],
            [now] * len(kept))
        await connection.execute(_INSERT_NAMES, [name for item in kept for name in item.names],
                                 [item.serial for item in kept for _ in item.names])
        await ask_for_ocsp(connection, [(item.serial, 0, item.issuer_id, item.request_id) for item in kept], now=now)
    return ours


async def ask_for_ocsp(
    connection: _Executor, requests: Sequence[tuple[bytes, int, int, bytes]], *, now: datetime
) -> None:
    """Queues (serial, version, issuer id, request id) for the pre-signer and wakes it, in the caller's transaction."""
    columns = [list(column) for column in zip(*requests, strict=True)]
    await connection.execute(_INSERT_OCSP_REQUESTS, *columns, now)
    await connection.execute(_NOTIFY, "ocsp_due", [""])


async def commit_signatures(
    connection: Connection, signed: Sequence[tuple[bytes, bytes, bytes]], *, now: datetime
) -> None:
    """Stores (request id, serial, signature), ends the requests, and tells who waits for them."""
    ids = [request_id for request_id, _, _ in signed]
    async with connection.transaction():
        await connection.execute(_INSERT_SIGNATURES, [serial for _, serial, _ in signed],
                                 [signature for _, _, signature in signed], now)
        await _end_requests(connection, ids)


async def commit_refusal(connection: Connection, request_id: bytes, problem: dict[str, Any], *, now: datetime) -> None:
    """Stores why there will be no certificate, ends the request, and tells who waits for it."""
    async with connection.transaction():
        await connection.execute(_INSERT_REFUSAL, request_id, now, problem)
        await _end_requests(connection, [request_id])


async def end_requests(connection: Connection, request_ids: Sequence[bytes]) -> None:
    """Ends requests whose certificate is stored already (a worker died between its commit and this)."""
    async with connection.transaction():
        await _end_requests(connection, request_ids)


async def _end_requests(connection: Connection, request_ids: Sequence[bytes]) -> None:
    await connection.execute(_DELETE_REQUESTS, list(request_ids))
    await connection.execute(_NOTIFY, "changed", [request_id.hex() for request_id in request_ids])
