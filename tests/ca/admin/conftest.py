"""A filled database and the command line on it."""

import asyncio
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ca.admin.cli import cli
from ca.process.settings import DatabaseSettings, Settings, load_settings
from tests.ca.admin.seed import Seed
from tests.fixtures_postgres import TestDatabase


def write_config(directory: Path, database: DatabaseSettings) -> Path:
    """A configuration whose every file exists."""
    for name in ("nonce.key", "pin", "tls.key"):
        (directory / name).write_text("secret\n")
        (directory / name).chmod(0o600)
    for name in ("module.so", "softhsm2.conf", "tls.pem"):
        (directory / name).write_text("x\n")
    (directory / "ocsp").mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = directory / "chancery.toml"
    path.write_text(f"""\
data_dir = "."
policy = "internal"
[database]
url = {json.dumps(database.url)}
secrets_dir = {json.dumps(str(database.secrets_dir))}
[hsm]
module = "{directory}/module.so"
conf = "softhsm2.conf"
token_label = "token"
pin_file = "pin"
[acme]
base_url = "https://localhost:14000"
listen = ["127.0.0.1:14000"]
tls_certificate = "tls.pem"
tls_key = "tls.key"
nonce_key = "nonce.key"
[va]
caa_identities = ["chancery.example"]
[ca]
ocsp_url = "http://localhost:14001"
aia_base_url = "http://localhost:14002"
crl_base_url = "http://localhost:14002"
[ocsp]
listen = ["127.0.0.1:14001"]
store_dir = "ocsp"
map_size_gib = 1
[distribution]
listen = ["127.0.0.1:{port}"]
[admin]
listen = ["127.0.0.1:{port}"]
""")
    return path


@dataclass(slots=True, kw_only=True)
class CommandLine:
    """`chancery` with a configuration, as a program that the test calls."""

    config: Path

    @property
    def settings(self) -> Settings:
        """What the commands are given."""
        return load_settings(self.config, {})

    async def run(self, *arguments: str, exit_code: int = 0, columns: int = 80) -> Result:
        """Runs one command to its end; its exit code must be as said, and stderr empty exactly when it is 0 or 5."""
        result = await asyncio.to_thread(
            CliRunner().invoke, cli, [*arguments, "--config", str(self.config)],
            env={"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"})
        assert result.exit_code == exit_code, (result.output, result.stderr, result.exception)
        return result

    async def json(self, *arguments: str, exit_code: int = 0) -> Any:
        """The document of a reading command."""
        return json.loads((await self.run(*arguments, "--output", "json", exit_code=exit_code)).stdout)


@pytest.fixture
def seed(database: TestDatabase) -> Seed:
    """An empty, migrated database that the test fills."""
    return Seed(database=database)


@pytest.fixture
def command_line(database: TestDatabase, tmp_path: Path) -> CommandLine:
    """The command line on the same database."""
    return CommandLine(config=write_config(tmp_path, database.settings))


@pytest.fixture
def offline(tmp_path: Path) -> CommandLine:
    """The command line without a database: what is wrong by itself is refused before anything is asked."""
    return CommandLine(config=write_config(tmp_path, DatabaseSettings(url="postgresql://127.0.0.1:1/x",
                                                                      secrets_dir=tmp_path)))
