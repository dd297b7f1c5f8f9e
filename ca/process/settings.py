"""The one configuration file: TOML, overridden by CHANCERY_SECTION__KEY, parsed once into frozen structs.

An unknown key or a wrong type refuses to start and names the file, the key and the form that was expected. Secrets are
never in it: it holds the paths of files that do.
"""

import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from ca.process.decoding import explain
from ca.process.limit_settings import (
    LimitsSettings,
    RateSettings,
    effective_limits,
    limit_rates,
)
from ca.process.public_settings import require_public_validation
from ca.process.sensible_settings import require_sensible, require_sensible_validation

ENVIRONMENT_PREFIX = "CHANCERY_"


Rir: TypeAlias = Literal["AFRINIC", "APNIC", "ARIN", "LACNIC", "RIPE NCC"]
"""The regional Internet registries, whose service regions divide the world."""


class SettingsError(Exception):
    """The configuration cannot be used; the message is one line with file, key and expected form."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


_SettingsT = TypeVar("_SettingsT", bound=_Section)


class DatabaseSettings(_Section, frozen=True, kw_only=True):
    """PostgreSQL. `url` empty: the embedded server in `data_dir`. A role's password is the one line of
    `<secrets_dir>/<role>.password`."""

    url: str = ""
    secrets_dir: Path


class HsmSettings(_Section, frozen=True, kw_only=True):
    """The online PKCS#11 token. `conf` is put into SOFTHSM2_CONF before the module is loaded."""

    module: str
    conf: Path | None = None
    token_label: str
    pin_file: Path


class AcmeSettings(_Section, frozen=True, kw_only=True):
    """The ACME web front end. With `tls = false` a proxy terminates TLS; every URL still starts with `base_url`.

    `client_address`: where a client's address is read, when the connection comes from one of `trusted_proxies`.
    `terms_agreed_since`: accounts that agreed to the terms before this time order nothing until they have agreed again;
    `terms_instructions` is the URL of a page that says how (empty: the terms themselves). `pre_authorization` offers
    newAuthz. `only_own_replaced`: an order may name no certificate to be replaced that this CA has not issued.
    `just_in_time_ms`: how long newOrder waits to see whether a dns-persist-01 record is there already; 0: it does not.
    """

    base_url: str
    listen: list[str]
    tls: bool = True
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_look_s: float = 60.0
    service_names: list[str] = []
    nonce_key: Path
    terms_of_service: str = ""
    terms_agreed_since: datetime | None = None
    terms_instructions: str = ""
    pre_authorization: bool = False
    only_own_replaced: bool = False
    external_account_required: bool = False
    website: str = ""
    order_life_s: int = 604_800
    authorization_life_s: int = 604_800
    finalize_wait_ms: int = 2_000
    validation_wait_ms: int = 500
    just_in_time_ms: int = 500
    max_body_bytes: int = 65_536
    read_timeout_s: float = 10.0
    max_in_flight: int = 2_000
    max_connections: int = 8_192
    client_address: Literal["connection", "x-forwarded-for", "forwarded", "proxy-protocol"] = "connection"
    trusted_proxies: list[str] = []
    workers: int = 1


class VaSettings(_Section, frozen=True, kw_only=True):
    """Validation. `resolver` empty: the nameservers of /etc/resolv.conf. It has to validate where `require_dnssec` says
    so, as the public policy always does. Loopback is dialled only when said so here. However many names point to one
    address, it gets `connections_per_address` connections at once.
    Orders of `dns_persist_profiles` are offered dns-persist-01; `chancery account allow` does so for one account.
    `subdomains`: control of a domain, shown in the DNS, may be made to stand for the names below it (RFC 9444)."""

    resolver: str = ""
    require_dnssec: bool = False
    http_01_port: int = 80
    tls_alpn_01_port: int = 443
    https_port: int = 443
    allow_loopback: bool = False
    allowed_prefixes: list[str] = []
    localhost_names: bool = False
    caa_identities: list[str]
    caa_exempt_suffixes: list[str] = []
    concurrency: int = 200
    connections_per_address: int = 200
    validation_reuse_s: int = 2_592_000
    dns_persist_profiles: list[str] = []
    subdomains: bool = False
    workers: int = 1


class RemotePerspective(_Section, frozen=True, kw_only=True):
    """A perspective on another host. `certificate` is a file with the certificates that it may show, no others.

    Perspectives of one `distance_group` are less than 500 km from each other (BR 3.2.2.9).
    """

    name: str
    address: str
    rir: Rir
    distance_group: str
    certificate: Path


