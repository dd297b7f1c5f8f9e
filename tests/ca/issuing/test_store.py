"""Every statement of the CA: it runs under ca_issuer, and under no other process's role."""

from typing import Any

import asyncpg

from ca.admin.migrate import PROCESS_ROLES
from ca.issuing import block_store, revocation_store, store
from tests.fixtures_postgres import TestDatabase


def _statements(module: Any) -> dict[str, str]:
    return {f"{module.__name__}.{name}": value for name, value in vars(module).items()
            if name.isupper() and isinstance(value, str) and not name.startswith("_")}


_STATEMENTS = {**_statements(store), **_statements(revocation_store), **_statements(block_store)}

async def _may(connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> bool:
    """EXPLAIN checks the privileges without running anything."""
    try:
        await connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True


def test_there_are_statements() -> None:
    """The list below is not empty by mistake."""
    assert len(_STATEMENTS) > 30


async def test_who_may(database: TestDatabase) -> None:
    """The CA may run each of its statements; what writes, it alone may."""
    allowed: dict[str, set[str]] = {name: set() for name in _STATEMENTS}
    for role in PROCESS_ROLES:
        connection = await database.connect(role)
        for name, statement in _STATEMENTS.items():
            if await _may(connection, statement):
                allowed[name].add(role)
        await connection.close()
    assert [name for name, roles in allowed.items() if "ca_issuer" not in roles] == []
    shared = {name for name, roles in allowed.items() if roles != {"ca_issuer"}}
    assert [name for name in shared if any(word in _STATEMENTS[name] for word in ("INSERT", "UPDATE", "DELETE"))] == []
