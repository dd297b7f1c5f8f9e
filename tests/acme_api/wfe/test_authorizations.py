"""Authorizations and challenges at the server (rows AZ, CH, E79 to E81)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from acme_api.protocol.nonce import spent_key
from tests.acme_api.wfe.running import Clock, OtherProcesses, RunningWfe, id_of
from tests.acme_client import JOSE_JSON, AcmeClient, unb64
from tests.fixtures_postgres import TestDatabase

_Start = Callable[..., Awaitable[RunningWfe]]
_DNS = {"type": "urn:ietf:params:acme:error:dns", "detail": "NXDOMAIN", "status": 400}


async def _pending(client: AcmeClient, name: str = "a.example.com") -> tuple[str, dict[str, str]]:
    """The URL of a new authorization, and those of its challenges by type."""
    url = str((await client.order(name)).require(201).json["authorizations"][0])
    shown = (await client.post(url)).require(200)
    assert shown.json["status"] == "pending"
    assert {each["status"] for each in shown.json["challenges"]} == {"pending"}
    assert len({each["token"] for each in shown.json["challenges"]}) == len(shown.json["challenges"])
    assert "Retry-After" not in shown.headers
    return url, {each["type"]: each["url"] for each in shown.json["challenges"]}


async def test_ch3_ch8_answering_a_challenge(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows CH3, CH6, CH8, CH9, E80: 200 processing with up link and Location, without an error as long as it goes on;
    the VA is given the key's thumbprint."""
    client = await wfe.subscriber()
    authorization, challenges = await _pending(client)
    connection = await others.database.connect("acme_va")
    woken = asyncio.Event()
    await connection.add_listener("validation", lambda *_: woken.set())
    evil = {"status": "valid", "keyAuthorization": "x", "token": "y", "type": "dns-01"}
    answer = (await client.post(challenges["http-01"], evil)).require(200)
    assert (answer.json["status"], answer.json["type"], answer.json["url"]) == (
        "processing", "http-01", challenges["http-01"])
    assert answer.location == challenges["http-01"]
    assert answer.link("up") == [authorization]
    assert int(answer.headers["Retry-After"]) >= 1
    await asyncio.wait_for(woken.wait(), 5)
    row = await connection.fetchrow("SELECT * FROM validation_requests")
    await connection.close()
    assert row is not None
    assert (row["kind"], row["authorization_id"], row["challenge_type"], row["thumbprint"]) == (
        "challenge", id_of(authorization), "http-01", client.key.thumbprint)
    shown = (await client.post(authorization)).require(200)
    assert shown.json["status"] == "pending"
    assert int(shown.headers["Retry-After"]) >= 1
    assert [each["status"] for each in shown.json["challenges"]] == ["processing", "pending", "pending", "pending"]
    polled = (await client.post(challenges["http-01"])).require(200)
    assert polled.json["status"] == "processing"
    assert int(polled.headers["Retry-After"]) >= 1
    assert not any("error" in each for each in (polled.json, *shown.json["challenges"]))


async def test_a_look_waits_for_the_end(start: _Start, others: OtherProcesses) -> None:
    """Row CH8: a look while the VA works is answered when it has ended, or as pending with Retry-After when it takes
    longer; one before a challenge was answered is not held, and the answer to a challenge neither."""
    one, two = await start(validation_wait_ms=60_000), await start(validation_wait_ms=60_000)
    client = await one.subscriber()
    authorization, challenges = await _pending(client)
    assert (await client.post(authorization)).json["status"] == "pending"
    assert (await client.post(challenges["http-01"], {})).json["status"] == "processing"
    at_two = two.client(client.key, kid=client.kid)     # which does not know that it runs
    nonce = await client.nonce()
    at_two.nonces = [nonce]
    look = asyncio.create_task(at_two.post(authorization))
    spent = "SELECT EXISTS (SELECT FROM spent_nonces WHERE nonce = $1)"
    while not await others.value(spent, spent_key(unb64(nonce))):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    await others.validate(authorization)
    assert (await look).require(200).json["status"] == "valid"
    hasty = await start(validation_wait_ms=50)
    client = await hasty.subscriber()
    authorization, challenges = await _pending(client)
    (await client.post(challenges["http-01"], {})).require(200)
    answer = (await client.post(authorization)).require(200)
    assert answer.json["status"] == "pending"
    assert int(answer.headers["Retry-After"]) >= 1


