"""Sharded CRLs: which shard and URL a serial number belongs to, and the TBSCertList (RFC 5280 5, spec/pki.md 6).

A shard's issuingDistributionPoint is critical and holds the very bytes of the CRLDP of its certificates. An entry stays
until it has been in one CRL that was made after its certificate's end.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca.pki import der
from ca.pki.issuer import Issuer
from ca.pki.revocation import UNSPECIFIED
from ca.pki.tbs import authority_key_identifier, distribution_point_name, extension

LIFE_S: Final = 9 * 86_400            # BR 4.9.7: 10 days at most
REFRESH_S: Final = 6 * 3_600
_VERSION_2: Final = der.integer(1)
_CRL_NUMBER_OID: Final = der.object_identifier("2.5.29.20")
_ISSUING_DISTRIBUTION_POINT_OID: Final = der.object_identifier("2.5.29.28")
_REASON_OID: Final = der.object_identifier("2.5.29.21")
_ONLY_USER_CERTIFICATES: Final = bytes.fromhex("8101ff")
_REASON_EXTENSIONS: Final = {
    reason: der.sequence(extension(_REASON_OID, der.tlv(der.ENUMERATED, bytes((reason,))))) for reason in range(1, 11)
}


class CrlError(Exception):
    """This CRL must not be published: its number, its time or its entries would go back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlEntry:
    """One revoked certificate; reason 0 is not encoded."""

    serial: bytes
    revoked_at: datetime
    reason: int


def slug(name: str) -> str:
    """An issuer's name in URLs: lower case, everything but letters and digits becomes one hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower(), flags=re.ASCII).strip("-")


def shard_url(crl_base_url: str, issuer_name: str, shard: int) -> str:
    """Where the CRL of a 0-based shard is published; it stands in certificates, so it never changes."""
    return f"{crl_base_url}/{slug(issuer_name)}/{shard + 1}.crl"


def ca_issuers_url(aia_base_url: str, issuer_name: str) -> str:
    """Where an issuer's certificate is published."""
    return f"{aia_base_url}/{slug(issuer_name)}.crt"


def crl_number(this_update: datetime) -> int:
    """Microseconds since the epoch: grows with time, never used twice by CRLs that `require_next` lets through."""
    return round(this_update.timestamp() * 1_000_000)


def require_next(number: int, last_number: int | None) -> None:
    """Returns when a CRL with `number` may follow the last one. Raises CrlError when the clock has gone back."""
    if last_number is not None and number <= last_number:
        raise CrlError(f"cRLNumber {number} does not follow {last_number}: has the clock been set back?")


def require_nothing_lost(previous: Iterable[bytes], entries: Iterable[CrlEntry], expired: Iterable[bytes]) -> None:
    """Returns when every serial of the previous CRL is still there or has expired. Raises CrlError otherwise."""
    lost = set(previous) - {entry.serial for entry in entries} - set(expired)
    if lost:
        raise CrlError(f"{len(lost)} revoked serial numbers would vanish, among them {min(lost).hex()}")


def tbs_crl(
    *,
    issuer: Issuer,
    url: str,
    number: int,
    this_update: datetime,
    next_update: datetime,
    entries: Iterable[CrlEntry],
) -> bytes:
    """The TBSCertList, DER, with entries sorted by serial number."""
    revoked = b"".join(_entry(entry) for entry in sorted(entries, key=lambda entry: entry.serial))
    extensions = (
        authority_key_identifier(issuer),
        extension(_CRL_NUMBER_OID, der.integer(number)),
        extension(_ISSUING_DISTRIBUTION_POINT_OID,
                  der.sequence(distribution_point_name(url), _ONLY_USER_CERTIFICATES), critical=True),
    )
    return der.sequence(
        _VERSION_2,
        issuer.signature_algorithm,
        issuer.subject_der,
        der.time(this_update),
        der.time(next_update),
        der.sequence(revoked) if revoked else b"",          # absent when empty, RFC 5280 5.1.2.6
        der.tlv(0xA0, der.sequence(*extensions)),
    )


def crl_serials(crl_der: bytes) -> set[bytes]:
    """The serial numbers in a CRL of ours. Raises DerError when it is not one."""
    return {der.contents(crl_der, der.read(crl_der, entry.content, end=entry.end, tag=der.INTEGER))
            for entry in _entries(crl_der)}


def revocation_times_s(crl_der: bytes) -> list[int]:
    """The time of each entry of a CRL of ours, in seconds since the epoch, in ascending order. Raises DerError."""
    times = []
    for entry in _entries(crl_der):
        serial = der.read(crl_der, entry.content, end=entry.end, tag=der.INTEGER)
        times.append(_seconds(der.whole(crl_der, der.read(crl_der, serial.end, end=entry.end))))
    return sorted(times)


def _entries(crl_der: bytes) -> list[der.Element]:
    tbs = der.children(crl_der, der.read_only(crl_der, der.SEQUENCE))[0]
    fields = der.children(crl_der, tbs)
    # version, signature, issuer, thisUpdate, nextUpdate, revokedCertificates or [0] extensions
    return der.children(crl_der, fields[5]) if len(fields) > 5 and fields[5].tag == der.SEQUENCE else []


def _entry(entry: CrlEntry) -> bytes:
    return der.sequence(der.tlv(der.INTEGER, entry.serial), _when_and_why(entry.revoked_at, entry.reason))


# Very many entries have few times: what a mass revocation did in the same second, for the same reason.
@functools.lru_cache(maxsize=4096)
def _when_and_why(revoked_at: datetime, reason: int) -> bytes:
    return der.time(revoked_at) + (b"" if reason == UNSPECIFIED else _REASON_EXTENSIONS[reason])


@functools.lru_cache(maxsize=4096)
def _seconds(time_der: bytes) -> int:
    return int(der.read_time(time_der).timestamp())
