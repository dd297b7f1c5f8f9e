"""The statements of the global checker: each gives what breaks one rule among the rows of one slice of a table.

Slices are ranges of primary keys (`> $1 AND <= $2`), so that each statement reads a part of the indices in order, and
millions of rows take seconds. A statement gives the keys of the offenders (of searchable names: the serial numbers), at
most a thousand a slice.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca.pki.policy import CAA_CHECK_LIFE_S, SCTS_FOR_LONG, SCTS_FOR_SHORT, SHORT_FOR_SCTS_S, schedule
from ca.pki.precertificate import POISON
from ca.process.postgres import Connection

_LIMIT: Final = "LIMIT 1000"
# The VA's clock and the CA's may differ by this much.
_CLOCKS: Final = "interval '1 minute'"
# How a validation `v` stands for a name `n` of an order: itself, or by the DNS for all that is below (RFC 9444).
_EXACTLY: Final = """(v.identifier_value = CASE WHEN n.value LIKE '*.%' THEN substr(n.value, 3) ELSE n.value END
        AND v.wildcard = (n.value LIKE '*.%'))"""
_BELOW: Final = """(v.subdomains AND NOT v.wildcard AND v.challenge_type LIKE 'dns-%'
        AND right(n.value, length(v.identifier_value) + 1) = '.' || v.identifier_value)"""
_IS_PRECERTIFICATE: Final = (
    f"substring(c.tbs FROM octet_length(c.tbs) - {len(POISON) - 1}) = '\\x{POISON.hex()}'")
_REUSE: Final = " ".join(
    f"WHEN c.created_at >= '{limits.signed_from:%Y-%m-%d}Z' THEN interval '{limits.longest_validation_reuse_s} s'"
    for limits in reversed(schedule()))

SLICES: Final = {
    "certificates": "SELECT serial FROM certificates WHERE serial > $1 ORDER BY serial OFFSET $2 LIMIT 1",
    "issuances": "SELECT request_id FROM issuances WHERE request_id > $1 ORDER BY request_id OFFSET $2 LIMIT 1",
    "finalizations": "SELECT order_id FROM finalizations WHERE order_id > $1 ORDER BY order_id OFFSET $2 LIMIT 1",
    "certificate_signatures":
        "SELECT serial FROM certificate_signatures WHERE serial > $1 ORDER BY serial OFFSET $2 LIMIT 1",
    "precertificate_signatures":
        "SELECT serial FROM precertificate_signatures WHERE serial > $1 ORDER BY serial OFFSET $2 LIMIT 1",
    "final_certificates": "SELECT serial FROM final_certificates WHERE serial > $1 ORDER BY serial OFFSET $2 LIMIT 1",
    "certificate_names": "SELECT reversed_name FROM certificate_names WHERE reversed_name > $1"
                         " ORDER BY reversed_name OFFSET $2 LIMIT 1",
}
# What no key of a table comes before, and none behind.
BOUNDS: Final[dict[str, tuple[bytes, bytes] | tuple[str, str]]] = {
    **dict.fromkeys(SLICES, (b"", b"\xff" * 23)), "certificate_names": ("", "\U0010ffff")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What must not occur in a slice of `table`. `late`: it will still be made good, so it is degraded, not broken."""

    code: str
    text: str
    table: str
    statement: str
    late: bool = False


