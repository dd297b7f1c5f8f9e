"""CRLs of roots: one a root, whole, over the CA certificates that it signed (RFC 5280 5, BR 4.9.7, spec/pki.md 6).

Its issuingDistributionPoint says onlyContainsCACerts and, unlike a shard's, no URL: a root certificate has no CRLDP, so
a CRL with a URL is out of scope for it, and verifiers that look up every certificate of a chain would fail there.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from ca.pki import der
from ca.pki.crl import CrlEntry
from ca.pki.issuer import Issuer
from ca.pki.tbs import authority_key_identifier, extension

# BR 4.9.7: 12 months at most; 12 months have 365 days in the year that counts.
LONGEST_LIFE: Final = timedelta(days=365)
_VERSION_2: Final = der.integer(1)
_CRL_NUMBER: Final = der.object_identifier("2.5.29.20")
_ISSUING_DISTRIBUTION_POINT: Final = der.object_identifier("2.5.29.28")
_REASON: Final = der.object_identifier("2.5.29.21")
_ONLY_CA_CERTIFICATES: Final = bytes.fromhex("8201ff")


class CaCrlError(ValueError):
    """This CRL would not be one of ours."""


def tbs_ca_crl(
    *,
    issuer: Issuer,
    number: int,
    this_update: datetime,
    next_update: datetime,
    entries: Iterable[CrlEntry],
) -> bytes:
    """The TBSCertList, DER. Each entry has a reason: BR 7.2.2 demands one for a CA certificate. Raises CaCrlError."""
    if not this_update < next_update < this_update + LONGEST_LIFE:
        raise CaCrlError(f"a root's CRL is valid for less than 12 months, not from {this_update} to {next_update}")
    revoked = b"".join(_entry(entry) for entry in sorted(entries, key=lambda entry: entry.serial))
    return der.sequence(
        _VERSION_2,
        issuer.signature_algorithm,
        issuer.subject_der,
        der.time(this_update),
        der.time(next_update),
        der.sequence(revoked) if revoked else b"",          # absent when empty, RFC 5280 5.1.2.6
        der.tlv(0xA0, der.sequence(
            authority_key_identifier(issuer),
            extension(_CRL_NUMBER, der.integer(number)),
            extension(_ISSUING_DISTRIBUTION_POINT,
                      der.sequence(_ONLY_CA_CERTIFICATES), critical=True),
        )),
    )


def _entry(entry: CrlEntry) -> bytes:
    if not entry.reason:
        raise CaCrlError(f"the revocation of CA certificate {entry.serial.hex()} needs a reason (BR 7.2.2)")
    reason = extension(_REASON, der.tlv(der.ENUMERATED, bytes((entry.reason,))))
    return der.sequence(der.tlv(der.INTEGER, entry.serial), der.time(entry.revoked_at), der.sequence(reason))
