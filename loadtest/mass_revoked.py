"""Is a mass revocation what the world sees? Every CRL as it is served lists all of it, and the responder says so."""

import asyncio
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from loadtest.http_connection import HttpConnection, loopback_origin
from loadtest.ocsp_load import RequestMaker, Subject, ask
from loadtest.program import ProgramFault
from loadtest.synthetic import Issuer

_ASKED = 500
_PATIENCE_S = 60.0
_PAUSE_S = 0.5
_CRL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen from outside."""

    listed: int         # serial numbers that were revoked and are in the CRLs that are served
    crl_bytes: int
    asked: int          # answers of the responder, in both CertID hashes, all of them `revoked`


async def seen_from_outside(issuer: Issuer, serials: Sequence[bytes], stored_crls: Collection[bytes], *,
                            responder_url: str) -> Seen:
    """Fetches every CRL by the URL in it, asks the responder about some. Raises ProgramFault when one is not seen."""
    wanted = {int.from_bytes(serial, "big") for serial in serials}
    listed, size = 0, 0
    for url in sorted(_url(stored) for stored in stored_crls):
        found, length = await _listed(url, issuer, wanted)
        listed, size = listed + found, size + length
    if listed != len(wanted):
        raise ProgramFault(f"the CRLs that are served list {listed:,} of {len(wanted):,} revoked certificates")
    maker, asked = RequestMaker(), 0
    connection = HttpConnection(loopback_origin(responder_url), None)
    try:
        for serial in random.sample(sorted(wanted), min(_ASKED, len(wanted))):
            subject = Subject(serial=serial, issuer=issuer.certificate)
            for algorithm in (hashes.SHA1(), hashes.SHA256()):  # noqa: S303 - of names and keys, as clients ask
                response, _ = await ask(connection, subject, maker.request(subject, algorithm), "GET")
                if response.certificate_status != ocsp.OCSPCertStatus.REVOKED:
                    raise ProgramFault(f"the responder says {response.certificate_status.name} of {serial:x}")
                asked += 1
    finally:
        connection.close()
    return Seen(listed=listed, crl_bytes=size, asked=asked)


def _url(crl_der: bytes) -> str:
    point = x509.load_der_x509_crl(crl_der).extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    return str((point.full_name or [])[0].value)


async def _listed(url: str, issuer: Issuer, wanted: Collection[int]) -> tuple[int, int]:
    """How many of those that are wanted a CRL lists as it is served, and its length, once the server has the newest."""
    give_up_at = time.monotonic() + _PATIENCE_S
    best = 0
    while True:
        connection = HttpConnection(loopback_origin(url), None)
        answer = await connection.request("GET", urlsplit(url).path, None, content_type="", timeout_s=_CRL_TIMEOUT_S)
        connection.close()
        if answer.status != 200:
            raise ProgramFault(f"{url}: HTTP {answer.status}")
        crl = x509.load_der_x509_crl(answer.body)
        if not crl.is_signature_valid(issuer.certificate.public_key()):  # type: ignore[arg-type]
            raise ProgramFault(f"{url}: not signed by its issuer")
        found = sum(1 for entry in crl if entry.serial_number in wanted)
        if found == best and time.monotonic() > give_up_at - _PATIENCE_S + _PAUSE_S:
            return found, len(answer.body)      # it does not grow any more
        best = found
        await asyncio.sleep(_PAUSE_S)
        if time.monotonic() > give_up_at:
            raise ProgramFault(f"{url} goes on changing")
