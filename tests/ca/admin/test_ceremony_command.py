"""`chancery ceremony`: two people confirm a real plan, a demonstration asks nothing, and each fault has its code."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ca.admin.ceremony.outputs import unfinished_directory
from ca.admin.cli import cli
from tests.ca.admin.conftest import write_config
from tests.fixtures_hsm import DemoCeremony, SoftHsm, make_softhsm
from tests.fixtures_postgres import TestDatabase

_PLAN = """
title = "Test ceremony"
demonstration = {demonstration}
country = "GB"
organization = "Chancery Tests"
aia_base_url = "http://aia.example.com"
crl_base_url = "http://crl.example.com"
[root_hsm]
module = "{module}"
conf = "root/softhsm2.conf"
token_label = "Root"
pin_file = "root/pin"
[online_hsm]
module = "{module}"
conf = "online/softhsm2.conf"
token_label = "Online"
pin_file = "online/pin"
[[roots]]
common_name = "Test Root X2"
key = "p-384"
[[intermediates]]
common_name = "Test E1"
key = "p-256"
issuer = "Test Root X2"
crl_shards = 16
"""


def _run(*args: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, ["ceremony", *map(str, args)], input=stdin)


def _make(directory: Path, *, demonstration: bool) -> tuple[Path, SoftHsm, SoftHsm]:
    root, online = make_softhsm(directory / "root", "Root"), make_softhsm(directory / "online", "Online")
    plan = directory / "plan.toml"
    plan.write_text(_PLAN.format(module=root.module, demonstration=str(demonstration).lower()))
    return plan, root, online


def test_a_demonstration_from_plan_to_verified_outputs(tmp_path: Path) -> None:
    """run --yes, verify, show; JSON for programs; a rerun is refused with code 4 and one line."""
    plan, _, _ = _make(tmp_path, demonstration=True)
    out = tmp_path / "out"
    done = _run("run", plan, "--out", out, "--yes", "--output", "json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [each["name"] for each in document["certificates"]] == ["Test Root X2", "Test E1"]
    assert "generating p-384 key 'Test Root X2' in the root token" in done.stderr
    verified = _run("verify", out)
    assert verified.exit_code == 0
    assert document["manifest_sha256"] in verified.output.replace("\n", "")
    assert "Test E1" in _run("show", out).output
    assert json.loads(_run("show", out, "-o", "json").stdout)["certificates"] == document["certificates"]
    assert (out / "inputs" / "plan.toml").read_bytes() == plan.read_bytes()
    again = _run("run", plan, "--out", out, "--yes")
    assert (again.exit_code, again.stdout) == (4, "")
    assert "exists already: a ceremony is held once" in again.stderr
    assert again.stderr.count("\n") == 1


def test_a_rehearsal_touches_no_token_of_the_plan(tmp_path: Path) -> None:
    """The whole act with tokens that are thrown away: outputs verify and say REHEARSAL, two people practise, the real
    tokens stay empty, and the real ceremony can be held afterwards."""
    plan, root, online = _make(tmp_path, demonstration=False)
    digest = hashlib.sha256(plan.read_bytes()).hexdigest()[:8]
    out = tmp_path / "rehearsal"
    done = _run("rehearse", plan, "--out", out, stdin=f"Ada\n{digest}\nBob\n{digest}\n")
    assert done.exit_code == 0, done.output
    assert _run("verify", out).exit_code == 0
    transcript = (out / "transcript.txt").read_text()
    assert "REHEARSAL of Test ceremony" in transcript
    assert "operators Ada, Bob" in transcript
    certificate = str(out / "certificates" / "test-e1.pem")
    subject = subprocess.run(["openssl", "x509", "-in", certificate, "-noout", "-subject"], check=True,
                             capture_output=True, text=True).stdout
    assert "REHEARSAL Chancery Tests" in subject
    for token in (root, online):
        with token.open() as opened:
            assert opened.list_keys() == []
    assert _run("rehearse", plan, "--out", out, "--yes").exit_code == 4
    real = _run("run", plan, "--out", tmp_path / "out", stdin=f"Ada\n{digest}\nBob\n{digest}\n")
    assert real.exit_code == 0, real.output


def test_two_people_confirm_by_name(tmp_path: Path) -> None:
    """Both type their names and the plan's first digits; their names are in the transcript; nobody is two people."""
    plan, root, online = _make(tmp_path, demonstration=False)
    digits = hashlib.sha256(plan.read_bytes()).hexdigest()[:8]
    pins = "".join(softhsm.pin_file.read_text() for softhsm in (root, online))
    for softhsm in (root, online):
        softhsm.pin_file.unlink()
    done = _run("run", plan, "--out", tmp_path / "out", "--ask-pins",
                stdin=f"Ada\n{digits}\nada\nGrace\n{digits}\n{pins}")
    assert done.exit_code == 0, done.output
    assert "root          Test Root X2: p-384, 3650 days" in done.stderr
    assert "confirmed already" in done.stderr
    transcript = (tmp_path / "out" / "transcript.txt").read_text()
    assert " operators Ada, Grace\n" in transcript
    assert f"input plan.toml sha256 {hashlib.sha256(plan.read_bytes()).hexdigest()}" in transcript
    for pin in pins.split():
        assert pin not in done.output + transcript


