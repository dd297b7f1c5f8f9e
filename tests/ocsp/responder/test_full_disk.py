"""Workers of one machine whose disk is full: they go on with what they have, in LMDB and in the copy beside it
(shortcut.py), and with everything as soon as there is room. The disk is a file system of its own."""

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from ocsp.protocol.batch import SignedStatus, encode_batch
from ocsp.protocol.response import CertStatus
from ocsp.protocol.schedule import moment
from tests.ca.pki.authority import authority
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.processes import Process, add_issuer, port_of, publish, running, times_now, until, write_config
from tests.ocsp.responder.test_process import LATER_S, status_of
from tests.ocsp.responder.test_shortcut import begun, random_key, value
from tests.ocsp.signing import serial_of, signed

OWN = authority(ec.generate_private_key(ec.SECP256R1()))
_DISK_BYTES = 128 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system in memory. Only root can make one; elsewhere the test fails and says so."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(path)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Leaves no room, but for what this file takes."""
    filler = disk / "filler"
    for part in (1 << 20, 4_096):
        with filler.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(part)):
                pass
    return filler


_READER = """
import sys
from pathlib import Path
from ocsp.responder.shortcut import Shortcut
from tests.ocsp.responder.test_shortcut import found
shortcut = Shortcut(Path(sys.argv[1]))
for key in sys.stdin.read().split():
    print(found(shortcut, bytes.fromhex(key)).hex())
"""


def test_a_look_up_reads_nothing_that_was_never_written(disk: Path) -> None:
    """A page of a file that has no block yet kills the process that reads it when a file system like this one is full;
    one that writes finds no room for it and says so."""
    source = random.Random(11)
    shortcut = begun(disk / "shortcut", records=100_000, record_bytes=512)
    filler, items = fill(disk), dict[bytes, bytes]()
    while True:
        some = {random_key(source): value(len(items), longer=200) for _ in range(50)}
        try:
            shortcut.put(some.items())
        except OSError as fault:
            failed_with = fault.errno
            break
        items |= some
    assert failed_with == errno.ENOSPC
    shortcut.close()
    assert len(items) > 1_000
    done = subprocess.run([sys.executable, "-c", _READER, str(disk / "shortcut")], capture_output=True, text=True,
                          input="\n".join(map(bytes.hex, items)), check=False)
    assert done.returncode == 0, done.stderr or "killed"
    assert [bytes.fromhex(line) for line in done.stdout.split()] == list(items.values())
    filler.unlink()


async def add_noise(database: TestDatabase, count: int) -> None:
    """Batches of made-up certificates, whose signatures are noise."""
    owner, times = await database.connect(), times_now()
    for first in range(0, count, 4_000):
        records = [SignedStatus(os.urandom(18), 0, CertStatus(), LATER_S, (bytes(71), bytes(71)))
                   for _ in range(min(4_000, count - first))]
        await owner.execute("INSERT INTO ocsp_batches VALUES (nextval('ocsp_batch_id'), now(), 1, $1, $2, $3)",
                            len(records), moment(times.next_update_s), encode_batch(times, records))
    await owner.execute("SELECT pg_notify('ocsp_batch', '')")
    await owner.close()


def maps(process: Process) -> bool:
    """Whether a worker looks values up in the copy."""
    return "/responses-1/shortcut\n" in Path(f"/proc/{process.popen.pid}/maps").read_text("utf-8")


async def test_workers_go_on_while_the_disk_is_full(disk: Path, tmp_path: Path, database: TestDatabase) -> None:
    """Two of them look into the copy when no room is left. They leave it together, answer from LMDB, and none is ended;
    what cannot be stored is said, and stored when there is room; then they use a new copy."""
    await add_issuer(database, OWN)
    config = write_config(tmp_path, database.settings)
    config.write_text(config.read_text("utf-8").replace('store_dir = "ocsp"', 'store_dir = "disk"'), "utf-8")
    times, port = times_now(), port_of(config)

    async def revoke(number: int) -> None:
        status = CertStatus(revoked_at_s=times.this_update_s, reason=1)
        await publish(database, [signed(OWN, serial_of(number), status, version=1, times=times, not_after_s=LATER_S)],
                      times)

    def all_say(status: ocsp.OCSPCertStatus, number: int) -> bool:
        # The kernel spreads connections: a dozen of them reach both.
        return all(status_of(port, OWN, serial_of(number)) is status for _ in range(12))

    await add_noise(database, 20_000)
    await publish(database, [signed(OWN, serial_of(number), times=times, not_after_s=LATER_S) for number in range(4)],
                  times)
    with running("ocsp", config, name="one") as one, running("ocsp", config, name="two") as two:
        workers = [one, two]
        for worker in workers:
            await worker.ready()
        await until(lambda: all(map(maps, workers)))
        assert all_say(ocsp.OCSPCertStatus.GOOD, 1)
        filler = fill(disk)
        await revoke(1)
        await add_noise(database, 70_000)
        await revoke(2)
        await until(lambda: any("the memory cannot be written" in worker.log.read_text() for worker in workers))
        await until(lambda: not any(map(maps, workers)))
        assert not list(disk.glob("responses-1/shortcut*")), "what it took of the disk is given back"
        assert [worker.popen.poll() for worker in workers] == [None, None]
        assert all_say(ocsp.OCSPCertStatus.GOOD, 3)
        filler.unlink()
        for number in (1, 2):
            await until(lambda number=number: all_say(ocsp.OCSPCertStatus.REVOKED, number))
        await until(lambda: all(map(maps, workers)))
        assert all_say(ocsp.OCSPCertStatus.REVOKED, 2)
        assert all_say(ocsp.OCSPCertStatus.GOOD, 3)
