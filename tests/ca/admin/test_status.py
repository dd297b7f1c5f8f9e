"""`chancery status`: what is degraded is seen, named and counted; what is well is not complained of."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from ca.admin.commands.status import status as status_command
from ca.admin.output import span
from ca.admin.records import CrlFreshness, Queue
from ca.admin.status import EXPECTED_PROCESSES, crl_state, is_stuck, look
from ca.process.postgres import connect
from ca.process.settings import OcspSettings
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import DAY, Seed, now_s

_ROLES = {"wfe": "acme_wfe", "va": "acme_va", "ca": "ca_issuer", "presign": "ocsp_signer", "ocsp": "ocsp_reader",
          "crl": "ca_reader", "admin": "ca_admin"}
_OCSP = OcspSettings(listen=[], store_dir=Path("/nowhere"))


async def _connect_everybody(seed: Seed) -> list[object]:
    return [await connect(seed.database.settings, role, process=name) for name, role in _ROLES.items()]


async def _make_healthy(seed: Seed) -> list[object]:
    await seed.issuer()
    for shard in range(2):
        await seed.crl(shard, 1)
    await seed.ocsp_shard(age=timedelta(hours=50))
    return await _connect_everybody(seed)


def test_every_expected_process_has_a_role() -> None:
    """The list of processes is the list of the design."""
    assert set(_ROLES) == set(EXPECTED_PROCESSES)
    assert status_command.name == "status"


async def test_healthy_is_ok(seed: Seed, command_line: CommandLine) -> None:
    """With every process, issuer and CRL in place the exit code is 0 and no reason is given."""
    connections = await _make_healthy(seed)
    document = await command_line.json("status")
    assert document["reasons"] == []
    assert document["status"] == "ok"
    assert {row["process"] for row in document["processes"]} == set(EXPECTED_PROCESSES)
    assert all(row["connected"] for row in document["processes"])
    assert document["issuers"][0]["name"] == seed.issuer_name
    assert document["crls"] == [{
        "issuer": seed.issuer_name, "shards": 2, "published": 2, "entries": 0,
        "oldest_this_update": seed.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "first_next_update": (seed.now + 9 * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")}]
    assert len(connections) == 7


async def test_fits_eighty_columns(seed: Seed, command_line: CommandLine) -> None:
    """No line is longer than the terminal, and nothing is cut off with an ellipsis."""
    connections = await _make_healthy(seed)
    result = await command_line.run("status")
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert "…" not in result.stdout
    assert "certificates signed in 24 h" in result.stdout
    assert result.stderr == ""
    assert len(connections) == 7


async def test_empty_installation_is_degraded(command_line: CommandLine) -> None:
    """Nothing runs and nothing was made: exit code 5, each reason with its code, in both forms."""
    document = await command_line.json("status", exit_code=5)
    codes = [reason["code"] for reason in document["reasons"]]
    assert codes.count("process_missing") == 7
    assert "issuer_none" in codes
    result = await command_line.run("status", exit_code=5)
    assert "degraded: no process wfe is connected to the database" in " ".join(result.stdout.split())


async def test_stuck_queue_is_degraded(seed: Seed) -> None:
    """An order that waits for the CA for two minutes is a reason; for half a minute it is not."""
    account = await seed.account()
    order = await seed.order(account, ["a.example"], [])
    await seed.finalization(order, queued=True)
    connection = await seed.database.connect("ca_admin")
    soon = await look(connection, now=seed.now + timedelta(seconds=30), ocsp=_OCSP)
    late = await look(connection, now=seed.now + timedelta(seconds=120), ocsp=_OCSP)
    await connection.close()
    assert "queue_stuck" not in {reason.code for reason in soon.reasons}
    assert "the oldest of 1 in the issuance queue has waited for 2 min" in {reason.text for reason in late.reasons}


async def test_certificates_are_counted(seed: Seed) -> None:
    """All that are stored, and those of the last 24 hours."""
    await seed.issuer()
    account = await seed.account()
    await seed.certificate(seed.new_id(), account, ["a.example"])
    await seed.certificate(seed.new_id(), account, ["b.example"], days_ago=2)
    await seed.certificate(seed.new_id(), account, ["c.example"], signed=False)
    connection = await seed.database.connect("ca_admin")
    found = (await look(connection, now=seed.now + timedelta(seconds=1), ocsp=_OCSP)).facts.certificates
    await connection.close()
    assert (found.stored, found.exact, found.last_24_h) == (2, True, 1)


async def test_old_ocsp_and_ending_issuer_and_partitions(seed: Seed) -> None:
    """A response of 73 hours, an issuer with 99 days and the end of the partitions are each a reason."""
    await seed.issuer(days=99)
    await seed.ocsp_shard(age=timedelta(hours=73))
    connection = await seed.database.connect("ca_admin")
    reasons = (await look(connection, now=seed.now, ocsp=_OCSP)).reasons
    codes = {reason.code for reason in reasons}
    assert {"ocsp_old", "issuer_ends", "crl_missing"} <= codes
    assert ("the oldest OCSP response was signed 73 h ago; 72 h is our limit and 96 h that of BR 4.9.9"
            in {reason.text for reason in reasons})
    soon = await look(connection, now=seed.now - timedelta(hours=2), ocsp=_OCSP)
    assert "ocsp_old" not in {reason.code for reason in soon.reasons}
    assert "partitions_end" not in codes
    later = await look(connection, now=seed.now + 7 * DAY, ocsp=_OCSP)
    await connection.close()
    assert "partitions_end" in {reason.code for reason in later.reasons}


@pytest.mark.parametrize(("published", "age", "life", "word"), [
    (4, timedelta(hours=6), 9 * DAY, "ok"), (3, timedelta(hours=6), 9 * DAY, "missing"),
    (4, timedelta(hours=25), 9 * DAY, "old"), (4, 10 * DAY, 9 * DAY, "expired"), (0, None, None, "missing")])
def test_crl_states(published: int, age: timedelta | None, life: timedelta | None, word: str) -> None:
    """The first word is the reason's code: every shard has to have a CRL, younger than a day, not expired."""
    now = now_s()
    crls = CrlFreshness(issuer_name="x", shards=4, published=published, entries=0,
                        oldest_this_update=None if age is None else now - age,
                        first_next_update=None if age is None or life is None else now - age + life)
    assert crl_state(crls, now).split()[0].rstrip(":") == word


