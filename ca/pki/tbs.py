"""TBSCertificate of a subscriber certificate, and the object around a TBS (spec/pki.md 0 and 1.3).

Put together here, byte for byte: the issuer's Name and the subject's key are copied, each extension has the one form of
the specification. What is linted and what the HSM signs is this one byte string, so that nothing can differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ca.pki import der
from ca.pki.identifier import Identifier, address_octets, general_names
from ca.pki.issuer import Issuer
from ca.pki.key_identifier import key_identifier
from ca.pki.profile import Profile
from ca.pki.public_key import CertificateKey
from ca.pki.validity import Validity

_VERSION_3: Final = bytes.fromhex("a003020102")
_CRITICAL: Final = bytes.fromhex("0101ff")
_COMMON_NAME: Final = der.object_identifier("2.5.4.3")
_MAX_COMMON_NAME_CHARS: Final = 64          # ub-common-name, RFC 5280 appendix A.1
_PRINTABLE: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")     # of the characters that names have

_KEY_USAGE_OID: Final = der.object_identifier("2.5.29.15")
_EXTENDED_KEY_USAGE_OID: Final = der.object_identifier("2.5.29.37")
_BASIC_CONSTRAINTS_OID: Final = der.object_identifier("2.5.29.19")
_SUBJECT_KEY_IDENTIFIER_OID: Final = der.object_identifier("2.5.29.14")
_AUTHORITY_KEY_IDENTIFIER_OID: Final = der.object_identifier("2.5.29.35")
_AUTHORITY_INFORMATION_ACCESS_OID: Final = der.object_identifier("1.3.6.1.5.5.7.1.1")
_SUBJECT_ALT_NAME_OID: Final = der.object_identifier("2.5.29.17")
_CERTIFICATE_POLICIES_OID: Final = der.object_identifier("2.5.29.32")
_CRL_DISTRIBUTION_POINTS_OID: Final = der.object_identifier("2.5.29.31")

_DIGITAL_SIGNATURE: Final = bytes.fromhex("03020780")
_DIGITAL_SIGNATURE_AND_KEY_ENCIPHERMENT: Final = bytes.fromhex("030205a0")
_SERVER_AUTH: Final = bytes.fromhex("300a06082b06010505070301")
_NO_CA: Final = bytes.fromhex("3000")
_DOMAIN_VALIDATED: Final = bytes.fromhex("300a3008060667810c010201")         # 2.23.140.1.2.1
_AD_OCSP: Final = der.object_identifier("1.3.6.1.5.5.7.48.1")
_AD_CA_ISSUERS: Final = der.object_identifier("1.3.6.1.5.5.7.48.2")
_DNS_NAME: Final = 0x82
_URI: Final = 0x86
_IP_ADDRESS: Final = 0x87


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusUrls:
    """Where a certificate says its status and its issuer are found; all http (BR 7.1.2.7.7, 7.1.2.11.2)."""

    ocsp: str               # without path and without slash at the end, so that GET URLs stay short
    ca_issuers: str
    crl: str                # of the shard that the serial number falls into


def tbs_certificate(
    *,
    profile: Profile,
    issuer: Issuer,
    serial: bytes,
    validity: Validity,
    identifiers: Sequence[Identifier],
    key: CertificateKey,
    urls: StatusUrls,
) -> bytes:
    """The TBSCertificate, DER. The common name, where the profile has one, is the first identifier that may be it."""
    subject = _subject(profile, identifiers)
    return der.sequence(
        _VERSION_3,
        der.tlv(der.INTEGER, serial),
        issuer.signature_algorithm,
        issuer.subject_der,
        der.sequence(der.time(validity.not_before), der.time(validity.not_after)),
        subject,
        key.spki_der,
        der.tlv(0xA3, der.sequence(*_extensions(profile, issuer, subject, identifiers, key, urls))),
    )


def assemble(tbs: bytes, signature: bytes) -> bytes:
    """Certificate or CertificateList: SEQUENCE {tbs, the algorithm that tbs names, signature}.

    The outer AlgorithmIdentifier is copied from the TBS, where it is the first SEQUENCE in either kind of object.
    """
    outer = der.read_only(tbs, der.SEQUENCE)
    algorithm = der.read(tbs, outer.content, end=outer.end)
    while algorithm.tag != der.SEQUENCE:
        algorithm = der.read(tbs, algorithm.end, end=outer.end)
    return der.sequence(tbs, der.whole(tbs, algorithm), der.bit_string(signature))


def extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    """One Extension; DEFAULT FALSE is not encoded (X.690 11.5)."""
    return der.sequence(oid, _CRITICAL if critical else b"", der.tlv(der.OCTET_STRING, value))


def distribution_point_name(url: str) -> bytes:
    """DistributionPointName with one URI, the same bytes in a certificate's CRLDP and in a CRL's IDP."""
    return der.tlv(0xA0, der.tlv(0xA0, der.tlv(_URI, url.encode("ascii"))))


def authority_key_identifier(issuer: Issuer) -> bytes:
    """The AKI extension: keyIdentifier alone, copied from the issuer's SKI."""
    return extension(_AUTHORITY_KEY_IDENTIFIER_OID, der.sequence(der.tlv(0x80, issuer.key_id)))


