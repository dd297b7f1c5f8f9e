"""The look from outside after a mass revocation: it passes what is whole, and sees what is missing."""

import base64
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from loadtest.mass_revoked import seen_from_outside
from loadtest.program import ProgramFault
from loadtest.synthetic import Issuer
from tests.ports import free_port

_NOW = datetime.now(UTC).replace(microsecond=0)
_KEY = ec.generate_private_key(ec.SECP256R1())
_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Issuer")])
_CERTIFICATE = (x509.CertificateBuilder().subject_name(_NAME).issuer_name(_NAME).public_key(_KEY.public_key())
                .serial_number(1).not_valid_before(_NOW - timedelta(days=1)).not_valid_after(_NOW + timedelta(days=9))
                .sign(_KEY, hashes.SHA256()))
_ISSUER = Issuer(id=1, name="Issuer", key_type="ec", certificate=_CERTIFICATE)


def _crl(url: str, serials: Sequence[bytes], key: ec.EllipticCurvePrivateKey = _KEY) -> bytes:
    builder = (x509.CertificateRevocationListBuilder().issuer_name(_NAME).last_update(_NOW)
               .next_update(_NOW + timedelta(days=1))
               .add_extension(x509.IssuingDistributionPoint([x509.UniformResourceIdentifier(url)], None, True, False,
                                                            None, False, False), True))
    for serial in serials:
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(
            int.from_bytes(serial, "big")).revocation_date(_NOW).build())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@asynccontextmanager
async def _world(shards: Sequence[Sequence[bytes]], good: bytes | None = None,
                 key: ec.EllipticCurvePrivateKey = _KEY) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server of these CRLs, which is a responder as well that says revoked of everything but `good`: its URL, and the
    CRLs."""
    port = free_port()
    crls = [_crl(f"http://127.0.0.1:{port}/{number}.crl", serials, key) for number, serials in enumerate(shards)]

    async def answer(request: web.Request) -> web.Response:
        asked = ocsp.load_der_ocsp_request(_unquoted(request))
        revoked = good is None or asked.serial_number != int.from_bytes(good, "big")
        response = (ocsp.OCSPResponseBuilder().add_response_by_hash(
            asked.issuer_name_hash, asked.issuer_key_hash, asked.serial_number, asked.hash_algorithm,
            ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD, _NOW - timedelta(minutes=1),
            _NOW + timedelta(days=1), _NOW if revoked else None, None)
            .responder_id(ocsp.OCSPResponderEncoding.HASH, _CERTIFICATE).sign(_KEY, hashes.SHA256()))
        return web.Response(body=response.public_bytes(Encoding.DER), content_type="application/ocsp-response")

    async def crl(request: web.Request) -> web.Response:
        return web.Response(body=crls[int(request.match_info["number"])], content_type="application/pkix-crl")

    application = web.Application()
    application.router.add_get(r"/{number:\d+}.crl", crl)
    application.router.add_get("/{request:.+}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}", crls
    finally:
        await runner.cleanup()


def _unquoted(request: web.Request) -> bytes:
    return base64.b64decode(request.match_info["request"])


async def test_all_is_seen() -> None:
    """Every serial number in some CRL, and both CertIDs of each answered with revoked."""
    serials = [b"\x0a" + os.urandom(17) for _ in range(7)]
    async with _world([serials[:3], serials[3:], []]) as (url, crls):
        seen = await seen_from_outside(_ISSUER, serials, crls, responder_url=url)
    assert (seen.listed, seen.asked, seen.crl_bytes) == (7, 14, sum(map(len, crls)))


async def test_what_is_missing() -> None:
    """One that no CRL lists, one that the responder calls good, a CRL of another key: each ends the run."""
    serials = [b"\x0a" + os.urandom(17) for _ in range(5)]
    async with _world([serials[:3], serials[4:]]) as (url, crls):
        with pytest.raises(ProgramFault, match="list 4 of 5"):
            await seen_from_outside(_ISSUER, serials, crls, responder_url=url)
    async with _world([serials], good=serials[2]) as (url, crls):
        with pytest.raises(ProgramFault, match=f"GOOD of {serials[2].hex().lstrip('0')}"):
            await seen_from_outside(_ISSUER, serials, crls, responder_url=url)
    async with _world([serials], key=ec.generate_private_key(ec.SECP256R1())) as (url, crls):
        with pytest.raises(ProgramFault, match="not signed by its issuer"):
            await seen_from_outside(_ISSUER, serials, crls, responder_url=url)
