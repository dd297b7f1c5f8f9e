"""The supervisor: children come up, come back, and never outlive it."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ca.admin import supervise
from ca.admin.demo_config import DemoOptions, config_text
from ca.admin.supervise import Child, DirectoryLock, Supervisor
from ca.process.lifecycle import StartupError
from ca.process.settings import Settings, load_settings
from tests.ports import free_port_base

# A child in place of `chancery run ROLE`: it says that it is ready, writes its pid, and waits.
_CHILD = """
    import asyncio, os, pathlib, sys
    from ca.process.lifecycle import NoRetryError, StartupError, ready, run_process

    async def main(stop):
        if sys.argv[1] == "locks" and pathlib.Path(sys.argv[2]).exists():
            pathlib.Path(sys.argv[2]).write_text("tried again")
            raise NoRetryError("the PIN is wrong")
        if sys.argv[1] == "refuses":
            raise StartupError("the token is away: insert it")
        place = pathlib.Path(sys.argv[2])
        place.write_text(str(os.getpid()))
        ready()
        await stop.wait()

    sys.exit(run_process(sys.argv[1], main))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The configuration of a demo in the test's directory."""
    options = DemoOptions(port_base=free_port_base(4), resolver="", http_01_port=80, tls_alpn_01_port=443,
                          policy="internal", module="x")
    path = tmp_path / "chancery.toml"
    path.write_text(config_text(options, tmp_path), "utf-8")
    return load_settings(path, {})


@pytest.fixture
def use_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Children run the script above."""
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(_CHILD), "ascii")
    monkeypatch.setattr(supervise, "_command",
                        lambda role, config: [sys.executable, str(script), role, str(tmp_path / f"{role}.pid")])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))


def _supervisor(settings: Settings, *roles: str) -> Supervisor:
    supervisor = Supervisor(settings, settings.data_dir / "chancery.toml", on_progress=lambda _: None)
    supervisor._children = [Child(name=role, role=role) for role in roles]
    return supervisor


async def _until(path: Path, *, not_text: str = "") -> str:
    for _ in range(400):
        if path.exists() and path.read_text("ascii") not in ("", not_text):
            return path.read_text("ascii")
        await asyncio.sleep(0.02)
    raise AssertionError(f"{path} did not come")


@pytest.mark.usefixtures("use_child")
async def test_a_killed_child_comes_back_and_all_end_together(settings: Settings) -> None:
    """kill -9 of one child: another process takes its place; at the stop none is left."""
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(_supervisor(settings, "wfe", "va").run(stop, on_ready=ready.set))
    await asyncio.wait_for(ready.wait(), 20)
    first = await _until(settings.data_dir / "va.pid")
    os.kill(int(first), signal.SIGKILL)
    second = await _until(settings.data_dir / "va.pid", not_text=first)
    stop.set()
    await asyncio.wait_for(running, 20)
    for pid in (second, await _until(settings.data_dir / "wfe.pid")):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert not list((settings.data_dir / "run").glob("*.ready"))


@pytest.mark.usefixtures("use_child")
async def test_who_signs_gets_an_allocator_for_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CA and the pre-signer have room for what a signature allocates, others not, and the responder has no threads
    for linear algebra; an operator's setting stays."""
    for operators, expected in ((None, {"ca": "127", "presign": "127", "wfe": None, "ocsp": "1"}),
                                ("9", {"ca": "9", "presign": "9", "wfe": "9", "ocsp": "9"})):
        if operators is not None:
            monkeypatch.setenv("GLIBC_TUNABLES", f"glibc.malloc.tcache_count={operators}")
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", operators)
        stop, ready, found = asyncio.Event(), asyncio.Event(), {}
        supervisor = _supervisor(settings, *expected)
        running = asyncio.create_task(supervisor.run(stop, on_ready=ready.set))
        await asyncio.wait_for(ready.wait(), 30)
        for child in supervisor._children:
            assert child.process is not None
            environ = Path(f"/proc/{child.process.pid}/environ").read_bytes().decode().split("\0")
            name = "OPENBLAS_NUM_THREADS" if child.name == "ocsp" else "GLIBC_TUNABLES"
            found[child.name] = next((each.rpartition("=")[2] for each in environ if each.startswith(f"{name}=")), None)
        stop.set()
        await asyncio.wait_for(running, 30)
        assert found == expected


