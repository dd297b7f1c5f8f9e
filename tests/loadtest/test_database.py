"""What the load generator writes into and reads from the database of a Chancery that it started."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from loadtest.chancery_process import Chancery
from loadtest.database import connected, server_counters, table_sizes
from loadtest.ocsp_load import Subject
from loadtest.program import ProgramFault
from loadtest.synthetic import Issuer, active_issuers, require_own, sign_made_up
from tests.fixtures_postgres import TestDatabase
from tests.loadtest.certificates import ISSUER_KEY, self_signed

_PUBLISH = """
    WITH taken AS (DELETE FROM ocsp_requests WHERE serial IN (SELECT serial FROM ocsp_requests LIMIT 40)
                   RETURNING issuer_id),
         counted AS (SELECT issuer_id, count(*) AS count FROM taken GROUP BY 1)
    INSERT INTO ocsp_batches (id, produced_at, issuer_id, count, next_update, payload)
    SELECT nextval('ocsp_batch_id'), now(), issuer_id, count, now() + interval '7 days', '\\x00' FROM counted"""


@pytest.fixture
def chancery(tmp_path: Path, database: TestDatabase) -> Chancery:
    """As much of a demo's directory as the load generator looks at."""
    (tmp_path / "chancery.toml").write_text(
        f'[database]\nurl = "{database.settings.url}"\nsecrets_dir = "{database.settings.secrets_dir}"\n', "utf-8")
    return Chancery.running("https://localhost:1/directory", tmp_path / "roots.pem", 80, tmp_path)


async def _with_issuer(database: TestDatabase) -> None:
    connection = await database.connect()
    await connection.execute(
        "INSERT INTO issuers (id, name, key_type, certificate, crl_shards, active, created_at)"
        " VALUES (3, 'Test E1', 'ec', $1, 1, true, now())", self_signed(ISSUER_KEY).public_bytes(Encoding.DER))
    await connection.close()


async def _publish_until_stopped(database: TestDatabase) -> None:
    connection = await database.connect()
    try:
        while True:
            await connection.execute(_PUBLISH)
            await asyncio.sleep(0.01)
    finally:
        await connection.close()


async def test_made_up_certificates_are_signed_for(chancery: Chancery, database: TestDatabase) -> None:
    """They reach the queue as an issuance's do; the round ends when it is empty, and its batches are counted."""
    await _with_issuer(database)
    publisher = asyncio.create_task(_publish_until_stopped(database))
    sample: list[Subject] = []
    async with connected(chancery) as connection:
        issuer = (await active_issuers(connection))[0]
        before = await table_sizes(connection)
        found = await sign_made_up(connection, chancery, issuer, 100, sample)
        rows = await connection.fetch("SELECT serial, issuer_id FROM certificates")
        grown = {name for name, size in (await table_sizes(connection)).items() if size.minus(before[name]).total}
        assert (await server_counters(connection)).transactions > 0
    publisher.cancel()
    with suppress(asyncio.CancelledError):
        await publisher
    assert issuer == Issuer(id=3, name="Test E1", key_type="ec", certificate=issuer.certificate)
    assert (found.serials, found.batches) == (100, 3)
    assert found.elapsed_s > 0
    assert {int.from_bytes(row["serial"], "big") for row in rows} == {one.serial for one in sample}
    assert {row["issuer_id"] for row in rows} == {3}
    assert {"certificates", "ocsp_batches", "ocsp_requests"} <= grown, "partitions count for their table"


async def test_a_pre_signer_that_stands_still_is_a_fault(
    chancery: Chancery, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that does not move ends the scenario with a number instead of hanging it."""
    monkeypatch.setattr("loadtest.synthetic._STALL_S", 0.3)
    await _with_issuer(database)
    async with connected(chancery) as connection:
        issuer = (await active_issuers(connection))[0]
        with pytest.raises(ProgramFault, match="left 10 of 10"):
            await sign_made_up(connection, chancery, issuer, 10, [])


async def test_what_cannot_be_reached_is_said(chancery: Chancery, tmp_path: Path) -> None:
    """A missing directory, a server of somebody else, and a missing password are one clear sentence each."""
    with pytest.raises(ProgramFault, match="give --data"):
        replace(chancery, data_dir=None).settings()
    with pytest.raises(ProgramFault, match="not the embedded one"):
        async with connected(chancery, superuser=True):
            pass
    (tmp_path / "chancery.toml").write_text('[database]\nurl = ""\nsecrets_dir = "none"\n', "utf-8")
    with pytest.raises(ProgramFault, match="cannot be reached as chancery_owner"):
        async with connected(chancery):
            pass


def test_made_up_certificates_stay_out_of_other_peoples_databases(chancery: Chancery) -> None:
    """Only a Chancery that the load test started gets them."""
    with pytest.raises(ProgramFault, match="leave out --directory"):
        require_own(chancery)
