"""`chancery eab`: a credential is shown once, listed without its key, and ended with --yes (rows AC14, NM9, L6)."""

import re

import pytest

from tests.acme_client import unb64
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed


async def _account_of(seed: Seed, kid: str) -> bytes:
    account_id = seed.new_id()
    await seed.run("acme_wfe", "INSERT INTO accounts (id, created_at, thumbprint, jwk, eab_kid, eab, eab_single_use)"
                   " SELECT $1, now(), $1, '{}', kid, '{}', single_use FROM eab_credentials WHERE kid = $2",
                   account_id, kid)
    return account_id


async def test_create_shows_the_key_once(seed: Seed, command_line: CommandLine) -> None:
    """Rows AC14, L6: kid and key in base64url without padding, 64 bytes, the lines to type, and never again."""
    text = (await command_line.run("eab", "create", "--comment", "for ada", "--name", "Example.com")).stdout
    kid = re.search(r"--eab-kid ([0-9a-f]{20}) ", text)
    key = re.search(r"--eab-hmac-key ([A-Za-z0-9_][A-Za-z0-9_-]{85})\n", text)
    assert kid is not None
    assert key is not None
    assert len(unb64(key[1])) == 64
    assert "example.com" in text
    assert max(map(len, text.splitlines())) <= 120
    listed = await command_line.run("eab", "list")
    assert kid[1] in listed.stdout
    assert key[1] not in listed.stdout
    connection = await seed.database.connect("acme_wfe")
    stored = await connection.fetchrow("SELECT * FROM eab_credentials")
    await connection.close()
    assert stored is not None
    assert (stored["kid"], stored["mac_key"]) == (kid[1], unb64(key[1]))
    assert (stored["single_use"], stored["allowed_names"], stored["comment"]) == (True, ["example.com"], "for ada")
    assert "@" in stored["created_by"]


async def test_create_says_when_bindings_are_not_asked_for(seed: Seed, command_line: CommandLine) -> None:
    """A credential that no server looks at is no mistake of the command, but is said."""
    assert "external_account_required" in (await command_line.run("eab", "create")).stderr
    document = await command_line.json("eab", "create", "--multi-use", "--expires-days", "3")
    assert (document["single_use"], document["required"]) == (False, False)
    assert document["expires_at"].endswith("Z")


async def test_list_and_states(seed: Seed, command_line: CommandLine) -> None:
    """usable, used, expired, revoked; only the first without --all."""
    made = {name: (await command_line.json("eab", "create", *arguments))["kid"] for name, arguments in (
        ("usable", ()), ("used", ()), ("expired", ("--expires-days", "1")), ("revoked", ()),
        ("shared", ("--multi-use",)))}
    await _account_of(seed, made["used"])
    for _ in range(2):
        await _account_of(seed, made["shared"])
    owner = await seed.database.connect()
    await owner.execute("UPDATE eab_credentials SET expires_at = now() WHERE expires_at IS NOT NULL")
    await owner.close()
    await command_line.run("eab", "revoke", made["revoked"], "--yes")
    everything = {one["kid"]: one for one in (await command_line.json("eab", "list", "--all"))["credentials"]}
    assert {name: everything[kid]["state"] for name, kid in made.items()} == {
        "usable": "usable", "used": "used", "expired": "expired", "revoked": "revoked", "shared": "usable"}
    assert everything[made["shared"]]["accounts"] == 2
    assert {one["kid"] for one in (await command_line.json("eab", "list"))["credentials"]} == {
        made["usable"], made["shared"]}
    limited = await command_line.json("eab", "list", "--all", "--limit", "2")
    assert (len(limited["credentials"]), limited["truncated"]) == (2, True)
    text = (await command_line.run("eab", "list", "--all")).stdout
    assert all(kid in text for kid in made.values())


async def test_revoke(seed: Seed, command_line: CommandLine) -> None:
    """4 without --yes and when it is done already; accounts stay, or go with it when that is said."""
    kid = (await command_line.json("eab", "create", "--multi-use"))["kid"]
    account = await _account_of(seed, kid)
    told = await command_line.run("eab", "revoke", kid, exit_code=4)
    assert "would revoke" in told.stdout
    assert (await command_line.json("eab", "revoke", kid, "--yes"))["open_accounts"] == 1
    assert "is revoked since" in (await command_line.run("eab", "revoke", kid, "--yes", exit_code=4)).stderr
    done = await command_line.json("eab", "revoke", kid, "--with-accounts", "--yes")
    assert (done["accounts_revoked"], done["open_accounts"]) == (True, 1)
    owner = await seed.database.connect()
    acts = [row["act"] for row in await owner.fetch(
        "SELECT act FROM operator_acts WHERE subject = $1 ORDER BY id", kid)]
    assert acts == ["create external account", "revoke external account", "revoke external account"]
    assert await owner.fetchval("SELECT revoked_at IS NOT NULL FROM accounts WHERE id = $1", account)
    await owner.close()


async def test_unknown(seed: Seed, command_line: CommandLine) -> None:
    """3 for a credential that is not there."""
    await command_line.run("eab", "revoke", "nobody", "--yes", exit_code=3)


@pytest.mark.parametrize("name", ["*.example.com", "a_b", "10.0.0.1/8", ""])
async def test_names_that_are_none(seed: Seed, command_line: CommandLine, name: str) -> None:
    """2, with what is wrong, before anything is stored."""
    assert "--name" in (await command_line.run("eab", "create", "--name", name, exit_code=2)).stderr
