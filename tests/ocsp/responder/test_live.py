"""Live mode at the responder: who is sent to the signer, what comes back, and what a flood, a limit, or a signer or
database that is away lead to. The queue is the real one; at its other end a software key signs, when the test lets it.
"""

import asyncio
import ipaddress
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import msgspec
import pytest
import structlog
from cryptography import x509
from cryptography.x509 import ocsp
from prometheus_client.parser import text_string_to_metric_families

from ca.process.ambient import system_ambient
from ca.process.postgres import connect
from ca.process.settings import OcspSettings
from ocsp.protocol.batch import HASHES
from ocsp.protocol.live import live_tbs
from ocsp.protocol.response import GOOD, MALFORMED_REQUEST, TRY_LATER, UNAUTHORIZED, ResponseTemplate, Times
from ocsp.responder import live as live_module
from ocsp.responder.live import LiveDesk, Refusal, client_key
from ocsp.responder.sockets import listen_by_asyncio, listen_by_epoll
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.processes import until
from tests.ocsp.protocol import reference
from tests.ocsp.responder.known import BODY, OWN, RECORD, REQUEST
from tests.ocsp.responder.serving import Reply, Serving, get, post, read_reply, request_for, serving
from tests.ocsp.signing import NOW_S, serial_of

_NONCE_OID = "2b0601050507300102"
_TIMES = Times(produced_at_s=NOW_S, this_update_s=NOW_S, next_update_s=NOW_S + 28_799)
_ANSWER = ("UPDATE ocsp_live_requests SET answered_at = now(), response = $2 WHERE id = $1 AND answered_at IS NULL"
           " RETURNING pg_notify('ocsp_live_answer', encode(id, 'hex'))")
_FREE = OcspSettings(listen=[], store_dir=Path(), live=True, live_per_s=10_000.0, live_burst=10_000,
                     live_client_per_s=10_000.0, live_client_burst=10_000, live_wait_ms=5_000)
TODAY = 256 + (datetime.fromtimestamp(NOW_S, UTC) - datetime(2020, 1, 1, tzinfo=UTC)).days


def with_nonce(*serials: bytes, octets: bytes | None = None, names: Sequence[str] = ()) -> bytes:
    """A request, with a nonce of these octets."""
    value = os.urandom(16) if octets is None else octets
    cids = [reference.certid(name, OWN.issuer.subject_der, OWN.issuer.key_bits, serial)
            for serial, name in zip(serials, names or ["sha1"] * len(serials), strict=True)]
    return reference.request(cids, extensions=[reference.extension(_NONCE_OID, reference.tlv(4, value))])


def nonce_in(body: bytes) -> bytes | None:
    """What a response repeats."""
    found = [one.value.nonce for one in ocsp.load_der_ocsp_response(body).extensions
             if isinstance(one.value, x509.OCSPNonce)]
    return found[0] if found else None


@dataclass(slots=True, kw_only=True)
class Signer:
    """Says that RECORD is good and everything else unknown, of what `may_sign` lets it; None: it is asked, and does not
    sign."""

    connection: "asyncpg.Connection[asyncpg.Record]"
    may_sign: bool = True
    refuses: bool = False
    signed: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        template = ResponseTemplate(OWN.issuer, HASHES[0]), ResponseTemplate(OWN.issuer, HASHES[1])
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self.may_sign:
                continue
            for row in await self.connection.fetch("SELECT * FROM ocsp_live_requests WHERE answered_at IS NULL"):
                data = live_tbs(template[0], [
                    (template[number].cert_id(serial), GOOD if serial == RECORD.serial else None)
                    for number, serial in zip(row["hashes"], row["serials"], strict=True)], _TIMES, row["nonce"])
                response = None if self.refuses else template[0].enclose(data, OWN.sign(data))
                self.signed += bool(await self.connection.fetch(_ANSWER, row["id"], response))


