"""Small servers that misbehave: raw bytes over TCP or TLS on a loopback address, counting who came."""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from acme_api.va.address import AddressPolicy
from acme_api.va.evidence import Evidence
from ca.process.ambient import system_ambient

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class HostileServer:
    """A running server: where it is, what was asked, and how many bytes its handler managed to send."""

    host: str
    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)
    sent_bytes: int = 0


@asynccontextmanager
async def serve(
    handler: Handler, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HostileServer]:
    """Runs `handler` for every connection; what is still open at the end is cut."""
    state = HostileServer(host=host, port=port)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            await handler(reader, writer)
        tasks.discard(task)
        writer.close()

    server = await asyncio.start_server(accept, host, port, ssl=tls, backlog=2048)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()


@asynccontextmanager
async def serve_bytes(
    response: bytes | Callable[[bytes], bytes], *, host: str = "127.0.0.1", port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HostileServer]:
    """Reads one request head, answers with these bytes (or what the function makes of the head), and closes."""
    holder: list[HostileServer] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        holder[0].requests.append(head)
        data = response if isinstance(response, bytes) else response(head)
        writer.write(data)
        await writer.drain()

    async with serve(handler, host=host, port=port, tls=tls) as state:
        holder.append(state)
        yield state


@asynccontextmanager
async def serve_stream(
    first: bytes, then: bytes, *, pause_s: float = 0.0, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[HostileServer]:
    """Answers with `first`, then sends `then` for ever; counts what was taken by the other side's socket."""
    holder: list[HostileServer] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        while True:
            writer.write(then)
            await writer.drain()
            holder[0].sent_bytes += len(then)
            await asyncio.sleep(pause_s)

    async with serve(handler, host=host, tls=tls) as state:
        holder.append(state)
        yield state


@contextlib.contextmanager
def black_hole(host: str, port: int = 0) -> Iterator[int]:
    """A port that answers no connection request: its queue is full and nobody takes from it. Yields the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            waiting.setblocking(False)
            waiting.connect_ex((host, listener.getsockname()[1]))
        yield listener.getsockname()[1]


async def until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Returns when the condition holds; fails the test when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is watched is in another process or socket
            await asyncio.sleep(0.005)


def open_policy(*prefixes: str) -> AddressPolicy:
    """A policy that opens these loopback networks, all of loopback when none is named."""
    opened = prefixes or ("127.0.0.0/8", "::1/128")
    return AddressPolicy(loopback=tuple(ipaddress.ip_network(prefix) for prefix in opened))


def new_evidence() -> Evidence:
    """Evidence under the real clock."""
    return Evidence(system_ambient().now)


def certificate(
    key: ec.EllipticCurvePrivateKey,
    names: list[x509.GeneralName],
    *,
    extensions: list[tuple[x509.ExtensionType, bool]],
    issuer_cn: str = "x",
    signer: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    """A certificate with these names and extensions, self-signed unless told otherwise."""
    now = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
               .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_cn)]))
               .public_key(key.public_key()).serial_number(1).not_valid_before(now)
               .not_valid_after(now + datetime.timedelta(days=1)))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer or key, hashes.SHA256())


def server_context(
    directory: Path,
    certificates: list[x509.Certificate],
    key: ec.EllipticCurvePrivateKey,
    *,
    alpn: list[str] | None = None,
    maximum: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    """A TLS server context with this chain and these ALPN protocols."""
    path = directory / f"{id(key)}-{len(list(directory.iterdir()))}.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(b"".join(each.public_bytes(pem) for each in certificates) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    if maximum is not None:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = maximum
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context
