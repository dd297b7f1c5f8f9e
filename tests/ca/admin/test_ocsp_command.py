"""`chancery ocsp` where no process answers: what is said, and with which exit code. With real pre-signers and
responders: tests/ocsp/presign/test_outlook.py."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from ca.admin.commands import ocsp as ocsp_command
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import DAY, Seed
from tests.ports import free_port

_ROOT = Path(__file__).parents[3]


async def _due(seed: Seed) -> None:
    """A range that is due, and a pre-signer that says that it runs."""
    await seed.run("chancery_owner", "INSERT INTO ocsp_shards (issuer_id, first_serial, last_serial, due_at, signed_at,"
                   " certificates) VALUES (1, $1, $2, $3, $4, 1234)", bytes(18), b"\x01" + bytes(17),
                   seed.now - timedelta(hours=1), seed.now - 2 * DAY)
    await seed.run("chancery_owner", "INSERT INTO ocsp_signers VALUES ('there:1', 1, 0, 0.001, now())")


async def test_presign_ends_when_nothing_moves(
    seed: Seed, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal a line now and then; after a while with nothing signed, where to look, and exit code 1."""
    for name, value in (("_STALLED_AFTER", timedelta(seconds=1)), ("_SAY_EVERY", timedelta(seconds=0.2)),
                        ("_LOOK_EVERY_S", 0.1)):
        monkeypatch.setattr(ocsp_command, name, value)
    await _due(seed)
    result = await command_line.run("ocsp", "presign", exit_code=1)
    *lines, last = result.stderr.splitlines()
    assert lines
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ 1,234 of 1,234 left", line) for line in lines)
    assert re.fullmatch(r"chancery: 1,234 certificates are left, and none was signed for \d+ s: see `chancery ocsp "
                        "status`, and the log of the pre-signer", last)
    assert await command_line.json("ocsp", "presign", "--everything", exit_code=4) == {
        "status": "would_sign", "certificates": 1_234, "took_s": 0.0}


async def test_status_of_nothing_says_what_is_missing(seed: Seed, command_line: CommandLine) -> None:
    """An installation of which nothing runs: each in words, exit code 5, and it fits the terminal."""
    address = f"127.0.0.1:{free_port()}"
    text = command_line.config.read_text("utf-8")
    command_line.config.write_text(text.replace("127.0.0.1:14001", address), "utf-8")
    result = await command_line.run("ocsp", "status", exit_code=5)
    said = " ".join(result.stdout.split())
    assert "degraded: no pre-signer is running: new certificates get no response, and none is signed again" in said
    assert f"degraded: the responder at {address} does not answer" in said
    assert max(map(len, result.stdout.splitlines())) <= 80
    await _due(seed)
    document = await command_line.json("ocsp", "status", exit_code=5)
    assert [alarm["code"] for alarm in document["alarms"]] == ["ocsp_responder_missing"]
    assert (document["certificates"], document["overdue"], document["oldest_allowed_s"]) == (1_234, 1_234, 96 * 3_600)


def test_metrics_that_the_runbook_names_exist() -> None:
    """Whoever alerts on one that is never told is never alerted."""
    told = "".join((_ROOT / path).read_text("utf-8") for path in (
        "ca/admin/page/metrics.py", "ocsp/responder/server.py", "ocsp/responder/live.py"))
    named = set(re.findall(r"`[^`]*\b(chancery_(?!owner)\w+)", (_ROOT / "deploy" / "RUNBOOK.md").read_text("utf-8")))
    assert len(named) > 8
    for name in named:
        assert name.removeprefix("chancery_ocsp_responder_") in told, name