@dataclass(slots=True, kw_only=True)
class Live:
    """A responder in live mode, the signer behind it, and a look at the queue."""

    service: Serving
    desk: LiveDesk
    signer: Signer
    owner: "asyncpg.Connection[asyncpg.Record]"

    async def rows(self) -> int:
        """Places that are taken."""
        return int(await self.owner.fetchval("SELECT count(*) FROM ocsp_live_requests"))

    async def until_rows(self, count: int) -> None:
        """Until so many are taken."""
        async with asyncio.timeout(30):
            while await self.rows() != count:  # noqa: ASYNC110 - a row of a database is waited for
                await asyncio.sleep(0.01)

    async def one(self, request: bytes) -> Reply:
        """The reply to one raw request."""
        reply, = await self.service.ask(request)
        return reply

    def refused(self) -> dict[str, int]:
        """What was counted, by reason."""
        return {reason.value: count for reason, count in self.desk.metrics.refused.items() if count}




@asynccontextmanager
async def running_live(
    directory: Path, database: TestDatabase, settings: OcspSettings = _FREE, *, by_asyncio: bool = False
) -> AsyncIterator[Live]:
    """Both ends, connected."""
    desk = LiveDesk(settings, ambient=system_ambient(), log=structlog.get_logger())
    stop = asyncio.Event()
    signer = Signer(connection=await database.connect("ocsp_signer"))
    await signer.connection.add_listener("ocsp_live", lambda *_: signer.wake())
    owner = await database.connect()
    async with serving(directory, OWN, listen=listen_by_asyncio if by_asyncio else listen_by_epoll,
                       live=desk) as service:
        service.store([RECORD])
        tasks = [asyncio.create_task(desk.run(database.settings, stop)), asyncio.create_task(signer.run())]
        await until(lambda: desk._pool is not None)
        try:
            yield Live(service=service, desk=desk, signer=signer, owner=owner)
        finally:
            stop.set()
            await tasks[0]
            tasks[1].cancel()
    await signer.connection.close()
    await owner.close()


@pytest.mark.parametrize("by_asyncio", [False, True], ids=["epoll", "asyncio"])
async def test_every_nonce_comes_back_and_no_cache_keeps_it(
    tmp_path: Path, database: TestDatabase, by_asyncio: bool
) -> None:
    """1, 16, 32 and 128 octets, by GET and POST, 1.0 and 1.1; without octets, or with 129, malformed. What is pipelined
    behind it is answered behind it, others meanwhile (RFC 9654, spec 5.2, 5.9)."""
    async with running_live(tmp_path, database, by_asyncio=by_asyncio) as live:
        for length in (1, 16, 32, 128):
            octets = os.urandom(length)
            for asked in (get(with_nonce(RECORD.serial, octets=octets), escaped=True),
                          post(with_nonce(RECORD.serial, octets=octets)),
                          post(with_nonce(RECORD.serial, octets=octets), version="1.0")):
                reply = await live.one(asked)
                assert (reply.status, nonce_in(reply.body)) == (200, octets)
                assert reply.headers["Cache-Control"] == "no-store"
                assert reply.headers["Content-Type"] == "application/ocsp-response"
                assert not {"Last-Modified", "Expires", "ETag"} & set(reply.headers)
                assert ocsp.load_der_ocsp_response(reply.body).certificate_status is ocsp.OCSPCertStatus.GOOD
        for length in (0, 129):
            for make in (get, post):
                reply = await live.one(make(with_nonce(RECORD.serial, octets=bytes(length))))
                assert (reply.status, reply.body) == (400, MALFORMED_REQUEST)
        assert live.desk.metrics.signed == 12
        one, two = os.urandom(16), os.urandom(16)
        replies = await live.service.ask(
            get(REQUEST), post(with_nonce(RECORD.serial, octets=one)), get(REQUEST), post(REQUEST),
            get(with_nonce(RECORD.serial, octets=two)), get(REQUEST), pieces=3)
        assert [reply.body == BODY for reply in replies] == [True, False, True, True, False, True]
        assert [nonce_in(replies[index].body) for index in (1, 4)] == [one, two]
        assert await live.rows() == 0


