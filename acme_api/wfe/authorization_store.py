"""How the role acme_wfe stores an authorization that belongs to no order (RFC 8555 7.4.1)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from acme_api.protocol.authorization import Authorization
from acme_api.protocol.rate_limit import Take
from acme_api.wfe.limit_store import store_limited, with_limits, without_limits
from acme_api.wfe.sessions import Sessions

_INSERT_TEXT: Final = """
WITH {room}{taken}
INSERT INTO authorizations (id, account_id, identifier_type, identifier_value, wildcard, expires_at, challenge_types,
    challenge_tokens, subdomains)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM room WHERE room.is_left RETURNING id
"""
_INSERT: Final = without_limits(_INSERT_TEXT)
_LIMITED_INSERT: Final = with_limits(_INSERT_TEXT, first=10, gate="(SELECT FROM room WHERE is_left) AS gate")


class AuthorizationStore:
    """One statement."""

    def __init__(self, *, writes: Sessions) -> None:
        self._writes = writes

    async def insert(self, made: Authorization, *, takes: Sequence[Take], now: datetime) -> bool:
        """Stores an authorization with what it takes from limits; False when one of them has no room."""
        return await store_limited(
            self._writes, _LIMITED_INSERT if takes else _INSERT, takes, now, made.id, made.account_id,
            made.identifier_type, made.identifier_value, made.wildcard, made.facts.expires_at,
            [each.type for each in made.challenges], [each.token or "" for each in made.challenges],
            made.subdomains)
