"""Every role tries what it may not do, and fails to; every column has one writing role."""

import asyncpg
import pytest

from ca.admin.migrate import PROCESS_ROLES
from tests.fixtures_postgres import TestDatabase

_ID = "'\\x0199999999990102030405060708090a0b0c0d0e0f10'::bytea"
_SERIAL = "'\\x0acf0102030405060708090a0b0c0d0e0f10'::bytea"
_HASH = "'\\x00'::bytea"

_INSERT_VALIDATION = (
    "INSERT INTO validations (authorization_id, account_id, identifier_type, identifier_value, wildcard,"
    f" challenge_type, thumbprint, validated_at, valid_until, evidence) VALUES ({_ID}, {_ID}, 'dns', 'a.example',"
    f" false, 'http-01', {_HASH}, now(), now() + interval '1 day', {_HASH})")
_INSERT_CAA_CHECK = f"INSERT INTO caa_checks VALUES ({_ID}, now(), NULL, '{{}}')"
_INSERT_FINALIZATION = (f"INSERT INTO finalizations VALUES ({_ID}, now(), {_HASH})")
_INSERT_CERTIFICATE = (
    "INSERT INTO certificates (serial, request_id, issuer_id, profile, not_before, not_after, spki_sha256, tbs,"
    f" created_at) VALUES ({_SERIAL}, {_ID}, 1, 'classic', now(), now(), {_HASH}, {_HASH}, now())")
_INSERT_SIGNATURE = f"INSERT INTO certificate_signatures VALUES ({_SERIAL}, now(), {_HASH})"
_INSERT_REVOCATION = (f"INSERT INTO revocations VALUES ({_SERIAL}, now(), 1, 1, 'operator', '{{}}')")
_INSERT_REVOCATION_REQUEST = (
    f"INSERT INTO revocation_requests VALUES ({_ID}, {_SERIAL}, 0, 'operator', '{{}}', now())")
_INSERT_BATCH = f"INSERT INTO ocsp_batches VALUES (1, now(), 1, 0, now(), {_HASH})"
_INSERT_CRL = f"INSERT INTO crls VALUES (1, 0, 1, now(), now(), 0, {_HASH})"
_INSERT_ISSUER = f"INSERT INTO issuers VALUES (9, 'x', 'ec', {_HASH}, 1, true, now())"
_INSERT_CREDENTIAL = (
    "INSERT INTO eab_credentials (kid, mac_key, created_at, created_by, comment, single_use, allowed_names)"
    f" VALUES ('k', {_HASH}, now(), '', '', true, '{{}}')")
_INSERT_ACCOUNT = f"INSERT INTO accounts (id, created_at, thumbprint, jwk) VALUES ({_ID}, now(), {_HASH}, '{{}}')"

_INSERT_PRECERTIFICATE = f"INSERT INTO precertificate_signatures VALUES ({_SERIAL}, now(), {_HASH})"
_INSERT_FINAL = f"INSERT INTO final_certificates VALUES ({_SERIAL}, {_HASH}, now())"
_INSERT_SUBMISSION = ("INSERT INTO ct_submissions (serial, kind, request_id, requested_at)"
                      f" VALUES ({_SERIAL}, 'precertificate', {_ID}, now())")
_INSERT_SCT = f"INSERT INTO scts VALUES ({_SERIAL}, {_HASH}, now(), {_HASH})"

