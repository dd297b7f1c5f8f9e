"""A responder that reads a streaming replica: a real standby, made by pg_basebackup, of a primary of its own."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from ca.admin.embedded_postgres import SUPERUSER, EmbeddedPostgres, _as_user, _binary, _server_user
from ca.admin.migrate import connect_superuser, make_embedded_database, make_password, migrate
from ca.process.ambient import system_ambient
from ca.process.postgres import embedded_socket_directory
from ca.process.settings import DatabaseSettings
from ocsp.protocol.response import CertStatus
from tests.ca.pki.authority import authority
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.processes import add_issuer, port_of, publish, running, times_now, until, write_config
from tests.ocsp.responder.test_process import LATER_S, status_of
from tests.ocsp.signing import serial_of, signed

OWN = authority(ec.generate_private_key(ec.SECP256R1()))
_SERVER = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A primary, and where its standby listens."""

    primary: EmbeddedPostgres
    database: TestDatabase
    standby_url: str


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[Pair]:
    """Both servers, the standby streaming."""
    settings, ambient = DatabaseSettings(secrets_dir=directory / "secrets"), system_ambient()
    primary = EmbeddedPostgres(directory=directory / "primary", secrets_dir=settings.secrets_dir, settings=_SERVER)
    password, owner = make_password(settings, SUPERUSER, ambient), _server_user()
    await asyncio.to_thread(primary.start, password)
    standby, socket = directory / "standby", Path(tempfile.mkdtemp(prefix="chancery-standby-"))

    def run(*command: str) -> None:
        done = subprocess.run([str(_binary(command[0])), *command[1:]], capture_output=True, text=True, check=False,
                              cwd="/", env=os.environ | {"PGPASSWORD": password}, timeout=120, **_as_user(owner))
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        await make_embedded_database(settings, ambient)
        await migrate(settings, ambient)
        host = embedded_socket_directory(settings)
        with (primary.directory / "pg_hba.conf").open("a", encoding="ascii") as file:
            file.write("local replication all scram-sha-256\n")
        superuser = await connect_superuser(settings)
        await superuser.execute("SELECT pg_reload_conf()")
        await superuser.close()
        for place in (standby, socket):
            place.mkdir(mode=0o700, exist_ok=True)
            if owner is not None:
                os.chown(place, owner.pw_uid, owner.pw_gid)
        await asyncio.to_thread(run, "pg_basebackup", "-D", str(standby), "-h", host, "-p", "5432", "-U", SUPERUSER,
                                "-R", "-X", "stream", "-c", "fast")
        options = " ".join(f"-c {name}={value}" for name, value in
                           (*_SERVER.items(), ("unix_socket_directories", str(socket)), ("hot_standby", "on")))
        await asyncio.to_thread(_start, standby, options)
        yield Pair(primary=primary, standby_url=f"postgresql:///chancery?host={socket}&port=5432",
                   database=TestDatabase(name="chancery", settings=DatabaseSettings(
                       url=f"postgresql:///chancery?host={host}&port=5432", secrets_dir=settings.secrets_dir)))
    finally:
        if (standby / "postmaster.pid").exists():
            await asyncio.to_thread(run, "pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(standby))
        await asyncio.to_thread(primary.stop)
        shutil.rmtree(socket, ignore_errors=True)


def _start(standby: Path, options: str) -> None:
    """Its output goes to a file: the server inherits it, and a pipe would stay open."""
    with tempfile.TemporaryFile() as output:
        subprocess.run([str(_binary("pg_ctl")), "start", "-w", "-t", "60", "-D", str(standby), "-l",
                        str(standby / "server.log"), "-o", options], check=True, stdout=output, stderr=output, cwd="/",
                       timeout=90, **_as_user(_server_user()))


def lag_s(port: int) -> float:
    """What the responder says of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("chancery_ocsp_responder_lag_seconds"))


async def test_a_responder_follows_a_standby_and_outlives_the_primary(tmp_path: Path) -> None:
    """Caught up, new responses and revocations seen through the replica; without the primary it goes on serving, says
    how far behind it is, and goes on when the primary is back."""
    times = times_now()
    async with pair(tmp_path) as servers:
        await add_issuer(servers.database, OWN)
        await publish(servers.database, [signed(OWN, serial_of(number), times=times, not_after_s=LATER_S)
                                         for number in range(50)], times)
        config = write_config(tmp_path, servers.database.settings, ocsp=f'database_url = "{servers.standby_url}"')
        port = port_of(config)
        with running("ocsp", config) as process:
            await process.ready()
            assert "read from a standby" in process.log.read_text()
            await until(lambda: status_of(port, OWN, serial_of(49)) is ocsp.OCSPCertStatus.GOOD, patience_s=30)
            revoked = signed(OWN, serial_of(7), CertStatus(revoked_at_s=times.this_update_s, reason=1), version=1,
                             times=times, not_after_s=LATER_S)
            await publish(servers.database, [revoked], times)
            await until(lambda: status_of(port, OWN, serial_of(7)) is ocsp.OCSPCertStatus.REVOKED, patience_s=30)
            await until(lambda: lag_s(port) < 5, patience_s=30)
            await asyncio.to_thread(servers.primary.stop)
            await until(lambda: lag_s(port) > 3, patience_s=60)
            assert status_of(port, OWN, serial_of(7)) is ocsp.OCSPCertStatus.REVOKED
            assert status_of(port, OWN, serial_of(8)) is ocsp.OCSPCertStatus.GOOD
            password = (servers.primary.secrets_dir / f"{SUPERUSER}.password").read_text("ascii").strip()
            await asyncio.to_thread(servers.primary.start, password)
            with (servers.primary.directory / "pg_hba.conf").open("a", encoding="ascii") as file:
                file.write("local replication all scram-sha-256\n")
            superuser = await connect_superuser(DatabaseSettings(secrets_dir=servers.primary.secrets_dir))
            await superuser.execute("SELECT pg_reload_conf()")
            await superuser.close()
            late = signed(OWN, serial_of(99), times=times, not_after_s=LATER_S)
            await publish(servers.database, [late], times)
            await until(lambda: status_of(port, OWN, serial_of(99)) is ocsp.OCSPCertStatus.GOOD, patience_s=60)
            await until(lambda: lag_s(port) < 5, patience_s=60)
