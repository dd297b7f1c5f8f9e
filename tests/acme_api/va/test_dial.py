"""Promises of the dialer: rows SF1, SF2, SF6, E87, E92."""

import asyncio
import ipaddress
import os
import ssl
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from acme_api.va.address import AddressPolicy
from acme_api.va.dial import Connection, Dialer, Host, _network_of, client_context
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import Resolver, servers_of
from tests.acme_api.va.hostile import (
    black_hole,
    certificate,
    new_evidence,
    open_policy,
    serve,
    serve_bytes,
    server_context,
    until,
)
from tests.mock_dns import MockDns

HERE = ipaddress.ip_address("127.0.0.1")


def dialer_for(mock_dns: MockDns, policy: AddressPolicy | None = None) -> Dialer:
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom)
    return Dialer(resolver=resolver, policy=policy or open_policy())


def opening(
    mock_dns: MockDns, host: Host, port: int, *, limit_bytes: int = 9999, policy: AddressPolicy | None = None
) -> AbstractAsyncContextManager[Connection]:
    return dialer_for(mock_dns, policy).dial(host, port, max_read_bytes=limit_bytes, evidence=new_evidence())


async def greet(connection: Connection) -> bytes:
    await connection.send(b"GET / HTTP/1.0\r\n\r\n")
    return await connection.receive()


async def test_sf1_dials_the_address_that_was_judged_and_asks_once(mock_dns: MockDns) -> None:
    """SF1, E87: one lookup, then a connection by address: an answer that changes afterwards changes nothing."""
    mock_dns.set("a.example", "A", "127.0.0.5")
    async with serve_bytes(b"hello", host="127.0.0.5") as server:
        evidence = new_evidence()
        async with dialer_for(mock_dns).dial("a.example", server.port, max_read_bytes=100, evidence=evidence) as opened:
            mock_dns.set("a.example", "A", "127.0.0.9")
            assert await greet(opened) == b"hello"
            assert str(opened.endpoint) == f"127.0.0.5 port {server.port}"
    assert mock_dns.asked("A") == ["a.example"]


async def test_e87_addresses_that_are_not_allowed_are_left_out(mock_dns: MockDns) -> None:
    """E87: a private A record beside an allowed AAAA record is not dialled, nor the other way round."""
    mock_dns.set("a.example", "A", "127.0.0.9", "10.0.0.1")
    mock_dns.set("a.example", "AAAA", "::1")
    async with serve_bytes(b"six", host="::1") as allowed, serve(_hang, host="127.0.0.9", port=allowed.port) as canary:
        dialer = dialer_for(mock_dns, open_policy("::1/128"))
        async with dialer.dial("a.example", allowed.port, max_read_bytes=100, evidence=new_evidence()) as opened:
            assert await greet(opened) == b"six"
    assert canary.connections == 0


@pytest.mark.parametrize("addresses", [["0.0.0.0"], ["127.0.0.1"], ["10.0.0.1", "169.254.169.254"],
                                       [f"10.1.{high}.{low}" for high in range(2) for low in range(250)]],
                         ids=["unspecified", "loopback", "private", "500 records"])
async def test_e87_a_name_without_an_allowed_address_is_a_dns_failure(mock_dns: MockDns, addresses: list[str]) -> None:
    """SF2, E87: none allowed, nothing dialled: type dns, the reason named, not tried again."""
    mock_dns.set("a.example", "A", *addresses)
    with pytest.raises(ValidationFailure, match=r"no address of a\.example is allowed") as caught:
        async with opening(mock_dns, "a.example", 80, policy=AddressPolicy()):
            pass
    assert (caught.value.type, caught.value.transient) == ("dns", False)
    assert len(caught.value.detail) < 200


async def test_sf2_a_literal_address_that_is_not_allowed_is_a_connection_failure(mock_dns: MockDns) -> None:
    """SF2, SF3: the filter applies to literal addresses: type connection, no packet."""
    literal = ipaddress.ip_address("169.254.169.254")
    with pytest.raises(ValidationFailure, match="not allowed") as caught:
        async with opening(mock_dns, literal, 80):
            pass
    assert caught.value.type == "connection"


async def test_sf6_ipv4_is_tried_after_a_failed_ipv6_connect(mock_dns: MockDns) -> None:
    """SF6: IPv6 first; IPv4 when connecting fails; the failed address stays in evidence."""
    mock_dns.set("a.example", "A", "127.0.0.1")
    mock_dns.set("a.example", "AAAA", "::1")
    evidence = new_evidence()
    dialer = dialer_for(mock_dns)
    async with (serve_bytes(b"four") as server,
                dialer.dial("a.example", server.port, max_read_bytes=9, evidence=evidence) as opened):
        assert await greet(opened) == b"four"
    connected = next(fact for fact in evidence.to_json()["facts"] if "connected" in fact)
    assert "::1" in connected["failed"][0]


