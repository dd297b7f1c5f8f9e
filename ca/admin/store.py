"""All SQL of the role ca_admin: what an operator may look at, and the four things that one may do to the database
(ask for a revocation, revoke an account, make and drop partitions, prune old CRLs).

Nothing here updates a certificate, an order or a validation: the role may not.
"""

from collections.abc import Sequence
from datetime import date, datetime

from ca.admin.records import (
    Account,
    Activity,
    Authorization,
    CaaCheck,
    Certificate,
    CertificateCounts,
    CrlFreshness,
    Facts,
    Issuer,
    OcspFreshness,
    Order,
    Partition,
    Perspective,
    ProcessConnections,
    Queue,
    Revocation,
    Validation,
)
from ca.process.postgres import Connection, Record

# --- certificates -------------------------------------------------------------------------------------------------

CERTIFICATES = """
SELECT c.serial, c.request_id, c.account_id, c.issuer_id, i.name AS issuer_name, i.crl_shards, c.profile, c.not_before,
    c.not_after, c.spki_sha256, coalesce(f.tbs, c.tbs) AS tbs, c.has_ocsp, c.created_at, s.signed_at, s.signature,
    r.revoked_at, r.reason, r.version, r.authority, r.evidence
FROM certificates c
JOIN issuers i ON i.id = c.issuer_id
LEFT JOIN final_certificates f ON f.serial = c.serial
LEFT JOIN certificate_signatures s ON s.serial = c.serial
LEFT JOIN revocations r ON r.serial = c.serial
WHERE c.serial = ANY($1::bytea[])
ORDER BY c.created_at DESC, c.serial
"""
# A name itself, and every name under it: 'moc.elpmaxe', and from 'moc.elpmaxe.' up to 'moc.elpmaxe/'.
SERIALS_BY_NAME = """
SELECT DISTINCT serial FROM certificate_names
WHERE reversed_name = $1 OR (reversed_name >= $2 AND reversed_name < $3)
ORDER BY serial DESC LIMIT $4
"""
SERIALS_BY_ACCOUNT = "SELECT serial FROM certificates WHERE account_id = $1 ORDER BY serial DESC LIMIT $2"
SERIALS_BY_KEY = "SELECT serial FROM certificates WHERE spki_sha256 = $1 ORDER BY serial DESC LIMIT $2"
SERIALS_BY_RANGE = "SELECT serial FROM certificates WHERE serial BETWEEN $1 AND $2 ORDER BY serial DESC LIMIT $3"
OCSP_WAITS_SINCE = "SELECT min(requested_at) FROM ocsp_requests WHERE serial = $1"
REVOCATION_WAITS_SINCE = "SELECT min(requested_at) FROM revocation_requests WHERE serial = $1"
REQUEST_REVOCATION = """
INSERT INTO revocation_requests (id, serial, reason, authority, evidence, requested_at)
VALUES ($1, $2, $3, 'operator', $4, $5)
"""
NOTIFY_CA = "SELECT pg_notify('issuance', '')"
REVOCATION_PROGRESS = """
SELECT EXISTS (SELECT FROM revocation_requests WHERE id = $1) AS is_queued,
    (SELECT reason FROM revocations WHERE serial = $2) AS reason,
    EXISTS (SELECT FROM ocsp_requests WHERE serial = $2) AS ocsp_waits
"""


async def certificates(connection: Connection, serials: Sequence[bytes]) -> list[Certificate]:
    """The certificates with these serial numbers, newest first."""
    return [_certificate(row) for row in await connection.fetch(CERTIFICATES, serials)]


def _certificate(row: Record) -> Certificate:
    revocation = None
    if row["revoked_at"] is not None:
        revocation = Revocation(revoked_at=row["revoked_at"], reason=row["reason"], version=row["version"],
                                authority=row["authority"], evidence=row["evidence"])
    columns = ("serial", "request_id", "account_id", "issuer_id", "issuer_name", "crl_shards", "profile", "not_before",
               "not_after", "spki_sha256", "tbs", "has_ocsp", "created_at", "signed_at", "signature")
    return Certificate(revocation=revocation, **{name: row[name] for name in columns})


async def serials_by_name(connection: Connection, *, name: str, limit: int) -> list[bytes]:
    """Serial numbers of certificates for a name or any name under it, newest first."""
    reverse = name[::-1]
    rows = await connection.fetch(SERIALS_BY_NAME, reverse, reverse + ".", reverse + "/", limit)
    return [row["serial"] for row in rows]


async def serials_by_account(connection: Connection, *, account_id: bytes, limit: int) -> list[bytes]:
    """Serial numbers of an account's certificates, newest first."""
    return [row["serial"] for row in await connection.fetch(SERIALS_BY_ACCOUNT, account_id, limit)]


async def serials_by_key(connection: Connection, *, spki_sha256: bytes, limit: int) -> list[bytes]:
    """Serial numbers of certificates with a public key, newest first."""
    return [row["serial"] for row in await connection.fetch(SERIALS_BY_KEY, spki_sha256, limit)]


