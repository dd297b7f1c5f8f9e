"""What the role acme_wfe does with accounts and the external accounts that they are bound to (RFC 8555 7.3)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from acme_api.protocol.account import Account
from acme_api.protocol.rate_limit import Take
from acme_api.wfe.limit_store import store_limited, with_limits, without_limits
from ca.process.postgres import Record, UniqueViolation
from ca.process.sessions import Sessions

SIGNER: Final = """signer.id AS signer_id, signer.thumbprint AS signer_thumbprint, signer.jwk AS signer_jwk,
    signer.contacts AS signer_contacts, signer.deactivated_at AS signer_deactivated_at,
    signer.revoked_at AS signer_revoked_at,
    greatest(signer.terms_agreed_at, signer.terms_confirmed_at) AS signer_terms_agreed_at,
    signer.dns_persist_allowed_at AS signer_dns_persist_allowed_at, signer.eab_kid AS signer_eab_kid,
    signer.eab AS signer_eab"""

_ACCOUNT_EXISTS: Final = "SELECT EXISTS (SELECT FROM accounts WHERE id = $1)"
_ACCOUNT_BY_THUMBPRINT: Final = f"""
SELECT {SIGNER} FROM accounts AS signer WHERE signer.thumbprint = $1
"""  # noqa: S608 - of constants
_INSERT_ACCOUNT_TEXT: Final = """
WITH {room}, gate AS (
    SELECT FROM room WHERE is_left AND NOT EXISTS (SELECT FROM accounts WHERE thumbprint = $3)
){taken}
INSERT INTO accounts (id, created_at, thumbprint, jwk, contacts, terms_agreed_at)
SELECT $1, $2, $3, $4, $5, $6 FROM room WHERE is_left
ON CONFLICT (thumbprint) DO NOTHING RETURNING id
"""
_INSERT_ACCOUNT: Final = without_limits(_INSERT_ACCOUNT_TEXT)
_LIMITED_INSERT_ACCOUNT: Final = with_limits(_INSERT_ACCOUNT_TEXT, first=7, gate="gate")
# The credential is looked at again in the statement that uses it up.
_INSERT_BOUND_ACCOUNT_TEXT: Final = """
WITH {room}, credential AS (
    SELECT kid, single_use FROM eab_credentials
    WHERE kid = $7 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
), gate AS (
    SELECT FROM room, credential WHERE is_left AND NOT EXISTS (SELECT FROM accounts WHERE thumbprint = $3)
){taken}
INSERT INTO accounts (id, created_at, thumbprint, jwk, contacts, terms_agreed_at, eab_kid, eab, eab_single_use)
SELECT $1, $2, $3, $4, $5, $6, kid, $8, single_use FROM credential, room WHERE is_left
ON CONFLICT (thumbprint) DO NOTHING RETURNING id
"""
_INSERT_BOUND_ACCOUNT: Final = without_limits(_INSERT_BOUND_ACCOUNT_TEXT)
_LIMITED_INSERT_BOUND_ACCOUNT: Final = with_limits(_INSERT_BOUND_ACCOUNT_TEXT, first=9, gate="gate")
_USABLE_MAC_KEY: Final = """
SELECT mac_key FROM eab_credentials c
WHERE kid = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
    AND NOT (single_use AND EXISTS (SELECT FROM accounts a WHERE a.eab_kid = c.kid AND a.thumbprint <> $3))
