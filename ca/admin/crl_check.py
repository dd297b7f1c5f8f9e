"""Reads CRLs back through the URLs that certificates name, as everybody does, and compares with what the CA published.

What is in the database is not yet what the world sees: a proxy may show an old file, a name may lead elsewhere
(spec/pki.md 6). The rules are `fault_of`, a pure function; `read_back` asks.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import aiohttp
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

CRL_TYPE: Final = "application/pkix-crl"
# A server follows the database within moments; caches in front keep a CRL for a quarter of an hour.
LAG: Final = timedelta(minutes=20)
_AT_ONCE: Final = 8
_TIMEOUT_S: Final = 20.0
_MOST_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCrl:
    """The newest CRL of a shard as the database has it, and where it has to be readable."""

    issuer: str
    issuer_certificate: bytes
    shard: int
    url: str
    number: int
    this_update: datetime
    next_update: datetime
    entries: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlFault:
    """A CRL that the world does not see as it should."""

    url: str
    fault: str


async def read_back(crls: Sequence[PublishedCrl], *, now: datetime) -> list[CrlFault]:
    """Fetches every CRL; what is wrong, in the order of the CRLs."""
    gate = asyncio.Semaphore(_AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False, auto_decompress=False) as session:

        async def one(crl: PublishedCrl) -> str | None:
            async with gate:
                try:
                    body = await _fetch(session, crl.url)
                except _Unreadable as fault:
                    return str(fault)
                return await asyncio.to_thread(fault_of, body, crl, now)

        faults = await asyncio.gather(*[one(crl) for crl in crls])
    return [CrlFault(url=crl.url, fault=fault) for crl, fault in zip(crls, faults, strict=True) if fault]


class _Unreadable(Exception):
    pass


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise _Unreadable(f"HTTP status {response.status}")
            if response.headers.get("Content-Type") != CRL_TYPE:
                raise _Unreadable(f"Content-Type is {response.headers.get('Content-Type')!r}, not {CRL_TYPE}")
            body = await response.content.read(_MOST_BYTES)
            if not response.content.at_eof():
                body += await response.read()
            return body
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
        raise _Unreadable(f"cannot be read: {str(fault) or type(fault).__name__}") from fault


def fault_of(body: bytes, published: PublishedCrl, now: datetime) -> str | None:
    """What is wrong with the bytes that were read at a CRL's URL; None: nothing."""
    try:
        crl = x509.load_der_x509_crl(body)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    except (ValueError, x509.ExtensionNotFound, UnsupportedAlgorithm) as fault:
        return f"it is not a CRL of ours: {fault}"
    issuer = x509.load_der_x509_certificate(published.issuer_certificate)
    if crl.issuer != issuer.subject or not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]
        return f"it is not signed by {published.issuer}"
    if not point.critical or [name.value for name in point.value.full_name or ()] != [published.url]:
        return "its issuingDistributionPoint is another URL: certificates that name this one are not covered"
    if crl.next_update_utc is None or crl.next_update_utc <= now:
        return f"it has expired at {crl.next_update_utc}"
    if number < published.number and now - published.this_update > LAG:
        return f"number {number} is shown, and {published.number} was published {now - published.this_update} ago"
    if number == published.number and len(crl) != published.entries:
        return f"it lists {len(crl)} certificates, and {published.entries} were published under its number"
    return None