# Each act, and the one role that may do it.
_ACTS = {
    "open an account": (_INSERT_ACCOUNT, "acme_wfe"),
    "change an account's key": ("UPDATE accounts SET thumbprint = thumbprint", "acme_wfe"),
    "let an account use dns-persist-01": ("UPDATE accounts SET dns_persist_allowed_at = now()", "ca_admin"),
    "say that a subscriber agreed to new terms": ("UPDATE accounts SET terms_confirmed_at = now()", "ca_admin"),
    "revoke an account": ("UPDATE accounts SET revoked_at = now()", "ca_admin"),
    "say that a name was validated": (_INSERT_VALIDATION, "acme_va"),
    "say that CAA permits": (_INSERT_CAA_CHECK, "acme_va"),
    "store a finalize request": (_INSERT_FINALIZATION, "acme_wfe"),
    "write an intent": (_INSERT_CERTIFICATE, "ca_issuer"),
    "store a certificate's signature": (_INSERT_SIGNATURE, "ca_issuer"),
    "store a precertificate's signature": (_INSERT_PRECERTIFICATE, "ca_issuer"),
    "write the intent of a final certificate": (_INSERT_FINAL, "ca_issuer"),
    "ask for a submission to logs": (_INSERT_SUBMISSION, "ca_issuer"),
    "take a submission to logs": ("UPDATE ct_submissions SET leased_by = 'x'", "ca_publisher"),
    "end a submission to logs": ("DELETE FROM ct_submissions", "ca_publisher"),
    "say what a log answered": (_INSERT_SCT, "ca_publisher"),
    "revoke a certificate": (_INSERT_REVOCATION, "ca_issuer"),
    "change a revocation's reason": ("UPDATE revocations SET reason = 1", "ca_issuer"),
    "publish OCSP responses": (_INSERT_BATCH, "ocsp_signer"),
    "publish a CRL": (_INSERT_CRL, "ca_issuer"),
    "name an issuer": (_INSERT_ISSUER, "ca_admin"),
    "make an external account": (_INSERT_CREDENTIAL, "ca_admin"),
    "end an external account": ("UPDATE eab_credentials SET revoked_at = now()", "ca_admin"),
    "read an external account's HMAC key": ("SELECT mac_key FROM eab_credentials", "acme_wfe"),
    "spend a nonce": ("INSERT INTO spent_nonces SELECT extract(epoch FROM now())::bigint << 31", "acme_wfe"),
    "take a validation": ("UPDATE validation_requests SET leased_by = 'x'", "acme_va"),
    "take an issuance": ("UPDATE issuance_requests SET leased_by = 'x'", "ca_issuer"),
    "take an OCSP request": ("UPDATE ocsp_requests SET leased_by = 'x'", "ocsp_signer"),
    "drop a queue's validation": ("DELETE FROM validation_requests", "acme_va"),
    "drop a queue's issuance": ("DELETE FROM issuance_requests", "ca_issuer"),
    "deactivate an authorization": ("UPDATE authorizations SET deactivated_at = now()", "acme_wfe"),
    "block a key": (f"INSERT INTO blocked_keys VALUES ({_HASH}, NULL, now(), 'operator', '{{}}', now())", "ca_issuer"),
    "take back a key's block": ("DELETE FROM blocked_keys", "ca_issuer"),
    "block a name": ("INSERT INTO blocked_names VALUES ('a.example', true, now(), 'x', 'y')", "ca_admin"),
    "take back a name's block": ("DELETE FROM blocked_names", "ca_admin"),
    "say what an operator did": (
        f"INSERT INTO operator_acts (id, acted_at, operator, act, subject, detail) VALUES ({_ID}, now(), '', '', '',"
        " '{}')", "ca_admin"),
    "close the accounts of blocked keys": ("SELECT close_accounts_with_blocked_keys()", "ca_issuer"),
    "switch an issuer off": ("UPDATE issuers SET disabled_at = now()", "ca_admin"),
    "switch a profile off": ("INSERT INTO disabled_profiles VALUES ('classic', now(), '', '')", "ca_admin"),
    "switch a profile on": ("DELETE FROM disabled_profiles", "ca_admin"),
    "import weak keys": (f"INSERT INTO weak_keys VALUES ({_HASH}, 'x')", "ca_admin"),
    "open an incident": ("INSERT INTO incidents VALUES ('x', now(), '', '', '', '')", "ca_admin"),
    "close an incident": ("UPDATE incidents SET closed_at = now()", "ca_admin"),
    "put certificates into an incident": (f"INSERT INTO incident_serials VALUES ('x', {_SERIAL})", "ca_admin"),
    "order a mass revocation": ("INSERT INTO mass_revocations (incident, reason, operator, comment, requested_at)"
                                " VALUES ('x', 1, '', '', now())", "ca_admin"),
    "halt a mass revocation": ("UPDATE mass_revocations SET halted = true", "ca_admin"),
    "say how far a mass revocation is": ("UPDATE mass_revocations SET through = ''", "ca_issuer"),
    "take from a rate limit": ("INSERT INTO rate_limits VALUES ('x', 'y', now())", "acme_wfe"),
    "refill a rate limit": ("UPDATE rate_limits SET full_at = now()", "acme_wfe"),
    "make an exception from a limit": (
        "INSERT INTO limit_overrides VALUES ('x', 'y', 1, 1, now(), 'z', now())", "ca_admin"),
    "forgive failed validations": (f"INSERT INTO limit_unpauses VALUES ({_ID}, '', now())", "ca_admin"),
    "say how a perspective is": (
        "INSERT INTO perspective_health (worker, perspective, position, rir, seen_at, failures) VALUES ('x', 'x', 1,"
        " '', now(), 0)", "acme_va"),
    "ask for a live OCSP response": (
        f"SELECT ask_for_live_ocsp({_ID}, 1::smallint, '{{0}}'::smallint[], '{{x}}'::bytea[], NULL, 20, 1)",
        "ocsp_reader"),
    "take a live OCSP response": (f"SELECT take_live_ocsp({_ID})", "ocsp_reader"),
    "answer a live OCSP question": ("UPDATE ocsp_live_requests SET response = '', answered_at = now()", "ocsp_signer"),
    "drop expired partitions": ("SELECT drop_expired_partitions(now())", "ca_admin"),
}
# Nobody but the owner: facts are never rewritten or deleted.
_NEVER = {
    "rewrite a validation": "UPDATE validations SET identifier_value = 'b.example'",
    "give a validation to another account": "UPDATE validations SET account_id = ''",
    "rewrite an intent": "UPDATE certificates SET tbs = ''",
    "rewrite a precertificate's signature": "UPDATE precertificate_signatures SET signature = ''",
    "rewrite the intent of a final certificate": "UPDATE final_certificates SET tbs = ''",
    "rewrite what a log answered": "UPDATE scts SET sct = ''",
    "rewrite a signature": "UPDATE certificate_signatures SET signature = ''",
    "rewrite a finalize request": "UPDATE finalizations SET request = ''",
    "rewrite an order's names": "UPDATE orders SET identifier_values = '{}'",
    "make an ordinary authorization one for subdomains": "UPDATE authorizations SET subdomains = true",
    "make an ordinary validation one for subdomains": "UPDATE validations SET subdomains = true",
    "move a look at CAA to another name": "UPDATE caa_checks SET caa_name = 'b.example'",
    "ask about CAA of another name than was asked about": "UPDATE validation_requests SET caa_name = 'b.example'",
    "rewrite an authorization's name": "UPDATE authorizations SET identifier_value = 'x'",
    "undo a revocation": "DELETE FROM revocations",
    "move a revocation's time": "UPDATE revocations SET revoked_at = now()",
    "delete a certificate": "DELETE FROM certificates",
    "delete an account": "DELETE FROM accounts",
    "give an account another first key": "UPDATE accounts SET first_thumbprint = ''",
    "open an account with a first key that is not its own": (
        f"INSERT INTO accounts (id, created_at, thumbprint, jwk, first_thumbprint) VALUES ({_ID}, now(), {_HASH},"
        f" '{{}}', {_HASH})"),
    "bind an account to another external account": "UPDATE accounts SET eab_kid = 'x'",
    "widen an external account's names": "UPDATE eab_credentials SET allowed_names = '{}'",
    "change an external account's HMAC key": "UPDATE eab_credentials SET mac_key = ''",
    "forget a spent nonce": "DELETE FROM spent_nonces",
    "put a head of an audit log in by hand": "INSERT INTO audit_heads VALUES ('x', 1, '', now())",
    "change a head of an audit log": "UPDATE audit_heads SET digest = ''",
    "rewrite what an operator did": "UPDATE operator_acts SET operator = 'y'",
    "forget what an operator did": "DELETE FROM operator_acts",
    "make a blocked key another": "UPDATE blocked_keys SET spki_sha256 = ''",
    "change what an incident is about": "DELETE FROM incident_serials",
    "change a mass revocation's reason": "UPDATE mass_revocations SET reason = 1",
    "forget what was taken from a limit": "DELETE FROM rate_limits",
    "delete a CRL": "DELETE FROM crls",
    "put a live OCSP question in by hand": (
        f"INSERT INTO ocsp_live_requests VALUES ({_ID}, 1, '{{0}}', '{{x}}', NULL, now())"),
    "change the nonce of a live OCSP question": "UPDATE ocsp_live_requests SET nonce = ''",
    "ask for another certificate than the live OCSP question": "UPDATE ocsp_live_requests SET serials = '{}'",
    "delete live OCSP questions": "DELETE FROM ocsp_live_requests",
    "rewrite an OCSP batch": "UPDATE ocsp_batches SET payload = ''",
    "change an issuer's key type from another role": "DELETE FROM issuers",
    "edit the migrations' record": "UPDATE schema_migrations SET sha256 = ''",
    "make a table": "CREATE TABLE mine (x integer)",
    "read passwords": "SELECT rolpassword FROM pg_authid",
    "become another role": "SET ROLE ca_issuer; INSERT INTO refusals SELECT '\\x00', now(), '{}' WHERE false",
}