@pytest.mark.usefixtures("use_child")
async def test_a_rolling_restart_replaces_one_after_the_other(settings: Settings) -> None:
    """Every process is a new one afterwards; never two of them are away at once; a second one follows the first."""
    stop, ready, restart = asyncio.Event(), asyncio.Event(), asyncio.Event()
    supervisor = _supervisor(settings, "wfe", "va", "crl")
    running = asyncio.create_task(supervisor.run(stop, on_ready=ready.set, restart=restart))
    await asyncio.wait_for(ready.wait(), 30)
    places = [settings.data_dir / f"{role}.pid" for role in ("wfe", "va", "crl")]
    for _ in range(2):
        before = [await _until(place) for place in places]
        restart.set()
        fewest = len(places)
        for place, old in zip(places, before, strict=True):
            while place.read_text("ascii") in ("", old):
                alive = [child.process is not None and child.process.returncode is None
                         for child in supervisor._children]
                fewest = min(fewest, sum(alive))
                await asyncio.sleep(0.01)
        assert fewest >= 2
        while len(list((settings.data_dir / "run").glob("*.ready"))) < 3:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
    stop.set()
    await asyncio.wait_for(running, 30)


@pytest.mark.usefixtures("use_child")
async def test_a_child_that_cannot_start_stops_everything_with_its_own_line(settings: Settings) -> None:
    """The supervisor repeats the child's line, and the others are stopped."""
    with pytest.raises(StartupError, match=r"^the token is away: insert it$"):
        await _supervisor(settings, "wfe", "refuses").run(asyncio.Event(), on_ready=lambda: None)


@pytest.mark.usefixtures("use_child")
async def test_a_refused_pin_is_not_tried_again_and_again(settings: Settings) -> None:
    """A child that ends because starting again would lock the token stays down; the others go on."""
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(_supervisor(settings, "locks", "va").run(stop, on_ready=ready.set))
    await asyncio.wait_for(ready.wait(), 20)
    place = settings.data_dir / "locks.pid"
    os.kill(int(await _until(place)), signal.SIGKILL)
    for _ in range(400):
        if place.read_text("ascii") == "tried again":
            break
        await asyncio.sleep(0.02)
    place.write_text("once", "ascii")
    await asyncio.sleep(1.5)
    assert place.read_text("ascii") == "once"
    stop.set()
    await asyncio.wait_for(running, 20)


def test_a_second_start_on_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """The line names the process that holds the directory; afterwards the directory is free again."""
    in_use = f"in use by the Chancery with process id {os.getpid()}"
    with DirectoryLock(tmp_path), pytest.raises(StartupError, match=in_use):
        DirectoryLock(tmp_path).__enter__()
    with DirectoryLock(tmp_path):
        assert (tmp_path / "lock").read_text("ascii") == f"{os.getpid()}\n"


def test_children_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    """kill -9 of the parent: the child ends by itself within two seconds."""
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(_CHILD), "ascii")
    root = Path(__file__).resolve().parents[3]
    parent_code = (
        "import os, subprocess, sys, time\n"
        "env = os.environ | {'CHANCERY_SUPERVISOR_PID': str(os.getpid()), 'PYTHONPATH': sys.argv[3]}\n"
        "subprocess.Popen([sys.executable, sys.argv[1], 'va', sys.argv[2]], env=env, start_new_session=True,"
        " stderr=subprocess.DEVNULL)\n"
        "time.sleep(60)\n")
    pid_file = tmp_path / "va.pid"
    parent = subprocess.Popen([sys.executable, "-c", parent_code, str(script), str(pid_file), str(root)])
    for _ in range(500):
        if pid_file.exists() and pid_file.read_text("ascii"):
            break
        time.sleep(0.02)
    child = int(pid_file.read_text("ascii"))
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text("ascii").split()[2]:
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the child outlived its supervisor")
