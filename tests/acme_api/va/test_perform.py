"""Promises of the process's work, on a real database: one outcome a request, none lost, none that nobody waits for."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
import structlog

from acme_api.va.caa import CaaChecker
from acme_api.va.check import Checker
from acme_api.va.dial import Dialer
from acme_api.va.dns01 import Dns01
from acme_api.va.dns_persist01 import DnsPersist01
from acme_api.va.evidence import Evidence
from acme_api.va.http01 import Http01, Http01Ports
from acme_api.va.lanes import Lanes
from acme_api.va.look import Looker
from acme_api.va.methods import Methods, Question
from acme_api.va.perform import Performer
from acme_api.va.resolver import Resolver, servers_of
from acme_api.va.store import ClaimedRequest, Outcome, VaStore
from acme_api.va.tlsalpn01 import TlsAlpn01
from ca.admin.migrate import connect_superuser
from ca.pki.corroboration import Corroboration
from ca.pki.object_id import to_text
from ca.pki.packed import unpack_evidence
from ca.process.ambient import system_ambient
from ca.process.postgres import Listener, create_pool
from ca.process.settings import DatabaseSettings
from tests.acme_api.va.hostile import HostileServer, open_policy, serve, until
from tests.acme_api.va.queue_rows import EXPECTED, THUMBPRINT, Queue, thumbprint_of
from tests.fixtures_postgres import TestDatabase
from tests.mock_dns import MockDns

BASE_URL = "https://ca.example"
_PATIENCE_S = 60.0


@pytest.fixture
async def queue(database: TestDatabase) -> AsyncIterator[Queue]:
    """The queue of a fresh database."""
    opened = await Queue.open(database)
    yield opened
    await opened.close()


@dataclass(slots=True)
class Running:
    """A performer that works; `stopped` ends it as SIGTERM does."""

    task: asyncio.Task[None]
    stop: asyncio.Event
    store: VaStore
    lanes: Lanes

    async def stopped(self) -> None:
        """Stops it and waits until it has given back what is left."""
        self.stop.set()
        await asyncio.wait_for(self.task, _PATIENCE_S)


def checker_for(port: int, lanes: Lanes, resolver: str = "") -> Checker:
    asking = Resolver(servers=servers_of(resolver) if resolver else (), random_bytes=os.urandom, localhost_names=True)
    # Loopback stands for all the hosts of the world, of which each would have an address of its own.
    dialer = Dialer(resolver=asking, policy=open_policy(), max_per_address=20_000)
    methods = Methods(
        http_01=Http01(dialer=dialer, ports=Http01Ports(http=port), user_agent="x"), dns_01=Dns01(resolver=asking),
        tls_alpn_01=TlsAlpn01(dialer=dialer, port=port),
        dns_persist_01=DnsPersist01(resolver=asking, issuer_names=["ca.example"]),
        caa=CaaChecker(resolver=asking, identities=frozenset({"ca.example"})))
    looker = Looker(methods=methods, lanes=lanes, retry_delays_s=(0.2, 0.2))
    return Checker(looker=looker, ambient=system_ambient(), reuse=timedelta(days=30),
                   account_url=lambda account_id: f"{BASE_URL}/acme/account/{to_text(account_id)}")


@asynccontextmanager
async def performing(
    database: TestDatabase, port: int, *, concurrency: int = 50, name: str = "va-1", resolver: str = "",
    max_open: int | None = None, wrap: Callable[[Checker], Checker] = lambda checker: checker,
) -> AsyncIterator[Running]:
    """A performer under the role acme_va, woken by the notification."""
    lanes = Lanes(concurrency=concurrency, max_open=max_open)
    pool = await create_pool(database.settings, "acme_va", process="va")
    wake, stop = asyncio.Event(), asyncio.Event()
    store = VaStore(pool, leased_by=name)
    checker = wrap(checker_for(port, lanes, resolver))
    performer = Performer(store=store, checker=checker, lanes=lanes, log=structlog.get_logger())
    task = asyncio.create_task(performer.run(wake=wake, stop=stop))
    async with Listener(database.settings, "acme_va", "va", {"validation": lambda _payload: wake.set()}):
        try:
            yield Running(task, stop, store, lanes)
        finally:
            stop.set()
            await asyncio.wait_for(task, _PATIENCE_S)
            pool.terminate()


@asynccontextmanager
async def web_server(*, port: int = 0) -> AsyncIterator[HostileServer]:
    """Serves the key authorization; a Host that begins with "hang" gets silence, one with "wrong" something else."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"\r\nHost: hang" in head:
            await asyncio.sleep(600)
        body = "wrong" if b"\r\nHost: wrong" in head else EXPECTED
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()

    async with serve(handler, host="127.0.0.1", port=port) as server:
        yield server


