"""The LMDB store: order of versions, damage, generations, expiry, and a writer that is killed in the middle."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocsp.protocol.batch import SignedStatus, encode_batch, read_value, split_batch, store_key
from ocsp.protocol.response import CertStatus, Times
from ocsp.responder import memory as memory_module
from ocsp.responder.memory import Mark, MemoryFault, ResponseMemory, decode_issuers, encode_issuers
from tests.ca.pki.authority import authority
from tests.ocsp.signing import NOW_S, serial_of

OWN = authority(ec.generate_private_key(ec.SECP256R1()))


def entry(number: int, *, version: int = 0, this_update_s: int = NOW_S, not_after_s: int = NOW_S + 1000,
          issuer_id: int = 1) -> tuple[bytes, bytes]:
    """A key and a value; the signatures are made up."""
    times = Times(produced_at_s=this_update_s, this_update_s=this_update_s, next_update_s=this_update_s + 1000)
    status = CertStatus(revoked_at_s=5) if version else CertStatus()
    record = SignedStatus(serial_of(number), version, status, not_after_s, (bytes(70), bytes(71)))
    made, = split_batch(encode_batch(times, [record]), issuer_id)
    return made


def opened(directory: Path) -> ResponseMemory:
    """The memory; closed by the test."""
    return ResponseMemory(directory, map_size_gib=1)


def test_what_is_written_is_read_after_a_renewal(tmp_path: Path) -> None:
    """And not before: a reader sees one moment."""
    memory = opened(tmp_path)
    key, value = entry(1)
    assert memory.apply([(key, value)], mark=Mark(5, 6)) == 1
    assert memory.get(key) is None
    memory.renew()
    assert memory.get(key) == value
    assert (memory.mark(), memory.complete) == (Mark(5, 6), False)
    memory.apply((), mark=Mark(6, 7), complete=True)
    memory.renew()
    assert memory.complete
    memory.close()
    again = opened(tmp_path)
    assert (again.get(key), again.mark(), again.complete) == (value, Mark(6, 7), True)
    again.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations([(version, age) for version in range(3) for age in range(3)]),
       cuts=st.lists(st.integers(1, 8), max_size=3))
def test_in_any_order_the_latest_status_stays(tmp_path: Path, order: list[tuple[int, int]], cuts: list[int]) -> None:
    """However batches of good, revoked and upgraded responses interleave, revoked is never hidden by good."""
    memory = opened(tmp_path / os.urandom(4).hex())
    seen = (-1, -1)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 9], strict=True):
        memory.apply([entry(1, version=version, this_update_s=NOW_S + 60 * age) for version, age in order[start:end]],
                     mark=Mark(start, 1))
        memory.renew()
        seen = max([seen, *order[start:end]])
        stored = read_value(memory.get(store_key(1, serial_of(1))) or b"")
        assert (stored.version, (stored.times.this_update_s - NOW_S) // 60) == seen
        assert (stored.status.revoked_at_s is not None) is (stored.version > 0)
    memory.close()


def test_expired_certificates_are_forgotten_step_by_step(tmp_path: Path) -> None:
    """A bounded number of entries is looked at each time; what lives stays."""
    memory = opened(tmp_path)
    memory.set_issuers(b"issuers stay")
    source = random.Random(3)
    entries = {number: entry(number, issuer_id=1 + number % 3, not_after_s=NOW_S + source.choice((-1, 0, 1)))
               for number in range(500)}
    memory.apply(entries.values(), mark=Mark(9, 9))
    behind, rounds = b"", 0
    while True:
        behind = memory.forget_expired(behind, now_s=NOW_S, limit=50)
        rounds += 1
        if not behind:
            break
    memory.renew()
    assert rounds > 9
    for key, value in entries.values():
        alive = read_value(value).not_after_s >= NOW_S
        assert (memory.get(key) is not None) is alive
    assert (memory.issuers(), memory.mark()) == (b"issuers stay", Mark(9, 9))
    memory.close()


def damage_header(path: Path) -> None:
    """The first two pages say nothing any more."""
    with path.open("r+b") as file:
        file.write(b"\xff" * 8192)


def damage_length(path: Path) -> None:
    """The end is cut off."""
    os.truncate(path, path.stat().st_size // 8192 * 4096)


@pytest.mark.parametrize("damage", [damage_header, damage_length, lambda path: path.write_bytes(b""),
                                    lambda path: path.write_bytes(b"x" * 100_000), lambda path: path.unlink()],
                         ids=["header", "truncated", "empty", "garbage", "gone"])
def test_a_damaged_file_is_left_for_an_empty_one(tmp_path: Path, damage: object) -> None:
    """The responder starts, knows nothing, and is filled from the log again."""
    memory = opened(tmp_path)
    memory.apply([entry(number) for number in range(2_000)], mark=Mark(5, 6), complete=True)
    memory.close()
    path, = tmp_path.glob("responses-*/data.mdb")
    assert callable(damage)
    damage(path)
    again = opened(tmp_path)
    assert (again.get(entry(1)[0]), again.mark(), again.complete) == (None, Mark(), False)
    again.apply([entry(1)], mark=Mark(1, 1))
    again.renew()
    assert again.get(entry(1)[0]) == entry(1)[1]
    again.close()


def test_a_file_of_another_version_is_left_for_an_empty_one(tmp_path: Path) -> None:
    """Values of another format would be read wrongly; one of no format at all is from before there was a mark."""
    for found in (b"1", None):
        memory = opened(tmp_path)
        memory.apply([entry(1)], mark=Mark(5, 6), complete=True)
        with memory._environment.begin(write=True) as transaction:
            transaction.put(b"format", found) if found else transaction.delete(b"format")
        memory.close()
        again = opened(tmp_path)
        assert (again.get(entry(1)[0]), again.mark(), again.complete) == (None, Mark(), False)
        again.close()


def test_a_read_that_fails_leads_to_a_new_generation(tmp_path: Path) -> None:
    """Pages overwritten under a running worker: reads raise, are reported, and the next renewal starts anew."""
    memory = opened(tmp_path)
    memory.apply([entry(number) for number in range(5_000)], mark=Mark(5, 6), complete=True)
    memory.renew()
    path, = tmp_path.glob("responses-*/data.mdb")
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(path.stat().st_size - 8192))
    keys = [entry(number)[0] for number in range(5_000)]
    with pytest.raises(MemoryFault):
        list(map(memory.get, keys))
    memory.distrust()
    memory.renew()
    assert (memory.get(entry(1)[0]), memory.mark(), memory.complete) == (None, Mark(), False)
    assert [one.name for one in tmp_path.glob("responses-*")] == ["responses-2"]
    memory.close()


_OTHER = """
import sys
from pathlib import Path
from ocsp.responder.memory import Mark, ResponseMemory
memory = ResponseMemory(Path(sys.argv[1]), map_size_gib=1)
{act}
"""


def in_another_process(directory: Path, act: str) -> str:
    """LMDB files are shared between processes; the same one cannot be opened twice in a process."""
    return subprocess.run([sys.executable, "-c", _OTHER.format(act=act), str(directory)], check=True, text=True,
                          capture_output=True).stdout


def test_other_workers_follow_to_a_new_generation(tmp_path: Path) -> None:
    """One worker leaves the file, the others open the new one; what was mapped stays readable until then."""
    memory = opened(tmp_path)
    key, value = entry(1)
    memory.apply([(key, value)], mark=Mark(5, 6), complete=True)
    memory.renew()
    in_another_process(tmp_path, "memory.begin_anew(); memory.set_issuers(b'new'); memory.close()")
    memory.renew()
    assert memory.get(key) == value
    memory.follow()
    assert (memory.get(key), memory.issuers(), memory.complete) == (None, b"new", False)
    memory.close()


def test_what_one_worker_writes_the_others_read(tmp_path: Path) -> None:
    """Through the shared map."""
    memory = opened(tmp_path)
    in_another_process(tmp_path, "memory.apply([(bytes(20), b'v' * 40)], mark=Mark(1, 2), complete=True)")
    memory.renew()
    assert (memory.get(bytes(20)), memory.mark(), memory.complete) == (b"v" * 40, Mark(1, 2), True)
    memory.close()


def test_a_writer_that_is_killed_leaves_a_whole_store(tmp_path: Path) -> None:
    """kill -9 in the middle of writes: the mark and the values are those of one finished write, and writing goes on."""
    memory = opened(tmp_path)
    act = """
