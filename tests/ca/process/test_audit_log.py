"""The audit log: chained lines on disk, whatever ends the process; what was tampered with shows."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca.process import audit_log
from ca.process.audit_log import AuditLog, AuditLogError
from ca.process.audit_reader import ChainBroken, chain_directories, read_chain, summarize

_Result = TypeVar("_Result")
_NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def _open(root: Path, process: str = "ca") -> AuditLog:
    return AuditLog.open(root, process, now=lambda: _NOW, random_bytes=os.urandom, version="1")


def _segments(root: Path) -> list[Path]:
    return sorted((root / "ca.0").glob("*.log"))


async def _written(root: Path, count: int = 5) -> None:
    log = _open(root)
    for number in range(count):
        log.append("signing", kind="certificate", key="E1", tbs_sha256=f"{number:064x}", subject=str(number))
    await log.flush()
    for number in range(count):
        log.append("signed", kind="certificate", key="E1", tbs_sha256=f"{number:064x}", signature_sha256="ab")
    await log.close()


async def test_each_line_names_the_one_before(tmp_path: Path) -> None:
    """By the SHA-256 of its bytes, which anybody can compute; numbers without a gap; the time in UTC."""
    await _written(tmp_path)
    lines = _segments(tmp_path)[0].read_bytes().splitlines()
    previous = ""
    for number, line in enumerate(lines, 1):
        record = json.loads(line)
        assert (record["n"], record["prev"], record["at"]) == (number, previous, "2026-11-24T12:00:00+00:00")
        previous = hashlib.sha256(line).hexdigest()
    assert [record.event for record in read_chain(tmp_path / "ca.0")] == [
        "opened", *["signing"] * 5, *["signed"] * 5, "closed"]
    summary, _ = summarize(tmp_path / "ca.0")
    assert (summary.asked, summary.signed) == ({("certificate", "E1"): 5}, {("certificate", "E1"): 5})
    assert summary.without_intent == []


async def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    """The same chain; two writers at once have a chain each."""
    await _written(tmp_path)
    again = _open(tmp_path)
    beside = _open(tmp_path)
    assert again.head.number == 13
    assert again.head.chain != beside.head.chain
    await again.close()
    await beside.close()
    assert [path.name for path in chain_directories(tmp_path)] == ["ca.0", "ca.1"]
    assert summarize(tmp_path / "ca.0")[0].records == 14


async def test_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full segment is closed, read-only, and the chain goes on in the next one; also after a restart."""
    monkeypatch.setattr(audit_log, "SEGMENT_BYTES", 1000)
    for _ in range(3):
        log = _open(tmp_path)
        for number in range(20):
            log.append("signing", subject=str(number))
            await log.flush()
        await log.close()
    segments = _segments(tmp_path)
    assert len(segments) > 5
    assert {path.stat().st_mode & 0o777 for path in segments[:-1]} == {0o400}
    assert summarize(tmp_path / "ca.0")[0].records == 66
    segments[2].unlink()
    with pytest.raises(ChainBroken, match="missing"):
        list(read_chain(tmp_path / "ca.0"))


async def test_waiters_share_one_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred flushes at once cost a few fsyncs, and every line is on disk when its flush returns."""
    syncs = []
    real = os.fdatasync

    def counted(descriptor: int) -> None:
        syncs.append(descriptor)
        real(descriptor)

    monkeypatch.setattr("ca.process.audit_log.os.fdatasync", counted)
    log = _open(tmp_path)

    async def one(number: int) -> None:
        log.append("signing", subject=f"<{number}>")
        await log.flush()
        assert f"<{number}>" in _segments(tmp_path)[0].read_text()

    await asyncio.gather(*[one(number) for number in range(200)])
    assert len(syncs) <= 4
    await log.close()


async def test_what_follows_the_lines_comes_behind_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flush_before: one way to the other thread, where one fsync comes first and what is done after it second; its
    result and its faults, an OSError among them, are its caller's. With nothing to write it is done all the same."""
    done: list[str] = []
    real = os.fdatasync

    def synced(descriptor: int) -> None:
        real(descriptor)
        done.append(f"sync in {threading.current_thread().name}")

    def signed() -> str:
        assert "<one>" in _segments(tmp_path)[0].read_text()
        done.append(f"sign in {threading.current_thread().name}")
        return "signature"

    def broken() -> str:
        raise ConnectionResetError("the token is away")

    log = _open(tmp_path)
    monkeypatch.setattr("ca.process.audit_log.os.fdatasync", synced)
    with ThreadPoolExecutor(1, thread_name_prefix="other") as executor:
        run = _in(executor)
        log.append("signing", subject="<one>")
        assert await log.flush_before(run, signed) == "signature"
        assert done == ["sync in other_0", "sign in other_0"]
        assert await log.flush_before(run, signed) == "signature"
        assert done[2:] == ["sign in other_0"]
        log.append("signing", subject="<two>")
        with pytest.raises(ConnectionResetError):
            await log.flush_before(run, broken)
        assert "<two>" in _segments(tmp_path)[0].read_text()
        assert log.head.number == 3
    await log.close()
    assert summarize(tmp_path / "ca.0")[0].records == 4


