"""`chancery audit verify`: sound chains, tampered ones, and those that the database knows better."""

import asyncio
import shutil

import structlog

from ca.process.ambient import system_ambient
from ca.process.audit_anchor import anchor_heads, open_audit_log
from ca.process.postgres import create_pool
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed


async def _sign(command_line: CommandLine, role: str = "ca_issuer", process: str = "ca") -> None:
    """A process that signs once, anchors, and ends."""
    stop = asyncio.Event()
    stop.set()
    async with (await create_pool(command_line.settings.database, role, process="test") as pool,
                open_audit_log(command_line.settings, process, system_ambient(), token="t") as log):
        log.append("signing", kind="certificate", key="E1", tbs_sha256="aa", subject="s")
        log.append("signed", kind="certificate", key="E1", tbs_sha256="aa")
        await anchor_heads(pool, log, stop, structlog.get_logger())


async def test_sound(seed: Seed, command_line: CommandLine) -> None:
    """Both processes that sign may anchor; signatures are counted by key; it works without the database as well."""
    await command_line.run("audit", "verify", exit_code=3)
    await _sign(command_line)
    await _sign(command_line)
    await _sign(command_line, "ocsp_signer", "presign")
    document = await command_line.json("audit", "verify")
    assert document["faults"] == []
    assert [(chain["name"], chain["signatures"]) for chain in document["chains"]] == [
        ("ca.0", [{"kind": "certificate", "key": "E1", "asked": 2, "signed": 2}]),
        ("presign.0", [{"kind": "certificate", "key": "E1", "asked": 1, "signed": 1}])]
    copy = command_line.config.parent / "copy"
    shutil.copytree(command_line.config.parent / "audit", copy)
    text = (await command_line.run("audit", "verify", "--offline", "--dir", str(copy))).stdout
    assert "certificate by E1: 2 (2)" in text
    owner = await seed.database.connect()
    assert await owner.fetchval("SELECT count(*) FROM audit_heads") == 3
    await owner.close()


async def test_wrong(command_line: CommandLine) -> None:
    """Cut off, written anew, gone, or changed: exit code 1, and each is named."""
    for _ in range(2):
        await _sign(command_line)
    directory = command_line.config.parent / "audit"
    path = directory / "ca.0" / "00000001.log"
    sound = path.read_bytes()

    async def wrong(*arguments: str) -> str:
        found = await command_line.run("audit", "verify", *arguments, exit_code=1, columns=200)
        return found.stdout

    path.write_bytes(b"".join(sound.splitlines(keepends=True)[:5]))
    assert "it ends at record 5" in await wrong()
    await command_line.run("audit", "verify", "--offline")
    path.write_bytes(sound.replace(b'"subject":"s"', b'"subject":"x"', 1))
    assert "does not follow" in await wrong("--offline")
    shutil.move(directory / "ca.0", command_line.config.parent / "away")
    await _sign(command_line)
    assert "the database knows the chain" in await wrong()
    path.write_bytes(path.read_bytes().replace(b'"event":"signing"', b'"event":"nothing"'))
    assert await wrong("--offline")


async def test_a_head_never_goes_back(seed: Seed) -> None:
    """A process that is captured can add heads and neither change nor take back one."""
    issuer = await seed.database.connect("ca_issuer")
    anchor = "SELECT anchor_audit_head('c', $1, $2)"
    assert await issuer.fetchval(anchor, 5, b"five")
    for number in (5, 4):
        assert await issuer.fetchval(anchor, number, b"other") is None
    assert await issuer.fetchval(anchor, 6, b"six")
    await issuer.close()
    owner = await seed.database.connect()
    rows = await owner.fetch("SELECT digest FROM audit_heads ORDER BY number")
    assert [row["digest"] for row in rows] == [b"five", b"six"]
    await owner.close()
