"""The demo: a whole CA in one directory, made without questions at the first start, the same CA at every later one."""

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ca.admin.demo_config import DemoOptions, config_text, read_options, updated_text
from ca.admin.run_all import embedded_server, run_all, start_database
from ca.admin.supervise import DirectoryLock
from ca.process.ambient import Ambient, system_ambient
from ca.process.http import require_free
from ca.process.lifecycle import StartupError
from ca.process.settings import Settings, load_settings

_MAKING = "making"
_CONFIG = "chancery.toml"
_MADE_BY_SETUP = ("hsm", "secrets", "tls", "ceremony", "issuers", "roots.pem", "ocsp", "run", "log")
_DEFAULT_PORT_BASE = 14_000
_PRIVILEGED_PORT_LIMIT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """What was typed; None where nothing was."""

    data_dir: Path
    port_base: int | None
    resolver: str | None
    http_01_port: int | None
    tls_alpn_01_port: int | None
    policy: Literal["internal", "public"] | None


async def run_demo(
    request: DemoRequest,
    stop: asyncio.Event,
    *,
    on_progress: Callable[[str], None],
    on_ready: Callable[[Settings, Path], None],
) -> None:
    """Makes the CA when the directory holds none, then serves until `stop`. Raises StartupError."""
    if request.policy == "public":
        raise StartupError("the public policy needs a key ceremony, logs, remote perspectives and names of the "
                           "Internet, which a demo on one machine has not: deploy/PUBLIC.md says how to set up such a "
                           "CA, deploy/public.toml is its configuration")
    data_dir = request.data_dir.resolve()
    _make_directory(data_dir)
    config = data_dir / _CONFIG
    ambient = system_ambient()
    if config.exists():
        _update_config(config, request)
    else:
        with DirectoryLock(data_dir):
            await _set_up(request, config, ambient, on_progress)
    settings = load_settings(config, os.environ)
    await run_all(settings, config, stop, on_progress=on_progress, on_ready=lambda: on_ready(settings, data_dir))


def _make_directory(data_dir: Path) -> None:
    try:
        data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        probe = data_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as fault:
        raise StartupError(f"{data_dir} is not writable: {fault.strerror}; choose another --data DIR") from fault


def _options(request: DemoRequest, known: DemoOptions) -> DemoOptions:
    """The known options with what was typed in their place."""
    return replace(
        known,
        resolver=known.resolver if request.resolver is None else request.resolver,
        http_01_port=request.http_01_port or known.http_01_port,
        tls_alpn_01_port=request.tls_alpn_01_port or known.tls_alpn_01_port,
        policy=request.policy or known.policy,
    )


def _first_options(request: DemoRequest, module: str) -> DemoOptions:
    """Ports 80 and 443 for validation when this user may open them, as a client here has to; else high ones."""
    port_base = request.port_base or _DEFAULT_PORT_BASE
    privileged = os.geteuid() == 0 or _lowest_unprivileged_port() <= 80
    return _options(request, DemoOptions(
        port_base=port_base, resolver="", policy="internal", module=module,
        http_01_port=80 if privileged else port_base + 80,
        tls_alpn_01_port=443 if privileged else port_base + 443))


def _lowest_unprivileged_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text("ascii"))
    except (OSError, ValueError):
        return _PRIVILEGED_PORT_LIMIT


def _update_config(config: Path, request: DemoRequest) -> None:
    """Carries typed options into the file of an existing CA. Its ports are in its certificates, so they stay."""
    known = read_options(load_settings(config, {}))
    if request.port_base is not None and request.port_base != known.port_base:
        raise StartupError(f"the CA in {config.parent} was made with --port-base {known.port_base}, and its "
                           "certificates say so: start it with that, or make another CA in another --data DIR")
    wanted = _options(request, known)
    if wanted != known:
        making = config.with_suffix(".making")
        making.write_text(updated_text(config.read_text("utf-8"), wanted), "utf-8")
        making.rename(config)


async def _set_up(
    request: DemoRequest, config: Path, ambient: Ambient, on_progress: Callable[[str], None]
) -> None:
    """Everything that a new CA needs; the configuration file is written last and marks it as whole.

    A set-up that fails or is killed leaves nothing that counts: it is removed at once, or by the next start.
    """
    data_dir = config.parent
    making = data_dir / _MAKING
    if making.exists():
        on_progress("removing what an interrupted first start left behind")
        await _remove_set_up(data_dir)
    elif set(os.listdir(data_dir)) - {"lock"}:
        raise StartupError(f"{data_dir} is not empty and holds no {_CONFIG}: choose an empty or new --data DIR")
    making.touch()
    try:
        await _make_authority(request, config, ambient, on_progress)
    except BaseException:
        await _remove_set_up(data_dir)
        raise
    making.unlink()


async def _make_authority(
    request: DemoRequest, config: Path, ambient: Ambient, on_progress: Callable[[str], None]
) -> None:
    # Imported late: a second start needs neither the token nor the certificate builders.
    from ca.admin.demo_authority import find_module, hold_ceremony, make_secrets

    data_dir = config.parent
    options = _first_options(request, find_module(os.environ))
    draft = config.with_suffix(".making")
    draft.write_text(config_text(options, data_dir), "utf-8")
    settings = load_settings(draft, os.environ)
    for section in (settings.acme, settings.ocsp, settings.distribution, settings.admin):
        require_free(section.listen)
    make_secrets(settings, ambient)
    server = embedded_server(settings)
    on_progress("making the database")
    if server is not None:
        await start_database(server, settings, ambient)
    try:
        await hold_ceremony(settings, ambient, on_progress)
    finally:
        if server is not None:
            await asyncio.to_thread(server.stop)
    draft.rename(config)


async def _remove_set_up(data_dir: Path) -> None:
    from ca.admin.embedded_postgres import EmbeddedPostgres

    server = EmbeddedPostgres(directory=data_dir / "postgres", secrets_dir=data_dir / "secrets" / "db", settings={})
    await asyncio.to_thread(server.remove)
    for name in _MADE_BY_SETUP:
        path = data_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (data_dir / _CONFIG).with_suffix(".making").unlink(missing_ok=True)
    (data_dir / _MAKING).unlink(missing_ok=True)
