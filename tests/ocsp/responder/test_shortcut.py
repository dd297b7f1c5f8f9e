"""The second copy of the values: never older than what was committed, whoever writes, dies, or goes round the ring."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocsp.responder.memory import Mark, ResponseMemory
from ocsp.responder.shortcut import Shortcut, ShortcutFault, begin_shortcut
from tests.ocsp.responder.test_memory import entry, in_another_process
from tests.ocsp.signing import NOW_S


def opened(directory: Path) -> ResponseMemory:
    """The memory, where few values are looked up in the shortcut as well; closed by the test."""
    return ResponseMemory(directory, map_size_gib=1, shortcut_from=0)


def random_key(source: random.Random, *, crowded: bool = False) -> bytes:
    """Of issuer 1 and one day; `crowded` keys have one of four places among the slots."""
    octets = source.randbytes(16)
    return b"\0\1\x0a\xe0" + ((source.randrange(4)).to_bytes(4, "little") + octets[4:] if crowded else octets)


def value(number: int, *, longer: int = 0) -> bytes:
    """A whole value whose signatures tell the number."""
    lengths = bytes(4) + b"\0\x46" + bytes(10) + (70 + longer).to_bytes(2, "big")
    return lengths + bytes(11) + number.to_bytes(70, "big") + bytes(70 + longer)


def found(shortcut: Shortcut, key: bytes) -> bytes | None:
    """What a look-up finds here alone."""
    return shortcut.look_up([key], lambda _: None)[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), crowded=st.booleans(), rounds=st.integers(1, 12))
def test_what_is_found_is_the_latest(tmp_path: Path, seed: int, crowded: bool, rounds: int) -> None:
    """Against a dict: replaced, crowded in few slots, of several lengths. Nothing is older; little is missing."""
    source, model = random.Random(seed), dict[bytes, bytes]()
    shortcut = begin_shortcut(tmp_path / "shortcut", records=10, record_bytes=300, transaction=1)
    reader = Shortcut(tmp_path / "shortcut")
    keys = [random_key(source, crowded=crowded) for _ in range(60)]
    for number in range(rounds):
        chosen = {key: value(number, longer=source.randrange(3)) for key in source.sample(keys, 20)}
        shortcut.put(chosen.items())
        model |= chosen
        records = reader.look_up(keys, lambda _: None)
        for key, record in zip(keys, records, strict=True):
            wanted = model.get(key)
            if record is None:
                assert wanted is None or crowded
            else:
                assert wanted is not None
                assert record.startswith(key + wanted)
            assert shortcut.holds(key) or wanted is None or crowded
    shortcut.close()
    reader.close()


def test_when_the_ring_has_gone_round_old_records_are_looked_up_elsewhere(tmp_path: Path) -> None:
    """And none is read that was written over: what is found is whole and of its key."""
    source = random.Random(5)
    shortcut = begin_shortcut(tmp_path / "shortcut", records=10, record_bytes=300, transaction=1)
    keys = [random_key(source) for _ in range(20_000)]
    for number in range(6):             # 24 MB in a ring of 16
        shortcut.put((key, value(number)) for key in keys)
        assert found(shortcut, keys[-1]) == keys[-1] + value(number) + bytes(3)
    others = [random_key(source) for _ in range(20_000)]
    for first in range(0, 20_000, 1_000):
        shortcut.put((key, value(9, longer=700)) for key in others[first:first + 1_000])
    assert [key for key in keys if found(shortcut, key) is not None] == []
    assert (found(shortcut, others[-1]) or b"").startswith(others[-1] + value(9, longer=700))
    # Their slots are given to others.
    shortcut.put((random_key(source), value(1)) for _ in range(8_000))
    shortcut.close()


def test_what_is_full_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A look-up ends at a free slot, so some are kept; a value that does not end where it says has no end here."""
    source = random.Random(6)
    shortcut = begin_shortcut(tmp_path / "shortcut", records=10, record_bytes=300, transaction=1)
    assert shortcut.has_room_for(40_000, 300)
    assert not shortcut.has_room_for(41_000, 300)
    assert not shortcut.has_room_for(40_000, 400)
    with pytest.raises(ShortcutFault, match="slot"):
        shortcut.put((random_key(source), value(1)) for _ in range(70_000))
    with pytest.raises(ShortcutFault, match="value"):
        shortcut.put([(random_key(source), value(1)[:-1])])
    shortcut.close()


