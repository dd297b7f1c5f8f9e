"""What the role ca_admin reads of orders, authorizations and validations."""

from collections.abc import Sequence

from acme_api.protocol.challenge import types_of
from ca.admin.records import Authorization, CaaCheck, Order, Validation
from ca.pki.packed import PackedError, unpack_evidence
from ca.process.postgres import Connection, Record

ORDER = """
SELECT o.id, o.account_id, o.expires_at, o.identifier_types, o.identifier_values, o.authorization_ids, o.profile,
    f.requested_at AS finalized_at, q.requested_at AS queued_at, coalesce(q.attempts, 0) AS attempts, q.leased_by,
    i.serial, p.signed_at AS precertificate_at,
    (SELECT count(*) FROM scts WHERE scts.serial = p.serial) AS scts,
    s.signed_at, c.has_ocsp, w.requested_at AS ocsp_waits_since, r.refused_at, r.problem AS refusal
FROM orders o
LEFT JOIN finalizations f ON f.order_id = o.id
LEFT JOIN issuance_requests q ON q.id = o.id
LEFT JOIN issuances i ON i.request_id = o.id
LEFT JOIN certificates c ON c.serial = i.serial
LEFT JOIN precertificate_signatures p ON p.serial = i.serial
LEFT JOIN certificate_signatures s ON s.serial = i.serial
LEFT JOIN ocsp_requests w ON w.serial = i.serial AND w.version = 0
LEFT JOIN refusals r ON r.request_id = o.id
WHERE o.id = $1
"""
AUTHORIZATIONS = """
SELECT a.id, a.identifier_type, a.identifier_value, a.wildcard, a.expires_at, a.challenge_types, a.deactivated_at,
    v.challenge_type, v.thumbprint, v.validated_at, v.valid_until, v.caa_checked_at, v.problem, v.evidence,
    q.requested_at AS queued_at, q.challenge_type AS queued_type, coalesce(q.attempts, 0) AS attempts, q.leased_by,
    (SELECT min(p.requested_at) FROM validation_requests p WHERE p.authorization_id = a.id AND p.kind = 'caa')
        AS caa_queued_at, a.subdomains,
    ARRAY(SELECT p.caa_name FROM validation_requests p WHERE p.authorization_id = a.id AND p.kind = 'caa' ORDER BY 1)
        AS caa_queued_names
FROM authorizations a
LEFT JOIN validations v ON v.authorization_id = a.id
LEFT JOIN validation_requests q ON q.authorization_id = a.id AND q.kind = 'challenge'
WHERE a.id = ANY($1::bytea[])
"""
CAA_CHECKS = """
SELECT authorization_id, caa_name, checked_at, problem, evidence FROM caa_checks
WHERE authorization_id = ANY($1::bytea[]) ORDER BY checked_at
"""


AUTHORIZATIONS_BY_NAME = """
SELECT authorization_id FROM validations
WHERE hashtext(identifier_value) = hashtext($1) AND identifier_value = $1
ORDER BY validated_at DESC LIMIT $2
"""
ACCOUNTS_OF_AUTHORIZATIONS = "SELECT id, account_id FROM authorizations WHERE id = ANY($1::bytea[])"


async def order(connection: Connection, order_id: bytes) -> Order | None:
    """An order with every later fact about it."""
    row = await connection.fetchrow(ORDER, order_id)
    if row is None:
        return None
    columns = ("id", "account_id", "expires_at", "profile", "finalized_at", "queued_at", "attempts", "leased_by",
               "serial", "precertificate_at", "scts", "signed_at", "has_ocsp", "ocsp_waits_since", "refused_at",
               "refusal")
    return Order(identifiers=tuple(zip(row["identifier_types"], row["identifier_values"], strict=True)),
                 authorization_ids=tuple(row["authorization_ids"]), **{name: row[name] for name in columns})


async def authorizations(connection: Connection, ids: Sequence[bytes]) -> list[Authorization]:
    """The authorizations with these ids, in this order and as often, with everything that was seen about each."""
    checks: dict[bytes, list[CaaCheck]] = {}
    for row in await connection.fetch(CAA_CHECKS, ids):
        checks.setdefault(row["authorization_id"], []).append(
            CaaCheck(name=row["caa_name"], checked_at=row["checked_at"], problem=row["problem"],
                     evidence=row["evidence"]))
    found = {row["id"]: _authorization(row, tuple(checks.get(row["id"], ())))
             for row in await connection.fetch(AUTHORIZATIONS, ids)}
    return [found[each] for each in ids if each in found]


def _authorization(row: Record, caa_checks: tuple[CaaCheck, ...]) -> Authorization:
    validation = None
    if row["validated_at"] is not None:
        seen = ("challenge_type", "thumbprint", "validated_at", "valid_until", "caa_checked_at", "problem")
        validation = Validation(evidence=_seen(row["evidence"]), **{name: row[name] for name in seen})
    columns = ("id", "identifier_type", "identifier_value", "wildcard", "expires_at", "deactivated_at", "queued_at",
               "queued_type", "attempts", "leased_by", "caa_queued_at", "subdomains")
    return Authorization(challenge_types=types_of(row["challenge_types"]), validation=validation, caa_checks=caa_checks,
                         caa_queued_names=tuple(row["caa_queued_names"]), **{name: row[name] for name in columns})


def _seen(packed: bytes) -> object:
    """Evidence; of what is none, that it is none: an operator has to see the rest all the same."""
    try:
        return unpack_evidence(packed)
    except PackedError as fault:
        return {"unreadable": str(fault)}


async def validated_authorizations(connection: Connection, name: str, *, limit: int) -> list[bytes]:
    """The newest authorizations with an outcome for this name or address, written without `*.`."""
    return [row["authorization_id"] for row in await connection.fetch(AUTHORIZATIONS_BY_NAME, name, limit)]


async def accounts_of_authorizations(connection: Connection, ids: Sequence[bytes]) -> dict[bytes, bytes]:
    """Authorization id -> account id."""
    return {row["id"]: row["account_id"] for row in await connection.fetch(ACCOUNTS_OF_AUTHORIZATIONS, ids)}