async def test_an_end_right_after_the_reading_is_seen(start: _Start, others: OtherProcesses,
                                                      database: TestDatabase) -> None:
    """Row CH8: a validation that ends after a look has read the authorization and before it waits is answered at once.
    The look's one statement is held, its snapshot taken, by somebody who is spending the same nonce and then is not."""
    one, wfe = await start(), await start(validation_wait_ms=600_000)
    client = await one.subscriber()
    authorization, challenges = await _pending(client)
    (await client.post(challenges["http-01"], {})).require(200)
    client = wfe.client(client.key, kid=client.kid)
    client.nonces = [await client.nonce()]
    other = await database.connect()
    try:
        spending = other.transaction()
        await spending.start()
        await other.execute("INSERT INTO spent_nonces (nonce) VALUES ($1)",
                            spent_key(unb64(client.nonces[0])))
        look = asyncio.create_task(client.post(authorization))
        while not await others.value("SELECT EXISTS (SELECT FROM pg_stat_activity"  # noqa: ASYNC110 - nothing tells
                                     " WHERE datname = current_database() AND wait_event_type = 'Lock')"):
            await asyncio.sleep(0.01)
        with wfe.context.waiters.waiting_for(id_of(authorization)) as changed:
            await others.validate(authorization)
            await changed.wait()
        await spending.rollback()
        async with asyncio.timeout(60):
            assert (await look).require(200).json["status"] == "valid"
    finally:
        await other.close()


async def test_a_look_at_what_is_being_validated_reads_once(start: _Start, others: OtherProcesses) -> None:
    """Row CH8: the process that asked for a validation holds a look at it before it reads anything, and its nonce is
    spent (N8) by the time of the answer; a look that is no POST-as-GET, or has no nonce of ours, is answered at once; a
    wait in vain is not repeated."""
    wfe = await start(validation_wait_ms=60_000)
    client = await wfe.subscriber()
    authorization, challenges = await _pending(client)
    assert (await client.post(challenges["http-01"], {})).json["status"] == "processing"
    assert wfe.context.waiters.is_expected(id_of(authorization))
    (await client.post(authorization, nonce="A" * 43)).require(400, "badNonce")
    (await client.post(authorization, {"status": "valid"})).require(400, "malformed")
    nonce = await client.nonce()
    look = asyncio.create_task(client.post(authorization, nonce=nonce))
    for name in ("b.example.com", "c.example.com"):
        await _pending(client, name)                # others are answered meanwhile
    assert not look.done()
    assert not await others.value("SELECT EXISTS (SELECT FROM spent_nonces WHERE nonce = $1)", spent_key(unb64(nonce)))
    await others.validate(authorization)
    assert (await look).require(200).json["status"] == "valid"
    assert not wfe.context.waiters.is_expected(id_of(authorization))
    (await client.post(authorization, nonce=nonce)).require(400, "badNonce")
    assert (await client.post(authorization)).require(200).json["status"] == "valid"
    hasty = await start(validation_wait_ms=50)
    client = await hasty.subscriber()
    authorization, challenges = await _pending(client)
    (await client.post(challenges["http-01"], {})).require(200)
    assert (await client.post(authorization)).require(200).json["status"] == "pending"
    assert not hasty.context.waiters.is_expected(id_of(authorization))
    (await client.post(challenges["dns-01"], {})).require(400, "malformed")
    assert not hasty.context.waiters.is_expected(id_of(authorization))


