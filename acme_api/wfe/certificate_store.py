"""What the role acme_wfe does with finalize requests, certificates, revocations and its own service certificate.

The other half of store.py, on the same sessions; `transactions` is for what takes more than one statement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from acme_api.protocol.jws import SignedRequest
from acme_api.protocol.rate_limit import Take
from acme_api.protocol.revocation import RevocationPlan
from acme_api.wfe.coverage import coverage
from acme_api.wfe.finalizing import Control
from acme_api.wfe.limit_store import fetch_limited, with_limits, without_limits
from ca.pki.identifier import Identifier
from ca.pki.packed import StoredRequest, pack_request
from ca.pki.tbs import assemble
from ca.process.postgres import Pool, Record
from ca.process.sessions import Sessions

# One finalization an order, whatever happens in parallel (row FI10), none for a key that is an account's (row FI5) or
# blocked (row RV6), and none when an authorization is deactivated at this moment: FOR SHARE waits for who is doing
# that, and looks again.
_FINALIZE_TEXT: Final = """
WITH {room}, key AS (
    SELECT EXISTS (SELECT FROM accounts WHERE thumbprint = $11) AS is_an_accounts,
        EXISTS (SELECT FROM blocked_keys WHERE spki_sha256 = $12)
        OR EXISTS (SELECT FROM weak_keys WHERE digest = ANY($13::bytea[])) AS is_blocked
), live AS (
    SELECT id FROM authorizations WHERE id = ANY($5::bytea[]) AND deactivated_at IS NULL FOR SHARE
), finalized AS (
    INSERT INTO finalizations (order_id, requested_at, request)
    SELECT $1, $2, $3 FROM room, key
    WHERE room.is_left AND NOT key.is_an_accounts AND NOT key.is_blocked
        AND (SELECT count(*) FROM live) = cardinality($5::bytea[])
    ON CONFLICT (order_id) DO NOTHING RETURNING order_id
), queued AS (
    INSERT INTO issuance_requests (id, kind, requested_at) SELECT order_id, 'order', $2 FROM finalized
), checked AS (
    INSERT INTO validation_requests (id, kind, authorization_id, account_id, challenge_type, thumbprint, requested_at,
        caa_name)
    SELECT n.id, 'caa', n.authorization_id, $4, n.challenge_type, n.thumbprint, $2, n.caa_name
    FROM finalized, unnest($6::bytea[], $7::bytea[], $8::text[], $9::bytea[], $10::text[])
        AS n (id, authorization_id, challenge_type, thumbprint, caa_name)
    ON CONFLICT (authorization_id, kind, caa_name) DO NOTHING
){taken}
SELECT key.is_an_accounts, key.is_blocked, finalized.order_id IS NOT NULL AS stored FROM key LEFT JOIN finalized ON true
"""
_FINALIZE: Final = without_limits(_FINALIZE_TEXT)
# Nothing is taken for the second of two requests that finalize one order.
_LIMITED_FINALIZE: Final = with_limits(_FINALIZE_TEXT, first=14, gate="finalized")
# The certificate of an order with one of its chains, once it is published; store.py reads it with the nonce. Variant 0
# is the chain that is preferred for the profile; the others follow in their order.
CHAIN: Final = """
SELECT c.account_id, coalesce(f.tbs, c.tbs) AS tbs, s.signature, chain.certificates,
    (SELECT max(position) FROM issuer_chains WHERE issuer_id = c.issuer_id) AS last_position
FROM issuances i
JOIN certificates c ON c.serial = i.serial
JOIN certificate_signatures s ON s.serial = i.serial
LEFT JOIN final_certificates f ON f.serial = i.serial
LEFT JOIN chain_preferences preferred ON preferred.issuer_id = c.issuer_id AND preferred.profile = c.profile
LEFT JOIN issuer_chains chain ON chain.issuer_id = c.issuer_id AND chain.position = CASE
    WHEN {variant} = 0 THEN coalesce(preferred.position, 0)
    WHEN {variant} <= preferred.position THEN {variant} - 1 ELSE {variant} END
WHERE i.request_id = {order} AND i.serial = {serial}
    AND NOT EXISTS (SELECT FROM ocsp_requests q WHERE q.serial = {serial} AND q.version = 0)
"""
_CERTIFICATE: Final = """
SELECT c.account_id, c.not_after, coalesce(f.tbs, c.tbs) AS tbs, s.signature, c.tbs AS first_tbs,
    p.signature AS precertificate_signature
FROM certificates c
LEFT JOIN precertificate_signatures p ON p.serial = c.serial
LEFT JOIN final_certificates f ON f.serial = c.serial
LEFT JOIN certificate_signatures s ON s.serial = c.serial
WHERE c.serial = $1
"""
_KEY_FACTS: Final = """
SELECT EXISTS (SELECT FROM certificates WHERE spki_sha256 = $1 AND not_after > $2) AS in_live_certificate,
    EXISTS (SELECT FROM blocked_keys WHERE spki_sha256 = $1)
    OR EXISTS (SELECT FROM weak_keys WHERE digest = ANY($3::bytea[])) AS blocked
