"""`chancery config check` and how the configuration is found: wrong input is answered with file, key and form."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from ca.admin.cli import cli
from ca.admin.commands.config import policy_faults
from ca.admin.context import CommandError, find_settings
from ca.pki.policy import LOG_LIST_LIFE_S
from ca.process.settings import load_settings
from tests.ca.admin.conftest import CommandLine
from tests.ct_log import CtLogs, personalities

_SAMPLE = Path(__file__).parents[3] / "deploy" / "public.toml"
_RIRS = ("RIPE NCC", "ARIN", "APNIC", "LACNIC", "AFRINIC")


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
    ("map_size_gib = 1", "resign_age_s = 345601", "ocsp.resign_age_s: OCSP responses that live 168 h are signed again "
     "before they are 96 h old (BR 4.9.9)"),
    ("map_size_gib = 1", "response_life_s = 36000", "live 10 h are signed again before they are 5 h old (BR 4.9.9)"),
    ("map_size_gib = 1", "response_life_s = 864001", "expected 28800 to 864000 seconds"),
    ("map_size_gib = 1", "resign_jitter_s = 216000", "ocsp.resign_jitter_s: expected 0 to 215999"),
    ("map_size_gib = 1", "resign_jitter_s = -1", "ocsp.resign_jitter_s: expected 0 to 215999"),
    ("map_size_gib = 1", "max_age_s = 43201", "ocsp.max_age_s: expected 0 to 43200"),
    ("map_size_gib = 1", "map_size_gib = 0", "ocsp.map_size_gib"),
    ("[acme]", '[ocsp_hsm]\nmodule = "none"\ntoken_label = "t"\npin_file = "gone"\n[acme]',
     "ocsp_hsm.pin_file: expected a file"),
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


def _make_files(directory: Path) -> None:
    """What deploy/PUBLIC.md has made before the first start, but for logs and perspectives."""
    for name in ("secrets/nonce.key", "hsm/online/pin", "tls/key.pem", "hsm/online/softhsm2.conf",
                 "tls/certificate.pem", "module.so"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch(mode=0o600)
    (directory / "ocsp").mkdir()


async def test_the_sample_of_a_public_ca(tmp_path: Path) -> None:
    """deploy/public.toml, MP1, CT: each step of deploy/PUBLIC.md that is missing is one line; when all are done, ok."""
    config = tmp_path / "chancery.toml"
    config.write_text(_SAMPLE.read_text("utf-8").replace("/usr/lib/softhsm/libsofthsm2.so", f"{tmp_path}/module.so"),
                      "utf-8")
    _make_files(tmp_path)
    line = CommandLine(config=config)
    said = (await line.run("config", "check", exit_code=1)).stderr.splitlines()
    assert [text.partition("chancery.toml: ")[2] for text in said] == [
        f"ct.log_list: expected a file, {tmp_path}/log_list.json does not exist",
        "perspectives.remotes: every validation was made with 0 remote perspectives, where "
        f"{5 if datetime.now(UTC) >= datetime(2026, 12, 15, tzinfo=UTC) else 4} are needed (BR 3.2.2.9): see "
        "deploy/PERSPECTIVES.md"]
    for number, rir in enumerate(_RIRS):
        lines = (await line.json("perspective", "enroll", f"p{number}", "--address", f"192.0.2.{number}:8550", "--rir",
                                 rir, "--distance-group", f"city{number}"))["configuration"]
        config.write_text(f"{config.read_text('utf-8')}\n{lines}", "utf-8")
    async with CtLogs(personalities(2)) as logs:
        (tmp_path / "log_list.json").write_bytes(logs.list_json())
    assert (await line.json("config", "check"))["faults"] == []


async def test_what_a_public_ca_would_not_start_with(tmp_path: Path) -> None:
    """MP1, CT, BR 4.2.2: regions, places, an old or broken list of logs, special-use names: each with its key."""
    config = tmp_path / "chancery.toml"
    sample = _SAMPLE.read_text("utf-8")
    remotes = '[perspectives]\ncertificate = "c"\nkey = "k"\n' + "".join(
        f'[[perspectives.remotes]]\nname = "p{number}"\naddress = "192.0.2.{number}:8550"\nrir = {json.dumps(rir)}\n'
        f'distance_group = "city{number}"\ncertificate = "p{number}.pem"\n' for number, rir in enumerate(_RIRS))
    now = datetime(2026, 12, 15, tzinfo=UTC)

    def faults(text: str) -> list[str]:
        config.write_text(text, "utf-8")
        found = policy_faults(load_settings(config, {}), config, now)
        return [fault.partition("chancery.toml: ")[2] for fault in found]

    assert faults(sample + remotes) == []
    assert "two perspectives have the same distance_group" in faults(sample + remotes.replace("city1", "city0"))[0]
    for rir in _RIRS:
        remotes = remotes.replace(f'rir = "{rir}"', 'rir = "ARIN"')
    assert "corroborated in 1 regional Internet registries' regions" in faults(sample + remotes)[0]
    special = sample.replace("//ocsp.example.com", "//ocsp.corp.internal").replace('"ca.example.com"', '"ca.example"')
    assert faults(special)[1:] == ["ca.ocsp_url: ocsp.corp.internal is a special-use name (.internal)",
                                   "va.caa_identities: ca.example is a special-use name (.example)"]
    (tmp_path / "log_list.json").write_text("{}", "utf-8")
    assert faults(sample)[1].startswith("ct.log_list: not a list of CT logs")
    async with CtLogs(personalities(2)) as logs:
        age = datetime.now(UTC) - now + timedelta(seconds=LOG_LIST_LIFE_S, days=1)
        (tmp_path / "log_list.json").write_bytes(logs.list_json(age=age))
    assert "days old: install a new one" in faults(sample)[1]


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
