"""Every statement of the CA and of the publisher: it runs under its role, and under no other process's."""

from typing import Any

import asyncpg
import pytest

from ca.admin.migrate import PROCESS_ROLES
from ca.issuing import (
    block_store,
    ct_store,
    evidence_store,
    intent_store,
    issuer_store,
    queue_store,
    responder_store,
    revocation_store,
)
from ca.publisher import store as publisher_store
from tests.fixtures_postgres import TestDatabase


def _statements(module: Any) -> dict[str, str]:
    return {f"{module.__name__}.{name}": value for name, value in vars(module).items()
            if name.isupper() and isinstance(value, str) and not name.startswith("_")}


_STORES = (queue_store, evidence_store, intent_store, issuer_store, revocation_store, block_store, ct_store,
           responder_store)
_OF_ROLE = {
    "ca_issuer": {name: text for module in _STORES for name, text in _statements(module).items()},
    "ca_publisher": _statements(publisher_store)}


async def _may(connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> bool:
    """EXPLAIN checks the privileges without running anything."""
    try:
        await connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True


def test_there_are_statements() -> None:
    """The list below is not empty by mistake."""
    assert len(_OF_ROLE["ca_issuer"]) > 35
    assert len(_OF_ROLE["ca_publisher"]) > 7


@pytest.mark.parametrize("owner", _OF_ROLE)
async def test_who_may(database: TestDatabase, owner: str) -> None:
    """A process may run each of its statements; what writes, it alone may."""
    statements = _OF_ROLE[owner]
    allowed: dict[str, set[str]] = {name: set() for name in statements}
    for role in PROCESS_ROLES:
        connection = await database.connect(role)
        for name, statement in statements.items():
            if await _may(connection, statement):
                allowed[name].add(role)
        await connection.close()
    assert [name for name, roles in allowed.items() if owner not in roles] == []
    shared = {name for name, roles in allowed.items() if roles != {owner}}
    assert [name for name in shared if any(word in statements[name] for word in ("INSERT", "UPDATE", "DELETE"))] == []
