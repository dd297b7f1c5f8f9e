"""Rate limits on a real server and database (spec rows P5, SF7, E9, E68, AR10 and the page behind the help link)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from acme_api.protocol.rate_limit import LimitName
from ca.pki.object_id import to_text
from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.wfe.running import (
    BASE,
    Clock,
    OtherProcesses,
    RunningWfe,
    finalize,
    id_of,
    issued,
    ready_order,
)
from tests.acme_client import AcmeClient, Answer, make_csr

_Start = Callable[..., Awaitable[RunningWfe]]
_HOUR = RateSettings(burst=3, period_s=3_600)


def _refused(answer: Answer, limit: LimitName) -> int:
    """The Retry-After of a refusal, which has all that row P5 asks for."""
    answer.require(429, "rateLimited")
    assert answer.json["detail"].startswith(f"{limit.value}: ")
    assert answer.link("help") == [f"{BASE}/acme/limits"]
    seconds = int(answer.headers["Retry-After"])
    assert seconds >= 1
    return seconds


async def _passes_after(client: AcmeClient, again: Callable[[], Awaitable[Answer]], seconds: int, clock: Clock) -> None:
    """Row P5: the identical request passes after Retry-After, and not two seconds before."""
    clock.shift += timedelta(seconds=seconds - 2)
    client.nonces.clear()
    if seconds > 3:
        (await again()).require(429, "rateLimited")
    clock.shift += timedelta(seconds=3)
    (await again()).require(201)


async def test_p5_accounts_per_address(start: _Start, others: OtherProcesses, clock: Clock) -> None:
    """Rows P5, SF7: so many new accounts of one address; a known key is found all the same; nothing is written for one
    that is refused."""
    wfe = await start(limits=LimitsSettings(accounts_per_address=_HOUR))
    clients = [await wfe.subscriber() for _ in range(3)]
    refused = wfe.client()
    wait = _refused(await refused.register(), LimitName.ACCOUNTS_PER_ADDRESS)
    (await clients[0].register()).require(200)
    assert await others.count("accounts") == 3
    await _passes_after(refused, refused.register, wait, clock)


async def test_p5_accounts_per_range_and_race(start: _Start, others: OtherProcesses) -> None:
    """Rows P5, SF7: addresses of one IPv6 /48 share a limit, and fifty at once get exactly what there is, behind a
    proxy that names them."""
    wfe = await start(client_address="x-forwarded-for", trusted_proxies=["127.0.0.1"], limits=LimitsSettings(
        accounts_per_range=RateSettings(burst=5, period_s=3_600)))

    async def register(number: int) -> Answer:
        client = wfe.client()
        body = await client.signed("/acme/new-account", {"termsOfServiceAgreed": True}, jwk=client.key.jwk)
        headers = {"Content-Type": "application/jose+json", "X-Forwarded-For": f"2001:db8:1:{number:x}::1"}
        return await client.send("POST", "/acme/new-account", data=body, headers=headers)

    answers = await asyncio.gather(*(register(number) for number in range(50)))
    assert sorted(answer.status for answer in answers) == [201] * 5 + [429] * 45
    for answer in answers:
        if answer.status == 429:
            _refused(answer, LimitName.ACCOUNTS_PER_RANGE)
    assert await others.count("accounts") == 5


async def test_p5_orders_per_account(start: _Start, others: OtherProcesses, clock: Clock) -> None:
    """Rows P5, SF7, E68: a race for the last orders stores exactly as many as there are; another account has its own;
    a refused one stores nothing."""
    wfe = await start(limits=LimitsSettings(orders_per_account=RateSettings(burst=5, period_s=3_600)))
    client, other = await wfe.subscriber(), await wfe.subscriber()
    answers = await asyncio.gather(*(client.order(f"a{number}.example.com") for number in range(20)))
    assert sorted(answer.status for answer in answers) == [201] * 5 + [429] * 15
    assert await others.count("orders") == 5
    assert await others.count("authorizations") == 5
    (await other.order("a.example.com")).require(201)
    wait = _refused(await client.order("b.example.com"), LimitName.ORDERS_PER_ACCOUNT)
    assert wait <= 720
    await _passes_after(client, lambda: client.order("b.example.com"), wait, clock)


async def test_e68_pending_authorizations(start: _Start, others: OtherProcesses, clock: Clock) -> None:
    """Rows SF7, E68: authorizations that are pending count, and no others: one that is answered, deactivated or expired
    makes room again, however many were made before."""
    wfe = await start(limits=LimitsSettings(pending_authorizations_per_account=4), authorization_life_s=86_400)
    client = await wfe.subscriber()
    first = (await client.order("a.example.com", "b.example.com", "c.example.com")).require(201)
    wait = _refused(await client.order("d.example.com", "e.example.com"), LimitName.PENDING_PER_ACCOUNT)
    assert 86_000 < wait <= 86_400
    await others.validate(first.json["authorizations"][0])
    await others.validate(first.json["authorizations"][1], problem={"type": "urn:ietf:params:acme:error:dns"})
    (await client.order("d.example.com", "e.example.com")).require(201)
    _refused(await client.order("f.example.com", "g.example.com"), LimitName.PENDING_PER_ACCOUNT)
    (await client.post(first.json["authorizations"][2], {"status": "deactivated"})).require(200)
    (await client.order("f.example.com", "g.example.com")).require(201)
    wait = _refused(await client.order("h.example.com"), LimitName.PENDING_PER_ACCOUNT)
    clock.shift += timedelta(seconds=wait)
    client.nonces.clear()
    (await client.order("h.example.com")).require(201)


async def _certificate(client: AcmeClient, others: OtherProcesses, *names: str) -> None:
    await issued(client, others, *names)


async def test_p5_certificates_per_domain(start: _Start, others: OtherProcesses, clock: Clock) -> None:
    """Rows P5, SF7: certificates count by registered domain when they are finalized, whoever has them; the same names
    again are a renewal and pass; an order alone takes nothing."""
    wfe = await start(limits=LimitsSettings(certificates_per_domain=RateSettings(burst=2, period_s=604_800)))
    client, other = await wfe.subscriber(), await wfe.subscriber()
    for number in range(4):
        (await client.order(f"o{number}.example.com")).require(201)
    late = await ready_order(client, others, "late.example.com")
    await _certificate(client, others, "a.example.com")
    await _certificate(other, others, "b.example.com", "example.net")
    wait = _refused(await client.order("c.example.com"), LimitName.CERTIFICATES_PER_DOMAIN)
    assert 300_000 < wait <= 302_400
    (await client.order("c.example.net")).require(201)
    # An order from before the limit was reached stays ready.
    _refused(await finalize(client, late, make_csr("late.example.com")), LimitName.CERTIFICATES_PER_DOMAIN)
    assert (await client.post(late.location)).json["status"] == "ready"
    # The same names in another order, by another account.
    await _certificate(client, others, "example.net", "b.example.com")
    _refused(await client.order("b.example.com", "example.net", "d.example.com"), LimitName.CERTIFICATES_PER_DOMAIN)
    await _passes_after(client, lambda: client.order("c.example.com"), wait, clock)


async def test_p5_certificates_per_name_set_in_a_race(start: _Start, others: OtherProcesses) -> None:
    """Rows P5, SF7, FI10: of six ready orders for the same names, finalized at once and each twice, two are taken, and
    a second finalize of the same order takes nothing."""
    wfe = await start(limits=LimitsSettings(certificates_per_name_set=RateSettings(burst=2, period_s=604_800)),
                      finalize_wait_ms=0)
    client = await wfe.subscriber()
    orders = [await ready_order(client, others, "a.example.com") for _ in range(6)]
    answers = await asyncio.gather(*(finalize(client, order, make_csr("a.example.com"))
                                     for order in orders for _ in range(2)))
    assert [answer.status for answer in answers].count(200) == 2
    assert {answer.status for answer in answers} <= {200, 403, 429}
    assert await others.count("finalizations") == 2
    _refused(await client.order("a.example.com"), LimitName.CERTIFICATES_PER_NAME_SET)
    (await client.order("a.example.com", "b.example.com")).require(201)


async def _fail(client: AcmeClient, others: OtherProcesses, name: str, *, kind: str = "dns") -> None:
    order = (await client.order(name)).require(201)
    await others.validate(order.json["authorizations"][0], problem={"type": f"urn:ietf:params:acme:error:{kind}"})


async def test_sf7_failed_validations(start: _Start, others: OtherProcesses, clock: Clock) -> None:
    """Rows SF7, E68: what the VA found counts for the account and the name, wildcard or not, at newOrder and before a
    validation starts; a fault of ours does not, a success wipes them out."""
    wfe = await start(limits=LimitsSettings(failed_validations_per_name=_HOUR))
    client, other = await wfe.subscriber(), await wfe.subscriber()
    stored = (await client.order("a.example.com")).require(201)
    await _fail(client, others, "a.example.com", kind="serverInternal")
    for name in ("a.example.com", "*.a.example.com", "a.example.com"):
        await _fail(client, others, name)
    wait = _refused(await client.order("b.example.com", "a.example.com"), LimitName.FAILURES_PER_NAME)
    challenge = (await client.post(stored.json["authorizations"][0])).json["challenges"][0]["url"]
    _refused(await client.post(challenge, {}), LimitName.FAILURES_PER_NAME)
    assert await others.count("validation_requests") == 0
    (await client.order("b.example.com")).require(201)
    (await other.order("a.example.com")).require(201)
    await others.validate(stored.json["authorizations"][0])
    (await client.order("a.example.com")).require(201)
    for _ in range(3):
        await _fail(client, others, "c.example.com")
    assert wait > 3_500
    wait = _refused(await client.order("c.example.com"), LimitName.FAILURES_PER_NAME)
    await _passes_after(client, lambda: client.order("c.example.com"), wait, clock)


async def test_sf7_validations_in_store(start: _Start, others: OtherProcesses) -> None:
    """Row SF7: orders that were made in store cannot start more validations of a name at once than may fail."""
    wfe = await start(limits=LimitsSettings(failed_validations_per_name=_HOUR))
    client = await wfe.subscriber()
    orders = [(await client.order("a.example.com")).require(201) for _ in range(5)]
    urls = [(await client.post(order.json["authorizations"][0])).json["challenges"][0]["url"] for order in orders]
    assert [(await client.post(url, {})).status for url in urls] == [200, 200, 200, 429, 429]
    assert await others.count("validation_requests") == 3


async def test_a_hopeless_name_is_paused_and_comes_back(start: _Start, others: OtherProcesses, clock: Clock) -> None:
    """Row SF7: paused after five failures in a row; the problem says what to do; one try a day; a pardon."""
    wfe = await start(limits=LimitsSettings(pause_after_failures=5))
    client = await wfe.subscriber()
    for _ in range(5):
        await _fail(client, others, "a.example.com")
    answer = await client.order("a.example.com")
    wait = _refused(answer, LimitName.PAUSED_NAMES)
    assert 86_000 < wait <= 86_400
    for hint in ("a.example.com", to_text(id_of(client.kid)), "one attempt a day", "operator"):
        assert hint in answer.json["detail"]
    clock.shift += timedelta(seconds=wait + 1)
    client.nonces.clear()
    await _fail(client, others, "a.example.com")
    _refused(await client.order("a.example.com"), LimitName.PAUSED_NAMES)
    for names in (["b.example.com"], [""]):
        await others.run("ca_admin", (
            "INSERT INTO limit_unpauses SELECT $1, unnest($2::text[]), $3", id_of(client.kid), names, clock.now()))
        status = (await client.order("a.example.com")).status
        assert status == (429 if names[0] else 201)


@pytest.mark.parametrize(("limit", "subject"), [
    (LimitName.ORDERS_PER_ACCOUNT, "account"), (LimitName.ACCOUNTS_PER_ADDRESS, "127.0.0.0/8")])
async def test_overrides_hold_until_their_end(start: _Start, others: OtherProcesses, clock: Clock, limit: LimitName,
                                              subject: str) -> None:
    """An exception for an account or a network holds at once at every server, and no longer than it says."""
    wfe = await start(limits=LimitsSettings(orders_per_account=_HOUR, accounts_per_address=_HOUR))
    client = await wfe.subscriber()

    async def once() -> Answer:
        return await (client.order("a.example.com") if subject == "account" else wfe.client().register())

    statuses = [(await once()).status for _ in range(4)]
    assert statuses[-1] == 429
    await others.run("ca_admin", (
        "INSERT INTO limit_overrides VALUES ($1, $2, 0, 1, $3, 'a test', now())", limit.value,
        to_text(id_of(client.kid)) if subject == "account" else subject, clock.now() + timedelta(hours=9)),
        ("SELECT pg_notify('limits', '')",))
    for _ in range(600):
        if (await once()).status == 201:
            break
        await asyncio.sleep(0.05)
    for _ in range(5):
        (await once()).require(201)
    clock.shift += timedelta(hours=10)
    client.nonces.clear()
    assert [(await once()).status for _ in range(4)] == [201, 201, 201, 429]


async def test_e9_a_flood_of_nonces(start: _Start, others: OtherProcesses) -> None:
    """Row E9: 429 at the limit of an address, with memory that does not grow and nothing written; earlier nonces are
    good."""
    wfe = await start(limits=LimitsSettings(nonces_per_address=RateSettings(burst=50, period_s=3_600)))
    client = await wfe.subscriber()
    (await client.send("HEAD", "/acme/new-nonce")).require(200)
    before = await others.value("SELECT sum(n_tup_ins + n_tup_upd) FROM pg_stat_user_tables")
    answers = [await client.send("GET", "/acme/new-nonce") for _ in range(60)]
    assert {answer.status for answer in answers} == {204, 429}
    wait = _refused(answers[-1], LimitName.NONCES_PER_ADDRESS)
    assert wait <= 72
    assert await others.value("SELECT sum(n_tup_ins + n_tup_upd) FROM pg_stat_user_tables") == before
    (await client.post(client.kid)).require(200)


async def test_nothing_limited_costs_nothing(start: _Start, others: OtherProcesses) -> None:
    """With no limits in force no bucket is written."""
    off = RateSettings(burst=0, period_s=1)
    wfe = await start(limits=LimitsSettings(orders_per_account=off, accounts_per_address=off, accounts_per_range=off))
    client = await wfe.subscriber()
    await issued(client, others, "a.example.com")
    assert await others.count("rate_limits") == 0


async def test_public_limits_are_on(start: _Start, others: OtherProcesses) -> None:
    """Under the public policy every limit of row SF7 holds without a word in the configuration."""
    wfe = await start(policy="public")
    client = await wfe.subscriber()
    await issued(client, others, "a.example.com")
    names = set(LimitName) - {LimitName.PAUSED_NAMES}
    assert wfe.context.limits.policy.rates.keys() == names
    assert wfe.context.limits.policy.pause_after_failures > 0
    found = {"accounts-per-address", "orders-per-account", "pending-authorizations-per-account",
             "certificates-per-domain", "certificates-per-name-set"}
    assert set(await others.value("SELECT array_agg(limit_name) FROM rate_limits")) == found


async def test_the_page_behind_the_help_link(wfe: RunningWfe) -> None:
    """Row P5: the help link leads to a page of ours that lists the limits; it is no place for signed requests."""
    client = wfe.client()
    page = (await client.send("GET", "/acme/limits")).require(200)
    assert page.headers["Content-Type"].startswith("text/plain")
    assert b"orders-per-account: 500000 in" in page.body
    (await client.post("/acme/limits", jwk=client.key.jwk)).require(405, "malformed")


async def test_p8_limits_fail_closed(start: _Start, others: OtherProcesses) -> None:
    """Row P8: a limit that cannot be looked up is 500, never a pass."""
    wfe = await start(limits=LimitsSettings(orders_per_account=_HOUR))
    client = await wfe.subscriber()
    owner = await others.database.connect()
    await owner.execute("ALTER TABLE rate_limits RENAME TO rate_limits_away")
    answer: Any = await client.order("a.example.com")
    answer.require(500, "serverInternal")
    assert await others.count("orders") == 0
    await owner.execute("ALTER TABLE rate_limits_away RENAME TO rate_limits")
    await owner.close()
    (await client.order("a.example.com")).require(201)
