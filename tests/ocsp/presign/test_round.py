"""Rounds on a real database and a real token: what is published, in which order, and what is never published."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.pki.serial import serial_number
from ca.process.ambient import Ambient, system_ambient
from ca.process.postgres import create_pool
from ocsp.presign.publish import publish
from ocsp.presign.signer import SignatureFault, SignedBatch
from ocsp.protocol.batch import HASHES, StoredResponse, read_value, replaces, split_batch, store_key
from ocsp.protocol.response import ResponseTemplate
from ocsp.protocol.schedule import parts_of_day
from tests.ca.pki.authority import Authority, authority
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.bench import bench
from tests.ocsp.presign.certificates import DAY, Certificates
from tests.ocsp.presign.conftest import TokenIssuers
from tests.ocsp.processes import times_now, until
from tests.ocsp.signing import signed

OWN = authority(ec.generate_private_key(ec.SECP256R1()))
HOUR = timedelta(hours=1)


def moved(by: timedelta) -> Ambient:
    """A clock that is ahead."""
    real = system_ambient()
    return Ambient(now=lambda: real.now() + by, random_bytes=real.random_bytes)


def require_signatures(own: Authority, serial: bytes, response: StoredResponse) -> None:
    """Both signatures verify with the issuer's public key."""
    public = own.issuer.public_key
    for name, signature in zip(HASHES, response.signatures, strict=True):
        tbs = ResponseTemplate(own.issuer, name).tbs(serial, response.status, response.times)
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, tbs, padding.PKCS1v15(), hashes.SHA256())
        else:
            public.verify(signature, tbs, ec.ECDSA(hashes.SHA256()))


async def test_new_certificates_are_signed_and_published_in_one_row_an_issuer(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, token_issuers: TokenIssuers
) -> None:
    """Every signature verifies, the queue is empty, and each waiting order is told."""
    of_ec, of_rsa = await certificates.add(60), await certificates.add(20, issuer_id=2)
    async with bench(database, softhsm_token) as signer:
        assert await signer.run(signer.presigner.new) == 1
    batches = await certificates.batches()
    assert len(batches) == 2
    by_serial = {serial: response for _, records in batches for serial, response in records.items()}
    assert sorted(by_serial) == sorted(of_ec + of_rsa)
    for own, serials in ((token_issuers.ec, of_ec), (token_issuers.rsa, of_rsa)):
        for serial in serials:
            response = by_serial[serial]
            assert (response.version, response.status.revoked_at_s) == (0, None)
            assert response.times.next_update_s - response.times.this_update_s + 1 == 7 * 86_400
            require_signatures(own, serial, response)
    assert await certificates.waiting() == 0
    assert sorted(certificates.told) == sorted((serial + b"reqs").hex() for serial in of_ec + of_rsa)


async def test_a_revocation_is_a_batch_of_its_own_and_names_time_and_reason(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, token_issuers: TokenIssuers
) -> None:
    """However many new ones wait; a later reason is a later version."""
    await certificates.add(30)
    revoked, = await certificates.add(1, asked=False)
    await certificates.revoke([revoked], reason=4)
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.changed)
        (_, records), = await certificates.batches()
        assert list(records) == [revoked]
        assert (records[revoked].version, records[revoked].status.reason) == (1, 4)
        at = await certificates.owner.fetchval("SELECT revoked_at FROM revocations")
        assert records[revoked].status.revoked_at_s == int(at.timestamp())
        require_signatures(token_issuers.ec, revoked, records[revoked])
        await certificates.revoke([revoked], reason=1, version=2)
        await signer.run(signer.presigner.changed)
    _, records = (await certificates.batches())[-1]
    assert (records[revoked].version, records[revoked].status.reason) == (2, 1)
    assert await certificates.waiting() == 30


