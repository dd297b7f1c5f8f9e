"""What newOrder reads with its nonce (rows OR15, J10)."""

import re

from acme_api.wfe import store
from tests.acme_api.wfe.running import OtherProcesses, RunningWfe, ready_order
from tests.acme_client import JOSE_JSON, SigningKey
from tests.fixtures_postgres import TestDatabase

_ARGUMENTS = ("1", "1.0", "'\\x00'", "NULL", "'{dns}'", "'{a.example}'", "'{f}'", "'{0}'", "'{f}'", "'\\x00'", "now()",
              "now()", "'{example}'", "'classic'", "false", "0")


async def test_or15_authorizations_are_found_by_name(database: TestDatabase) -> None:
    """Row OR15: in every partition by the account and the name, not by going through all that an account has."""
    connection = await database.connect("acme_wfe")
    try:
        for setting in ("plan_cache_mode = force_generic_plan", "enable_seqscan = off", "enable_hashjoin = off",
                        "enable_mergejoin = off"):
            await connection.execute(f"SET {setting}")
        await connection.execute("PREPARE reading AS " + store._SPEND_AND_PROSPECTS)
        lines = [row[0] for row in await connection.fetch(
            f"EXPLAIN (COSTS OFF) EXECUTE reading({', '.join(_ARGUMENTS)})")]
    finally:
        await connection.close()
    plan = "\n".join(lines)
    found = re.findall(r"on authorizations_\d+_account_id_hashtext_idx\S*(?: on \S+ \S+)?\n\s+Index Cond: (.*)", plan)
    found += re.findall(r"using authorizations_\d+_account_id_hashtext_idx on \S+ \S+\n\s+Index Cond: (.*)", plan)
    assert found, plan
    assert all("account_id = signer.id" in condition and "hashtext(w.value)" in condition for condition in found), plan


async def test_j10_who_did_not_sign_learns_nothing_of_the_names(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows J10, N8, OR15: a new order that is signed by another key is refused for that, whatever its names and
    profile are, and its nonce is dead; the signature of the owner has the valid authorization used again."""
    client = await wfe.subscriber()
    order = await ready_order(client, others, "a.example.com")
    await others.run("ca_admin", ("INSERT INTO blocked_names VALUES ('blocked.example', true, now(), 'ada', '')",))
    stranger = SigningKey.make()
    for names in (["a.example.com"], ["blocked.example"], ["not a name"]):
        payload = {"identifiers": [{"type": "dns", "value": name} for name in names]}
        nonce = await client.nonce()
        own, client.key = client.key, stranger
        body = await client.signed("/acme/new-order", payload, nonce=nonce)
        client.key = own
        refused = await client.send("POST", "/acme/new-order", data=body, headers=JOSE_JSON)
        assert "signature" in refused.require(400, "malformed").json["detail"]
        (await client.post("/acme/new-order", payload, nonce=nonce)).require(400, "badNonce")
    assert await others.count("orders") == 1
    again = (await client.order("a.example.com")).require(201)
    assert again.json["authorizations"] == order.json["authorizations"]