def _subject(profile: Profile, identifiers: Sequence[Identifier]) -> bytes:
    """One CN that is a name of the SAN, character for character (BR 7.1.2.7.2), never an address (row IP4)."""
    names = (identifier.value for identifier in identifiers
             if identifier.type == "dns" and len(identifier.value) <= _MAX_COMMON_NAME_CHARS)
    common_name = next(names, None) if profile.common_name else None
    if common_name is None:
        return der.sequence()
    tag = der.PRINTABLE_STRING if set(common_name) <= _PRINTABLE else der.UTF8_STRING
    return der.sequence(der.tlv(der.SET, der.sequence(_COMMON_NAME, der.tlv(tag, common_name.encode("ascii")))))


def _extensions(
    profile: Profile,
    issuer: Issuer,
    subject: bytes,
    identifiers: Sequence[Identifier],
    key: CertificateKey,
    urls: StatusUrls,
) -> list[bytes]:
    """In the order of spec/pki.md 0; a poison or an SCT list would come last."""
    with_key_encipherment = key.kind == "rsa" and profile.rsa_key_encipherment
    usage = _DIGITAL_SIGNATURE_AND_KEY_ENCIPHERMENT if with_key_encipherment else _DIGITAL_SIGNATURE
    found = [
        extension(_KEY_USAGE_OID, usage, critical=True),
        extension(_EXTENDED_KEY_USAGE_OID, _SERVER_AUTH),
        extension(_BASIC_CONSTRAINTS_OID, _NO_CA, critical=True),
    ]
    if profile.subject_key_identifier:
        found.append(extension(_SUBJECT_KEY_IDENTIFIER_OID,
                               der.tlv(der.OCTET_STRING, key_identifier(key.spki_der))))
    names = [der.tlv(_IP_ADDRESS, address_octets(identifier)) if identifier.type == "ip"
             else der.tlv(_DNS_NAME, identifier.value.encode("ascii")) for identifier in general_names(identifiers)]
    ocsp = der.sequence(_AD_OCSP, der.tlv(_URI, urls.ocsp.encode("ascii"))) if profile.ocsp else b""
    return [
        *found,
        authority_key_identifier(issuer),
        extension(_AUTHORITY_INFORMATION_ACCESS_OID, der.sequence(
            ocsp, der.sequence(_AD_CA_ISSUERS, der.tlv(_URI, urls.ca_issuers.encode("ascii"))))),
        extension(_SUBJECT_ALT_NAME_OID, der.sequence(*names), critical=subject == der.sequence()),
        extension(_CERTIFICATE_POLICIES_OID, _DOMAIN_VALIDATED),
        extension(_CRL_DISTRIBUTION_POINTS_OID,
                  der.sequence(der.sequence(distribution_point_name(urls.crl)))),
    ]
