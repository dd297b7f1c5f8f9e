"""Several real processes on one port: nonces, restarts, TLS and overload (rows N9, E33, P6, T1)."""

import asyncio
import os
import signal
import ssl
from collections import Counter
from pathlib import Path

import pytest
from cryptography import x509

from ca.process.http import SOCKETS_VARIABLE, bind_sockets, inherited_or_bound, socket_names
from ca.process.lifecycle import StartupError
from tests.acme_api.wfe.certificates import self_signed_pair
from tests.acme_api.wfe.processes import Load, Workers, running_workers
from tests.acme_client import JOSE_JSON, Answer
from tests.fixtures_postgres import TestDatabase
from tests.ports import free_port


async def _until_replaced(workers: Workers, load: Load, old: list[int]) -> None:
    """Waits until none of the old processes runs and as many new ones are ready."""
    while set(workers.pids()) & set(old) or len(workers.pids()) < len(old):
        assert not load.failures, load.failures[:3]
        await asyncio.sleep(0.02)


async def test_restarts_under_load_cut_no_request(database: TestDatabase, tmp_path: Path) -> None:
    """SIGTERM of one of two workers, then a rolling restart of both, then of a single one: not one request of eight
    busy subscribers, with connections that are now in use, now idle and now new, goes unanswered."""
    async with running_workers(database, tmp_path, 2) as workers:
        load = Load(workers)
        async with load.running(8):
            await load.more(200)
            victim = workers.pids()[0]
            os.kill(victim, signal.SIGTERM)
            await load.more(100)
            await _until_replaced(workers, load, [victim])
            old = workers.pids()
            workers.restart.set()
            await _until_replaced(workers, load, old)
            await load.more(200)
        assert load.failures == []
        assert load.done >= 500
    async with running_workers(database, tmp_path, 1) as workers:
        load = Load(workers)
        async with load.running(4):
            await load.more(50)
            old = workers.pids()
            workers.restart.set()
            await _until_replaced(workers, load, old)
            await load.more(50)
        assert load.failures == []


async def test_a_worker_that_stops_answers_what_it_has(database: TestDatabase, tmp_path: Path) -> None:
    """After SIGTERM a request that had begun is answered, and so is one that comes on a connection that was idle then;
    both answers say that they are the last of their connection, and the process ends."""
    async with running_workers(database, tmp_path, 1) as workers, workers.client() as client:
        (await client.register()).require(201)
        idle, busy = [await asyncio.open_connection("localhost", workers.port, ssl=workers.trust()) for _ in range(2)]
        assert not await _is_last_answer(*idle)
        blocker = await database.connect()
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        begun = asyncio.create_task(client.order("a.example.com"))
        while not await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        old = workers.pids()[0]
        os.kill(old, signal.SIGTERM)
        while not await _is_last_answer(*busy):
            pass
        assert await _is_last_answer(*idle)
        await transaction.rollback()
        await blocker.close()
        (await begun).require(201)
        for reader, writer in (idle, busy):
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()
        while old in workers.pids():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


