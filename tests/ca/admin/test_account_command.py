"""`chancery account`: listed, shown, and ended only with --yes."""

import pytest

from ca.pki.object_id import to_text
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import DAY, Seed


async def test_list_newest_first(seed: Seed, command_line: CommandLine) -> None:
    """With a limit and by contact; whole ids at 80 columns."""
    accounts = [await seed.account(f"mailto:u{number}@example.com") for number in range(3)]
    document = await command_line.json("account", "list")
    assert [one["id"] for one in document["accounts"]] == [to_text(one) for one in reversed(accounts)]
    assert document["truncated"] is False
    limited = await command_line.json("account", "list", "--limit", "2")
    assert (len(limited["accounts"]), limited["truncated"]) == (2, True)
    one = await command_line.json("account", "list", "--contact", "U1@example")
    assert [found["contacts"] for found in one["accounts"]] == [["mailto:u1@example.com"]]
    text = (await command_line.run("account", "list")).stdout
    assert all(any(line.startswith(to_text(account)) for line in text.splitlines()) for account in accounts)
    assert max(map(len, text.splitlines())) <= 80


async def test_empty_list(command_line: CommandLine) -> None:
    """No account is no error."""
    assert (await command_line.json("account", "list"))["accounts"] == []


async def test_show_counts_what_it_did(seed: Seed, command_line: CommandLine) -> None:
    """Orders, certificates and key changes."""
    await seed.issuer()
    account = await seed.account("mailto:ada@example.com")
    order = await seed.order(account, ["a.example"], [])
    await seed.certificate(order, account, ["a.example"])
    await seed.run("acme_wfe", "INSERT INTO key_changes VALUES ($1, $2, 'old', 'new', '{}')", account, seed.now - DAY)
    url = f"https://localhost:14000/acme/account/{to_text(account)}"
    document = await command_line.json("account", "show", url)
    assert (document["orders"], document["certificates"], document["url"]) == (1, 1, url)
    assert document["latest_orders"] == [to_text(order)]
    assert len(document["key_changes"]) == 1
    assert document["state"] == "valid"
    text = (await command_line.run("account", "show", to_text(account))).stdout
    assert "mailto:ada@example.com" in text


async def test_states(seed: Seed, command_line: CommandLine) -> None:
    """Deactivated by the subscriber is not revoked by an operator."""
    account = await seed.account()
    await seed.run("acme_wfe", "UPDATE accounts SET deactivated_at = $2 WHERE id = $1", account, seed.now)
    assert (await command_line.json("account", "show", to_text(account)))["state"] == "deactivated"


async def test_revoke(seed: Seed, command_line: CommandLine) -> None:
    """Without --yes nothing happens and the exit code is 4; with it revoked_at is set, once."""
    account = await seed.account("mailto:ada@example.com")
    told = await command_line.run("account", "revoke", to_text(account), exit_code=4)
    assert "would revoke account" in told.stdout
    assert "mailto:ada@example.com" in told.stdout
    assert (await command_line.json("account", "show", to_text(account)))["revoked_at"] is None
    owner = await seed.database.connect()
    assert await owner.fetchval("SELECT count(*) FROM operator_acts") == 0
    assert (await command_line.json("account", "revoke", to_text(account), "--yes"))["revoked"] is True
    shown = await command_line.json("account", "show", to_text(account))
    assert shown["state"] == "revoked"
    assert shown["revoked_at"].endswith("Z")
    again = await command_line.run("account", "revoke", to_text(account), "--yes", exit_code=4)
    assert "is revoked since" in again.stderr
    assert await owner.fetchval("SELECT act FROM operator_acts") == "revoke account"
    await owner.close()


async def test_agree(seed: Seed, command_line: CommandLine) -> None:
    """P7: an operator records that the subscriber agreed to the present terms; the act is on record."""
    account = await seed.account()
    assert (await command_line.json("account", "show", to_text(account)))["terms_agreed_at"] is None
    said = await command_line.run("account", "agree", to_text(account), "--comment", "letter of today")
    assert "has agreed to the terms" in said.stdout
    assert (await command_line.json("account", "show", to_text(account)))["terms_agreed_at"].endswith("Z")
    owner = await seed.database.connect()
    acts = await owner.fetch("SELECT act, subject, detail FROM operator_acts")
    await owner.close()
    assert [(row["act"], row["subject"]) for row in acts] == [("agree to terms", to_text(account))]


@pytest.mark.parametrize("verb", ["show", "revoke", "agree"])
async def test_unknown_and_wrong_ids(seed: Seed, command_line: CommandLine, verb: str) -> None:
    """3 for an account that is not there, 2 for what is no id."""
    await command_line.run("account", verb, to_text(seed.new_id()), exit_code=3)
    await command_line.run("account", verb, "nonsense", exit_code=2)


async def test_x1_a_method_is_allowed_and_forbidden(seed: Seed, command_line: CommandLine) -> None:
    """X1: dns-persist-01 for one account, as often as one likes; shown; other methods need no permission."""
    account = to_text(await seed.account("mailto:ada@example.com"))
    assert (await command_line.json("account", "show", account))["dns_persist_allowed_at"] is None
    for _ in range(2):
        text = (await command_line.run("account", "allow", account, "dns-persist-01")).stdout
        assert text == f"account {account} may use dns-persist-01\n"
    since = (await command_line.json("account", "show", account))["dns_persist_allowed_at"]
    assert since is not None
    assert "dns-persist-01 since" in (await command_line.run("account", "show", account)).stdout
    assert (await command_line.json("account", "forbid", account, "dns-persist-01")) == {
        "id": account, "method": "dns-persist-01", "allowed": False}
    assert (await command_line.json("account", "show", account))["dns_persist_allowed_at"] is None
    await command_line.run("account", "allow", account, "http-01", exit_code=2)
    other = account[:-1] + ("A" if account[-1] != "A" else "Q")
    await command_line.run("account", "allow", other, "dns-persist-01", exit_code=3)