"""
_ALLOWED_NAMES: Final = "SELECT allowed_names FROM eab_credentials WHERE kid = $1"
_SET_CONTACTS: Final = "UPDATE accounts SET contacts = $2 WHERE id = $1"
_DEACTIVATE_ACCOUNT: Final = "UPDATE accounts SET deactivated_at = $2 WHERE id = $1 AND deactivated_at IS NULL"
# The link and the new key come together or not at all; of two changes at once the second finds its old key gone.
_CHANGE_KEY: Final = """
WITH changed AS (
    UPDATE accounts SET thumbprint = $3, jwk = $4
    WHERE id = $1 AND thumbprint = $2 AND deactivated_at IS NULL AND revoked_at IS NULL RETURNING id
)
INSERT INTO key_changes (account_id, changed_at, old_thumbprint, new_thumbprint, jws)
SELECT id, $5, $2, $3, $6 FROM changed RETURNING account_id
"""


class KeyTaken(Exception):
    """The key already belongs to an account."""

    def __init__(self, account_id: bytes) -> None:
        super().__init__(account_id.hex())
        self.account_id = account_id


class AccountStore:
    """Statements and the values they take and give; decisions are the protocol package's."""

    def __init__(self, *, reads: Sessions, writes: Sessions) -> None:
        self._reads = reads
        self._writes = writes

    async def account_exists(self, account_id: bytes) -> bool:
        """Whether there is such an account."""
        return bool(await self._reads.fetchval(_ACCOUNT_EXISTS, account_id))

    async def account_of_key(self, thumbprint: bytes) -> Account | None:
        """The account that has this key now."""
        row = await self._reads.fetchrow(_ACCOUNT_BY_THUMBPRINT, thumbprint)
        return None if row is None else signer_of(row)

    async def insert_account(self, account: Account, *, created_at: datetime, takes: Sequence[Take] = ()) -> bool:
        """Stores a new account; False when its key has an account already (row AC9), its external account cannot be
        used any more, or a limit has no room."""
        values = (account.id, created_at, account.thumbprint, account.jwk, list(account.contacts),
                  account.terms_agreed_at)
        if account.eab_kid is None:
            return await store_limited(self._writes, _LIMITED_INSERT_ACCOUNT if takes else _INSERT_ACCOUNT, takes,
                                       created_at, *values)
        try:
            return await store_limited(
                self._writes, _LIMITED_INSERT_BOUND_ACCOUNT if takes else _INSERT_BOUND_ACCOUNT, takes, created_at,
                *values, account.eab_kid, account.eab)
        except UniqueViolation:
            return False

    async def usable_mac_key(self, kid: str, *, thumbprint: bytes, now: datetime) -> bytes | None:
        """The HMAC key of an external account, when it may make the account of this key at `now`, or has made it."""
        mac_key: bytes | None = await self._reads.fetchval(_USABLE_MAC_KEY, kid, now, thumbprint)
        return mac_key

    async def allowed_names(self, kid: str) -> tuple[str, ...]:
        """What the accounts of an external account may order (ca/pki/name_scope.py)."""
        return tuple(await self._reads.fetchval(_ALLOWED_NAMES, kid))

    async def set_contacts(self, account_id: bytes, contacts: Sequence[str]) -> None:
        """Replaces an account's contacts."""
        await self._writes.fetch(_SET_CONTACTS, account_id, list(contacts))

    async def deactivate_account(self, account_id: bytes, *, now: datetime) -> None:
        """Closes an account for ever."""
        await self._writes.fetch(_DEACTIVATE_ACCOUNT, account_id, now)

    async def change_key(
        self, account_id: bytes, *, old_thumbprint: bytes, new_thumbprint: bytes, new_jwk: str, jws: str, now: datetime
    ) -> bool:
        """Gives the account its new key; False when the old one is not its key any more. Raises KeyTaken."""
        try:
            return await self._writes.fetchval(
                _CHANGE_KEY, account_id, old_thumbprint, new_thumbprint, new_jwk, now, jws) is not None
        except UniqueViolation:
            owner = await self.account_of_key(new_thumbprint)
            if owner is None:
                raise
            raise KeyTaken(owner.id) from None


def signer_of(row: Record) -> Account | None:
    """The account in the columns of SIGNER; None when there is none."""
    if row["signer_id"] is None:
        return None
    return Account(
        id=row["signer_id"], thumbprint=row["signer_thumbprint"], jwk=row["signer_jwk"],
        contacts=tuple(row["signer_contacts"]), terms_agreed_at=row["signer_terms_agreed_at"],
        deactivated_at=row["signer_deactivated_at"], revoked_at=row["signer_revoked_at"],
        dns_persist_allowed=row["signer_dns_persist_allowed_at"] is not None, eab_kid=row["signer_eab_kid"],
        eab=row["signer_eab"])
