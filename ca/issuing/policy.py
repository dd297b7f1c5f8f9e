"""What the configuration means for issuance: read once, passed on as a value."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ca.pki.domain_control import PRIMARY_ALONE, PerspectivePolicy
from ca.pki.identifier import Identifier, IdentifierError, NamePolicy, parse_identifier, require_public_host
from ca.pki.profile import PROFILES, Profile, offered_profiles
from ca.process.lifecycle import StartupError
from ca.process.public_settings import public_urls
from ca.process.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuancePolicy:
    """Names that may be certified, and the URLs that stand in certificates for as long as they live."""

    acme_base_url: str
    names: NamePolicy
    service_names: frozenset[Identifier]
    ocsp_url: str
    aia_base_url: str
    crl_base_url: str
    profiles: Mapping[str, Profile] = field(default_factory=lambda: PROFILES)
    dns_persist_profiles: frozenset[str] = frozenset()
    subdomains: bool = False
    perspectives: PerspectivePolicy = PRIMARY_ALONE


def issuance_policy(settings: Settings) -> IssuancePolicy:
    """The policy of the configuration. Raises StartupError for a service name or a profile that is none, and under the
    public policy for a URL on a host that the Internet does not know: lint would refuse every certificate."""
    try:
        profiles = offered_profiles(settings.ca.profiles)
    except ValueError as fault:
        raise StartupError(f"ca.profiles: {fault}") from fault
    if settings.policy == "public":
        for key, url in public_urls(settings):
            _require_public_url(key, url)
    return IssuancePolicy(
        acme_base_url=settings.acme.base_url,
        names=NamePolicy(internal_suffixes=tuple(settings.ca.internal_suffixes), public=settings.policy == "public",
                         internal_prefixes=tuple(settings.va.allowed_prefixes),
                         allow_loopback=settings.va.allow_loopback),
        service_names=frozenset(_service_name(name) for name in settings.ca.service_names),
        ocsp_url=settings.ca.ocsp_url,
        aia_base_url=settings.ca.aia_base_url,
        crl_base_url=settings.ca.crl_base_url,
        profiles=profiles,
        dns_persist_profiles=frozenset(settings.va.dns_persist_profiles),
        subdomains=settings.va.subdomains,
        perspectives=PerspectivePolicy(public=settings.policy == "public",
                                       least_corroborated=settings.ca.least_corroborated),
    )


def _service_name(name: str) -> Identifier:
    try:
        ipaddress.ip_address(name)
        kind = "ip"
    except ValueError:
        kind = "dns"
    try:
        return parse_identifier(kind, name, single_label=True)
    except IdentifierError as fault:
        raise StartupError(f"ca.service_names: {fault.detail}") from fault


def _require_public_url(key: str, url: str) -> None:
    try:
        require_public_host(urlsplit(url).hostname or "")
    except IdentifierError as fault:
        raise StartupError(f"{key}: {fault.detail}") from fault