async def test_az3_ch1_ch7_decided_authorizations(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows AZ1, AZ3, CH1, CH7: only the decided challenge is shown, with validated or error."""
    client = await wfe.subscriber()
    authorization, challenges = await _pending(client)
    (await client.post(challenges["dns-01"], {})).require(200)
    await others.validate(authorization, method="dns-01", life=timedelta(days=30))
    shown = (await client.post(authorization)).require(200).json
    assert [each["type"] for each in shown["challenges"]] == ["dns-01"]
    assert (shown["status"], shown["challenges"][0]["status"]) == ("valid", "valid")
    assert "validated" in shown["challenges"][0]
    assert (await client.post(challenges["dns-01"], {})).require(200).json["status"] == "valid"
    failed, challenges = await _pending(client, "b.example.com")
    (await client.post(challenges["http-01"], {})).require(200)
    await others.validate(failed, problem=_DNS)
    shown = (await client.post(failed)).require(200).json
    assert shown["status"] == "invalid"
    assert [(each["status"], each["error"]) for each in shown["challenges"]] == [("invalid", _DNS)]
    (await client.post(challenges["http-01"], {})).require(400, "malformed")
    assert (await client.post(challenges["http-01"])).require(200).json["error"] == _DNS


@pytest.mark.parametrize("payload", [b"[]", b'"x"', b"null", b"1"])
async def test_e80_other_answers(wfe: RunningWfe, others: OtherProcesses, payload: bytes) -> None:
    """Row E80: malformed, and no validation starts."""
    client = await wfe.subscriber()
    _, challenges = await _pending(client)
    (await client.post(challenges["http-01"], payload)).require(400, "malformed")
    assert await others.count("validation_requests") == 0


async def test_ch4_e81_a_hundred_parallel_answers(start: _Start, others: OtherProcesses) -> None:
    """Rows CH4, E81: one validation; the second challenge is malformed while the first is processing."""
    one, two = await start(), await start()
    client = await one.subscriber()
    _, challenges = await _pending(client)
    bodies = [await client.signed(challenges["http-01"], {}) for _ in range(100)]
    at_two = two.client()
    answers = await asyncio.gather(*[(client if number % 2 else at_two).send(
        "POST", challenges["http-01"], data=body, headers=JOSE_JSON) for number, body in enumerate(bodies)])
    assert {(answer.status, answer.json["status"]) for answer in answers} == {(200, "processing")}
    assert await others.count("validation_requests") == 1
    (await client.post(challenges["dns-01"], {})).require(400, "malformed")


async def test_e81_two_types_at_once(start: _Start, others: OtherProcesses) -> None:
    """Row E81: of two challenges answered at once one is processed, the other malformed."""
    one, two = await start(), await start()
    client = await one.subscriber()
    at_two = two.client(client.key, kid=client.kid)
    for number in range(5):
        _, challenges = await _pending(client, f"a{number}.example.com")
        answers = await asyncio.gather(client.post(challenges["http-01"], {}), at_two.post(challenges["dns-01"], {}))
        assert sorted(answer.status for answer in answers) == [200, 400]
    assert await others.count("validation_requests") == 5


async def test_az5_e79_deactivation(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows AZ5, E79: pending, processing and valid are deactivated, again is 200; a late result changes nothing."""
    client = await wfe.subscriber()
    for number, answered in enumerate((False, True)):
        url, challenges = await _pending(client, f"a{number}.example.com")
        if answered:
            (await client.post(challenges["http-01"], {})).require(200)
        for _ in range(2):
            assert (await client.post(url, {"status": "deactivated"})).require(200).json["status"] == "deactivated"
        await others.validate(url)
        assert (await client.post(url)).require(200).json["status"] == "deactivated"
        (await client.post(challenges["http-01"], {})).require(400, "malformed")
    url, _ = await _pending(client, "b.example.com")
    await others.validate(url, problem=_DNS)
    (await client.post(url, {"status": "deactivated"})).require(400, "malformed")


@pytest.mark.parametrize("payload", [{"status": "valid"}, {"status": "pending"}, {"status": "expired"}, {}, b"[]"])
async def test_e79_other_updates(wfe: RunningWfe, payload: Any) -> None:
    """Rows AZ5, E79: malformed, and the authorization stays pending."""
    client = await wfe.subscriber()
    url, _ = await _pending(client)
    (await client.post(url, payload)).require(400, "malformed")
    assert (await client.post(url)).json["status"] == "pending"


async def test_az4_expired_authorizations(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Rows AZ4, CH4, E81: 404 malformed "expired" for the authorization and its challenges."""
    client = await wfe.subscriber()
    url, challenges = await _pending(client)
    valid, _ = await _pending(client, "b.example.com")
    await others.validate(valid, life=timedelta(days=1))
    clock.shift = timedelta(days=7, seconds=1)
    client.nonces.clear()
    for path, payload in ((url, None), (challenges["http-01"], None), (challenges["http-01"], {}), (valid, None),
                          (url, {"status": "deactivated"})):
        answer = (await client.post(path, payload)).require(404, "malformed")
        assert "expired" in answer.json["detail"]


async def test_x1_dp1_dns_persist_is_offered_where_the_operator_lets_it(start: _Start, others: OtherProcesses) -> None:
    """Rows X1, DP1: by account or by profile, last, without a token and with the record that is looked for."""
    wfe = await start(just_in_time_ms=0, va_dns_persist_profiles=["tlsserver"],
                      va_caa_identities=["CA.example", "ca2.example"])
    client = await wfe.subscriber()

    async def offered(name: str, **members: Any) -> list[dict[str, Any]]:
        order = (await client.order(name, **members)).require(201)
        shown = (await client.post(order.json["authorizations"][0])).require(200)
        return list(shown.json["challenges"])

    assert "dns-persist-01" not in [each["type"] for each in await offered("a.example.com")]
    for name, count in (("b.example.com", 5), ("*.b.example.com", 3)):
        challenges = await offered(name, profile="tlsserver")
        assert len(challenges) == count
        assert "token" not in challenges[-1]
        assert list(challenges[-1]) == ["type", "url", "status", "accounturi", "issuer-domain-names"]
        assert challenges[-1]["accounturi"] == client.kid
        assert challenges[-1]["issuer-domain-names"] == ["ca.example", "ca2.example"]
        assert (await client.post(challenges[-1]["url"], {})).require(200).json["status"] == "processing"
    await others.run("ca_admin", ("UPDATE accounts SET dns_persist_allowed_at = now()",))
    assert (await offered("c.example.com"))[-1]["type"] == "dns-persist-01"


async def test_x1_a_persistent_validation_is_reused_where_the_operator_lets_it(
    start: _Start, others: OtherProcesses
) -> None:
    """Rows X1, OR15: an order in another profile does not find what a persistent record has validated."""
    wfe = await start(va_dns_persist_profiles=["tlsserver"])
    client = await wfe.subscriber()
    first = (await client.order("a.example.com", profile="tlsserver")).require(201)
    await others.validate(first.json["authorizations"][0], method="dns-persist-01")
    assert (await client.order("a.example.com", profile="tlsserver")).require(201).json["status"] == "ready"
    assert (await client.order("a.example.com")).require(201).json["status"] == "pending"