async def serials_between(connection: Connection, *, first: bytes, last: bytes, limit: int) -> list[bytes]:
    """Serial numbers that were given to certificates, of an inclusive range."""
    return [row["serial"] for row in await connection.fetch(SERIALS_BY_RANGE, first, last, limit)]


async def ocsp_waits_since(connection: Connection, serial: bytes) -> datetime | None:
    """Since when the responders wait for a response about this serial number; None when they have it."""
    since: datetime | None = await connection.fetchval(OCSP_WAITS_SINCE, serial)
    return since


async def revocation_waits_since(connection: Connection, serial: bytes) -> datetime | None:
    """Since when a request to revoke this certificate waits for the CA."""
    since: datetime | None = await connection.fetchval(REVOCATION_WAITS_SINCE, serial)
    return since


async def request_revocation(
    connection: Connection, *, request_id: bytes, serial: bytes, reason: int, evidence: object, now: datetime
) -> None:
    """Puts an operator's request into the CA's queue and wakes the CA."""
    async with connection.transaction():
        await connection.execute(REQUEST_REVOCATION, request_id, serial, reason, evidence, now)
        await connection.execute(NOTIFY_CA)


async def revocation_progress(
    connection: Connection, request_id: bytes, serial: bytes
) -> tuple[bool, int | None, bool]:
    """Whether the request still waits, the reason that is in force, and whether OCSP still waits for its response."""
    row = await connection.fetchrow(REVOCATION_PROGRESS, request_id, serial)
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return row["is_queued"], row["reason"], row["ocsp_waits"]


# --- orders -------------------------------------------------------------------------------------------------------

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
        seen = ("challenge_type", "thumbprint", "validated_at", "valid_until", "caa_checked_at", "problem", "evidence")
        validation = Validation(**{name: row[name] for name in seen})
    columns = ("id", "identifier_type", "identifier_value", "wildcard", "expires_at", "deactivated_at", "queued_at",
               "queued_type", "attempts", "leased_by", "caa_queued_at", "subdomains")
    return Authorization(challenge_types=tuple(row["challenge_types"]), validation=validation, caa_checks=caa_checks,
                         caa_queued_names=tuple(row["caa_queued_names"]), **{name: row[name] for name in columns})


async def validated_authorizations(connection: Connection, name: str, *, limit: int) -> list[bytes]:
    """The newest authorizations with an outcome for this name or address, written without `*.`."""
    return [row["authorization_id"] for row in await connection.fetch(AUTHORIZATIONS_BY_NAME, name, limit)]


async def accounts_of_authorizations(connection: Connection, ids: Sequence[bytes]) -> dict[bytes, bytes]:
    """Authorization id -> account id."""
    return {row["id"]: row["account_id"] for row in await connection.fetch(ACCOUNTS_OF_AUTHORIZATIONS, ids)}


# --- accounts -----------------------------------------------------------------------------------------------------

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


# --- the state of everything --------------------------------------------------------------------------------------

SERVER = "SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS size"
PROCESSES = """
SELECT substring(application_name from '^chancery-(.*?)(-listen)?$') AS process, count(*) AS connections,
    min(backend_start) AS connected_since
FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'chancery-%'
GROUP BY 1 ORDER BY 1
"""
ISSUERS = "SELECT id, name, key_type, certificate, crl_shards, active FROM issuers ORDER BY id"
QUEUES = """
SELECT 'validation' AS name, count(*) AS depth, min(requested_at) AS oldest_at FROM validation_requests
UNION ALL SELECT 'issuance', count(*), min(requested_at) FROM issuance_requests
UNION ALL SELECT 'revocation', count(*), min(requested_at) FROM revocation_requests
UNION ALL SELECT 'ocsp', count(*), min(requested_at) FROM ocsp_requests
UNION ALL SELECT 'transparency', count(*), min(requested_at) FROM ct_submissions WHERE kind = 'precertificate'
"""
# The planner's count is durable, the statistics' is fresh; both may lag behind by a little.
PERSPECTIVES = """
SELECT perspective AS name, min(rir) AS rir, max(answered_at) AS answered_at, max(lag_ms) AS lag_ms,
    max(failures) AS failures, max(retry_at) AS retry_at, max(fault) AS fault
FROM perspective_health WHERE seen_at > now() - interval '2 minutes' GROUP BY perspective ORDER BY min(position)
"""
SIGNED_ESTIMATE = """
SELECT coalesce(sum(greatest(c.reltuples::bigint, s.n_live_tup, 0)), 0)::bigint
FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE h.inhparent = 'certificate_signatures'::regclass
"""
SIGNED_COUNT = "SELECT count(*) FROM certificate_signatures"
SIGNED_SINCE = "SELECT count(*) FROM certificate_signatures WHERE serial >= $1 AND signed_at > $2"
OCSP_FRESHNESS = """
SELECT count(*) AS shards, count(*) FILTER (WHERE due_at < $1) AS overdue, min(signed_at) AS oldest_signed_at
FROM ocsp_shards
"""
CRL_FRESHNESS = """
SELECT issuers.name AS issuer_name, issuers.crl_shards AS shards, count(latest.this_update) AS published,
    coalesce(sum(latest.entries), 0)::bigint AS entries, min(latest.this_update) AS oldest_this_update,
    min(latest.next_update) AS first_next_update
FROM issuers
CROSS JOIN generate_series(0, issuers.crl_shards - 1) AS wanted (shard)
LEFT JOIN LATERAL (
    SELECT this_update, next_update, entries FROM crls
    WHERE crls.issuer_id = issuers.id AND crls.shard = wanted.shard ORDER BY number DESC LIMIT 1
) AS latest ON true
GROUP BY issuers.id, issuers.name, issuers.crl_shards ORDER BY issuers.id
"""
PARTITIONS_UNTIL = "SELECT partitions_until()"
_COUNTED_UP_TO = 50_000


