"""`chancery limit`: limits shown, exceptions with an end, the way back for what is paused."""

from datetime import UTC, datetime, timedelta

import pytest

from ca.admin.maintenance import maintain
from ca.pki.object_id import to_text
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import DAY, Seed

_FAR = "2199-01-01"


def _public(command_line: CommandLine) -> None:
    text = command_line.config.read_text().replace('policy = "internal"', 'policy = "public"').replace(
        "//localhost:", "//ca.example.com:")
    command_line.config.write_text(text + "[limits]\npause_after_failures = 3\n"
                                   "orders_per_account = { burst = 7, period_s = 700 }\n[ct]\nenabled = false\n")


async def test_list(seed: Seed, command_line: CommandLine) -> None:
    """Every limit with the rate of the file or of the policy, and every exception with its end."""
    internal = await command_line.json("limit", "list")
    assert internal["limits"]["certificates-per-domain"] is None
    _public(command_line)
    document = await command_line.json("limit", "list")
    assert document["limits"]["orders-per-account"] == {"burst": 7, "period_s": 700}
    assert document["limits"]["certificates-per-domain"] == {"burst": 50, "period_s": 604_800}
    assert len(document["limits"]) == 10
    await command_line.run("limit", "override", "certificates-per-domain", "example.com", "--burst", "900",
                           "--until", _FAR, "--reason", "a hoster")
    text = (await command_line.run("limit", "list", columns=120)).stdout
    assert "certificates-per-domain" in text
    assert "50 in 7 days" in text
    assert "a hoster" in text
    assert "900 in 7 days" in text


async def test_override(seed: Seed, command_line: CommandLine) -> None:
    """Set, changed and removed, each on record; the subject is as the limit counts; gone 90 days after its end."""
    account = to_text(await seed.account())
    url = f"https://localhost:14000/acme/account/{account}"
    made = await command_line.json("limit", "override", "orders-per-account", url, "--burst", "5", "--period", "60",
                                   "--until", "2199-01-01T10:00:00Z", "--reason", "x")
    assert made == {"limit": "orders-per-account", "subject": account, "burst": 5, "period_s": 60,
                    "until": "2199-01-01T10:00:00Z", "reason": "x"}
    for subject, key in (("192.0.2.7", "192.0.2.7/32"), ("2001:db8::/32", "2001:db8::/32")):
        made = await command_line.json("limit", "override", "accounts-per-address", subject, "--burst", "0",
                                       "--until", _FAR, "--reason", "x")
        assert (made["subject"], made["burst"]) == (key, None)
    overrides = (await command_line.json("limit", "list"))["overrides"]
    assert [each["subject"] for each in overrides] == ["192.0.2.7/32", "2001:db8::/32", account]
    await command_line.run("limit", "override", "orders-per-account", account, "--remove")
    await command_line.run("limit", "override", "orders-per-account", account, "--remove", exit_code=3)
    connection = await seed.database.connect("ca_admin")
    await connection.execute("UPDATE limit_overrides SET until = now() - interval '91 days' WHERE subject LIKE '192%'")
    await maintain(connection, now=seed.now)
    acts = await connection.fetchval("SELECT array_agg(act ORDER BY id) FROM operator_acts")
    await connection.close()
    assert acts == ["override limit"] * 3 + ["end limit override"]
    assert len((await command_line.json("limit", "list"))["overrides"]) == 1


@pytest.mark.parametrize(("arguments", "exit_code"), [
    (["orders-per-account", "nonsense", "--burst", "5", "--until", _FAR, "--reason", "x"], 2),
    (["orders-per-account", "A" * 30, "--burst", "5", "--until", _FAR, "--reason", "x"], 3),
    (["certificates-per-domain", "www.example.com", "--burst", "5", "--until", _FAR, "--reason", "x"], 2),
    (["accounts-per-range", "example.com", "--burst", "5", "--until", _FAR, "--reason", "x"], 2),
    (["certificates-per-domain", "example.com", "--burst", "5", "--until", "2020-01-01", "--reason", "x"], 2),
    (["certificates-per-domain", "example.com", "--burst", "5", "--until", _FAR], 2),
    (["certificates-per-domain", "example.com", "--until", _FAR, "--reason", "x"], 2),
    (["nope", "example.com"], 2),
], ids=["no id", "unknown account", "not registered", "no network", "past", "no reason", "no burst", "no limit"])
async def test_wrong_overrides(command_line: CommandLine, arguments: list[str], exit_code: int) -> None:
    """Each says what was expected, and nothing is stored."""
    await command_line.run("limit", "override", *arguments, exit_code=exit_code)
    assert (await command_line.json("limit", "list"))["overrides"] == []