RULES: Final = (
    Rule(code="serial_twice", text="a serial number was given out twice, or its certificate is missing",
         table="issuances", statement=f"""
SELECT i.request_id FROM issuances i
LEFT JOIN certificates c ON c.serial = i.serial AND c.request_id = i.request_id
WHERE i.request_id > $1 AND i.request_id <= $2 AND c.serial IS NULL {_LIMIT}"""),
    Rule(code="refused_and_issued", text="a request was refused and has a certificate", table="issuances",
         statement=f"""
SELECT i.request_id FROM issuances i JOIN refusals r ON r.request_id = i.request_id
JOIN certificates c ON c.serial = i.serial LEFT JOIN certificate_signatures s ON s.serial = i.serial
LEFT JOIN final_certificates f ON f.serial = i.serial
WHERE i.request_id > $1 AND i.request_id <= $2
    AND (s.serial IS NOT NULL OR f.serial IS NOT NULL OR NOT {_IS_PRECERTIFICATE}) {_LIMIT}"""),
    Rule(code="order_lost", text="a finalized order has no certificate, no refusal, and waits in no queue",
         table="finalizations", statement=f"""
SELECT f.order_id FROM finalizations f
LEFT JOIN issuances i ON i.request_id = f.order_id LEFT JOIN certificate_signatures s ON s.serial = i.serial
WHERE f.order_id > $1 AND f.order_id <= $2 AND s.serial IS NULL
    AND NOT EXISTS (SELECT FROM issuance_requests q WHERE q.id = f.order_id)
    AND NOT EXISTS (SELECT FROM refusals r WHERE r.request_id = f.order_id) {_LIMIT}"""),
    Rule(code="certificate_without_intent", text="a certificate belongs to no request", table="certificates",
         statement=f"""
SELECT c.serial FROM certificates c LEFT JOIN issuances i ON i.request_id = c.request_id AND i.serial = c.serial
WHERE c.serial > $1 AND c.serial <= $2 AND i.serial IS NULL
    AND NOT EXISTS (SELECT FROM ocsp_responders o WHERE o.serial = c.serial) {_LIMIT}"""),
    Rule(code="signature_without_intent", text="a signature has no intent that was committed before it",
         table="certificate_signatures", statement=f"""
SELECT s.serial FROM certificate_signatures s LEFT JOIN certificates c ON c.serial = s.serial
LEFT JOIN final_certificates f ON f.serial = s.serial
WHERE s.serial > $1 AND s.serial <= $2
    AND (c.serial IS NULL OR coalesce(f.created_at, c.created_at) > s.signed_at
         OR ({_IS_PRECERTIFICATE} AND f.serial IS NULL)) {_LIMIT}"""),
    Rule(code="precertificate_without_intent", text="a precertificate's signature has no intent before it",
         table="precertificate_signatures", statement=f"""
SELECT p.serial FROM precertificate_signatures p LEFT JOIN certificates c ON c.serial = p.serial
WHERE p.serial > $1 AND p.serial <= $2
    AND (c.serial IS NULL OR c.created_at > p.signed_at OR NOT {_IS_PRECERTIFICATE}) {_LIMIT}"""),
    Rule(code="final_without_precertificate", text="a final certificate has no signed precertificate",
         table="final_certificates", statement=f"""
SELECT f.serial FROM final_certificates f LEFT JOIN precertificate_signatures p ON p.serial = f.serial
WHERE f.serial > $1 AND f.serial <= $2 AND (p.serial IS NULL OR p.signed_at > f.created_at) {_LIMIT}"""),
    Rule(code="final_without_scts", text="a final certificate has fewer SCTs than browsers want, or others than stored",
         table="final_certificates", statement=f"""
SELECT f.serial FROM final_certificates f JOIN certificates c ON c.serial = f.serial
LEFT JOIN LATERAL (
    SELECT count(*) AS embedded FROM scts WHERE scts.serial = f.serial AND position(scts.sct IN f.tbs) > 0
        AND substring(scts.sct FROM 2 FOR 32) = scts.log_id
) AS found ON true
WHERE f.serial > $1 AND f.serial <= $2
    AND found.embedded < CASE WHEN c.not_after - c.not_before < interval '{SHORT_FOR_SCTS_S} s'
                              THEN {SCTS_FOR_SHORT} ELSE {SCTS_FOR_LONG} END {_LIMIT}"""),
    Rule(code="serial_not_in_bytes", text="what is signed has another serial number than its row", table="certificates",
         statement=f"""
SELECT c.serial FROM certificates c LEFT JOIN final_certificates f ON f.serial = c.serial
WHERE c.serial > $1 AND c.serial <= $2
    AND (position('\\x0212'::bytea || c.serial IN c.tbs) NOT BETWEEN 1 AND 16
         OR position('\\x0212'::bytea || c.serial IN f.tbs) NOT BETWEEN 1 AND 16) {_LIMIT}"""),
    Rule(code="name_not_found", text="a certificate is not found by a name of its order", table="certificates",
         statement=f"""
SELECT DISTINCT c.serial FROM certificates c LEFT JOIN orders o ON o.id = c.request_id
LEFT JOIN LATERAL unnest(o.identifier_values) AS n (value) ON true
WHERE c.serial > $1 AND c.serial <= $2 AND c.account_id IS NOT NULL AND NOT EXISTS (
    SELECT FROM certificate_names k WHERE k.reversed_name = reverse(n.value) AND k.serial = c.serial) {_LIMIT}"""),
    Rule(code="name_not_ordered", text="a certificate is found by a name that its order does not have",
         table="certificate_names", statement=f"""
SELECT DISTINCT k.serial FROM certificate_names k LEFT JOIN certificates c ON c.serial = k.serial
LEFT JOIN orders o ON o.id = c.request_id
WHERE k.reversed_name > $1 AND k.reversed_name <= $2 AND (c.serial IS NULL OR (c.account_id IS NOT NULL
    AND reverse(k.reversed_name) = ANY(coalesce(o.identifier_values, '{{}}')) IS NOT TRUE)) {_LIMIT}"""),
    Rule(code="name_without_validation", text="a name had no fresh validation of its account when it was signed",
         table="certificates", statement=f"""
SELECT DISTINCT c.serial FROM certificates c LEFT JOIN orders o ON o.id = c.request_id
LEFT JOIN LATERAL unnest(o.identifier_types, o.identifier_values) AS n (type, value) ON true
WHERE c.serial > $1 AND c.serial <= $2 AND c.account_id IS NOT NULL AND NOT EXISTS (
    SELECT FROM validations v WHERE v.authorization_id = ANY(o.authorization_ids) AND v.account_id = c.account_id
        AND o.account_id = c.account_id AND v.problem IS NULL AND v.identifier_type = n.type
        AND ({_EXACTLY} OR {_BELOW}) AND v.valid_until > c.created_at - {_CLOCKS}
        AND v.validated_at < c.created_at + {_CLOCKS}
        AND v.validated_at > c.created_at - CASE {_REUSE} END) {_LIMIT}"""),
    Rule(code="name_without_caa", text="CAA of a name was not looked at within eight hours before it was signed",
         table="certificates", statement=f"""
SELECT DISTINCT c.serial FROM certificates c JOIN orders o ON o.id = c.request_id
CROSS JOIN LATERAL unnest(o.identifier_types, o.identifier_values) AS n (type, value)
WHERE c.serial > $1 AND c.serial <= $2 AND c.account_id IS NOT NULL AND n.type = 'dns' AND NOT EXISTS (
    SELECT FROM validations v WHERE v.authorization_id = ANY(o.authorization_ids) AND v.account_id = c.account_id
        AND v.problem IS NULL
        AND ({_EXACTLY} AND v.caa_checked_at BETWEEN c.created_at - interval '{CAA_CHECK_LIFE_S} s' - {_CLOCKS}
                                             AND c.created_at + {_CLOCKS}
             OR EXISTS (SELECT FROM caa_checks k WHERE k.authorization_id = v.authorization_id AND k.problem IS NULL
                 AND ({_EXACTLY} AND k.caa_name = '' OR {_BELOW} AND k.caa_name = n.value)
                 AND k.checked_at BETWEEN c.created_at - interval '{CAA_CHECK_LIFE_S} s' - {_CLOCKS}
                                  AND c.created_at + {_CLOCKS}))) {_LIMIT}"""),
    Rule(code="too_long", text="a certificate is valid for longer than was permitted when it was signed",
         table="certificates", statement="""
SELECT c.serial FROM certificates c WHERE c.serial > $1 AND c.serial <= $2 AND c.account_id IS NOT NULL
    AND c.not_after - c.not_before >= CASE """ + " ".join(
        f"WHEN c.created_at >= '{limits.signed_from:%Y-%m-%d}Z' THEN interval '{limits.longest_validity_s} s'"
        for limits in reversed(schedule())) + f" END {_LIMIT}"),
    Rule(code="without_ocsp", text="a certificate that is valid has no OCSP response and none is asked for",
         table="certificates", statement=f"""
SELECT c.serial FROM certificates c WHERE c.serial > $1 AND c.serial <= $2 AND c.has_ocsp AND c.not_after > now()
    AND NOT EXISTS (SELECT FROM ocsp_requests q WHERE q.serial = c.serial)
    AND NOT EXISTS (SELECT FROM ocsp_shards h WHERE h.issuer_id = c.issuer_id AND h.first_serial = (
            SELECT max(first_serial) FROM ocsp_shards WHERE issuer_id = c.issuer_id AND first_serial <= c.serial)
        AND h.last_serial >= c.serial) {_LIMIT}"""),
    Rule(code="ocsp_late", text="the first OCSP response is not signed after 15 minutes (BR 4.9.9)", late=True,
         table="certificates", statement=f"""
SELECT c.serial FROM certificates c JOIN ocsp_requests q ON q.serial = c.serial AND q.version = 0
WHERE c.serial > $1 AND c.serial <= $2 AND c.has_ocsp AND q.requested_at < now() - interval '15 minutes' {_LIMIT}"""),
    Rule(code="unfinished", text="a precertificate has waited for its certificate for an hour", late=True,
         table="precertificate_signatures", statement=f"""
SELECT p.serial FROM precertificate_signatures p LEFT JOIN certificate_signatures s ON s.serial = p.serial
JOIN certificates c ON c.serial = p.serial
WHERE p.serial > $1 AND p.serial <= $2 AND s.serial IS NULL
    AND EXISTS (SELECT FROM issuance_requests q WHERE q.id = c.request_id
                AND q.requested_at < now() - interval '1 hour') {_LIMIT}"""),
)

