"""The live signer: what it signs, what it does not, and that a revocation is never overtaken."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from structlog.testing import capture_logs

from ca.pki.serial import serial_number
from ca.process.ambient import Ambient, system_ambient
from ocsp.presign.signer import SignatureFault
from ocsp.protocol.rates import Rates
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.bench import bench
from tests.ocsp.presign.certificates import DAY, Certificates
from tests.ocsp.presign.conftest import TokenIssuers
from tests.ocsp.presign.responder import Responder


@pytest.fixture
async def responder(database: TestDatabase) -> AsyncIterator[Responder]:
    """Under ocsp_reader."""
    reader = await database.connect("ocsp_reader")
    yield Responder(reader=reader)
    await reader.close()


def _told(response: ocsp.OCSPResponse | None) -> list[tuple[bytes, str]] | None:
    return None if response is None else [
        (one.serial_number.to_bytes(18, "big"), one.certificate_status.name.lower()) for one in response.responses]


def _made_up() -> bytes:
    return serial_number(datetime.now(UTC), os.urandom(16))


async def test_each_status_is_told_as_it_is_and_nothing_else_is_signed(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, token_issuers: TokenIssuers,
    responder: Responder
) -> None:
    """Good, revoked with time and reason, unknown; not for what has expired, is another issuer's, says nothing of OCSP,
    or may be of a time of which nothing is kept. Every one echoes its nonce, with one signature of the issuer's key,
    lives eight hours, and is in the log (BR 4.9.9, 5.4.1)."""
    now = datetime.now(UTC)
    good, revoked, of_old_key = await certificates.add(3, asked=False)
    other, = await certificates.add(1, issuer_id=2, asked=False)
    expired, = await certificates.add(1, life=timedelta(hours=1), at=now - timedelta(hours=2), asked=False)
    silent, = await certificates.add(1, asked=False, has_ocsp=False)
    await certificates.revoke([revoked], reason=4)
    await certificates.revoke([of_old_key], reason=1)
    await certificates.revoke([of_old_key], reason=1, version=2)
    made_up, forgotten = _made_up(), serial_number(now - 900 * DAY, os.urandom(16))
    asked = {name: await responder.ask(serial, issuer_id=2 if name == "rsa" else 1)
             for name, serial in (("good", good), ("revoked", revoked), ("compromised", of_old_key), ("rsa", other),
                                  ("made up", made_up), ("foreign", other), ("expired", expired), ("silent", silent),
                                  ("forgotten", forgotten))}
    async with bench(database, softhsm_token) as signer:
        with capture_logs() as lines:
            await signer.run(signer.live)
        assert signer.gate.signed == 5
    responses = {name: await responder.take(one) for name, one in asked.items()}
    assert {name: _told(response) for name, response in responses.items()} == {
        "good": [(good, "good")], "revoked": [(revoked, "revoked")], "compromised": [(of_old_key, "revoked")],
        "rsa": [(other, "good")], "made up": [(made_up, "unknown")], "foreign": None, "expired": None, "silent": None,
        "forgotten": None}
    assert {line["statuses"] for line in lines if line["event"] == "signed"} == {
        f"{good.hex()}:good", f"{revoked.hex()}:revoked(4)", f"{of_old_key.hex()}:revoked(1)", f"{other.hex()}:good",
        f"{made_up.hex()}:unknown"}
    for name, response in responses.items():
        if response is not None:
            own = token_issuers.rsa if name == "rsa" else token_issuers.ec
            assert [(one.oid.dotted_string, one.critical, one.value) for one in response.extensions] == [
                ("1.3.6.1.5.5.7.48.1.2", False, x509.OCSPNonce(bytes(range(16))))]
            assert response.next_update_utc is not None
            assert response.next_update_utc - response.this_update_utc == timedelta(hours=8, seconds=-1)
            assert response.this_update_utc == response.produced_at_utc.replace(second=0)
            assert response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(
                own.certificate.public_key()).digest
    revocation = responses["revoked"]
    assert revocation is not None
    assert revocation.revocation_reason is x509.ReasonFlags.superseded
    assert revocation.revocation_time_utc == (await certificates.owner.fetchval(
        "SELECT date_trunc('second', revoked_at) FROM revocations WHERE serial = $1", revoked))
    assert await certificates.owner.fetchval("SELECT count(*) FROM ocsp_live_requests") == 0


async def test_without_a_nonce_only_what_is_unknown_is_signed(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, responder: Responder
) -> None:
    """A pre-signed answer fits the rest (5.9), whatever a responder asks for. Several certificates at once have none
    (5.2): each is answered in its place, under the hash that was asked."""
    known, second = await certificates.add(2, asked=False)
    made_up = _made_up()
    asked = [await responder.ask(known, nonce=None), await responder.ask(known, known, nonce=None, numbers=[0, 1]),
             await responder.ask(made_up, made_up, nonce=None, numbers=[1, 0]),
             await responder.ask(second, known, made_up, nonce=None, numbers=[0, 1, 0])]
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.live)
    responses = [await responder.take(one) for one in asked]
    assert [_told(response) for response in responses] == [
        None, None, [(made_up, "unknown")] * 2, [(second, "good"), (known, "good"), (made_up, "unknown")]]
    for response, names in zip(responses[2:], (["sha256", "sha1"], ["sha1", "sha256", "sha1"]), strict=True):
        assert response is not None
        assert [one.hash_algorithm.name for one in response.responses] == names
        assert list(response.extensions) == []


async def test_what_is_revoked_while_it_is_signed_is_not_called_good(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, responder: Responder
) -> None:
    """The revocation commits between the look and the answer: the answer is dropped, and the next look tells it; a
    question beside it is answered at once."""
    serial, beside = await certificates.add(2, asked=False)
    asked, other = await responder.ask(serial), await responder.ask(beside)
    async with bench(database, softhsm_token) as signer:
        signer.gate.held = asyncio.Event()
        running = asyncio.create_task(signer.run(signer.live))
        async with asyncio.timeout(30):
            while not signer.gate.signed:  # noqa: ASYNC110 - the gate has no event for it
                await asyncio.sleep(0.005)
        await certificates.revoke([serial], reason=1)
        signer.gate.held.set()
        await running
        assert signer.gate.signed == 3
    assert _told(await responder.take(asked)) == [(serial, "revoked")]
    assert _told(await responder.take(other)) == [(beside, "good")]


async def test_a_token_that_lies_gives_nothing_out_and_loses_nothing(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, responder: Responder
) -> None:
    """A signature that does not verify ends the round; the question is taken up by the next signer."""
    serial, = await certificates.add(1, asked=False)
    asked = await responder.ask(serial)
    async with bench(database, softhsm_token) as signer:
        signer.gate.spoil = True
        with pytest.raises(SignatureFault):
            await signer.run(signer.live)
    assert await certificates.owner.fetchval("SELECT count(*) FROM ocsp_live_requests WHERE answered_at IS NULL")
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.live)
    assert _told(await responder.take(asked)) == [(serial, "good")]


async def test_questions_end_and_their_places_are_free_again(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, responder: Responder
) -> None:
    """Nobody signs for who does not wait any more; the next question clears that away. Twenty places, whatever a
    responder says; another place only when one is given back."""
    serial, = await certificates.add(1, asked=False)
    late = await responder.ask(serial, patience_ms=1)
    await asyncio.sleep(0.01)
    async with bench(database, softhsm_token) as signer:
        await signer.run(signer.live)
        assert signer.gate.signed == 0
    asked = [await responder.ask(serial, places=1_000_000) for _ in range(20)]
    assert await certificates.owner.fetchval("SELECT count(*) FROM ocsp_live_requests WHERE id = $1", late) == 0
    with pytest.raises(AssertionError):
        await responder.ask(serial, places=1_000_000)
    await responder.take(asked[7])
    with pytest.raises(AssertionError):
        await responder.ask(serial, places=19)
    await responder.ask(serial)
    assert await certificates.owner.fetchval("SELECT max(ends_at) - now() FROM ocsp_live_requests") < timedelta(
        seconds=11)


@pytest.mark.parametrize("wrong", ["too many", "none", "lengths", "long serial", "long nonce", "short id"])
async def test_the_queue_takes_nothing_out_of_bounds(
    database: TestDatabase, responder: Responder, wrong: str
) -> None:
    """However a responder was broken into, a row is small (each is refused by the database)."""
    serials = {"too many": [b"\1"] * 11, "none": [], "long serial": [b"\1" * 21]}.get(wrong, [b"\1"])
    numbers = [0] * (2 if wrong == "lengths" else len(serials))
    with pytest.raises(asyncpg.CheckViolationError):
        await responder.reader.fetchval(
            "SELECT ask_for_live_ocsp($1, 1::smallint, $2, $3, $4, 20, 1000)",
            bytes(15 if wrong == "short id" else 16), numbers, serials,
            bytes(132 if wrong == "long nonce" else 4))


async def test_an_issuer_in_its_last_hours_is_left_alone(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, responder: Responder,
    token_issuers: TokenIssuers
) -> None:
    """No response may live for eight hours then (BR 4.9.9), so nothing is signed and the responder falls back."""
    serial, = await certificates.add(1, life=9_999 * DAY, asked=False)
    await responder.ask(serial)
    end = token_issuers.ec.issuer.validity.not_after
    late = Ambient(now=lambda: end - timedelta(hours=7), random_bytes=system_ambient().random_bytes)
    async with bench(database, softhsm_token, ambient=late) as signer:
        await signer.run(signer.live)
        assert signer.gate.signed == 0


async def test_no_more_is_signed_than_the_signer_s_own_limit(
    certificates: Certificates, database: TestDatabase, softhsm_token: SoftHsm, responder: Responder
) -> None:
    """A responder that keeps no limit gets as much as one that does; the rest is answered at once, with nothing."""
    serials = await certificates.add(6, asked=False)
    asked = [await responder.ask(serial) for serial in serials]
    async with bench(database, softhsm_token) as signer:
        signer.live_rates = Rates(per_s=0.001, burst=4)
        await signer.run(signer.live)
        assert signer.gate.signed == 4
    assert await certificates.owner.fetchval("SELECT count(*) FROM ocsp_live_requests WHERE answered_at IS NULL") == 0
    assert [await responder.take(one) is None for one in asked].count(True) == 2