async def _may(connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> bool:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    except asyncpg.IntegrityConstraintViolationError:
        return True  # the grants let it through as far as the data
    finally:
        await transaction.rollback()
    return True


@pytest.mark.parametrize("act", _ACTS, ids=lambda act: act.replace(" ", "-"))
async def test_only_one_role_may(database: TestDatabase, act: str) -> None:
    """The act succeeds under its own role and is refused, for want of privilege, under every other."""
    statement, owner = _ACTS[act]
    allowed = set()
    for role in PROCESS_ROLES:
        connection = await database.connect(role)
        if await _may(connection, statement):
            allowed.add(role)
        await connection.close()
    assert allowed == {owner}, act


async def test_no_role_may(database: TestDatabase) -> None:
    """Stored facts are never rewritten or deleted, whoever asks."""
    done = []
    for role in PROCESS_ROLES:
        connection = await database.connect(role)
        for act, statement in _NEVER.items():
            if role == "ca_issuer" and act == "become another role":
                continue
            if await _may(connection, statement):
                done.append((role, act))
        await connection.close()
    assert done == []


async def test_a_revocation_may_be_asked_for_by_front_end_and_operator_alone(database: TestDatabase) -> None:
    """The two who speak for people put requests into the queue; the CA alone carries them out."""
    allowed = set()
    for role in PROCESS_ROLES:
        connection = await database.connect(role)
        if await _may(connection, _INSERT_REVOCATION_REQUEST):
            allowed.add(role)
        await connection.close()
    assert allowed == {"acme_wfe", "ca_admin"}


async def test_every_column_has_one_writing_role(database: TestDatabase) -> None:
    """No two roles may write the same column, except where a queue is filled by two speakers for people.

    Read from the catalogue, so a new grant cannot slip past the list above. A queue's rows are inserted by one role and
    leased by another, which are different columns.
    """
    shared = {"revocation_requests"}
    owner = await database.connect()
    rows = await owner.fetch("""
        SELECT c.relname AS table_name, a.attname AS column_name, r.rolname AS role
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        CROSS JOIN pg_roles r
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND r.rolname = ANY($1)
          AND (has_column_privilege(r.oid, c.oid, a.attnum, 'INSERT')
               OR has_column_privilege(r.oid, c.oid, a.attnum, 'UPDATE'))""", list(PROCESS_ROLES))
    await owner.close()
    writers: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["table_name"] not in shared:
            writers.setdefault((row["table_name"], row["column_name"]), set()).add(row["role"])
    assert writers
    assert {column: roles for column, roles in writers.items() if len(roles) > 1} == {}


async def test_partitions_are_reached_through_their_table_alone(database: TestDatabase) -> None:
    """No role has a grant on a partition by itself, which would go around the grants of its table."""
    owner = await database.connect()
    rows = await owner.fetch("""
        SELECT c.relname, r.rolname FROM pg_class c CROSS JOIN pg_roles r
        WHERE c.relispartition AND r.rolname = ANY($1) AND r.rolname <> 'ca_admin'
          AND (has_table_privilege(r.oid, c.oid, 'INSERT') OR has_table_privilege(r.oid, c.oid, 'UPDATE')
               OR has_table_privilege(r.oid, c.oid, 'DELETE'))""", list(PROCESS_ROLES))
    await owner.close()
    assert rows == []
