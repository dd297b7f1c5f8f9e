"""Hundreds of connections that are slow, silent or broken, on the real server process (rows E4, E5, E6, T11)."""

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path

from tests.acme_api.wfe.processes import Load, Workers, running_workers
from tests.fixtures_postgres import TestDatabase

_POST = (b"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose+json\r\n"
         b"Content-Length: 500\r\n\r\n")
_GET = b"GET /directory HTTP/1.1\r\nHost: x\r\n\r\n"
_CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)


async def _connect(workers: Workers, *, tls: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = workers.trust() if tls else None
    return await asyncio.open_connection("localhost", workers.port, family=socket.AF_INET, ssl=context)


async def _drip(workers: Workers, data: bytes, *, tls: bool, whole: int) -> bytes:
    """Sends `whole` bytes at once and the rest one by one; what the server said before it closed."""
    reader, writer = await _connect(workers, tls=tls)
    reading = asyncio.create_task(reader.read())
    try:
        writer.write(data[:whole])
        for byte in data[whole:]:
            if (await asyncio.wait([reading], timeout=0.4))[0]:
                break
            writer.write(bytes([byte]))
        return await asyncio.wait_for(reading, 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_e4_five_hundred_slow_connections(database: TestDatabase, tmp_path: Path) -> None:
    """Row E4: five hundred connections at once that say nothing, begin TLS and stop, or send a header or a body byte by
    byte: each is closed after the timeout, bodies with a 408, and others are served all the while."""
    async with running_workers(database, tmp_path, 1, read_timeout_s=6) as workers:
        load = Load(workers)
        async with load.running(3):
            await load.more(20)
            slow = [asyncio.create_task(_drip(workers, data, tls=tls, whole=whole)) for data, tls, whole in (
                (b"", False, 0), (_CLIENT_HELLO, False, len(_CLIENT_HELLO)), (_GET, True, 3),
                (_POST + bytes(100), True, len(_POST) + 1)) * 125]
            answers = []
            for task in asyncio.as_completed(slow):
                answers.append(await task)
            await load.more(20)
        assert load.failures == []
        timeouts = [answer for answer in answers if answer.startswith(b"HTTP/1.1 408")]
        assert len(timeouts) == 125
        assert all(b'"status":408' in answer for answer in timeouts)
        assert all(not answer.startswith(b"HTTP/1.1 2") for answer in answers)
        assert len(workers.pids()) == 1


async def test_e5_e6_broken_requests_in_numbers(database: TestDatabase, tmp_path: Path) -> None:
    """Rows E5, E6: hundreds of broken requests at once, each with a second request behind it that would be smuggled:
    431 or 400, one answer a connection, and the process goes on."""
    broken = [
        (b"GET /directory HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 17_000 + b"\r\n\r\n", b"431"),
        (b"GET /directory HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 500 + b"\r\n", b"431"),
        (b"GET /directory HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", b"400"),
        (b"GET /directory HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", b"400"),
        (_POST.replace(b"500", b"4\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n", b"400"),
        (_POST.replace(b"500", b"4\r\nContent-Length: 5") + b"abcd", b"400"),
        (_POST.replace(b"Content-Length: 500", b"Transfer-Encoding: xchunked") + b"abcd", b"400"),
    ]

    async def ask(data: bytes, status: bytes) -> None:
        reader, writer = await _connect(workers, tls=True)
        writer.write(data + _GET)
        answer = await asyncio.wait_for(reader.read(), 60)
        assert answer.partition(b" ")[2].startswith(status), (data[:60], answer[:60])
        assert answer.count(b"HTTP/1.") == 1
        assert b"newNonce" not in answer
        writer.close()

    async with running_workers(database, tmp_path, 1) as workers:
        await asyncio.gather(*(ask(data, status) for data, status in broken * 40))
        async with workers.client() as client:
            (await client.register()).require(201)


async def test_more_connections_than_there_is_room_for(database: TestDatabase, tmp_path: Path) -> None:
    """Rows E4, T11: a process has so many connections and no more; whoever comes then waits until one of them is over,
    and no way in which a connection ends takes its place for ever."""
    async with running_workers(database, tmp_path, 1, read_timeout_s=1.0, max_connections=5) as workers:
        for _ in range(3):
            silent = [await _connect(workers, tls=False) for _ in range(5)]
            async with workers.client() as client:
                (await client.send("GET", "/directory")).require(200)
            for _, writer in silent:
                writer.close()
        for number in range(30):
            reader, writer = await _connect(workers, tls=number % 3 == 0)
            writer.write(b"\x00" * 50 if number % 2 else b"")
            writer.close()
            if number % 5 == 0:
                with suppress(ssl.SSLError, ConnectionError):       # an answer that crosses our end of TLS
                    await reader.read()
        for _ in range(10):
            async with workers.client() as client:
                (await client.send("HEAD", "/acme/new-nonce")).require(200)


async def test_clients_that_do_not_read(database: TestDatabase, tmp_path: Path) -> None:
    """Row E4's other half: twenty clients ask again and again and never read: each is cut off when its time is over,
    memory stays bounded, and others are served."""
    async with running_workers(database, tmp_path, 1, read_timeout_s=1.0) as workers:
        load = Load(workers)
        async with load.running(2):
            await load.more(20)
            before = _memory_bytes(workers.pids()[0])
            await asyncio.gather(*(_ask_without_reading(workers) for _ in range(20)))
            await load.more(20)
            assert _memory_bytes(workers.pids()[0]) - before < 80_000_000
        assert load.failures == []


async def _ask_without_reading(workers: Workers) -> None:
    """Returns when the server has cut the connection."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", workers.port))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = workers.trust().wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            if outgoing.pending:
                await loop.sock_sendall(raw, outgoing.read())
            incoming.write(await loop.sock_recv(raw, 4_096))
    try:
        async with asyncio.timeout(60):
            while True:
                tls.write(_GET * 50)
                await loop.sock_sendall(raw, outgoing.read())
    except (ConnectionError, ssl.SSLError):
        return
    finally:
        raw.close()


def _memory_bytes(pid: int) -> int:
    """The resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
