"""A mis-issuance that a linter finds afterwards: found among good certificates, foretold, revoked, in its CRL alone."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ca.admin import relint
from ca.admin.lint_store import Wanted
from ca.issuing.cycle import issue_batch
from ca.issuing.revoke import revoke_requested
from ca.pki.serial import serial_from_int, shard
from tests.ca.admin.conftest import CommandLine, write_config
from tests.ca.issuing.world import EC_ISSUER, SHARDS, World

_SERVER_AUTH = bytes.fromhex("06082b06010505070301")
_CLIENT_AUTH = bytes.fromhex("06082b06010505070302")
_COPY = """
INSERT INTO certificates (serial, request_id, account_id, issuer_id, profile, not_before, not_after, spki_sha256, tbs,
    created_at, has_ocsp)
SELECT $2, substr(request_id, 1, 6) || substr($2::bytea, 3, 16), account_id, issuer_id, profile, not_before, not_after,
    spki_sha256, $3, created_at, has_ocsp
FROM certificates WHERE serial = $1
"""


@pytest.fixture
def command_line(world: World, tmp_path: Path) -> CommandLine:
    """The operators' commands on the world's database."""
    return CommandLine(config=write_config(tmp_path, world.database.settings))


async def _issued(world: World, count: int) -> list[bytes]:
    subscriber = await world.subscriber()
    orders = [await world.ordered(f"n{number}.example.com", subscriber=subscriber) for number in range(count)]
    while await issue_batch(world.process(), 16):
        pass
    return [await world.serial(order.id) for order in orders]


async def _mis_issued(world: World, serial: bytes, number: int, old: bytes, new: bytes) -> bytes:
    """A certificate like another but for one thing, which the issuer's key in the token has really signed; as a CA that
    did not lint would have left it. Its serial number."""
    tbs = bytes(await world.owner.fetchval("SELECT tbs FROM certificates WHERE serial = $1", serial))
    made = serial[:-1] + bytes((serial[-1] ^ number,))
    assert (tbs.count(serial), tbs.count(old), len(old)) == (1, 1, len(new))
    tbs = tbs.replace(serial, made).replace(old, new)
    ca = world.process()
    [signature] = await ca.signer.sign(world.authorities[EC_ISSUER], "certificate", [tbs])
    await world.owner.execute(_COPY, serial, made, tbs)
    await world.owner.execute("INSERT INTO certificate_signatures (serial, signed_at, signature)"
                              " VALUES ($1, now(), $2)", made, signature)
    return made


async def _lint(command_line: CommandLine, *options: str, exit_code: int = 0) -> Any:
    return await command_line.json("audit", "lint", *options, exit_code=exit_code)


async def test_found_and_revoked(world: World, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A.5, BR 4.9.1.1: good certificates pass by today's rules; one with clientAuth among them does not; the query of
    its finding foretells one row and revokes that one; OCSP is asked for, its shard lists it, the others do not."""
    monkeypatch.setattr(relint, "BATCH", 2)
    good = await _issued(world, 5)
    assert await _lint(command_line) == {"certificates": 5, "with_findings": 0, "findings": []}
    await command_line.run("revoke", "--query", "finding=*", "--reason", "superseded", exit_code=3)
    bad = await _mis_issued(world, good[2], 1, _SERVER_AUTH, _CLIENT_AUTH)

    found = await _lint(command_line, exit_code=5)
    assert (found["certificates"], found["with_findings"]) == (6, 1)
    codes = {each["code"] for each in found["findings"]}
    code = "chancery.extended_key_usage"
    assert code in codes
    listed = (await command_line.json("audit", "findings"))["findings"]
    assert {each["code"] for each in listed} == codes
    assert {(each["example"], each["certificates"], each["revoked"]) for each in listed} == {(bad.hex(), 1, 0)}
    assert (await command_line.run("audit", "findings")).stdout.count("newest") == len(codes)

    query = ("revoke", "--query", f"finding={code}", "--reason", "superseded", "--incident", "eku-2026")
    foretold = await command_line.run(*query, exit_code=4)
    assert "to revoke     1 rows" in foretold.stdout
    assert await world.owner.fetchval("SELECT count(*) FROM incidents") == 0, "without --yes nothing is done"
    await command_line.run(*query, "--yes", "--wait-s", "0", exit_code=5)

    ca = world.process()
    publisher = world.publisher(ca)
    await publisher.publish_missing()
    while (changed := await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log)) is not None:
        publisher.mark(changed)
    await publisher.publish_due()
    assert [bytes(row["serial"]) for row in await world.owner.fetch("SELECT serial FROM revocations")] == [bad]
    assert await world.owner.fetchval("SELECT version FROM ocsp_requests WHERE serial = $1", bad) == 1
    rows = await world.owner.fetch("SELECT DISTINCT ON (shard) shard, der FROM crls WHERE issuer_id = $1"
                                   " ORDER BY shard, number DESC", EC_ISSUER)
    lists = {row["shard"]: {serial_from_int(entry.serial_number) for entry in x509.load_der_x509_crl(row["der"])}
             for row in rows}
    assert lists == {number: {bad} if number == shard(bad, SHARDS) else set() for number in range(SHARDS)}
    assert {each["revoked"] for each in (await command_line.json("audit", "findings"))["findings"]} == {1}
    acts = {row["act"] for row in await world.owner.fetch("SELECT act FROM operator_acts")}
    assert {"lint certificates", "open incident", "revoke incident"} <= acts