async def test_a_status_that_changes_while_it_is_signed_is_not_published(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """The others of the batch are; the changed one is published as revoked alone, its first request ends with it."""
    serials = await certificates.add(5)
    async with bench(database, softhsm_token) as signer:
        signer.gate.held = asyncio.Event()
        round_ = asyncio.create_task(signer.run(signer.presigner.new))
        await until(lambda: signer.gate.signed == 10)
        await certificates.revoke(serials[2:3])
        signer.gate.held.set()
        await round_
        await signer.run(signer.presigner.changed)
        await signer.run(signer.presigner.new)
    found = [(serial, response.version) for _, records in await certificates.batches()
             for serial, response in records.items()]
    assert (serials[2], 0) not in found
    assert (serials[2], 1) in found
    assert {serial for serial, version in found if version == 0} == {*serials} - {serials[2]}
    assert await certificates.waiting() == 0


async def test_a_first_response_of_a_revoked_certificate_is_never_good(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """Revoked before its first response: the request for version 0 is answered with what is true now."""
    serials = await certificates.add(3)
    await certificates.revoke(serials[:1])
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
        await signer.run(signer.presigner.changed)
    for _, records in await certificates.batches():
        for serial, response in records.items():
            assert (response.version == 1) is (serial == serials[0])
    assert await certificates.waiting() == 0


async def test_a_revocation_is_seen_wherever_it_stands_in_a_batch(
    certificates: Certificates, database: TestDatabase
) -> None:
    """Under the log's lock the statuses of a whole batch are looked at, also of one that nobody has put in order."""
    serials = await certificates.add(5)
    await certificates.revoke(serials[1:3])
    times = times_now()
    batch = SignedBatch(issuer_id=1, responder_id=0, produced_at=datetime.now(UTC), times=times, records=[
        signed(OWN, serial, times=times, not_after_s=4_000_000_000) for serial in reversed(serials)])
    async with (await create_pool(database.settings, "ocsp_signer", process="test", max_size=1) as pool,
                pool.acquire() as connection, connection.transaction()):
        published = await publish(connection, batch, is_new=True)
    assert published is not None
    assert (published.count, published.dropped) == (3, 2)
    (_, records), = await certificates.batches()
    assert {*records} == {serials[0], serials[3], serials[4]}


async def test_what_does_not_say_when_it_ends_is_looked_up(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """Requests of before, and those of another writer, beside others: each certificate's own end is published."""
    told, untold = await certificates.add(3), await certificates.add(3, asked=False, life=2 * DAY)
    await certificates.ask(untold)
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
    (_, records), = await certificates.batches()
    assert sorted(records) == sorted(told + untold)
    now_s = datetime.now(UTC).timestamp()
    for serial, response in records.items():
        assert abs(response.not_after_s - now_s - (2 if serial in untold else 60) * 86_400) < 120
    assert await certificates.waiting() == 0


async def test_a_queue_that_was_just_filled_is_never_read_as_a_whole(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """The statistics still call it empty: claims, endings and first responses go by the index all the same."""
    new = await certificates.add(3_000)
    await certificates.revoke(new[::100])
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
        await signer.run(signer.presigner.changed)
    counted = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'ocsp_requests'"
    async with asyncio.timeout(30):
        while not (row := await certificates.owner.fetchrow(counted)) or not row["idx_scan"]:  # noqa: ASYNC110 - a
            await asyncio.sleep(0.05)   # counter of the database is waited for
    assert row["seq_scan"] == 0
    assert await certificates.waiting() == 0


async def test_expired_and_unknown_certificates_are_not_signed(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """Their requests end all the same, and who waits is told."""
    old = await certificates.add(2, life=timedelta(seconds=-1))
    unknown = serial_number(datetime.now(UTC), b"\xee" * 16)
    await certificates.ask([unknown])
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
        assert signer.gate.signed == 0
    assert (await certificates.batches(), await certificates.waiting()) == ([], 0)
    assert len(certificates.told) == len(old) + 1


async def test_a_signature_that_does_not_verify_stops_the_batch(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """Nothing is published, the requests are free again, and the fault is raised."""
    await certificates.add(3)
    async with bench(database, softhsm_token) as signer:
        signer.gate.spoil = True
        with pytest.raises(SignatureFault):
            await signer.run(signer.presigner.new)
        assert await certificates.batches() == []
        signer.gate.spoil = False
        with suppress(SignatureFault):          # of a round that was under way already
            await signer.run(signer.presigner.new)
        await signer.run(signer.presigner.new)
    assert await certificates.waiting() == 0


async def test_a_day_is_scheduled_once_when_its_first_response_is_published(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """16 ranges for each issuer and day, due after 48 to 60 hours; more certificates of the day change nothing."""
    now = datetime.now(UTC)
    await certificates.add(20)
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
        before = await certificates.shards()
        await certificates.add(20)
        await signer.run(signer.presigner.new)
        assert await certificates.shards() == before
        await certificates.add(1, at=now - DAY)
        await signer.run(signer.presigner.new)
    assert [(row["first_serial"], row["last_serial"]) for row in before] == [
        (part.first, part.last) for part in parts_of_day(serial_number(now, bytes(16)))]
    assert all(47 * HOUR < row["due_at"] - now <= 60 * HOUR for row in before)
    assert len({row["due_at"] for row in before}) == 16
    assert len(await certificates.shards()) == 32


async def test_the_clock_steps_back_an_hour(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """What is signed after the step carries the times of the clock as it is, eight hours to ten days long; at the
    responder a revocation counts at once, a `good` that looks older replaces nothing, in whatever order batches come,
    and no `good` follows a `revoked`."""
    serials = await certificates.add(6)
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.presigner.new)
    await certificates.revoke(serials[:2])
    await certificates.owner.execute("UPDATE ocsp_shards SET due_at = now() - interval '2 hours'")
    async with bench(database, softhsm_token, ambient=moved(-HOUR)) as signer:
        await signer.run(signer.presigner.due)
        await signer.run(signer.presigner.changed)
    payloads = [(row["issuer_id"], row["payload"]) for row in await certificates.owner.fetch(
        "SELECT issuer_id, payload FROM ocsp_batches ORDER BY id")]
    before = {key: read_value(value) for key, value in split_batch(payloads[0][1], payloads[0][0])}
    assert len(before) == len(serials)
    good = store_key(1, serials[5])
    assert any(key == good and read_value(value).times.this_update_s < before[good].times.this_update_s
               for issuer_id, payload in payloads for key, value in split_batch(payload, issuer_id))
    for order in (payloads, payloads[::-1]):
        kept: dict[bytes, bytes] = {}
        for issuer_id, payload in order:
            for key, value in split_batch(payload, issuer_id):
                times = read_value(value).times
                assert times.this_update_s <= times.produced_at_s
                assert 8 * 3_600 <= times.next_update_s - times.this_update_s + 1 <= 10 * 86_400
                if key not in kept or replaces(value, kept[key]):
                    kept[key] = value
        assert set(kept) == set(before)
        for serial in serials:
            stored = read_value(kept[store_key(1, serial)])
            if serial in serials[:2]:
                assert (stored.version, stored.status.revoked_at_s is None) == (1, False)
            else:
                assert stored == before[store_key(1, serial)]
    assert await certificates.waiting() == 0


async def test_an_issuer_near_its_end_signs_nothing(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, token_issuers: TokenIssuers
) -> None:
    """No response may live shorter than 8 hours, nor longer than its issuer; requests wait, no round spins on them."""
    await certificates.add(2)
    left = token_issuers.ec.issuer.validity.not_after - datetime.now(UTC)
    async with bench(database, softhsm_token, ambient=moved(left - 7 * HOUR)) as signer:
        assert await signer.run(signer.presigner.new) == 0
    assert await certificates.waiting() == 2


async def test_certificates_without_ocsp_get_no_response(certificates: Certificates, database: TestDatabase,
                                                        softhsm_token: SoftHsm) -> None:
    """Neither asked for by mistake, nor together with the others of their range; the mistaken request is ended."""
    async with bench(database, softhsm_token) as running:
        plain = await certificates.add(3)
        short = await certificates.add(2, has_ocsp=False)
        await running.run(running.presigner.new)
        assert await certificates.waiting() == 0
        await certificates.owner.execute("UPDATE ocsp_shards SET due_at = now() - interval '1 s'")
        await running.run(running.presigner.due)
    signed = [set(responses) for _, responses in await certificates.batches()]
    assert len(signed) > 1
    assert set().union(*signed) == set(plain)
    assert not set().union(*signed) & set(short)
