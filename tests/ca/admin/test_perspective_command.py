"""`chancery perspective enroll` and the perspectives in `chancery status`."""

import asyncio
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from acme_api.va.perspective_tls import client_context, server_context
from ca.admin.perspective_status import perspective_notices
from ca.process.settings import SettingsError, load_perspective_settings, load_settings
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed

_OPTIONS = ("--address", "192.0.2.9:8550", "--rir", "RIPE NCC", "--distance-group", "frankfurt")


async def test_enroll_makes_two_ends_that_fit(offline: CommandLine) -> None:
    """The bundle starts a host and the printed lines name it here; each end pins the other's certificate."""
    here = offline.config.parent / "perspectives"
    first = await offline.run("perspective", "enroll", "fra1", *_OPTIONS)
    offline.config.write_text(offline.config.read_text("utf-8") + first.stdout.partition("\n\n")[2], "utf-8")
    second = await offline.json("perspective", "enroll", "iad1", "--address", "198.51.100.9:8550", "--rir", "ARIN",
                                "--distance-group", "ashburn")
    offline.config.write_text(offline.config.read_text("utf-8") + second["configuration"], "utf-8")
    settings = load_settings(offline.config, {}).perspectives
    assert [(each.name, each.rir, each.distance_group) for each in settings.remotes] == [
        ("fra1", "RIPE NCC", "frankfurt"), ("iad1", "ARIN", "ashburn")]
    assert settings.certificate is not None
    assert settings.key is not None
    for remote in settings.remotes:
        bundle = here / remote.name
        host = load_perspective_settings(bundle / "perspective.toml", {})
        assert (host.perspective.name, host.perspective.listen) == (
            remote.name, ["0.0.0.0:8550", "[::]:8550"])
        assert host.va.caa_identities == ["chancery.example"]
        assert stat.S_IMODE((bundle / "key.pem").stat().st_mode) == 0o600
        server_context(certificate=host.perspective.certificate, key=host.perspective.key,
                       clients=host.perspective.va_certificates)
        client_context(certificate=settings.certificate, key=settings.key, server=remote.certificate)
        assert remote.certificate.read_bytes() == host.perspective.certificate.read_bytes()
        life = x509.load_pem_x509_certificate(remote.certificate.read_bytes()).not_valid_after_utc - datetime.now(UTC)
        assert life > timedelta(days=1_800)
    assert stat.S_IMODE((here / "va.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(("name", "options", "code", "says"), [
    ("Fra 1", _OPTIONS, 2, "is no name"), ("../x", _OPTIONS, 2, "is no name"),
    ("fra1", ("--address", "nowhere", *_OPTIONS[2:]), 2, "is not HOST:PORT"),
    ("fra1", (*_OPTIONS[:2], "--rir", "RIPE", *_OPTIONS[4:]), 2, "RIPE NCC"),
    ("fra1", _OPTIONS[:4], 2, "--distance-group")])
async def test_enroll_refuses_what_is_wrong(
    offline: CommandLine, name: str, options: tuple[str, ...], code: int, says: str
) -> None:
    """A usage error names what was expected, and nothing is made."""
    result = await offline.run("perspective", "enroll", name, *options, exit_code=code)
    assert says in result.stderr
    assert not (offline.config.parent / "perspectives").exists()


async def test_enroll_overwrites_nothing(offline: CommandLine) -> None:
    """A second call with the same name is refused and changes no key."""
    await offline.run("perspective", "enroll", "fra1", *_OPTIONS)
    files = {path: path.read_bytes() for path in (offline.config.parent / "perspectives").rglob("*.*")}
    result = await offline.run("perspective", "enroll", "fra1", *_OPTIONS, exit_code=1)
    assert "is there already" in result.stderr
    assert files == {path: path.read_bytes() for path in (offline.config.parent / "perspectives").rglob("*.*")}


@pytest.mark.parametrize(("lines", "says"), [
    ('[[perspectives.remotes]]\nname = "a"\naddress = "x:1"\nrir = "RIPE"\ndistance_group = "b"\ncertificate = "c"',
     "perspectives.remotes"),
    ('[[perspectives.remotes]]\nname = "a"\naddress = "x:1"\nrir = "ARIN"\ndistance_group = "b"\ncertificate = "c"',
     "perspectives.certificate, perspectives.key: expected two file paths"),
    ("[perspectives]\ntimeout_s = 0", "perspectives.timeout_s: expected seconds above 0")])
