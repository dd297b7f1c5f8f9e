"""The one dialer: every connection that validation makes goes through here (rows SF1, SF2, SF6).

A name is resolved by us, every address is judged, and the connection goes to a judged address: nothing below this
module looks a name up again, so an answer that changes between two questions (DNS rebinding) changes nothing. What can
be read of a connection is bounded, TLS included, because TLS runs here over memory buffers and every octet is counted.
"""

import asyncio
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from acme_api.va.address import AddressPolicy, AddressRefused
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.gate import FairGate
from acme_api.va.resolver import Resolver
from ca.pki.identifier import registered_domain
from ca.pki.special_addresses import IpAddress

Host: TypeAlias = str | IpAddress

CONNECT_TIMEOUT_S: Final = 5.0
_MAX_ADDRESSES: Final = 2
_READ_BYTES: Final = 16_384
_OPENSSL_TEXT: Final = re.compile(r"\] ([a-z0-9 ]+) \(_ssl\.c", re.ASCII)
_CONNECTIONS_PER_HOST: Final = 20
CONNECTIONS_PER_ADDRESS: Final = 200
_V6_NETWORK_BITS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a connection goes: an address that was judged, and a port."""

    address: IpAddress
    port: int

    def __str__(self) -> str:
        """As a subscriber reads it: "192.0.2.1 port 80"."""
        return f"{self.address} port {self.port}"


class Connection:
    """One TCP connection, after `start_tls` one TLS connection, that reads at most `max_read_bytes` octets in all."""

    def __init__(self, connected: socket.socket, endpoint: Endpoint, *, max_read_bytes: int) -> None:
        self.endpoint = endpoint
        self._socket = connected
        self._left_bytes = max_read_bytes
        self._max_read_bytes = max_read_bytes
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str | None) -> ssl.SSLObject:
        """Makes the handshake. Raises ssl.SSLError as OpenSSL says it, ValidationFailure when the other end is gone."""
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        try:
            while not await self._step(tls):
                data = await self._receive_raw()
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as fault:      # which of the two depends on Python's version
            raise ValidationFailure("tls", f"{self.endpoint} closed the connection during the TLS handshake",
                                    transient=True) from fault
        self._tls = tls
        return tls

    async def _step(self, tls: ssl.SSLObject) -> bool:
        """Goes on with the handshake as far as it can; whatever comes out of it is sent, an alert included."""
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await self._flush()
            return False
        except ssl.SSLError:
            with suppress(ValidationFailure):
                await self._flush()
            raise
        await self._flush()
        return True

    async def send(self, data: bytes) -> None:
        """Writes everything. Raises ValidationFailure when the other side is gone."""
        if self._tls is None:
            await self._send_raw(data)
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as fault:
            raise ValidationFailure("tls", f"TLS with {self.endpoint} failed: {tls_reason(fault)}") from fault
        await self._flush()

    async def receive(self) -> bytes:
        """What has arrived, b"" at the end of the stream. Raises ValidationFailure beyond the limit or on a reset."""
        if self._tls is None:
            return await self._receive_raw()
        while True:
            try:
                return self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._receive_raw()
                if not data:
                    # An end without close_notify: content that must be complete says its own length.
                    return b""
                self._incoming.write(data)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as fault:
                raise ValidationFailure("tls", f"TLS with {self.endpoint} failed: {tls_reason(fault)}") from fault

    def close(self) -> None:
        """Closes at once: nothing is sent, nothing is waited for."""
        self._socket.close()

    async def _receive_raw(self) -> bytes:
        if self._left_bytes <= 0:
            raise ValidationFailure("connection", f"{self.endpoint} sent more than {self._max_read_bytes} bytes")
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, min(_READ_BYTES, self._left_bytes))
        except OSError as fault:
            raise self._lost(fault) from fault
        self._left_bytes -= len(data)
        return data

    async def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            await self._send_raw(data)

    async def _send_raw(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as fault:
            raise self._lost(fault) from fault

    def _lost(self, fault: OSError) -> ValidationFailure:
        return ValidationFailure("connection", f"the connection to {self.endpoint} broke: {_words(fault)}",
                                 transient=True)


class Dialer:
    """Opens connections for validations: at once at most `_CONNECTIONS_PER_HOST` to one host, and `max_per_address` to
    one address, whatever the names are called that point to it; half of these for names of one registered domain."""

    def __init__(
        self, *, resolver: Resolver, policy: AddressPolicy, connect_timeout_s: float = CONNECT_TIMEOUT_S,
        max_per_address: int = CONNECTIONS_PER_ADDRESS,
    ) -> None:
        self._resolver = resolver
        self._policy = policy
        self._connect_timeout_s = connect_timeout_s
        self._per_host = FairGate(limit=_CONNECTIONS_PER_HOST, each=_CONNECTIONS_PER_HOST)
        self._per_address = FairGate(limit=max_per_address, each=max(max_per_address // 2, 1))

    @asynccontextmanager
    async def dial(
        self, host: Host, port: int, *, max_read_bytes: int, evidence: Evidence
    ) -> AsyncIterator[Connection]:
        """A connection to `host`, which is a name or an address, closed at the end of the block.

        Raises ValidationFailure: dns when the name has no address that may be dialled, connection when an address that
        was given literally may not be, or when none of at most two can be reached.
        """
        evidence.wait_for("too many other connections to the same host were open")
        async with self._per_host.enter(str(host), ""), AsyncExitStack() as held:
            connection = await self._open(host, port, max_read_bytes=max_read_bytes, evidence=evidence, held=held)
            try:
                yield connection
            finally:
                connection.close()

    async def _open(
        self, host: Host, port: int, *, max_read_bytes: int, evidence: Evidence, held: AsyncExitStack
    ) -> Connection:
        """The place at the address that the connection goes to is kept in `held`."""
        candidates = await self._candidates(host, evidence)
        owner = registered_domain(host) if isinstance(host, str) else str(host)
        problems: list[str] = []
        for number, address in enumerate(candidates, start=1):
            endpoint = Endpoint(address=address, port=port)
            evidence.wait_for(f"too many other connections to {address} were open")
            async with AsyncExitStack() as place:
                await place.enter_async_context(self._per_address.enter(_network_of(address), owner))
                evidence.wait_for(f"connecting to {endpoint}")
                # Half of the time for the first of two, so that the second one has a fair try within it.
                timeout_s = self._connect_timeout_s / (2 if number < len(candidates) else 1)
                try:
                    async with asyncio.timeout(timeout_s):
                        connected = await _connect(endpoint)
                except TimeoutError:
                    problems.append(f"{endpoint}: no answer within {timeout_s:.1f} seconds")
                except OSError as fault:
                    problems.append(f"{endpoint}: {_words(fault)}")
                else:
                    held.push_async_exit(place.pop_all())
                    evidence.add("connected", str(endpoint), failed=problems or None)
                    return Connection(connected, endpoint, max_read_bytes=max_read_bytes)
        evidence.add("not_connected", str(host), failed=problems)
        raise ValidationFailure("connection", "connecting failed: " + "; ".join(problems), transient=True)

    async def _candidates(self, host: Host, evidence: Evidence) -> Sequence[IpAddress]:
        if not isinstance(host, str):
            try:
                self._policy.require_dialable(host)
            except AddressRefused as refused:
                evidence.add("refused", str(host), reason=refused.reason)
                raise ValidationFailure(
                    "connection", f"address {host} is not allowed ({refused.reason})") from refused
            return (host,)
        evidence.wait_for(f"looking up the addresses of {host}", dns=True)
        answer = await self._resolver.addresses(host)
        evidence.add("addresses", host, got=[str(address) for address in answer.values],
                     aliases=answer.aliases or None, dnssec=answer.authenticated or None)
        if not answer.values:
            why = "has neither an A nor an AAAA record" if answer.exists else "does not exist (NXDOMAIN)"
            raise ValidationFailure("dns", f"{host} {why}", transient=True)
        return self._judge(host, answer.values, evidence)

    def _judge(self, host: str, addresses: Sequence[IpAddress], evidence: Evidence) -> Sequence[IpAddress]:
        dialable: list[IpAddress] = []
        refusals: list[str] = []
        for address in addresses:
            try:
                self._policy.require_dialable(address)
            except AddressRefused as refused:
                refusals.append(f"{address} ({refused.reason})")
            else:
                dialable.append(address)
        if refusals:
            evidence.add("refused", host, addresses=refusals)
        if not dialable:
            raise ValidationFailure(
                "dns", f"no address of {host} is allowed: {', '.join(refusals[:3])}")
        return _first_of_each_family(dialable)


def _network_of(address: IpAddress) -> str:
    """Whose connections are counted together: an IPv4 address by itself, an IPv6 address with its /64, of which one
    host may have every address."""
    if address.version == 4:
        return str(address)
    return str(ipaddress.IPv6Network((address, _V6_NETWORK_BITS), strict=False))


def _first_of_each_family(addresses: Sequence[IpAddress]) -> Sequence[IpAddress]:
    """IPv6, then IPv4, at most two in all (SF6)."""
    v6 = [address for address in addresses if address.version == 6]
    v4 = [address for address in addresses if address.version == 4]
    return [*v6[:1], *v4[:1]] if v6 and v4 else (v6 or v4)[:_MAX_ADDRESSES]


async def _connect(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if isinstance(endpoint.address, ipaddress.IPv6Address) else socket.AF_INET
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connecting, (str(endpoint.address), endpoint.port))
    except BaseException:
        connecting.close()
        raise
    return connecting


def client_context(*, alpn: str | None = None) -> ssl.SSLContext:
    """A TLS client that verifies nothing, speaks 1.2 or later and resumes no session: who answers is what is examined
    (tls-alpn-01), or it does not matter (a redirect, row H3)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


def tls_reason(fault: ssl.SSLError) -> str:
    """OpenSSL's own name of the failure: one of a fixed list, never text of the other side.

    Python knows some of them as `reason`; the others are in the text, between "[SSL] " and " (_ssl.c:1006)".
    """
    if fault.reason:
        return fault.reason.lower().replace("_", " ")
    text = _OPENSSL_TEXT.search(fault.strerror or "")
    return text[1] if text else "unknown error"


def tls_failure(endpoint: Endpoint, fault: ssl.SSLError) -> ValidationFailure:
    """The failure of a handshake, for the subscriber."""
    return ValidationFailure("tls", f"the TLS handshake with {endpoint} failed: {tls_reason(fault)}")


def _words(fault: OSError) -> str:
    """The error's name by its number: the text of the exception itself differs between event loops."""
    return (os.strerror(fault.errno) if fault.errno else type(fault).__name__).lower()
