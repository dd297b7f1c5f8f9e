"""Records set apart come back whole, and fill a memory as the log itself would."""

import itertools
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ocsp.responder import spool as spool_module
from ocsp.responder.memory import Mark, ResponseMemory
from ocsp.responder.spool import Spool
from tests.ocsp.responder.test_memory import entry
from tests.ocsp.signing import NOW_S

keys = st.binary(min_size=20, max_size=20)
records = st.lists(st.tuples(keys, st.binary(max_size=400)), max_size=60)


@settings(max_examples=40, deadline=None)
@given(items=records, held=st.integers(0, 20), part=st.integers(1, 9))
def test_what_goes_in_comes_out(tmp_path_factory: object, items: list[tuple[bytes, bytes]], held: int,
                                part: int) -> None:
    """Every record, those of one certificate in their order, whenever it was written to disk; nothing stays behind."""
    directory = Path(tmp_path_factory.mktemp("spool")) / "filling"  # type: ignore[attr-defined]
    before = spool_module._MOST_HELD
    spool_module._MOST_HELD = held  # type: ignore[misc]
    try:
        with Spool(directory) as spool:
            assert sum(spool.add(items[at:at + part]) for at in range(0, len(items), part)) == len(items)
            found = [record for bucket in spool.buckets() for record in bucket]
    finally:
        spool_module._MOST_HELD = before  # type: ignore[misc]
    assert sorted(found) == sorted(items)
    for key in {key for key, _ in items}:
        assert [value for other, value in found if other == key] == [value for other, value in items if other == key]
    assert not directory.exists()


def test_a_memory_filled_so_is_the_one_filled_by_the_log(tmp_path: Path) -> None:
    """Certificates that were signed again, and revoked, in the log: the latest status of each stays; also over what an
    earlier attempt left behind that did not get to the end of a shorter log."""
    source = random.Random(7)
    items = [entry(source.randrange(300), version=source.randrange(3), this_update_s=NOW_S + source.randrange(5))
             for _ in range(2_000)]
    one, other = (ResponseMemory(tmp_path / name, map_size_gib=1) for name in ("one", "other"))
    one.apply(items, mark=Mark(1, 1))
    for some, buckets in ((items[:900], 100), (items, 256)):
        with Spool(tmp_path / "filling") as spool:
            spool.add(some)
            for bucket in itertools.islice(spool.buckets(), buckets):
                other.fill(bucket)
    assert other.mark() == Mark()
    one.renew()
    other.renew()
    for number in range(300):
        key = entry(number)[0]
        assert one.get(key) == other.get(key)
    one.close()
    other.close()
