"""What the role ca_issuer does with the queue of issuance: claims, with everything that stands behind them, and wakes.

Leases go by the database's clock, because the processes that share the queue may be on several machines. NOTIFY is sent
after the commit, because PostgreSQL serialises the commits of transactions that notify.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from ca.issuing.intent import StoredIntent
from ca.pki.packed import PackedError, StoredRequest, unpack_request
from ca.process.postgres import Connection, Pool, Record

LEASE_S: Final = 30
# Every statement looks keys up in partitions: a new plan for each set of keys costs more than the look itself.
SESSION_OPTIONS: Final = {"plan_cache_mode": "force_generic_plan"}

# Rows that another process is claiming are skipped, never waited for. What was asked for comes with them, and whether
# an earlier run has begun a certificate. The claim does not wait for the disk: what the cycle commits is fenced by the
# lease, so one that a dying server has lost commits nothing.
CLAIM: Final = """
WITH lazily AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), free AS (
    SELECT id FROM issuance_requests WHERE leased_until < now() ORDER BY leased_until LIMIT $2 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE issuance_requests AS request
    SET leased_by = $1, leased_until = now() + make_interval(secs => $3), attempts = least(request.attempts + 1, 32000)
    FROM free WHERE request.id = free.id
    RETURNING request.id, request.kind, request.requested_at, request.attempts
)
SELECT claimed.id, claimed.kind, claimed.requested_at, claimed.attempts,
    i.serial, o.account_id, o.identifier_types, o.identifier_values, o.authorization_ids, o.profile, o.not_before,
    o.not_after, f.requested_at AS finalized_at, f.request,
    coalesce(a.deactivated_at, a.revoked_at) IS NOT NULL AS account_closed,
    a.dns_persist_allowed_at IS NOT NULL AS dns_persist_allowed, a.id IS NOT NULL AS has_order,
    e.allowed_names, q.csr
FROM claimed CROSS JOIN lazily
LEFT JOIN issuances i ON i.request_id = claimed.id
LEFT JOIN (orders o JOIN finalizations f ON f.order_id = o.id JOIN accounts a ON a.id = o.account_id)
    ON o.id = claimed.id AND claimed.kind = 'order'
LEFT JOIN eab_credentials e ON e.kid = a.eab_kid
LEFT JOIN service_requests q ON q.id = claimed.id AND claimed.kind = 'service'
"""
# Apart from the claim, because hardly a request has one, and each table more costs even when nothing is found in it.
INTENTS: Final = """
SELECT c.serial, c.request_id, c.issuer_id, c.profile, c.not_before, c.not_after, c.tbs, c.created_at,
    p.serial IS NOT NULL AS logged, t.tbs AS final_tbs, s.serial IS NOT NULL AS signed
FROM certificates c
LEFT JOIN precertificate_signatures p ON p.serial = c.serial
LEFT JOIN final_certificates t ON t.serial = c.serial
LEFT JOIN certificate_signatures s ON s.serial = c.serial
WHERE c.serial = ANY($1::bytea[])
"""
DEFER: Final = """
UPDATE issuance_requests SET leased_until = now() + make_interval(secs => $3) WHERE id = ANY($2) AND leased_by = $1
"""
WAKE: Final = """
UPDATE issuance_requests SET leased_until = '-infinity' WHERE id = ANY($2::bytea[]) AND leased_by = $1
"""
GIVE_BACK: Final = """
UPDATE issuance_requests SET leased_until = now() + make_interval(secs => $2)
WHERE leased_by = $1 AND leased_until > now() + make_interval(secs => $2)
"""
LEASE_HOLDERS: Final = "SELECT DISTINCT leased_by FROM issuance_requests WHERE leased_until > now()"
FREE_LEASES: Final = "UPDATE issuance_requests SET leased_until = '-infinity' WHERE leased_by = ANY($1)"
DROP: Final = "DELETE FROM issuance_requests WHERE id = ANY($2) AND leased_by = $1"
# Of an order whose OCSP response is due nobody is told yet: it is not shown before, and the pre-signer tells of it
# then. Looked at after the commit, so one of the two sees what the other has done.
NOTIFY: Final = """
SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS t (channel, payload)
WHERE NOT EXISTS (
    SELECT FROM issuances i JOIN ocsp_requests q ON q.serial = i.serial AND q.version = 0
    WHERE i.request_id = CASE WHEN channel = 'changed' THEN decode(payload, 'hex') END)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOrder:
    """An order with the finalize request that its subscriber signed; None: what is stored is none."""

    id: bytes
    account_id: bytes
    identifiers: tuple[tuple[str, str], ...]
    authorization_ids: tuple[bytes, ...]
    profile: str
    not_before: datetime | None
    not_after: datetime | None
    finalized_at: datetime
    request: StoredRequest | None
    account_closed: bool
    dns_persist_allowed: bool = False
    allowed_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRequest:
    """An entry of the queue that is ours until the lease runs out, with the order or the service's CSR that stands
    behind it, and with the intent of an earlier run."""

    id: bytes
    kind: Literal["order", "service"]
    requested_at: datetime
    attempts: int
    intent: StoredIntent | None
    order: StoredOrder | None
    service_csr: bytes | None


