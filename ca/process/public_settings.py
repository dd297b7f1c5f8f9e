"""What `policy = "public"` demands of a configuration beyond what every CA needs.

The relaxations of an internal CA are refused, not passed over: who writes one expects it to hold. What needs the public
suffix list or the date (names of URLs, enough perspectives) the processes themselves ask for when they start, and
`chancery config check` before them.
"""

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ca.process.settings import Settings, VaSettings

_UNDER: Final = 'under policy = "public"'
_Require = Callable[[bool, str, str], None]


def require_public_validation(va: "VaSettings", require: _Require) -> None:
    """Calls `require` with what has to hold, the key, and the form that is expected: names of the Internet are
    validated at their standard ports (RFC 8555 8.3, RFC 8737 3, BR 3.2.2.4.19), and CAA is for every one (BR 3.2.2.8).
    """
    for key, relaxed in (("va.allow_loopback", va.allow_loopback), ("va.localhost_names", va.localhost_names)):
        require(not relaxed, key, f"expected false {_UNDER}")
    for key, exempted in (("va.allowed_prefixes", va.allowed_prefixes),
                          ("va.caa_exempt_suffixes", va.caa_exempt_suffixes)):
        require(not exempted, key, f"expected none {_UNDER}, got {', '.join(exempted)}")
    for key, port, standard in (("va.http_01_port", va.http_01_port, 80), ("va.https_port", va.https_port, 443),
                                ("va.tls_alpn_01_port", va.tls_alpn_01_port, 443)):
        require(port == standard, key, f"expected {standard} {_UNDER}, got {port}")


def require_public(settings: "Settings", require: _Require) -> None:
    """As `require_public_validation`, for the whole configuration of a CA."""
    require_public_validation(settings.va, require)
    require(not settings.ca.internal_suffixes, "ca.internal_suffixes",
            f"expected none {_UNDER}, got {', '.join(settings.ca.internal_suffixes)}")
    for key, names in (("acme.service_names", settings.acme.service_names),
                       ("ca.service_names", settings.ca.service_names)):
        require(not names, key, f"expected none {_UNDER}: no name is certified without validation, not even our own "
                "(BR 3.2.2.4); put a certificate that was ordered like any other into acme.tls_certificate and "
                "acme.tls_key, or end TLS in a proxy (acme.tls = false)")
    for key, url in public_urls(settings):
        require(_is_dotted_name(urlsplit(url).hostname or ""), key,
                f"expected a URL on a name of the Internet {_UNDER} (BR 7.1.2.7, 7.1.2.11.2), got {url!r}")


def public_urls(settings: "Settings") -> tuple[tuple[str, str], ...]:
    """Key and URL of everything that the whole Internet has to reach."""
    return (("acme.base_url", settings.acme.base_url), ("ca.ocsp_url", settings.ca.ocsp_url),
            ("ca.aia_base_url", settings.ca.aia_base_url), ("ca.crl_base_url", settings.ca.crl_base_url))


def _is_dotted_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." in host.strip(".")
    return False