async def test_show_and_unpause(seed: Seed, command_line: CommandLine) -> None:
    """What an account has used, which names fail and are paused; --yes forgives some or all."""
    _public(command_line)
    account = await seed.account()
    text = to_text(account)
    now = datetime.now(UTC)
    for name, failures in (("a.example", 4), ("b.example", 1), ("c.example", 0)):
        for _ in range(failures):
            authorization = await seed.authorization(account, name)
            await seed.validation(authorization, account, name, problem={"type": "x", "detail": "y"})
    await seed.run("acme_wfe", "INSERT INTO rate_limits VALUES ('orders-per-account', $1, $2)", text,
                   now + timedelta(seconds=250))
    document = await command_line.json("limit", "show", text)
    assert [(one["name"], one["failures"]) for one in document["failing"]] == [("a.example", 4), ("b.example", 1)]
    assert document["buckets"][0]["limit"] == "orders-per-account"
    assert document["buckets"][0]["used"] in (2, 3)
    shown = (await command_line.run("limit", "show", text, columns=140)).stdout
    assert "paused" in shown
    assert "failing" in shown
    told = await command_line.run("limit", "unpause", text, "a.example", exit_code=4)
    assert "would forget the failures of a.example" in told.stdout
    await command_line.run("limit", "unpause", text, "A.example", "--yes")
    assert [one["name"] for one in (await command_line.json("limit", "show", text))["failing"]] == ["b.example"]
    await command_line.run("limit", "unpause", text, "--all", "--yes")
    assert (await command_line.json("limit", "show", text))["failing"] == []
    await command_line.run("limit", "unpause", text, "--yes", exit_code=2)
    await command_line.run("limit", "unpause", to_text(seed.new_id()), "--all", exit_code=3)


async def test_show_a_domain_and_a_network(seed: Seed, command_line: CommandLine) -> None:
    """A name is shown by its registered domain, an address with the networks and exceptions that cover it; buckets
    that are full are pruned."""
    moment = datetime.now(UTC) + DAY
    for limit, subject, full_at in (
            ("certificates-per-domain", "example.com", moment), ("accounts-per-address", "2001:db8:0:1::/64", moment),
            ("accounts-per-range", "2001:db8::/48", moment), ("accounts-per-address", "192.0.2.7", moment - 3 * DAY)):
        await seed.run("acme_wfe", "INSERT INTO rate_limits VALUES ($1, $2, $3)", limit, subject, full_at)
    await command_line.run("limit", "override", "accounts-per-range", "2001:db8::/32", "--burst", "9", "--until", _FAR,
                           "--reason", "a university")
    domain = await command_line.json("limit", "show", "www.example.com")
    assert (domain["subject"], len(domain["buckets"])) == ("example.com", 1)
    network = await command_line.json("limit", "show", "2001:db8:0:1::7")
    assert [one["subject"] for one in network["buckets"]] == ["2001:db8:0:1::/64", "2001:db8::/48"]
    assert [one["reason"] for one in network["overrides"]] == ["a university"]
    assert len((await command_line.json("limit", "show", "192.0.2.7"))["buckets"]) == 1
    connection = await seed.database.connect("ca_admin")
    await maintain(connection, now=seed.now)
    await connection.close()
    assert (await command_line.json("limit", "show", "192.0.2.7"))["buckets"] == []
    assert "has used nothing" in (await command_line.run("limit", "show", "192.0.2.7")).stdout
