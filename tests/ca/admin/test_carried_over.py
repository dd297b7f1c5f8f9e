"""Migrations that rewrite what is stored: an older database is migrated, and everything in it means the same.

Each test fills the tables as the version before wrote them, in SQL of its own, migrates, and reads by today's code.
"""

import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from acme_api.protocol import base64url
from acme_api.protocol.challenge import offered, tokens_of
from acme_api.protocol.jws import verify_stored
from acme_api.protocol.nonce import make_nonce, spent_key
from ca.admin import migrate as migrate_module
from ca.admin.migrate import OWNER, connect_superuser, migrate
from ca.pki.object_id import object_id
from ca.pki.packed import unpack_evidence, unpack_request
from ca.process.ambient import system_ambient
from ca.process.postgres import embedded_socket_directory
from ca.process.settings import DatabaseSettings
from tests.acme_client import SigningKey, b64, flatten, unb64
from tests.fixtures_postgres import TestDatabase

_Before = Callable[[str], Awaitable[TestDatabase]]


@pytest.fixture
async def before(postgres_server: DatabaseSettings) -> AsyncIterator[_Before]:
    """A database as it was before the migration that is named; dropped afterwards."""
    superuser = await connect_superuser(postgres_server)
    name = f"t{uuid4().hex}"

    async def make(migration: str) -> TestDatabase:
        await superuser.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 OWNER {OWNER}')
        host = embedded_socket_directory(postgres_server)
        made = TestDatabase(name=name, settings=DatabaseSettings(
            url=f"postgresql:///{name}?host={host}&port=5432", secrets_dir=Path(postgres_server.secrets_dir)))
        owner = await made.connect()
        await owner.execute("CREATE TABLE schema_migrations (name text PRIMARY KEY, sha256 text NOT NULL,"
                            " applied_at timestamptz NOT NULL DEFAULT now())")
        paths = sorted((migrate_module._SQL_DIRECTORY / "migrations").glob("[0-9]*.sql"))
        assert migration in [path.name for path in paths]
        for path in paths:
            if path.name < migration:
                await owner.execute(path.read_text("utf-8"))
                await owner.execute("INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)", path.name,
                                    hashlib.sha256(path.read_bytes()).hexdigest())
        await owner.execute("SELECT create_partitions(now() - interval '2 days'), create_partitions(now())")
        await owner.close()
        return made

    yield make
    await superuser.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await superuser.close()


async def test_0023_spent_nonces_stay_spent(before: _Before) -> None:
    """Row N9: what was spent within a nonce's life before the migration is spent after it, by the key that is looked up
    from now on; what is older is forgotten; new partitions are there for the days to come."""
    database = await before("0023_spent_nonces.sql")
    now = datetime.now(UTC)
    ages = [timedelta(), timedelta(minutes=1), timedelta(hours=23), timedelta(hours=25)]
    spent = [base64url.decode(make_nonce(now - age, number.to_bytes(16, "big"), bytes(32)))
             for number, age in enumerate(ages)]
    owner = await database.connect()
    await owner.executemany("INSERT INTO spent_nonces (nonce) VALUES ($1)", [(nonce,) for nonce in spent])
    result = await migrate(database.settings, system_ambient())
    assert "0023_spent_nonces.sql" in result.applied
    kept = {row["nonce"] for row in await owner.fetch("SELECT nonce FROM spent_nonces")}
    assert kept == {spent_key(nonce) for nonce in spent[:3]}
    front_end = await database.connect("acme_wfe")
    for days in range(8):
        later = spent_key(base64url.decode(make_nonce(now + timedelta(days=days), b"later" * 3 + b".", bytes(32))))
        await front_end.execute("INSERT INTO spent_nonces (nonce) VALUES ($1)", later)
    assert await owner.fetchval("SELECT count(DISTINCT tableoid) FROM spent_nonces") >= 8
    await front_end.close()
    await owner.close()


async def test_0026_tokens_stay_what_they_were(before: _Before) -> None:
    """Rows CH2, CH10: authorizations that were pending before the migration show the same challenges and tokens after
    it, in the same order, those with and those without tokens; and what is looked up by name is found."""
    database = await before("0026_challenges.sql")
    ambient = system_ambient()
    tokens = {kind: base64url.encode(ambient.random_bytes(32)) for kind in offered(
        "dns", wildcard=False, persist=True) if kind != "dns-persist-01"} | {"dns-persist-01": ""}
    sets = [offered("dns", wildcard=False, persist=True), offered("dns", wildcard=True, persist=False),
            offered("ip", wildcard=False, persist=False)]
    ids = [object_id(ambient.now(), ambient.random_bytes(16)) for _ in sets]
    owner = await database.connect()
    await owner.executemany(
        "INSERT INTO authorizations (id, account_id, identifier_type, identifier_value, wildcard, expires_at,"
        " challenge_types, challenge_tokens) VALUES ($1, $1, 'dns', 'a.example', false, now(), $2, $3)",
        [(each, list(types), [tokens[kind] for kind in types]) for each, types in zip(ids, sets, strict=True)])
    await migrate(database.settings, ambient)
    rows = {row["id"]: row for row in await owner.fetch(
        "SELECT id, challenge_types, challenge_tokens FROM authorizations"
        " WHERE hashtext(identifier_value) = hashtext('a.example')")}
    await owner.close()
    for each, types in zip(ids, sets, strict=True):
        found = tokens_of(rows[each]["challenge_types"], rows[each]["challenge_tokens"])
        assert list(found.items()) == [(kind, tokens[kind] or None) for kind in types]