async def test_a_valid_name_is_recorded_and_announced(queue: Queue) -> None:
    """The outcome holds what the VA saw, the request is gone, and `changed` carries the authorization's id."""
    changed: list[str] = []
    async with (web_server() as server, performing(queue.database, server.port),
                Listener(queue.database.settings, "acme_wfe", "wfe", {"changed": changed.append})):
        authorization_id = await queue.add("a.localhost")
        await queue.finished()
        await until(lambda: authorization_id.hex() in changed)
    row = await queue.validation(authorization_id)
    assert row is not None
    assert (row["account_id"], row["identifier_type"], row["identifier_value"], row["wildcard"]) == (
        queue.account_id, "dns", "a.localhost", False)
    assert (row["challenge_type"], row["thumbprint"], row["problem"]) == ("http-01", b"\x07" * 32, None)
    assert row["valid_until"] - row["validated_at"] == timedelta(days=30)
    assert row["caa_checked_at"] == row["validated_at"]
    assert unpack_evidence(row["evidence"])["facts"]


async def test_a_wrong_name_is_recorded_with_its_problem(queue: Queue) -> None:
    """CH7: an invalid challenge has type, detail and status, and no time until which it is valid."""
    async with web_server() as server, performing(queue.database, server.port):
        authorization_id = await queue.add("wrong.localhost")
        await queue.finished()
    row = await queue.validation(authorization_id)
    assert row is not None
    assert (row["valid_until"], row["caa_checked_at"]) == (None, None)
    assert row["problem"]["type"] == "urn:ietf:params:acme:error:incorrectResponse"
    assert row["problem"]["status"] == 400


async def test_dp2_a_persistent_record_is_about_the_key_that_the_account_was_opened_with(queue: Queue) -> None:
    """DP2, X1: whatever thumbprint the front end asks with and gives the account, the validation has the account's
    first one, which nobody can write: the CA follows signed key changes from there."""
    await queue.owner.execute("UPDATE accounts SET dns_persist_allowed_at = now()")
    await queue.wfe.execute("UPDATE accounts SET thumbprint = $1", THUMBPRINT)
    async with MockDns() as mock_dns, web_server() as server, performing(
            queue.database, server.port, resolver=mock_dns.address):
        url = f"{BASE_URL}/acme/account/{to_text(queue.account_id)}"
        mock_dns.set("_validation-persist.a.example", "TXT", f"ca.example; accounturi={url}")
        authorization_id = await queue.add("a.example", method="dns-persist-01")
        await queue.finished()
    row = await queue.validation(authorization_id)
    assert row is not None
    assert (row["problem"], row["challenge_type"]) == (None, "dns-persist-01")
    assert row["thumbprint"] == thumbprint_of(queue.account_id) != THUMBPRINT


