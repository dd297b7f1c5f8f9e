"""All that the database role ca_issuer does about issuance: claim, read evidence, store intents, signatures, refusals.

Leases go by the database's clock, because the processes that share the queue may be on several machines. What decides
is one statement each, so that it happens as a whole; NOTIFY is sent after the commit, because PostgreSQL serialises the
commits of transactions that notify. revocation_store.py is the other half of the role.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from ca.issuing.audit import SignedKind
from ca.pki.corroboration import Corroboration
from ca.pki.domain_control import CaaCheck, StaleCaa, Validation
from ca.pki.identifier import Identifier
from ca.pki.precertificate import is_precertificate
from ca.pki.refusal import RefusalReason
from ca.process.postgres import Connection, Pool, Record

LEASE_S: Final = 30
# Every statement looks keys up in partitions: a new plan for each set of keys costs more than the look itself.
SESSION_OPTIONS: Final = {"plan_cache_mode": "force_generic_plan"}

# Rows that another process is claiming are skipped, never waited for. Everything that is stored under the request's own
# id comes with it: what was asked for, and what an earlier run has begun.
CLAIM: Final = """
WITH free AS (
    SELECT id FROM issuance_requests WHERE leased_until < now() ORDER BY leased_until LIMIT $2 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE issuance_requests AS request
    SET leased_by = $1, leased_until = now() + make_interval(secs => $3), attempts = least(request.attempts + 1, 32000)
    FROM free WHERE request.id = free.id
    RETURNING request.id, request.kind, request.requested_at, request.attempts
)
SELECT claimed.id, claimed.kind, claimed.requested_at, claimed.attempts,
    c.serial, c.issuer_id, c.profile AS issued_profile, c.not_before AS begins, c.not_after AS ends, c.tbs,
    c.created_at, p.serial IS NOT NULL AS logged, t.tbs AS final_tbs, s.serial IS NOT NULL AS signed,
    o.account_id, o.identifier_types, o.identifier_values, o.authorization_ids, o.profile, o.not_before, o.not_after,
    f.requested_at AS finalized_at, f.jwk, f.jws_protected, f.jws_payload, f.jws_signature,
    coalesce(a.deactivated_at, a.revoked_at) IS NOT NULL AS account_closed,
    a.dns_persist_allowed_at IS NOT NULL AS dns_persist_allowed, a.id IS NOT NULL AS has_order,
    e.allowed_names, q.csr
FROM claimed
LEFT JOIN issuances i ON i.request_id = claimed.id
LEFT JOIN certificates c ON c.serial = i.serial
LEFT JOIN precertificate_signatures p ON p.serial = i.serial
LEFT JOIN final_certificates t ON t.serial = i.serial
LEFT JOIN certificate_signatures s ON s.serial = i.serial
LEFT JOIN (orders o JOIN finalizations f ON f.order_id = o.id JOIN accounts a ON a.id = o.account_id)
    ON o.id = claimed.id AND claimed.kind = 'order'
LEFT JOIN eab_credentials e ON e.kid = a.eab_kid
LEFT JOIN service_requests q ON q.id = claimed.id AND claimed.kind = 'service'
"""
DEFER: Final = """
UPDATE issuance_requests SET leased_until = now() + make_interval(secs => $3) WHERE id = ANY($2) AND leased_by = $1
"""
GIVE_BACK: Final = """
UPDATE issuance_requests SET leased_until = now() + make_interval(secs => $2)
WHERE leased_by = $1 AND leased_until > now() + make_interval(secs => $2)
"""
LEASE_HOLDERS: Final = "SELECT DISTINCT leased_by FROM issuance_requests WHERE leased_until > now()"
FREE_LEASES: Final = "UPDATE issuance_requests SET leased_until = '-infinity' WHERE leased_by = ANY($1)"
# Each validation that succeeded, whether its authorization was ended, and the newest look at CAA since: at its own
# name, and at each of the names $2 below it. One row for each look, or one without.
VALIDATIONS: Final = """
SELECT v.authorization_id, v.account_id, v.identifier_type, v.identifier_value, v.wildcard, v.subdomains,
    v.challenge_type, v.thumbprint, v.validated_at, v.valid_until, v.caa_checked_at,
    a.deactivated_at IS NOT NULL AS deactivated,
    v.remotes_asked, v.remotes_corroborated, v.remote_rirs, k.caa_name, k.checked_at AS rechecked_at,
    k.problem AS recheck_problem, k.remotes_asked AS rechecks_asked, k.remotes_corroborated AS rechecks_corroborated,
    k.remote_rirs AS recheck_rirs