async def issuers(connection: Connection) -> list[Issuer]:
    """Every issuer."""
    return [Issuer(**row) for row in await connection.fetch(ISSUERS)]


async def facts(connection: Connection, *, now: datetime, serials_from: bytes, signed_after: datetime) -> Facts:
    """One look at everything. `serials_from` is the smallest serial number that can be signed after `signed_after`."""
    server = await connection.fetchrow(SERVER)
    ocsp = await connection.fetchrow(OCSP_FRESHNESS, now)
    assert server is not None  # noqa: S101 - one row
    assert ocsp is not None  # noqa: S101 - an aggregate without GROUP BY has one row
    return Facts(
        database_version=server["version"].split()[0],
        database_size_bytes=server["size"],
        processes=tuple(ProcessConnections(**row) for row in await connection.fetch(PROCESSES)),
        issuers=tuple(await issuers(connection)),
        queues=tuple(Queue(**row) for row in await connection.fetch(QUEUES)),
        certificates=await _counts(connection, serials_from, signed_after),
        ocsp=OcspFreshness(**ocsp),
        crls=tuple(CrlFreshness(**row) for row in await connection.fetch(CRL_FRESHNESS)),
        partitions_until=await partitions_until(connection),
        perspectives=tuple(Perspective(**row) for row in await connection.fetch(PERSPECTIVES)),
    )


async def _counts(connection: Connection, serials_from: bytes, signed_after: datetime) -> CertificateCounts:
    stored = await connection.fetchval(SIGNED_ESTIMATE)
    exact = stored <= _COUNTED_UP_TO
    if exact:
        stored = await connection.fetchval(SIGNED_COUNT)
    return CertificateCounts(stored=stored, exact=exact,
                             last_24_h=await connection.fetchval(SIGNED_SINCE, serials_from, signed_after))


# --- upkeep -------------------------------------------------------------------------------------------------------

PARTITIONS = """
SELECT p.relname AS table, c.relname AS name, greatest(c.reltuples::bigint, s.n_live_tup, 0) AS rows,
    pg_total_relation_size(c.oid) AS size_bytes
FROM partitioned_tables t
JOIN pg_class p ON p.oid = t.name::regclass
JOIN pg_inherits h ON h.inhparent = p.oid
JOIN pg_class c ON c.oid = h.inhrelid
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
ORDER BY p.relname, c.relname
"""
# A partition cannot be made or dropped while a transaction uses its parent, and while we wait for that one, all others
# wait behind us: so we do not wait for long, and try again later.
SHORT_LOCK_WAIT = "SET LOCAL lock_timeout = '3s'"
CREATE_PARTITIONS = "SELECT create_partitions($1)"
DROP_PARTITIONS = "SELECT drop_expired_partitions($1)"
PRUNE_CRLS = "SELECT prune_crls($1)"
AUDIT_HEADS = "SELECT chain, number, digest FROM audit_heads ORDER BY chain, number"


async def partitions(connection: Connection) -> list[Partition]:
    """Every partition of every table."""
    return [Partition(**row) for row in await connection.fetch(PARTITIONS)]


async def partitions_until(connection: Connection) -> date | None:
    """The day up to which every table has a partition."""
    until: date | None = await connection.fetchval(PARTITIONS_UNTIL)
    return until


async def create_partitions(connection: Connection, now: datetime) -> int:
    """Makes the partitions that will be needed next; how many were missing."""
    async with connection.transaction():
        await connection.execute(SHORT_LOCK_WAIT)
        made: int = await connection.fetchval(CREATE_PARTITIONS, now)
    return made


async def drop_expired_partitions(connection: Connection, now: datetime) -> list[str]:
    """Drops the partitions whose keeping time is over; their names."""
    async with connection.transaction():
        await connection.execute(SHORT_LOCK_WAIT)
        rows = await connection.fetch(DROP_PARTITIONS, now)
    return [row[0] for row in rows]


async def prune_crls(connection: Connection, *, keep_days: int) -> int:
    """Deletes CRLs older than `keep_days`, never the newest five of a shard; how many."""
    pruned: int = await connection.fetchval(PRUNE_CRLS, keep_days)
    return pruned


async def audit_heads(connection: Connection) -> dict[str, dict[int, bytes]]:
    """Chain -> number of a record -> its digest, as the processes anchored them."""
    found: dict[str, dict[int, bytes]] = {}
    for row in await connection.fetch(AUDIT_HEADS):
        found.setdefault(row["chain"], {})[row["number"]] = row["digest"]
    return found
