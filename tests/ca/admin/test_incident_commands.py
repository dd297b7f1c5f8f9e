"""`chancery incident` and `chancery revoke`: nothing without --yes, with it what was foretold; watched, halted."""

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from ca.issuing.audit import AuditTrail
from ca.issuing.revoke import revoke_requested
from ca.pki.object_id import to_text
from ca.process.ambient import system_ambient
from ca.process.postgres import create_pool
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed, bytes_of


@pytest.fixture
async def authority(seed: Seed) -> AsyncIterator[Seed]:
    """The CA's part by its own code, and a pre-signer that has signed at once."""
    stop = asyncio.Event()
    log = structlog.wrap_logger(structlog.PrintLogger(io.StringIO()))

    async def carry_out() -> None:
        async with (await create_pool(seed.database.settings, "ca_issuer", process="ca") as pool,
                    await create_pool(seed.database.settings, "ocsp_signer", process="presign") as signer):
            while not stop.is_set():
                await revoke_requested(pool, system_ambient(), AuditTrail(log=log), log)
                await signer.execute("DELETE FROM ocsp_requests")
                await asyncio.sleep(0.02)

    task = asyncio.create_task(carry_out())
    yield seed
    stop.set()
    await task


async def _count(seed: Seed, table: str) -> int:
    owner = await seed.database.connect()
    count: int = await owner.fetchval(f"SELECT count(*) FROM {table}")
    await owner.close()
    return count


async def test_foretold_and_done(authority: Seed, command_line: CommandLine) -> None:
    """Without --yes no row is left behind; with it all are revoked when it returns; then it can only be watched."""
    seed = authority
    await seed.issuer()
    made = [await seed.certificate(seed.new_id(), None, [f"n{number}.example.com"]) for number in range(5)]
    await seed.certificate(seed.new_id(), None, ["www.example.org"])
    query = ("--query", "name=example.com", "--reason", "superseded", "--comment", "wrong CAA")
    told = await command_line.json("revoke", *query, "--incident", "caa-2026", exit_code=4)
    assert told["forecast"]["to_revoke"] == 5
    assert await _count(seed, "incidents") == await _count(seed, "incident_serials") == 0
    assert await _count(seed, "mass_revocations") == await _count(seed, "operator_acts") == 0
    text = (await command_line.run("revoke", *query, exit_code=4)).stdout
    assert "to revoke 5 rows" in " ".join(text.split())
    done = await command_line.json("revoke", *query, "--incident", "caa-2026", "--yes")
    assert (done["finished"], done["revoked"], done["ocsp_waiting"]) == (True, 5, 0)
    for certificate in made:
        shown = await command_line.json("cert", "show", bytes_of(certificate).hex())
        assert (shown["revocation"]["reason"], shown["revocation"]["evidence"]) == ("superseded",
                                                                                    {"incident": "caa-2026"})
    await command_line.run("revoke", *query, "--incident", "caa-2026", "--yes", exit_code=4)
    await command_line.run("revoke", "--incident", "caa-2026", "--reason", "superseded", "--yes", exit_code=4)
    assert (await command_line.json("revoke", "--incident", "caa-2026"))["revoked"] == 5
    shown = await command_line.json("incident", "show", "caa-2026")
    assert (shown["certificates"], shown["comment"], shown["revocation"]["revoked"]) == (5, "wrong CAA", 5)
    assert await _count(seed, "operator_acts WHERE recorded_at IS NULL") == 0