for number in range(1, 10**9):
    memory.apply([(bytes(16) + index.to_bytes(4, "big"), number.to_bytes(40, "big")) for index in range(2_000)],
                 mark=Mark(number, 1))
    print(number, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", _OTHER.format(act=act), str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    for _ in range(5):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    memory.renew()
    batch_id = memory.mark().batch_id
    assert batch_id >= 5
    for index in range(2_000):
        # `replaces` lets an equal version and time through, so every write replaced all values.
        assert memory.get(bytes(16) + index.to_bytes(4, "big")) == batch_id.to_bytes(40, "big")
    memory.free_dead_readers()
    memory.apply([entry(1)], mark=Mark(batch_id + 1, 1))
    memory.close()


def test_a_reader_that_is_killed_keeps_no_old_pages(tmp_path: Path) -> None:
    """Its slot is given back, or the file would grow with every write from its death on."""
    memory = opened(tmp_path)
    entries = [entry(number) for number in range(2_000)]
    memory.apply(entries, mark=Mark(1, 1))
    memory.renew()
    with subprocess.Popen([sys.executable, "-c", _OTHER.format(act="print(1, flush=True); sys.stdin.read()"),
                           str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        reader.kill()
    memory.free_dead_readers()
    path, = tmp_path.glob("responses-*/data.mdb")
    before = path.stat().st_size
    for number in range(2, 32):
        memory.apply(entries, mark=Mark(number, 1))
        memory.renew()
    assert path.stat().st_size < 4 * before
    memory.close()


def test_warming_up_reads_the_whole_file_if_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the first answers after a start do not wait for the disk one by one."""
    memory = opened(tmp_path)
    memory.apply([entry(number) for number in range(5_000)], mark=Mark(5, 6), complete=True)
    path, = tmp_path.glob("responses-*/data.mdb")
    assert memory.warm_up(lambda: False) == path.stat().st_size > 0
    assert memory.warm_up(lambda: True) == 0
    monkeypatch.setattr(memory_module, "_available_bytes", lambda: 4_096)
    assert memory.warm_up(lambda: False) == 0
    monkeypatch.undo()
    path.unlink()
    assert memory.warm_up(lambda: False) == 0
    memory.close()


@given(issuers=st.lists(st.tuples(st.integers(0, 32_767), st.binary(max_size=2_000)), max_size=5))
def test_issuers_read_back(issuers: list[tuple[int, bytes]]) -> None:
    """(id, certificate) pairs in order."""
    assert decode_issuers(encode_issuers(issuers)) == issuers