async def claim(connection: Connection, *, worker: str, limit: int) -> list[ClaimedRequest]:
    """Takes up to `limit` requests, those that wait longest first; other workers' claims are passed over."""
    rows = await connection.fetch(CLAIM, worker, limit, LEASE_S)
    begun = [row["serial"] for row in rows if row["serial"] is not None]
    intents = {each.request_id: each for each in await _intents(connection, begun)} if begun else {}
    return [ClaimedRequest(id=row["id"], kind=row["kind"], requested_at=row["requested_at"], attempts=row["attempts"],
                           intent=intents.get(row["id"]), order=_order(row) if row["has_order"] else None,
                           service_csr=row["csr"])
            for row in rows]


async def defer(connection: Connection | Pool, ids: Sequence[bytes], *, worker: str, after_s: float) -> None:
    """Leaves requests in the queue for some seconds: what they need is not there yet, or a fault has to pass."""
    await connection.execute(DEFER, worker, list(ids), after_s)


async def wake(pool: Pool, ids: Sequence[bytes], *, worker: str) -> None:
    """Requests that a worker has left in the queue may be claimed now."""
    await pool.execute(WAKE, worker, list(ids))


async def give_back(pool: Pool, *, worker: str, after_s: float) -> None:
    """Shortens every lease that a worker holds: after a fault its requests are taken up again soon, by anybody."""
    await pool.execute(GIVE_BACK, worker, after_s)


async def lease_holders(pool: Pool) -> list[str]:
    """Who holds leases that have not run out."""
    return [row["leased_by"] for row in await pool.fetch(LEASE_HOLDERS)]


async def free_leases(pool: Pool, workers: Sequence[str]) -> None:
    """Gives back what workers held that are known to be dead."""
    await pool.execute(FREE_LEASES, list(workers))


async def drop(connection: Connection, ids: Sequence[bytes], *, worker: str) -> None:
    """Takes entries off the queue that nothing stands behind."""
    await connection.execute(DROP, worker, list(ids))


async def notify(connection: Connection, wakes: Sequence[tuple[str, str]]) -> None:
    """Sends (channel, payload), after what they are about has been committed."""
    await connection.execute(NOTIFY, [channel for channel, _ in wakes], [payload for _, payload in wakes])


async def _intents(connection: Connection, serials: Sequence[bytes]) -> list[StoredIntent]:
    return [StoredIntent(
        request_id=row["request_id"], serial=row["serial"], issuer_id=row["issuer_id"], profile=row["profile"],
        not_before=row["not_before"], not_after=row["not_after"], tbs=row["tbs"], created_at=row["created_at"],
        logged=row["logged"], final_tbs=row["final_tbs"], signed=row["signed"])
        for row in await connection.fetch(INTENTS, list(serials))]


def _request(packed: bytes) -> StoredRequest | None:
    """The front end wrote it: whatever it is, it is refused with its own order and stops no other."""
    try:
        return unpack_request(packed)
    except PackedError:
        return None


def _order(row: Record) -> StoredOrder:
    return StoredOrder(
        id=row["id"], account_id=row["account_id"],
        identifiers=tuple(zip(row["identifier_types"], row["identifier_values"], strict=True)),
        authorization_ids=tuple(row["authorization_ids"]), profile=row["profile"], not_before=row["not_before"],
        not_after=row["not_after"], finalized_at=row["finalized_at"], request=_request(row["request"]),
        account_closed=row["account_closed"], dns_persist_allowed=row["dns_persist_allowed"],
        allowed_names=tuple(row["allowed_names"] or ()))