async def test_what_a_query_selects(seed: Seed, command_line: CommandLine) -> None:
    """Each field, and several at once; never what has expired."""
    await seed.issuer()
    await seed.issuer(number=2, name="Other Issuer")
    account, key = await seed.account(), ec.generate_private_key(ec.SECP256R1())
    first = await seed.certificate(seed.new_id(), account, ["a.example.com"], key=key)
    await seed.certificate(seed.new_id(), account, ["b.example.org"], days_ago=10)
    await seed.certificate(seed.new_id(), None, ["c.example.com"], key=key)
    await seed.certificate(seed.new_id(), None, ["expired.example.com"], days_ago=20, days=10)

    async def selected(query: str) -> int:
        code = 4
        found = await command_line.run("revoke", "--query", query, "--reason", "superseded", "-o", "json",
                                       exit_code=code)
        return int(found.stdout.partition('"to_revoke": ')[2].partition(",")[0])

    spki = (await command_line.json("cert", "show", bytes_of(first).hex()))["spki_sha256"]
    recent = f"{seed.now - timedelta(days=5):%Y-%m-%dT%H:%M:%SZ}"
    for query, count in ((f"account={to_text(account)}", 2), (f"key={spki}", 2), ("profile=classic", 3),
                         ("name=example.com", 2), ("name=a.example.com", 1), (f"since={recent}", 2),
                         (f"until={recent}", 1), (f"issuer='{seed.issuer_name}'", 3),
                         (f"account={to_text(account)} name=example.com", 1), (f"key={spki} since={recent}", 2)):
        assert await selected(query) == count, query
    for query in ("issuer='Other Issuer'", "profile=shortlived", f"account={to_text(account)} since=2100-01-01"):
        await command_line.run("revoke", "--query", query, "--reason", "superseded", exit_code=3)


async def test_an_incident_without_revocation(seed: Seed, command_line: CommandLine) -> None:
    """It tells subscribers to renew until it is closed; revoked later by its name, halted and resumed."""
    await seed.issuer()
    certificate = await seed.certificate(seed.new_id(), None, ["a.example.com"])
    await command_line.run("incident", "open", "bug-1", "--query", "name=a.example.com", exit_code=4)
    assert (await command_line.json("incident", "list"))["incidents"] == []
    await command_line.run("incident", "open", "bug-1", "--query", "name=a.example.com", "--url",
                           "https://ca.example/bug-1", "--yes")
    owner = await seed.database.connect()
    told = "SELECT i.explanation_url FROM incident_serials s JOIN incidents i ON name = incident WHERE serial = $1"
    assert await owner.fetchval(told, bytes_of(certificate)) == "https://ca.example/bug-1"
    await command_line.run("incident", "halt", "bug-1", exit_code=4)
    await command_line.run("revoke", "--incident", "bug-1", exit_code=2)
    await command_line.run("revoke", "--incident", "bug-1", "--reason", "superseded", exit_code=4)
    waiting = await command_line.run("revoke", "--incident", "bug-1", "--reason", "superseded", "--yes", "--wait-s",
                                     "0", exit_code=5)
    assert "goes on" in waiting.stderr
    await command_line.run("incident", "halt", "bug-1")
    assert "halted" in (await command_line.run("revoke", "--incident", "bug-1", exit_code=5)).stderr
    await command_line.run("incident", "resume", "bug-1")
    await command_line.run("incident", "resume", "bug-1", exit_code=4)
    await command_line.run("incident", "close", "bug-1", exit_code=4)
    await command_line.run("incident", "close", "bug-1", "--yes")
    await command_line.run("incident", "close", "bug-1", "--yes", exit_code=4)
    assert await owner.fetchval("SELECT closed_at IS NOT NULL FROM incidents")
    acts = [row["act"] for row in await owner.fetch("SELECT act FROM operator_acts ORDER BY id")]
    assert acts == ["open incident", "revoke incident", "halt mass revocation", "resume mass revocation",
                    "close incident"]
    await owner.close()
    text = (await command_line.run("incident", "list")).stdout
    assert "going on (superseded)" in " ".join(text.split())


async def test_what_is_refused(seed: Seed, command_line: CommandLine) -> None:
    """A bad name, no query, an incident that does not exist."""
    await command_line.run("incident", "open", "Bad Name", "--query", "name=a.example", "--yes", exit_code=2)
    await command_line.run("incident", "open", "x", "--yes", exit_code=2)
    await command_line.run("revoke", "--reason", "superseded", exit_code=2)
    await command_line.run("revoke", "--query", "name=a.example", exit_code=2)
    for command in (("incident", "show", "x"), ("incident", "close", "x"), ("incident", "halt", "x"),
                    ("revoke", "--incident", "x")):
        await command_line.run(*command, exit_code=3)
