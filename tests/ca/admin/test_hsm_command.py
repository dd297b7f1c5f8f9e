"""`chancery hsm`: the token works, holds the issuers' keys, and signs so fast; nothing is left in it."""

import pytest

from ca.admin.ceremony.store import record_ceremony
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed
from tests.fixtures_hsm import DemoCeremony


@pytest.fixture
async def with_token(seed: Seed, command_line: CommandLine, demo_ceremony: DemoCeremony) -> CommandLine:
    """The command line with the token of a ceremony."""
    connection = await seed.database.connect("ca_admin")
    await record_ceremony(connection, demo_ceremony.result)
    await connection.close()
    text = command_line.config.read_text()
    hsm = demo_ceremony.hsm
    begin, end = text.index("[hsm]"), text.index("[acme]")
    command_line.config.write_text(
        text[:begin] + f'[hsm]\nmodule = "{hsm.module}"\nconf = "{hsm.conf}"\ntoken_label = "{hsm.token_label}"\n'
        f'pin_file = "{hsm.pin_file}"\n' + text[end:])
    return command_line


async def test_probe(with_token: CommandLine) -> None:
    """The token, a verified signature, and the key of each issuer."""
    document = await with_token.json("hsm", "probe")
    assert document["issuers"] == {"Chancery Demo R1": True, "Chancery Demo E1": True}
    assert document["token"]["token_label"] == "chancery-online"
    text = (await with_token.run("hsm", "probe")).stdout
    assert "verified" in text


async def test_probe_misses_a_key(seed: Seed, with_token: CommandLine) -> None:
    """An issuer whose key is elsewhere: exit code 5."""
    await seed.issuer(number=9)
    found = await with_token.run("hsm", "probe", exit_code=5)
    assert seed.issuer_name in found.stderr


async def test_list(with_token: CommandLine) -> None:
    """Labels, kinds, and whose they are; the trial keys of before are gone."""
    await with_token.run("hsm", "probe")
    keys = (await with_token.json("hsm", "list"))["keys"]
    assert [(key["label"], key["kind"], key["issuer"], key["private"], key["public"]) for key in keys] == [
        ("Chancery Demo E1", "P-256", "Chancery Demo E1", True, True),
        ("Chancery Demo R1", "RSA 2048", "Chancery Demo R1", True, True)]
    assert "private and public" in (await with_token.run("hsm", "list", columns=120)).stdout


async def test_bench(with_token: CommandLine) -> None:
    """A rate for each kind of key."""
    rates = (await with_token.json("hsm", "bench", "--seconds", "1"))["signatures_per_s"]
    assert set(rates) == {"p-256", "p-384", "rsa-2048", "rsa-4096"}
    assert min(rates.values()) > 0


async def test_without_a_module(command_line: CommandLine, seed: Seed) -> None:
    """One line that says what to do."""
    await seed.issuer()
    assert "PKCS#11 module" in (await command_line.run("hsm", "probe", exit_code=1)).stderr
