"""The responder as a real process on a real database: openssl, catch-up, several workers, take-over, lost databases."""

import asyncio
import resource
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp

from ca.admin.ocsp_responders import ask_responders, workers_of
from ca.process.settings import DatabaseSettings
from ocsp.protocol.batch import SignedStatus, encode_batch
from ocsp.protocol.response import CertStatus, Times
from ocsp.protocol.schedule import moment
from tests.ca.pki.authority import Authority, authority
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.processes import (
    add_issuer,
    openssl_ocsp,
    port_of,
    publish,
    running,
    times_now,
    until,
    write_config,
)
from tests.ocsp.responder.serving import request_for
from tests.ocsp.signing import serial_of, signed

OWN = authority(ec.generate_private_key(ec.SECP256R1()))
RSA = authority(rsa.generate_private_key(65_537, 2048))
LATER_S = 4_000_000_000


def ask(port: int, request: bytes) -> bytes:
    """POST; the body of the answer."""
    posted = urllib.request.Request(f"http://127.0.0.1:{port}/", data=request,
                                    headers={"Content-Type": "application/ocsp-request"})
    with urllib.request.urlopen(posted, timeout=30) as reply:      # live answers are waited for as well
        return bytes(reply.read())


def status_of(port: int, own: Authority, serial: bytes) -> ocsp.OCSPCertStatus | None:
    """The certificate's status as the responder says it; None when it answers with an error."""
    read = ocsp.load_der_ocsp_response(ask(port, request_for(own, serial)))
    return read.certificate_status if read.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL else None


@pytest.fixture
async def config(tmp_path: Path, database: TestDatabase) -> Path:
    """A configuration, and an EC and an RSA issuer in the database."""
    await add_issuer(database, OWN)
    await add_issuer(database, RSA, issuer_id=2, name="Test R1")
    return write_config(tmp_path, database.settings)


