"""Mass revocations: batch by batch, beside single ones, going on where they stopped, halted by an operator."""

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.issuing import crls, revocation_store
from ca.issuing.__main__ import revocation_step
from ca.issuing.cycle import issue_batch
from ca.issuing.revoke import revoke_requested
from tests.ca.issuing.world import World, spki_sha256

_COPIES = """
INSERT INTO certificates (serial, request_id, account_id, issuer_id, profile, not_before, not_after, spki_sha256, tbs,
    created_at)
SELECT substr(serial, 1, 2) || substr(sha256(n::text::bytea), 1, 16), request_id, account_id, issuer_id, profile,
    not_before, not_after, sha256(n::text::bytea), tbs, created_at
FROM certificates, generate_series(1, $2) AS n WHERE serial = $1
"""


async def _certificates(world: World, copies: int) -> bytes:
    """One real certificate and made-up ones beside it; the real serial number."""
    order = await world.ordered("www.example.com")
    await issue_batch(world.process(), 8)
    serial = await world.serial(order.id)
    await world.owner.execute(_COPIES, serial, copies)
    return serial


async def _order(world: World, *, reason: int = 4, name: str = "test", where: str = "true") -> int:
    """An incident of the certificates, and the order to revoke them; how many."""
    await world.run("ca_admin", "INSERT INTO incidents VALUES ($1, now(), 'ada', '', '', '')", name)
    await world.run("ca_admin", f"INSERT INTO incident_serials SELECT $1, serial FROM certificates WHERE {where}", name)
    await world.run("ca_admin", "INSERT INTO mass_revocations (incident, reason, operator, comment, requested_at)"
                    " VALUES ($1, $2, 'ada', '', now())", name, reason)
    return int(await world.owner.fetchval("SELECT count(*) FROM incident_serials WHERE incident = $1", name))


async def _turn(world: World) -> int | None:
    ca = world.process()
    changed = await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log)
    return None if changed is None else len(changed)


async def _state(world: World, name: str = "test") -> dict[str, Any]:
    row = await world.owner.fetchrow("SELECT * FROM mass_revocations WHERE incident = $1", name)
    assert row is not None
    return dict(row)


async def _presign(world: World) -> None:
    await world.owner.execute("DELETE FROM ocsp_requests WHERE version > 0")


async def test_all_in_batches(world: World) -> None:
    """Each with the reason, OCSP asked for, the incident as evidence; what is revoked already stays as it was."""
    serial = await _certificates(world, 4500)
    await world.revocation_request(serial, 5)
    assert await _turn(world) == 1
    count = await _order(world)
    sizes = []
    while (size := await _turn(world)) is not None:
        sizes.append(size)
        await _presign(world)
    assert (count, len(sizes), sum(sizes)) == (4501, 3, 4500)
    assert await world.owner.fetchval("SELECT count(*) FROM revocations WHERE reason = 4 AND authority = 'operator'"
                                      " AND evidence = '{\"incident\": \"test\"}'") == 4500
    assert await world.owner.fetchval("SELECT reason FROM revocations WHERE serial = $1", serial) == 5
    state = await _state(world)
    assert (state["examined"], state["changed"]) == (4501, 4500)
    assert state["finished_at"] is not None


async def test_it_waits_for_the_pre_signer_but_not_for_ever(world: World) -> None:
    """With thousands of changed statuses to sign it pauses, so that a single revocation comes soon; and goes on."""
    serial = await _certificates(world, 7000)
    await _order(world)
    sizes = [await _turn(world) for _ in range(3)]
    assert sizes == [2000, 2000, None]
    assert await world.owner.fetchval("SELECT count(*) FROM ocsp_requests WHERE version > 0") == (
        revocation_store.MASS_BACKLOG)
    world.clock_s = revocation_store.MASS_PAUSE.total_seconds() + 1
    assert await _turn(world) == 2000
    assert await _turn(world) is None
    await world.owner.execute("DELETE FROM revocations WHERE serial = $1", serial)
    await world.revocation_request(serial, 1)
    assert await _turn(world) == 1, "a subscriber's request is not held up"
    await _presign(world)
    assert await _turn(world) in (1000, 1001)
    assert await world.owner.fetchval("SELECT count(*) FROM revocations") == 7001