FROM validations v
LEFT JOIN authorizations a ON a.id = v.authorization_id
LEFT JOIN LATERAL (
    SELECT DISTINCT ON (caa_name) caa_name, checked_at, problem, remotes_asked, remotes_corroborated, remote_rirs
    FROM caa_checks WHERE caa_checks.authorization_id = v.authorization_id
        AND (caa_name = '' OR v.subdomains AND caa_name = ANY($2))
    ORDER BY caa_name, checked_at DESC
) AS k ON true
WHERE v.authorization_id = ANY($1) AND v.problem IS NULL AND v.valid_until IS NOT NULL
"""
# What a stored problem of a CAA check is to the CA; every other type is a lookup that failed.
_REFUSAL_OF_PROBLEM: Final = {"caa": RefusalReason.CAA_FORBIDS, "serverInternal": RefusalReason.PERSPECTIVES_AWAY}
KEY_CHANGES: Final = "SELECT account_id, jws FROM key_changes WHERE account_id = ANY($1) ORDER BY changed_at"
# A key that is blocked (spec/pki.md 7), or that signs for an account (row FI5), is not certified.
REFUSED_KEYS: Final = """
SELECT spki_sha256 FROM unnest($1::bytea[], $2::bytea[]) AS wanted (spki_sha256, thumbprint)
WHERE EXISTS (SELECT FROM accounts WHERE accounts.thumbprint = wanted.thumbprint)
   OR EXISTS (SELECT FROM blocked_keys WHERE blocked_keys.spki_sha256 = wanted.spki_sha256)