async def test_what_is_presigned_is_never_signed_live(tmp_path: Path, database: TestDatabase) -> None:
    """Without a nonce no question is asked about what is known, in any form; nor for HEAD, another CA, or a hash that
    is not answered; nor about more than ten certificates, or those of no certificate."""
    other = reference.certid("sha1", b"0\0", OWN.issuer.key_bits, RECORD.serial)
    sha384 = reference.certid("sha384", OWN.issuer.subject_der, OWN.issuer.key_bits, RECORD.serial,
                              alg=bytes.fromhex("300d06096086480165030402020500"))
    extension = reference.extension(_NONCE_OID, reference.tlv(4, bytes(16)))
    async with running_live(tmp_path, database) as live:
        for asked in (get(REQUEST), post(REQUEST), get(REQUEST, escaped=True), post(REQUEST, version="1.0"),
                      get(request_for(OWN, RECORD.serial, "sha256")),
                      post(REQUEST, "If-None-Match: *"), get(with_nonce(RECORD.serial), method="HEAD")):
            assert (await live.service.ask(asked))[0].status == 200
        for body in (reference.request([other], extensions=[extension]),
                     reference.request([sha384], extensions=[extension]), reference.request([other]),
                     with_nonce(*[RECORD.serial] * 10, serial_of(2)), with_nonce(b"\x80"), with_nonce(b"\0\1")):
            assert (await live.one(post(body))).body == UNAUTHORIZED
        assert (await live.one(post(with_nonce(*[RECORD.serial] * 11)))).body == BODY
        assert live.desk.metrics.requests == 0
        assert live.signer.signed == 0


async def test_unknown_is_told_of_what_was_never_given_out(tmp_path: Path, database: TestDatabase) -> None:
    """With and without a nonce, by GET and POST, never to be cached; for a serial number of today after the wait for
    its response. Several certificates are answered together (5.2)."""
    async with running_live(tmp_path, database) as live:
        for serial in (serial_of(4), serial_of(4, day=TODAY), b"\x11", b"\x7f" * 20):
            for asked in (get(request_for(OWN, serial)), post(request_for(OWN, serial)), post(with_nonce(serial))):
                reply = await live.one(asked)
                read = ocsp.load_der_ocsp_response(reply.body)
                assert read.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
                assert read.serial_number == int.from_bytes(serial, "big")
                assert reply.headers["Cache-Control"] == "no-store"
        assert not live.service.server._waiting
        reply = await live.one(post(with_nonce(RECORD.serial, serial_of(5), names=["sha256", "sha1"])))
        assert [one.certificate_status for one in ocsp.load_der_ocsp_response(reply.body).responses] == [
            ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.UNKNOWN]
        live.signer.refuses = True
        assert (await live.one(get(request_for(OWN, serial_of(4))))).body == UNAUTHORIZED
        assert (await live.one(post(with_nonce(RECORD.serial)))).body == BODY
        assert live.refused() == {"not_signed": 2}


async def test_a_flood_is_told_to_try_later_and_slows_nobody_else(tmp_path: Path, database: TestDatabase) -> None:
    """Twenty wait, however many ask (5.9): the next ones get tryLater at once, with Retry-After, and the table does not
    grow; pre-signed answers go on as they do. When the signer goes on, those who waited are answered, and others."""
    async with running_live(tmp_path, database, msgspec.structs.replace(_FREE, live_wait_ms=5_000)) as live:
        await live.one(post(with_nonce(RECORD.serial)))
        live.signer.may_sign = False
        clients = [await live.service.connect() for _ in range(60)]
        for _, writer in clients:
            writer.write(post(with_nonce(RECORD.serial)))
        replies = [asyncio.create_task(read_reply(reader)) for reader, _ in clients]
        await until(lambda: sum(task.done() for task in replies) == 40)
        for task in replies:
            if task.done():
                assert (task.result().status, task.result().body) == (503, TRY_LATER)
                assert int(task.result().headers["Retry-After"]) > 0
        for _ in range(200):
            reply = await live.one(get(REQUEST))
            assert reply.body == BODY
        assert sum(task.done() for task in replies) == 40
        assert await live.rows() <= 20
        live.signer.may_sign = True
        live.signer.wake()
        statuses = [reply.status for reply in await asyncio.gather(*replies)]
        assert (statuses.count(200), statuses.count(503)) == (20, 40)
        assert await live.rows() == 0
        assert live.refused() == {"queue": 40}
        assert await live.owner.fetchval("SELECT pg_relation_size('ocsp_live_requests')") <= 65_536
        assert nonce_in((await live.one(post(with_nonce(RECORD.serial, octets=b"x")))).body) == b"x"
        for _, writer in clients:
            writer.close()


