"""Our own rules over what is about to be signed, where pkilint has none (spec/pki.md 4), read with other eyes.

tbs.py and crl.py write these objects; here they are read back by `cryptography`, so that a mistake in writing shows.
Each rule gives (code, detail).
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from ca.pki import der
from ca.pki.crl import LIFE_S
from ca.pki.identifier import IdentifierError, parse_identifier
from ca.pki.issuer import ECDSA_WITH_SHA256, ECDSA_WITH_SHA384, SHA256_WITH_RSA, Issuer
from ca.pki.policy import limits_at
from ca.pki.public_key import KEY_ALGORITHMS
from ca.pki.revocation import ALLOWED_REASONS, UNSPECIFIED
from ca.pki.serial import serial_from_int

Fault = tuple[str, str]
_ExtensionType = TypeVar("_ExtensionType", bound=x509.ExtensionType)
_Extensions = dict[x509.ObjectIdentifier, x509.Extension[Any]]

_SIGNATURE_ALGORITHMS: Final = (SHA256_WITH_RSA, ECDSA_WITH_SHA256, ECDSA_WITH_SHA384)
_REASON: Final = der.object_identifier("2.5.29.21")


def certificate_faults(certificate_der: bytes, issuer: Issuer) -> Iterator[Fault]:
    """What our rules have against a subscriber certificate of this issuer."""
    fields = _tbs_fields(certificate_der)
    # [0] version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, [3] extensions
    yield from _signed_by(certificate_der, fields[2], fields[3], issuer)
    certificate = x509.load_der_x509_certificate(certificate_der)
    try:
        serial_from_int(certificate.serial_number)
    except ValueError:
        yield "serial_form", "the serial number is not 18 bytes with a first byte from 01 to 7f"
    if der.whole(certificate_der, der.children(certificate_der, fields[6])[0]) not in KEY_ALGORITHMS:
        yield "public_key", "the key's AlgorithmIdentifier is not one of BR 7.1.3.1 that we certify"
    extensions = _by_oid(certificate)
    yield from _validity_faults(certificate, issuer)
    yield from _name_faults(certificate, extensions)
    yield from _extension_faults(certificate, extensions, issuer)
    yield from _transparency_faults(extensions)


def crl_faults(crl_der: bytes, issuer: Issuer, url: str) -> Iterator[Fault]:
    """What our rules have against the CRL of the shard that is published at `url`."""
    fields = _tbs_fields(crl_der)
    # version, signature, issuer, thisUpdate, nextUpdate, revokedCertificates if any, [0] extensions
    yield from _signed_by(crl_der, fields[1], fields[2], issuer)
    yield from _entry_faults(crl_der, fields[5] if fields[5].tag == der.SEQUENCE else None)
    empty = shortened_crl(crl_der, 0)
    crl = x509.load_der_x509_crl(empty)
    next_update = crl.next_update_utc
    if next_update is None or next_update - crl.last_update_utc > timedelta(seconds=LIFE_S):
        yield "crl_life", "nextUpdate is missing or more than nine days after thisUpdate"
    extensions = _by_oid(crl)
    point = _extension(extensions, x509.IssuingDistributionPoint)
    if point is None or not point.critical:
        yield "crl_distribution_point", "a sharded CRL has a critical issuingDistributionPoint (RFC 5280 5.2.5)"
    elif ([name.value for name in point.value.full_name or ()] != [url] or not point.value.only_contains_user_certs
          or point.value.indirect_crl or point.value.only_some_reasons):
        yield "crl_distribution_point", f"the issuingDistributionPoint is not {url} for user certificates alone"
    key_id = _extension(extensions, x509.AuthorityKeyIdentifier)
    if key_id is None or key_id.value.key_identifier != issuer.key_id:
        yield "authority_key_identifier", "it is not the issuer's key identifier"


def shortened_crl(crl_der: bytes, entries: int) -> bytes:
    """The CRL with its first `entries` entries alone, for readers that are slow; its signature does not hold."""
    outer = der.children(crl_der, der.read_only(crl_der, der.SEQUENCE))
    parts = []
    for number, field in enumerate(der.children(crl_der, outer[0])):
        kept = der.whole(crl_der, field)
        if number == 5 and field.tag == der.SEQUENCE:
            found = der.children(crl_der, field)[:entries]
            kept = der.sequence(*(der.whole(crl_der, entry) for entry in found)) if found else b""
        parts.append(kept)
    return der.sequence(der.sequence(*parts), *(der.whole(crl_der, part) for part in outer[1:]))


def _tbs_fields(signed_der: bytes) -> list[der.Element]:
    return der.children(signed_der, der.children(signed_der, der.read_only(signed_der, der.SEQUENCE))[0])


def _signed_by(signed_der: bytes, algorithm: der.Element, name: der.Element, issuer: Issuer) -> Iterator[Fault]:
    """BR 7.1.3.2 and RFC 5280 4.1.1.2, 4.1.2.4, 5.1.1.2, 5.1.2.3, all byte for byte."""
    inner = der.whole(signed_der, algorithm)
    outer = der.whole(signed_der, der.children(signed_der, der.read_only(signed_der, der.SEQUENCE))[1])
    if inner != outer:
        yield "signature_algorithms_differ", "the algorithms inside and outside of the signed part differ"
    if inner not in _SIGNATURE_ALGORITHMS or inner != issuer.signature_algorithm:
        yield "signature_algorithm", f"AlgorithmIdentifier {inner.hex()} is not the issuer's"
    if der.whole(signed_der, name) != issuer.subject_der:
        yield "issuer_name", "the issuer is not byte for byte the subject of the issuing certificate"


def _validity_faults(certificate: x509.Certificate, issuer: Issuer) -> Iterator[Fault]:
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    length_s = _length_s(certificate)
    longest_s = limits_at(not_before).longest_validity_s
    if not 0 < length_s <= longest_s:
        yield "validity_too_long", f"valid for {length_s:.0f} seconds, and {longest_s} are the limit (BR 6.3.2)"
    if not_before < issuer.validity.not_before or not_after > issuer.validity.not_after:
        yield "outlives_issuer", "valid when its issuer is not"


def _length_s(certificate: x509.Certificate) -> float:
    return (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() + 1


def _name_faults(certificate: x509.Certificate, extensions: _Extensions) -> Iterator[Fault]:
    found = _extension(extensions, x509.SubjectAlternativeName)
    if found is None:
        yield "names", "there is no subjectAltName"
        return
    names = [(0, name.value) if isinstance(name, x509.DNSName) else (1, str(name.value)) for name in found.value]
    if names != sorted(set(names)):
        yield "names_order", "names of the subjectAltName are repeated, or not names first and sorted"
    for kind, value in names:
        try:
            parse_identifier("ip" if kind else "dns", value, single_label=True)
        except IdentifierError as fault:
            yield "names", fault.detail
    subject = certificate.subject
    if found.critical is not (len(subject.rdns) == 0):
        yield "names_criticality", "the subjectAltName is critical exactly when the subject is empty (BR 7.1.2.7.12)"
    common_names = [attribute.value for attribute in subject]
    if len(common_names) > 1 or subject.get_attributes_for_oid(NameOID.COMMON_NAME) != list(subject):
        yield "subject", "a domain-validated subject has at most a common name"
    if not {(0, value) for value in common_names} <= set(names):
        yield "common_name", "the common name is not a name of the subjectAltName"


def _extension_faults(certificate: x509.Certificate, extensions: _Extensions, issuer: Issuer) -> Iterator[Fault]:
    usage = _extension(extensions, x509.ExtendedKeyUsage)
    if usage is None or list(usage.value) != [ExtendedKeyUsageOID.SERVER_AUTH]:
        yield "extended_key_usage", "serverAuth alone is certified"
    key_id = _extension(extensions, x509.AuthorityKeyIdentifier)
    if key_id is None or key_id.value.key_identifier != issuer.key_id:
        yield "authority_key_identifier", "it is not the issuer's key identifier"
    access = _extension(extensions, x509.AuthorityInformationAccess)
    locations = [] if access is None else [(item.access_method, str(item.access_location.value))
                                           for item in access.value]
    methods = [method for method, _ in locations]
    if methods == [AuthorityInformationAccessOID.CA_ISSUERS]:
        if _length_s(certificate) > limits_at(certificate.not_valid_before_utc).longest_short_life_s:
            yield "ocsp_missing", "only a short-lived certificate may leave out where OCSP is"
    elif methods != [AuthorityInformationAccessOID.OCSP, AuthorityInformationAccessOID.CA_ISSUERS]:
        yield "authority_information_access", "one OCSP and one caIssuers location, in this order"
    for method, url in locations:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.netloc or parts.query or parts.fragment:
            yield "authority_information_access", f"{url} is not a plain http URL"
        if method == AuthorityInformationAccessOID.OCSP and parts.path:
            yield "ocsp_url", f"{url} has a path: the URL of a GET request would grow (RFC 6960 A.1)"
    points = _extension(extensions, x509.CRLDistributionPoints)
    if points is None or len(points.value) != 1:
        yield "crl_distribution_points", "one CRL distribution point"


def _transparency_faults(extensions: _Extensions) -> Iterator[Fault]:
    """RFC 6962 3.1, 3.3: a precertificate has the critical poison and no SCTs, a certificate perhaps SCTs; both last,
    so that what a log has signed is the certificate without its last extension."""
    poison = _extension(extensions, x509.PrecertPoison)
    scts = _extension(extensions, x509.PrecertificateSignedCertificateTimestamps)
    if poison is not None and (scts is not None or not poison.critical):
        yield "poison", "the poison is not critical, or stands beside an SCT list"
    if scts is not None and (scts.critical or not list(scts.value)
                             or len({sct.log_id for sct in scts.value}) != len(scts.value)):
        yield "sct_list", "the SCT list is critical, empty, or has two SCTs of one log"
    found = poison or scts
    if found is not None and next(reversed(extensions.values())) is not found:
        yield "transparency_order", "poison and SCT list stand last"


def _entry_faults(crl_der: bytes, revoked: der.Element | None) -> Iterator[Fault]:
    entries = [] if revoked is None else der.children(crl_der, revoked)
    if revoked is not None and not entries:
        yield "crl_empty_list", "revokedCertificates is absent when there are none (RFC 5280 5.1.2.6)"
    last = b""
    good = set()        # what stands behind a serial number is the same for very many
    for entry in entries:
        first = der.read(crl_der, entry.content, end=entry.end)
        serial, rest = der.contents(crl_der, first), crl_der[first.end:entry.end]
        if serial <= last:
            yield "crl_order", f"serial number {serial.hex()} is repeated or not in order"
            return
        last = serial
        if rest in good:
            continue
        parts = der.children(crl_der, entry)
        if len(parts) == 3 and not _is_allowed_reason(crl_der, parts[2]):
            yield "crl_reason", f"the entry of {serial.hex()} has another extension, or a reason that is not allowed"
            return
        good.add(rest)


def _is_allowed_reason(crl_der: bytes, extensions: der.Element) -> bool:
    found = der.children(crl_der, extensions)
    if len(found) != 1:
        return False
    oid, value = der.children(crl_der, found[0])
    code = der.contents(crl_der, der.read(crl_der, value.content, end=value.end, tag=der.ENUMERATED))
    return (der.whole(crl_der, oid) == _REASON and len(code) == 1
            and code[0] in ALLOWED_REASONS and code[0] != UNSPECIFIED)


def _by_oid(signed: x509.Certificate | x509.CertificateRevocationList) -> _Extensions:
    """The extensions, in their order."""
    return {extension.oid: extension for extension in signed.extensions}


def _extension(extensions: _Extensions, kind: type[_ExtensionType]) -> x509.Extension[_ExtensionType] | None:
    return extensions.get(kind.oid)
