"""TBSCertificates of CAs: root, cross-signed root, TLS issuing CA (spec/pki.md 0, 1.2; BR 7.1.2.1, 7.1.2.2, 7.1.2.6).

Byte strings like those of subscriber certificates: names and keys that exist already are copied, never encoded again.
A cross-signed certificate has the subject, the key and the key identifier of the root that it stands beside, so that
one leaf verifies through either.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography import x509

from ca.pki import der
from ca.pki.issuer import ECDSA_WITH_SHA256, ECDSA_WITH_SHA384, SHA256_WITH_RSA, Issuer
from ca.pki.key_identifier import key_identifier
from ca.pki.public_key import P256_ALGORITHM, P384_ALGORITHM, RSA_ALGORITHM
from ca.pki.tbs import authority_key_identifier, distribution_point_name, extension
from ca.pki.validity import Validity

# BR 6.3.2 and the root programs: a root lives 8 to 25 years.
SHORTEST_ROOT: Final = timedelta(days=2922)
LONGEST_ROOT: Final = timedelta(days=9132)
# Chrome Root Program: SHOULD be 3 years at most.
LONGEST_INTERMEDIATE: Final = timedelta(days=1096)

_MAX_NAME_CHARS: Final = 64         # ub-common-name and ub-organization-name, RFC 5280 appendix A.1
_PRINTABLE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '()+,-./:=?")
_COUNTRY: Final = der.object_identifier("2.5.4.6")
_ORGANIZATION: Final = der.object_identifier("2.5.4.10")
_COMMON_NAME: Final = der.object_identifier("2.5.4.3")

_VERSION_3: Final = bytes.fromhex("a003020102")
_KEY_USAGE: Final = der.object_identifier("2.5.29.15")
_EXTENDED_KEY_USAGE: Final = der.object_identifier("2.5.29.37")
_BASIC_CONSTRAINTS: Final = der.object_identifier("2.5.29.19")
_SUBJECT_KEY_IDENTIFIER: Final = der.object_identifier("2.5.29.14")
_AUTHORITY_KEY_IDENTIFIER: Final = der.object_identifier("2.5.29.35")
_AUTHORITY_INFORMATION_ACCESS: Final = der.object_identifier("1.3.6.1.5.5.7.1.1")
_CERTIFICATE_POLICIES: Final = der.object_identifier("2.5.29.32")
_CRL_DISTRIBUTION_POINTS: Final = der.object_identifier("2.5.29.31")
_AD_CA_ISSUERS: Final = der.object_identifier("1.3.6.1.5.5.7.48.2")
_URI: Final = 0x86

_SIGNS_CERTIFICATES: Final = bytes.fromhex("03020106")                  # keyCertSign, cRLSign
_SIGNS_CERTIFICATES_AND_OCSP: Final = bytes.fromhex("03020186")         # and digitalSignature
_SERVER_AUTH: Final = bytes.fromhex("300a06082b06010505070301")
_CA_WITHOUT_PATH_LENGTH: Final = bytes.fromhex("30030101ff")
_CA_OF_LEAVES_ALONE: Final = bytes.fromhex("30060101ff020100")          # pathLenConstraint 0
_DOMAIN_VALIDATED: Final = bytes.fromhex("300a3008060667810c010201")    # 2.23.140.1.2.1

_SIGNATURE_BY_KEY: Final = {
    RSA_ALGORITHM: SHA256_WITH_RSA,
    P256_ALGORITHM: ECDSA_WITH_SHA256,
    P384_ALGORITHM: ECDSA_WITH_SHA384,
}


class CaCertificateError(ValueError):
    """This CA certificate would not be one of ours: a name, a date or a key is outside of the profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaUrls:
    """Where the *issuing* CA's certificate and CRL are found; http (BR 7.1.2.11.2)."""

    ca_issuers: str
    crl: str


def ca_subject(*, country: str, organization: str, common_name: str) -> bytes:
    """The Name of a CA, DER: C, O, CN, one attribute an RDN; PrintableString where the characters allow it."""
    if len(country) != 2 or not (country.isascii() and country.isalpha() and country.isupper()):
        raise CaCertificateError(f"a country is two capital letters, not {country!r}")
    for value in (organization, common_name):
        if not 0 < len(value) <= _MAX_NAME_CHARS or value != value.strip() or not value.isprintable():
            raise CaCertificateError(f"a name has 1 to {_MAX_NAME_CHARS} printable characters, not {value!r}")
    attributes = ((_COUNTRY, country), (_ORGANIZATION, organization), (_COMMON_NAME, common_name))
    return der.sequence(*(der.tlv(der.SET, der.sequence(oid, _text(value))) for oid, value in attributes))


def signature_algorithm(spki_der: bytes) -> bytes:
    """The AlgorithmIdentifier of what this key signs (BR 7.1.3.2). Raises CaCertificateError for other keys."""
    algorithm = der.children(spki_der, der.read_only(spki_der, der.SEQUENCE))[0]
    found = _SIGNATURE_BY_KEY.get(der.whole(spki_der, algorithm))
    if found is None:
        raise CaCertificateError("a CA has an RSA, P-256 or P-384 key")
    return found


def tbs_root(*, subject_der: bytes, spki_der: bytes, serial: bytes, validity: Validity) -> bytes:
    """A root (BR 7.1.2.1): no EKU, policies, CRLDP or AIA. Raises CaCertificateError."""
    life = timedelta(seconds=validity.length_s)
    if not SHORTEST_ROOT <= life <= LONGEST_ROOT:
        raise CaCertificateError(f"a root lives {SHORTEST_ROOT.days} to {LONGEST_ROOT.days} days, not {life.days}")
    key_id = key_identifier(spki_der)
    return _tbs(serial, signature_algorithm(spki_der), subject_der, validity, subject_der, spki_der, (
        extension(_KEY_USAGE, _SIGNS_CERTIFICATES, critical=True),
        extension(_BASIC_CONSTRAINTS, _CA_WITHOUT_PATH_LENGTH, critical=True),
        extension(_SUBJECT_KEY_IDENTIFIER, der.tlv(der.OCTET_STRING, key_id)),
        extension(_AUTHORITY_KEY_IDENTIFIER, der.sequence(der.tlv(0x80, key_id))),
    ))


