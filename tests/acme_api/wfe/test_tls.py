"""The whole process: its own certificate from its own CA, renewal without a restart, drain (rows T1, T12)."""

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from acme_api.wfe import __main__ as process
from acme_api.wfe import tls
from acme_api.wfe.__main__ import read_nonce_key
from ca.process.lifecycle import StartupError
from ca.process.settings import Settings
from tests.acme_api.wfe.running import NONCE_KEY, OtherProcesses, make_settings
from tests.fixtures_postgres import TestDatabase
from tests.ports import free_port


@pytest.fixture
def settings(database: TestDatabase, tmp_path: Path) -> Settings:
    """A process with TLS of its own."""
    (tmp_path / "nonce.key").write_bytes(NONCE_KEY)
    return make_settings(database, tmp_path, tls=True, tls_certificate=tmp_path / "tls" / "certificate.pem",
                         tls_key=tmp_path / "tls" / "key.pem", service_names=["localhost"], tls_look_s=0.1,
                         listen=[f"127.0.0.1:{free_port()}", f"[::1]:{free_port()}"])


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.create_task(process._run(settings, stop))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def _issue(others: OtherProcesses, *, days: int = 45, wrong_key: bool = False) -> None:
    """The CA answers the service request that is queued."""
    await others.until("SELECT EXISTS (SELECT FROM issuance_requests WHERE kind = 'service')")
    request_id = bytes(await others.value("SELECT id FROM issuance_requests WHERE kind = 'service'"))
    der = bytes(await others.value("SELECT csr FROM service_requests WHERE id = $1", request_id))
    csr = x509.load_der_x509_csr(der)
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    key = ec.generate_private_key(ec.SECP256R1()).public_key() if wrong_key else csr.public_key()
    await others.issue(request_id, names, key, account_id=None, days=days)


async def _handshake(settings: Settings, others: OtherProcesses, *, number: int = 0) -> x509.Certificate:
    """The certificate that the server shows, verified against the CA, and one request over it."""
    issuer = await others.make_issuer()
    context = ssl.create_default_context(cadata=issuer.public_bytes(Encoding.PEM).decode())
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    host, _, port = settings.acme.listen[number].rpartition(":")
    for _ in range(200):
        with suppress(ConnectionRefusedError):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
            break
        await asyncio.sleep(0.05)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.write(b"GET /directory HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
    writer.close()
    return x509.load_der_x509_certificate(shown)


async def test_the_server_gets_its_own_certificate(settings: Settings, others: OtherProcesses) -> None:
    """The key is made here and is the owner's alone; the CA's certificate is served on each address; a stop ends it."""
    async with _running(settings):
        await _issue(others)
        shown = await _handshake(settings, others)
        assert await _handshake(settings, others, number=1) == shown
    assert settings.acme.tls_key is not None
    assert settings.acme.tls_certificate is not None
    assert stat.S_IMODE(settings.acme.tls_key.stat().st_mode) == 0o600
    key = load_pem_private_key(settings.acme.tls_key.read_bytes(), None)
    assert key.public_key() == shown.public_key()
    assert len(x509.load_pem_x509_certificates(settings.acme.tls_certificate.read_bytes())) == 2
    async with _running(settings):
        assert await _handshake(settings, others) == shown
    assert await others.count("service_requests") == 1


async def test_an_unusable_certificate_is_asked_for_again(settings: Settings, others: OtherProcesses) -> None:
    """One for another key, then a refusal: neither is put in place, the request is made again."""
    async with _running(settings):
        await _issue(others, wrong_key=True)
        await others.until("SELECT count(*) = 2 FROM service_requests")
        assert settings.acme.tls_certificate is not None
        assert not settings.acme.tls_certificate.exists()
        request_id = bytes(await others.value("SELECT id FROM issuance_requests"))
        await others.refuse(request_id, {"type": "x", "detail": "not now"})
        await others.until("SELECT count(*) = 3 FROM service_requests")
        await _issue(others)
        await _handshake(settings, others)


async def test_renewal_without_a_restart(settings: Settings, others: OtherProcesses, monkeypatch: pytest.MonkeyPatch
                                         ) -> None:
    """Past two thirds of its life a new certificate is had; new connections see it, two processes ask for one only."""
    async with _running(settings):
        await _issue(others, days=1)
        first = await _handshake(settings, others)
        monkeypatch.setattr("acme_api.wfe.tls._RENEW_AT", -1.0)
        await others.until("SELECT EXISTS (SELECT FROM issuance_requests)")
        second_listen = [f"127.0.0.1:{free_port()}"]
        values = {name: getattr(settings.acme, name) for name in settings.acme.__struct_fields__}
        other = make_settings(others.database, settings.data_dir, **values | {"listen": second_listen})
        async with _running(other):
            assert await _handshake(other, others) == first
            await _issue(others, days=45)
            monkeypatch.setattr("acme_api.wfe.tls._RENEW_AT", 2 / 3)
            for each in (settings, other):
                for _ in range(50):
                    if await _handshake(each, others) != first:
                        break
                    await asyncio.sleep(0.1)
                else:
                    raise AssertionError("the new certificate is not served")
    assert await others.count("service_requests") <= 3


def _self_signed(names: list[str], begin: datetime, end: datetime) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    return (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).serial_number(5)
            .public_key(key.public_key()).not_valid_before(begin).not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), True)
            .sign(key, hashes.SHA256()))


def test_when_a_certificate_is_due() -> None:
    """At two thirds of its life, with other names, or when there is none; usable between its dates."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = _self_signed(["localhost"], begin, begin + timedelta(days=45))
    assert not tls.is_due(certificate, begin + timedelta(days=29), ["localhost"])
    assert tls.is_due(certificate, begin + timedelta(days=30), ["localhost"])
    assert tls.is_due(certificate, begin, ["localhost", "b.example"])
    assert tls.is_due(None, begin, ["localhost"])
    assert tls.is_usable(certificate, begin)
    assert not tls.is_usable(certificate, begin + timedelta(days=45))
    assert not tls.is_usable(certificate, begin - timedelta(seconds=1))


async def test_t1_old_tls_is_refused(settings: Settings, others: OtherProcesses) -> None:
    """Row T1: TLS 1.1 gets no connection, plain HTTP no answer."""
    async with _running(settings):
        await _issue(others)
        await _handshake(settings, others)
        host, _, port = settings.acme.listen[0].rpartition(":")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, int(port), ssl=context)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /directory HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_start_errors_are_one_line(settings: Settings, tmp_path: Path) -> None:
    """A missing or short nonce key and certificate files that nobody makes refuse to start and say why."""
    with pytest.raises(StartupError, match="nonce key cannot be read"):
        read_nonce_key(tmp_path / "nope")
    (tmp_path / "short").write_bytes(b"x" * 31)
    with pytest.raises(StartupError, match="32 random bytes"):
        read_nonce_key(tmp_path / "short")
    values = {name: getattr(settings.acme, name) for name in settings.acme.__struct_fields__}
    unmanaged = Settings(**{name: getattr(settings, name) for name in settings.__struct_fields__} | {
        "acme": type(settings.acme)(**values | {"service_names": []})})
    for policy, way_out in (("internal", "name the server in acme.service_names"),
                            ("public", "put in a certificate for the host of acme.base_url that was validated")):
        with pytest.raises(StartupError, match=f"not a certificate and its key: {way_out}"):
            await process._run(msgspec.structs.replace(unmanaged, policy=policy), asyncio.Event())