async def test_sf6_at_most_two_addresses_are_tried(mock_dns: MockDns) -> None:
    """SF6, E87: of many addresses two are dialled; the failure names them."""
    mock_dns.set("a.example", "A", *[f"127.0.1.{low}" for low in range(1, 100)])
    with pytest.raises(ValidationFailure, match="connection refused") as caught:
        async with opening(mock_dns, "a.example", 1):
            pass
    assert caught.value.detail.count("port 1") == 2
    assert (caught.value.type, caught.value.transient) == ("connection", True)


async def test_sf6_an_address_that_does_not_answer_leaves_time_for_the_second(mock_dns: MockDns) -> None:
    """SF6: a black hole costs half of the connect time, then the other family is dialled."""
    mock_dns.set("a.example", "A", "127.0.0.1")
    mock_dns.set("a.example", "AAAA", "::1")
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom)
    dialer = Dialer(resolver=resolver, policy=open_policy(), connect_timeout_s=4)
    async with serve_bytes(b"four") as server:
        with black_hole("::1", server.port):
            began_s = time.monotonic()
            async with dialer.dial("a.example", server.port, max_read_bytes=9, evidence=new_evidence()) as opened:
                assert await greet(opened) == b"four"
            assert 1.9 < time.monotonic() - began_s < 3.9


async def test_h5_a_host_that_does_not_answer_is_a_connection_failure(mock_dns: MockDns) -> None:
    """SF6, H5: nothing but silence within the connect time: type connection, the address and the time named."""
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom)
    dialer = Dialer(resolver=resolver, policy=open_policy(), connect_timeout_s=0.2)
    with black_hole("127.0.0.1") as port, pytest.raises(ValidationFailure, match=r"no answer within 0\.2") as caught:
        async with dialer.dial(HERE, port, max_read_bytes=9, evidence=new_evidence()):
            pass
    assert (caught.value.type, caught.value.transient) == ("connection", True)


async def test_names_without_addresses_say_whether_they_exist(mock_dns: MockDns) -> None:
    """NXDOMAIN and a name without address records are dns failures that may pass, told apart in the detail."""
    mock_dns.set("a.example", "TXT", "x")
    for name, says in (("a.example", "neither an A nor an AAAA"), ("b.example", "NXDOMAIN")):
        with pytest.raises(ValidationFailure, match=says) as caught:
            async with opening(mock_dns, name, 80):
                pass
        assert (caught.value.type, caught.value.transient) == ("dns", True)


async def test_reading_is_bounded(mock_dns: MockDns) -> None:
    """E85, E92: beyond the limit nothing more is taken from the socket."""
    async with serve_bytes(b"x" * 1000) as server, opening(mock_dns, HERE, server.port, limit_bytes=300) as opened:
        await opened.send(b"\r\n\r\n")
        taken = 0
        while taken < 300:
            taken += len(await opened.receive())
        assert taken == 300
        with pytest.raises(ValidationFailure, match="more than 300 bytes"):
            await opened.receive()


async def test_one_host_has_at_most_twenty_connections_and_holds_up_no_other(mock_dns: MockDns) -> None:
    """SF6: the twenty-first connection to one host waits; another host is served at once; nothing is left behind."""
    mock_dns.set("slow.example", "A", "127.0.0.1")
    mock_dns.set("fast.example", "A", "127.0.0.1")
    dialer = dialer_for(mock_dns)
    release = asyncio.Event()
    async with serve(_hang) as server:

        async def hold(name: str) -> None:
            async with dialer.dial(name, server.port, max_read_bytes=1, evidence=new_evidence()):
                await release.wait()

        holders = [asyncio.create_task(hold("slow.example")) for _ in range(30)]
        await until(lambda: server.connections >= 20)
        await asyncio.sleep(0.1)
        assert server.connections == 20
        async with asyncio.timeout(30):
            async with dialer.dial("fast.example", server.port, max_read_bytes=1, evidence=new_evidence()):
                pass
        release.set()
        await asyncio.gather(*holders)
        await until(lambda: server.connections == 31)
    assert not len(dialer._per_host)
    assert not len(dialer._per_address)