def tbs_cross(*, issuer: Issuer, existing: Issuer, serial: bytes, validity: Validity, urls: CaUrls) -> bytes:
    """`existing`, signed by `issuer` (BR 7.1.2.2): its subject, key, key identifier and path length as they are."""
    _require_within(issuer, validity)
    if existing.spki_der == issuer.spki_der:
        raise CaCertificateError("a CA does not cross-sign itself")
    return _tbs(serial, issuer.signature_algorithm, issuer.subject_der, validity, existing.subject_der,
                existing.spki_der, (
        extension(_KEY_USAGE, _SIGNS_CERTIFICATES, critical=True),
        extension(_EXTENDED_KEY_USAGE, _SERVER_AUTH),
        extension(_BASIC_CONSTRAINTS, _basic_constraints_of(existing), critical=True),
        extension(_SUBJECT_KEY_IDENTIFIER, der.tlv(der.OCTET_STRING, existing.key_id)),
        *_issuer_extensions(issuer, urls),
    ))


def tbs_intermediate(
    *,
    issuer: Issuer,
    subject_der: bytes,
    spki_der: bytes,
    serial: bytes,
    validity: Validity,
    urls: CaUrls,
    signs_ocsp: bool,
) -> bytes:
    """A TLS issuing CA (BR 7.1.2.6): leaves alone below it, serverAuth alone, domain-validated alone.

    digitalSignature only when it signs OCSP responses with this very key (BR 7.1.2.10.7). Raises CaCertificateError.
    """
    _require_within(issuer, validity)
    life = timedelta(seconds=validity.length_s)
    if life > LONGEST_INTERMEDIATE:
        raise CaCertificateError(f"an issuing CA lives {LONGEST_INTERMEDIATE.days} days at most, not {life.days}")
    if subject_der == issuer.subject_der or spki_der == issuer.spki_der:
        raise CaCertificateError("an issuing CA has a name and a key of its own")
    signature_algorithm(spki_der)
    usage = _SIGNS_CERTIFICATES_AND_OCSP if signs_ocsp else _SIGNS_CERTIFICATES
    return _tbs(serial, issuer.signature_algorithm, issuer.subject_der, validity, subject_der, spki_der, (
        extension(_KEY_USAGE, usage, critical=True),
        extension(_EXTENDED_KEY_USAGE, _SERVER_AUTH),
        extension(_BASIC_CONSTRAINTS, _CA_OF_LEAVES_ALONE, critical=True),
        extension(_SUBJECT_KEY_IDENTIFIER, der.tlv(der.OCTET_STRING, key_identifier(spki_der))),
        *_issuer_extensions(issuer, urls),
    ))


def _tbs(
    serial: bytes, algorithm: bytes, issuer_der: bytes, validity: Validity, subject_der: bytes, spki_der: bytes,
    extensions: tuple[bytes, ...],
) -> bytes:
    return der.sequence(
        _VERSION_3,
        der.tlv(der.INTEGER, serial),
        algorithm,
        issuer_der,
        der.sequence(der.time(validity.not_before), der.time(validity.not_after)),
        subject_der,
        spki_der,
        der.tlv(0xA3, der.sequence(*extensions)),
    )


def _issuer_extensions(issuer: Issuer, urls: CaUrls) -> tuple[bytes, ...]:
    """What a certificate says about its issuer, in the order of spec/pki.md 0: AKI, AIA, policies, CRLDP."""
    for url in (urls.ca_issuers, urls.crl):
        if not url.startswith("http://") or not url.isascii():
            raise CaCertificateError(f"AIA and CRL URLs are http:// URLs, not {url!r}")
    return (
        authority_key_identifier(issuer),
        extension(_AUTHORITY_INFORMATION_ACCESS, der.sequence(
            der.sequence(_AD_CA_ISSUERS, der.tlv(_URI, urls.ca_issuers.encode("ascii"))))),
        extension(_CERTIFICATE_POLICIES, _DOMAIN_VALIDATED),
        extension(_CRL_DISTRIBUTION_POINTS, der.sequence(der.sequence(distribution_point_name(urls.crl)))),
    )


def _basic_constraints_of(existing: Issuer) -> bytes:
    certificate = x509.load_der_x509_certificate(existing.certificate_der)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if not constraints.ca:
        raise CaCertificateError("only a CA is cross-signed")
    if constraints.path_length is None:
        return _CA_WITHOUT_PATH_LENGTH
    return der.sequence(bytes.fromhex("0101ff"), der.integer(constraints.path_length))


def _require_within(issuer: Issuer, validity: Validity) -> None:
    """Nothing outlives or predates what signs it."""
    if not (issuer.validity.not_before <= validity.not_before < validity.not_after <= issuer.validity.not_after):
        raise CaCertificateError(
            f"a certificate from {validity.not_before} to {validity.not_after} is not within its issuer's life, "
            f"{issuer.validity.not_before} to {issuer.validity.not_after}")


def _text(value: str) -> bytes:
    """DirectoryString: PrintableString where possible, as Boulder and Go write it, else UTF8String."""
    if set(value) <= _PRINTABLE:
        return der.tlv(der.PRINTABLE_STRING, value.encode("ascii"))
    return der.tlv(der.UTF8_STRING, value.encode("utf-8"))
