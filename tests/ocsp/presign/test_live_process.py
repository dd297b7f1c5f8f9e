"""Live mode with the processes as they are: other people's clients, revocations, floods, a signer that is killed."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ca.pki.serial import serial_number
from ca.process.audit_reader import read_chain
from tests.acceptance.ocsp_site import cache_in_front, curl
from tests.acceptance.server_program import find
from tests.ca.pki.authority import Authority
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.certificates import Certificates
from tests.ocsp.presign.conftest import TokenIssuers
from tests.ocsp.processes import openssl_ocsp, port_of, running, until, write_config
from tests.ocsp.protocol import reference
from tests.ocsp.responder.serving import request_for
from tests.ocsp.responder.test_process import ask, status_of

_LIVE = ("live = true\nlive_wait_ms = 5000\nlive_client_per_s = 1000.0\nlive_client_burst = 1000\n"
         "live_per_s = 1000.0\nlive_burst = 1000\n")


@pytest.fixture
def config(tmp_path: Path, database: TestDatabase, softhsm_token: SoftHsm) -> Path:
    """Token, database and a port, live mode without limits that a test would meet."""
    return write_config(tmp_path, database.settings, hsm=softhsm_token.settings, ocsp=_LIVE)


def _made_up() -> bytes:
    return serial_number(datetime.now(UTC), os.urandom(16))


def _with_nonce(own: Authority, serial: bytes, octets: bytes) -> bytes:
    cid = reference.certid("sha1", own.issuer.subject_der, own.issuer.key_bits, serial)
    return reference.request([cid], extensions=[
        reference.extension("2b0601050507300102", reference.tlv(4, octets))])


def _is_live(body: bytes, octets: bytes) -> bool:
    """Whether a response is good, and made for this nonce, not pre-signed."""
    read = ocsp.load_der_ocsp_response(body)
    assert read.certificate_status is ocsp.OCSPCertStatus.GOOD
    nonces = [one.value.nonce for one in read.extensions if isinstance(one.value, x509.OCSPNonce)]
    assert nonces in ([], [octets])
    return bool(nonces)


def _leaf(directory: Path, own: Authority, serial: bytes) -> list[str]:
    """Options of ocsptool that name a certificate; who signed that is not looked at."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(own.certificate.subject)
            .public_key(key.public_key()).serial_number(int.from_bytes(serial, "big"))
            .not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256()))
    for name, one in (("leaf.pem", leaf), ("issuer.pem", own.certificate)):
        (directory / name).write_bytes(one.public_bytes(Encoding.PEM))
    return ["--load-cert", str(directory / "leaf.pem"), "--load-issuer", str(directory / "issuer.pem"), "--load-signer",
            str(directory / "issuer.pem")]