async def test_ca9_a_caa_request_is_answered_beside_the_validation(queue: Queue) -> None:
    """CA9, MP1: a request of kind caa leaves a caa_checks row and the validation as it was, and tells the CA, which
    waits; how many perspectives saw it stands beside both."""

    async def four_of_five(_kind: str, _question: Question, _evidence: Evidence) -> Corroboration:
        return Corroboration(asked=5, corroborated=4, rirs=3)

    def corroborated(checker: Checker) -> Checker:
        checker._corroborate = four_of_five
        return checker

    async with web_server() as server, performing(queue.database, server.port, wrap=corroborated):
        looked: list[str] = []
        async with Listener(queue.database.settings, "ca_issuer", "ca", {"caa_checked": looked.append}):
            authorization_id, = await queue.add_many(["a.localhost"])
            await queue.finished()
            await queue.request(authorization_id, kind="caa")
            await queue.finished()
            await until(lambda: looked == ["", authorization_id.hex() + " "])
    row = await queue.owner.fetchrow("SELECT * FROM caa_checks")
    assert row is not None
    assert (row["authorization_id"], row["problem"]) == (authorization_id, None)
    assert row["evidence"]["facts"]
    validation = await queue.validation(authorization_id)
    assert validation is not None
    for each in (row, validation):
        assert (each["remotes_asked"], each["remotes_corroborated"], each["remote_rirs"]) == (5, 4, 3)


async def test_rfc_8657_the_method_is_the_one_that_was_validated(queue: Queue) -> None:
    """CA7: whatever method a request of kind caa names, the stored validation says which one was used."""
    authorization_id, = await queue.add_many(["a.localhost"])
    await queue.owner.execute("DELETE FROM validation_requests")
    await queue.validated(authorization_id, method="dns-01")
    await queue.request(authorization_id, kind="caa", method="http-01")
    pool = await create_pool(queue.database.settings, "acme_va", process="va")
    claimed, = await VaStore(pool, leased_by="me").claim(10)
    pool.terminate()
    assert claimed.challenge_type == "dns-01"


async def test_e79_deactivated_while_validating_leaves_no_validation(queue: Queue) -> None:
    """E79: the authorization is deactivated during the validation: the late result is dropped, the request gone."""
    release = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + EXPECTED.encode())
        await writer.drain()

    async with serve(handler) as server, performing(queue.database, server.port):
        authorization_id = await queue.add()
        await until(lambda: server.connections == 1)
        await queue.wfe.execute("UPDATE authorizations SET deactivated_at = now() WHERE id = $1", authorization_id)
        release.set()
        await queue.finished()
    assert await queue.validation(authorization_id) is None


async def test_requests_that_nobody_waits_for_are_dropped_unasked(queue: Queue) -> None:
    """E79, AC7: a deactivated or expired authorization and a closed account send no packet and leave no validation."""
    closed = b"\x02" * 22
    await queue.add_account(closed)
    await queue.owner.execute("UPDATE accounts SET revoked_at = now() WHERE id = $1", closed)
    deactivated = await queue.add()
    await queue.wfe.execute("UPDATE authorizations SET deactivated_at = now()")
    await queue.add(account_id=closed)
    await queue.add(expires_in_s=-1)
    await queue.add(kind="caa")
    validated, = await queue.add_many(["a.localhost"])
    await queue.validated(validated)
    async with web_server() as server, performing(queue.database, server.port):
        await queue.finished()
        assert server.connections == 0
    assert await queue.validation(deactivated) is None
    assert await queue.owner.fetchval("SELECT count(*) FROM validations") == 1


async def test_two_processes_share_the_queue_and_do_nothing_twice(queue: Queue) -> None:
    """FOR UPDATE SKIP LOCKED: every name is asked once, whichever process claims it."""
    async with web_server() as server:
        async with performing(queue.database, server.port), performing(queue.database, server.port, name="va-2"):
            ids = await queue.add_many([f"n{number}.localhost" for number in range(200)])
            await queue.finished()
        assert server.connections == 200
    assert await queue.owner.fetchval("SELECT count(*) FROM validations WHERE problem IS NULL") == len(ids)


