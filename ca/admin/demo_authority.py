"""What a new demo makes once: secrets, tokens, keys, CA certificates, and their rows in the database."""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ca.admin.ceremony.act import run_ceremony
from ca.admin.ceremony.errors import CeremonyError
from ca.admin.ceremony.plan import load_demo_plan
from ca.admin.ceremony.result import CeremonyResult
from ca.admin.ceremony.store import record_ceremony
from ca.pki.crl import slug
from ca.process.ambient import Ambient
from ca.process.lifecycle import StartupError
from ca.process.postgres import connect
from ca.process.settings import HsmSettings, Settings
from hsm.errors import HsmError
from hsm.softhsm import default_module, initialise_softhsm_token

_NONCE_KEY_BYTES = 32
_PIN_BYTES = 12
MODULE_VARIABLE = "CHANCERY_PKCS11_MODULE"


def find_module(environ: Mapping[str, str]) -> str:
    """SoftHSM's module, or the one that the environment names. Raises StartupError with what to install."""
    try:
        return default_module(environ.get(MODULE_VARIABLE, ""))
    except HsmError as fault:
        raise StartupError(str(fault)) from fault


def make_secrets(settings: Settings, ambient: Ambient) -> None:
    """The nonce key, readable by this user alone; directories of what processes make later."""
    _write_secret(settings.acme.nonce_key, ambient.random_bytes(_NONCE_KEY_BYTES).hex() + "\n")
    for path in (settings.acme.tls_key, settings.acme.tls_certificate):
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.ocsp.store_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


async def hold_ceremony(settings: Settings, ambient: Ambient, on_progress: Callable[[str], None]) -> None:
    """Two tokens, the keys and certificates of the demo's plan, `roots.pem`, `issuers/`, and what the database is told.

    Raises StartupError.
    """
    try:
        result = await asyncio.to_thread(_make_hierarchy, settings, ambient, on_progress)
    except (HsmError, CeremonyError) as fault:
        raise StartupError(str(fault)) from fault
    (settings.data_dir / "roots.pem").write_text(result.roots_pem, "ascii")
    connection = await connect(settings.database, "ca_admin", process="ceremony")
    try:
        await record_ceremony(connection, result)
    finally:
        await connection.close()


def _make_hierarchy(settings: Settings, ambient: Ambient, on_progress: Callable[[str], None]) -> CeremonyResult:
    """In one thread from beginning to end: a token belongs to the thread that opened it."""
    on_progress("making the tokens")
    online = settings.hsm
    root_directory = settings.data_dir / "hsm" / "root"
    root = initialise_softhsm_token(root_directory, "chancery-root", ambient.random_bytes(_PIN_BYTES).hex())
    initialise_softhsm_token(online.pin_file.parent, online.token_label, ambient.random_bytes(_PIN_BYTES).hex())
    plan = load_demo_plan(aia_base_url=settings.ca.aia_base_url, crl_base_url=settings.ca.crl_base_url)
    result = run_ceremony(
        plan, out_dir=settings.data_dir / "ceremony",
        root_hsm=HsmSettings(module=online.module, conf=root.conf, token_label=root.label, pin_file=root.pin_file),
        online_hsm=online, ambient=ambient, progress=on_progress)
    issuers = settings.data_dir / "issuers"
    issuers.mkdir(exist_ok=True)
    for certificate in result.intermediates:
        (issuers / f"{slug(certificate.name)}.pem").write_text(certificate.pem, "ascii")
    return result


def _write_secret(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)