@contextmanager
def few_open_files(count: int) -> Iterator[None]:
    """As many as a process may have that is started now, unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("options", [(), ("-no_nonce",), ("-sha256",), ("-sha256", "-no_nonce")],
                         ids=["nonce", "no-nonce", "sha256", "sha256-no-nonce"])
async def test_openssl_is_answered(config: Path, database: TestDatabase, options: tuple[str, ...]) -> None:
    """With and without a nonce, both hashes, EC and RSA, good and revoked: verified, and the status is told."""
    times = times_now()
    good, revoked = serial_of(1), serial_of(2)
    for own, issuer_id in ((OWN, 1), (RSA, 2)):
        await publish(database, [
            signed(own, good, times=times, not_after_s=LATER_S),
            signed(own, revoked, CertStatus(revoked_at_s=times.this_update_s - 9, reason=4), version=1, times=times,
                   not_after_s=LATER_S)], times, issuer_id=issuer_id)
    with running("ocsp", config) as process:
        await process.ready()
        for own in (OWN, RSA):
            said = openssl_ocsp(config.parent, own, good, port_of(config), *options)
            assert "Response verify OK" in said, said
            assert f"0x{good.hex()}: good" in said, said
            said = openssl_ocsp(config.parent, own, revoked, port_of(config), *options)
            assert "Response verify OK" in said, said
            assert f"0x{revoked.hex()}: revoked" in said, said
            assert "Reason: superseded" in said
        assert "unauthorized (6)" in openssl_ocsp(config.parent, OWN, serial_of(3), port_of(config), *options)


async def test_a_new_responder_catches_up_before_it_is_ready(config: Path, database: TestDatabase) -> None:
    """From nothing: every unexpired batch is there when it says so; expired ones are not asked for. However few files a
    process may have open by default, clients that stay are no hindrance."""
    times = times_now()
    for start in range(0, 300, 10):
        await publish(database, [signed(OWN, serial_of(number), times=times, not_after_s=LATER_S)
                                 for number in range(start, start + 10)], times)
    old = times_now(life_s=-100_000)
    await publish(database, [signed(OWN, serial_of(999), times=old, not_after_s=LATER_S)], old)
    port = port_of(config)
    with ExitStack() as stack:
        with few_open_files(200):
            process = stack.enter_context(running("ocsp", config))
        await process.ready()
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert all(status_of(port, OWN, serial_of(number)) is ocsp.OCSPCertStatus.GOOD for number in range(300))
        assert status_of(port, OWN, serial_of(999)) is None
        late = serial_of(1_000)
        await publish(database, [signed(OWN, late, times=times, not_after_s=LATER_S)], times)
        await until(lambda: status_of(port, OWN, late) is ocsp.OCSPCertStatus.GOOD, patience_s=1.0)
    with running("ocsp", config) as process:
        await process.ready()
        assert status_of(port, OWN, late) is ocsp.OCSPCertStatus.GOOD
        assert "filling it anew" not in process.log.read_text()


async def test_another_worker_takes_over_within_a_second(config: Path, database: TestDatabase) -> None:
    """Workers share port and store; whichever is asked says what each has counted; when the one that writes is killed,
    another goes on with the log."""
    times = times_now()
    port = port_of(config)
    with running("ocsp", config, name="ocsp-1") as first, running("ocsp", config, name="ocsp-2") as second:
        await first.ready()
        await second.ready()
        await publish(database, [signed(OWN, serial_of(1), times=times, not_after_s=LATER_S)], times)
        for _ in range(20):     # The kernel spreads connections: both workers answer.
            await until(lambda: status_of(port, OWN, serial_of(1)) is ocsp.OCSPCertStatus.GOOD, patience_s=1.0)
        writer, other = (first, second) if "this worker writes" in first.log.read_text() else (second, first)
        assert "this worker writes" not in other.log.read_text()
        address = f"127.0.0.1:{port}"
        names = [f"{socket.gethostname()}:{one.popen.pid}" for one in (writer, other)]
        assert [one.worker for one in workers_of(await ask_responders([address, address]))] == sorted(names)
        writer.kill()
        assert [one.worker for one in workers_of(await ask_responders([address]))] == names[1:]
        await publish(database, [signed(OWN, serial_of(2), times=times, not_after_s=LATER_S)], times)
        await until(lambda: status_of(port, OWN, serial_of(2)) is ocsp.OCSPCertStatus.GOOD, patience_s=1.5)


async def test_revocations_are_seen_by_every_worker_within_a_second(config: Path, database: TestDatabase) -> None:
    """From the commit of the batch to the first revoked answer, on each of two workers."""
    times = times_now()
    count = 40
    port = port_of(config)
    await publish(database, [signed(OWN, serial_of(number), times=times, not_after_s=LATER_S)
                             for number in range(count)], times)
    took_s = []
    with running("ocsp", config, name="ocsp-1") as first, running("ocsp", config, name="ocsp-2") as second:
        await first.ready()
        await second.ready()
        for number in range(count):
            record = signed(OWN, serial_of(number), CertStatus(revoked_at_s=times.this_update_s, reason=1), version=1,
                            times=times, not_after_s=LATER_S)
            await publish(database, [record], times)
            started = time.perf_counter()
            seen = 0
            while seen < 6:     # Six in a row on new connections: with two workers both have it.
                seen = seen + 1 if status_of(port, OWN, record.serial) is ocsp.OCSPCertStatus.REVOKED else 0
            took_s.append(time.perf_counter() - started)
    took_s.sort()
    print(f"revocation seen: p50 {took_s[len(took_s) // 2] * 1e3:.0f} ms, max {took_s[-1] * 1e3:.0f} ms")
    assert took_s[len(took_s) // 2] < 1.0


async def test_a_responder_starts_and_serves_while_the_database_is_away(
    config: Path, database: TestDatabase, tmp_path: Path
) -> None:
    """What is in the store is answered; a fresh one cannot start and says why."""
    times = times_now()
    await publish(database, [signed(OWN, serial_of(1), times=times, not_after_s=LATER_S)], times)
    with running("ocsp", config) as process:
        await process.ready()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = DatabaseSettings(url=f"postgresql://127.0.0.1:{nobody.getsockname()[1]}/x",
                                secrets_dir=database.settings.secrets_dir)
        lost = write_config(tmp_path, away)
        with running("ocsp", lost) as process:
            await process.ready()
            assert status_of(port_of(lost), OWN, serial_of(1)) is ocsp.OCSPCertStatus.GOOD


async def test_another_database_is_noticed(config: Path, database: TestDatabase) -> None:
    """The log went back (a standby that lost batches): ids mean other batches now, so the store is filled anew."""
    times = times_now()
    await publish(database, [signed(OWN, serial_of(1), times=times, not_after_s=LATER_S)], times)
    port = port_of(config)
    with running("ocsp", config) as process:
        await process.ready()
        assert status_of(port, OWN, serial_of(1)) is ocsp.OCSPCertStatus.GOOD
    owner = await database.connect()
    await owner.execute("TRUNCATE ocsp_batches; SELECT setval('ocsp_batch_id', 1, false)")
    await owner.close()
    await asyncio.sleep(1.1)
    again = times_now()
    await publish(database, [signed(OWN, serial_of(2), times=again, not_after_s=LATER_S)], again)
    with running("ocsp", config) as process:
        await process.ready()
        assert status_of(port, OWN, serial_of(2)) is ocsp.OCSPCertStatus.GOOD
        assert status_of(port, OWN, serial_of(1)) is None
        assert "another batch log" in process.log.read_text()


async def test_another_ca_is_noticed(config: Path, database: TestDatabase) -> None:
    """The same issuer id with another key: no response of the old CA is kept."""
    times = times_now()
    await publish(database, [signed(OWN, serial_of(1), times=times, not_after_s=LATER_S)], times)
    port = port_of(config)
    with running("ocsp", config) as process:
        await process.ready()
    other = authority(ec.generate_private_key(ec.SECP256R1()))
    owner = await database.connect()
    await owner.execute("UPDATE issuers SET certificate = $1 WHERE id = 1", other.issuer.certificate_der)
    await owner.close()
    with running("ocsp", config) as process:
        await process.ready()
        assert "another CA" in process.log.read_text()
        assert status_of(port, OWN, serial_of(1)) is None


async def test_a_batch_that_cannot_be_read_is_left_out(config: Path, database: TestDatabase) -> None:
    """One bad row does not stop the log. A store that was damaged meanwhile is filled anew from it."""
    times = times_now()
    signer = await database.connect("ocsp_signer")
    await signer.execute("INSERT INTO ocsp_batches VALUES (nextval('ocsp_batch_id'), now(), 1, 1, now() + '1 day', $1)",
                         b"\x01 no batch")
    await signer.close()
    await publish(database, [signed(OWN, serial_of(1), times=times, not_after_s=LATER_S)], times)
    with running("ocsp", config) as process:
        await process.ready()
        assert status_of(port_of(config), OWN, serial_of(1)) is ocsp.OCSPCertStatus.GOOD
        assert "cannot be read and is left out" in process.log.read_text()
    file, = (config.parent / "ocsp").glob("responses-*/data.mdb")
    file.write_bytes(bytes(file.stat().st_size))
    with running("ocsp", config) as process:
        await process.ready()
        assert status_of(port_of(config), OWN, serial_of(1)) is ocsp.OCSPCertStatus.GOOD
    assert not file.exists()


async def test_the_store_does_not_grow_with_what_it_replaces(config: Path, database: TestDatabase) -> None:
    """Catching up on a log in which every certificate was signed again 240 times takes the room of a few signings."""
    serials = [serial_of(number) for number in range(4_000)]
    owner = await database.connect()
    for number in range(240):
        base = times_now()
        times = Times(produced_at_s=base.produced_at_s + number, this_update_s=base.this_update_s + number,
                      next_update_s=base.next_update_s)
        payload = encode_batch(times, [SignedStatus(serial, 0, CertStatus(), LATER_S, (bytes(71), bytes([number]) * 71))
                                       for serial in serials])
        await owner.execute("INSERT INTO ocsp_batches VALUES (nextval('ocsp_batch_id'), now(), 1, $1, $2, $3)",
                            4_000, moment(times.next_update_s), payload)
    await owner.close()
    with running("ocsp", config) as process:
        await process.ready()
        file, = (config.parent / "ocsp").glob("responses-*/data.mdb")
        assert file.stat().st_blocks * 512 < 12_000_000