"""
# The intent: fenced by the lease, one per request, and with it everything that makes the serial number known.
COMMIT_INTENTS: Final = """
WITH mine AS (
    UPDATE issuance_requests SET leased_until = now() + make_interval(secs => $2)
    WHERE id = ANY($3::bytea[]) AND leased_by = $1 RETURNING id
), new AS (
    SELECT * FROM unnest($3::bytea[], $4::bytea[], $5::bytea[], $6::smallint[], $7::text[], $8::timestamptz[],
                         $9::timestamptz[], $10::bytea[], $11::bytea[], $15::boolean[])
        AS t (request_id, serial, account_id, issuer_id, profile, not_before, not_after, spki_sha256, tbs, has_ocsp)
    WHERE request_id IN (SELECT id FROM mine)
), issued AS (
    INSERT INTO issuances (request_id, serial) SELECT request_id, serial FROM new
    ON CONFLICT (request_id) DO NOTHING RETURNING request_id, serial
), certified AS (
    INSERT INTO certificates (serial, request_id, account_id, issuer_id, profile, not_before, not_after, spki_sha256,
        tbs, created_at, has_ocsp)
    SELECT serial, request_id, account_id, issuer_id, profile, not_before, not_after, spki_sha256, tbs, $12, has_ocsp
    FROM new JOIN issued USING (request_id, serial)
), named AS (
    INSERT INTO certificate_names (reversed_name, serial)
    SELECT reverse(name), serial FROM unnest($13::text[], $14::bytea[]) AS t (name, serial) JOIN issued USING (serial)
), asked AS (
    INSERT INTO ocsp_requests (serial, version, issuer_id, request_id, requested_at)
    SELECT serial, 0, issuer_id, request_id, $12 FROM new JOIN issued USING (request_id, serial) WHERE has_ocsp
)
SELECT request_id FROM issued
"""
COMMIT_SIGNATURES: Final = """
WITH signed AS (
    INSERT INTO certificate_signatures (serial, signed_at, signature)
    SELECT serial, $3, signature FROM unnest($1::bytea[], $2::bytea[]) AS t (serial, signature)
    ON CONFLICT (serial) DO NOTHING
), logged AS (
    INSERT INTO ct_submissions (serial, kind, request_id, requested_at)
    SELECT serial, 'certificate', request_id, $3 FROM unnest($5::bytea[], $6::bytea[]) AS t (serial, request_id)
    ON CONFLICT (serial, kind) DO NOTHING
)
DELETE FROM issuance_requests WHERE id = ANY($4)
"""
COMMIT_REFUSAL: Final = """
WITH mine AS (
    DELETE FROM issuance_requests WHERE id = $2 AND leased_by = $1 RETURNING id
)
INSERT INTO refusals (request_id, refused_at, problem) SELECT id, $3, $4 FROM mine
ON CONFLICT (request_id) DO NOTHING RETURNING request_id
"""
DROP: Final = "DELETE FROM issuance_requests WHERE id = ANY($2) AND leased_by = $1"
ASK_FOR_CAA_CHECKS: Final = "SELECT ask_for_caa_checks($1::bytea[], $2::bytea[], $3::text[])"
NOTIFY: Final = """
SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS t (channel, payload)
"""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIntent:
    """A certificate whose bytes are fixed and committed; `signed` when its signature is stored too.

    With Certificate Transparency `tbs` is the precertificate's, `logged` says that its signature is stored and that
    logs are asked, and `final_tbs` is the certificate's own once it is committed.
    """

    request_id: bytes
    serial: bytes
    issuer_id: int
    profile: str
    not_before: datetime
    not_after: datetime
    tbs: bytes
    created_at: datetime
    logged: bool = False
    final_tbs: bytes | None = None
    signed: bool = False

    @property
    def next_kind(self) -> SignedKind:
        """What its next signature makes of it."""
        return "precertificate" if self.final_tbs is None and is_precertificate(self.tbs) else "certificate"

    @property
    def next_tbs(self) -> bytes:
        """What its next signature is over."""
        return self.tbs if self.final_tbs is None else self.final_tbs

    @property
    def waits_for_scts(self) -> bool:
        """Whether its precertificate is signed and stored, and nothing of the certificate itself is fixed yet."""
        return self.logged and self.final_tbs is None

    def with_final(self, tbs: bytes) -> "StoredIntent":
        """The same after its final certificate was committed."""
        return replace(self, final_tbs=tbs)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIntent:
    """What is committed before the HSM is asked."""

    request_id: bytes
    account_id: bytes | None
    serial: bytes
    issuer_id: int
    profile: str
    not_before: datetime
    not_after: datetime
    spki_sha256: bytes
    names: tuple[str, ...]
    tbs: bytes
    has_ocsp: bool

    def stored(self, now: datetime) -> StoredIntent:
        """What is stored of it at `now`."""
        return StoredIntent(request_id=self.request_id, serial=self.serial, issuer_id=self.issuer_id,
                            profile=self.profile, not_before=self.not_before, not_after=self.not_after, tbs=self.tbs,
                            created_at=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOrder:
    """An order with the finalize request that its subscriber signed."""

    id: bytes
    account_id: bytes
    identifiers: tuple[tuple[str, str], ...]
    authorization_ids: tuple[bytes, ...]
    profile: str
    not_before: datetime | None
    not_after: datetime | None
    finalized_at: datetime
    jwk: str
    jws_protected: bytes
    jws_payload: bytes
    jws_signature: bytes
    account_closed: bool
    dns_persist_allowed: bool = False
    allowed_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRequest:
    """An entry of the queue that is ours until the lease runs out, with the order or the service's CSR that stands
    behind it, and with the intent of an earlier run."""

    id: bytes
    kind: Literal["order", "service"]
    requested_at: datetime
    attempts: int
    intent: StoredIntent | None
    order: StoredOrder | None
    service_csr: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValidation:
    """A validation that succeeded, whether its authorization was ended since, and the newest look at CAA since, at its
    own name and at names below it."""

    validation: Validation
    deactivated: bool
    caa_checks: tuple[CaaCheck, ...]


async def claim(connection: Connection, *, worker: str, limit: int) -> list[ClaimedRequest]:
    """Takes up to `limit` requests, those that wait longest first; other workers' claims are passed over."""
    return [ClaimedRequest(id=row["id"], kind=row["kind"], requested_at=row["requested_at"], attempts=row["attempts"],
                           intent=_intent(row), order=_order(row) if row["has_order"] else None, service_csr=row["csr"])
            for row in await connection.fetch(CLAIM, worker, limit, LEASE_S)]


