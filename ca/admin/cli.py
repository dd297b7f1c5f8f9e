"""The command `chancery`: noun, verb. Commands are imported when they are called, so that each process starts light."""

import importlib
import os
import sys
from pathlib import Path

import click

from ca.process.lifecycle import StartupError
from ca.process.settings import SettingsError, load_perspective_settings, load_settings

# Process -> its package. The CLI starts processes, it never imports one otherwise.
ROLES = {
    "wfe": "acme_api.wfe",
    "va": "acme_api.va",
    "perspective": "acme_api.va.perspective",
    "ca": "ca.issuing",
    "publisher": "ca.publisher",
    "presign": "ocsp.presign",
    "ocsp": "ocsp.responder",
    "crl": "ca.distribution",
    "admin": "ca.admin",
}
# Command -> module that holds a click command of that name (with underscores).
_COMMANDS = {
    "account": "ca.admin.commands.account",
    "audit": "ca.admin.commands.audit",
    "ceremony": "ca.admin.commands.ceremony",
    "cert": "ca.admin.commands.cert",
    "config": "ca.admin.commands.config",
    "crl": "ca.admin.commands.crl",
    "db": "ca.admin.commands.db",
    "demo": "ca.admin.commands.demo",
    "eab": "ca.admin.commands.eab",
    "hsm": "ca.admin.commands.hsm",
    "incident": "ca.admin.commands.incident",
    "issuer": "ca.admin.commands.issuer",
    "key": "ca.admin.commands.key",
    "limit": "ca.admin.commands.limit",
    "log-list": "ca.admin.commands.log_list",
    "name": "ca.admin.commands.name",
    "ocsp": "ca.admin.commands.ocsp",
    "order": "ca.admin.commands.order",
    "profile": "ca.admin.commands.profile",
    "revoke": "ca.admin.commands.revoke",
    "perspective": "ca.admin.commands.perspective",
    "status": "ca.admin.commands.status",
    "validation": "ca.admin.commands.validation",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            command = getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
            assert isinstance(command, click.Command)  # noqa: S101 - a fault of ours, seen by any call
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="chancery", prog_name="chancery")
def cli() -> None:
    """Chancery, an ACME certificate authority.

    Start with `chancery demo`. Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 refused by policy, 5 degraded.
    """


@cli.command()
@click.argument("role", type=click.Choice([*ROLES, "all"]))
@click.option("--config", "config", type=click.Path(path_type=Path), required=True, help="The configuration file.")
def run(role: str, config: Path) -> None:
    """Run one process in the foreground, or all of one machine's under a supervisor.

    \b
    wfe      ACME front end          ca     issues, revokes, signs CRLs (no network)
    va       validates challenges    crl    serves CRLs and CA certificates
    presign  signs OCSP responses    ocsp   serves OCSP responses
    publisher  submits to Certificate Transparency logs
    admin    operators' page, /healthz, /metrics, upkeep of partitions
    perspective  looks at names for a VA elsewhere; has a configuration of its own (chancery perspective enroll)
    """
    try:
        load = load_perspective_settings if role == "perspective" else load_settings
        settings = load(config, os.environ)
        module = importlib.import_module(f"{ROLES[role]}.__main__" if role in ROLES else "ca.admin.run_all")
        code = module.main(settings) if role in ROLES else module.main(settings, config)
    except (SettingsError, StartupError) as fault:
        click.echo(f"chancery {role}: {fault}", err=True)
        sys.exit(1)
    sys.exit(code)


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="chancery")


if __name__ == "__main__":
    main()
