"""What goes wrong at a start is one clear line that says what to do, exit code 1, and nothing half-made is left."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.acceptance.demo_process import CHANCERY, Demo, run_demo
from tests.ports import free_port_base


def _demo(data_dir: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run([str(CHANCERY), "demo", "--data", str(data_dir), *arguments], capture_output=True, text=True,
                          timeout=120, check=False, env=os.environ | environment)
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    return done.returncode, last


def test_a_port_in_use(tmp_path: Path) -> None:
    """Another program has the OCSP port: the line names address and option, and the directory stays empty."""
    base = free_port_base(4)
    with socket.socket() as other:
        other.bind(("127.0.0.1", base + 1))
        other.listen()
        code, line = _demo(tmp_path / "d", "--port-base", str(base))
    assert code == 1
    assert f"127.0.0.1:{base + 1} is in use by another program" in line
    assert "--port-base" in line
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) in ([], ["lock"])


def test_an_unwritable_directory(tmp_path: Path) -> None:
    """A path below a file cannot be a directory; the line names it."""
    (tmp_path / "file").write_text("x", "ascii")
    code, line = _demo(tmp_path / "file" / "d")
    assert code == 1
    assert f"{tmp_path / 'file' / 'd'} is not writable" in line
    assert "--data" in line


def test_a_directory_with_something_else_in_it(tmp_path: Path) -> None:
    """Somebody's files are never mixed with a CA's."""
    (tmp_path / "thesis.txt").write_text("x", "ascii")
    code, line = _demo(tmp_path)
    assert code == 1
    assert "is not empty and holds no chancery.toml" in line
    assert (tmp_path / "thesis.txt").read_text("ascii") == "x"


def test_no_softhsm(tmp_path: Path) -> None:
    """Without a PKCS#11 module the line says how to get one, and nothing is left behind."""
    code, line = _demo(tmp_path / "d", "--port-base", str(free_port_base(4)),
                       CHANCERY_PKCS11_MODULE=str(tmp_path / "none.so"))
    assert code == 1
    assert "none.so" in line
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) in ([], ["lock"])


@pytest.mark.parametrize(("arguments", "message"), [
    (("--resolver", "nowhere"), "expected HOST:PORT"),
    (("--port-base", "0"), "0 is not in the range"),
    (("--http-01-port", "x"), "not a valid integer"),
    (("--frobnicate",), "No such option"),
])
def test_usage(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """A mistyped option is a usage error, exit code 2."""
    code, line = _demo(tmp_path / "d", *arguments)
    assert code == 2
    assert message in line
    assert not (tmp_path / "d").exists()


def test_what_a_running_demo_refuses_and_survives(tmp_path: Path) -> None:
    """A second start on the directory, and, once it is stopped: a wrong PIN, other ports, a lost database password."""
    place = tmp_path / "chancery"
    with run_demo(place) as running:
        base = running.port_base
        code, line = _demo(place)
        assert code == 1
        assert f"is in use by the Chancery with process id {running.process.pid}" in line
        assert running.stop() == 0
        assert not (place / "ready").exists()
    assert not Demo(data_dir=place, port_base=base, http_01_port=1, tls_alpn_01_port=1,
                    process=running.process).child_pids()

    code, line = _demo(place, "--port-base", str(base + 100))
    assert code == 1
    assert f"was made with --port-base {base}" in line

    pin = place / "hsm" / "online" / "pin"
    right = pin.read_text("ascii")
    pin.chmod(0o600)
    pin.write_text("0000\n", "ascii")
    code, line = _demo(place)
    assert code == 1
    assert "PIN" in line
    pin.write_text(right, "ascii")

    password = place / "secrets" / "db" / "ca_issuer.password"
    kept = password.read_text("ascii")
    password.write_text("wrong\n", "ascii")
    code, line = _demo(place)
    assert code == 1
    assert "the database refuses the connection" in line
    password.write_text(kept, "ascii")

    with run_demo(place, port_base=base) as again:
        assert again.stop() == 0


def test_a_set_up_that_was_killed_is_made_anew(tmp_path: Path) -> None:
    """kill -9 in the middle of the first start, of which initdb goes on: the next one waits for that, clears the rest
    away and makes a whole CA."""
    place = tmp_path / "chancery"
    base = free_port_base(4)
    process = subprocess.Popen([str(CHANCERY), "demo", "--data", str(place), "--port-base", str(base)],
                               stderr=subprocess.DEVNULL)
    give_up_at = time.monotonic() + 60
    while not (place / "postgres.making" / "PG_VERSION").exists():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (place / "chancery.toml").exists()
    with run_demo(place, port_base=base) as running:
        assert running.roots.read_text("ascii").count("BEGIN CERTIFICATE") == 2