async def defer(connection: Connection | Pool, ids: Sequence[bytes], *, worker: str, after_s: float) -> None:
    """Leaves requests in the queue for some seconds: what they need is not there yet, or a fault has to pass."""
    await connection.execute(DEFER, worker, list(ids), after_s)


async def give_back(pool: Pool, *, worker: str, after_s: float) -> None:
    """Shortens every lease that a worker holds: after a fault its requests are taken up again soon, by anybody."""
    await pool.execute(GIVE_BACK, worker, after_s)


async def lease_holders(pool: Pool) -> list[str]:
    """Who holds leases that have not run out."""
    return [row["leased_by"] for row in await pool.fetch(LEASE_HOLDERS)]


async def free_leases(pool: Pool, workers: Sequence[str]) -> None:
    """Gives back what workers held that are known to be dead."""
    await pool.execute(FREE_LEASES, list(workers))


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


async def validations(
    connection: Connection, authorization_ids: Sequence[bytes], names: Sequence[str]
) -> list[StoredValidation]:
    """The validations that succeeded, with what was seen of CAA at `names` below them."""
    rows: dict[bytes, list[Record]] = {}
    for row in await connection.fetch(VALIDATIONS, list(authorization_ids), list(names)):
        rows.setdefault(row["authorization_id"], []).append(row)
    return [StoredValidation(
        validation=_validation(each[0]), deactivated=each[0]["deactivated"],
        caa_checks=tuple(_caa_check(row) for row in each if row["rechecked_at"] is not None))
        for each in rows.values()]


async def key_changes(connection: Connection, account_ids: Sequence[bytes]) -> dict[bytes, list[str]]:
    """The stored JWS of every key change of the accounts, the oldest first."""
    found: dict[bytes, list[str]] = {}
    for row in await connection.fetch(KEY_CHANGES, list(account_ids)):
        found.setdefault(row["account_id"], []).append(row["jws"])
    return found