async def test_0027_evidence_and_requests_are_read_as_before(before: _Before) -> None:
    """FI8, BR 5.4.1: evidence and signed finalize requests that were stored before the migration come out of it as they
    were, octet for octet, whatever is in them; the signature still verifies."""
    database = await before("0027_packed.sql")
    ambient = system_ambient()
    key = SigningKey.make("ES256")
    order_id, other_id = (object_id(ambient.now(), ambient.random_bytes(16)) for _ in range(2))
    url = "https://ca.example/acme/order/x/finalize"
    document = flatten(key, {"alg": "ES256", "nonce": "A" * 43, "kid": "https://ca.example/acme/account/x", "url": url},
                       {"csr": b64(ambient.random_bytes(300))})
    parts = [unb64(document[name]) for name in ("protected", "payload", "signature")]
    odd = ["{\u00e9}", bytes(range(256)), b"", b"\xff\x00\xfb"]
    evidence = {"rules": "x", "facts": [{"ms": 0, "txt": "\u00e9\\"}, {"ms": 1, "got": [1, None, True]}]}
    owner = await database.connect()
    for each, values in ((order_id, [key.jwk_text, *parts]), (other_id, odd)):
        await owner.execute("INSERT INTO finalizations VALUES ($1, now(), $2, $3, $4, $5)", each, *values)
    await owner.execute(
        "INSERT INTO validations (authorization_id, account_id, identifier_type, identifier_value, wildcard,"
        " challenge_type, thumbprint, validated_at, evidence)"
        " VALUES ($1, $1, 'dns', 'a.example', false, 'dns-01', '', now(), $2)", order_id, evidence)
    await migrate(database.settings, ambient)
    rows = {row["order_id"]: unpack_request(row["request"]) for row in await owner.fetch("SELECT * FROM finalizations")}
    assert rows == {order_id: (key.jwk_text, *parts), other_id: tuple(odd)}
    assert verify_stored(*rows[order_id][1:], rows[order_id].jwk).url == url
    assert unpack_evidence(await owner.fetchval("SELECT evidence FROM validations")) == evidence
    await owner.close()


async def test_0033_partitions_of_months_go_on_beside_those_of_half_years(before: _Before) -> None:
    """An installation of 27 months keeps every partition that holds something, with its rows, and none of those that do
    not; what comes has partitions of half a year, the first from where the months end; the old ones go when their time
    is over, two years after their month, the youngest last."""
    database = await before("0033_half_years.sql")
    owner = await database.connect()
    now = datetime.now(UTC)
    this_month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    ids: list[bytes] = []
    for months in range(27):
        moment = await owner.fetchval("SELECT $1::timestamptz - make_interval(months => $2)", this_month, months)
        await owner.execute("SELECT create_partitions($1)", moment + timedelta(days=10))
        if months != 5:                     # a month in which nobody ordered
            ids.append(object_id(moment + timedelta(days=3), months.to_bytes(16, "big")))
            await owner.execute("INSERT INTO refusals (request_id, refused_at, problem) VALUES ($1, now(), '{}')",
                                ids[-1])
    await migrate(database.settings, system_ambient())
    ranges = await owner.fetch("SELECT child, begins, ends FROM partition_ranges('refusals') ORDER BY begins")
    months_kept = [each for each in ranges if each["ends"] - each["begins"] < timedelta(days=32)]
    assert len(months_kept) - len(ids) in (0, 1), "what is left of this half year may be a month"
    assert [row[0] for row in await owner.fetch("SELECT request_id FROM refusals ORDER BY 1")] == sorted(ids)
    later = [each for each in ranges if each["ends"] > now.replace(tzinfo=None)]
    assert later[0]["begins"] == this_month.replace(tzinfo=None)
    assert all(one["ends"] == other["begins"] for one, other in itertools.pairwise(later))
    assert later[-1]["ends"] > now.replace(tzinfo=None) + timedelta(days=58)
    assert await owner.fetchval("SELECT count(*) FROM partition_ranges('orders')") <= 2, "they were all empty"
    for days in range(0, 58, 5):            # and none is missing for whoever writes
        await owner.execute("INSERT INTO refusals (request_id, refused_at, problem) VALUES ($1, now(), '{}')",
                            object_id(now + timedelta(days=days), days.to_bytes(16, "little")))
    year_later = this_month + timedelta(days=367)
    dropped = [row[0] for row in await owner.fetch("SELECT drop_expired_partitions($1)", year_later)
               if row[0].startswith("refusals_")]
    kept = [row[0] for row in await owner.fetch("SELECT child FROM partition_ranges('refusals') ORDER BY begins")]
    assert dropped
    assert [each["child"] for each in ranges] == [*dropped, *kept]
    for each in ranges:
        is_over = each["ends"].replace(tzinfo=UTC, year=each["ends"].year + 2) < year_later
        assert (each["child"] in dropped) == is_over, each
    await owner.close()
