"""What a configuration has to say to work at all, whatever the policy: settings.py has the form, this the sense."""

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from ca.process.limit_settings import require_sensible_limits
from ca.process.public_settings import require_public

if TYPE_CHECKING:
    from ca.process.settings import AcmeSettings, OcspSettings, PerspectivesSettings, Settings, VaSettings

Require: TypeAlias = Callable[[bool, str, str], None]
"""Takes whether something holds, its key, and the form that was expected; raises SettingsError when it does not."""


def require_sensible(settings: "Settings", require: Require) -> None:
    """Values of the right type that cannot work are refused through `require`."""
    base = settings.acme.base_url
    require(base.startswith("https://") and not base.endswith("/"), "acme.base_url",
            f"expected an https:// URL without a slash at its end, got {base!r}")
    for key, url in (("ca.ocsp_url", settings.ca.ocsp_url), ("ca.aia_base_url", settings.ca.aia_base_url),
                     ("ca.crl_base_url", settings.ca.crl_base_url)):
        require(url.startswith("http://") and not url.endswith("/"), key,
                f"expected an http:// URL without a slash at its end (BR 7.1.2.7.7), got {url!r}")
    require(settings.ca.default_profile in settings.ca.profiles, "ca.default_profile",
            f"expected one of ca.profiles ({', '.join(settings.ca.profiles)}), got {settings.ca.default_profile!r}")
    _require_front_end(settings.acme, require)
    for key, number in (("acme.max_in_flight", settings.acme.max_in_flight),
                        ("acme.max_connections", settings.acme.max_connections),
                        ("acme.workers", settings.acme.workers), ("va.workers", settings.va.workers),
                        ("ca.workers", settings.ca.workers), ("ocsp.workers", settings.ocsp.workers),
                        ("ocsp.presign_workers", settings.ocsp.presign_workers)):
        require(number >= 1, key, f"expected a number of at least 1, got {number}")
    require_sensible_limits(settings.limits, require)
    require(28_800 <= settings.ocsp.response_life_s <= 864_000, "ocsp.response_life_s",
            "expected 28800 to 864000 seconds (8 hours to 10 days, BR 4.9.9)")
    require(0 <= settings.ocsp.resign_jitter_s < settings.ocsp.resign_age_s, "ocsp.resign_jitter_s",
            f"expected 0 to {settings.ocsp.resign_age_s - 1} seconds, less than ocsp.resign_age_s: by so much at most "
            "responses are signed again earlier")
    require(settings.ocsp.map_size_gib >= 1, "ocsp.map_size_gib",
            f"expected a number of at least 1, got {settings.ocsp.map_size_gib}")
    require(0 <= settings.ocsp.max_age_s <= 43_200, "ocsp.max_age_s",
            "expected 0 to 43200 seconds (12 hours, when the caches in front are purged at a revocation; else 1 to 4)")
    require(0 <= settings.ocsp.gather_ms <= 1_000, "ocsp.gather_ms",
            f"expected 0 to 1000 milliseconds, got {settings.ocsp.gather_ms}")
    _require_live(settings.ocsp, require)
    require(not settings.ct_enabled or settings.ct.log_list is not None, "ct.log_list",
            "expected the path of a list of CT logs, because Certificate Transparency is on (ct.enabled)")
    for key, number in (("ct.patience_s", settings.ct.patience_s), ("ct.log_timeout_ms", settings.ct.log_timeout_ms),
                        ("ct.race_timeout_ms", settings.ct.race_timeout_ms), ("ct.stagger_ms", settings.ct.stagger_ms),
                        ("ct.concurrency", settings.ct.concurrency)):
        require(number >= 1, key, f"expected a number of at least 1, got {number}")
    require(0 < settings.acme.authorization_life_s <= 2_592_000, "acme.authorization_life_s",
            "expected 1 to 2592000 seconds: a token is good for 30 days at most (BR 3.2.2.4)")
    require_sensible_validation(settings.va, require)
    _require_perspectives(settings.perspectives, require)
    if settings.policy == "public":
        require_public(settings, require)


