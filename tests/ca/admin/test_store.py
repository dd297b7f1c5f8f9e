"""Every statement of the operators' and the distribution's stores is within its role, and is found by an index."""

import re
from types import ModuleType

import pytest

from ca.admin import (
    account_store,
    block_store,
    certificate_store,
    crl_store,
    eab_store,
    incident_store,
    issuer_store,
    limit_store,
    lint_store,
    order_store,
    status_store,
    upkeep_store,
)
from ca.distribution import store as distribution_store
from ca.process.postgres import PostgresError
from tests.fixtures_postgres import TestDatabase

_NO_PLAN = ("SHORT_LOCK_WAIT",)
_STORES = (
    *((store, "ca_admin") for store in (
        account_store, block_store, certificate_store, crl_store, eab_store, incident_store, issuer_store, limit_store,
        lint_store, order_store, status_store, upkeep_store)),
    (distribution_store, "ca_reader"))


def _statements(store: ModuleType) -> dict[str, str]:
    return {name: text for name, text in vars(store).items()
            if name.isupper() and not name.startswith("_") and isinstance(text, str) and name not in _NO_PLAN}


@pytest.mark.parametrize(("store", "role"), _STORES)
async def test_the_role_may_do_all_of_its_store(database: TestDatabase, store: ModuleType, role: str) -> None:
    """EXPLAIN checks the privileges without running anything."""
    connection = await database.connect(role)
    statements = _statements(store)
    assert len(statements) >= 2
    for name, text in statements.items():
        try:
            await connection.execute(f"EXPLAIN (GENERIC_PLAN) {text}")
        except PostgresError as fault:
            pytest.fail(f"{name}: {fault}")
    await connection.close()


async def test_the_reader_may_do_nothing_of_the_operators(database: TestDatabase) -> None:
    """What ca_admin changes, the public server's role cannot."""
    connection = await database.connect("ca_reader")
    for statement in (certificate_store.REQUEST_REVOCATION, certificate_store.CERTIFICATES, order_store.ORDER,
                      account_store.REVOKE_ACCOUNT, account_store.ACCOUNTS):
        with pytest.raises(PostgresError, match="permission denied"):
            await connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
    await connection.close()


@pytest.mark.parametrize(("store", "name", "table"), [
    (certificate_store, "SERIALS_BY_NAME", "certificate_names"),
    (certificate_store, "SERIALS_BY_ACCOUNT", "certificates"), (certificate_store, "SERIALS_BY_KEY", "certificates"),
    (certificate_store, "SERIALS_BY_RANGE", "certificates"),
    (order_store, "ORDER", "orders"), (order_store, "AUTHORIZATIONS_BY_NAME", "validations")])
async def test_look_ups_use_an_index(database: TestDatabase, store: ModuleType, name: str, table: str) -> None:
    """With 10 million certificates a look-up must not read them all."""
    connection = await database.connect("ca_admin")
    statement = _statements(store)[name]
    arguments = ", ".join(["NULL"] * max(int(number) for number in re.findall(r"\$(\d)", statement)))
    await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE looked_up AS {statement}")
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE looked_up({arguments})"))
    await connection.close()
    assert f"Seq Scan on {table}" not in plan, plan