async def test_the_queue_is_one_for_all_responders(tmp_path: Path, database: TestDatabase) -> None:
    """When others have all places, this one has none to give, though nobody waits here."""
    settings = msgspec.structs.replace(_FREE, live_queue=3)
    async with running_live(tmp_path, database, settings) as live:
        live.signer.may_sign = False
        reader = await database.connect("ocsp_reader")
        for _ in range(3):
            assert await reader.fetchval("SELECT ask_for_live_ocsp($1, 7::smallint, '{0}', $2, NULL, 3, 9000)",
                                         os.urandom(16), [serial_of(1)])
        reply = await live.one(post(with_nonce(RECORD.serial)))
        assert (reply.status, reply.body) == (503, TRY_LATER)
        live.signer.may_sign = True
        await reader.execute("SELECT take_live_ocsp(id) FROM unnest($1::bytea[]) AS id", [
            row["id"] for row in await live.owner.fetch("SELECT id FROM ocsp_live_requests")])
        assert nonce_in((await live.one(post(with_nonce(RECORD.serial, octets=b"y")))).body) == b"y"
        await reader.close()


async def test_beyond_a_limit_there_is_the_answer_without_live_mode(tmp_path: Path, database: TestDatabase) -> None:
    """A client that asks too often gets the pre-signed response, others their own; all together have a limit, too. Only
    a listed proxy is believed about whose a request is, and a /64 prefix is one client."""
    settings = msgspec.structs.replace(_FREE, live_client_per_s=0.001, live_client_burst=2, live_per_s=0.001,
                                       live_burst=7, live_trusted_proxies=["127.0.0.0/8"])

    async def is_live(live: Live, *headers: str) -> bool:
        reply = await live.one(post(with_nonce(RECORD.serial), *headers))
        assert reply.status == 200
        assert (nonce_in(reply.body) is None) == (reply.body == BODY)
        return reply.body != BODY

    async with running_live(tmp_path / "proxy", database, settings) as live:
        assert [await is_live(live) for _ in range(3)] == [True, True, False]
        clients = ["X-Forwarded-For: 2001:db8::1", "X-Forwarded-For: 2001:db8::2",
                   "X-Forwarded-For: 192.0.2.9, 2001:db8::3", "X-Forwarded-For: 2001:db8:0:1::1"]
        assert [await is_live(live, client) for client in clients] == [True, True, False, True]
        assert [await is_live(live, f"X-Forwarded-For: 192.0.2.{number}") for number in range(3)] == [
            True, True, False]
        assert live.refused() == {"client_limit": 2, "total_limit": 1}
        assert (await live.one(post(request_for(OWN, serial_of(9))))).body == UNAUTHORIZED
    async with running_live(tmp_path / "none", database, msgspec.structs.replace(
            settings, live_trusted_proxies=[])) as live:
        assert [await is_live(live, f"X-Forwarded-For: 192.0.2.{number}") for number in range(3)] == [
            True, True, False]


