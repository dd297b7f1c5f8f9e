"""Promises of tls-alpn-01: rows TA1-TA5, IP3, E91, E92."""

import asyncio
import hashlib
import ipaddress
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from acme_api.protocol.challenge import key_authorization
from acme_api.va.dial import Dialer
from acme_api.va.failure import ValidationFailure
from acme_api.va.resolver import Resolver, servers_of
from acme_api.va.tlsalpn01 import TlsAlpn01, _fault_of
from ca.pki.identifier import Identifier
from tests.acme_api.va.hostile import HostileServer, certificate, new_evidence, open_policy, serve, server_context
from tests.mock_dns import MockDns

AUTHORIZATION = key_authorization("A" * 43, b"\x07" * 32)
DIGEST = hashlib.sha256(AUTHORIZATION.encode()).digest()
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
NAME = Identifier(type="dns", value="a.example")
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
SAN: list[x509.GeneralName] = [x509.DNSName("a.example")]


def extension(value: bytes = b"\x04\x20" + DIGEST, *, critical: bool = True,
              oid: x509.ObjectIdentifier = ACME_IDENTIFIER) -> tuple[x509.ExtensionType, bool]:
    return x509.UnrecognizedExtension(oid, value), critical


GOOD = certificate(KEY, SAN, extensions=[extension()])