async def test_a_lost_lease_drops_the_result(queue: Queue) -> None:
    """A process that stalled beyond its lease stores nothing: the row belongs to who claimed it since."""
    await queue.add()
    pool = await create_pool(queue.database.settings, "acme_va", process="va")
    slow, quick = VaStore(pool, leased_by="slow"), VaStore(pool, leased_by="quick")
    claimed, = await slow.claim(10)
    assert await quick.claim(10) == []
    await queue.owner.execute("UPDATE validation_requests SET leased_until = now() - interval '1 second'")
    again, = await quick.claim(10)
    assert (again.id, again.attempts) == (claimed.id, 2)
    outcome = Checker.give_up(checker_for(1, Lanes(concurrency=1)), claimed)
    assert await slow.complete([outcome]) == 0
    assert await queue.waiting() == 1
    assert await quick.complete([outcome]) == 1
    assert await queue.waiting() == 0
    pool.terminate()


async def test_a_claim_whose_answer_was_lost_is_given_back_at_once(queue: Queue) -> None:
    """Rows that are leased by us without our knowledge go back to the queue; those being worked on stay ours."""
    await queue.add_many(["a.localhost", "b.localhost"])
    pool = await create_pool(queue.database.settings, "acme_va", process="va")
    store, other = VaStore(pool, leased_by="me"), VaStore(pool, leased_by="other")
    known, _lost = await store.claim(2)
    await store.release_strays([known.id])
    assert known.id not in {again.id for again in await other.claim(5)}
    assert await queue.owner.fetchval("SELECT count(*) FROM validation_requests WHERE leased_by = 'other'") == 1
    pool.terminate()


async def test_leases_are_extended_by_who_holds_them(queue: Queue) -> None:
    """A lease is prolonged for its holder alone, so that long validations are not claimed by a second process."""
    await queue.add()
    pool = await create_pool(queue.database.settings, "acme_va", process="va")
    holder, other = VaStore(pool, leased_by="holder"), VaStore(pool, leased_by="other")
    claimed, = await holder.claim(1)
    await queue.owner.execute("UPDATE validation_requests SET leased_until = now() + interval '1 second'")
    await other.extend([claimed.id])
    left_sql = "SELECT extract(epoch FROM leased_until - now())::int FROM validation_requests"
    assert await queue.owner.fetchval(left_sql) <= 1
    await holder.extend([claimed.id])
    assert await queue.owner.fetchval(left_sql) > 50
    pool.terminate()


async def test_stopping_gives_back_what_is_not_done(queue: Queue) -> None:
    """SIGTERM: what hangs is claimable at once by another process, and the claim is not held against it. Nobody waits
    for its end: that would be an outcome, stored, and nothing left in the queue."""
    async with web_server() as server, performing(queue.database, server.port) as running:
        await queue.add("hang.localhost")
        await until(lambda: server.connections == 1)
        await running.stopped()
    assert await queue.owner.fetchval("SELECT count(*) FROM validations") == 0
    row = await queue.owner.fetchrow(
        "SELECT leased_by, leased_until <= now() AS free, attempts FROM validation_requests")
    assert row is not None
    assert (row["leased_by"], row["free"], row["attempts"]) == (None, True, 0)


