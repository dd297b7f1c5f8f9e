"""What the role acme_wfe does with authorizations (RFC 8555 7.5); those of a new order are stored with it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from acme_api.protocol.authorization import Authorization, AuthorizationFacts, Challenge, Validation
from acme_api.protocol.challenge import tokens_of, type_bits
from acme_api.protocol.rate_limit import Take
from acme_api.wfe.limit_store import store_limited, with_limits, without_limits
from ca.process.postgres import Record
from ca.process.sessions import Sessions

AUTHORIZATION: Final = """
SELECT a.id, a.account_id, a.identifier_type, a.identifier_value, a.wildcard, a.subdomains, a.expires_at,
    a.challenge_types, a.challenge_tokens, a.deactivated_at, v.challenge_type, v.validated_at, v.valid_until, v.problem,
    (SELECT q.challenge_type FROM validation_requests q WHERE q.authorization_id = a.id AND q.kind = 'challenge')
        AS responding
FROM authorizations a LEFT JOIN validations v ON v.authorization_id = a.id
"""
_AUTHORIZATION_BY_ID: Final = AUTHORIZATION + "WHERE a.id = $1"
_DEACTIVATE_AUTHORIZATION: Final = """
UPDATE authorizations SET deactivated_at = $2 WHERE id = $1 AND deactivated_at IS NULL
"""
_INSERT_VALIDATION_REQUEST: Final = """
INSERT INTO validation_requests (id, kind, authorization_id, account_id, challenge_type, thumbprint, requested_at)
SELECT $1, 'challenge', $2, $3, $4, $5, $6
WHERE NOT EXISTS (SELECT FROM validations WHERE authorization_id = $2)
ON CONFLICT (authorization_id, kind, caa_name) DO NOTHING RETURNING id
"""
_LOOK_AHEAD: Final = """
INSERT INTO validation_requests (id, kind, authorization_id, account_id, challenge_type, thumbprint, requested_at)
SELECT id, 'look', authorization_id, $3, 'dns-persist-01', $4, $5
FROM unnest($1::bytea[], $2::bytea[]) AS looks (id, authorization_id)
ON CONFLICT (authorization_id, kind, caa_name) DO NOTHING
"""
_LOOKS_LEFT: Final = """
SELECT count(*) FROM validation_requests WHERE authorization_id = ANY($1::bytea[]) AND kind = 'look'
"""
_INSERT_TEXT: Final = """
WITH {room}{taken}
INSERT INTO authorizations (id, account_id, identifier_type, identifier_value, wildcard, expires_at, challenge_types,
    challenge_tokens, subdomains)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM room WHERE room.is_left RETURNING id
"""
_INSERT: Final = without_limits(_INSERT_TEXT)
_LIMITED_INSERT: Final = with_limits(_INSERT_TEXT, first=10, gate="(SELECT FROM room WHERE is_left) AS gate")


class AuthorizationStore:
    """Statements and the values they take and give; decisions are the protocol package's."""

    def __init__(self, *, reads: Sessions, writes: Sessions) -> None:
        self._reads = reads
        self._writes = writes

    async def authorization(self, authorization_id: bytes) -> Authorization | None:
        """An authorization with all its facts."""
        row = await self._reads.fetchrow(_AUTHORIZATION_BY_ID, authorization_id)
        return None if row is None else authorization_of(row)

    async def deactivate_authorization(self, authorization_id: bytes, *, now: datetime) -> None:
        """Takes an authorization out of use for ever."""
        await self._writes.fetch(_DEACTIVATE_AUTHORIZATION, authorization_id, now)

    async def insert_validation_request(
        self, request_id: bytes, authorization: Authorization, challenge_type: str, thumbprint: bytes, *, now: datetime
    ) -> bool:
        """Asks the VA to validate; False, and nothing is stored, when it is asked already or has answered."""
        return await self._writes.fetchval(
            _INSERT_VALIDATION_REQUEST, request_id, authorization.id, authorization.account_id, challenge_type,
            thumbprint, now) is not None

    async def look_ahead(self, looks: Mapping[bytes, bytes], account_id: bytes, thumbprint: bytes, *,
                         now: datetime) -> None:
        """Asks the VA to look whether persistent records let the account in already; request ids by authorization."""
        await self._writes.fetch(_LOOK_AHEAD, list(looks.values()), list(looks), account_id, thumbprint, now)

    async def looks_left(self, authorization_ids: Sequence[bytes]) -> int:
        """How many of them the VA has not ended yet."""
        return int(await self._reads.fetchval(_LOOKS_LEFT, list(authorization_ids)))

    async def insert(self, made: Authorization, *, takes: Sequence[Take], now: datetime) -> bool:
        """Stores an authorization with what it takes from limits; False when one of them has no room."""
        return await store_limited(
            self._writes, _LIMITED_INSERT if takes else _INSERT, takes, now, made.id, made.account_id,
            made.identifier_type, made.identifier_value, made.wildcard, made.facts.expires_at,
            type_bits(each.type for each in made.challenges), made.token_seed, made.subdomains)


def facts_of(row: Record) -> AuthorizationFacts:
    """When it ends, and what became of its validation."""
    validation = None
    if row["challenge_type"] is not None:
        validation = Validation(challenge_type=row["challenge_type"], validated_at=row["validated_at"],
                                valid_until=row["valid_until"], problem=row["problem"])
    return AuthorizationFacts(expires_at=row["expires_at"], deactivated_at=row["deactivated_at"],
                              validation=validation)


def authorization_of(row: Record) -> Authorization:
    """A row of AUTHORIZATION."""
    return Authorization(
        id=row["id"], account_id=row["account_id"], identifier_type=row["identifier_type"],
        identifier_value=row["identifier_value"], wildcard=row["wildcard"], subdomains=row["subdomains"],
        responding=row["responding"],
        facts=facts_of(row), challenges=tuple(
            Challenge(type=kind, token=token)
            for kind, token in tokens_of(row["challenge_types"], row["challenge_tokens"]).items()))
