"""What the role ca_admin does with external accounts: it makes and ends credentials, and cannot read their keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ca.process.postgres import Connection, Record

_COLUMNS = """c.kid, c.created_at, c.created_by, c.comment, c.single_use, c.expires_at, c.allowed_names, c.revoked_at,
    (SELECT count(*) FROM accounts a WHERE a.eab_kid = c.kid) AS accounts"""
EAB_CREDENTIALS = f"""
SELECT {_COLUMNS} FROM eab_credentials c
WHERE $1 OR (revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
    AND NOT (single_use AND EXISTS (SELECT FROM accounts a WHERE a.eab_kid = c.kid)))
ORDER BY created_at DESC, kid LIMIT $3
"""  # noqa: S608 - a constant of this module
EAB_CREDENTIAL = f"SELECT {_COLUMNS} FROM eab_credentials c WHERE kid = $1"  # noqa: S608 - a constant of this module
INSERT_EAB_CREDENTIAL = """
INSERT INTO eab_credentials (kid, mac_key, created_at, created_by, comment, single_use, expires_at, allowed_names)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
REVOKE_EAB_CREDENTIAL = "UPDATE eab_credentials SET revoked_at = $2 WHERE kid = $1 AND revoked_at IS NULL"
REVOKE_EAB_ACCOUNTS = "UPDATE accounts SET revoked_at = $2 WHERE eab_kid = $1 AND revoked_at IS NULL"
OPEN_EAB_ACCOUNTS = """
SELECT count(*) FROM accounts WHERE eab_kid = $1 AND revoked_at IS NULL AND deactivated_at IS NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """An external account without its key, and how many ACME accounts were made with it."""

    kid: str
    created_at: datetime
    created_by: str
    comment: str
    single_use: bool
    expires_at: datetime | None
    allowed_names: tuple[str, ...]
    revoked_at: datetime | None
    accounts: int

    def state(self, now: datetime) -> str:
        """usable, used, expired or revoked: whether one more account can be made with it."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "used" if self.single_use and self.accounts else "usable"


async def credentials(connection: Connection, *, every: bool, now: datetime, limit: int) -> list[Credential]:
    """The newest credentials; without `every` those that can still be used."""
    return [_credential(row) for row in await connection.fetch(EAB_CREDENTIALS, every, now, limit)]


async def credential(connection: Connection, kid: str) -> Credential | None:
    """One credential."""
    row = await connection.fetchrow(EAB_CREDENTIAL, kid)
    return None if row is None else _credential(row)


async def insert_credential(
    connection: Connection, *, kid: str, mac_key: bytes, now: datetime, operator: str, comment: str, single_use: bool,
    expires_at: datetime | None, allowed_names: Sequence[str],
) -> None:
    """Stores a new credential; nobody but the front end can read its key from now on."""
    await connection.execute(INSERT_EAB_CREDENTIAL, kid, mac_key, now, operator, comment, single_use, expires_at,
                             list(allowed_names))


async def open_accounts(connection: Connection, kid: str) -> int:
    """How many accounts that were made with it are open."""
    return int(await connection.fetchval(OPEN_EAB_ACCOUNTS, kid))


async def revoke_credential(connection: Connection, kid: str, *, with_accounts: bool, now: datetime) -> None:
    """Ends a credential for good, and the accounts that were made with it if that is wanted."""
    await connection.execute(REVOKE_EAB_CREDENTIAL, kid, now)
    if with_accounts:
        await connection.execute(REVOKE_EAB_ACCOUNTS, kid, now)


def _credential(row: Record) -> Credential:
    return Credential(**{**dict(row), "allowed_names": tuple(row["allowed_names"])})
