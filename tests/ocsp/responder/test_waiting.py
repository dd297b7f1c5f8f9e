"""Clients that are slow, that stay, or that come a moment before the response that they ask for."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import cast

import pytest
from cryptography.x509 import ocsp

from ocsp.protocol.response import UNAUTHORIZED
from ocsp.responder import server as server_module
from ocsp.responder.connection import OcspConnection
from tests.ocsp.processes import until
from tests.ocsp.responder.known import BODY, OWN, REQUEST
from tests.ocsp.responder.serving import Serving, get, post, read_reply, request_for
from tests.ocsp.signing import NOW_S, serial_of, signed


async def is_ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server has closed or reset the connection."""
    with suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 2) == b""
    return True


async def test_slow_clients_are_ended(service: Serving) -> None:
    """An unfinished request after 10 s, an idle connection after 60 s; one that is served stays."""
    started, idle, busy = [await service.connect() for _ in range(3)]
    started[1].write(get(REQUEST)[:40])
    busy[1].write(get(REQUEST))
    await read_reply(busy[0])
    await asyncio.sleep(0.05)

    def later(seconds: float) -> None:
        service.clock.now_s += seconds
        service.server.refresh()
        service.server.look_around()

    later(9)
    started[1].write(b"x")      # A drop now and then buys no time.
    await asyncio.sleep(0.05)
    later(2)
    assert await is_ended(started[0])
    busy[1].write(get(REQUEST))
    assert (await read_reply(busy[0])).body == BODY
    later(52)
    assert await is_ended(idle[0])
    busy[1].write(get(REQUEST))
    assert (await read_reply(busy[0])).body == BODY
    for _, writer in (started, idle, busy):
        writer.close()


async def test_a_client_that_does_not_read_is_ended_and_holds_little(service: Serving) -> None:
    """Answers stop when its buffers are full, nothing more is read from it, and after 10 s it is gone."""
    _, writer = await service.connect()
    cast(asyncio.Transport, writer.transport).pause_reading()
    with suppress(TimeoutError, ConnectionError):
        for _ in range(2_000):
            writer.write(get(REQUEST) * 100)
            await asyncio.wait_for(writer.drain(), 0.3)
        pytest.fail("the server read on although nobody took its answers")
    slow, = service.server._connections
    assert isinstance(slow, OcspConnection)
    assert slow._transport is not None
    assert slow._transport.get_write_buffer_size() < 80_000, "what it was sent is answered only as far as it reads"
    service.clock.now_s += 11
    service.server.refresh()
    service.server.look_around()
    await asyncio.sleep(0.05)
    assert not service.server._connections
    writer.transport.abort()


async def test_a_client_that_reads_late_gets_everything_in_order(service: Serving) -> None:
    """Answers for which it has no room wait, and it is read from again when it has taken them."""
    other = signed(OWN, serial_of(2))
    service.store([other])
    both = get(REQUEST) + post(request_for(OWN, other.serial))
    reader, writer = await service.connect()
    cast(asyncio.Transport, writer.transport).pause_reading()
    count = 6_000       # of 600 octets each: more than the buffers of both ends hold

    async def send() -> None:
        for _ in range(count):
            writer.write(both)
            await writer.drain()

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.2)
    cast(asyncio.Transport, writer.transport).resume_reading()
    second = None
    for _ in range(count):
        assert (await read_reply(reader)).body == BODY
        body = (await read_reply(reader)).body
        assert second in (None, body)
        second = body
    await sending
    assert second != BODY
    writer.write(get(REQUEST))
    assert (await read_reply(reader)).body == BODY
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_a_client_that_has_sent_all_still_gets_its_answers(service: Serving) -> None:
    """A half-closed connection, as nc and some proxies leave it, ends behind the last answer."""
    reader, writer = await service.connect()
    writer.write(get(REQUEST) * 50)
    writer.write_eof()
    for _ in range(50):
        assert (await read_reply(reader)).body == BODY
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


# An 18-octet serial number of the clock's own day.
TODAY = 256 + (datetime.fromtimestamp(NOW_S, UTC) - datetime(2020, 1, 1, tzinfo=UTC)).days


