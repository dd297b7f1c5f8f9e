"""The global checker: it is content with what the CA does, and each of its rules catches what it is for."""

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.admin.check_store import RULES
from ca.process.audit_log import AuditLog
from tests.ca.admin.conftest import CommandLine, write_config
from tests.ca.issuing.transparent import TransparentWorld, transparent
from tests.ca.issuing.world import World
from tests.ct_log import personalities

# What the owner of the tables does to the rows, as a fault of ours or an intruder might, and the rules that see it.
# $serial is a certificate without CT, $logged one with it, $order and $logged_order their requests.
_TAMPERING = {
    "a serial number twice": ("INSERT INTO issuances SELECT request_id || '\\x00', serial FROM issuances LIMIT 1",
                              {"serial_twice", "counts"}),
    "an issuance is gone": ("DELETE FROM issuances WHERE serial = $serial",
                            {"certificate_without_intent", "counts", "order_lost"}),
    "a certificate is gone": ("DELETE FROM certificates WHERE serial = $serial",
                              {"serial_twice", "signature_without_intent", "name_not_ordered", "counts"}),
    "a signature before its intent": ("UPDATE certificates SET created_at = now() + interval '1 hour'"
                                      " WHERE serial = $serial", {"signature_without_intent"}),
    "a precertificate given out as certificate": ("DELETE FROM final_certificates WHERE serial = $logged",
                                                  {"signature_without_intent"}),
    "a precertificate's signature without intent": ("UPDATE certificates SET tbs = '\\x0212' || serial WHERE"
                                                    " serial = $logged", {"precertificate_without_intent"}),
    "a final without precertificate": ("DELETE FROM precertificate_signatures WHERE serial = $logged",
                                       {"final_without_precertificate", "counts"}),
    "a final with an SCT that nobody stored": ("DELETE FROM scts WHERE log_id = (SELECT min(log_id) FROM"
                                               " scts JOIN final_certificates f USING (serial) WHERE serial = $logged"
                                               " AND position(sct IN f.tbs) > 0) AND serial = $logged",
                                               {"final_without_scts"}),
    "an SCT of another log than it says": ("UPDATE scts SET log_id = substr(log_id, 1, 31) || '\\x00'"
                                           " WHERE serial = $logged", {"final_without_scts"}),
    "a final that needs three SCTs": ("UPDATE certificates SET not_before = not_after - interval '190 days'"
                                      " WHERE serial = $logged", {"final_without_scts"}),
    "other bytes than the serial number's": ("UPDATE certificates SET tbs = overlay(tbs PLACING '\\x99' FROM 20 FOR 1)"
                                             " WHERE serial = $serial", {"serial_not_in_bytes"}),
    "a validation is gone": ("DELETE FROM validations WHERE authorization_id = ANY((SELECT authorization_ids FROM"
                             " orders WHERE id = $order)::bytea[])", {"name_without_validation", "name_without_caa"}),
    "a validation of another account": ("UPDATE validations SET account_id = '\\x00' WHERE authorization_id = ANY(("
                                        "SELECT authorization_ids FROM orders WHERE id = $order)::bytea[])",
                                        {"name_without_validation", "name_without_caa"}),
    "a validation that is too old": ("UPDATE validations SET validated_at = now() - interval '201 days' WHERE"
                                     " authorization_id = ANY((SELECT authorization_ids FROM orders WHERE id = $order)"
                                     "::bytea[])", {"name_without_validation"}),
    "a validation that had ended": ("UPDATE validations SET valid_until = now() - interval '1 hour' WHERE"
                                    " authorization_id = ANY((SELECT authorization_ids FROM orders WHERE id = $order)"
                                    "::bytea[])", {"name_without_validation"}),
    "a validation of another name": ("UPDATE validations SET identifier_value = 'x.example' WHERE authorization_id ="
                                     " (SELECT authorization_ids[1] FROM orders WHERE id = $order)",
                                     {"name_without_validation", "name_without_caa"}),
    "a validation that failed": ("UPDATE validations SET problem = '{}' WHERE authorization_id ="
                                 " (SELECT authorization_ids[1] FROM orders WHERE id = $order)",
                                 {"name_without_validation", "name_without_caa"}),
    "CAA nine hours ago": ("UPDATE validations SET caa_checked_at = now() - interval '9 hours' WHERE authorization_id ="
                           " (SELECT authorization_ids[1] FROM orders WHERE id = $order)", {"name_without_caa"}),
    "another name than ordered": ("UPDATE orders SET identifier_values = '{a.example,b.example}' WHERE id = $order",
                                  {"name_not_found", "name_not_ordered", "name_without_validation",
                                   "name_without_caa"}),
    "a name that cannot be found": ("DELETE FROM certificate_names WHERE serial = $serial", {"name_not_found"}),
    "a name that was not ordered": ("INSERT INTO certificate_names VALUES (reverse('victim.example'), $serial)",
                                    {"name_not_ordered"}),
    "a name of another certificate": ("INSERT INTO certificate_names SELECT reversed_name, $serial FROM"
                                      " certificate_names WHERE serial = $logged", {"name_not_ordered"}),
    "another name instead": ("UPDATE certificate_names SET reversed_name = 'elpmaxe.X' WHERE (reversed_name, serial) ="
                             " (SELECT reversed_name, serial FROM certificate_names WHERE serial = $serial LIMIT 1)",
                             {"name_not_found", "name_not_ordered"}),
    "201 days": ("UPDATE certificates SET not_after = not_before + interval '200 days' WHERE serial = $serial",
                 {"too_long"}),
    "no OCSP response": ("DELETE FROM ocsp_requests WHERE serial = $serial", {"without_ocsp"}),
    "an OCSP range that ends before": ("WITH gone AS (DELETE FROM ocsp_requests WHERE serial = $serial) INSERT INTO"
                                       " ocsp_shards SELECT issuer_id, '\\x01', '\\x02', now(), now() FROM certificates"
                                       " WHERE serial = $serial", {"without_ocsp"}),
    "refused and issued": ("INSERT INTO refusals VALUES ($order, now(), '{}')", {"refused_and_issued"}),
    "refused and logged": ("INSERT INTO refusals VALUES ($logged_order, now(), '{}')", {"refused_and_issued"}),
    "an order that nobody ends": ("DELETE FROM certificate_signatures WHERE serial = $serial", {"order_lost"}),
    "no CRL": ("DELETE FROM crls WHERE shard = 0", {"without_crl"}),
    "a CRL that has ended": ("UPDATE crls SET next_update = now()", {"without_crl"}),
    "revoked and in no CRL": ("INSERT INTO revocations VALUES ($serial, now() - interval '25 hours', 4, 1, 'operator',"
                              " '{}')", {"not_in_crl"}),
}
_LATE = {
    "revoked a while ago": ("INSERT INTO revocations VALUES ($serial, now() - interval '1 hour', 4, 1, 'operator',"
                            " '{}')", {"crl_late"}),
    "OCSP after an hour": ("UPDATE ocsp_requests SET requested_at = now() - interval '1 hour' WHERE serial = $serial",
                           {"ocsp_late"}),
    "a precertificate that waits": ("WITH gone AS (DELETE FROM certificate_signatures WHERE serial = $logged) INSERT"
                                    " INTO issuance_requests (id, kind, requested_at) VALUES ($logged_order, 'order',"
                                    " now() - interval '2 hours')", {"unfinished"}),
}


