"""A primary and a streaming standby, real servers made by pg_basebackup, for what happens when one of them is gone."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ca.admin.embedded_postgres import SUPERUSER, EmbeddedPostgres, _as_user, _binary, _server_user
from ca.admin.migrate import connect_superuser, make_embedded_database, make_password, migrate
from ca.process.ambient import system_ambient
from ca.process.postgres import embedded_socket_directory
from ca.process.settings import DatabaseSettings
from tests.fixtures_postgres import TestDatabase

_SERVER = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}
_REPLICATION = "local replication all scram-sha-256\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A primary, and a standby that streams from it."""

    primary: EmbeddedPostgres
    database: TestDatabase
    standby: Path
    standby_socket: Path
    password: str

    @property
    def standby_url(self) -> str:
        """The standby alone."""
        return f"postgresql:///chancery?host={self.standby_socket}&port=5432"

    @property
    def both_url(self) -> str:
        """Whichever of both is the primary."""
        hosts = f"{embedded_socket_directory(self.primary_settings)},{self.standby_socket}"
        return f"postgresql:///chancery?host={hosts}&port=5432,5432&target_session_attrs=primary"

    @property
    def promoted(self) -> TestDatabase:
        """The standby, once it is a primary."""
        return TestDatabase(name="chancery", settings=DatabaseSettings(
            url=self.standby_url, secrets_dir=self.primary.secrets_dir))

    @property
    def primary_settings(self) -> DatabaseSettings:
        """As its superuser reaches the primary."""
        return DatabaseSettings(secrets_dir=self.primary.secrets_dir)

    async def start_primary(self) -> None:
        """Starts the primary, and lets the standby stream from it."""
        await asyncio.to_thread(self.primary.start, self.password)
        await allow_replication(self.primary)

    async def kill_primary(self) -> None:
        """Every process of the primary is gone at once, as when its machine is."""
        await asyncio.to_thread(run, self.password, "pg_ctl", "stop", "-w", "-m", "immediate", "-D",
                                str(self.primary.directory))

    async def promote(self) -> None:
        """The standby becomes a primary."""
        await asyncio.to_thread(run, self.password, "pg_ctl", "promote", "-w", "-D", str(self.standby))

    async def wait_for_the_standby(self) -> None:
        """From now on a commit is acknowledged when the standby has it, too."""
        superuser = await connect_superuser(self.primary_settings)
        try:
            await superuser.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await superuser.execute("SELECT pg_reload_conf()")
            async with asyncio.timeout(60):
                while await superuser.fetchval("SELECT sync_state FROM pg_stat_replication") != "sync":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            await superuser.close()


async def allow_replication(primary: EmbeddedPostgres) -> None:
    """Each start of the embedded server writes its pg_hba.conf anew."""
    with (primary.directory / "pg_hba.conf").open("a", encoding="ascii") as file:
        file.write(_REPLICATION)
    superuser = await connect_superuser(DatabaseSettings(secrets_dir=primary.secrets_dir))
    await superuser.execute("SELECT pg_reload_conf()")
    await superuser.close()


def run(password: str, *command: str) -> None:
    """One of PostgreSQL's own programs, as the user of the server."""
    with tempfile.TemporaryFile() as output:
        done = subprocess.run([str(_binary(command[0])), *command[1:]], stdout=output, stderr=output, check=False,
                              cwd="/", env=os.environ | {"PGPASSWORD": password}, timeout=120,
                              **_as_user(_server_user()))
        output.seek(0)
        assert done.returncode == 0, output.read().decode()


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[Pair]:
    """Both servers, the standby streaming."""
    settings, ambient = DatabaseSettings(secrets_dir=directory / "secrets"), system_ambient()
    primary = EmbeddedPostgres(directory=directory / "primary", secrets_dir=settings.secrets_dir, settings=_SERVER)
    password, owner = make_password(settings, SUPERUSER, ambient), _server_user()
    await asyncio.to_thread(primary.start, password)
    standby, socket = directory / "standby", Path(tempfile.mkdtemp(prefix="chancery-standby-"))
    try:
        await make_embedded_database(settings, ambient)
        await migrate(settings, ambient)
        host = embedded_socket_directory(settings)
        await allow_replication(primary)
        for place in (standby, socket):
            place.mkdir(mode=0o700, exist_ok=True)
            if owner is not None:
                os.chown(place, owner.pw_uid, owner.pw_gid)
        await asyncio.to_thread(run, password, "pg_basebackup", "-D", str(standby), "-h", host, "-p", "5432", "-U",
                                SUPERUSER, "-R", "-X", "stream", "-c", "fast")
        options = " ".join(f"-c {name}={value}" for name, value in
                           (*_SERVER.items(), ("unix_socket_directories", str(socket)), ("hot_standby", "on")))
        # Its output goes to a file: the server inherits it, and a pipe would stay open.
        await asyncio.to_thread(run, password, "pg_ctl", "start", "-w", "-t", "60", "-D", str(standby), "-l",
                                str(standby / "server.log"), "-o", options)
        yield Pair(primary=primary, standby=standby, standby_socket=socket, password=password,
                   database=TestDatabase(name="chancery", settings=DatabaseSettings(
                       url=f"postgresql:///chancery?host={host}&port=5432", secrets_dir=settings.secrets_dir)))
    finally:
        if (standby / "postmaster.pid").exists():
            await asyncio.to_thread(run, password, "pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(standby))
        await asyncio.to_thread(primary.stop)
        shutil.rmtree(socket, ignore_errors=True)