def test_settings_that_cannot_work(offline: CommandLine, lines: str, says: str) -> None:
    """An RIR that is none, remotes without our certificate, no time at all: one line with the key."""
    offline.config.write_text(f"{offline.config.read_text('utf-8')}\n{lines}\n", "utf-8")
    with pytest.raises(SettingsError, match=says):
        load_settings(offline.config, {})


def test_a_host_needs_no_more_than_its_own_file(tmp_path: Path) -> None:
    """A perspective's configuration with a section of the CA is refused: that host has no business with it."""
    (tmp_path / "p.toml").write_text('policy = "public"\n[perspective]\nname = "p"\nlisten = []\ncertificate = "c"\n'
                                     'key = "k"\nva_certificates = "v"\n[va]\ncaa_identities = ["ca.example"]\n'
                                     '[hsm]\nmodule = "x"\n', "ascii")
    with pytest.raises(SettingsError, match="hsm"):
        load_perspective_settings(tmp_path / "p.toml", {})


@pytest.mark.parametrize(("missing", "says"), [
    ("perspective.toml", "no such file; `chancery perspective enroll` writes one"),
    ("key.pem", "expected a certificate and its key, PEM: No such file or directory"),
    ("va.pem", "expected certificates, PEM")])
async def test_a_host_that_lacks_something_does_not_start(offline: CommandLine, missing: str, says: str) -> None:
    """`chancery run perspective` ends with exit code 1 and one line that names the file."""
    await offline.run("perspective", "enroll", "fra1", *_OPTIONS)
    bundle = offline.config.parent / "perspectives" / "fra1"
    (bundle / missing).unlink()
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "ca.admin.cli", "run", "perspective", "--config",
                         str(bundle / "perspective.toml")], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("chancery perspective: ")
    assert says in line
    assert missing in line
    assert "Traceback" not in done.stderr


async def test_what_will_soon_be_wrong_is_degraded(offline: CommandLine) -> None:
    """MP1: 60 days before a date of the BR with too few perspectives, before a pinned certificate ends, and after."""
    shown = await offline.run("perspective", "enroll", "fra1", *_OPTIONS)
    offline.config.write_text(offline.config.read_text("utf-8") + shown.stdout.partition("\n\n")[2], "utf-8")
    settings = load_settings(offline.config, {})
    november = datetime(2026, 11, 25, tzinfo=UTC)
    assert not list(perspective_notices(settings, november))
    public = msgspec.structs.replace(settings, policy="public")
    assert [each.code for each in perspective_notices(public, november)] == ["perspectives_few"]
    assert not list(perspective_notices(public, november - timedelta(days=60)))
    later = datetime.now(UTC) + timedelta(days=1_800)
    texts = [each.text for each in perspective_notices(public, later)]
    assert [text.partition(" ends at ")[0] for text in texts] == [
        "the certificate of the VA", "the certificate of perspective fra1"]
    assert all(" ended at " in each.text for each in perspective_notices(settings, later + timedelta(days=60)))


async def test_status_shows_perspectives(seed: Seed, command_line: CommandLine) -> None:
    """Reachable or not, how far, how often it failed, when it is asked again; the worst that any VA process sees, and
    nothing of processes that are gone."""
    insert = ("INSERT INTO perspective_health (worker, perspective, position, rir, seen_at, answered_at, lag_ms,"
              " failures, retry_at, fault) VALUES ($1, $2, $3, $4, now() - $5::interval, now(), $6, $7,"
              " now() + $8::interval, $9)")
    second, hour = timedelta(seconds=1), timedelta(hours=1)
    await seed.run("acme_va", insert, "a", "fra1", 1, "RIPE NCC", second, 21, 0, None, None)
    await seed.run("acme_va", insert, "a", "iad1", 2, "ARIN", second, 90, 0, None, None)
    await seed.run("acme_va", insert, "b", "iad1", 2, "ARIN", second, 95, 3, timedelta(seconds=8), "no answer in time")
    await seed.run("acme_va", insert, "gone", "old1", 3, "ARIN", hour, 1, 9, hour, "x")
    document = await command_line.json("status", exit_code=5)
    shown = [(each["name"], each["reachable"], each["lag_ms"], each["failures"]) for each in document["perspectives"]]
    assert shown == [("fra1", True, 21, 0), ("iad1", False, 95, 3)]
    assert "perspective iad1 does not answer: no answer in time" in [each["text"] for each in document["reasons"]]
    table = (await command_line.run("status", exit_code=5)).stdout
    assert "PERSPECTIVES" in table
    assert max(len(line) for line in table.splitlines()) <= 80