"""
_BLOCKED_NAMES: Final = "SELECT name, and_below FROM blocked_names WHERE name = ANY($1::text[])"
_AUTHORIZED: Final = """
SELECT DISTINCT w.position
FROM unnest($2::text[], $3::text[], $4::boolean[], $5::integer[], $6::boolean[])
    AS w (type, value, wildcard, position, above)
JOIN authorizations a ON a.account_id = $1 AND hashtext(a.identifier_value) = hashtext(w.value)
    AND a.identifier_value = w.value AND a.identifier_type = w.type
    AND a.wildcard = w.wildcard AND a.deactivated_at IS NULL
JOIN validations v ON v.authorization_id = a.id AND v.account_id = $1 AND v.identifier_value = w.value
    AND v.identifier_type = w.type AND v.wildcard = w.wildcard AND v.problem IS NULL AND v.valid_until > $7
    AND (v.subdomains OR NOT w.above)
"""
# Requests for one certificate are decided one after the other, so that one of many is the first (row E101).
_LOCK_SERIAL: Final = "SELECT pg_advisory_xact_lock(hashtextextended('chancery revocation ' || encode($1, 'hex'), 0))"
_REVOKED_FOR: Final = """
SELECT (SELECT reason FROM (SELECT reason FROM revocations WHERE serial = $1
            UNION ALL SELECT reason FROM revocation_requests WHERE serial = $1) AS known
        ORDER BY (reason = 1) DESC LIMIT 1) AS reason,
    EXISTS (SELECT FROM certificates c JOIN blocked_keys b ON b.spki_sha256 = c.spki_sha256 WHERE c.serial = $1)
    OR EXISTS (SELECT FROM revocation_requests WHERE serial = $1 AND authority = 'certificate_key') AS key_is_blocked
