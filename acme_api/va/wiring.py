"""Everything that a configuration says about how names are looked at, from the primary perspective and remote ones."""

import ipaddress
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

import structlog

from acme_api.protocol.dns_persist import issuer_domain_names
from acme_api.va.address import AddressPolicy
from acme_api.va.caa import CaaChecker
from acme_api.va.dial import Dialer
from acme_api.va.dns01 import Dns01
from acme_api.va.dns_persist01 import DnsPersist01
from acme_api.va.http01 import Http01, Http01Ports
from acme_api.va.lanes import OPEN_PER_PLACE, Lanes
from acme_api.va.methods import Methods
from acme_api.va.resolver import Resolver, servers_of
from acme_api.va.tlsalpn01 import TlsAlpn01
from ca.pki.special_addresses import LOOPBACK, IpAddress, IpNetwork
from ca.process.ambient import Ambient
from ca.process.http import parse_listen
from ca.process.lifecycle import StartupError
from ca.process.settings import PerspectiveSettings, Settings, VaSettings

_DESCRIPTORS_PER_VALIDATION: Final = 4
_OTHER_DESCRIPTORS: Final = 200
_WANTED_DESCRIPTORS: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Standpoint:
    """Where and under which rules this process looks. `own_hosts` and `own_listen` are the CA's, never validated."""

    va: VaSettings
    public: bool
    website: str
    own_hosts: frozenset[str]
    own_listen: tuple[str, ...]


def primary(settings: Settings) -> Standpoint:
    """The validation authority's own standpoint."""
    urls = (settings.acme.base_url, settings.ca.ocsp_url, settings.ca.aia_base_url, settings.ca.crl_base_url)
    return Standpoint(
        va=settings.va, public=settings.policy == "public", website=settings.acme.website,
        own_hosts=frozenset(urlsplit(url).hostname or "" for url in urls),
        own_listen=(*settings.acme.listen, *settings.ocsp.listen, *settings.distribution.listen,
                    *settings.admin.listen))


def remote(settings: PerspectiveSettings) -> Standpoint:
    """A remote perspective's standpoint: what the CA's own hosts are, its configuration repeats."""
    return Standpoint(va=settings.va, public=settings.policy == "public", website=settings.perspective.website,
                      own_hosts=frozenset(settings.perspective.ca_hosts),
                      own_listen=tuple(settings.perspective.listen))


def make_methods(standpoint: Standpoint, ambient: Ambient) -> Methods:
    """The methods as they are configured. Raises StartupError when the settings cannot be right."""
    va = standpoint.va
    resolver = Resolver(servers=servers_of(va.resolver), random_bytes=ambient.random_bytes,
                        localhost_names=va.localhost_names, require_dnssec=standpoint.public or va.require_dnssec)
    dialer = Dialer(resolver=resolver, policy=address_policy(standpoint), max_per_address=va.connections_per_address)
    website = f" (+{standpoint.website})" if standpoint.website else ""
    return Methods(
        http_01=Http01(dialer=dialer, ports=Http01Ports(http=va.http_01_port, https=va.https_port),
                       user_agent=f"Chancery-VA/{version('chancery')}{website}", refused_hosts=standpoint.own_hosts),
        dns_01=Dns01(resolver=resolver),
        tls_alpn_01=TlsAlpn01(dialer=dialer, port=va.tls_alpn_01_port),
        dns_persist_01=DnsPersist01(resolver=resolver, issuer_names=issuer_domain_names(va.caa_identities)),
        caa=CaaChecker(resolver=resolver, identities=frozenset(name.lower() for name in va.caa_identities),
                       exempt_suffixes=_internal_only(standpoint, "caa_exempt_suffixes", va.caa_exempt_suffixes)))


def make_lanes(va: VaSettings) -> Lanes:
    """As many looks side by side as the settings and the system allow."""
    return Lanes(concurrency=va.concurrency, max_open=max_open(va.concurrency))


def address_policy(standpoint: Standpoint) -> AddressPolicy:
    """What may be dialled beside the public Internet, and the addresses of our own services, which may not (SF2)."""
    prefixes = _internal_only(standpoint, "allowed_prefixes", standpoint.va.allowed_prefixes)
    return AddressPolicy(loopback=LOOPBACK if standpoint.va.allow_loopback else (),
                         allowed=tuple(_network(prefix) for prefix in prefixes),
                         refused=frozenset(_service_addresses(standpoint)))


def _internal_only(standpoint: Standpoint, key: str, values: Sequence[str]) -> Sequence[str]:
    """A relaxation that publicly trusted issuance does not know is ignored there, and the log says so."""
    if values and standpoint.public:
        structlog.get_logger().warning("setting ignored under the public policy", key=f"va.{key}")
        return ()
    return values


def _network(prefix: str) -> IpNetwork:
    try:
        return ipaddress.ip_network(prefix)
    except ValueError as fault:
        raise StartupError(f"va.allowed_prefixes: expected networks such as 10.0.0.0/8, got {prefix!r}") from fault


def _service_addresses(standpoint: Standpoint) -> list[IpAddress]:
    hosts = [parse_listen(each)[0] for each in standpoint.own_listen] + sorted(standpoint.own_hosts)
    addresses = []
    for host in hosts:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue
        if not address.is_unspecified and not address.is_loopback:
            addresses.append(address)
    return addresses


def max_open(concurrency: int) -> int:
    """As many as the lanes want, fewer where the system allows fewer open sockets, whose limit is raised first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    affordable = max((soft - _OTHER_DESCRIPTORS) // _DESCRIPTORS_PER_VALIDATION, 1)
    if soft == resource.RLIM_INFINITY:
        affordable = _WANTED_DESCRIPTORS
    return min(concurrency * OPEN_PER_PLACE, affordable)
