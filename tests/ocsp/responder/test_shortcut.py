"""The second copy of the values: never older than what was committed, whoever writes, dies, or goes round the ring."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocsp.protocol.batch import SignedStatus, encode_batch, split_batch, value_at
from ocsp.protocol.response import GOOD, HashName, ResponseTemplate, Times
from ocsp.responder.answers import Answers, Span
from ocsp.responder.http_text import Second
from ocsp.responder.memory import Mark, ResponseMemory
from ocsp.responder.quick import KnownHeads, make_quick
from ocsp.responder.shortcut import (
    EMPTY_VIEW,
    RESERVED_AT,
    WRITTEN_AT,
    Shortcut,
    ShortcutFault,
    begin_shortcut,
    prepare_shortcut,
)
from ocsp.responder.store import StoredIssuer
from tests.ocsp.responder.serving import get, request_for
from tests.ocsp.responder.test_memory import OWN, entry, in_another_process
from tests.ocsp.signing import NOW_S, serial_of


def opened(directory: Path) -> ResponseMemory:
    """The memory; closed by the test."""
    return ResponseMemory(directory, map_size_gib=1)


def begun(path: Path, *, records: int = 10, record_bytes: int = 300) -> Shortcut:
    """An empty file for so many values."""
    for _ in prepare_shortcut(path, records=records, record_bytes=record_bytes):
        pass
    return begin_shortcut(path, transaction=1)


def tend(memory: ResponseMemory, *, limit: int = 20_000) -> int:
    """Until there is nothing more to do; how many steps that took."""
    steps = 1
    while memory.tend_shortcut(limit=limit):
        steps += 1
    return steps


def random_key(source: random.Random, *, crowded: bool = False) -> bytes:
    """Of issuer 1 and one day; `crowded` keys have one of four places among the slots."""
    octets = source.randbytes(16)
    return b"\x0a\xe0" + (source.randrange(4).to_bytes(4, "little") + octets[4:] if crowded else octets) + b"\0\1"


def value(number: int, *, longer: int = 0) -> bytes:
    """A whole value whose signatures tell the number."""
    lengths = b"\0\x46" + (70 + longer).to_bytes(2, "big")
    return bytes(5) + lengths + bytes(19) + number.to_bytes(70, "big") + bytes(70 + longer)


def found(shortcut: Shortcut, key: bytes) -> bytes | None:
    """What a look-up finds here alone."""
    start = shortcut.view.find(key)
    return None if start < 0 else value_at(shortcut.view.ring, start)


def seen(memory: ResponseMemory, key: bytes) -> bytes | None:
    """What a reader finds, here or else in LMDB."""
    here = None if memory._shortcut is None else found(memory._shortcut, key)
    return memory.get(key) if here is None else here


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), crowded=st.booleans(), rounds=st.integers(1, 12))
def test_what_is_found_is_the_latest(tmp_path: Path, seed: int, crowded: bool, rounds: int) -> None:
    """Against a dict: replaced, crowded in few slots, of several lengths. Nothing is older, and nothing is missing."""
    source, model = random.Random(seed), dict[bytes, bytes]()
    shortcut = begun(tmp_path / "shortcut")
    reader = Shortcut(tmp_path / "shortcut")
    keys = [random_key(source, crowded=crowded) for _ in range(60)]
    for number in range(rounds):
        chosen = {key: value(number, longer=source.randrange(3)) for key in source.sample(keys, 20)}
        shortcut.put(chosen.items())
        model |= chosen
        for key in keys:
            assert found(reader, key) == model.get(key)
            assert found(shortcut, key) == model.get(key)
    shortcut.close()
    reader.close()


def test_when_the_ring_has_gone_round_old_records_are_looked_up_elsewhere(tmp_path: Path) -> None:
    """And none is read that was written over: what is found is whole and of its key."""
    source = random.Random(5)
    shortcut = begun(tmp_path / "shortcut")
    keys = [random_key(source) for _ in range(20_000)]
    for number in range(6):             # 24 MB in a ring of 16
        shortcut.put((key, value(number)) for key in keys)
        assert found(shortcut, keys[-1]) == value(number)
    others = [random_key(source) for _ in range(20_000)]
    for first in range(0, 20_000, 1_000):
        shortcut.put((key, value(9, longer=700)) for key in others[first:first + 1_000])
    assert [key for key in keys if found(shortcut, key) is not None] == []
    assert found(shortcut, others[-1]) == value(9, longer=700)
    # Their slots stay theirs: those who come back have them.
    shortcut.put((key, value(7)) for key in keys[:8_000])
    assert [found(shortcut, key) for key in keys[:8_000]] == [value(7)] * 8_000
    with pytest.raises(ShortcutFault, match="slot"):
        shortcut.put((random_key(source), value(1)) for _ in range(10_000))
    shortcut.close()


def test_what_is_full_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A look-up ends at a free slot, so some are kept; a value that does not end where it says has no end here."""
    source = random.Random(6)
    shortcut = begun(tmp_path / "shortcut")
    assert shortcut.has_room_for(24_000, 300)
    assert not shortcut.has_room_for(25_000, 300)
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
    lambda path: os.pwrite(os.open(path, os.O_WRONLY), b"\xff\xff\1", 8 * RESERVED_AT),
], ids=["gone", "empty", "garbage", "truncated", "zeros", "boot", "being-written"])
def test_a_damaged_file_is_done_without(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """Also one of an earlier start of the machine, or whose writer ended in the middle of a record. Everything is
    answered from LMDB, and the writer begins another."""
    memory = opened(tmp_path)
    entries = dict(entry(number) for number in range(50))
    memory.apply(entries.items(), mark=Mark(1, 1), complete=True)
    tend(memory)
    memory.close()
    path, = tmp_path.glob("responses-*/shortcut")
    damage(path)
    memory = opened(tmp_path)
    for _ in range(2):
        memory.renew()
        assert {key: seen(memory, key) for key in entries} == entries
        tend(memory)
    assert memory._shortcut is not None
    assert {key: found(memory._shortcut, key) for key in entries} == entries
    memory.close()


def this_update_s(value: bytes | None) -> int:
    """Of a stored value that is there."""
    assert value is not None
    return int.from_bytes(value[11:15], "big")


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
    tend(memory)
    assert uses_it(memory)
    _, new = entry(1, version=1)
    in_another_process(tmp_path, f"memory.apply([({key!r}, {new!r})], mark=Mark(2, 1)); memory.close()")
    assert not uses_it(memory)
    assert seen(memory, key) == new
    memory.apply([entry(2)], mark=Mark(3, 1))
    assert not uses_it(memory)
    tend(memory)
    assert uses_it(memory)
    assert seen(memory, key) == new
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
        steps.append(tend(memory))
        assert uses_it(memory)
        assert memory.has_all_at_hand
    copied, = (number for number, count in enumerate(steps) if number and count > 3)
    assert copied > 3
    assert memory._shortcut is not None
    assert {key: found(memory._shortcut, key) for key in model} == model
    memory.close()


_WRITER = """
import sys
from pathlib import Path
from ocsp.responder.memory import Mark, ResponseMemory
from tests.ocsp.responder.test_memory import entry
memory = ResponseMemory(Path(sys.argv[1]), map_size_gib=1)
while memory.tend_shortcut(limit=10_000):
    pass
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
                for key in keys:
                    assert this_update_s(seen(memory, key)) >= at
            writer.send_signal(signal.SIGKILL)
        memory.renew()
        at = memory.mark().batch_id
        for key in keys:
            assert this_update_s(seen(memory, key)) >= at
    memory.close()


@pytest.mark.parametrize("kept", [0, 20, -1])
def test_a_value_that_is_cut_is_left_to_the_strict_way(tmp_path: Path, kept: int) -> None:
    """And harms none of the others that are asked for with it."""
    memory = opened(tmp_path)
    (key, cut), whole = signed_by(1, 1), signed_by(2, 2)
    memory.apply([(key, cut[:kept]), whole], mark=Mark(1, 1), complete=True)
    memory.renew()
    first, second = quick_for(memory)([serial_of(1), serial_of(2)])
    assert (first, second is None) == (None, False)
    memory.close()


_TIMES = Times(produced_at_s=NOW_S, this_update_s=NOW_S // 3_600 * 3_600, next_update_s=NOW_S + 86_400)


def signed_by(number: int, octet: int) -> tuple[bytes, bytes]:
    """A record whose signatures are of one octet alone."""
    return record_of(serial_of(number), bytes((octet,)) * 71, bytes((octet,)) * 70)


def record_of(serial: bytes, *signatures: bytes) -> tuple[bytes, bytes]:
    """A record, from anything as its two signatures."""
    first, second = signatures
    record, = split_batch(encode_batch(_TIMES, [SignedStatus(serial, 0, GOOD, NOW_S + 1_000, (first, second))]), 1)
    return record


def quick_for(memory: ResponseMemory) -> Callable[[list[bytes]], list[bytes | None]]:
    """The answers to GETs for these serial numbers."""
    answers = Answers([StoredIssuer(id=1, certificate=OWN.issuer.certificate_der)], memory, Second(NOW_S, max_age_s=60))
    known = KnownHeads()
    known.remember_tail(b"HTTP/1.1\r\nHost: ocsp.example\r\n\r\n")
    quick = make_quick(answers, known)
    return lambda serials: quick([get(request_for(OWN, serial)) for serial in serials])


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("longest", [72, 256, 512])
def test_however_many_are_asked_for_at_once_the_answers_are_those_of_lmdb(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool, longest: int) -> None:
    """Few are looked for one by one and many in one go: present or not, of several lengths, crowded in few slots."""
    if large:
        monkeypatch.setattr("ocsp.responder.shortcut._LARGE_RING", 1 << 20)
    source, memory = random.Random(longest), opened(tmp_path)
    serials = [random_key(source, crowded=number % 3 == 0)[:18] for number in range(400)]
    for number, serial in enumerate(serials[:300]):
        length = longest if number % 50 == 7 else 70 + number % 3
        memory.apply([record_of(serial, source.randbytes(length), source.randbytes(length))],
                     mark=Mark(number + 1, 1), complete=True)
    tend(memory)
    assert uses_it(memory)
    view, ask = memory.view, quick_for(memory)
    assert view.gathered_from == {True: 8, False: 24}[large] if longest < 512 else view.gathered_from > 10_000
    assert view.record_bytes >= 48 + 2 * longest
    for count in (1, 7, 8, 23, 24, 64, 128, 129, 300):
        for _ in range(5):
            asked = source.sample(serials, count)
            memory.view = view
            here = ask(asked)
            memory.view = EMPTY_VIEW
            assert here == ask(asked)
            assert [answer is not None for answer in here] == [serial in serials[:300] for serial in asked]
    memory.close()


def test_records_that_become_longer_are_taken_for_what_they_are(tmp_path: Path) -> None:
    """A longer one than there was when the file was opened is left to the strict way until the next renewal."""
    memory = opened(tmp_path)
    serials = [serial_of(number) for number in range(40)]
    memory.apply([record_of(serial, b"a" * 71, b"a" * 71) for serial in serials], mark=Mark(1, 1), complete=True)
    tend(memory)
    assert uses_it(memory)
    ask = quick_for(memory)
    for count in (5, 40):
        assert None not in ask(serials[:count])
    memory.apply([record_of(serials[3], b"b" * 256, b"c" * 256)], mark=Mark(2, 1))
    for count in (5, 40):
        assert [number for number, answer in enumerate(ask(serials[:count])) if answer is None] == [3]
    memory.renew()
    for count in (5, 40):
        found_answers = ask(serials[:count])
        assert None not in found_answers
        assert found_answers[3] is not None
        assert found_answers[3].endswith(b"b" * 256)
    memory.close()


class Spans(dict[bytes, Span]):
    """Something happens when one is looked for: between the two looks at a record."""

    def __init__(self, happens: Iterator[None]) -> None:
        super().__init__()
        self._happens = happens

    def get(self, times: bytes, default: Any = None) -> Any:
        """As a dict."""
        next(self._happens, None)
        return super().get(times, default)


def test_what_is_overwritten_while_it_is_read_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer goes round the ring, or is in the middle of a record, between the two looks: the answer is the one
    that LMDB has. Before and afterwards it is the one in the ring."""
    monkeypatch.setattr("ocsp.responder.shortcut._SMALLEST_RING", 1 << 17)
    memory, path = opened(tmp_path), tmp_path / "shortcut"
    memory.apply([signed_by(number, 255) for number in range(64)], mark=Mark(1, 1), complete=True)
    memory.renew()
    shortcut = begun(path, record_bytes=192)
    reader = Shortcut(path)
    memory.view = reader.view
    shortcut.put(signed_by(number, 1) for number in range(64))

    def happens() -> Iterator[None]:
        yield from [None] * 64          # all are read once
        shortcut.put(signed_by(number, 2) for number in range(100, 1_000))
        yield from [None] * 128         # overwritten, and looked up again in LMDB
        shortcut.put(signed_by(number, 3) for number in range(64))
        yield from [None] * (128 + 64)
        shortcut.view.header[RESERVED_AT] += 64
        yield from [None] * 128
        shortcut.view.header[WRITTEN_AT] += 64

    answers = Answers([StoredIssuer(id=1, certificate=OWN.issuer.certificate_der)], memory, Second(NOW_S, max_age_s=60))
    answers.spans = Spans(happens())
    known = KnownHeads()
    known.remember_tail(b"HTTP/1.1\r\nHost: ocsp.example\r\n\r\n")
    quick, template = make_quick(answers, known), ResponseTemplate(OWN.issuer, HashName.SHA1)
    before, after = template.around(GOOD, _TIMES, 71)

    def octets() -> set[int]:
        found_answers = quick([get(request_for(OWN, serial_of(number))) for number in range(64)])
        for number, answer in enumerate(found_answers):
            assert answer is not None
            assert answer.endswith(before + serial_of(number) + after + answer[-1:] * 71)
        return {answer[-1] for answer in found_answers if answer is not None}

    assert [octets() for _ in range(7)] == [{1}, {255}, {255}, {3}, {255}, {255}, {3}]
    shortcut.put(signed_by(number, 4) for number in range(100, 1_000))
    assert octets() == {255}
    reader.close()
    shortcut.close()
    memory.close()
