"""What people read: facts that can be copied, commands that can be typed."""

import os
import sys
from pathlib import Path

import pytest

from ca.admin.demo_banner import banner_text, program
from ca.admin.demo_config import DemoOptions, config_text
from ca.admin.output import Column, print_facts, print_table
from ca.process.settings import load_settings

_URL = "https://ca.example.com:14000/acme/account/" + "A" * 60


def test_what_has_no_spaces_is_not_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL or a hash stands on one line however narrow the terminal is; sentences go on in the next line; what would
    fill the screen is broken after all, and nothing of it is lost."""
    monkeypatch.setenv("COLUMNS", "40")
    print_facts([("account", _URL), ("hash", "ab" * 32), ("why", "word " * 60), ("long", "x" * 5_000)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(_URL) for line in lines)
    assert any(line.endswith("ab" * 32) for line in lines)
    assert max(len(line) for line in lines) <= len(_URL) + 15
    assert sum(line.count("word") for line in lines) == 60
    assert sum(line.count("x") for line in lines if "example" not in line) == 5_000
    print_facts([("why", "word " * 30)])
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 40


def test_whole_cells_leave_room_for_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a hash that is not broken, a sentence still has words in a line; without one, a table is no wider than the
    terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    columns = [Column(title="hash", whole=True), Column(title="also", whole=True), Column(title="why")]
    print_table(columns, [("ab" * 32, "2026-11-26", "the private part was sent")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "ab" * 32 + "  2026-11-26  the private"
    assert len(lines) == 3
    print_table(columns, [("a", "b", "word " * 60)])
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_the_banner_names_the_program_as_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`chancery` where the shell finds it, else the path by which it was called, fit for a shell."""
    scripts = tmp_path / "virtual environment"
    scripts.mkdir()
    called = scripts / "chancery"
    called.write_text("#!/bin/sh\n", "ascii")
    called.chmod(0o755)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert program(os.fspath(called)) == f"'{called}'"
    config = tmp_path / "chancery.toml"
    config.write_text(config_text(DemoOptions(
        port_base=15_000, resolver="", http_01_port=80, tls_alpn_01_port=443, policy="internal", module="m"), tmp_path))
    settings = load_settings(config, {})
    assert f"  '{called}' status --config" in banner_text(settings, tmp_path, program=program(os.fspath(called)))
    monkeypatch.setenv("PATH", os.fspath(scripts))
    assert program(sys.argv[0]) == "chancery"
