"""What the role ca_admin does about blocked keys and names. Only the CA blocks a key: it is asked by an act."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ca.pki.object_id import object_id
from ca.process.ambient import Ambient
from ca.process.postgres import Connection

ACT: Final = """
INSERT INTO operator_acts (id, acted_at, operator, act, subject, detail) VALUES ($1, $2, $3, $4, $5, $6)
"""
NOTIFY_CA: Final = "SELECT pg_notify('revocation', '')"
RECORDED_AT: Final = "SELECT recorded_at FROM operator_acts WHERE id = $1"
BLOCKED_KEY: Final = """
SELECT spki_sha256, thumbprint, blocked_at, authority, evidence, sweep_at FROM blocked_keys WHERE spki_sha256 = $1
"""
BLOCKED_KEYS: Final = """
SELECT spki_sha256, thumbprint, blocked_at, authority, evidence, sweep_at FROM blocked_keys
ORDER BY blocked_at DESC, spki_sha256 LIMIT $1
"""
UNREVOKED_WITH_KEY: Final = """
SELECT count(*) FROM certificates c LEFT JOIN revocations r ON r.serial = c.serial
WHERE c.spki_sha256 = $1 AND c.not_after >= $2 AND r.reason IS DISTINCT FROM 1
"""
TBS_WITH_KEY: Final = "SELECT tbs FROM certificates WHERE spki_sha256 = $1 LIMIT 1"
ACCOUNT_WITH_KEY: Final = """
SELECT id, contacts, coalesce(deactivated_at, revoked_at) AS closed_at FROM accounts WHERE thumbprint = $1
"""
BLOCK_NAME: Final = """
INSERT INTO blocked_names (name, and_below, blocked_at, operator, comment) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO NOTHING RETURNING name
"""
ADD_WEAK: Final = """
INSERT INTO weak_keys (digest, source) SELECT digest, $2 FROM unnest($1::bytea[]) AS t (digest) ON CONFLICT DO NOTHING
"""
DROP_WEAK: Final = "DELETE FROM weak_keys WHERE source = $1"
WEAK_LISTS: Final = "SELECT source, count(*) AS keys FROM weak_keys GROUP BY 1 ORDER BY 1"
WEAK_CERTIFICATES: Final = """
SELECT count(*) FROM certificates c JOIN weak_keys w ON w.digest = '\\x02'::bytea || c.spki_sha256
WHERE c.not_after >= $1
"""
UNBLOCK_NAME: Final = "DELETE FROM blocked_names WHERE name = $1 RETURNING name"
BLOCKED_NAMES: Final = """
SELECT name, and_below, blocked_at, operator, comment FROM blocked_names
WHERE $1::text[] IS NULL OR name = ANY($1) ORDER BY name LIMIT $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedKey:
    """A key that is never certified. `sweep_at`: its certificates are still being revoked."""

    spki_sha256: bytes
    thumbprint: bytes | None
    blocked_at: datetime
    authority: str
    evidence: dict[str, Any]
    sweep_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountWithKey:
    """The account that a key belongs to."""

    id: bytes
    contacts: tuple[str, ...]
    closed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedName:
    """A name that is never certified, with everything below it when `and_below`."""

    name: str
    and_below: bool
    blocked_at: datetime
    operator: str
    comment: str


async def act(
    connection: Connection, ambient: Ambient, *, operator: str, act: str, subject: str, detail: object
) -> bytes:
    """Records what an operator does in the transaction that does it, and wakes the CA; the id of the record."""
    now = ambient.now()
    act_id = object_id(now, ambient.random_bytes(16))
    await connection.execute(ACT, act_id, now, operator, act, subject, detail)
    await connection.execute(NOTIFY_CA)
    return act_id


async def recorded_at(connection: Connection, act_id: bytes) -> datetime | None:
    """When the CA took an act into its audit log and carried it out; None: not yet."""
    moment: datetime | None = await connection.fetchval(RECORDED_AT, act_id)
    return moment


async def blocked_key(connection: Connection, spki_sha256: bytes) -> BlockedKey | None:
    """The block of a key."""
    row = await connection.fetchrow(BLOCKED_KEY, spki_sha256)
    return None if row is None else BlockedKey(**dict(row))


async def blocked_keys(connection: Connection, limit: int) -> list[BlockedKey]:
    """The newest blocks."""
    return [BlockedKey(**dict(row)) for row in await connection.fetch(BLOCKED_KEYS, limit)]


async def unrevoked_with_key(connection: Connection, spki_sha256: bytes, *, now: datetime) -> int:
    """How many unexpired certificates with the key are not revoked for its loss."""
    count: int = await connection.fetchval(UNREVOKED_WITH_KEY, spki_sha256, now)
    return count


async def tbs_with_key(connection: Connection, spki_sha256: bytes) -> bytes | None:
    """A TBSCertificate with the key, if there has ever been one."""
    tbs: bytes | None = await connection.fetchval(TBS_WITH_KEY, spki_sha256)
    return tbs


async def account_with_key(connection: Connection, thumbprint: bytes) -> AccountWithKey | None:
    """The account whose key this is."""
    row = await connection.fetchrow(ACCOUNT_WITH_KEY, thumbprint)
    return None if row is None else AccountWithKey(id=row["id"], contacts=tuple(row["contacts"]),
                                                   closed_at=row["closed_at"])


async def add_weak(connection: Connection, digests: list[bytes], source: str) -> int:
    """Adds digests of weak keys; how many are new."""
    return int((await connection.execute(ADD_WEAK, digests, source)).rpartition(" ")[2])


async def drop_weak(connection: Connection, source: str) -> int:
    """Takes a list out; how many digests it had alone."""
    return int((await connection.execute(DROP_WEAK, source)).rpartition(" ")[2])


async def weak_lists(connection: Connection) -> dict[str, int]:
    """Source -> how many keys are known from it."""
    return {row["source"]: row["keys"] for row in await connection.fetch(WEAK_LISTS)}


async def weak_certificates(connection: Connection, *, now: datetime) -> int:
    """How many unexpired certificates have a key of a list in the form spki-sha256."""
    count: int = await connection.fetchval(WEAK_CERTIFICATES, now, timeout=600)
    return count


async def block_name(
    connection: Connection, name: str, *, and_below: bool, operator: str, comment: str, now: datetime
) -> bool:
    """Blocks a name; False when it is blocked already."""
    return await connection.fetchval(BLOCK_NAME, name, and_below, now, operator, comment) is not None


async def unblock_name(connection: Connection, name: str) -> bool:
    """Takes a block back; False when there is none."""
    return await connection.fetchval(UNBLOCK_NAME, name) is not None


async def blocked_names(connection: Connection, names: list[str] | None, limit: int) -> list[BlockedName]:
    """Blocked names in their order: those among `names`, or all."""
    return [BlockedName(**dict(row)) for row in await connection.fetch(BLOCKED_NAMES, names, limit)]
