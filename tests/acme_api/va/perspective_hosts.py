"""Remote perspectives on loopback: each with its own resolver, certificate and server, asked over real TLS."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from acme_api.va.caa import CaaChecker
from acme_api.va.check import Checker
from acme_api.va.dial import Dialer
from acme_api.va.dns01 import Dns01
from acme_api.va.dns_persist01 import DnsPersist01
from acme_api.va.http01 import Http01, Http01Ports
from acme_api.va.lanes import Lanes
from acme_api.va.look import Looker
from acme_api.va.methods import Methods
from acme_api.va.perspective_client import RemotePerspective
from acme_api.va.perspective_server import PerspectiveServer, serve
from acme_api.va.perspective_tls import client_context, server_context
from acme_api.va.perspectives import Perspectives
from acme_api.va.resolver import Resolver, servers_of
from acme_api.va.tlsalpn01 import TlsAlpn01
from ca.admin.perspective_certificate import make_certificate
from ca.pki.corroboration import CorroborationRule
from ca.process.ambient import system_ambient
from tests.acme_api.va.hostile import open_policy
from tests.mock_dns import MockDns

RIRS = ("RIPE NCC", "ARIN", "APNIC", "LACNIC", "AFRINIC")


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key."""

    certificate: Path
    key: Path


def identity(directory: Path, name: str, *, client: bool = False) -> Identity:
    """A new self-signed certificate."""
    made = Identity(directory / f"{name}.pem", directory / f"{name}.key")
    make_certificate(name, certificate=made.certificate, key=made.key, client=client, now=datetime.now(UTC),
                     serial=os.urandom(16))
    return made


def looker(dns: MockDns, *, port: int, retry_delays_s: Sequence[float] = ()) -> Looker:
    """Looks with this resolver at servers on this port."""
    resolver = Resolver(servers=servers_of(dns.address), random_bytes=os.urandom)
    dialer = Dialer(resolver=resolver, policy=open_policy())
    methods = Methods(
        http_01=Http01(dialer=dialer, ports=Http01Ports(http=port), user_agent="x"), dns_01=Dns01(resolver=resolver),
        tls_alpn_01=TlsAlpn01(dialer=dialer, port=port),
        dns_persist_01=DnsPersist01(resolver=resolver, issuer_names=["ca.example"]),
        caa=CaaChecker(resolver=resolver, identities=frozenset({"ca.example"})))
    return Looker(methods=methods, lanes=Lanes(concurrency=20), retry_delays_s=retry_delays_s)


@dataclass(slots=True, kw_only=True)
class Host:
    """One running remote perspective."""

    name: str
    dns: MockDns
    address: str
    identity: Identity
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def shut_down(self) -> None:
        """The host is away from now on."""
        self.stop.set()
        await self.task


@asynccontextmanager
async def run_host(
    name: str, *, directory: Path, va: Identity, port: int, max_looks: int = 20, shows: Identity | None = None,
    handshake_timeout_s: float = 5.0,
) -> AsyncIterator[Host]:
    """A remote perspective `name` that validates at `port`; it shows its own certificate unless `shows` is another."""
    own = identity(directory, name)
    shown = shows or own
    stop = asyncio.Event()
    async with MockDns() as dns:
        listening = [_listening()]
        server = PerspectiveServer(name=name, looker=looker(dns, port=port), lanes=Lanes(concurrency=20),
                                   max_looks=max_looks, ambient=system_ambient())
        context = server_context(certificate=shown.certificate, key=shown.key, clients=va.certificate)
        task = asyncio.create_task(serve(server, listening, context, stop,
                                         handshake_timeout_s=handshake_timeout_s))
        host = Host(name=name, dns=dns, address=f"127.0.0.1:{listening[0].getsockname()[1]}", identity=own, stop=stop,
                    task=task)
        try:
            yield host
        finally:
            await host.shut_down()


def _listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


def client(host: Host, va: Identity, *, pinned: Identity | None = None, name: str | None = None,
           timeout_s: float = 22.0, rir: str = "RIPE NCC") -> RemotePerspective:
    """The primary's end, which pins the host's own certificate unless `pinned` is another."""
    return RemotePerspective(
        name=name or host.name, rir=rir, address=host.address, ambient=system_ambient(), timeout_s=timeout_s,
        connect_timeout_s=3.0, longest_back_off_s=60.0,
        context=client_context(certificate=va.certificate, key=va.key, server=(pinned or host.identity).certificate))


@dataclass(slots=True, kw_only=True)
class World:
    """A primary perspective and remote ones."""

    checker: Checker
    perspectives: Perspectives
    dns: MockDns
    hosts: list[Host]

    def resolve(self, name: str, address: str, *, at: Sequence[int] | None = None) -> None:
        """`name` has this address for everybody, or for the remote perspectives at these positions."""
        for dns in [self.dns, *(host.dns for host in self.hosts)] if at is None else [
                self.hosts[position].dns for position in at]:
            dns.set(name, "A", address)


@asynccontextmanager
async def world(
    directory: Path, *, port: int, remotes: int = 5, rule: Callable[[datetime], CorroborationRule],
    retry_delays_s: Sequence[float] = (), wrong_certificates: Sequence[int] = (), straggler_grace_s: float = 20.0,
) -> AsyncIterator[World]:
    """Everything in one process, on loopback; `wrong_certificates` are positions that show one that is not pinned."""
    va = identity(directory, "va", client=True)
    async with AsyncExitStack() as stack:
        dns = await stack.enter_async_context(MockDns())
        hosts = [await stack.enter_async_context(run_host(
            f"p{number}", directory=directory, va=va, port=port,
            shows=identity(directory, f"wrong{number}") if number in wrong_certificates else None))
            for number in range(remotes)]
        perspectives = Perspectives([client(host, va, rir=RIRS[number % 5]) for number, host in enumerate(hosts)],
                                    rule=rule, now=system_ambient().now, straggler_grace_s=straggler_grace_s)
        stack.push_async_callback(perspectives.close)
        checker = Checker(
            looker=looker(dns, port=port, retry_delays_s=retry_delays_s), ambient=system_ambient(),
            account_url=lambda account_id: f"https://ca.example/{account_id.hex()}", reuse=timedelta(days=30),
            corroborate=perspectives.corroborate)
        yield World(checker=checker, perspectives=perspectives, dns=dns, hosts=hosts)
