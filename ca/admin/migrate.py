"""Brings a database to this version: roles, then numbered SQL files once each, then the grants. Safe to run again."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from ca.process.ambient import Ambient
from ca.process.lifecycle import StartupError
from ca.process.postgres import connect
from ca.process.settings import DatabaseSettings

OWNER = "chancery_owner"
PROCESS_ROLES = ("acme_wfe", "acme_va", "ca_issuer", "ca_publisher", "ca_reader", "ocsp_signer", "ocsp_reader",
                 "ca_admin")
_LOCK = "chancery migrations"
_SQL_DIRECTORY = Path(__file__).resolve().parents[2] / "deploy"
_OLDEST_SERVER_VERSION = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationResult:
    """What was applied: names of migration files, and whether the grants were set anew."""

    applied: tuple[str, ...]
    grants_changed: bool


def make_password(settings: DatabaseSettings, role: str, ambient: Ambient) -> str:
    """The role's password from its file, made (0600, 256 random bits) when there is none."""
    path = settings.secrets_dir / f"{role}.password"
    if path.exists():
        return path.read_text("ascii").strip()
    settings.secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = ambient.random_bytes(32).hex()
    making = path.with_suffix(".making")
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(password + "\n")
    making.rename(path)
    return password


async def migrate(settings: DatabaseSettings, ambient: Ambient) -> MigrationResult:
    """Applies what is missing, as `chancery_owner`.

    Raises StartupError when the server is too old, when the database is newer than this program, or when a migration
    that was applied has been edited since.
    """
    connection = await connect(settings, OWNER, process="migrate")
    try:
        version = connection.get_server_version().major
        if version < _OLDEST_SERVER_VERSION:
            raise StartupError(f"PostgreSQL {version} is too old; {_OLDEST_SERVER_VERSION} or newer is needed")
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", _LOCK)
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, sha256 text NOT NULL,"
                " applied_at timestamptz NOT NULL DEFAULT now())")
            for role in PROCESS_ROLES:
                await _make_role(connection, role, make_password(settings, role, ambient))
            applied = await _apply_files(connection)
            grants_changed = await _apply_grants(connection, changed=bool(applied))
            await connection.execute("SELECT create_partitions($1)", ambient.now())
    except asyncpg.InsufficientPrivilegeError as fault:
        raise StartupError(f"role {OWNER} may not do this: {fault}; deploy/RUNBOOK.md says how to make it") from fault
    finally:
        await connection.close()
    return MigrationResult(applied=applied, grants_changed=grants_changed)


async def _make_role(connection: "asyncpg.Connection[asyncpg.Record]", role: str, password: str) -> None:
    """The password is 64 hexadecimal digits, so it may stand in the statement, which takes no parameter."""
    if await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
        return
    if not password.isalnum():
        raise StartupError(f"the password file of {role} holds other characters than letters and digits")
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")


async def _apply_files(connection: "asyncpg.Connection[asyncpg.Record]") -> tuple[str, ...]:
    known = {row["name"]: row["sha256"]
             for row in await connection.fetch("SELECT name, sha256 FROM schema_migrations WHERE name <> 'roles.sql'")}
    files = {path.name: path.read_text("utf-8") for path in sorted((_SQL_DIRECTORY / "migrations").glob("[0-9]*.sql"))}
    if not files:
        raise StartupError(f"no migrations in {_SQL_DIRECTORY / 'migrations'}: the installation is incomplete")
    unknown = sorted(set(known) - set(files))
    if unknown:
        raise StartupError(f"the database has migration {unknown[-1]}, unknown to this version: install the newer one")
    applied = []
    for name, text in files.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        if name not in known:
            await connection.execute(text)
            await connection.execute("INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)", name, digest)
            applied.append(name)
        elif known[name] != digest:
            raise StartupError(f"migration {name} was applied in another form; write a new one instead of editing it")
    return tuple(applied)


async def _apply_grants(connection: "asyncpg.Connection[asyncpg.Record]", *, changed: bool) -> bool:
    text = (_SQL_DIRECTORY / "roles.sql").read_text("utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    known = await connection.fetchval("SELECT sha256 FROM schema_migrations WHERE name = 'roles.sql'")
    if known == digest and not changed:
        return False
    await connection.execute(text)
    await connection.execute(
        "INSERT INTO schema_migrations (name, sha256) VALUES ('roles.sql', $1)"
        " ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256, applied_at = now()", digest)
    return True


async def make_embedded_database(settings: DatabaseSettings, ambient: Ambient, *, name: str = "chancery") -> None:
    """In the embedded server: the owner role and its database, when they are missing."""
    owner_password = make_password(settings, OWNER, ambient)
    superuser = await connect_superuser(settings)
    try:
        if not await superuser.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", OWNER):
            await superuser.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{owner_password}'")
            await superuser.execute(f"GRANT pg_read_all_stats TO {OWNER} WITH ADMIN OPTION")
        if not await superuser.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
            await superuser.execute(f'CREATE DATABASE "{name}" OWNER {OWNER}')
    finally:
        await superuser.close()


async def connect_superuser(settings: DatabaseSettings) -> "asyncpg.Connection[asyncpg.Record]":
    """The embedded server's superuser, on its maintenance database."""
    return await connect(settings, "postgres", process="set-up", database="postgres")