class PerspectivesSettings(_Section, frozen=True, kw_only=True):
    """The remote perspectives that the VA asks, and the client certificate that it shows to them.

    Who can no longer change the outcome is waited for `straggler_grace_s` longer, for the sake of the evidence.
    """

    certificate: Path | None = None
    key: Path | None = None
    distance_group: str = "primary"
    timeout_s: float = 22.0
    connect_timeout_s: float = 3.0
    straggler_grace_s: float = 0.5
    probe_interval_s: float = 10.0
    longest_back_off_s: float = 60.0
    remotes: list[RemotePerspective] = []


class PerspectiveHost(_Section, frozen=True, kw_only=True):
    """This host as a remote perspective: its own certificate, and the file of those that the VA may show.

    `ca_hosts`: the CA's own names and addresses, which are not validated from here either.
    """

    name: str
    listen: list[str]
    certificate: Path
    key: Path
    va_certificates: Path
    ca_hosts: list[str] = []
    website: str = ""


class CaSettings(_Section, frozen=True, kw_only=True):
    """Issuance. The URLs are written into certificates, so they stay for as long as the certificates live. A profile
    that is taken out of `profiles` is not issued any more, also for orders that were made before."""

    service_names: list[str] = []
    internal_suffixes: list[str] = []
    profiles: list[str] = msgspec.field(default_factory=lambda: ["classic", "tlsserver", "shortlived"])
    default_profile: str = "classic"
    least_corroborated: int = 0
    ocsp_url: str
    aia_base_url: str
    crl_base_url: str
    workers: int = 1


class CtSettings(_Section, frozen=True, kw_only=True):
    """Certificate Transparency. `enabled` unset: on under the public policy, off under the internal one. `log_list` is
    a file of Google's form, version 3; processes read it again when it changes. `chancery log-list fetch` gets it from
    `log_list_url`, with the detached signature beside it (`.sig`) when `log_list_key` is the publisher's key, PEM."""

    enabled: bool | None = None
    log_list: Path | None = None
    log_list_url: str = "https://www.gstatic.com/ct/log_list/v3/log_list.json"
    log_list_key: Path | None = None
    patience_s: int = 600
    log_timeout_ms: int = 8_000
    race_timeout_ms: int = 30_000
    stagger_ms: int = 1_000
    concurrency: int = 200


class OcspSettings(_Section, frozen=True, kw_only=True):
    """Pre-signed OCSP (BR 4.9.9 gives the bounds): responses live 7 days and are signed again after 48 to 60 hours.

    Caches keep an answer for `max_age_s`: one hour, because nobody purges them at a revocation. `delegation`: for
    which issuers a P-256 responder key of the pre-signer's signs ("slow": RSA above 2048 and P-384); issuers that are
    named are always, or never, delegated. `database_url`: where responders read, for example a streaming replica near
    them; empty: `[database] url`.

    `gather_ms`: new certificates that come this soon behind others get their first responses together, which costs an
    order less; a certificate is not given out before it has one, and the first after a pause does not wait.

    `live`: requests with a nonce, and about serial numbers that were never given out, get a response that the
    pre-signer makes at once; responders ask it through `[database] url`, and wait for `live_wait_ms`. At most
    `live_queue` (20) wait anywhere. A machine's responders together ask `live_per_s` times a second, more than which no
    pre-signer signs either, and one worker for one client (an address, or a /64 prefix) `live_client_per_s` times, in
    both cases after a burst. Requests from `live_trusted_proxies` are of the client that X-Forwarded-For names. Beyond
    a limit, requests get what they get without live mode.
    """

    listen: list[str]
    store_dir: Path
    database_url: str = ""
    map_size_gib: int = 16
    workers: int = 1
    presign_workers: int = 1
    gather_ms: int = 10
    response_life_s: int = 604_800
    resign_age_s: int = 216_000
    resign_jitter_s: int = 43_200
    max_age_s: int = 3_600
    delegation: Literal["slow", "all", "none"] = "slow"
    delegated_issuers: list[str] = []
    direct_issuers: list[str] = []
    live: bool = False
    live_wait_ms: int = 1_000
    live_queue: int = 20
    live_per_s: float = 50.0
    live_burst: int = 50
    live_client_per_s: float = 1.0
    live_client_burst: int = 10
    live_trusted_proxies: list[str] = []


class DistributionSettings(_Section, frozen=True, kw_only=True):
    """The server of CRLs and CA certificates."""

    listen: list[str]


class AdminSettings(_Section, frozen=True, kw_only=True):
    """The operators' page, /healthz and /metrics; loopback only."""

    listen: list[str]


