"""What the role ca_admin reads of accounts, and what it may change: to end one, to allow it dns-persist-01."""

from datetime import datetime

from ca.admin.records import Account, Activity
from ca.process.postgres import Connection, Record

_ACCOUNT_COLUMNS = """id, created_at, thumbprint, jwk, contacts, deactivated_at, revoked_at, dns_persist_allowed_at,
    eab_kid, greatest(terms_agreed_at, terms_confirmed_at) AS terms_agreed_at"""
ACCOUNTS = f"""
SELECT {_ACCOUNT_COLUMNS} FROM accounts
WHERE $1 = '' OR strpos(lower(array_to_string(contacts, ' ')), lower($1)) > 0
ORDER BY id DESC LIMIT $2
"""  # noqa: S608 - a constant of this module
ACCOUNT = f"SELECT {_ACCOUNT_COLUMNS} FROM accounts WHERE id = $1"  # noqa: S608 - a constant of this module
ACTIVITY = """
SELECT (SELECT count(*) FROM orders WHERE account_id = $1) AS orders,
    (SELECT count(*) FROM certificates WHERE account_id = $1) AS certificates,
    ARRAY(SELECT id FROM orders WHERE account_id = $1 ORDER BY id DESC LIMIT 5) AS latest_order_ids
"""
KEY_CHANGES = """
SELECT changed_at, old_thumbprint, new_thumbprint FROM key_changes WHERE account_id = $1 ORDER BY changed_at
"""
SET_DNS_PERSIST = "UPDATE accounts SET dns_persist_allowed_at = $2 WHERE id = $1"
REVOKE_ACCOUNT = "UPDATE accounts SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL"


async def accounts(connection: Connection, *, contact: str, limit: int) -> list[Account]:
    """The newest accounts, those alone with `contact` in a contact when it is not empty."""
    return [_account(row) for row in await connection.fetch(ACCOUNTS, contact, limit)]


async def account(connection: Connection, account_id: bytes) -> Account | None:
    """One account."""
    row = await connection.fetchrow(ACCOUNT, account_id)
    return None if row is None else _account(row)


def _account(row: Record) -> Account:
    columns = ("id", "created_at", "thumbprint", "jwk", "terms_agreed_at", "deactivated_at", "revoked_at",
               "dns_persist_allowed_at", "eab_kid")
    return Account(contacts=tuple(row["contacts"]), **{name: row[name] for name in columns})


async def activity(connection: Connection, account_id: bytes) -> Activity:
    """What the account has done."""
    row = await connection.fetchrow(ACTIVITY, account_id)
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    changes = await connection.fetch(KEY_CHANGES, account_id)
    return Activity(orders=row["orders"], certificates=row["certificates"],
                    latest_order_ids=tuple(row["latest_order_ids"]), key_changes=tuple(
                        (change["changed_at"], change["old_thumbprint"], change["new_thumbprint"])
                        for change in changes))


async def set_dns_persist(connection: Connection, account_id: bytes, allowed_at: datetime | None) -> None:
    """Lets the account use dns-persist-01, or takes that back (None)."""
    await connection.execute(SET_DNS_PERSIST, account_id, allowed_at)


async def revoke_account(connection: Connection, account_id: bytes, now: datetime) -> None:
    """Ends an account for good; does nothing when it has been revoked before."""
    await connection.execute(REVOKE_ACCOUNT, account_id, now)