class BrokenChecker(Checker):
    """A checker that breaks on every name but one."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker

    async def check(self, request: ClaimedRequest) -> Outcome:
        if request.identifier_value.startswith("poison"):
            raise RuntimeError("broken")
        return await self._checker.check(request)

    def give_up(self, request: ClaimedRequest) -> Outcome:
        return self._checker.give_up(request)


async def test_a_request_that_breaks_our_code_ends_and_harms_no_other(queue: Queue) -> None:
    """A fault of ours is retried some seconds later, others go on, and after five claims it ends as serverInternal."""
    async with web_server() as server, performing(queue.database, server.port, wrap=BrokenChecker):
        poison = await queue.add("poison.localhost")
        good = await queue.add("good.localhost")
        await queue.finished(lambda left: left == 1)
        await asyncio.sleep(0.2)
        assert await queue.validation(good) is not None
        row = await queue.owner.fetchrow("SELECT leased_by, leased_until > now() AS later FROM validation_requests")
        assert row is not None
        assert (row["leased_by"], row["later"]) == (None, True)
        await queue.owner.execute("UPDATE validation_requests SET attempts = 5, leased_until = '-infinity'")
        await queue.finished()
    ended = await queue.validation(poison)
    assert ended is not None
    assert ended["problem"]["type"] == "urn:ietf:params:acme:error:serverInternal"


async def test_a_restart_of_the_database_loses_no_outcome(queue: Queue, postgres_server: DatabaseSettings) -> None:
    """P8: connections cut while validations run: every outcome is stored when the database is back."""
    superuser = await connect_superuser(postgres_server)
    async with web_server() as server, performing(queue.database, server.port):
        ids = await queue.add_many([f"n{number}.localhost" for number in range(100)])
        for _ in range(5):
            await asyncio.sleep(0.02)
            await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                                    " WHERE usename = 'acme_va' AND datname = $1", queue.database.name)
        await queue.finished(timeout_s=90)
    await superuser.close()
    assert await queue.owner.fetchval("SELECT count(*) FROM validations WHERE problem IS NULL") == len(ids)


async def test_an_outcome_that_the_database_refuses_takes_no_other_with_it(queue: Queue) -> None:
    """One bad row in a group is left to be tried again; the rest of the group is stored."""
    async with web_server() as server, performing(queue.database, server.port):
        ids = await queue.add_many([f"n{number}.localhost" for number in range(20)])
        await queue.finished()
        month = await queue.owner.fetchval("SELECT inhrelid::regclass::text FROM pg_inherits JOIN validations v"
                                           " ON v.tableoid = inhrelid LIMIT 1")
        await queue.owner.execute(f"ALTER TABLE {month} ADD CHECK (identifier_value <> 'bad.localhost')")
        ids += await queue.add_many([f"m{number}.localhost" for number in range(10)] + ["bad.localhost"])
        await queue.finished(lambda left: left == 1)
        await until(lambda: server.connections >= 31)
        await asyncio.sleep(0.2)
    assert await queue.owner.fetchval("SELECT count(*) FROM validations") == 30


async def test_500_hanging_targets_do_not_delay_good_ones(queue: Queue) -> None:
    """SF6: with 200 places, good names end behind 500 names that accept and say nothing, while all of these still hang:
    to wait for their places would be to wait until some have failed."""
    async with web_server() as server, performing(queue.database, server.port, concurrency=200):
        hanging = await queue.add_many([f"hang{number}.localhost" for number in range(500)])
        await queue.add_many([f"good{number}.localhost" for number in range(50)])
        await queue.finished(lambda left: left == len(hanging))
        assert await queue.owner.fetchval("SELECT count(*) FROM validations") == 50
    assert await queue.owner.fetchval("SELECT count(*) FROM validations WHERE problem IS NULL") == 50


async def test_sf6_hanging_names_of_one_account_leave_room_for_others(queue: Queue) -> None:
    """SF6: one account fills its quarter and waits in the queue; another account is served before any of its names has
    come to its end, so not in a place that one of them has left."""
    other = b"\x03" * 22
    await queue.add_account(other)
    async with web_server() as server, performing(queue.database, server.port, concurrency=2, max_open=40) as running:
        await queue.add_many([f"hang{number}.localhost" for number in range(60)])
        await until(lambda: running.lanes.in_flight >= 10)
        good = await queue.add("good.localhost", account_id=other)
        async with asyncio.timeout(_PATIENCE_S):
            while await queue.validation(good) is None:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)
        assert await queue.owner.fetchval("SELECT identifier_value FROM validations ORDER BY validated_at LIMIT 1"
                                          ) == "good.localhost"
        assert running.lanes.in_flight <= 13