async def test_openssl_and_gnutls_get_their_nonce_back(
    certificates: Certificates, config: Path, token_issuers: TokenIssuers
) -> None:
    """`openssl ocsp` with its nonce, as it asks by default, and `ocsptool --nonce` have nothing to warn of, whichever
    the hash, the key, or the status; without a nonce there is what is pre-signed. A serial number that nobody gave out
    is unknown. What was signed is in the audit log (spec/pki.md 5.9, 8.5)."""
    port, directory = port_of(config), config.parent

    def ocsptool(own: Authority, serial: bytes, *options: str) -> str:
        done = subprocess.run(
            [find("ocsptool"), f"--ask=http://127.0.0.1:{port}/", *_leaf(directory, own, serial), *options],
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        return done.stdout + done.stderr

    with running("presign", config) as signer, running("ocsp", config) as responder:
        await signer.ready()
        await responder.ready()
        for own, issuer_id in ((token_issuers.ec, 1), (token_issuers.rsa, 2)):
            serial, revoked = await certificates.add(2, issuer_id=issuer_id)
            await certificates.revoke([revoked], reason=4, issuer_id=issuer_id)
            await certificates.until_answered()
            await until(lambda own=own, one=revoked: status_of(port, own, one) is ocsp.OCSPCertStatus.REVOKED)
            for asked, status in ((serial, "good"), (revoked, "revoked"), (_made_up(), "unknown")):
                for options in ((), ("-sha256",), ("-no_nonce",)):
                    said = await asyncio.to_thread(openssl_ocsp, directory, own, asked, port, *options)
                    assert "Response verify OK" in said, said
                    assert f"0x{asked.hex()}: {status}" in said, said
                    assert "WARNING" not in said, said
                said = await asyncio.to_thread(ocsptool, own, asked, "--nonce")
                assert "Verifying OCSP Response: Success" in said, said
                assert f"Certificate Status: {status}" in said, said
                assert "Nonce:" in said, said
            said = await asyncio.to_thread(ocsptool, own, serial)
            assert "Verifying OCSP Response: Success" in said, said
            assert "Nonce:" not in said, said
    signed = [record for record in read_chain(config.parent / "audit" / "presign.0") if record.event == "signing"]
    assert sum(record.values["count"] for record in signed if record.values["lane"] == "live") == 2 * (3 * 3 + 1)


async def test_a_revocation_shows_in_the_next_live_answer(
    certificates: Certificates, config: Path, token_issuers: TokenIssuers
) -> None:
    """From the CA's commit on no answer says good, not even the one that was being made: the authority is read for
    each, whatever responders have got by then."""
    port, own = port_of(config), token_issuers.ec
    with running("presign", config) as signer, running("ocsp", config) as responder:
        await signer.ready()
        await responder.ready()
        serials = await certificates.add(30)
        await certificates.until_answered()
        for serial in serials:
            octets = os.urandom(16)
            assert _is_live(await asyncio.to_thread(ask, port, _with_nonce(own, serial, octets)), octets)
            await certificates.revoke([serial], reason=1)
            read = ocsp.load_der_ocsp_response(await asyncio.to_thread(
                ask, port, _with_nonce(own, serial, os.urandom(16))))
            assert read.certificate_status is ocsp.OCSPCertStatus.REVOKED


async def _latencies_s(port: int, own: Authority, serials: Sequence[bytes], until_done: "asyncio.Future[None]",
                       *, least: int) -> list[float]:
    """How long live answers take, one after another, until something is done; at least so many."""
    took_s: list[float] = []
    while len(took_s) < least or not until_done.done():
        octets, started = os.urandom(16), time.perf_counter()
        body = await asyncio.to_thread(ask, port, _with_nonce(own, serials[len(took_s) % len(serials)], octets))
        took_s.append(time.perf_counter() - started)
        assert _is_live(body, octets)
    return sorted(took_s)


async def test_live_answers_and_bulk_do_not_wait_for_each_other(
    certificates: Certificates, config: Path, token_issuers: TokenIssuers
) -> None:
    """While thousands of RSA certificates are signed for, which takes seconds, a question is answered in between, and a
    revocation is published before their end."""
    port, own = port_of(config), token_issuers.ec
    with running("presign", config) as signer, running("ocsp", config) as responder:
        await signer.ready()
        await responder.ready()
        serials = await certificates.add(40)
        await certificates.until_answered()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        done.set_result(None)
        idle_s = await _latencies_s(port, own, serials, done, least=60)
        await certificates.add(3_000, issuer_id=2)
        bulk = asyncio.create_task(certificates.until_answered(patience_s=120))
        busy_s = await _latencies_s(port, own, serials, bulk, least=20)
        await certificates.add(2_000, issuer_id=2)
        revoked = serials[0]
        await certificates.revoke([revoked])
        await until(lambda: status_of(port, own, revoked) is ocsp.OCSPCertStatus.REVOKED)
        assert await certificates.waiting()
        await certificates.until_answered(patience_s=120)
    for name, took_s in (("idle", idle_s), ("beside a bulk", busy_s)):
        print(f"live answer {name}: {len(took_s)} asked, p50 {took_s[len(took_s) // 2] * 1e3:.1f} ms, "
              f"p99 {took_s[-1 - len(took_s) // 100] * 1e3:.1f} ms, max {took_s[-1] * 1e3:.1f} ms")
    assert busy_s[len(busy_s) // 2] < 1.0


async def test_a_signer_that_is_killed_leaves_nobody_without_an_answer(
    certificates: Certificates, tmp_path: Path, database: TestDatabase, softhsm_token: SoftHsm,
    token_issuers: TokenIssuers
) -> None:
    """kill -9 while questions are on their way: each client gets a right answer, with its nonce or the pre-signed one;
    after the signer's next start they are live again, and nothing is left in the queue."""
    config = write_config(tmp_path, database.settings, hsm=softhsm_token.settings,
                          ocsp=_LIVE.replace("live_wait_ms = 5000", "live_wait_ms = 300"))
    port, own = port_of(config), token_issuers.ec
    with running("ocsp", config) as responder:
        with running("presign", config, name="first") as signer:
            await signer.ready()
            await responder.ready()
            serial, = await certificates.add(1)
            await certificates.until_answered()
            await until(lambda: status_of(port, own, serial) is ocsp.OCSPCertStatus.GOOD)
            octets = [os.urandom(16) for _ in range(24)]
            asking = [asyncio.create_task(asyncio.to_thread(ask, port, _with_nonce(own, serial, one)))
                      for one in octets[:12]]
            signer.kill()
            asking += [asyncio.create_task(asyncio.to_thread(ask, port, _with_nonce(own, serial, one)))
                       for one in octets[12:]]
            live = [_is_live(body, one) for body, one in zip(await asyncio.gather(*asking), octets, strict=True)]
            assert not all(live)
        with running("presign", config, name="second") as signer:
            await signer.ready()

            def is_live_again() -> bool:
                one = os.urandom(16)
                return _is_live(ask(port, _with_nonce(own, serial, one)), one)

            await until(is_live_again, every_s=0.1)
    assert await certificates.owner.fetchval("SELECT count(*) FROM ocsp_live_requests") == 0


async def test_the_cache_in_front_keeps_no_live_answer(
    certificates: Certificates, tmp_path: Path, database: TestDatabase, softhsm_token: SoftHsm,
    token_issuers: TokenIssuers
) -> None:
    """Behind the nginx that is shipped: what is unknown is signed for each that asks, by GET and POST, a nonce comes
    back through it, and the responder's limit is each client's, not the proxy's."""
    tmp_path.chmod(0o755)
    config = write_config(tmp_path, database.settings, hsm=softhsm_token.settings, ocsp=(
        'live = true\nlive_wait_ms = 5000\nlive_client_per_s = 0.001\nlive_client_burst = 6\n'
        'live_trusted_proxies = ["127.0.0.1"]'))
    own, request = token_issuers.ec, tmp_path / "request.der"
    request.write_bytes(request_for(own, _made_up()))
    by_get = "/" + base64.b64encode(request.read_bytes()).decode()
    by_post = ("-H", "Content-Type: application/ocsp-request", "--data-binary", f"@{request}")
    with (running("presign", config) as signer, running("ocsp", config) as responder,
          cache_in_front(tmp_path, port_of(config)) as port):
        await signer.ready()
        await responder.ready()
        serial, = await certificates.add(1)
        await certificates.until_answered()
        await until(lambda: status_of(port_of(config), own, serial) is ocsp.OCSPCertStatus.GOOD)
        signatures = set()
        for path, options in ((by_get, ()), (by_get, ()), ("/", by_post), ("/", by_post)):
            headers, body = await asyncio.to_thread(curl, port, path, *options)
            assert (headers["x-cache-status"], headers["cache-control"]) == ("MISS", "no-store")
            read = ocsp.load_der_ocsp_response(body)
            assert read.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
            signatures.add(read.signature)
        assert len(signatures) == 4
        live = []
        for number in range(3):
            octets = bytes((number,)) * 16
            request.write_bytes(_with_nonce(own, serial, octets))
            _, body = await asyncio.to_thread(curl, port, "/", *by_post)
            live.append(_is_live(body, octets))
        assert live == [True, True, False]
        _, body = await asyncio.to_thread(curl, port, "/", *by_post, "--interface", "127.0.0.2")
        assert _is_live(body, octets), "another client has a limit of its own"


async def test_status_shows_what_live_mode_does(
    certificates: Certificates, config: Path, token_issuers: TokenIssuers
) -> None:
    """`chancery ocsp status`: asked, signed, how long that took, and why others were answered without it; for each
    worker once, at however many addresses they listen."""
    port, own = port_of(config), token_issuers.ec
    config.write_text(config.read_text("utf-8").replace(
        f'listen = ["127.0.0.1:{port}"]', f'listen = ["127.0.0.1:{port}", "127.0.0.2:{port}"]'), "utf-8")

    def status(*options: str) -> str:
        return subprocess.run([sys.executable, "-m", "ca.admin.cli", "ocsp", "status", "--config", str(config),
                               *options], capture_output=True, text=True, timeout=60, check=False).stdout

    with running("presign", config) as signer, running("ocsp", config) as responder:
        await signer.ready()
        await responder.ready()
        serial, = await certificates.add(1)
        silent, = await certificates.add(1, asked=False, has_ocsp=False)
        for asked in (serial, serial, silent):
            await asyncio.to_thread(ask, port, _with_nonce(own, asked, bytes(16)))
        await asyncio.to_thread(ask, port, request_for(own, serial))
        said = await asyncio.to_thread(status)
        document = json.loads(await asyncio.to_thread(status, "--output", "json"))
    print(said)
    assert "LIVE MODE" in said
    assert "1 not signed" in said
    assert [one["state"] for one in document["responders"]] == ["ok", "ok"]
    worker, = document["workers"]
    assert said.count(worker["worker"]) == 2, "once for its connections, once for live mode"
    counts = worker["live"]
    assert (counts["requests"], counts["signed"], counts["refused"]["not_signed"]) == (3, 2, 1)
    assert counts["mean_wait_s"] > 0
