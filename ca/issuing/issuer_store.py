"""What the role ca_issuer reads about issuers: those that a ceremony made, and what operators switched on and off."""

from dataclasses import dataclass
from typing import Final

from ca.process.postgres import Connection, Pool

ISSUERS: Final = "SELECT id, name, key_type, certificate, crl_shards, active FROM issuers ORDER BY id"
SWITCHES: Final = """
SELECT id, active AND retired_at IS NULL AS active, disabled_at IS NOT NULL AS disabled,
    ARRAY(SELECT profile FROM disabled_profiles) AS disabled_profiles
FROM issuers
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIssuer:
    """A row of `issuers`."""

    id: int
    name: str
    certificate: bytes
    crl_shards: int
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """Issuers (by id) that have been put to work, and the kill switches of issuers and profiles that are set."""

    active: frozenset[int] = frozenset()
    disabled: frozenset[int] = frozenset()
    disabled_profiles: frozenset[str] = frozenset()


async def issuers(pool: Pool) -> list[StoredIssuer]:
    """Every issuer that a ceremony made."""
    return [StoredIssuer(id=row["id"], name=row["name"], certificate=row["certificate"], crl_shards=row["crl_shards"],
                         active=row["active"]) for row in await pool.fetch(ISSUERS)]


async def switches(connection: Connection | Pool) -> Switches:
    """What the operator has put to work and what is switched off."""
    rows = await connection.fetch(SWITCHES)
    return Switches(active=frozenset(row["id"] for row in rows if row["active"]),
                    disabled=frozenset(row["id"] for row in rows if row["disabled"]),
                    disabled_profiles=frozenset(name for row in rows for name in row["disabled_profiles"]))
