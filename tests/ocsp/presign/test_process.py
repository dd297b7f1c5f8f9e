"""The pre-signer as a real process: kill -9, latency, two of them at once, and what it says when it cannot start."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509 import ocsp

from ca.admin.ocsp_outlook import ask_to_sign_again
from ocsp.presign import __main__ as presign_main
from ocsp.presign import tell as tell_module
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.certificates import Certificates
from tests.ocsp.presign.conftest import TokenIssuers
from tests.ocsp.processes import openssl_ocsp, port_of, running, settings_of, until, write_config
from tests.ocsp.responder.test_process import status_of

_DAY = timedelta(days=1)


@pytest.fixture
def config(tmp_path: Path, database: TestDatabase, softhsm_token: SoftHsm) -> Path:
    """Token, database and a port."""
    return write_config(tmp_path, database.settings, hsm=softhsm_token.settings)


async def test_killed_in_the_middle_nothing_is_lost(certificates: Certificates, config: Path) -> None:
    """kill -9 again and again while thousands wait: each serial number gets its response, at once taken up again."""
    serials = await certificates.add(3_000) + await certificates.add(600, issuer_id=2)
    kills = 0
    for number in range(4):
        with running("presign", config, name=f"presign-{number}") as process:
            await process.ready()
            await asyncio.sleep(0.1 + 0.1 * number)
            kills += bool(await certificates.waiting())
            process.kill()
    started = time.monotonic()
    with running("presign", config) as process:
        await certificates.until_answered()
    print(f"{kills} kills with work left; the rest took {time.monotonic() - started:.1f} s with the start")
    published = Counter(serial for _, records in await certificates.batches() for serial in records)
    assert sorted(published) == sorted(serials)
    assert kills
    assert max(published.values()) == 1, "a round that was killed had published nothing"
    assert len(await certificates.shards()) == 32


async def test_two_presigners_share_the_work(certificates: Certificates, config: Path) -> None:
    """No serial number is signed twice, and both sign."""
    with running("presign", config, name="one") as one, running("presign", config, name="two") as two:
        await one.ready()
        await two.ready()
        serials = await certificates.add(6_000)     # not before: one could be done with them when the other is ready
        await certificates.until_answered()
    published = Counter(serial for _, records in await certificates.batches() for serial in records)
    assert sorted(published) == sorted(serials)
    assert max(published.values()) == 1
    assert all('"signed"' in process.log.read_text() for process in (one, two))


async def test_what_is_queued_is_signed_without_a_poll(
    certificates: Certificates, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the polls an hour apart: notifications bring what is new, what was revoked, and what an operator wants to be
    signed again."""
    for module, name in ((presign_main, "_POLL_S"), (presign_main, "_DUE_POLL_S"), (tell_module, "_EVERY_S")):
        monkeypatch.setattr(module, name, 3_600.0)
    stop = asyncio.Event()
    before = await certificates.add(1)
    running_here = asyncio.create_task(presign_main._presign(settings_of(config), stop))
    await certificates.until_answered()         # what was there at the start; from now on it listens
    new = await certificates.add(2)
    await certificates.until_answered()
    await certificates.revoke(new[:1])
    await certificates.until_answered()
    count = len(await certificates.batches())
    await ask_to_sign_again(certificates.owner, request_id=bytes(22), operator="test", now=datetime.now(UTC) + _DAY)
    async with asyncio.timeout(60):
        while (again := {serial: response.version  # noqa: ASYNC110 - rows of a database are waited for
                         for _, records in (await certificates.batches())[count:]
                         for serial, response in records.items()}).keys() != {*before, *new}:
            await asyncio.sleep(0.02)
    assert again == {before[0]: 0, new[0]: 1, new[1]: 0}
    stop.set()
    await running_here


async def test_one_new_certificate_is_published_within_moments(certificates: Certificates, config: Path) -> None:
    """From the CA's commit to the pre-signer's, one after another; an order waits for this."""
    took_s = []
    with running("presign", config) as process:
        await process.ready()
        for _ in range(60):
            told = len(certificates.told)
            started = time.perf_counter()
            await certificates.add(1)
            await until(lambda told=told: len(certificates.told) > told, every_s=0.0005)
            took_s.append(time.perf_counter() - started)
    took_s.sort()
    p50_ms, p90_ms, most_ms = (took_s[index] * 1e3 for index in (30, 54, -1))
    print(f"new certificate: p50 {p50_ms:.1f} ms, p90 {p90_ms:.1f} ms, max {most_ms:.1f} ms")
    assert took_s[30] < 1.0


async def test_from_issuance_to_openssl_and_from_revocation_to_every_client(
    certificates: Certificates, config: Path, token_issuers: TokenIssuers
) -> None:
    """Pre-signer and responder together: good within moments, revoked within a second of the CA's
    commit in most cases (loadtest measures the rest)."""
    port = port_of(config)
    took_s = []
    with running("presign", config) as signer, running("ocsp", config) as responder:
        await signer.ready()
        await responder.ready()
        for own, issuer_id in ((token_issuers.ec, 1), (token_issuers.rsa, 2)):
            serial, = await certificates.add(1, issuer_id=issuer_id)
            await until(lambda own=own, serial=serial: status_of(port, own, serial) is ocsp.OCSPCertStatus.GOOD)
            for options in ((), ("-sha256",)):
                said = await asyncio.to_thread(openssl_ocsp, config.parent, own, serial, port, *options)
                assert "Response verify OK" in said
                assert f"0x{serial.hex()}: good" in said
        serials = await certificates.add(50)
        for serial in serials:
            await until(lambda serial=serial: status_of(port, token_issuers.ec, serial) is ocsp.OCSPCertStatus.GOOD)
        for serial in serials:
            started = time.perf_counter()
            await certificates.revoke([serial], reason=1)
            await until(lambda serial=serial: status_of(port, token_issuers.ec, serial) is ocsp.OCSPCertStatus.REVOKED,
                        every_s=0.001)
            took_s.append(time.perf_counter() - started)
    took_s.sort()
    print(f"revocation seen: p50 {took_s[25] * 1e3:.0f} ms, p99 (of 50, the largest) {took_s[-1] * 1e3:.0f} ms")
    assert took_s[25] < 1.0


async def test_without_an_issuer_it_says_what_to_do(database: TestDatabase, config: Path) -> None:
    """One line, exit code 1."""
    with running("presign", config) as process:
        await until(lambda: process.popen.poll() is not None)
        assert process.popen.returncode == 1
    assert "chancery presign: the database names no issuer" in process.log.read_text()


async def test_an_unlawful_schedule_refuses_to_start(
    certificates: Certificates, tmp_path: Path, database: TestDatabase, softhsm_token: SoftHsm
) -> None:
    """Signing again after five days would break BR 4.9.9."""
    config = write_config(tmp_path, database.settings, hsm=softhsm_token.settings, ocsp="resign_age_s = 432000")
    with running("presign", config) as process:
        await until(lambda: process.popen.poll() is not None)
        assert process.popen.returncode == 1
    assert "BR 4.9.9" in process.log.read_text()