@pytest.fixture
async def ct(world: World) -> AsyncIterator[TransparentWorld]:
    """Six certificates, three of them logged; one refusal; CRLs; two revocations that are listed."""
    async with transparent(world, personalities(4)) as made:
        plain = world.process("plain")
        for number in range(2):
            await world.ordered(f"n{number}.example.com", f"*.n{number}.example.com")
        await world.ordered("10.1.2.3", "addressed.example.com", profile="shortlived")
        await world.ordered("refused.example.com", validated=False)
        await made.turn(plain, made.publisher())
        for number in range(2):
            await world.ordered(f"logged{number}.example.com")
        await world.service("localhost")
        await made.turn(made.ca(), made.publisher())
        await world.publisher(plain).publish_missing()
        yield made


def _filled(statement: str, found: dict[str, bytes]) -> str:
    for name in sorted(found, key=len, reverse=True):
        statement = statement.replace(f"${name}", f"'\\x{found[name].hex()}'::bytea")
    return statement


async def _found(ct: TransparentWorld) -> dict[str, bytes]:
    rows = await ct.world.owner.fetch(
        "SELECT serial, request_id, account_id FROM certificates c WHERE account_id IS NOT NULL"
        " AND profile <> 'shortlived' ORDER BY EXISTS (SELECT FROM precertificate_signatures p"
        " WHERE p.serial = c.serial), c.serial")
    return {"serial": rows[0]["serial"], "order": rows[0]["request_id"], "logged": rows[-1]["serial"],
            "logged_order": rows[-1]["request_id"]}


async def test_content_with_what_the_ca_does(ct: TransparentWorld) -> None:
    """Nothing is found, whatever the slices; the sums are those of what was done."""
    for slice_rows in (1, 2, 50_000):
        report = await ct.world.report(slice_rows=slice_rows)
        assert {result.code: result.examples for result in report.results if result.count} == {}
        assert report.state == "ok"
    assert report.counts["certificates"] == report.counts["certificate_signatures"] == 6
    assert report.signatures == 9
    assert len(report.results) == len(RULES) + 4


