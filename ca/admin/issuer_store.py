"""What the role ca_admin does about issuers and profiles: put to work, switch off, retire; which chain comes first."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca.process.postgres import Connection

ISSUERS: Final = """
SELECT i.id, i.name, i.key_type, i.certificate, i.crl_shards, i.active, i.disabled_at, i.retired_at,
    (SELECT count(DISTINCT shard) FROM crls WHERE crls.issuer_id = i.id AND next_update > $1) AS crls,
    (SELECT count(*) FROM issuer_chains c WHERE c.issuer_id = i.id) AS chains
FROM issuers i ORDER BY i.id
"""
SET_ACTIVE: Final = "UPDATE issuers SET active = $2 WHERE id = $1"
SET_DISABLED: Final = "UPDATE issuers SET disabled_at = $2 WHERE id = $1"
RETIRE: Final = "UPDATE issuers SET active = false, retired_at = $2 WHERE id = $1 AND retired_at IS NULL"
DISABLE_PROFILE: Final = """
INSERT INTO disabled_profiles (profile, disabled_at, operator, comment) VALUES ($1, $2, $3, $4)
ON CONFLICT (profile) DO NOTHING RETURNING profile
"""
ENABLE_PROFILE: Final = "DELETE FROM disabled_profiles WHERE profile = $1 RETURNING profile"
DISABLED_PROFILES: Final = "SELECT profile, disabled_at, operator, comment FROM disabled_profiles ORDER BY profile"
CHAINS: Final = "SELECT position, certificates FROM issuer_chains WHERE issuer_id = $1 ORDER BY position"
PREFERENCES: Final = "SELECT profile, position FROM chain_preferences WHERE issuer_id = $1 ORDER BY profile"
PREFER: Final = """
INSERT INTO chain_preferences (issuer_id, profile, position) VALUES ($1, $2, $3)
ON CONFLICT (issuer_id, profile) DO UPDATE SET position = excluded.position
"""
NO_PREFERENCE: Final = "DELETE FROM chain_preferences WHERE issuer_id = $1 AND profile = $2"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIssuer:
    """An issuer with what an operator has decided about it; `crls` of its shards have a CRL that is in force."""

    id: int
    name: str
    key_type: str
    certificate: bytes
    crl_shards: int
    active: bool
    disabled_at: datetime | None
    retired_at: datetime | None
    crls: int
    chains: int

    @property
    def state(self) -> str:
        """'staged', 'active', 'disabled' or 'retired'."""
        if self.retired_at is not None:
            return "retired"
        if self.disabled_at is not None:
            return "disabled"
        return "active" if self.active else "staged"


@dataclass(frozen=True, slots=True, kw_only=True)
class DisabledProfile:
    """A profile whose kill switch is set."""

    profile: str
    disabled_at: datetime
    operator: str
    comment: str


async def issuers(connection: Connection, *, now: datetime) -> list[StoredIssuer]:
    """Every issuer."""
    return [StoredIssuer(**dict(row)) for row in await connection.fetch(ISSUERS, now)]


async def set_active(connection: Connection, issuer_id: int, *, active: bool) -> None:
    """Puts an issuer to work, or takes it back to be staged."""
    await connection.execute(SET_ACTIVE, issuer_id, active)


async def set_disabled(connection: Connection, issuer_id: int, at: datetime | None) -> None:
    """Sets the kill switch, or takes it back (None)."""
    await connection.execute(SET_DISABLED, issuer_id, at)


async def retire(connection: Connection, issuer_id: int, *, now: datetime) -> None:
    """Ends the issuer's work for good."""
    await connection.execute(RETIRE, issuer_id, now)


async def disable_profile(
    connection: Connection, profile: str, *, operator: str, comment: str, now: datetime
) -> bool:
    """Sets a profile's kill switch; False when it is set."""
    return await connection.fetchval(DISABLE_PROFILE, profile, now, operator, comment) is not None


async def enable_profile(connection: Connection, profile: str) -> bool:
    """Takes a profile's kill switch back; False when it is not set."""
    return await connection.fetchval(ENABLE_PROFILE, profile) is not None


async def disabled_profiles(connection: Connection) -> list[DisabledProfile]:
    """The profiles whose kill switch is set."""
    return [DisabledProfile(**dict(row)) for row in await connection.fetch(DISABLED_PROFILES)]


async def chains(connection: Connection, issuer_id: int) -> dict[int, list[bytes]]:
    """Position -> the certificates above a leaf, DER."""
    return {row["position"]: list(row["certificates"]) for row in await connection.fetch(CHAINS, issuer_id)}


async def preferences(connection: Connection, issuer_id: int) -> dict[str, int]:
    """Profile -> position of the chain that comes first."""
    return {row["profile"]: row["position"] for row in await connection.fetch(PREFERENCES, issuer_id)}


async def prefer(connection: Connection, issuer_id: int, profile: str, position: int) -> None:
    """Says which chain comes first for a profile; 0 takes that back."""
    if position:
        await connection.execute(PREFER, issuer_id, profile, position)
    else:
        await connection.execute(NO_PREFERENCE, issuer_id, profile)
