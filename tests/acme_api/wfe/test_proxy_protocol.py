"""The PROXY protocol: its two versions taken apart, and taken off real connections before TLS or HTTP begins."""

import asyncio
import ipaddress
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_api.wfe import tls
from acme_api.wfe.proxy_protocol import SIGNATURE_V2, ProxyHeader, ProxyHeaderError, parse_header
from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.wfe.certificates import self_signed_pair
from tests.acme_api.wfe.proxies import expecting_proxy_header
from tests.acme_api.wfe.running import RunningWfe

_V4 = ipaddress.ip_address("192.0.2.7")
_V6 = ipaddress.ip_address("2001:db8::7")


def v2(body: bytes, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    """A version 2 header."""
    return SIGNATURE_V2 + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


_V2_IPV4 = v2(bytes([192, 0, 2, 7, 10, 0, 0, 1]) + struct.pack("!HH", 4711, 443) + b"\x04\x00\x01x")
_V2_IPV6 = v2(_V6.packed + bytes(16) + struct.pack("!HH", 4711, 443), family=0x21)
_GOOD = {
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n": _V4,
    b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n": _V6,
    b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 443\r\n": _V4,
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN a b c d\r\n": None,
    _V2_IPV4: _V4,
    _V2_IPV6: _V6,
    v2(b"", command=0x20, family=0x00): None,
}


@pytest.mark.parametrize("header", _GOOD)
def test_headers(header: bytes) -> None:
    """Whole, byte by byte and with what follows: nothing before the last byte, and never a byte too many."""
    for end in range(len(header)):
        assert parse_header(header[:end]) is None
    for rest in (b"", b"\x16\x03\x01", b"PROXY "):
        assert parse_header(header + rest) == ProxyHeader(length=len(header), client=_GOOD[header])


@pytest.mark.parametrize("header", [
    b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"PROXY\tTCP4", b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n",
    b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n", b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 65536\r\n", b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 1\r\n",
    b"PROXY TCP4 192.0.2.07 10.0.0.1 1 1\r\n", b"PROXY TCP4  192.0.2.7 10.0.0.1 1 1\r\n",
    b"PROXY UDP4 192.0.2.7 10.0.0.1 1 1\r\n", b"PROXY TCP4 " + b"1" * 120, b"PROXY TCP4 \xff\r\n",
    v2(bytes(12), command=0x11), v2(bytes(12), command=0x22), v2(bytes(11)), v2(bytes(12), family=0x12),
    v2(bytes(216), family=0x31), v2(b"", length=5_000), v2(bytes(12), family=0x01),
], ids=lambda header: repr(header[:24]))
def test_bad_headers(header: bytes) -> None:
    """Anything else is an error, which closes the connection."""
    with pytest.raises(ProxyHeaderError):
        parse_header(header)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", SIGNATURE_V2, b"PROXY TCP4 1.2.3.4 ", _V2_IPV4[:15]]))
def test_random_bytes(tail: bytes, start: bytes) -> None:
    """No input does anything but give a header, ask for more, or raise ProxyHeaderError."""
    try:
        header = parse_header(start + tail)
    except ProxyHeaderError:
        return
    assert header is None or 0 < header.length <= len(start + tail)


async def _asked(port: int, *parts: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """What the server answers to these bytes, sent one after the other; with TLS after them when there is a context."""
    raw = socket.create_connection(("127.0.0.1", port))
    loop = asyncio.get_running_loop()
    raw.setblocking(False)
    for part in parts:
        await loop.sock_sendall(raw, part)
        await asyncio.sleep(0.05)
    reader, writer = await asyncio.open_connection(
        sock=raw, ssl=context, server_hostname="localhost" if context else None)
    if context is not None:
        writer.write(_GET)
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionResetError:
        return b""      # what was sent had not been read: that is how it is closed then
    finally:
        writer.close()


_GET = b"GET /acme/new-nonce HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_ONE_EACH = LimitsSettings(nonces_per_address=RateSettings(burst=1, period_s=3_600))


async def test_connections_behind_a_proxy(start: Callable[..., Awaitable[RunningWfe]]) -> None:
    """Each client that the proxy names has its own limit; split and joined segments are the same; a connection without
    a header, or with a broken one, is closed without a word."""
    wfe = await start(limits=_ONE_EACH)
    async with expecting_proxy_header(wfe, "127.0.0.0/8", None) as port:
        assert (await _asked(port, b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n" + _GET)).startswith(b"HTTP/1.1 204")
        assert (await _asked(port, b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n", _GET)).startswith(b"HTTP/1.1 429")
        assert (await _asked(port, _V2_IPV4[:7], _V2_IPV4[7:20], _V2_IPV4[20:] + _GET)).startswith(b"HTTP/1.1 204")
        assert (await _asked(port, _V2_IPV4 + _GET)).startswith(b"HTTP/1.1 429")
        for broken in (_GET, b"PROXY TCP4 x y 1 2\r\n" + _GET, b"PROXY TCP4 192"):
            assert await _asked(port, broken) == b""


async def test_tls_behind_a_proxy(start: Callable[..., Awaitable[RunningWfe]], tmp_path: Path) -> None:
    """The header comes before TLS, which then is as without a proxy."""
    wfe = await start(limits=_ONE_EACH)
    files = self_signed_pair(tmp_path, "localhost")
    context = tls.new_context()
    tls.load(context, files)
    trusting = ssl.create_default_context(cafile=str(files.certificate))
    async with expecting_proxy_header(wfe, "127.0.0.0/8", context) as port:
        for header, status in ((_V2_IPV6, b"204"), (_V2_IPV6, b"429"), (b"PROXY UNKNOWN\r\n", b"204")):
            assert (await _asked(port, header, context=trusting)).startswith(b"HTTP/1.1 " + status)


async def test_strangers_cannot_name_themselves(start: Callable[..., Awaitable[RunningWfe]]) -> None:
    """A connection that does not come from a listed proxy is taken as it is: a PROXY line on it is broken HTTP."""
    wfe = await start(limits=_ONE_EACH)
    async with expecting_proxy_header(wfe, "192.0.2.0/24", None) as port:
        assert (await _asked(port, b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n" + _GET)).startswith(b"HTTP/1.0 400")
        assert (await _asked(port, _GET)).startswith(b"HTTP/1.1 204")
        assert (await _asked(port, _GET)).startswith(b"HTTP/1.1 429")