COUNTS: Final = """
SELECT (SELECT count(*) FROM certificates) AS certificates, (SELECT count(*) FROM issuances) AS issuances,
    (SELECT count(*) FROM ocsp_responders) AS responders,
    (SELECT count(*) FROM certificate_signatures) AS certificate_signatures,
    (SELECT count(*) FROM precertificate_signatures) AS precertificate_signatures,
    (SELECT count(*) FROM final_certificates) AS final_certificates,
    (SELECT count(*) FROM revocations) AS revocations, (SELECT count(*) FROM refusals) AS refusals
"""
CRL_SHARDS: Final = """
SELECT i.id, i.name, wanted.shard, i.crl_shards, latest.this_update, latest.next_update, latest.der,
    EXISTS (SELECT FROM certificates c WHERE c.issuer_id = i.id AND c.not_after > now()) AS is_used
FROM issuers i CROSS JOIN generate_series(0, i.crl_shards - 1) AS wanted (shard)
LEFT JOIN LATERAL (
    SELECT this_update, next_update, der FROM crls WHERE crls.issuer_id = i.id AND crls.shard = wanted.shard
    ORDER BY number DESC LIMIT 1) AS latest ON true
WHERE i.id = $1 AND wanted.shard = $2
"""
ISSUERS: Final = "SELECT id, name, crl_shards FROM issuers ORDER BY id"
# By the index on a serial number's last byte; crl_shards divides 256, so the last byte alone says the shard.
REVOKED_IN_SHARD: Final = """
SELECT r.serial, r.revoked_at FROM revocations r JOIN certificates c ON c.serial = r.serial
WHERE get_byte(r.serial, 17) = ANY($3::int[]) AND c.issuer_id = $1 AND c.not_after > $2
"""
# SHA-256 of all bytes that there is a signature for, and of all that there is an intent for.
SIGNED_TBS: Final = """
SELECT sha256(coalesce(f.tbs, c.tbs)) FROM certificate_signatures s JOIN certificates c ON c.serial = s.serial
LEFT JOIN final_certificates f ON f.serial = s.serial
UNION ALL SELECT sha256(c.tbs) FROM precertificate_signatures p JOIN certificates c ON c.serial = p.serial
"""
INTENDED_TBS: Final = "SELECT sha256(tbs) FROM certificates UNION ALL SELECT sha256(tbs) FROM final_certificates"
CUSTOM_PLANS: Final = "SET LOCAL plan_cache_mode = force_custom_plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCrl:
    """The newest CRL of a shard, as far as there is one."""

    this_update: datetime | None
    next_update: datetime | None
    der: bytes | None
    is_used: bool