def test_without_confirmation_nothing_is_made(tmp_path: Path) -> None:
    """Wrong digits, or --yes for a real plan: code 4, no key, no directory."""
    plan, root, online = _make(tmp_path, demonstration=False)
    out = tmp_path / "out"
    wrong = _run("run", plan, "--out", out, "--operator", "Ada", "--operator", "Grace", stdin="00000000\n")
    assert wrong.exit_code == 4
    assert "Ada did not confirm the plan: nothing was made" in wrong.stderr
    refused = _run("run", plan, "--out", out, "--yes")
    assert refused.exit_code == 4
    assert "BR 4.3.1.1" in refused.stderr
    assert not out.exists()
    assert not unfinished_directory(out).exists()
    for softhsm in (root, online):
        with softhsm.open() as token:
            assert token.list_keys() == []


def test_an_interrupted_ceremony_is_discarded(tmp_path: Path) -> None:
    """A failed run is refused again with what to do; discard says what it would destroy, then does it."""
    plan, root, _ = _make(tmp_path, demonstration=True)
    out = tmp_path / "out"
    pin = root.pin_file.read_text()
    root.pin_file.write_text("0000\n")
    failed = _run("run", plan, "--out", out, "--yes")
    assert failed.exit_code == 1
    assert "token 'Root' refuses the PIN" in failed.stderr
    again = _run("run", plan, "--out", out, "--yes")
    assert again.exit_code == 4
    assert "`chancery ceremony discard`" in again.stderr
    root.pin_file.write_text(pin)
    dry = _run("discard", plan, "--out", out)
    assert dry.exit_code == 4
    assert "would destroy key 'Test E1'" in dry.stdout
    done = _run("discard", plan, "--out", out, "--yes")
    assert done.exit_code == 0, done.output
    assert "key 'Test E1' in the online token: destroyed" in done.stdout
    assert _run("discard", plan, "--out", out, "--yes").exit_code == 3
    assert _run("run", plan, "--out", out, "--yes").exit_code == 0


@pytest.mark.parametrize(("arguments", "code", "text"), [
    (["verify", "nowhere"], 3, "there is no such ceremony"),
    (["show", "nowhere"], 3, "there is no such ceremony"),
    (["run", "nowhere.toml", "--out", "x", "--yes"], 3, "there is no such plan"),
    (["run", "bad.toml", "--out", "x", "--yes"], 2, "bad.toml: Object missing required field `title`"),
    (["run", "bad.toml"], 2, "Missing option '--out'"),
    (["verify", "."], 1, "SHA256SUMS cannot be read"),
])
def test_each_fault_has_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, text: str
) -> None:
    """3 for what is not there, 2 for a wrong plan or command line, 1 for what is damaged; the reason on stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("country = 'GB'\n")
    done = _run(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert text in done.stderr


def test_record_puts_a_verified_ceremony_into_the_database(
    database: TestDatabase, demo_ceremony: DemoCeremony, tmp_path: Path
) -> None:
    """The first time what was written is listed, the second time nothing; a damaged directory is refused."""
    config = write_config(tmp_path, database.settings)
    first = _run("record", demo_ceremony.result.directory, "--config", config, "-o", "json")
    assert first.exit_code == 0, first.output
    assert "issuer 1: Chancery Demo R1" in json.loads(first.stdout)["written"]
    second = _run("record", demo_ceremony.result.directory, "--config", config)
    assert (second.exit_code, second.stdout) == (0, "ok: it was all there\n")
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(demo_ceremony.result.directory), str(copy)], check=True)
    (copy / "roots.pem").unlink()
    damaged = _run("record", copy, "--config", config)
    assert damaged.exit_code == 1
    assert "roots.pem is missing" in damaged.stderr