async def test_who_waits_for_lines_waits_for_nothing_behind_them(tmp_path: Path) -> None:
    """A token that hangs does not hold up other records, not even when whoever asked it has gone."""
    log, hangs = _open(tmp_path), threading.Event()
    with ThreadPoolExecutor(1) as executor:
        log.append("signing", subject="<one>")
        signing = asyncio.create_task(log.flush_before(_in(executor), hangs.wait))
        await asyncio.sleep(0)
        await log.flush()
        assert "<one>" in _segments(tmp_path)[0].read_text()
        log.append("revoked", serial="<two>")
        signing.cancel()
        await log.flush()
        assert "<two>" in _segments(tmp_path)[0].read_text()
        assert not hangs.is_set()
        hangs.set()
    await log.close()
    assert summarize(tmp_path / "ca.0")[0].records == 4


@pytest.mark.parametrize("fault", ["disk full", "no thread"])
async def test_nothing_follows_lines_that_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """flush_before raises and has called nothing, and so does who waits beside it; the lines follow later, whole, in
    their order, and then what comes behind them."""
    log, called = _open(tmp_path), []

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    async def no_thread(_act: Callable[[], _Result]) -> _Result:
        await asyncio.sleep(0)
        raise RuntimeError("cannot schedule new futures after shutdown")

    with ThreadPoolExecutor(1) as executor:
        with pytest.MonkeyPatch.context() as patched:
            if fault == "disk full":
                patched.setattr("ca.process.audit_log.os.fdatasync", full)
            log.append("signing", subject="<one>")
            signing = asyncio.create_task(log.flush_before(
                _in(executor) if fault == "disk full" else no_thread, lambda: called.append("early")))
            await asyncio.sleep(0)
            beside = asyncio.create_task(log.flush())
            for each in (signing, beside):
                with pytest.raises(AuditLogError, match="nothing is signed without it"):
                    await each
        log.append("signing", subject="<two>")
        await log.flush_before(_in(executor), lambda: called.append("late"))
    assert called == ["late"]
    await log.close()
    records = [record.event for record in read_chain(tmp_path / "ca.0")]
    assert records == ["opened", "signing", "signing", "closed"]


def _in(executor: ThreadPoolExecutor) -> Callable[[Callable[[], _Result]], Awaitable[_Result]]:
    return lambda act: asyncio.get_running_loop().run_in_executor(executor, act)


async def test_lines_reach_the_disk_by_themselves(tmp_path: Path) -> None:
    """Results that nobody waits for are written within moments."""
    log = _open(tmp_path)
    log.append("signed", subject="later")
    async with asyncio.timeout(30):
        while "later" not in _segments(tmp_path)[0].read_text():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.05)
    await log.close()


