"""`chancery ocsp`, with real pre-signers and a responder: what it says, what it starts, when it warns."""

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.certificates import DAY, Certificates
from tests.ocsp.processes import port_of, running, until, write_config


@pytest.fixture
def config(tmp_path: Path, database: TestDatabase, softhsm_token: SoftHsm) -> Path:
    """Token, database and a port."""
    return write_config(tmp_path, database.settings, hsm=softhsm_token.settings)


async def chancery(config: Path, *arguments: str, exit_code: int = 0) -> str:
    """What `chancery ocsp ...` prints on stdout; its exit code must be as said."""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "ca.admin.cli", "ocsp", *arguments, "--config", str(config)],
        capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout if exit_code == 0 else done.stdout + done.stderr


async def in_terminal(config: Path, *arguments: str) -> str:
    """What `chancery ocsp ...` shows in a terminal, which makes it succeed."""
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-m", "ca.admin.cli", "ocsp", *arguments, "--config", str(config)],
                          stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):         # when nobody has the other end any more
            while part := await asyncio.to_thread(os.read, ours, 65_536):
                shown += part
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode("utf-8")


def metrics_of(port: int) -> bytes:
    """What Prometheus scrapes from a responder."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        return bytes(reply.read())


async def status(config: Path, *, exit_code: int = 0) -> dict[str, Any]:
    """`chancery ocsp status` for programs."""
    found: dict[str, Any] = json.loads(await chancery(config, "status", "--output", "json", exit_code=exit_code))
    return found


async def test_signers_speed_lag_and_backlog_are_told(certificates: Certificates, config: Path) -> None:
    """While all is well; the responder says how far behind it is; the table fits the terminal."""
    await certificates.add(300)
    await certificates.add(100, issuer_id=2)
    with running("presign", config) as signer, running("ocsp", config) as responder:
        await signer.ready()
        await responder.ready()
        await certificates.until_answered()
        document: dict[str, Any] = {}
        for _ in range(60):
            document = await status(config)
            if all(one["certificate_s"] for one in document["signers"]) and (
                    document["responders"][0]["batch_id"] == document["last_batch_id"]):
                break
            await asyncio.sleep(0.5)
        assert document["status"] == "ok"
        assert {one["issuer"] for one in document["signers"]} == {"Test E1", "Test R1"}
        assert document["certificates_per_s"]["Test E1"] > document["certificates_per_s"]["Test R1"] > 0
        assert document["responders"][0]["state"] == "ok"
        assert document["responders"][0]["lag_s"] < 60
        assert (document["ranges"], document["overdue"], document["waiting"]) == (32, 0, 0)
        text = await chancery(config, "status")
        assert max(map(len, text.splitlines())) <= 80
        for said in ("its own key", "never, at this speed", "of the 96 h that BR 4.9.9 allows",
                     "THEIR WORKERS, each since its start"):
            assert said in text
        assert b"chancery_ocsp_responder_held 40" in await asyncio.to_thread(metrics_of, port_of(config))
    await until(lambda: signer.popen.poll() is not None)
    after = await status(config, exit_code=5)
    assert after["signers"] == []
    assert after["responders"][0]["state"].startswith("missing")
    assert [alarm["code"] for alarm in after["alarms"]] == ["ocsp_signer_missing", "ocsp_responder_missing"]


async def test_a_breach_is_foretold_before_it_happens(certificates: Certificates, config: Path) -> None:
    """80 hours old and more to sign than can be signed in 16: exit code 5, with the moment. No responder is missed
    where none is configured."""
    config.write_text(re.sub(r"(\[ocsp\]\nlisten = ).*", r"\1[]", config.read_text("utf-8")), "utf-8")
    await certificates.owner.execute(
        "INSERT INTO ocsp_shards (issuer_id, first_serial, last_serial, due_at, signed_at, certificates)"
        " VALUES (1, $1, $2, now() - interval '20 hours', now() - interval '80 hours', 100000000)",
        bytes(18), b"\x01" + bytes(17))
    await certificates.owner.execute("INSERT INTO ocsp_signers VALUES ('there:1', 1, 0, 0.001, now())")
    document = await status(config, exit_code=5)
    assert [alarm["code"] for alarm in document["alarms"]] == ["ocsp_breach"]
    assert document["overdue"] == 100_000_000
    assert "start more pre-signers" in await chancery(config, "status", exit_code=5)
    await certificates.owner.execute("UPDATE ocsp_signers SET certificate_s = 0.0001")
    assert (await status(config))["alarms"] == []
    await certificates.owner.execute("INSERT INTO ocsp_requests (serial, version, issuer_id, request_id, requested_at)"
                                     " SELECT int8send(n), 0, 1, 'x', now() FROM generate_series(1, 1000) AS n")
    await certificates.owner.execute("UPDATE ocsp_signers SET certificate_s = 2")
    document = await status(config, exit_code=5)
    assert {alarm["code"] for alarm in document["alarms"]} == {"ocsp_breach", "ocsp_slow"}


async def test_everything_is_signed_again_on_demand(certificates: Certificates, config: Path) -> None:
    """A dry run first; with no pre-signer it says what to do; with workers of its own it signs all and ends them."""
    serials = await certificates.add(400)
    with running("presign", config) as signer:
        await signer.ready()
        await certificates.until_answered()
        assert "nothing is due" in await chancery(config, "presign")
    first = len(await certificates.batches())
    assert "would sign 400 certificates in 16 ranges" in await chancery(config, "presign", "--everything", exit_code=4)
    assert json.loads(await chancery(config, "presign", "--output", "json")) == {
        "status": "ok", "certificates": 0, "took_s": 0.0}
    assert "no pre-signer is running" in await chancery(config, "presign", "--everything", "--yes", exit_code=1)
    said = await in_terminal(config, "presign", "--everything", "--yes", "--workers", "1")
    assert "signing" in said
    assert "400/400" in said, "the bar is full at the end"
    assert "ok: 400 certificates in " in said.splitlines()[-1]
    again = [serial for _, records in (await certificates.batches())[first:] for serial in records]
    assert sorted(again) == sorted(serials)
    assert await certificates.owner.fetchval("SELECT count(*) FROM ocsp_resign_requests") == 0
    assert await certificates.owner.fetchval("SELECT sum(certificates) FROM ocsp_shards") == len(serials)
    assert await certificates.owner.fetchval("SELECT count(*) FROM ocsp_signers") == 0


async def test_ranges_of_past_days_are_counted(certificates: Certificates, config: Path) -> None:
    """So that their first signing again can be foretold."""
    await certificates.add(50, at=datetime.now(UTC) - DAY)
    with running("presign", config) as signer:
        await signer.ready()
        await certificates.until_answered()
        async with asyncio.timeout(60):
            while not await certificates.owner.fetchval(  # noqa: ASYNC110 - a row of a database is waited for
                    "SELECT max(certificates) FROM ocsp_shards WHERE due_at > now() + $1", timedelta(hours=1)):
                await asyncio.sleep(0.2)