class PerspectiveSettings(_Section, frozen=True, kw_only=True):
    """The whole configuration of a host that is a remote perspective and nothing else: it has no database."""

    policy: Literal["internal", "public"]
    perspective: PerspectiveHost
    va: VaSettings


class AuditSettings(_Section, frozen=True, kw_only=True):
    """Where the processes that sign keep their audit logs: files, apart from the database that they are about.
    `dir` empty: `audit` in `data_dir`."""

    dir: Path | None = None


class Settings(_Section, frozen=True, kw_only=True):
    """The whole effective configuration. `ocsp_hsm`: a token of the pre-signer's own, in which no CA key is; then every
    issuer's responses are signed by a delegated responder."""

    data_dir: Path
    policy: Literal["internal", "public"]
    database: DatabaseSettings
    hsm: HsmSettings
    ocsp_hsm: HsmSettings | None = None
    acme: AcmeSettings
    va: VaSettings
    perspectives: PerspectivesSettings = PerspectivesSettings()
    ca: CaSettings
    ocsp: OcspSettings
    distribution: DistributionSettings
    admin: AdminSettings
    ct: CtSettings = CtSettings()
    limits: LimitsSettings = LimitsSettings()
    audit: AuditSettings = AuditSettings()

    @property
    def ct_enabled(self) -> bool:
        """Whether certificates are logged."""
        return self.policy == "public" if self.ct.enabled is None else self.ct.enabled

    def delegation_rule(self) -> Literal["slow", "all", "none"]:
        """For which issuers a delegated responder signs, unless they are named apart."""
        return "all" if self.ocsp_hsm is not None else self.ocsp.delegation

    @property
    def effective_limits(self) -> LimitsSettings:
        """Every limit: as the file says, else as the policy does."""
        return effective_limits(self.limits, self.policy)

    @property
    def limit_rates(self) -> dict[str, RateSettings]:
        """The rate of every limit that is on, by its name (`orders-per-account`); pauses have none."""
        return limit_rates(self.effective_limits, pending_life_s=self.acme.authorization_life_s)


def audit_directory(settings: Settings) -> Path:
    """Where audit logs are written."""
    return settings.audit.dir or settings.data_dir / "audit"


def load_settings(path: Path, environ: Mapping[str, str]) -> Settings:
    """Reads the file and the overrides of the environment. Relative paths count from the file. Raises SettingsError."""
    settings = _load(Settings, path, environ)
    require_sensible(settings, _requirement(path))
    return settings


def load_perspective_settings(path: Path, environ: Mapping[str, str]) -> PerspectiveSettings:
    """As `load_settings`, for a host that is a remote perspective."""
    settings = _load(PerspectiveSettings, path, environ)
    require_sensible_validation(settings.va, _requirement(path))
    if settings.policy == "public":
        require_public_validation(settings.va, _requirement(path))
    return settings


def _load(kind: type[_SettingsT], path: Path, environ: Mapping[str, str]) -> _SettingsT:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        writer = "chancery demo" if kind is Settings else "chancery perspective enroll"
        hint = f"`{writer}` writes one, or name yours with --config FILE"
        raise SettingsError(f"{path}: no such file; {hint}") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise SettingsError(f"{path}: cannot be read: {fault}") from fault
    except tomllib.TOMLDecodeError as fault:
        raise SettingsError(f"{path}: not TOML: {fault}") from fault
    overrides = []
    for name, value in sorted(environ.items()):
        keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if name.startswith(ENVIRONMENT_PREFIX) and len(keys) == 2:
            section = document.setdefault(keys[0], {})
            if not isinstance(section, dict):
                raise SettingsError(f"{name}: {keys[0]} is not a section of {path}")
            section[keys[1]] = _environment_value(value, section.get(keys[1]))
            overrides.append(name)
    source = f"{path} with {', '.join(overrides)}" if overrides else f"{path}"
    base = path.resolve().parent

    def decode(wanted: type, value: Any) -> Any:
        if wanted is Path and isinstance(value, str):
            return base / value
        raise TypeError(f"Expected `{wanted.__name__}`")

    try:
        return msgspec.convert(document, kind, dec_hook=decode, strict=True)
    except msgspec.ValidationError as fault:
        raise SettingsError(f"{source}: {explain(fault, kind)}") from fault


def _environment_value(text: str, in_file: object) -> object:
    """Numbers, booleans and arrays are written as in TOML; everything else is the text itself."""
    if isinstance(in_file, str):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _requirement(path: Path) -> Callable[[bool, str, str], None]:
    def require(holds: bool, key: str, form: str) -> None:
        if not holds:
            raise SettingsError(f"{path}: {key}: {form}")

    return require