async def test_halted_and_resumed(world: World) -> None:
    """It stops after a batch and goes on behind it, whatever process does so."""
    await _certificates(world, 3000)
    await _order(world)
    assert await _turn(world) == 2000
    await _presign(world)
    await world.run("ca_admin", "UPDATE mass_revocations SET halted = true")
    assert await _turn(world) is None
    await world.run("ca_admin", "UPDATE mass_revocations SET halted = false")
    assert await _turn(world) == 1001
    assert (await _state(world))["changed"] == 3001


async def test_a_crash_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is one transaction: what was not committed is done again, once."""
    await _certificates(world, 2500)
    await _order(world)

    async def fail(*_: object, **__: object) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr("ca.issuing.revocation_store.advance_mass", fail)
        with pytest.raises(ConnectionResetError):
            await _turn(world)
    assert await world.owner.fetchval("SELECT count(*) FROM revocations") == 0
    assert [await _turn(world), await _turn(world)] == [2000, 501]
    assert await world.owner.fetchval("SELECT count(*) FROM revocations") == 2501


async def test_expired_ones_are_passed_over(world: World) -> None:
    """They need no revocation; serial numbers without a certificate are no harm either."""
    serial = await _certificates(world, 10)
    await _order(world)
    await world.owner.execute("UPDATE certificates SET not_after = now() - interval '1 h' WHERE serial <> $1", serial)
    await world.owner.execute("INSERT INTO incident_serials VALUES ('test', '\\x7f')")
    assert await _turn(world) == 1
    state = await _state(world)
    assert (state["examined"], state["changed"]) == (12, 1)


async def test_one_behind_the_other(world: World) -> None:
    """Two orders about the same certificates: the first reason stands."""
    await _certificates(world, 5)
    await _order(world, name="one", reason=4)
    await _order(world, name="two", reason=9)
    assert [await _turn(world) for _ in range(3)] == [6, 0, None]
    assert await world.owner.fetchval("SELECT count(*) FROM revocations WHERE reason = 4") == 6


async def test_the_last_batch_costs_no_more_than_the_first(world: World) -> None:
    """Pages that a batch of a hundred among twenty thousand reads, with the plan that serves every batch: as few at the
    end of the list as at its beginning."""
    await _certificates(world, 20_000)
    await _order(world)
    await world.owner.execute("ANALYZE certificates; ANALYZE incident_serials")
    listed = [bytes(row["serial"]) for row in await world.owner.fetch("SELECT serial FROM incident_serials ORDER BY 1")]
    connection = await world.database.connect("ca_issuer")
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE next (text, bytea, bigint) AS {revocation_store.MASS_SERIALS}")
    await connection.execute(
        f"PREPARE living (bytea[], bytea, bytea, timestamptz) AS {revocation_store.LIVING}")

    async def pages(statement: str) -> int:
        plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {statement}"))
        return int(plan[0]["Plan"]["Shared Hit Blocks"]) + int(plan[0]["Plan"]["Shared Read Blocks"])

    async def batch(through: int) -> int:
        serials = listed[through + 1:through + 101]
        array = "ARRAY[" + ",".join(f"'\\x{serial.hex()}'" for serial in serials) + "]::bytea[]"
        first, last = serials[0].hex(), serials[-1].hex()
        return (await pages(f"next ('test', '\\x{listed[through].hex()}', 100)")
                + await pages(f"living ({array}, '\\x{first}', '\\x{last}', now())"))

    costs = [await batch(through) for through in (0, 10_000, 19_800)]
    await connection.close()
    assert max(costs) <= 2 * min(costs), costs
    assert max(costs) < 1000, costs


async def test_key_compromise_blocks_the_keys(world: World) -> None:
    """And takes the other certificates of these keys along."""
    key = ec.generate_private_key(ec.SECP256R1())
    serials = []
    for name in ("a.example.com", "b.example.com"):
        order = await world.ordered(name, leaf=key)
        await issue_batch(world.process(), 8)
        serials.append(await world.serial(order.id))
    await _order(world, reason=1, where=f"serial = '\\x{serials[0].hex()}'")
    while await _turn(world) is not None:
        pass
    revoked = await world.owner.fetch("SELECT serial, reason FROM revocations")
    assert {row["serial"]: row["reason"] for row in revoked} == dict.fromkeys(serials, 1)
    assert await world.owner.fetchval("SELECT spki_sha256 FROM blocked_keys") == spki_sha256(key)


async def test_crls_follow_at_a_bearable_pace(world: World) -> None:
    """While a pass over the shards takes long, the next one waits four times as long; half a second otherwise."""
    publisher = world.publisher(world.process())
    assert publisher.debounce_s == 0.5
    await publisher.publish_missing()
    await _certificates(world, 2000)
    await _order(world)
    ca = world.process()
    changed = await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log)
    publisher.mark(changed or [])
    await publisher.publish_due()
    assert await world.owner.fetchval("SELECT sum(entries) FROM crls") == 2000
    assert 0.5 <= publisher.debounce_s <= 300


async def test_crls_wait_for_the_end_of_a_mass_revocation(world: World) -> None:
    """While one goes on every shard changes again and again: CRLs are made when it ends, or is halted, not before; and
    once a minute all the same."""
    publisher, stop = world.publisher(world.process()), asyncio.Event()
    await _certificates(world, 2500)
    await _order(world)
    assert await revocation_store.mass_is_open(world.pool)
    publisher.more_to_come = True
    settled = asyncio.create_task(publisher.settle(stop))
    assert await _turn(world) == 2000
    assert await revocation_store.mass_is_open(world.pool)
    await asyncio.sleep(3 * publisher.debounce_s)
    assert not settled.done(), "there is more to come"
    await world.run("ca_admin", "UPDATE mass_revocations SET halted = true")
    assert not await revocation_store.mass_is_open(world.pool)
    await world.run("ca_admin", "UPDATE mass_revocations SET halted = false")
    await _presign(world)
    assert await _turn(world) == 501
    assert not await revocation_store.mass_is_open(world.pool)
    publisher.more_to_come = False
    async with asyncio.timeout(30):
        await settled


async def test_a_minute_is_the_longest_that_a_crl_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a mass revocation takes."""
    publisher, stop = world.publisher(world.process()), asyncio.Event()
    publisher.more_to_come = True
    monkeypatch.setattr(crls, "_MASS_DEBOUNCE_S", 0.2)
    async with asyncio.timeout(30):
        await publisher.settle(stop)
    monkeypatch.undo()
    assert crls._MASS_DEBOUNCE_S <= 900, "a changed shard has its CRL within fifteen minutes"
    stop.set()
    async with asyncio.timeout(30):
        await publisher.settle(stop)


async def test_it_goes_on_as_soon_as_there_is_room(world: World) -> None:
    """Nobody wakes the CA when the pre-signer has made room: while a mass revocation is open, it comes again at once,
    and not with the next poll; CRLs are told."""
    await _certificates(world, 5000)
    await _order(world)
    ca = world.process()
    publisher = world.publisher(ca)

    async def step() -> bool:
        return await revocation_step(ca.pool, ca.ambient, ca.audit, publisher, ca.log)

    assert [await step() for _ in range(3)] == [True, True, True]
    assert await world.owner.fetchval("SELECT count(*) FROM revocations") == 4000, "the third one had no room"
    seen = [publisher.more_to_come]
    await _presign(world)
    assert await step()
    assert [*seen, publisher.more_to_come] == [True, False]
    assert publisher.is_marked()
    assert not await step(), "all is done"