async def slice_end(connection: Connection, table: str, start: bytes | str, rows: int) -> bytes | str | None:
    """The key that ends the next slice of so many rows behind `start`; None when fewer are left."""
    key: bytes | str | None = await connection.fetchval(SLICES[table], start, rows - 1)
    return key


async def offenders(connection: Connection, rule: Rule, first: bytes | str, last: bytes | str) -> list[bytes]:
    """The keys of what breaks the rule in a slice."""
    return [row[0] for row in await connection.fetch(rule.statement, first, last)]


async def counts(connection: Connection) -> dict[str, int]:
    """How many rows there are of each kind."""
    row = await connection.fetchrow(COUNTS)
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return dict(row)


async def issuers(connection: Connection) -> list[tuple[int, str, int]]:
    """Id, name and number of CRL shards of each issuer."""
    return [(row["id"], row["name"], row["crl_shards"]) for row in await connection.fetch(ISSUERS)]


async def newest_crl(connection: Connection, issuer_id: int, shard: int) -> ShardCrl:
    """The newest CRL of a shard."""
    row = await connection.fetchrow(CRL_SHARDS, issuer_id, shard)
    assert row is not None  # noqa: S101 - the shard exists
    return ShardCrl(this_update=row["this_update"], next_update=row["next_update"], der=row["der"],
                    is_used=row["is_used"])


async def revoked_in_shard(
    connection: Connection, issuer_id: int, last_bytes: Sequence[int], *, not_after: datetime
) -> list[tuple[bytes, datetime]]:
    """(serial, revoked at) of an issuer's certificates that end after a moment, by the last byte of the serial."""
    return [(row["serial"], row["revoked_at"])
            for row in await connection.fetch(REVOKED_IN_SHARD, issuer_id, not_after, list(last_bytes))]


async def signed_tbs(connection: Connection) -> AsyncIterator[str]:
    """SHA-256, hexadecimal, of everything that is stored with a signature."""
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(SIGNED_TBS, prefetch=10_000):
            yield row[0].hex()


async def intended_tbs(connection: Connection) -> AsyncIterator[str]:
    """SHA-256, hexadecimal, of everything that was to be signed."""
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(INTENDED_TBS, prefetch=10_000):
            yield row[0].hex()


async def force_custom_plans(connection: Connection) -> None:
    """Each slice is planned with its own bounds, so that other partitions are not looked at."""
    await connection.execute(CUSTOM_PLANS)