"""
_INSERT_REVOCATION_REQUEST: Final = """
INSERT INTO revocation_requests (id, serial, reason, authority, evidence, requested_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_EXPOSE_KEY: Final = """
INSERT INTO exposed_keys (spki_sha256, proof, shown_at)
SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM blocked_keys WHERE spki_sha256 = $1)
ON CONFLICT DO NOTHING
"""
_REQUEST_SERVICE_CERTIFICATE: Final = """
WITH requested AS (
    INSERT INTO service_requests (id, requested_at, csr) VALUES ($1, $2, $3) RETURNING id
)
INSERT INTO issuance_requests (id, kind, requested_at) SELECT id, 'service', $2 FROM requested
"""
_SERVICE_RESULT: Final = """
SELECT r.problem AS refusal, coalesce(f.tbs, c.tbs) AS tbs, s.signature, chain.certificates
FROM service_requests q
LEFT JOIN refusals r ON r.request_id = q.id
LEFT JOIN issuances i ON i.request_id = q.id
LEFT JOIN certificates c ON c.serial = i.serial
LEFT JOIN final_certificates f ON f.serial = i.serial
LEFT JOIN certificate_signatures s ON s.serial = i.serial
LEFT JOIN issuer_chains chain ON chain.issuer_id = c.issuer_id AND chain.position = 0
WHERE q.id = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedKey:
    """The key of a CSR, by everything that it is looked up by: as an account's, as a blocked one, and the digests under
    which it may be `listed` as a weak one."""

    thumbprint: bytes
    spki_sha256: bytes
    listed: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalized:
    """Whether a finalize request was stored, and what there is against its key."""

    stored: bool
    key_is_an_accounts: bool = False
    key_is_blocked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """Why a key may be unfit for an account."""

    in_live_certificate: bool
    blocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A certificate with what stands above it (None: there is no such chain). DER, `last_position` of the chains."""

    account_id: bytes | None
    certificate: bytes
    above: tuple[bytes, ...] | None
    last_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCertificate:
    """A certificate of ours; `forms` are the DER that may be known of it: its own, and its precertificate's, which CT
    logs show and which can be revoked although no certificate may have followed."""

    account_id: bytes | None
    not_after: datetime
    forms: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceResult:
    """What became of the request for a service certificate: a refusal, a chain in DER, or neither yet."""

    refusal: dict[str, Any] | None
    chain: tuple[bytes, ...] | None


class CertificateStore:
    """Statements and the values they take and give; decisions are the protocol package's."""

    def __init__(self, *, reads: Sessions, writes: Sessions, transactions: Pool) -> None:
        self._reads = reads
        self._writes = writes
        self._transactions = transactions

    async def finalize(
        self, order_id: bytes, account_id: bytes, authorization_ids: Sequence[bytes], *, signed: SignedRequest,
        jwk: str, key: CertifiedKey, rechecks: Sequence[tuple[bytes, Control]], now: datetime,
        takes: Sequence[Take] = (),
    ) -> Finalized:
        """Stores the signed request with what it takes from limits and queues the issuance, unless the order was
        finalized meanwhile, an authorization deactivated, a limit has no room any more, or the key may not be
        certified. `rechecks` are (new request id, validation) whose CAA set is to be looked at."""
        request = StoredRequest(jwk, signed.protected_bytes, signed.payload_bytes, signed.signature)
        row = await fetch_limited(
            self._writes, _LIMITED_FINALIZE if takes else _FINALIZE, takes, now, order_id, now, pack_request(request),
            account_id,
            list(dict.fromkeys(authorization_ids)), [request_id for request_id, _ in rechecks],
            [control.authorization_id for _, control in rechecks],
            [control.challenge_type for _, control in rechecks], [control.thumbprint for _, control in rechecks],
            [control.caa_name for _, control in rechecks], key.thumbprint, key.spki_sha256, key.listed)
        return Finalized(stored=False) if row is None else Finalized(
            stored=row["stored"], key_is_an_accounts=row["is_an_accounts"], key_is_blocked=row["is_blocked"])

    async def certificate(self, serial: bytes) -> StoredCertificate | None:
        """What was signed under a serial number."""
        row = await self._reads.fetchrow(_CERTIFICATE, serial)
        if row is None:
            return None
        signed = ((row["tbs"], row["signature"]), (row["first_tbs"], row["precertificate_signature"]))
        return StoredCertificate(
            account_id=row["account_id"], not_after=row["not_after"],
            forms=frozenset(assemble(tbs, signature) for tbs, signature in signed if signature is not None))

    async def key_facts(self, spki_sha256: bytes, listed: Sequence[bytes], *, now: datetime) -> KeyFacts:
        """Whether a certificate that has not expired holds this key (row E51), and whether it is blocked (row RV6) or,
        by one of the digests that it may be `listed` by, in a list of weak keys."""
        row = await self._reads.fetchrow(_KEY_FACTS, spki_sha256, now, list(listed))
        if row is None:
            raise AssertionError("the statement gives one row")
        return KeyFacts(in_live_certificate=row["in_live_certificate"], blocked=row["blocked"])

    async def blocked_names(self, names: Sequence[str]) -> dict[str, bool]:
        """Those of the names that are blocked, and whether everything below them is."""
        return {row["name"]: row["and_below"] for row in await self._reads.fetch(_BLOCKED_NAMES, list(names))}

    async def authorized(
        self, account_id: bytes, identifiers: Sequence[Identifier], *, subdomains: bool, now: datetime
    ) -> frozenset[Identifier]:
        """Those of the identifiers that the account has a valid authorization for, themselves or, where `subdomains`
        lets it, by a domain above."""
        rows = await self._reads.fetch(_AUTHORIZED, account_id,
                                       *coverage(identifiers, subdomains=subdomains), now)
        return frozenset(identifiers[row["position"]] for row in rows)

    async def request_revocation(
        self, request_id: bytes, serial: bytes, evidence: dict[str, Any], *, now: datetime,
        decide: Callable[[int | None, bool], RevocationPlan],
    ) -> None:
        """Queues what `decide` makes of the reason that the certificate is, or is about to be, revoked for, and of
        whether its key is, or is about to be, blocked.

        What `decide` raises ends the transaction, and nothing is stored.
        """
        async with self._transactions.acquire() as connection, connection.transaction():
            await connection.execute(_LOCK_SERIAL, serial)
            known = await connection.fetchrow(_REVOKED_FOR, serial)
            if known is None:
                raise AssertionError("the statement gives one row")
            plan = decide(known["reason"], known["key_is_blocked"])
            await connection.execute(_INSERT_REVOCATION_REQUEST, request_id, serial, plan.reason, plan.authority,
                                     evidence, now)

    async def expose_key(self, spki_sha256: bytes, proof: bytes, *, now: datetime) -> None:
        """Asks the CA to block a key, which has signed the certification request that proves its loss (row J17)."""
        await self._writes.fetch(_EXPOSE_KEY, spki_sha256, proof, now)

    async def request_service_certificate(self, request_id: bytes, csr: bytes, *, now: datetime) -> None:
        """Queues the issuance of a certificate for our own server."""
        await self._writes.fetch(_REQUEST_SERVICE_CERTIFICATE, request_id, now, csr)

    async def service_result(self, request_id: bytes) -> ServiceResult:
        """What became of it."""
        row = await self._reads.fetchrow(_SERVICE_RESULT, request_id)
        if row is None or row["signature"] is None:
            return ServiceResult(refusal=None if row is None else row["refusal"], chain=None)
        return ServiceResult(refusal=None, chain=(assemble(row["tbs"], row["signature"]),
                                                  *(row["certificates"] or ())))


def chain_of(row: Record) -> Chain | None:
    """The row of CHAIN, if there is such a certificate."""
    if row["tbs"] is None:
        return None
    return Chain(account_id=row["account_id"], certificate=assemble(row["tbs"], row["signature"]),
                 above=None if row["certificates"] is None else tuple(row["certificates"]),
                 last_position=row["last_position"] or 0)
