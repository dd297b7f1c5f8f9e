"""What workers count, read by each other: those that live, and nothing else."""

import subprocess
import sys
from pathlib import Path

from ocsp.responder.tally import Tally
from tests.ocsp.processes import until

_COUNTS = {"one": 1.0, 'two{reason="x"}': 2.5}
_WORKER = """
import sys
from pathlib import Path
from ocsp.responder.tally import Tally
tally = Tally(Path(sys.argv[1]), "there:2")
tally.write({"one": 3, 'two{reason="x"}': 4})
print("written", flush=True)
sys.stdin.read()
"""


async def test_workers_that_live_are_told_of(tmp_path: Path) -> None:
    """Until kill -9; the file of the dead one is gone after a look, and a new one may have its name."""
    tally = Tally(tmp_path, "here:1")
    assert tally.others(_COUNTS) == {}
    tally.write(_COUNTS)
    assert tally.others(_COUNTS) == {}
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", _WORKER, str(tmp_path)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            assert tally.others(_COUNTS) == {"there:2": {"one": 3.0, 'two{reason="x"}': 4.0}}
            assert tally.others({"of another version": 0.0}) == {}
            other.kill()
        await until(lambda: not tally.others(_COUNTS))
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["here:1"]
    tally.close()
    tally.close()
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_file_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    """And tried again the next time; what is left over in the directory is no worker."""
    tally, look = Tally(tmp_path / "not there", "here:1"), Tally(tmp_path / "not there", "here:2")
    tally.write(_COUNTS)
    assert look.others(_COUNTS) == {}
    (tmp_path / "not there").mkdir()
    tally.write(_COUNTS)
    (tmp_path / "not there" / "workers" / "left over").write_bytes(b"x")
    assert look.others(_COUNTS) == {"here:1": _COUNTS}
    tally.close()