def test_empty_queue_is_never_stuck() -> None:
    """Nothing waits, so nothing has waited for too long."""
    assert not is_stuck(Queue(name="ocsp", depth=0, oldest_at=None), now_s())


@pytest.mark.parametrize(("length", "text"), [
    (timedelta(seconds=0), "0 s"), (timedelta(seconds=119), "119 s"), (timedelta(seconds=120), "2 min"),
    (timedelta(hours=2), "2 h"), (timedelta(days=3), "3 d"), (timedelta(seconds=-300), "5 min")])
def test_spans_have_one_unit(length: timedelta, text: str) -> None:
    """One unit says enough."""
    assert span(length) == text


async def test_database_away_is_one_line(command_line: CommandLine) -> None:
    """A server that is not there ends the command within seconds, with one line and exit code 1."""
    text = command_line.config.read_text()
    line = next(line for line in text.splitlines() if line.startswith("url ="))
    command_line.config.write_text(text.replace(line, f"url = {json.dumps('postgresql://127.0.0.1:1/x')}"))
    result = await command_line.run("status", exit_code=1)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("chancery: the database cannot be reached")


async def test_old_database_is_told(seed: Seed, command_line: CommandLine) -> None:
    """A table that is missing means that the migrations have not run, and the line says so."""
    await seed.run("chancery_owner", "DROP TABLE ocsp_shards")
    result = await command_line.run("status", exit_code=1)
    assert "run `chancery db migrate`" in result.stderr
    assert result.stderr.count("\n") == 1
