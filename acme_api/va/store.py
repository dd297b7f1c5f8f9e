"""Everything that the role acme_va does in the database: claim requests, keep or give back leases, store what was seen.

Leases go by the database's clock, because the processes that share the queue may be on several machines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from acme_api.protocol.challenge import DNS_PERSIST_01, tokens_of
from acme_api.va.perspective_client import PerspectiveHealth
from ca.pki.corroboration import ALONE, Corroboration
from ca.pki.identifier import IdentifierError, parse_identifier
from ca.pki.packed import pack_evidence
from ca.process.postgres import UNAVAILABLE, Pool, Record
from ca.process.sessions import Sessions

LEASE_S: Final = 60
# A claim and an outcome at a time; the other connections of the pool are for everything else.
_SESSIONS: Final = 2

# One statement: rows that another process is claiming are skipped, never waited for. The identifier comes with it.
CLAIM: Final = """
WITH free AS (
    SELECT id FROM validation_requests
    WHERE leased_until < now() AND account_id <> ALL($3::bytea[])
    ORDER BY leased_until LIMIT $2
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE validation_requests AS request
    SET leased_by = $1, leased_until = now() + make_interval(secs => $4), attempts = request.attempts + 1
    FROM free WHERE request.id = free.id
    RETURNING request.id, request.kind, request.authorization_id, request.challenge_type, request.thumbprint,
        request.attempts, request.caa_name
)
SELECT claimed.id, claimed.kind, claimed.authorization_id, claimed.challenge_type, claimed.thumbprint,
    claimed.attempts, claimed.caa_name, authz.account_id, authz.identifier_type, authz.identifier_value, authz.wildcard,
    authz.subdomains, done.subdomains AND claimed.caa_name LIKE '%.' || done.identifier_value AS below,
    authz.challenge_types, authz.challenge_tokens,
    authz.id IS NULL OR authz.deactivated_at IS NOT NULL AS authorization_gone,
    authz.expires_at <= now() AS expired,
    account.id IS NULL OR account.deactivated_at IS NOT NULL OR account.revoked_at IS NOT NULL AS account_gone,
    account.first_thumbprint, account.dns_persist_allowed_at IS NOT NULL AS persist_allowed,
    done.challenge_type AS validated_by
