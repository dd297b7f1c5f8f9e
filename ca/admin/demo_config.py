"""The demo's configuration file, with a comment at each setting that a person may want to change."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ca.process.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What distinguishes one demo from another. Ports: ACME at port_base, OCSP +1, AIA and CRLs +2, operators +3."""

    port_base: int
    resolver: str
    http_01_port: int
    tls_alpn_01_port: int
    policy: Literal["internal", "public"]
    module: str


def read_options(settings: Settings) -> DemoOptions:
    """The options that a demo's configuration was written with."""
    return DemoOptions(
        port_base=urlsplit(settings.acme.base_url).port or 443, resolver=settings.va.resolver,
        http_01_port=settings.va.http_01_port, tls_alpn_01_port=settings.va.tls_alpn_01_port, policy=settings.policy,
        module=settings.hsm.module)


def updated_text(text: str, options: DemoOptions) -> str:
    """The file with the four options that may change in their lines; everything that a person edited stays."""
    for key, value in (("policy", options.policy), ("resolver", options.resolver),
                       ("http_01_port", options.http_01_port), ("tls_alpn_01_port", options.tls_alpn_01_port)):
        line = f"{key} = {json.dumps(value)}"
        text = re.sub(rf"(?m)^{key} *=.*$", line.replace("\\", r"\\"), text)
    return text


def config_text(options: DemoOptions, data_dir: Path) -> str:
    """The whole effective configuration as TOML. Relative paths count from the file itself."""

    def listen(offset: int) -> str:
        port = options.port_base + offset
        return f'["127.0.0.1:{port}", "[::1]:{port}"]'

    quote = json.dumps  # a JSON string without surrogates is a TOML basic string
    return f"""\
# The whole effective configuration of this CA, written by `chancery demo`.
# Every key can be overridden by an environment variable: CHANCERY_SECTION__KEY.

data_dir = {quote(str(data_dir))}
# "internal": private names and addresses. "public": all of the Baseline Requirements.
policy = {quote(options.policy)}

[database]
# Empty: the PostgreSQL that comes with Chancery, in postgres/. Otherwise the URL of any PostgreSQL 15 or newer.
url = ""
secrets_dir = "secrets/db"

[hsm]
# Any PKCS#11 module. The root keys are in another token, under hsm/root, which no process of this file can open.
module = {quote(options.module)}
conf = "hsm/online/softhsm2.conf"
token_label = "chancery-online"
pin_file = "hsm/online/pin"

[acme]
# Every URL that clients are given starts with this.
base_url = "https://localhost:{options.port_base}"
listen = {listen(0)}
tls_certificate = "tls/certificate.pem"
tls_key = "tls/key.pem"
# The server's own certificate is issued by this CA for these names and renewed by itself.
service_names = ["localhost"]
nonce_key = "secrets/nonce.key"
# newAuthz: clients may have names authorized before they order a certificate (RFC 8555 7.4.1).
pre_authorization = true
workers = 1

[va]
# HOST:PORT of a resolver; empty: those of /etc/resolv.conf.
resolver = {quote(options.resolver)}
http_01_port = {options.http_01_port}
tls_alpn_01_port = {options.tls_alpn_01_port}
# Only a demo may dial loopback, and only a demo answers for names under .localhost by itself (RFC 6761 6.3).
allow_loopback = true
allowed_prefixes = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
localhost_names = true
# Of a demo, every name may be on this machine.
connections_per_address = 20000
# One authorization may stand for all names below a domain whose DNS the client controls (RFC 9444).
subdomains = true
# What a CAA record must name to let this CA issue (RFC 8659).
caa_identities = ["chancery.example"]

[ca]
service_names = ["localhost"]
# "*": every name with at least two labels is accepted, public suffixes are not.
internal_suffixes = ["*"]
# What clients may order. A profile that is taken out is not issued any more, whenever it was ordered.
profiles = ["classic", "tlsserver", "shortlived"]
default_profile = "classic"
# These are written into certificates.
ocsp_url = "http://localhost:{options.port_base + 1}"
aia_base_url = "http://localhost:{options.port_base + 2}"
crl_base_url = "http://localhost:{options.port_base + 2}"

[ct]
# Certificate Transparency. true needs `log_list`, a file in the form of Google's list of logs, version 3; public logs
# take no certificates of a root that browsers do not know.
enabled = false

[ocsp]
listen = {listen(1)}
store_dir = "ocsp"

[distribution]
listen = {listen(2)}

[admin]
listen = {listen(3)}
"""
