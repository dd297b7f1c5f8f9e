"""Sign, revoke, expire, crash and replay in an order left to chance: what the log says, what responders make of it."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from ca.pki.serial import serial_number
from ca.process.postgres import UNAVAILABLE, PostgresError
from hsm.thread import HsmThread
from ocsp.presign.round import Lane
from ocsp.protocol.batch import read_value, split_batch, store_key
from ocsp.responder.memory import Mark, ResponseMemory
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.bench import Bench, bench
from tests.ocsp.presign.certificates import Certificates
from tests.ocsp.presign.responder import Responder

LASTING, SHORT = 150, 40


class Follower:
    """A responder's memory that follows the log by id; an unlucky one dies at times, and is then at an earlier place of
    the log, or empty.

    Whatever happens, what it holds of a certificate never goes back to an earlier status while it is the same memory.
    """

    def __init__(self, directory: Path, source: random.Random, *, unlucky: bool) -> None:
        self.unlucky = unlucky
        self._directory = directory
        self._source = source
        self._memory = ResponseMemory(directory, map_size_gib=1)
        self._seen: dict[bytes, int] = {}
        self.followed: set[int] = set()

    async def follow(self, certificates: Certificates) -> bool:
        """Takes what is next, some batches of it at once; returns whether there was anything."""
        chance = self._source.random() if self.unlucky else 1.0
        if chance < 0.1:
            self._memory.close()
            self._memory = ResponseMemory(self._directory, map_size_gib=1)
        mark = self._memory.mark().batch_id
        if chance < 0.2:
            mark = self._source.randint(0, mark)        # what came since was not on disk, or is sent once more
        elif chance < 0.23:
            self._memory.begin_anew()
            mark, self._seen = 0, {}
        rows = await certificates.owner.fetch(
            "SELECT id, issuer_id, payload FROM ocsp_batches WHERE id > $1 ORDER BY id LIMIT $2", mark,
            self._source.randint(1, 20))
        if not rows:
            return False
        items = [item for row in rows for item in split_batch(row["payload"], row["issuer_id"])]
        self._memory.apply(items, mark=Mark(rows[-1]["id"], 1))
        self._memory.renew()
        self.followed |= {row["id"] for row in rows}
        for key, _ in items:
            version = read_value(self._memory.get(key) or b"").version
            assert version >= self._seen.get(key, 0), "a responder goes back to an earlier status"
            self._seen[key] = version
        return True

    def versions(self, serials: list[bytes]) -> dict[bytes, int]:
        """What it would answer for each; -1 when it knows nothing."""
        found = {serial: self._memory.get(store_key(1, serial)) for serial in serials}
        return {serial: -1 if value is None else read_value(value).version for serial, value in found.items()}

    def close(self) -> None:
        """Unmaps the file."""
        self._memory.close()


async def keep_signing(signer: Bench, lane: Lane, ending: asyncio.Event, source: random.Random) -> None:
    """As the claim loop does: what fails is tried again."""
    while not ending.is_set():
        with suppress(PostgresError, *UNAVAILABLE):
            await signer.run(lane)
        await asyncio.sleep(source.random() * 0.01)


async def keep_due(database: TestDatabase, ending: asyncio.Event, source: random.Random) -> None:
    """Everything is due again, all the time."""
    clock = await database.connect()
    while not ending.is_set():
        await clock.execute(
            "UPDATE ocsp_shards s SET due_at = now() - interval '1 second' FROM (SELECT first_serial FROM"
            " ocsp_shards FOR UPDATE SKIP LOCKED) t WHERE s.first_serial = t.first_serial")
        await asyncio.sleep(source.random() * 0.05)
    await clock.close()


async def keep_crashing(database: TestDatabase, ending: asyncio.Event, source: random.Random) -> int:
    """What the database sees of a pre-signer that dies: its session ends, wherever its transaction is just now."""
    killer, killed = await database.connect("ocsp_signer"), 0
    while not ending.is_set():
        await asyncio.sleep(source.random() * 0.2)
        killed += await killer.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE datname ="
            " current_database() AND usename = 'ocsp_signer' AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
            " ORDER BY random() LIMIT 1) AS one")
    await killer.close()
    return killed


@dataclass(slots=True, kw_only=True)
class Asker:
    """Asks live for what is there, what ends, and what never was, one question after another, and looks at what it is
    told: never an older status than the one that was committed when it asked, its own nonce, nothing after the end."""

    certificates: Certificates
    responder: Responder
    owner: "asyncpg.Connection[asyncpg.Record]"
    truth: dict[bytes, int]
    short: set[bytes]
    ends_s: int
    told: Counter[str] = field(default_factory=Counter)

    async def keep_asking(self, serials: Sequence[bytes], ending: asyncio.Event, source: random.Random) -> None:
        """Until the end."""
        while not ending.is_set():
            serial = source.choice(serials) if source.random() < 0.9 else serial_number(
                datetime.now(UTC), os.urandom(16))
            octets, least = os.urandom(16), self.truth.get(serial, 0)
            begun_s = datetime.now(UTC).timestamp()
            response = await self.responder.until_answered(
                await self.responder.ask(serial, nonce=b"\x04\x10" + octets), self.owner)
            if response is None:
                self.told["nothing"] += 1
                continue
            self.told[response.certificate_status.name] += 1
            assert [one.value for one in response.extensions] == [x509.OCSPNonce(octets)]
            if serial not in serials:
                assert response.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
                continue
            assert serial not in self.short or begun_s <= self.ends_s
            version = (0 if response.certificate_status is ocsp.OCSPCertStatus.GOOD else
                       2 if response.revocation_reason is x509.ReasonFlags.key_compromise else 1)
            assert response.certificate_status is not ocsp.OCSPCertStatus.UNKNOWN
            assert least <= version <= self.truth.get(serial, 0) + 1


@pytest.mark.parametrize("seed", range(3))
async def test_in_any_interleaving_no_good_follows_a_revocation(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, seed: int, tmp_path: Path
) -> None:
    """Two pre-signers that die, new certificates, re-signing, expiry and revocations at the same time, and responders
    that die, come back, read parts of the log twice, begin anew, and ask live.

    In the order of the log: once a certificate's revoked response is there, no good one follows; no good response
    claims a time after the revocation was committed; nothing is signed after a certificate's end. Responders never go
    back, miss no batch by following ids, and at the end everybody's last response is true.
    """
    source = random.Random(seed)
    serials = await certificates.add(LASTING)
    short = await certificates.add(SHORT, life=timedelta(seconds=2))
    ends_s = int(datetime.now(UTC).timestamp()) + 2
    truth: dict[bytes, int] = {}
    followers = [Follower(tmp_path / str(number), random.Random(100 * seed + number), unlucky=number > 0)
                 for number in range(3)]
    async with (await HsmThread.open(module=softhsm_token.module, conf=softhsm_token.conf,
                                     pin_file=softhsm_token.pin_file, token_label=softhsm_token.token_label) as thread,
                bench(database, softhsm_token, thread=thread) as one,
                bench(database, softhsm_token, thread=thread) as two):
        ending, quiet = asyncio.Event(), asyncio.Event()
        workers = [asyncio.create_task(keep_signing(signer, lane, ending, source)) for signer in (one, two)
                   for lane in (signer.presigner.changed, signer.presigner.new, signer.presigner.due, signer.live)]
        workers.append(asyncio.create_task(keep_due(database, ending, source)))
        asker = Asker(certificates=certificates, responder=Responder(reader=await database.connect("ocsp_reader")),
                      owner=await database.connect(), truth=truth, short=set(short), ends_s=ends_s)
        asking = asyncio.create_task(asker.keep_asking([*serials, *short], quiet, random.Random(seed)))
        crashing = asyncio.create_task(keep_crashing(database, quiet, source))
        for _ in range(60):
            chosen = source.choice(serials if source.random() < 0.9 else short)
            version = truth.get(chosen, 0) + 1
            if version <= 2:
                await certificates.revoke([chosen], reason=4 if version == 1 else 1, version=version)
                truth[chosen] = version
            await source.choice(followers).follow(certificates)
            await asyncio.sleep(source.random() * 0.03)
        quiet.set()
        print(f"{await crashing} transactions died")
        await asking
        print(dict(asker.told))
        await asker.responder.reader.close()
        await asker.owner.close()
        await certificates.until_answered()
        ending.set()
        await asyncio.gather(*workers)
    await require_true_log(certificates, serials, set(short), truth, ends_s)
    ids = {batch_id for batch_id, _ in await certificates.batches()}
    for follower in followers:
        follower.unlucky = False
        while await follower.follow(certificates):
            pass
        assert follower.versions(serials) == {serial: truth.get(serial, 0) for serial in serials}
        assert follower.followed == ids, "an id became visible behind the place that was read to"
        follower.close()


async def require_true_log(certificates: Certificates, serials: list[bytes], short: set[bytes],
                           truth: dict[bytes, int], ends_s: int) -> None:
    """The log, read from its beginning, breaks no promise."""
    revoked_at = {row["serial"]: row["revoked_at"] for row in await certificates.owner.fetch(
        "SELECT serial, revoked_at FROM revocations")}
    published: dict[bytes, int] = {}
    batches = await certificates.batches()
    for _, records in batches:
        for serial, response in records.items():
            assert response.version >= published.get(serial, 0), "a status went back"
            published[serial] = response.version
            if response.version == 0 and serial in revoked_at:
                # The clock was read before the status; a revocation's clock, at most a minute before it was committed.
                assert response.times.produced_at_s <= revoked_at[serial].timestamp() + 60
            assert serial not in short or response.times.produced_at_s <= ends_s
    assert {serial: published[serial] for serial in serials} == {serial: truth.get(serial, 0) for serial in serials}
    assert set(published) <= {*serials, *short}
    assert sum(len(records) for _, records in batches) > 300
