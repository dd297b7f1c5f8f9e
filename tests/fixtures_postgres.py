"""A real PostgreSQL for the tests: one server a session, one fresh migrated database a test that asks for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from ca.admin.embedded_postgres import SUPERUSER, EmbeddedPostgres
from ca.admin.migrate import OWNER, connect_superuser, make_embedded_database, make_password, migrate
from ca.process.ambient import system_ambient
from ca.process.postgres import connect, embedded_socket_directory
from ca.process.settings import DatabaseSettings

_TEMPLATE = "chancery"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestDatabase:
    """`settings` is what a process is given; `connect(role)` opens a connection, e.g. under ca_issuer."""

    __test__ = False

    settings: DatabaseSettings
    name: str

    async def connect(self, role: str = OWNER) -> "asyncpg.Connection[asyncpg.Record]":
        """One connection under a role, the owner of all tables by default; the caller closes it."""
        return await connect(self.settings, role, process="test")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseSettings]:
    """A running embedded server whose database `chancery` is migrated and serves as the template."""
    directory = tmp_path_factory.mktemp("pg")
    settings = DatabaseSettings(secrets_dir=directory / "secrets")
    ambient = system_ambient()
    server = EmbeddedPostgres(directory=directory / "data", secrets_dir=settings.secrets_dir,
                              settings={"fsync": "off", "full_page_writes": "off", "shared_buffers": "128MB"})
    server.start(make_password(settings, SUPERUSER, ambient))
    try:
        asyncio.run(make_embedded_database(settings, ambient))
        asyncio.run(migrate(settings, ambient))
        yield settings
    finally:
        server.stop()


@pytest.fixture
async def database(postgres_server: DatabaseSettings) -> AsyncIterator[TestDatabase]:
    """A fresh database with every table, partition and role, dropped afterwards."""
    name = f"t{uuid4().hex}"
    superuser = await connect_superuser(postgres_server)
    await superuser.execute(f'CREATE DATABASE "{name}" TEMPLATE "{_TEMPLATE}" OWNER {OWNER} STRATEGY file_copy')
    host = embedded_socket_directory(postgres_server)
    settings = DatabaseSettings(url=f"postgresql:///{name}?host={host}&port=5432",
                                secrets_dir=Path(postgres_server.secrets_dir))
    try:
        yield TestDatabase(settings=settings, name=name)
    finally:
        await superuser.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await superuser.close()
