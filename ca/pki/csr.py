"""Certification requests (PKCS#10, RFC 2986): they give us a key and names, and nothing else (rows FI1 to FI7).

The structure is walked here, strictly: what is ignored is not even parsed, what is used has one form only. The proof of
possession is checked by `cryptography`.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from ca.pki import der
from ca.pki.identifier import Identifier, IdentifierError, parse_identifier
from ca.pki.public_key import CertificateKey, PublicKeyError, require_acceptable

MAX_CSR_OCTETS: Final = 16_384

_VERSION_1: Final = der.integer(0)
_EXTENSION_REQUEST: Final = der.object_identifier("1.2.840.113549.1.9.14")
_COMMON_NAME: Final = der.object_identifier("2.5.4.3")
_SUBJECT_ALT_NAME: Final = der.object_identifier("2.5.29.17")
_BASIC_CONSTRAINTS: Final = der.object_identifier("2.5.29.19")
_REFUSED_EXTENSIONS: Final = {
    der.object_identifier("2.5.29.30"): "name constraints",
    der.object_identifier("2.5.29.32"): "certificate policies",
    der.object_identifier("1.3.6.1.5.5.7.1.24"): "TLS features (must-staple)",
}
_SIGNATURE_HASHES: Final = ("sha224", "sha256", "sha384", "sha512")

_ATTRIBUTES: Final = 0xA0            # [0] IMPLICIT SET OF Attribute
_DNS_NAME: Final = 0x82              # [2] IMPLICIT IA5String
_IP_ADDRESS: Final = 0x87            # [7] IMPLICIT OCTET STRING
# Latin-1 for the types of one octet a character: what is not ASCII is refused with the name itself.
_STRING_ENCODINGS: Final = {der.UTF8_STRING: "utf-8", der.PRINTABLE_STRING: "latin-1", 0x14: "latin-1",
                            0x16: "latin-1", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}
_SHOWN_NAMES: Final = 5


class CsrFault(Enum):
    """What is wrong with a certification request; the value is stored and shown to operators."""

    ENCODING = "encoding"
    SIGNATURE = "signature"
    KEY = "key"
    NAMES = "names"
    EXTENSION = "extension"


class CsrError(Exception):
    """The request is refused (badCSR); `detail` says what to change in it."""

    def __init__(self, reason: CsrFault, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Csr:
    """What we take from a request: the key, whose possession is proved, and the names of SAN and CN together."""

    key: CertificateKey
    names: frozenset[Identifier]

    @property
    def spki_der(self) -> bytes:
        """SubjectPublicKeyInfo exactly as in the request."""
        return self.key.spki_der

    @property
    def key_type(self) -> str:
        """'rsa' or 'ec'."""
        return self.key.kind


def parse_csr(csr_der: bytes, *, single_label: bool = False) -> Csr:
    """The key and names of a request whose signature is valid. Raises CsrError.

    `single_label` admits names such as `localhost`, for the certificates of our own services.
    """
    if len(csr_der) > MAX_CSR_OCTETS:
        raise CsrError(CsrFault.ENCODING, f"a CSR has at most {MAX_CSR_OCTETS} octets")
    try:
        spki_der, subject, extensions = _split(csr_der)
        names = {*_common_names(subject, single_label), *_alternative_names(extensions, single_label)}
        _require_harmless(extensions)
    except (der.DerError, UnicodeDecodeError) as fault:
        raise CsrError(CsrFault.ENCODING, f"not a PKCS#10 request in DER: {fault}") from fault
    try:
        key = require_acceptable(spki_der)
    except PublicKeyError as fault:
        raise CsrError(CsrFault.KEY, f"the key of the CSR is not acceptable: {fault.detail}") from fault
    _require_signature(csr_der)
    if not names:
        raise CsrError(CsrFault.NAMES, "the CSR has no name: neither a subjectAltName nor a common name")
    return Csr(key=key, names=frozenset(names))


def require_names(csr: Csr, identifiers: Iterable[Identifier]) -> None:
    """Returns when the request names exactly these identifiers (RFC 8555 7.4). Raises CsrError."""
    ordered = frozenset(identifiers)
    differences = [f"{text} {', '.join(_shown(names))}"
                   for text, names in (("the CSR also asks for", csr.names - ordered),
                                       ("the CSR leaves out", ordered - csr.names)) if names]
    if differences:
        raise CsrError(CsrFault.NAMES, f"the names of the CSR are not those of the order: {'; '.join(differences)}")


def _split(csr_der: bytes) -> tuple[bytes, bytes, dict[bytes, bytes]]:
    """SubjectPublicKeyInfo, subject Name and the requested extensions (OID -> value) of a CertificationRequest."""
    outer = der.children(csr_der, der.read_only(csr_der, der.SEQUENCE))
    if [element.tag for element in outer] != [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING]:
        raise der.DerError("a CertificationRequest has three parts")
    info = der.children(csr_der, outer[0])
    if [element.tag for element in info[:3]] != [der.INTEGER, der.SEQUENCE, der.SEQUENCE] or len(info) > 4:
        raise der.DerError("a CertificationRequestInfo has version, subject, key and attributes")
    if der.whole(csr_der, info[0]) != _VERSION_1:
        raise der.DerError("the version is not 1")
    extensions: dict[bytes, bytes] = {}
    if len(info) == 4:
        if info[3].tag != _ATTRIBUTES:
            raise der.DerError("the attributes are not tagged [0]")
        extensions = _requested_extensions(csr_der, info[3])
    return der.whole(csr_der, info[2]), der.whole(csr_der, info[1]), extensions


def _requested_extensions(csr_der: bytes, attributes: der.Element) -> dict[bytes, bytes]:
    requests = []
    for attribute in der.children(csr_der, attributes):
        parts = der.children(csr_der, attribute)
        if [part.tag for part in parts] != [der.OBJECT_IDENTIFIER, der.SET]:
            raise der.DerError("an attribute has a type and a set of values")
        if der.whole(csr_der, parts[0]) == _EXTENSION_REQUEST:
            requests += der.children(csr_der, parts[1])
    if len(requests) > 1:
        raise der.DerError("there are two extension requests")
    extensions: dict[bytes, bytes] = {}
    for extension in (der.children(csr_der, requests[0]) if requests else []):
        parts = der.children(csr_der, extension)
        if len(parts) not in (2, 3) or parts[0].tag != der.OBJECT_IDENTIFIER or parts[-1].tag != der.OCTET_STRING:
            raise der.DerError("an extension has an OID, perhaps a criticality, and a value")
        oid = der.whole(csr_der, parts[0])
        if oid in extensions:
            raise der.DerError("an extension is there twice")
        extensions[oid] = der.contents(csr_der, parts[-1])
    return extensions


def _common_names(subject: bytes, single_label: bool) -> list[Identifier]:
    """FI3: the CN counts as a name, an IP address written in it as an address; an empty one as none."""
    found = []
    for relative in der.children(subject, der.read_only(subject, der.SEQUENCE)):
        for attribute in der.children(subject, relative):
            parts = der.children(subject, attribute)
            if len(parts) != 2 or parts[0].tag != der.OBJECT_IDENTIFIER:
                raise der.DerError("an attribute of the subject has a type and a value")
            if der.whole(subject, parts[0]) != _COMMON_NAME:
                continue
            if parts[1].tag not in _STRING_ENCODINGS:
                raise der.DerError("the common name is not a string")
            text = der.contents(subject, parts[1]).decode(_STRING_ENCODINGS[parts[1].tag])
            if text:
                found.append(_identifier("common name", "ip" if _is_address(text) else "dns", text, single_label))
    return found


def _alternative_names(extensions: dict[bytes, bytes], single_label: bool) -> list[Identifier]:
    value = extensions.get(_SUBJECT_ALT_NAME)
    if value is None:
        return []
    found = []
    for name in der.children(value, der.read_only(value, der.SEQUENCE)):
        octets = der.contents(value, name)
        if name.tag == _DNS_NAME:
            found.append(_identifier("dNSName", "dns", octets.decode("latin-1"), single_label))
        elif name.tag == _IP_ADDRESS and len(octets) in (4, 16):
            found.append(_identifier("iPAddress", "ip", str(ipaddress.ip_address(octets)), single_label))
        else:
            raise CsrError(CsrFault.NAMES, "the subjectAltName may hold dNSName and iPAddress entries only")
    if not found:
        raise CsrError(CsrFault.NAMES, "the subjectAltName of the CSR is empty")
    return found


def _identifier(what: str, kind: str, text: str, single_label: bool) -> Identifier:
    try:
        return parse_identifier(kind, text, single_label=single_label)
    except IdentifierError as fault:
        raise CsrError(CsrFault.NAMES, f"{what} of the CSR: {fault.detail}") from fault


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _require_harmless(extensions: dict[bytes, bytes]) -> None:
    """FI6: what would make another kind of certificate is refused, not dropped; the rest is ignored."""
    for oid, what in _REFUSED_EXTENSIONS.items():
        if oid in extensions:
            raise CsrError(CsrFault.EXTENSION, f"the CSR asks for {what}; certificates of this CA do not have them")
    value = extensions.get(_BASIC_CONSTRAINTS)
    if value is None:
        return
    constraints = der.children(value, der.read_only(value, der.SEQUENCE))
    if constraints and constraints[0].tag == der.BOOLEAN and any(der.contents(value, constraints[0])):
        raise CsrError(CsrFault.EXTENSION, "the CSR asks for a CA certificate")


def _require_signature(csr_der: bytes) -> None:
    """FI4: the proof of possession, with a hash that is still good (SHA-2)."""
    try:
        request = x509.load_der_x509_csr(csr_der)
        hash_algorithm = request.signature_hash_algorithm
        if hash_algorithm is None or hash_algorithm.name not in _SIGNATURE_HASHES:
            raise CsrError(CsrFault.SIGNATURE, "the CSR must be signed with SHA-256, SHA-384 or SHA-512")
        if not request.is_signature_valid:
            raise CsrError(CsrFault.SIGNATURE, "the signature of the CSR is not by its key")
    except UnsupportedAlgorithm as fault:
        raise CsrError(CsrFault.SIGNATURE, "the signature algorithm of the CSR is not supported") from fault
    except (ValueError, TypeError, x509.InvalidVersion) as fault:
        raise CsrError(CsrFault.ENCODING, f"not a PKCS#10 request in DER: {fault}") from fault


def _shown(names: frozenset[Identifier]) -> list[str]:
    shown = [name.value for name in sorted(names)[:_SHOWN_NAMES]]
    return shown if len(names) <= _SHOWN_NAMES else [*shown, f"and {len(names) - _SHOWN_NAMES} more"]
