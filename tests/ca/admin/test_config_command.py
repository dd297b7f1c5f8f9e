"""`chancery config check` and how the configuration is found: wrong input is answered with file, key and form."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from ca.admin.cli import cli
from ca.admin.context import CommandError, find_settings
from tests.ca.admin.conftest import CommandLine


async def test_good_file_is_ok(command_line: CommandLine) -> None:
    """Every setting is printed, in both forms, and the exit code is 0."""
    result = await command_line.run("config", "check")
    assert "acme.base_url" in result.stdout
    assert '"https://localhost:14000"' in result.stdout
    assert result.stderr == ""
    document = await command_line.json("config", "check")
    assert document["ok"] is True
    assert document["faults"] == []
    assert document["settings"]["ocsp"]["resign_age_s"] == 216_000


async def test_file_as_argument(command_line: CommandLine, tmp_path: Path) -> None:
    """FILE means the same as --config; two different files are a usage error."""
    runner = CliRunner()
    config = str(command_line.config)
    assert (await asyncio.to_thread(runner.invoke, cli, ["config", "check", config])).exit_code == 0
    other = str(tmp_path / "other.toml")
    result = await asyncio.to_thread(runner.invoke, cli, ["config", "check", other, "--config", config])
    assert result.exit_code == 2


async def test_secret_open_to_others(command_line: CommandLine) -> None:
    """A PIN file that others may read is a fault, and the line says what to do."""
    pin = command_line.config.parent / "pin"
    pin.chmod(0o644)
    result = await command_line.run("config", "check", exit_code=1)
    assert f"hsm.pin_file: expected permissions 0600, {pin} has 0644: chmod 600 it" in result.stderr
    assert (await command_line.json("config", "check", exit_code=1))["ok"] is False


async def test_missing_files(command_line: CommandLine) -> None:
    """Each file that is not there is one line with its key."""
    for name in ("nonce.key", "module.so", "tls.key"):
        (command_line.config.parent / name).unlink()
    (command_line.config.parent / "ocsp").rmdir()
    result = await command_line.run("config", "check", exit_code=1)
    lines = result.stderr.splitlines()
    for key in ("acme.nonce_key", "hsm.module", "acme.tls_key", "ocsp.store_dir"):
        assert sum(f" {key}: expected a" in line for line in lines) == 1, lines
    assert len(lines) == 4


@pytest.mark.parametrize(("line", "wrong", "said"), [
    ('token_label = "token"', "token_label = 7", "hsm.token_label: Expected `str`, got `int`"),
    ('token_label = "token"', 'token_lable = "token"', "hsm"),
    ('policy = "internal"', 'policy = "none"', "policy"),
    ('base_url = "https://localhost:14000"', 'base_url = "http://localhost:14000/"', "acme.base_url"),
    ('policy = "internal"', "policy = ", "not TOML"),
    ('listen = ["127.0.0.1:14000"]', 'listen = ["127.0.0.1"]', "acme.listen"),
])
async def test_wrong_setting(command_line: CommandLine, line: str, wrong: str, said: str) -> None:
    """Exit code 1 and one line with the file and the key."""
    text = command_line.config.read_text()
    assert line in text
    command_line.config.write_text(text.replace(line, wrong))
    result = await command_line.run("config", "check", exit_code=1)
    assert str(command_line.config) in result.stderr
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, then $CHANCERY_CONFIG, then ./chancery.toml, then ./chancery-data/chancery.toml."""
    monkeypatch.chdir(tmp_path)
    named = tmp_path / "named.toml"
    with pytest.raises(CommandError, match="no configuration") as caught:
        find_settings(None, {})
    assert caught.value.exit_code == 1
    (tmp_path / "chancery-data").mkdir()
    (tmp_path / "chancery-data" / "chancery.toml").touch()
    assert find_settings(None, {}) == Path("chancery-data/chancery.toml")
    (tmp_path / "chancery.toml").touch()
    assert find_settings(None, {}) == Path("chancery.toml")
    assert find_settings(None, {"CHANCERY_CONFIG": "/x.toml"}) == Path("/x.toml")
    assert find_settings(named, {"CHANCERY_CONFIG": "/x.toml"}) == named


async def test_partitions_are_listed(command_line: CommandLine) -> None:
    """`db partitions` names every partition; the document has the same rows as the table."""
    document = await command_line.json("db", "partitions")
    names = {row["name"] for row in document["partitions"]}
    assert any(name.startswith("certificates_") for name in names)
    result = await command_line.run("db", "partitions")
    assert all(name in result.stdout for name in names)
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


@pytest.mark.parametrize("arguments", [("db",), ("config",), ("status", "--output", "xml"), ("db", "maintain", "x")])
async def test_usage_errors(arguments: tuple[str, ...]) -> None:
    """What click does not understand exits with 2."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, list(arguments))
    assert result.exit_code == 2, result.output
