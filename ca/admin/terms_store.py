"""What the role ca_admin does about terms of service: it records who agreed to the present ones (RFC 8555 7.3.3)."""

from datetime import datetime

from ca.process.postgres import Connection

CONFIRM_TERMS = "UPDATE accounts SET terms_confirmed_at = $2 WHERE id = $1"


async def confirm_terms(connection: Connection, account_id: bytes, now: datetime) -> None:
    """The subscriber has agreed to the terms as they are now."""
    await connection.execute(CONFIRM_TERMS, account_id, now)