FROM claimed
LEFT JOIN authorizations AS authz ON authz.id = claimed.authorization_id
LEFT JOIN accounts AS account ON account.id = authz.account_id
LEFT JOIN validations AS done ON done.authorization_id = claimed.authorization_id AND done.valid_until IS NOT NULL
"""

EXTEND: Final = """
UPDATE validation_requests SET leased_until = now() + make_interval(secs => $3)
WHERE id = ANY($2::bytea[]) AND leased_by = $1
"""

# Another process may claim them after $3 seconds; $4 claims are not held against them.
RELEASE: Final = """
UPDATE validation_requests
SET leased_by = NULL, leased_until = now() + make_interval(secs => $3), attempts = attempts - $4
WHERE id = ANY($2::bytea[]) AND leased_by = $1
"""

# Rows of a claim whose answer was lost with its connection: ours by name, but not among those being worked on.
RELEASE_STRAYS: Final = """
UPDATE validation_requests SET leased_by = NULL, leased_until = '-infinity', attempts = attempts - 1
WHERE leased_by = $1 AND id <> ALL($2::bytea[])
"""

LEASE_HOLDERS: Final = """
SELECT DISTINCT leased_by FROM validation_requests WHERE leased_by IS NOT NULL AND leased_until > now()
"""

# What processes held that are dead: their validations begin anew at once.
FREE_DEAD: Final = """
UPDATE validation_requests SET leased_by = NULL, leased_until = '-infinity' WHERE leased_by = ANY($1::text[])
"""

DROP: Final = "DELETE FROM validation_requests WHERE id = $2 AND leased_by = $1"

# A look that nobody asked for by name found nothing: who waits for it goes on.
END_LOOK: Final = """
WITH gone AS (
    DELETE FROM validation_requests WHERE id = $2 AND leased_by = $1 RETURNING authorization_id
)
SELECT pg_notify('changed', encode(authorization_id, 'hex')) FROM gone
"""

# The one completing transaction: the request goes and the outcome comes together. A result that comes after the lease
# was lost, or after the authorization was deactivated (E79), leaves nothing; what was stored first stays.
STORE_VALIDATION: Final = """
WITH gone AS (
    DELETE FROM validation_requests WHERE id = $2 AND leased_by = $1 RETURNING authorization_id
), stored AS (
    INSERT INTO validations (authorization_id, account_id, identifier_type, identifier_value, wildcard,
        challenge_type, thumbprint, validated_at, valid_until, caa_checked_at, problem, evidence,
        remotes_asked, remotes_corroborated, remote_rirs, subdomains)
    SELECT authz.id, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18
    FROM gone JOIN authorizations AS authz ON authz.id = gone.authorization_id
    WHERE authz.id = $3 AND authz.deactivated_at IS NULL
    ON CONFLICT (authorization_id) DO NOTHING
    RETURNING authorization_id
)
SELECT pg_notify('changed', encode(authorization_id, 'hex')) FROM stored
"""

# The CA waits for it; nobody else sees a difference.
STORE_CAA_CHECK: Final = """
WITH gone AS (
    DELETE FROM validation_requests WHERE id = $2 AND leased_by = $1 RETURNING authorization_id
), stored AS (
    INSERT INTO caa_checks (authorization_id, checked_at, problem, evidence, remotes_asked, remotes_corroborated,
        remote_rirs, caa_name)
    SELECT authorization_id, $4, $5, $6, $7, $8, $9, $10 FROM gone WHERE authorization_id = $3
    RETURNING authorization_id, caa_name
)
SELECT pg_notify('caa_checked', encode(authorization_id, 'hex') || ' ' || caa_name) FROM stored
"""

STORE_HEALTH: Final = """
INSERT INTO perspective_health (worker, perspective, position, rir, seen_at, answered_at, lag_ms, failures, retry_at,
    fault)
SELECT $1, perspective, position, rir, now(), answered_at, lag_ms, failures, retry_at, fault
FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::integer[], $7::timestamptz[], $8::text[])
    WITH ORDINALITY AS t (perspective, rir, answered_at, lag_ms, failures, retry_at, fault, position)
ON CONFLICT (worker, perspective) DO UPDATE SET position = excluded.position, rir = excluded.rir,
    seen_at = excluded.seen_at, answered_at = excluded.answered_at, lag_ms = excluded.lag_ms,
    failures = excluded.failures, retry_at = excluded.retry_at, fault = excluded.fault
"""
# What processes said that are gone.
FORGET_HEALTH: Final = "DELETE FROM perspective_health WHERE seen_at < now() - interval '10 minutes'"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRequest:
    """A request under our lease, with the authorization that it is about. `obsolete` says why nobody waits for it.

    `thumbprint` is of the account key when it answered; for dns-persist-01 of the account's first key, because there
    the domain names the account and no key: the CA follows the signed key changes from the one key to the other, so
    that nobody who can write a request or change an account can put a key of his own in between.

    `subdomains`: the authorization is to stand for all that is below it, as it was made, before its tokens were shown.
    `caa_name`: whose CAA records to look at, when not those of the authorization's own name; it is below that.
    `ahead`: the client has said nothing yet; it is looked once whether a record is there, and a failure is none.
    """

    id: bytes
    kind: Literal["challenge", "caa"]
    authorization_id: bytes
    account_id: bytes
    identifier_type: str
    identifier_value: str
    wildcard: bool
    challenge_type: str
    token: str | None
    thumbprint: bytes
    attempts: int
    obsolete: str | None
    persist_allowed: bool = False
    subdomains: bool = False
    caa_name: str = ""
    ahead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found out about a claimed request; `problem` None means that it succeeded."""

    request: ClaimedRequest
    at: datetime
    valid_until: datetime | None
    caa_checked_at: datetime | None
    problem: dict[str, Any] | None
    evidence: dict[str, Any]
    corroboration: Corroboration = ALONE