@pytest.mark.parametrize("make", [get, post])
async def test_who_asks_for_a_certificate_of_this_moment_waits_for_its_response(
    service: Serving, make: Callable[[bytes], bytes]
) -> None:
    """Not `unauthorized` but the response that comes a moment later; what was sent behind it is answered behind it."""
    new = signed(OWN, serial_of(9, day=TODAY))
    reader, writer = await service.connect()
    writer.write(make(request_for(OWN, new.serial)) + get(REQUEST))
    await until(lambda: service.server._waiting)
    assert (await service.ask(get(REQUEST)))[0].body == BODY        # others are answered meanwhile
    service.store([new])
    response = ocsp.load_der_ocsp_response((await read_reply(reader)).body)
    assert response.serial_number == int.from_bytes(new.serial, "big")
    assert (await read_reply(reader)).body == BODY
    writer.write(get(REQUEST))
    assert (await read_reply(reader)).body == BODY
    assert not service.server._waiting
    writer.close()


def _nobody(_connection: OcspConnection) -> bool:
    raise AssertionError("it waits once more")


async def test_nobody_waits_for_long_or_with_many_others(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A serial number of today that is none is `unauthorized` after half a second, of another day at once, and at once
    when as many wait as may, or on a connection that has waited in vain before."""
    made_up = get(request_for(OWN, serial_of(10, day=TODAY)))
    for day in (TODAY - 1, TODAY + 1):
        reply, = await service.ask(get(request_for(OWN, serial_of(10, day=day))))
        assert reply.body == UNAUTHORIZED
        assert not service.server._waiting
    monkeypatch.setattr(server_module, "MAX_WAITING", 1)
    reader, writer = await service.connect()
    writer.write(made_up * 2)
    await until(lambda: service.server._waiting)
    gone_reader, gone = await service.connect()
    gone.write(made_up)
    assert (await read_reply(gone_reader)).body == UNAUTHORIZED
    assert service.server._waiting      # the first waits still
    assert (await read_reply(reader)).body == UNAUTHORIZED
    monkeypatch.setattr(server_module, "MAX_WAITING", 64)
    monkeypatch.setattr(service.server, "hold", _nobody)
    writer.write(made_up)
    assert [(await read_reply(reader)).body for _ in range(2)] == [UNAUTHORIZED] * 2
    monkeypatch.undo()
    for one in (writer, gone):
        one.close()
    _, last = await service.connect()
    last.write(made_up)
    await until(lambda: service.server._waiting)
    last.transport.abort()
    await until(lambda: not service.server._waiting)      # gone, or answered into nothing
    assert (await service.ask(get(REQUEST)))[0].body == BODY


async def test_there_is_a_limit_to_connections(service: Serving) -> None:
    """One more than allowed is closed at once; when one ends there is room again."""
    service.server.max_connections = 2
    first, second = [await service.connect() for _ in range(2)]
    await asyncio.sleep(0.05)
    third = await service.connect()
    assert await asyncio.wait_for(third[0].read(), 2) == b""
    first[1].close()
    await asyncio.sleep(0.05)
    reply, = await service.ask(get(REQUEST))
    assert reply.body == BODY
    for _, writer in (second, third):
        writer.close()


async def test_slow_clients_make_room_for_others(service: Serving) -> None:
    """When there are as many connections as there can be, one that has been idle, or sent a part of a request, for some
    seconds is ended for each new one; those that ask stay, whoever was first."""
    service.server.max_connections = 40
    clients = [await service.connect() for _ in range(40)]
    for number, (_, writer) in enumerate(clients):
        writer.write(get(REQUEST)[:9] if number % 2 else b"")

    def begun() -> int:
        return sum(isinstance(one, OcspConnection) and bool(one._pending) for one in service.server._connections)

    await until(lambda: begun() == 20)
    busy = clients[::10]
    for seconds in (2, 1):
        service.clock.now_s += seconds
        service.server.refresh()
        for reader, writer in busy:
            writer.write(get(REQUEST))
            assert (await read_reply(reader)).body == BODY
    replies = [await service.ask(get(REQUEST)) for _ in range(60)]
    newcomers = [await service.connect() for _ in range(30)]
    for reader, writer in (*busy, *newcomers):
        writer.write(get(REQUEST))
        assert (await read_reply(reader)).body == BODY
    assert all(reply.body == BODY for reply, in replies)
    assert len(service.server._connections) <= 41
    assert sum([await is_ended(reader) for reader, _ in clients[1:6]]) == 5
    for _, writer in (*clients, *newcomers):
        writer.close()


async def test_a_stop_finishes_what_is_being_written(service: Serving) -> None:
    """Idle connections end at once, and the port is free."""
    reader, writer = await service.connect()
    writer.write(get(REQUEST))
    await read_reply(reader)
    await asyncio.wait_for(service.server.stop(), 1)
    assert await asyncio.wait_for(reader.read(), 1) == b""
    with pytest.raises(OSError):
        await service.connect()
    writer.close()