async def refused_keys(connection: Connection, keys: Sequence[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Of (SPKI SHA-256, JWK thumbprint): the SPKI hashes of keys that are blocked or an account's."""
    rows = await connection.fetch(REFUSED_KEYS, [spki for spki, _ in keys], [thumbprint for _, thumbprint in keys])
    return frozenset(row["spki_sha256"] for row in rows)


async def commit_intents(
    connection: Connection, new: Sequence[NewIntent], *, worker: str, now: datetime
) -> set[bytes]:
    """Stores intents; returns the request ids whose intent is ours.

    Left out is a request that has an intent already, or whose lease has gone to another worker: one serial number each.
    """
    rows = await connection.fetch(
        COMMIT_INTENTS, worker, LEASE_S, [item.request_id for item in new], [item.serial for item in new],
        [item.account_id for item in new], [item.issuer_id for item in new], [item.profile for item in new],
        [item.not_before for item in new], [item.not_after for item in new], [item.spki_sha256 for item in new],
        [item.tbs for item in new], now, [name for item in new for name in item.names],
        [item.serial for item in new for _ in item.names], [item.has_ocsp for item in new])
    return {row["request_id"] for row in rows}


async def commit_signatures(
    connection: Connection, signed: Sequence[tuple[StoredIntent, bytes]], ended: Sequence[bytes], *, now: datetime
) -> None:
    """Stores signatures and ends requests. A signature that is there already stays. Final certificates are queued for
    logs in the same statement."""
    logged = [intent for intent, _ in signed if intent.final_tbs is not None]
    await connection.execute(
        COMMIT_SIGNATURES, [intent.serial for intent, _ in signed], [signature for _, signature in signed], now,
        list(ended), [intent.serial for intent in logged], [intent.request_id for intent in logged])


async def commit_refusal(
    connection: Connection, request_id: bytes, problem: dict[str, Any], *, worker: str, now: datetime
) -> bool:
    """Stores why there will be no certificate and ends the request; False when another worker has it now."""
    return await connection.fetchval(COMMIT_REFUSAL, worker, request_id, now, problem) is not None


async def drop(connection: Connection, ids: Sequence[bytes], *, worker: str) -> None:
    """Takes entries off the queue that nothing stands behind."""
    await connection.execute(DROP, worker, list(ids))


async def ask_for_caa_checks(connection: Connection, wanted: Sequence[tuple[bytes, StaleCaa]]) -> None:
    """Asks the VA to look at CAA again: (new request id, what is stale); what is asked for already is not again."""
    await connection.execute(ASK_FOR_CAA_CHECKS, [request_id for request_id, _ in wanted],
                             [each.authorization_id for _, each in wanted], [each.name for _, each in wanted])


async def notify(connection: Connection, wakes: Sequence[tuple[str, str]]) -> None:
    """Sends (channel, payload), after what they are about has been committed."""
    await connection.execute(NOTIFY, [channel for channel, _ in wakes], [payload for _, payload in wakes])


def _intent(row: Record) -> StoredIntent | None:
    if row["serial"] is None:
        return None
    return StoredIntent(
        request_id=row["id"], serial=row["serial"], issuer_id=row["issuer_id"], profile=row["issued_profile"],
        not_before=row["begins"], not_after=row["ends"], tbs=row["tbs"], created_at=row["created_at"],
        logged=row["logged"], final_tbs=row["final_tbs"], signed=row["signed"])


def _order(row: Record) -> StoredOrder:
    return StoredOrder(
        id=row["id"], account_id=row["account_id"],
        identifiers=tuple(zip(row["identifier_types"], row["identifier_values"], strict=True)),
        authorization_ids=tuple(row["authorization_ids"]), profile=row["profile"], not_before=row["not_before"],
        not_after=row["not_after"], finalized_at=row["finalized_at"], jwk=row["jwk"],
        jws_protected=row["jws_protected"], jws_payload=row["jws_payload"], jws_signature=row["jws_signature"],
        account_closed=row["account_closed"], dns_persist_allowed=row["dns_persist_allowed"],
        allowed_names=tuple(row["allowed_names"] or ()))


def _validation(row: Record) -> Validation:
    return Validation(
        authorization_id=row["authorization_id"], account_id=row["account_id"],
        identifier=Identifier(type=row["identifier_type"], value=row["identifier_value"]),
        wildcard=row["wildcard"], subdomains=row["subdomains"], method=row["challenge_type"],
        thumbprint=row["thumbprint"], validated_at=row["validated_at"], valid_until=row["valid_until"],
        caa_checked_at=row["caa_checked_at"],
        corroboration=Corroboration(asked=row["remotes_asked"], corroborated=row["remotes_corroborated"],
                                    rirs=row["remote_rirs"]))


def _caa_check(row: Record) -> CaaCheck:
    checked_at, problem, name = row["rechecked_at"], row["recheck_problem"], row["caa_name"]
    if problem is None:
        return CaaCheck(authorization_id=row["authorization_id"], name=name, checked_at=checked_at, refusal=None,
                        corroboration=Corroboration(asked=row["rechecks_asked"], rirs=row["recheck_rirs"],
                                                    corroborated=row["rechecks_corroborated"]))
    kind = str(problem.get("type", "")).rpartition(":")[2]
    return CaaCheck(authorization_id=row["authorization_id"], name=name, checked_at=checked_at,
                    refusal=_REFUSAL_OF_PROBLEM.get(kind, RefusalReason.DNS_FAILED),
                    detail=str(problem.get("detail", "the CAA records could not be looked up")))
