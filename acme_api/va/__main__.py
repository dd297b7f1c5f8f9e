"""`chancery run va`: the validation authority's process, wired from the settings."""

import asyncio
import ipaddress
import resource
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

import structlog

from acme_api.protocol.directory import account_url
from acme_api.protocol.dns_persist import issuer_domain_names
from acme_api.va.address import AddressPolicy
from acme_api.va.caa import CaaChecker
from acme_api.va.check import Checker
from acme_api.va.dial import Dialer
from acme_api.va.dns01 import Dns01
from acme_api.va.dns_persist01 import DnsPersist01
from acme_api.va.http01 import Http01, Http01Ports
from acme_api.va.lanes import IN_FLIGHT_PER_PLACE, Lanes
from acme_api.va.methods import Methods
from acme_api.va.perform import Performer
from acme_api.va.resolver import Resolver, servers_of
from acme_api.va.store import VaStore
from acme_api.va.tlsalpn01 import TlsAlpn01
from ca.pki.special_addresses import LOOPBACK, IpAddress, IpNetwork
from ca.process.ambient import Ambient, system_ambient
from ca.process.http import parse_listen
from ca.process.lifecycle import StartupError, ready, run_process
from ca.process.postgres import Listener, create_pool
from ca.process.settings import Settings
from ca.process.worker import is_dead, worker_name

ROLE: Final = "acme_va"
_DESCRIPTORS_PER_VALIDATION: Final = 4
_OTHER_DESCRIPTORS: Final = 200
_WANTED_DESCRIPTORS: Final = 65_536


def main(settings: Settings) -> int:
    """Validates until it is told to stop; the exit code."""
    return run_process("va", lambda stop: _run(settings, stop))


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    ambient = system_ambient()
    lanes = Lanes(concurrency=settings.va.concurrency, max_in_flight=_max_in_flight(settings.va.concurrency))
    checker = make_checker(settings, ambient, lanes)
    wake = asyncio.Event()
    pool = await create_pool(settings.database, ROLE, process="va")
    try:
        store = VaStore(pool, leased_by=f"{worker_name()}:{ambient.random_bytes(8).hex()}")
        dead = [worker for worker in await store.lease_holders() if is_dead(worker)]
        if dead:
            await store.free_dead(dead)
        performer = Performer(store=store, checker=checker, lanes=lanes, log=structlog.get_logger())
        async with Listener(settings.database, ROLE, "va", {"validation": lambda _payload: wake.set()}):
            ready()
            await performer.run(wake=wake, stop=stop)
    finally:
        pool.terminate()


def make_checker(settings: Settings, ambient: Ambient, lanes: Lanes) -> Checker:
    """Everything that the settings say about how names are validated. Raises StartupError when they cannot be right."""
    va = settings.va
    resolver = Resolver(servers=servers_of(va.resolver), random_bytes=ambient.random_bytes,
                        localhost_names=va.localhost_names)
    dialer = Dialer(resolver=resolver, policy=address_policy(settings))
    website = f" (+{settings.acme.website})" if settings.acme.website else ""
    methods = Methods(
        http_01=Http01(dialer=dialer, ports=Http01Ports(http=va.http_01_port, https=va.https_port),
                       user_agent=f"Chancery-VA/{version('chancery')}{website}", refused_hosts=_own_hosts(settings)),
        dns_01=Dns01(resolver=resolver),
        tls_alpn_01=TlsAlpn01(dialer=dialer, port=va.tls_alpn_01_port),
        dns_persist_01=DnsPersist01(resolver=resolver, issuer_names=issuer_domain_names(va.caa_identities)),
        caa=CaaChecker(resolver=resolver, identities=frozenset(name.lower() for name in va.caa_identities),
                       exempt_suffixes=_internal_only(settings, "caa_exempt_suffixes", va.caa_exempt_suffixes)))
    return Checker(methods=methods, lanes=lanes, ambient=ambient, reuse=timedelta(seconds=va.validation_reuse_s),
                   persist=bool(va.dns_persist_profiles),
                   account_url=lambda account_id: account_url(settings.acme.base_url, account_id))


def address_policy(settings: Settings) -> AddressPolicy:
    """What may be dialled beside the public Internet, and the addresses of our own services, which may not (SF2)."""
    prefixes = _internal_only(settings, "allowed_prefixes", settings.va.allowed_prefixes)
    return AddressPolicy(loopback=LOOPBACK if settings.va.allow_loopback else (),
                         allowed=tuple(_network(prefix) for prefix in prefixes),
                         refused=frozenset(_service_addresses(settings)))


def _internal_only(settings: Settings, key: str, values: Sequence[str]) -> Sequence[str]:
    """A relaxation that publicly trusted issuance does not know is ignored there, and the log says so."""
    if values and settings.policy == "public":
        structlog.get_logger().warning("setting ignored under the public policy", key=f"va.{key}")
        return ()
    return values


def _network(prefix: str) -> IpNetwork:
    try:
        return ipaddress.ip_network(prefix)
    except ValueError as fault:
        raise StartupError(f"va.allowed_prefixes: expected networks such as 10.0.0.0/8, got {prefix!r}") from fault


def _service_addresses(settings: Settings) -> list[IpAddress]:
    listen = (*settings.acme.listen, *settings.ocsp.listen, *settings.distribution.listen, *settings.admin.listen)
    hosts = [parse_listen(each)[0] for each in listen] + sorted(_own_hosts(settings))
    addresses = []
    for host in hosts:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue
        if not address.is_unspecified and not address.is_loopback:
            addresses.append(address)
    return addresses


def _own_hosts(settings: Settings) -> frozenset[str]:
    urls = (settings.acme.base_url, settings.ca.ocsp_url, settings.ca.aia_base_url, settings.ca.crl_base_url)
    return frozenset(urlsplit(url).hostname or "" for url in urls)


def _max_in_flight(concurrency: int) -> int:
    """As many as the lanes want, fewer where the system allows fewer open sockets, whose limit is raised first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    affordable = max((soft - _OTHER_DESCRIPTORS) // _DESCRIPTORS_PER_VALIDATION, 1)
    if soft == resource.RLIM_INFINITY:
        affordable = _WANTED_DESCRIPTORS
    return min(concurrency * IN_FLIGHT_PER_PLACE, affordable)