async def test_a_full_disk_stops_who_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flush raises, nothing is lost: with room again the same lines follow, whole, in their order."""
    log = _open(tmp_path)
    real = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        real(descriptor, data[:10], offset)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ca.process.audit_log.os.pwrite", full)
        log.append("signing", subject="first")
        with pytest.raises(AuditLogError, match="No space left"):
            await log.flush()
        log.append("signing", subject="second")
        with pytest.raises(AuditLogError):
            await log.flush()
    await log.flush()
    await log.close()
    assert [record.values.get("subject") for record in read_chain(tmp_path / "ca.0")][1:3] == ["first", "second"]


async def test_it_is_its_users_alone(tmp_path: Path) -> None:
    """Mode 0700, segments 0600."""
    log = _open(tmp_path / "audit")
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "audit" / "ca.0" / "00000001.log").stat().st_mode & 0o777 == 0o600
    await log.close()


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """One line that names the file."""
    (tmp_path / "file").touch()
    with pytest.raises(AuditLogError, match="cannot be"):
        _open(tmp_path / "file")


@pytest.mark.parametrize("torn", [b"{", b'{"n":99,"prev":"', b"\xff\xfe"])
async def test_a_torn_line_is_cut_off_and_said(tmp_path: Path, torn: bytes) -> None:
    """What a crash left without its end was never relied on; its hash stays on record."""
    await _written(tmp_path)
    with _segments(tmp_path)[0].open("ab") as file:
        file.write(torn)
    assert summarize(tmp_path / "ca.0")[0].records == 12, "a reader passes over it"
    log = _open(tmp_path)
    await log.close()
    events = list(read_chain(tmp_path / "ca.0"))[-3:]
    assert [record.event for record in events] == ["torn line removed", "opened", "closed"]
    assert events[0].values["sha256"] == hashlib.sha256(torn).hexdigest()


def _swapped(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    lines[2], lines[3] = lines[3], lines[2]
    return b"".join(lines)


@pytest.mark.parametrize("tamper", [
    lambda data: data.replace(b'"subject":"3"', b'"subject":"4"'),
    lambda data: b"".join(data.splitlines(keepends=True)[:4] + data.splitlines(keepends=True)[5:]),
    lambda data: data.replace(b"\n", b"\n" + data.splitlines()[1] + b"\n", 2),
    _swapped,
    lambda data: b"".join(data.splitlines(keepends=True)[1:]),
    lambda data: data.replace(b"signing", b"signed!", 1),
    lambda data: data.replace(b"\n", b"\nnonsense\n", 1),
    lambda data: data.replace(b"\n", b"\n[]\n", 1),
], ids=["changed", "taken-out", "put-in", "swapped", "beginning-cut", "renamed", "no-json", "no-object"])
async def test_tampering_shows(tmp_path: Path, tamper: Callable[[bytes], bytes]) -> None:
    """Whatever is changed before the last line."""
    await _written(tmp_path)
    path = _segments(tmp_path)[0]
    path.write_bytes(tamper(path.read_bytes()))
    with pytest.raises(ChainBroken):
        list(read_chain(tmp_path / "ca.0"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 1 << 20), change=st.integers(1, 255))
def test_every_changed_octet_shows(tmp_path: Path, place: int, change: int) -> None:
    """One octet anywhere before the last line: the chain breaks."""
    root = tmp_path / os.urandom(8).hex()
    asyncio.run(_written(root, 2))
    path = _segments(root)[0]
    octets = bytearray(path.read_bytes())
    octets[place % octets.rstrip(b"\n").rfind(b"\n")] ^= change
    path.write_bytes(octets)
    with pytest.raises(ChainBroken):
        list(read_chain(root / "ca.0"))


async def test_a_signature_without_an_intent(tmp_path: Path) -> None:
    """Other bytes or another key than was announced, or twice: each is named by its number."""
    log = _open(tmp_path)
    log.append("signing", kind="crl", key="E1", tbs_sha256="aa")
    for key, tbs in (("E1", "aa"), ("E1", "aa"), ("R1", "aa"), ("E1", "bb")):
        log.append("signed", kind="crl", key=key, tbs_sha256=tbs)
    await log.close()
    assert summarize(tmp_path / "ca.0")[0].without_intent == [4, 5, 6]


_WRITER = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from ca.process.audit_log import AuditLog
async def main():
    log = AuditLog.open(Path(sys.argv[1]), "ca", now=lambda: datetime.now(UTC), random_bytes=os.urandom)
    while True:
        for _ in range(50):
            log.append("signing", subject="x" * 100)
        await log.flush()
        print(log.head.number, flush=True)
asyncio.run(main())
"""


def test_kill_9(tmp_path: Path) -> None:
    """What flush returned for is there, and the next process goes on with the chain."""
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            numbers = [int(writer.stdout.readline()) for _ in range(20)]
            writer.send_signal(signal.SIGKILL)
        assert summarize(tmp_path / "ca.0")[0].records >= numbers[-1]