async def test_every_rule_catches_what_it_is_for(ct: TransparentWorld) -> None:
    """Each tampering is seen by the rules that are about it and by no other; rolled back, all is well again. Together
    they trip every rule."""
    found = await _found(ct)
    tripped: set[str] = set()
    owner = ct.world.owner
    for tampering, state in ((_TAMPERING, "broken"), (_LATE, "late")):
        for what, (statement, expected) in tampering.items():
            # Only a committed change is seen by another connection: it is undone from copies of the tables.
            await _copy(ct)
            await owner.execute(_filled(statement, found))
            report = await ct.world.report()
            codes = {result.code for result in report.results if result.count}
            assert codes == expected, what
            assert report.state == state, what
            tripped |= codes
            await _restore(ct)
    assert {rule.code for rule in RULES} | {"counts", "without_crl", "not_in_crl", "crl_late"} == tripped
    assert (await ct.world.report()).state == "ok"


async def test_the_command(ct: TransparentWorld, tmp_path: Path) -> None:
    """`chancery audit check`: exit code 0, 5 and 1; a table that names rule, state, number and the first offenders."""
    command = CommandLine(config=write_config(tmp_path, ct.world.database.settings))
    document = await command.json("audit", "check")
    assert (document["status"], document["counts"]["certificates"], document["signatures"]) == ("ok", 6, 9)
    found = await _found(ct)
    owner = ct.world.owner
    for (statement, codes), exit_code, status in (
            (_LATE["OCSP after an hour"], 5, "late"), (_TAMPERING["no CRL"], 1, "broken")):
        await owner.execute(_filled(statement, found))
        document = await command.json("audit", "check", "--slice", "2", exit_code=exit_code)
        assert document["status"] == status
        assert codes <= {rule["code"] for rule in document["rules"] if rule["state"] != "ok"}
    table = (await command.run("audit", "check", exit_code=1, columns=140)).stdout
    assert re.search(r"^without_crl +broken +1 ", table, re.MULTILINE), table
    assert re.search(r"^serial_twice +ok +0 ", table, re.MULTILINE), table
    assert found["serial"].hex() in table
    assert re.search(r"^status +broken$", table, re.MULTILINE), table


async def test_signatures_are_those_of_the_audit_logs(world: World, tmp_path: Path) -> None:
    """Each signature that is stored was announced, each that was made is stored or will be; the chain itself holds."""
    async with transparent(world, personalities(4)) as ct:
        ca = ct.ca()
        ca.audit.file = AuditLog.open(tmp_path / "audit", "ca", now=world.now, random_bytes=os.urandom)
        for number in range(2):
            await world.ordered(f"n{number}.example.com")
        await ct.turn(ca, ct.publisher())
        await world.publisher(ca).publish_missing()
        await ca.audit.file.close()
        ca.audit.file = None
        command = CommandLine(config=write_config(tmp_path, world.database.settings))
        document = await command.json("audit", "check")
        assert (document["audit_logs"], document["signatures"], document["status"]) == (True, 4, "ok")
        await _copy(ct)
        for statement, exit_code, rows, said in (
                ("DELETE FROM precertificate_signatures", 1, 2, ""),
                ("DELETE FROM certificate_signatures", 5, 2, "rows are still to come"),
                ("DELETE FROM final_certificates; DELETE FROM certificate_signatures", 1, 2, "made and never intended"),
                ("UPDATE final_certificates SET tbs = tbs || '\\x00'", 1, 4, "stored and not announced")):
            await world.owner.execute(statement)
            await world.owner.execute("INSERT INTO issuance_requests (id, kind, requested_at) SELECT order_id, 'order',"
                                      " now() FROM finalizations")
            document = await command.json("audit", "check", exit_code=exit_code)
            rule = document["rules"][-1]
            assert rule["code"] == "signatures"
            assert rule["rows"] == rows
            assert said in " ".join([rule["text"], *rule["examples"]])
            await _restore(ct)
            await _copy(ct)
        await command.json("audit", "check")
        log = next((tmp_path / "audit" / "ca.0").glob("*.log"))
        log.write_bytes(log.read_bytes().replace(b"tbs_sha256", b"tbs_sha265", 1))
        assert "audit verify" in (await command.run("audit", "check", exit_code=1)).stderr
        await command.run("audit", "check", "--no-logs")


_TABLES = ("issuances", "certificates", "certificate_signatures", "precertificate_signatures", "final_certificates",
           "scts", "validations", "orders", "certificate_names", "ocsp_requests", "ocsp_shards", "refusals", "crls",
           "revocations", "issuance_requests")


async def _copy(ct: TransparentWorld) -> None:
    await ct.world.owner.execute("; ".join(f"CREATE TEMP TABLE kept_{table} AS TABLE {table}" for table in _TABLES))


async def _restore(ct: TransparentWorld) -> None:
    await ct.world.owner.execute("; ".join(
        f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}; DROP TABLE kept_{table}"
        for table in _TABLES))


def test_the_time_is_in_one_snapshot() -> None:
    """The rules are about different tables in slices of their own, each by its primary key."""
    assert {rule.table for rule in RULES} == {"certificates", "issuances", "finalizations", "certificate_signatures",
                                              "precertificate_signatures", "final_certificates",
                                              "certificate_names"}
    assert len({rule.code for rule in RULES}) == len(RULES)
    assert all("> $1" in rule.statement and "<= $2" in rule.statement for rule in RULES)
