"""The other side of the validation scenario: servers that hang as they should, and a control that does not."""

import asyncio
import socket

import pytest

from loadtest.challenge_server import HANGING_HOSTS, TRICKLING_HOSTS, ChallengeServer
from loadtest.mute_dns import MuteDns
from loadtest.program import free_port


async def _ask(port: int, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


async def test_hosts_that_hang_trickle_and_answer() -> None:
    """One is never answered, one gets an octet a second, every other one its key authorization."""
    server = ChallengeServer()
    await server.start(free_port())
    server.publish("token", "token.thumbprint")
    try:
        honest, _open = await _ask(server.port, "good1.localhost")
        assert (await asyncio.wait_for(honest.read(), 30)).endswith(b"\r\n\r\ntoken.thumbprint")
        trickling, _open = await _ask(server.port, f"{TRICKLING_HOSTS}1.localhost")
        head = await asyncio.wait_for(trickling.readuntil(b"\r\n\r\n"), 30)
        assert head == b"HTTP/1.1 200 OK\r\n\r\n"
        assert await asyncio.wait_for(trickling.readexactly(2), 30) == b"xx"
        hanging, _open = await _ask(server.port, f"{HANGING_HOSTS}1.localhost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hanging.read(1), 0.5)
        assert server.served == 1
    finally:
        await server.stop()


async def test_a_resolver_that_takes_questions_and_never_answers() -> None:
    """The port is open, questions are counted, nothing comes back."""
    dns = MuteDns()
    await dns.start()
    host, _, port = dns.address.partition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect((host, int(port)))
        asking.send(b"question")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(asking, 100), 0.3)
    assert dns.asked == 1
    dns.stop()