async def test_what_is_found_is_what_the_last_look_found(world: World, command_line: CommandLine) -> None:
    """Another look replaces what was found before; what cannot be read is a finding; filters leave the others alone;
    what is not kept any more is forgotten; a finding's code stands for itself in a query."""
    good = await _issued(world, 2)
    bad = await _mis_issued(world, good[0], 1, _SERVER_AUTH, _CLIENT_AUTH)
    torn = await _mis_issued(world, good[1], 1, _SERVER_AUTH, _CLIENT_AUTH)
    await world.owner.execute("UPDATE certificates SET tbs = 'torn' WHERE serial = $1", torn)
    found = await _lint(command_line, "--jobs", "2", exit_code=5)
    assert (found["certificates"], found["with_findings"]) == (4, 2)
    assert {"code": "chancery.unreadable", "certificates": 1} in found["findings"]

    async def selected(query: str) -> int:
        result = await command_line.run("revoke", "--query", query, "--reason", "superseded", "-o", "json", exit_code=4)
        return int(result.stdout.partition('"to_revoke": ')[2].partition(",")[0])

    assert await selected("finding=*") == 2
    assert await selected("finding=chancery.unreadable") == 1
    assert await selected("finding=chancery.u* profile=tlsserver") == 1
    for query in ("finding=chancery.un_eadable", "finding=chancery_unreadable", "finding=%", "finding=chancery",
                  "finding=* profile=classic", "finding=* name=example.org"):
        await command_line.run("revoke", "--query", query, "--reason", "superseded", exit_code=3)

    assert (await _lint(command_line, "--profile", "classic"))["certificates"] == 0
    assert (await _lint(command_line, "--until", "2020-01-01"))["certificates"] == 0
    await command_line.run("audit", "lint", "--issuer", "nobody", exit_code=3)
    assert await world.owner.fetchval("SELECT count(DISTINCT serial) FROM lint_findings") == 2
    await world.owner.execute("UPDATE certificates SET tbs = (SELECT tbs FROM certificates WHERE serial = $1)"
                              " WHERE serial = $2", good[0], torn)
    await world.owner.execute("DELETE FROM certificates WHERE serial = $1", bad)
    await _lint(command_line)
    assert await world.owner.fetchval("SELECT count(*) FROM lint_findings") == 0
    await world.owner.execute("UPDATE certificates SET not_after = now() - interval '1 h' WHERE serial = $1", torn)
    assert (await _lint(command_line))["certificates"] == 2
    assert (await _lint(command_line, "--expired"))["certificates"] == 3


async def test_a_halted_look_keeps_what_it_found(world: World, command_line: CommandLine,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch by batch, never more than a few in memory, in the order of the serial numbers."""
    monkeypatch.setattr(relint, "BATCH", 1)
    good = sorted(await _issued(world, 4))
    for serial in good:
        await _mis_issued(world, serial, 1, _SERVER_AUTH, _CLIENT_AUTH)
    issuers = {EC_ISSUER: world.issuers[EC_ISSUER]}
    seen: list[int] = []

    def stop_after_four(done: relint.Relinted) -> None:
        seen.append(done.certificates)
        if done.certificates == 4:
            raise asyncio.CancelledError

    connection = world.connections["ca_admin"]
    with pytest.raises(asyncio.CancelledError):
        await relint.relint(connection, Wanted(not_after=world.now() - timedelta(days=1)), issuers, jobs=1,
                            ambient=world.process().ambient, public=False, progress=stop_after_four)
    assert seen == [1, 2, 3, 4]
    found = [bytes(row["serial"]) for row in await world.owner.fetch("SELECT DISTINCT serial FROM lint_findings")]
    assert len(found) == 2, "of four pairs the first two were looked at"
