"""What a new remote perspective needs: a directory to copy to its host, and lines for the CA's configuration."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ca.admin.perspective_certificate import make_certificate
from ca.process.http import parse_listen
from ca.process.settings import Rir, Settings, VaSettings

VA_CERTIFICATE: Final = "va.pem"
VA_KEY: Final = "va.key"
# What the two ends must agree on is carried over when it is not the default.
_SHARED: Final = ("http_01_port", "tls_alpn_01_port", "https_port", "allow_loopback", "allowed_prefixes",
                  "caa_exempt_suffixes", "require_dnssec", "localhost_names", "concurrency")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPerspective:
    """What the operator says about it."""

    name: str
    address: str
    rir: Rir
    distance_group: str


def make_va_certificate(directory: Path, *, now: datetime, serial: bytes) -> bool:
    """Makes the client certificate that the VA shows to every perspective, unless it is there. True when made."""
    if (directory / VA_CERTIFICATE).exists() and (directory / VA_KEY).exists():
        return False
    make_certificate("Chancery VA", certificate=directory / VA_CERTIFICATE, key=directory / VA_KEY, client=True,
                     now=now, serial=serial)
    return True


def make_bundle(
    new: NewPerspective, settings: Settings, *, directory: Path, bundle: Path, now: datetime, serial: bytes
) -> None:
    """Fills `bundle` with configuration, key and certificates of the new host; its certificate stays in `directory`,
    too, as the pin. Raises OSError; nothing is overwritten."""
    bundle.mkdir(mode=0o700)
    make_certificate(new.name, certificate=bundle / "certificate.pem", key=bundle / "key.pem", client=False, now=now,
                     serial=serial)
    (bundle / VA_CERTIFICATE).write_bytes((directory / VA_CERTIFICATE).read_bytes())
    (bundle / "perspective.toml").write_text(_host_config(new, settings), "utf-8")
    (directory / f"{new.name}.pem").write_bytes((bundle / "certificate.pem").read_bytes())


def lines_for_ca(new: NewPerspective, settings: Settings, *, directory: Path) -> str:
    """What is to be put at the end of the CA's configuration file."""
    quote = json.dumps
    head = "" if settings.perspectives.certificate is not None else (
        f"[perspectives]\ncertificate = {quote(str(directory / VA_CERTIFICATE))}\n"
        f"key = {quote(str(directory / VA_KEY))}\ndistance_group = {quote(settings.perspectives.distance_group)}\n\n")
    return (f"{head}[[perspectives.remotes]]\nname = {quote(new.name)}\naddress = {quote(new.address)}\n"
            f"rir = {quote(new.rir)}\ndistance_group = {quote(new.distance_group)}\n"
            f"certificate = {quote(str(directory / f'{new.name}.pem'))}\n")


def _host_config(new: NewPerspective, settings: Settings) -> str:
    quote = json.dumps
    _, port = parse_listen(new.address)
    default = VaSettings(caa_identities=["x"])
    shared = "".join(f"{key} = {quote(getattr(settings.va, key))}\n" for key in _SHARED
                     if getattr(settings.va, key) != getattr(default, key))
    return f"""\
# A remote perspective of {settings.acme.base_url}: `chancery run perspective --config perspective.toml`.
# It needs no database. Every key can be overridden by an environment variable: CHANCERY_SECTION__KEY.

policy = {quote(settings.policy)}

[perspective]
name = {quote(new.name)}
listen = ["0.0.0.0:{port}", "[::]:{port}"]
certificate = "certificate.pem"
key = "key.pem"
# The certificates that the VA may show. While it gets a new one, the file holds both.
va_certificates = "{VA_CERTIFICATE}"
# The CA's own hosts are not validated from here either.
ca_hosts = {quote(_ca_hosts(settings))}
website = {quote(settings.acme.website)}

[va]
# This host's own validating resolver (deploy/unbound/chancery.conf), shared with no other perspective.
resolver = "127.0.0.1:53"
caa_identities = {quote(settings.va.caa_identities)}
{shared}"""


def _ca_hosts(settings: Settings) -> list[str]:
    urls = (settings.acme.base_url, settings.ca.ocsp_url, settings.ca.aia_base_url, settings.ca.crl_base_url)
    return sorted({urlsplit(url).hostname or "" for url in urls} - {"", "localhost"})