async def hold(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    assert await reader.read() == b""


async def validate(
    mock_dns: MockDns, context: ssl.SSLContext, *, identifier: Identifier = NAME, host: str = "127.0.0.1"
) -> HostileServer:
    mock_dns.default["A"] = [host]
    async with serve(hold, host=host, tls=context) as server:
        await validator(mock_dns, server.port).validate(identifier, AUTHORIZATION, new_evidence())
    return server


def validator(mock_dns: MockDns, port: int) -> TlsAlpn01:
    resolver = Resolver(servers=servers_of(mock_dns.address), random_bytes=os.urandom)
    return TlsAlpn01(dialer=Dialer(resolver=resolver, policy=open_policy()), port=port)


async def failure(mock_dns: MockDns, context: ssl.SSLContext) -> ValidationFailure:
    with pytest.raises(ValidationFailure) as caught:
        await validate(mock_dns, context)
    return caught.value


async def test_ta1_the_right_certificate_validates(mock_dns: MockDns, tmp_path: Path) -> None:
    """TA1, TA2, TA5: SNI is the name, ALPN acme-tls/1 alone is offered, nothing is sent after the handshake."""
    context = server_context(tmp_path, [GOOD], KEY, alpn=["acme-tls/1"])
    names: list[str | None] = []
    context.sni_callback = lambda _tls, name, _context: names.append(name)
    await validate(mock_dns, context)
    assert names == ["a.example"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
async def test_ta1_tls_1_2_and_later(mock_dns: MockDns, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """TA1: TLS 1.2 and 1.3 are spoken."""
    context = server_context(tmp_path, [GOOD], KEY, alpn=["acme-tls/1"])
    context.maximum_version = version
    await validate(mock_dns, context)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_e92_tls_1_1_is_refused(mock_dns: MockDns, tmp_path: Path) -> None:
    """TA1, E92: a server of TLS 1.1 alone is type tls."""
    context = server_context(tmp_path, [GOOD], KEY, alpn=["acme-tls/1"], maximum=ssl.TLSVersion.TLSv1_1)
    assert (await failure(mock_dns, context)).type == "tls"


@pytest.mark.parametrize("alpn", [None, ["h2"], ["http/1.1", "h2"]], ids=str)
async def test_ta2_e91_other_alpn_fails(mock_dns: MockDns, tmp_path: Path, alpn: list[str] | None) -> None:
    """TA2, E91: no ALPN or another protocol: incorrectResponse, although the certificate is right."""
    caught = await failure(mock_dns, server_context(tmp_path, [GOOD], KEY, alpn=alpn))
    assert caught.type == "incorrectResponse"
    assert "acme-tls/1" in caught.detail


async def test_ta2_the_alert_about_alpn_says_the_same(mock_dns: MockDns) -> None:
    """E91: a server that answers with alert 120 (no application protocol) did not select it either."""

    async def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"\x15\x03\x03\x00\x02\x02\x78")
        await writer.drain()

    assert (await hostile_failure(mock_dns, alert)).type == "incorrectResponse"


WRONG: dict[str, Callable[[], list[x509.Certificate]]] = {
    "two SANs": lambda: [certificate(KEY, [*SAN, x509.DNSName("b.example")], extensions=[extension()])],
    "the SAN twice": lambda: [certificate(KEY, SAN * 2, extensions=[extension()])],
    "SAN and iPAddress": lambda: [certificate(
        KEY, [*SAN, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], extensions=[extension()])],
    "CN only": lambda: [certificate(KEY, [], extensions=[extension()])],
    "another name": lambda: [certificate(KEY, [x509.DNSName("b.example")], extensions=[extension()])],
    "the name as a URI": lambda: [certificate(
        KEY, [x509.UniformResourceIdentifier("a.example")], extensions=[extension()])],
    "not critical": lambda: [certificate(KEY, SAN, extensions=[extension(critical=False)])],
    "digest of 31 bytes": lambda: [certificate(KEY, SAN, extensions=[extension(b"\x04\x1f" + DIGEST[:31])])],
    "digest of 33 bytes": lambda: [certificate(KEY, SAN, extensions=[extension(b"\x04\x21" + DIGEST + b"x")])],
    "trailing byte": lambda: [certificate(KEY, SAN, extensions=[extension(b"\x04\x20" + DIGEST + b"\x00")])],
    "no inner OCTET STRING": lambda: [certificate(KEY, SAN, extensions=[extension(DIGEST)])],
    "BER length": lambda: [certificate(KEY, SAN, extensions=[extension(b"\x04\x81\x20" + DIGEST)])],
    "BER constructed": lambda: [certificate(KEY, SAN, extensions=[extension(b"\x24\x22\x04\x20" + DIGEST)])],
    "another digest": lambda: [certificate(KEY, SAN, extensions=[extension(b"\x04\x20" + bytes(32))])],
    "old OID": lambda: [certificate(KEY, SAN, extensions=[extension(
        oid=x509.ObjectIdentifier("1.3.6.1.5.5.7.1.30.1"))])],
    "no extension": lambda: [certificate(KEY, SAN, extensions=[])],
    "another issuer": lambda: [certificate(KEY, SAN, extensions=[extension()], issuer_cn="y")],
    "signed by another key": lambda: [certificate(KEY, SAN, extensions=[extension()], signer=OTHER_KEY)],
    "valid only as the second": lambda: [certificate(KEY, SAN, extensions=[]), GOOD],
}


@pytest.mark.parametrize("chain", WRONG.values(), ids=WRONG.keys())
async def test_e91_certificates_that_are_not_the_right_one(
    mock_dns: MockDns, tmp_path: Path, chain: Callable[[], list[x509.Certificate]]
) -> None:
    """TA3, TA4, TA5, E91: each is incorrectResponse, at once, and the detail says what is wrong."""
    caught = await failure(mock_dns, server_context(tmp_path, chain(), KEY, alpn=["acme-tls/1"]))
    assert (caught.type, caught.transient) == ("incorrectResponse", False)
    assert "the certificate that 127.0.0.1 port" in caught.detail


async def test_ta3_ta4_what_does_not_matter(mock_dns: MockDns, tmp_path: Path) -> None:
    """TA3, TA4: expired dates, other extensions, letter case of the name and a CN of its own are all fine."""
    shouted = certificate(KEY, [x509.DNSName("A.Example")], extensions=[
        extension(), (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)])
    await validate(mock_dns, server_context(tmp_path, [shouted], KEY, alpn=["acme-tls/1", "h2"]))


def test_e91_an_extension_twice_is_refused() -> None:
    """TA3, E91: the same extension a second time spoils the certificate, whichever of the two is right."""
    der = certificate(KEY, SAN, extensions=[extension(b"\x04\x20" + bytes(32)), (x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.5.5.7.1.99"), b"\x04\x20" + DIGEST), True)]).public_bytes(
            encoding=Encoding.DER)
    twice = der.replace(bytes.fromhex("06082b06010505070163"), bytes.fromhex("06082b0601050507011f"))
    assert twice != der
    assert _fault_of(twice, NAME, DIGEST) == "has an extension twice"


@pytest.mark.parametrize("length_bytes", [0, 1, 100, 300])
def test_garbage_in_place_of_a_certificate_is_a_fault(length_bytes: int) -> None:
    """Truncated or altered certificates are refused without an exception."""
    der = GOOD.public_bytes(Encoding.DER)
    assert _fault_of(der[:length_bytes], NAME, DIGEST) == "cannot be parsed"
    assert _fault_of(der + b"x", NAME, DIGEST) == "cannot be parsed"


@pytest.mark.parametrize(("address", "reverse"), [("127.0.0.1", "1.0.0.127.in-addr.arpa"),
                                                  ("::1", f"1.{'0.' * 31}ip6.arpa")])
async def test_ip3_addresses_are_asked_for_by_their_reverse_name(
    mock_dns: MockDns, tmp_path: Path, address: str, reverse: str
) -> None:
    """IP3: SNI is the reverse-mapping name, the SAN one iPAddress with the very octets; a dNSName does not count."""
    identifier = Identifier(type="ip", value=address)
    good = certificate(KEY, [x509.IPAddress(ipaddress.ip_address(address))], extensions=[extension()])
    context = server_context(tmp_path, [good], KEY, alpn=["acme-tls/1"])
    names: list[str | None] = []
    context.sni_callback = lambda _tls, name, _context: names.append(name)
    await validate(mock_dns, context, identifier=identifier, host=address)
    assert names == [reverse]
    assert mock_dns.queries == []
    for wrong in (x509.DNSName(address.replace(":", "")), x509.DNSName(reverse),
                  x509.IPAddress(ipaddress.ip_address("127.0.0.2"))):
        chain = [certificate(KEY, [wrong], extensions=[extension()])]
        with pytest.raises(ValidationFailure) as caught:
            await validate(mock_dns, server_context(tmp_path, chain, KEY, alpn=["acme-tls/1"]),
                           identifier=identifier, host=address)
        assert caught.value.type == "incorrectResponse"


async def hostile_failure(
    mock_dns: MockDns, handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object], *, timeout_s: float = 10
) -> ValidationFailure:
    mock_dns.default["A"] = ["127.0.0.1"]
    async with serve(handler) as server:  # type: ignore[arg-type]
        with pytest.raises(ValidationFailure) as caught:
            async with asyncio.timeout(timeout_s):
                await validator(mock_dns, server.port).validate(NAME, AUTHORIZATION, new_evidence())
    return caught.value


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28",
                                      b"SSH-2.0\r\n", b""], ids=["plain HTTP", "alert", "SSH", "close"])
async def test_e92_what_is_no_tls(mock_dns: MockDns, greeting: bytes) -> None:
    """E92: plain HTTP, an alert, a banner or a close on port 443 is type tls."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(greeting)
        await writer.drain()

    assert (await hostile_failure(mock_dns, handler)).type == "tls"


async def test_e92_an_endless_handshake_is_cut(mock_dns: MockDns) -> None:
    """E92: a flood of handshake bytes (a certificate of 10 MB) ends after at most 256 KiB, long before ten seconds."""
    sent_bytes = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        await reader.read(4096)
        record = b"\x16\x03\x03\x40\x00" + b"\x0b\x98\x96\x80" + b"\x00" * 16380
        while True:
            writer.write(record)
            await writer.drain()
            sent_bytes += len(record)

    began_s = time.monotonic()
    caught = await hostile_failure(mock_dns, flood)
    assert caught.type in ("tls", "connection")
    assert time.monotonic() - began_s < 9


async def test_e92_a_stalled_handshake_waits_for_the_deadline(mock_dns: MockDns) -> None:
    """E92: a server that accepts and says nothing holds us until the deadline of the try, and no longer."""

    async def stall(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    mock_dns.default["A"] = ["127.0.0.1"]
    evidence = new_evidence()
    async with serve(stall) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await validator(mock_dns, server.port).validate(NAME, AUTHORIZATION, evidence)
    assert evidence.phase == f"waiting for the TLS handshake of 127.0.0.1 port {server.port}"


async def test_e92_a_thousand_session_tickets_are_not_read(mock_dns: MockDns, tmp_path: Path) -> None:
    """E92, TA2: after the handshake we hang up; tickets are neither asked for nor waited for."""
    context = server_context(tmp_path, [GOOD], KEY, alpn=["acme-tls/1"])
    context.num_tickets = 1000
    await validate(mock_dns, context)