async def test_without_a_signer_one_client_waits_and_the_others_do_not(
    tmp_path: Path, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited in vain gets what is pre-signed; until the signer is back the next ones get it at once, but for one
    now and then that finds out."""
    monkeypatch.setattr(live_module, "_AWAY_S", 0.3)
    settings = msgspec.structs.replace(_FREE, live_wait_ms=200)
    async with running_live(tmp_path, database, settings) as live:
        live.signer.may_sign = False
        assert (await live.one(post(with_nonce(RECORD.serial)))).body == BODY
        assert (await live.one(get(request_for(OWN, serial_of(8))))).body == UNAUTHORIZED
        assert live.refused() == {"late": 1, "signer": 1}
        assert await live.rows() == 0
        async with asyncio.timeout(30):
            while live.refused()["late"] < 2:
                assert (await live.one(post(with_nonce(RECORD.serial)))).body == BODY
        live.signer.may_sign = True
        async with asyncio.timeout(30):
            while (await live.one(post(with_nonce(RECORD.serial)))).body == BODY:
                pass
        assert live.desk._away_until_s == {}


async def test_without_a_database_nobody_waits(tmp_path: Path, database: TestDatabase) -> None:
    """Before there is a connection, and when it is lost: the pre-signed response at once; later live again."""
    desk = LiveDesk(_FREE, ambient=system_ambient(), log=structlog.get_logger())
    async with serving(tmp_path / "alone", OWN, live=desk) as service:
        service.store([RECORD])
        reply, = await service.ask(post(with_nonce(RECORD.serial)))
        assert reply.body == BODY
        assert desk.metrics.refused[Refusal.DATABASE] == 1
    async with running_live(tmp_path / "lost", database) as live:
        await live.owner.execute("REVOKE EXECUTE ON FUNCTION ask_for_live_ocsp FROM ocsp_reader")
        assert (await live.one(post(with_nonce(RECORD.serial)))).body == BODY
        assert (await live.one(post(with_nonce(RECORD.serial)))).body == BODY
        assert live.refused() == {"database": 1, "signer": 1}
        superuser = await connect(database.settings, "postgres", process="test")
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'chancery-ocsp-live%'"
            " AND datname = current_database()")
        await superuser.close()
        await live.owner.execute("GRANT EXECUTE ON FUNCTION ask_for_live_ocsp TO ocsp_reader")
        async with asyncio.timeout(60):
            while (await live.one(post(with_nonce(RECORD.serial)))).body == BODY:
                pass


async def test_a_client_that_leaves_gives_its_place_back(tmp_path: Path, database: TestDatabase) -> None:
    """Its question is withdrawn before it is signed, and the places are there for others."""
    async with running_live(tmp_path, database, msgspec.structs.replace(_FREE, live_queue=2)) as live:
        live.signer.may_sign = False
        clients = [await live.service.connect() for _ in range(2)]
        for _, writer in clients:
            writer.write(post(with_nonce(RECORD.serial)))
        await live.until_rows(2)
        for _, writer in clients:
            writer.transport.abort()
        await live.until_rows(0)
        live.signer.may_sign = True
        await until(lambda: not live.desk._open)
        assert nonce_in((await live.one(post(with_nonce(RECORD.serial, octets=b"z")))).body) == b"z"
        assert live.signer.signed == 1
        assert live.refused() == {"gone": 2}


async def test_what_is_counted_is_shown_to_this_machine(tmp_path: Path, database: TestDatabase) -> None:
    """Requests, what was signed, refusals by reason, and how long clients waited, in Prometheus's text, for each worker
    by its name."""
    async with running_live(tmp_path, database) as live:
        for _ in range(3):
            await live.one(post(with_nonce(RECORD.serial)))
        live.signer.refuses = True
        await live.one(post(with_nonce(RECORD.serial)))
        text = (await live.one(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).body.decode()
    values = {(sample.name.removeprefix("chancery_ocsp_responder_"), *sorted(sample.labels.values())): sample.value
              for family in text_string_to_metric_families(text) for sample in family.samples}
    assert values["live_requests_total", "here:1"] == 4
    assert values["live_signed_total", "here:1"] == 3
    assert values["live_refused_total", "here:1", "not_signed"] == 1
    assert values["live_refused_total", "client_limit", "here:1"] == 0
    assert values["live_wait_seconds_bucket", "+Inf", "here:1"] == values["live_wait_seconds_count", "here:1"] == 3
    assert 0 < values["live_wait_seconds_sum", "here:1"] < 15


def test_a_client_is_an_address_or_a_subscriber_s_prefix() -> None:
    """Who has a /64 has all its addresses; an IPv4 address is one client."""
    def key(text: str) -> bytes:
        return client_key(ipaddress.ip_address(text))

    assert key("2001:db8::1") == key("2001:db8::ffff:1:2:3") != key("2001:db8:0:1::1")
    assert key("192.0.2.1") != key("192.0.2.2")
