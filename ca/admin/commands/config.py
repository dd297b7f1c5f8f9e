"""`chancery config check`: would the processes start with this file, and can each read what it needs?"""

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec

from ca.admin.context import CommandError, ExitCode, config_option, output_option, read_settings
from ca.admin.output import print_facts, print_json, print_line
from ca.pki.corroboration import rule_at, set_up_shortfall
from ca.pki.ct_log_list import parse_log_list
from ca.pki.identifier import IdentifierError, require_public_host
from ca.process.ambient import system_ambient
from ca.process.http import parse_listen
from ca.process.lifecycle import StartupError
from ca.process.public_settings import public_urls
from ca.process.settings import Settings
from ocsp.protocol.schedule import ScheduleError, require_lawful

_ROLES = ("acme_wfe", "acme_va", "ca_issuer", "ca_publisher", "ca_reader", "ocsp_signer", "ocsp_reader", "ca_admin")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@click.group()
def config() -> None:
    """The configuration file."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@config_option
@output_option
def check(file: Path | None, config: Path | None, output: str) -> None:
    """Print the effective settings and check the files that they name; exit with 1 when something is wrong.

    FILE is the configuration file, as with --config.
    """
    if file is not None and config is not None and file != config:
        raise CommandError("two configuration files are named: give FILE or --config, not both", ExitCode.USAGE)
    settings, path = read_settings(file or config)
    faults = [*faults_of(settings, path), *policy_faults(settings, path, system_ambient().now())]
    effective = msgspec.to_builtins(settings, enc_hook=str)
    if output == "json":
        print_json({"file": str(path.resolve()), "ok": not faults, "faults": faults, "settings": effective})
    else:
        print_line(str(path.resolve()))
        print_facts(_flat(effective))
        print_line("ok: the settings and every file that they name can be used" if not faults else
                   f"invalid: {len(faults)} of the files or addresses that they name cannot be used")
    for fault in faults:
        click.echo(f"chancery: {fault}", err=True)
    click.get_current_context().exit(ExitCode.FAILED if faults else ExitCode.OK)


def faults_of(settings: Settings, path: Path) -> Iterator[str]:
    """Each fault as one line: file, key, what was expected and what is there."""
    for key, place, is_secret in _files(settings):
        problem = _problem_of_file(place, is_secret=is_secret)
        if problem:
            yield f"{path}: {key}: {problem}"
    for key, place in (("data_dir", settings.data_dir), ("ocsp.store_dir", settings.ocsp.store_dir)):
        if not place.is_dir():
            yield f"{path}: {key}: expected a directory, {place} is none"
    for key, listen in (("acme.listen", settings.acme.listen), ("ocsp.listen", settings.ocsp.listen),
                        ("distribution.listen", settings.distribution.listen), ("admin.listen", settings.admin.listen)):
        for address in listen:
            try:
                parse_listen(address)
            except StartupError as fault:
                yield f"{path}: {key}: {fault}"


def policy_faults(settings: Settings, path: Path, now: datetime) -> Iterator[str]:
    """As `faults_of`: what the processes refuse to start with at this moment under the policy in force."""
    public, perspectives = settings.policy == "public", settings.perspectives
    missing = set_up_shortfall(
        [each.rir for each in perspectives.remotes],
        [perspectives.distance_group, *(each.distance_group for each in perspectives.remotes)],
        rule_at(now, public=public, least_corroborated=settings.ca.least_corroborated), public=public)
    if missing is not None:
        yield f"{path}: perspectives.remotes: {missing}: see deploy/PERSPECTIVES.md"
    try:
        require_lawful(life=timedelta(seconds=settings.ocsp.response_life_s),
                       age=timedelta(seconds=settings.ocsp.resign_age_s))
    except ScheduleError as fault:
        yield f"{path}: ocsp.response_life_s, ocsp.resign_age_s: {fault}"
    if settings.ct_enabled and settings.ct.log_list is not None and settings.ct.log_list.is_file():
        try:
            parse_log_list(settings.ct.log_list.read_bytes()).require_fresh(now)
        except (OSError, ValueError) as fault:
            yield f"{path}: ct.log_list: {fault}"
    if public:
        for key, host in (*((key, urlsplit(url).hostname or "") for key, url in public_urls(settings)),
                          *(("va.caa_identities", name) for name in settings.va.caa_identities)):
            try:
                require_public_host(host)
            except IdentifierError as fault:
                yield f"{path}: {key}: {fault.detail}"


def _files(settings: Settings) -> Iterator[tuple[str, Path, bool]]:
    """Key, file, and whether only its owner may read it."""
    # The embedded server's are made with it, at the first start.
    for role in _ROLES if settings.database.url or (settings.data_dir / "postgres").exists() else ():
        yield "database.secrets_dir", settings.database.secrets_dir / f"{role}.password", True
    for name, hsm in (("hsm", settings.hsm), ("ocsp_hsm", settings.ocsp_hsm)):
        if hsm is None:
            continue
        if "/" in hsm.module:           # a bare name is looked for by the dynamic linker
            yield f"{name}.module", Path(hsm.module), False
        if hsm.conf is not None:
            yield f"{name}.conf", hsm.conf, False
        yield f"{name}.pin_file", hsm.pin_file, True
    yield "acme.nonce_key", settings.acme.nonce_key, True
    if settings.ct_enabled and settings.ct.log_list is not None:
        yield "ct.log_list", settings.ct.log_list, False
    if settings.ct.log_list_key is not None:
        yield "ct.log_list_key", settings.ct.log_list_key, False
    if settings.perspectives.certificate is not None and settings.perspectives.key is not None:
        yield "perspectives.certificate", settings.perspectives.certificate, False
        yield "perspectives.key", settings.perspectives.key, True
    for remote in settings.perspectives.remotes:
        yield f"perspectives.remotes, {remote.name}: certificate", remote.certificate, False
    # With service names the front end asks the CA for its certificate and writes both files by itself.
    if settings.acme.tls and not settings.acme.service_names:
        if settings.acme.tls_certificate is not None:
            yield "acme.tls_certificate", settings.acme.tls_certificate, False
        if settings.acme.tls_key is not None:
            yield "acme.tls_key", settings.acme.tls_key, True


def _problem_of_file(place: Path, *, is_secret: bool) -> str:
    """What is wrong with a file that must exist, be readable, and be closed to others when secret; '' if nothing is."""
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        return f"expected a file, {place} does not exist"
    except OSError as fault:
        return f"{place} cannot be looked at: {fault.strerror}"
    if not stat.S_ISREG(mode):
        return f"expected a file, {place} is none"
    if is_secret and mode & _OTHERS:
        return f"expected permissions 0600, {place} has {stat.S_IMODE(mode):04o}: chmod 600 it"
    try:
        with place.open("rb") as opened:
            opened.read(1)
    except OSError as fault:
        return f"{place} cannot be read: {fault.strerror}"
    return ""


def _flat(settings: dict[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """('acme.base_url', 'https://...') for every setting, as it would be written in TOML."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", msgspec.json.encode(value).decode()