@pytest.mark.parametrize("damage", [
    lambda path: path.unlink(), lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 100_000),
    lambda path: os.truncate(path, path.stat().st_size - 4096),
    lambda path: path.open("r+b").write(bytes(4096)),
    lambda path: os.pwrite(os.open(path, os.O_WRONLY), bytes(8), 8),
], ids=["gone", "empty", "garbage", "truncated", "zeros", "boot"])
def test_a_damaged_file_is_done_without(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """Also one of an earlier start of the machine. Everything is answered from LMDB, and the writer begins another."""
    memory = opened(tmp_path)
    entries = dict(entry(number) for number in range(50))
    memory.apply(entries.items(), mark=Mark(1, 1), complete=True)
    assert not memory.tend_shortcut(limit=1_000)
    memory.close()
    path, = tmp_path.glob("responses-*/shortcut")
    damage(path)
    memory = opened(tmp_path)
    for _ in range(2):
        memory.renew()
        assert memory.look_up(list(entries))[3] is not None
        for (key, wanted), record in zip(entries.items(), memory.look_up(list(entries)), strict=True):
            assert (record or b"").startswith(key + wanted)
        assert not memory.tend_shortcut(limit=1_000)
    assert memory._shortcut is not None
    memory.close()


def uses_it(memory: ResponseMemory) -> bool:
    """Whether values are looked up in the shortcut; one renewal leaves a file and takes another."""
    memory.renew()
    return memory._shortcut is not None


def test_what_another_process_commits_is_never_hidden(tmp_path: Path) -> None:
    """A writer that knows nothing of the file, as one of an older version: readers leave it at their next renewal, and
    the next writer begins another."""
    memory = opened(tmp_path)
    key, old = entry(1)
    memory.apply([(key, old)], mark=Mark(1, 1))
    memory.tend_shortcut(limit=10)
    assert uses_it(memory)
    _, new = entry(1, version=1)
    in_another_process(tmp_path, f"memory.apply([({key!r}, {new!r})], mark=Mark(2, 1)); memory.close()")
    assert not uses_it(memory)
    assert memory.look_up([key]) == [key + new]
    memory.apply([entry(2)], mark=Mark(3, 1))
    assert not uses_it(memory)
    assert not memory.tend_shortcut(limit=10)
    assert uses_it(memory)
    assert (memory.look_up([key])[0] or b"").startswith(key + new)
    memory.close()


def test_few_values_are_looked_up_in_lmdb(tmp_path: Path) -> None:
    """From a number on in the shortcut, which is not even begun before; below it no more."""
    memory = ResponseMemory(tmp_path, map_size_gib=1, shortcut_from=30)
    entries = dict(entry(number, not_after_s=NOW_S + number) for number in range(40))
    memory.apply(list(entries.items())[:20], mark=Mark(1, 1))
    assert not memory.tend_shortcut(limit=100)
    assert not uses_it(memory)
    assert not list(tmp_path.glob("responses-*/shortcut"))
    memory.apply(entries.items(), mark=Mark(2, 1))
    assert not memory.tend_shortcut(limit=100)
    assert uses_it(memory)
    memory.forget_expired(b"", now_s=NOW_S + 20, limit=100)
    assert not uses_it(memory)
    left = dict(list(entries.items())[20:])
    assert memory.look_up(list(entries)) == [key + left[key] if key in left else None for key in entries]
    memory.close()


def test_it_grows_with_what_is_held(tmp_path: Path) -> None:
    """Step by step, while what is new is put in at once; nothing is missing at the end. It is begun with room for much
    more, so that growing does not copy again and again what is there."""
    memory = opened(tmp_path)
    source = random.Random(8)
    model: dict[bytes, bytes] = {}
    steps: list[int] = []
    for number in range(8):
        items = {random_key(source): value(number) for _ in range(20_000)}
        model |= items
        memory.apply(items.items(), mark=Mark(number, 1))
        steps.append(1)
        while memory.tend_shortcut(limit=20_000):
            steps[-1] += 1
        assert uses_it(memory)
    copied, = (number for number, count in enumerate(steps) if number and count > 3)
    assert copied > 4
    assert memory._shortcut is not None
    records = memory._shortcut.look_up(list(model), lambda _: None)
    assert sum(record is None for record in records) == 0
    assert all((record or b"").startswith(key + model[key]) for key, record in zip(model, records, strict=True))
    memory.close()


_WRITER = """
import sys
from pathlib import Path
from ocsp.responder.memory import Mark, ResponseMemory
from tests.ocsp.responder.test_memory import entry
memory = ResponseMemory(Path(sys.argv[1]), map_size_gib=1, shortcut_from=0)
memory.tend_shortcut(limit=10_000)
for number in range(int(sys.argv[2]), 10**10):
    memory.apply([entry(index, this_update_s=number) for index in range(300)], mark=Mark(number, 1))
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_nothing_older_than_what_it_committed(tmp_path: Path) -> None:
    """kill -9 at any moment, another writer takes over, a third process reads all the time."""
    memory = opened(tmp_path)
    keys, at = [entry(index)[0] for index in range(300)], NOW_S
    memory.apply([entry(index, this_update_s=at) for index in range(300)], mark=Mark(at, 1))
    source = random.Random(9)
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), str(at + 1)],
                              stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(source.randrange(2, 9)):
                at = int(writer.stdout.readline())
                memory.renew()
                assert memory._shortcut is not None
                for record in memory.look_up(keys):
                    assert record is not None
                    assert int.from_bytes(record[28:32], "big") >= at
            writer.send_signal(signal.SIGKILL)
        memory.renew()
        at = memory.mark().batch_id
        for key, record in zip(keys, memory.look_up(keys), strict=True):
            assert record is not None
            assert record.startswith(key)
            assert int.from_bytes(record[28:32], "big") >= at
    memory.close()