def _require_live(ocsp: "OcspSettings", require: Require) -> None:
    require(100 <= ocsp.live_wait_ms <= 5_000, "ocsp.live_wait_ms",
            f"expected 100 to 5000 milliseconds, got {ocsp.live_wait_ms}")
    require(1 <= ocsp.live_queue <= 20, "ocsp.live_queue", f"expected 1 to 20 places, got {ocsp.live_queue}")
    for key, rate in (("ocsp.live_per_s", ocsp.live_per_s), ("ocsp.live_client_per_s", ocsp.live_client_per_s)):
        require(0 < rate <= 10_000, key, f"expected a number above 0, up to 10000, got {rate}")
    for key, burst in (("ocsp.live_burst", ocsp.live_burst), ("ocsp.live_client_burst", ocsp.live_client_burst)):
        require(1 <= burst <= 100_000, key, f"expected 1 to 100000 requests, got {burst}")
    for network in ocsp.live_trusted_proxies:
        require(_is_network(network), "ocsp.live_trusted_proxies", f"expected an address or a network, got {network!r}")


def _require_front_end(acme: "AcmeSettings", require: Require) -> None:
    since = acme.terms_agreed_since
    require(since is None or since.tzinfo is not None, "acme.terms_agreed_since",
            "expected a time with a zone, such as 2026-12-01T00:00:00Z")
    require(since is None or bool(acme.terms_of_service), "acme.terms_of_service",
            "expected the URL of the terms, because acme.terms_agreed_since is set")
    if acme.tls:
        require(acme.tls_certificate is not None and acme.tls_key is not None,
                "acme.tls_certificate, acme.tls_key", "expected two file paths, because acme.tls is true")
    require((acme.client_address == "connection") == (not acme.trusted_proxies), "acme.trusted_proxies",
            "expected addresses or networks of proxies exactly when acme.client_address is not \"connection\"")
    for network in acme.trusted_proxies:
        require(_is_network(network), "acme.trusted_proxies", f"expected an address or a network, got {network!r}")
    for key, seconds in (("acme.read_timeout_s", acme.read_timeout_s), ("acme.tls_look_s", acme.tls_look_s)):
        require(seconds > 0, key, f"expected seconds above 0, got {seconds}")
    for key, wait_ms in (("acme.finalize_wait_ms", acme.finalize_wait_ms),
                         ("acme.validation_wait_ms", acme.validation_wait_ms),
                         ("acme.just_in_time_ms", acme.just_in_time_ms)):
        require(0 <= wait_ms <= 5_000, key, f"expected 0 to 5000 milliseconds, as long as a stop waits, got {wait_ms}")


def require_sensible_validation(va: "VaSettings", require: Require) -> None:
    """As `require_sensible`, for the one section that remote perspectives have as well."""
    for name, number in (("concurrency", va.concurrency), ("connections_per_address", va.connections_per_address)):
        require(number >= 1, f"va.{name}", f"expected a number of at least 1, got {number}")
    for key, port in (("va.http_01_port", va.http_01_port), ("va.tls_alpn_01_port", va.tls_alpn_01_port),
                      ("va.https_port", va.https_port)):
        require(0 < port < 65_536, key, f"expected a port number, got {port}")
    require(bool(va.caa_identities), "va.caa_identities", "expected at least one issuer domain name")


def _require_perspectives(perspectives: "PerspectivesSettings", require: Require) -> None:
    if perspectives.remotes:
        require(perspectives.certificate is not None and perspectives.key is not None,
                "perspectives.certificate, perspectives.key", "expected two file paths, because there are remotes")
    for key, number in (("timeout_s", perspectives.timeout_s), ("connect_timeout_s", perspectives.connect_timeout_s),
                        ("probe_interval_s", perspectives.probe_interval_s),
                        ("straggler_grace_s", perspectives.straggler_grace_s),
                        ("longest_back_off_s", perspectives.longest_back_off_s)):
        require(number > 0, f"perspectives.{key}", f"expected seconds above 0, got {number}")
    names = [remote.name for remote in perspectives.remotes]
    require(len(names) == len(set(names)) and all(0 < len(name) <= 253 for name in names), "perspectives.remotes",
            "expected a name for each, and each name once")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
