"""Nonces by the hundred thousand: what is outstanding is stored nowhere, what is spent costs a bounded look-up (N9)."""

import json
from datetime import UTC, datetime

from acme_api.protocol.nonce import RANDOM_BYTES, make_nonce, parse_nonce, spent_key
from acme_api.wfe import store
from acme_api.wfe.store import READ_OPTIONS
from tests.acme_api.wfe.running import NONCE_KEY, OtherProcesses, RunningWfe, id_of
from tests.fixtures_postgres import TestDatabase

_SPENT = 300_000
_MOST_BLOCKS_MORE = 8


async def _blocks_touched(database: TestDatabase, account_id: bytes, number: int) -> int:
    """How many blocks the statement looks at that spends a nonce."""
    now = datetime.now(UTC)
    nonce = parse_nonce(make_nonce(now, number.to_bytes(RANDOM_BYTES, "big"), NONCE_KEY), NONCE_KEY, now)
    assert nonce is not None
    connection = await database.connect("acme_wfe")
    for name, value in READ_OPTIONS.items():
        await connection.execute(f"SET {name} = '{value}'")
    plans = json.loads(await connection.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {store._SPEND_BY_ID}", spent_key(nonce), now.timestamp(),
        account_id, None))
    await connection.close()
    return sum(int(plans[0]["Plan"][f"Shared {kind} Blocks"]) for kind in ("Hit", "Read"))


async def test_n9_the_cost_of_a_nonce_does_not_grow(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row N9: with three hundred thousand nonces spent today a request looks at a handful of blocks more than with
    none, and with a hundred thousand outstanding at not one more, because those are stored nowhere."""
    client = await wfe.subscriber()
    account_id = id_of(client.kid)
    await _blocks_touched(others.database, account_id, 0)
    at_first = await _blocks_touched(others.database, account_id, 1)
    now = datetime.now(UTC)
    outstanding = {make_nonce(now, number.to_bytes(RANDOM_BYTES, "big"), NONCE_KEY) for number in range(100_000)}
    assert len(outstanding) == 100_000
    assert await _blocks_touched(others.database, account_id, 2) <= at_first + 1
    owner = await others.database.connect()
    await owner.execute(
        "INSERT INTO spent_nonces SELECT ($1::bigint + n % 600) << 31 | (random() * 2147483647)::bigint"
        " FROM generate_series(1, $2) AS n ON CONFLICT DO NOTHING",
        int(now.timestamp()) - 600, _SPENT)
    await owner.close()
    assert await _blocks_touched(others.database, account_id, 3) <= at_first + _MOST_BLOCKS_MORE
    (await client.post(client.kid)).require(200)
