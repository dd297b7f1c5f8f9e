"""`chancery issuer` and `chancery profile`: the life of an issuer, kill switches, chains; each act on record."""

from datetime import timedelta

from ca.admin.ceremony.store import record_ceremony
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed
from tests.fixtures_hsm import DemoCeremony

_OLD, _NEW = "Test Issuer EC 1", "Test Issuer EC 2"


async def _acts(seed: Seed) -> list[str]:
    owner = await seed.database.connect()
    acts = [row["act"] for row in await owner.fetch("SELECT act FROM operator_acts ORDER BY id")]
    await owner.close()
    return acts


async def _states(command_line: CommandLine) -> dict[str, str]:
    return {one["name"]: one["state"] for one in (await command_line.json("issuer", "list"))["issuers"]}


async def test_roll_over(seed: Seed, command_line: CommandLine) -> None:
    """Staged until its CRLs are published, active beside the old one, which is retired and never comes back."""
    await seed.issuer()
    await seed.issuer(number=2, name=_NEW, active=False)
    assert await _states(command_line) == {_OLD: "active", _NEW: "staged"}
    refused = await command_line.run("issuer", "retire", _OLD, "--yes", exit_code=4)
    assert "only active issuer for EC keys" in refused.stderr
    await command_line.run("issuer", "stage", _OLD, "--yes", exit_code=4)
    assert "0 of 2 CRLs" in (await command_line.run("issuer", "activate", _NEW, "--yes", exit_code=4)).stderr
    await seed.crl(0, 1, issuer_id=2)
    await seed.crl(1, 1, issuer_id=2, age=timedelta(days=10))
    await command_line.run("issuer", "activate", _NEW, "--yes", exit_code=4)
    await seed.crl(1, 2, issuer_id=2)
    assert "would activate" in (await command_line.run("issuer", "activate", _NEW, exit_code=4)).stdout
    assert await _states(command_line) == {_OLD: "active", _NEW: "staged"}
    await command_line.run("issuer", "activate", _NEW, "--comment", "2026 keys", "--yes")
    await command_line.run("issuer", "activate", _NEW, "--yes", exit_code=4)
    assert await _states(command_line) == {_OLD: "active", _NEW: "active"}
    await command_line.run("issuer", "retire", _OLD, "--yes")
    for verb in ("retire", "activate", "stage"):
        await command_line.run("issuer", verb, _OLD, "--yes", exit_code=4)
    assert await _states(command_line) == {_OLD: "retired", _NEW: "active"}
    assert await _acts(seed) == ["activate issuer", "retire issuer"]
    text = (await command_line.run("issuer", "list")).stdout
    assert "retired" in text
    assert "2/2" in text


async def test_the_kill_switch_of_an_issuer(seed: Seed, command_line: CommandLine) -> None:
    """Also of the only one; on record; and back."""
    await seed.issuer()
    await command_line.run("issuer", "disable", _OLD, exit_code=4)
    await command_line.run("issuer", "enable", _OLD, "--yes", exit_code=4)
    document = await command_line.json("issuer", "disable", _OLD, "--yes", "--comment", "key in doubt")
    assert document["state"] == "disabled"
    await command_line.run("issuer", "disable", _OLD, "--yes", exit_code=4)
    assert (await command_line.json("issuer", "enable", _OLD, "--yes"))["state"] == "active"
    assert await _acts(seed) == ["disable issuer", "enable issuer"]
    await command_line.run("issuer", "disable", "None Such", "--yes", exit_code=3)


async def test_the_kill_switch_of_a_profile(seed: Seed, command_line: CommandLine) -> None:
    """Named ones alone; on record; shown by list."""
    await command_line.run("profile", "disable", "classic", exit_code=4)
    await command_line.run("profile", "disable", "nope", "--yes", exit_code=2)
    await command_line.run("profile", "disable", "classic", "--yes", "--comment", "lint finding")
    await command_line.run("profile", "disable", "classic", "--yes", exit_code=4)
    listed = {one["name"]: one["state"] for one in (await command_line.json("profile", "list"))["profiles"]}
    assert listed["classic"] == "disabled"
    assert listed["tlsserver"] == "active"
    assert "since" in (await command_line.run("profile", "list")).stdout
    await command_line.run("profile", "enable", "classic", exit_code=4)
    await command_line.run("profile", "enable", "classic", "--yes")
    await command_line.run("profile", "enable", "classic", "--yes", exit_code=4)
    assert await _acts(seed) == ["disable profile", "enable profile"]


async def test_chains(seed: Seed, command_line: CommandLine, demo_ceremony: DemoCeremony) -> None:
    """Through the cross-sign by default, the short one for a profile when an operator prefers it."""
    connection = await seed.database.connect("ca_admin")
    await record_ceremony(connection, demo_ceremony.result)
    await connection.close()
    name = "Chancery Demo E1"
    chains = (await command_line.json("issuer", "chains", name))["chains"]
    assert [chain["through"] for chain in chains] == [
        ["Chancery Demo E1 by Chancery Demo Root X2", "Chancery Demo Root X2 by Chancery Demo Root X1"],
        ["Chancery Demo E1 by Chancery Demo Root X2"]]
    await command_line.run("issuer", "prefer", name, "--profile", "shortlived", "--position", "1")
    chains = (await command_line.json("issuer", "chains", name))["chains"]
    assert [chain["first_for"] for chain in chains] == [["classic", "tlsserver"], ["shortlived"]]
    await command_line.run("issuer", "prefer", name, "--profile", "shortlived", "--position", "7", exit_code=3)
    await command_line.run("issuer", "prefer", name, "--profile", "shortlived", "--position", "0")
    text = (await command_line.run("issuer", "chains", name)).stdout
    assert "classic, tlsserver, shortlived" in " ".join(text.split())


async def test_a_second_issuer_of_a_kind_is_staged(seed: Seed, demo_ceremony: DemoCeremony) -> None:
    """A ceremony's record puts the first issuer for a kind of key to work, and no other."""
    await seed.issuer(number=1)
    connection = await seed.database.connect("ca_admin")
    await record_ceremony(connection, demo_ceremony.result)
    rows = await connection.fetch("SELECT key_type, active FROM issuers WHERE id > 1 ORDER BY id")
    assert [(row["key_type"], row["active"]) for row in rows] == [("rsa", True), ("ec", False)]
    await connection.close()