async def test_sf6_many_names_of_one_slow_address(mock_dns: MockDns) -> None:
    """SF6: names of three domains that point to one address never have more connections to it than it may get; of
    those the domain with fifty slow names has half, so that others get in while its own wait; who waits knows for what;
    another address is not held up; at the end all were served and nothing is left behind."""
    names = [f"n{number}.greedy.example" for number in range(50)]
    for name in (*names, "www.first.example", "www.second.example"):
        mock_dns.set(name, "A", "127.0.0.1")
    mock_dns.set("www.elsewhere.example", "A", "127.0.0.2")
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom)
    dialer = Dialer(resolver=resolver, policy=open_policy(), max_per_address=8)
    release, open_now, most = asyncio.Event(), 0, 0

    async def slow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await release.wait()
        open_now -= 1
        writer.write(b"at last")

    async def ask(name: str) -> bytes:
        async with dialer.dial(name, server.port, max_read_bytes=99, evidence=new_evidence()) as connection:
            return await connection.receive()

    async with serve(slow) as server, serve_bytes(b"here", host="127.0.0.2", port=server.port):
        greedy = [asyncio.create_task(ask(name)) for name in names]
        await until(lambda: server.connections == 4)
        await until(lambda: len(mock_dns.asked("A")) >= len(names))
        others = [asyncio.create_task(ask(f"www.{name}.example")) for name in ("first", "second", "first", "second")]
        await until(lambda: server.connections == 8)
        evidence = new_evidence()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), dialer.dial("www.first.example", server.port, max_read_bytes=9,
                                                         evidence=evidence):
                pass
        assert evidence.phase == "too many other connections to 127.0.0.1 were open"
        async with (asyncio.timeout(30), dialer.dial("www.elsewhere.example", server.port, max_read_bytes=9,
                                                     evidence=new_evidence()) as connection):
            assert await greet(connection) == b"here"
        assert server.connections == 8
        release.set()
        assert set(await asyncio.gather(*greedy, *others)) == {b"at last"}
        assert server.connections == 54
    assert most <= 8
    assert not len(dialer._per_host)
    assert not len(dialer._per_address)


def test_sf6_the_addresses_of_one_ipv6_network_count_together() -> None:
    """SF6: whoever has a /64 has 2^64 addresses, which are one to the dialer; IPv4 addresses count each by itself."""
    networks = [_network_of(ipaddress.ip_address(text)) for text in (
        "2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1", "192.0.2.1", "192.0.2.2")]
    assert networks == ["2001:db8:0:1::/64", "2001:db8:0:1::/64", "2001:db8:0:2::/64", "192.0.2.1", "192.0.2.2"]


async def test_tls_over_the_counted_connection(mock_dns: MockDns, tmp_path: Path) -> None:
    """TLS works over the bounded connection, with the name asked for, and reads until the end of the stream."""
    key = ec.generate_private_key(ec.SECP256R1())
    chain = [certificate(key, [x509.DNSName("a.example")], extensions=[])]
    names: list[str | None] = []
    context = server_context(tmp_path, chain, key)
    context.sni_callback = lambda _tls, name, _context: names.append(name)
    mock_dns.set("a.example", "A", "127.0.0.1")
    async with (serve_bytes(b"y" * 40_000, tls=context) as server,
                opening(mock_dns, "a.example", server.port, limit_bytes=65_536) as opened):
        await opened.start_tls(client_context(), "a.example")
        await opened.send(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while data := await opened.receive():
            received += data
    assert received == b"y" * 40_000
    assert names == ["a.example"]


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28",
                                      b"SSH-2.0-x\r\n"], ids=["plain HTTP", "alert", "SSH banner"])
async def test_e92_a_handshake_that_fails_is_told_from_one_that_breaks_off(mock_dns: MockDns, greeting: bytes) -> None:
    """E92: bytes that are no TLS, or an alert, raise OpenSSL's own error for the caller to judge."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(greeting)
        await writer.drain()

    async with serve(handler) as server, opening(mock_dns, HERE, server.port) as opened:
        with pytest.raises(ssl.SSLError):
            await opened.start_tls(client_context(), None)


async def test_e92_a_close_in_the_handshake_is_a_tls_failure(mock_dns: MockDns) -> None:
    """E92: a server that hangs up in the middle of the handshake: type tls, may pass."""

    async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)

    async with serve(hang_up) as server, opening(mock_dns, HERE, server.port) as opened:
        with pytest.raises(ValidationFailure, match="closed the connection during the TLS handshake") as caught:
            await opened.start_tls(client_context(), None)
    assert (caught.value.type, caught.value.transient) == ("tls", True)


async def _hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()