async def _is_last_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the answer to a request on this connection, which has to come, says that the connection is over."""
    writer.write(b"GET /directory HTTP/1.1\r\nHost: x\r\n\r\n")
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).lower()
    assert head.startswith(b"http/1.1 200")
    await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
    return b"connection: close" in head


async def _post(workers: Workers, body: bytes) -> Answer:
    """One request on a connection of its own."""
    async with workers.client() as client:
        return await client.send("POST", "/acme/new-order", data=body, headers=JOSE_JSON)


async def test_e33_n9_one_body_fifty_times_to_two_workers(database: TestDatabase, tmp_path: Path) -> None:
    """Rows E33, N9, N8: one signed newOrder sent fifty times at once, on fifty connections to two processes: one 201,
    49 badNonce, one order; a nonce of one process is good at the other."""
    async with running_workers(database, tmp_path, 2) as workers, workers.client() as client:
        (await client.register()).require(201)
        for round_number in range(3):
            body = await client.signed("/acme/new-order", {
                "identifiers": [{"type": "dns", "value": f"r{round_number}.example.com"}]})
            answers = await asyncio.gather(*(_post(workers, body) for _ in range(50)))
            assert Counter(answer.status for answer in answers) == {201: 1, 400: 49}
            assert {answer.type for answer in answers if answer.status == 400} == {"badNonce"}
        connection = await database.connect()
        assert await connection.fetchval("SELECT count(*) FROM orders") == 3
        await connection.close()
        # Fresh connections land on either process; every nonce was given out by any of them.
        nonces = [nonce for answer in answers for nonce in answer.nonces]
        for _ in range(20):
            async with workers.client() as other:
                other.key, other.kid, other.nonces = client.key, client.kid, [nonces.pop()]
                (await other.post(client.kid)).require(200)


async def test_p6_overload(database: TestDatabase, tmp_path: Path) -> None:
    """Row P6: what cannot be answered in time is refused at once, 503 rateLimited with Retry-After of 1 to 600 and a
    nonce, while what is being answered is answered; afterwards all is well."""
    async with running_workers(database, tmp_path, 1, max_in_flight=5) as workers, workers.client() as client:
        (await client.register()).require(201)
        bodies = [await client.signed("/acme/new-order", {
            "identifiers": [{"type": "dns", "value": "a.example.com"}]}) for _ in range(20)]
        blocker = await database.connect()
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        tasks = [asyncio.create_task(_post(workers, body)) for body in bodies]
        while sum(task.done() for task in tasks) < 15:  # noqa: ASYNC110 - any of them
            await asyncio.sleep(0.02)
        refused = [task.result() for task in tasks if task.done()]
        for answer in refused:
            answer.require(503, "rateLimited")
            assert 1 <= int(answer.headers["Retry-After"]) <= 600
        # What needs no database is served all the while.
        (await client.send("GET", "/directory")).require(200)
        (await client.send("HEAD", "/acme/new-nonce")).require(200)
        await transaction.rollback()
        await blocker.close()
        answers = [await task for task in tasks]
        assert Counter(answer.status for answer in answers) == {201: 5, 503: 15}
        (await client.order("b.example.com")).require(201)


async def test_t1_a_new_certificate_under_load(database: TestDatabase, tmp_path: Path) -> None:
    """Row T1: the certificate's files are replaced while requests are sent: connections that exist go on, new ones see
    the new certificate, and the process stays the same."""
    async with running_workers(database, tmp_path, 1, tls_look_s=0.2) as workers:
        load = Load(workers)
        async with load.running(4):
            await load.more(50)
            pid = workers.pids()
            for _ in range(3):
                self_signed_pair(workers.files.certificate.parent, "localhost")
                wanted = x509.load_pem_x509_certificate(workers.files.certificate.read_bytes())
                while await _shown(workers.port) != wanted:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.05)
                await load.more(50)
                async with workers.client() as client:
                    (await client.register()).require(201)
            assert workers.pids() == pid
        assert load.failures == []


async def _shown(port: int) -> x509.Certificate:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.close()
    return shown


def test_sockets_of_a_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets are found by the addresses that they were bound for; other addresses are a clear error."""
    listen = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    bound = bind_sockets(listen, reuse_port=False)
    monkeypatch.setenv(SOCKETS_VARIABLE, socket_names(listen, bound))
    found = inherited_or_bound(listen[1:])
    assert [each.getsockname() for each in found] == [bound[1].getsockname()]
    found[0].detach()
    with pytest.raises(StartupError, match="restart it"):
        inherited_or_bound(["127.0.0.1:1"])
    for each in bound:
        each.close()


def test_sockets_of_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """LISTEN_FDS counts for the process that LISTEN_PID names alone, and has to be one for each address."""
    listen = [f"127.0.0.1:{free_port()}"]
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    with pytest.raises(StartupError, match="passes 2 sockets"):
        inherited_or_bound(listen)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    bound = inherited_or_bound(listen)
    assert bound[0].getsockname() == ("127.0.0.1", int(listen[0].rpartition(":")[2]))
    bound[0].close()