class DatabaseAway(Exception):
    """The database cannot be reached at present; what was to be done may be tried again."""


class VaStore:
    """The queue and the facts, under one `leased_by` that no other process has."""

    def __init__(self, pool: Pool, *, leased_by: str) -> None:
        self._pool = pool
        self._sessions = Sessions(pool, size=_SESSIONS)
        self._leased_by = leased_by

    async def claim(self, limit: int, *, busy_accounts: Sequence[bytes] = ()) -> list[ClaimedRequest]:
        """At most `limit` requests of accounts that are not in `busy_accounts`, leased for a minute."""
        rows = await self._sessions.fetch(CLAIM, self._leased_by, limit, list(busy_accounts), LEASE_S)
        return [_claimed_of(row) for row in rows]

    async def extend(self, request_ids: Sequence[bytes]) -> None:
        """Another minute for requests that are being worked on."""
        await self._pool.execute(EXTEND, self._leased_by, list(request_ids), LEASE_S)

    async def release(self, request_ids: Sequence[bytes], *, after_s: float, uncounted: int = 0) -> None:
        """Gives requests back, to be claimed by anybody after `after_s` seconds, with `uncounted` attempts fewer."""
        await self._pool.execute(RELEASE, self._leased_by, list(request_ids), after_s, uncounted)

    async def release_strays(self, known: Sequence[bytes]) -> None:
        """Gives back at once what is leased by us without our knowledge, `known` being what we do know of."""
        await self._pool.execute(RELEASE_STRAYS, self._leased_by, list(known))

    async def lease_holders(self) -> list[str]:
        """Who holds leases that have not run out."""
        return [row["leased_by"] for row in await self._pool.fetch(LEASE_HOLDERS)]

    async def free_dead(self, workers: Sequence[str]) -> None:
        """Gives back what processes held that are known to be dead."""
        await self._pool.execute(FREE_DEAD, list(workers))

    async def drop(self, request: ClaimedRequest) -> None:
        """Takes a request off the queue that nobody waits for."""
        await self._pool.execute(DROP, self._leased_by, request.id)

    async def store_health(self, health: Sequence[PerspectiveHealth]) -> None:
        """Says how the remote perspectives are, as this process sees them."""
        await self._pool.execute(
            STORE_HEALTH, self._leased_by, [each.name for each in health], [each.rir for each in health],
            [each.answered_at for each in health], [each.lag_ms for each in health],
            [each.failures for each in health], [each.retry_at for each in health], [each.fault for each in health])
        await self._pool.execute(FORGET_HEALTH)

    async def complete(self, outcomes: Sequence[Outcome]) -> int:
        """Stores outcomes, all in one transaction, and returns how many were still wanted. A single one, which is most
        of them, is one statement, which is a transaction by itself.

        Raises DatabaseAway when the database cannot be reached: then nothing is known to be stored.
        """
        looks = [outcome for outcome in outcomes if _found_nothing(outcome)]
        validations = [outcome for outcome in outcomes
                       if outcome.request.kind == "challenge" and not _found_nothing(outcome)]
        checks = [outcome for outcome in outcomes if outcome.request.kind == "caa"]
        try:
            if len(outcomes) == 1:
                statement, values = self._statement(outcomes[0])
                return len(await self._sessions.fetch(statement, *values))
            async with self._pool.acquire() as connection, connection.transaction():
                stored = 0
                if looks:
                    stored += len(await connection.fetchmany(
                        END_LOOK, [(self._leased_by, outcome.request.id) for outcome in looks]))
                if validations:
                    stored += len(await connection.fetchmany(
                        STORE_VALIDATION, [self._validation_values(outcome) for outcome in validations]))
                if checks:
                    stored += len(await connection.fetchmany(
                        STORE_CAA_CHECK, [self._check_values(outcome) for outcome in checks]))
                return stored
        except (*UNAVAILABLE, TimeoutError) as fault:
            raise DatabaseAway(str(fault)) from fault

    def _statement(self, outcome: Outcome) -> tuple[str, tuple[Any, ...]]:
        if _found_nothing(outcome):
            return END_LOOK, (self._leased_by, outcome.request.id)
        if outcome.request.kind == "challenge":
            return STORE_VALIDATION, self._validation_values(outcome)
        return STORE_CAA_CHECK, self._check_values(outcome)

    def _validation_values(self, outcome: Outcome) -> tuple[Any, ...]:
        request = outcome.request
        return (self._leased_by, request.id, request.authorization_id, request.account_id, request.identifier_type,
                request.identifier_value, request.wildcard, request.challenge_type, request.thumbprint, outcome.at,
                outcome.valid_until, outcome.caa_checked_at, outcome.problem, pack_evidence(outcome.evidence),
                *_corroboration_values(outcome), request.subdomains)

    def _check_values(self, outcome: Outcome) -> tuple[Any, ...]:
        request = outcome.request
        return (self._leased_by, request.id, request.authorization_id, outcome.at, outcome.problem, outcome.evidence,
                *_corroboration_values(outcome), request.caa_name)


def _found_nothing(outcome: Outcome) -> bool:
    return outcome.request.ahead and outcome.problem is not None


def _corroboration_values(outcome: Outcome) -> tuple[int, int, int]:
    return (outcome.corroboration.asked, outcome.corroboration.corroborated, outcome.corroboration.rirs)


def _claimed_of(row: Record) -> ClaimedRequest:
    kind: Literal["challenge", "caa"] = "caa" if row["kind"] == "caa" else "challenge"
    tokens = tokens_of(row["challenge_types"] or 0, row["challenge_tokens"] or b"")
    return ClaimedRequest(
        id=row["id"],
        kind=kind,
        authorization_id=row["authorization_id"],
        account_id=row["account_id"] or b"",
        identifier_type=row["identifier_type"] or "",
        identifier_value=row["identifier_value"] or "",
        wildcard=bool(row["wildcard"]),
        # A CAA set is judged for the method that was really used, not for the one that the request names (RFC 8657 4).
        challenge_type=row["validated_by"] or row["challenge_type"] if kind == "caa" else row["challenge_type"],
        token=tokens.get(row["challenge_type"]),
        thumbprint=row["first_thumbprint"] or b"" if row["challenge_type"] == DNS_PERSIST_01 else row["thumbprint"],
        attempts=row["attempts"],
        obsolete=_why_obsolete(row),
        persist_allowed=bool(row["persist_allowed"]),
        subdomains=bool(row["subdomains"]),
        caa_name=row["caa_name"],
        ahead=row["kind"] == "look",
    )


def _is_below(row: Record) -> bool:
    """Whether the name is one that the validation stands for, in its one spelling: a front end is not believed."""
    try:
        return bool(row["below"]) and parse_identifier("dns", row["caa_name"]).value == row["caa_name"]
    except IdentifierError:
        return False


def _why_obsolete(row: Record) -> str | None:
    if row["authorization_gone"]:
        return "the authorization is deactivated"
    if row["account_gone"]:
        return "the account is deactivated"
    if row["kind"] == "caa":
        if not row["validated_by"]:
            return "the authorization was never validated"
        return None if not row["caa_name"] or _is_below(row) else "the name is not below the authorization"
    if row["validated_by"]:
        return "the authorization is already validated"
    return "the authorization is expired" if row["expired"] else None
