"""tls-alpn-01: a self-signed certificate shown to who asks for the ALPN protocol acme-tls/1 (RFC 8737, RFC 8738 6)."""

import ipaddress
import ssl
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from acme_api.protocol.challenge import tls_alpn_digest
from acme_api.va.dial import Connection, Dialer, Endpoint, Host, client_context, tls_failure, tls_reason
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from ca.pki.identifier import Identifier

_ALPN: Final = "acme-tls/1"
_ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_MAX_READ_BYTES: Final = 262_144


class TlsAlpn01:
    """Validates tls-alpn-01 challenges. After the handshake the connection is closed and nothing is sent (TA1)."""

    def __init__(self, *, dialer: Dialer, port: int = 443) -> None:
        self._dialer = dialer
        self._port = port
        self._context = client_context(alpn=_ALPN)

    async def validate(self, identifier: Identifier, key_authorization: str, evidence: Evidence) -> None:
        """Returns when the right certificate was shown; raises ValidationFailure otherwise."""
        host: Host = ipaddress.ip_address(identifier.value) if identifier.type == "ip" else identifier.value
        async with self._dialer.dial(
            host, self._port, max_read_bytes=_MAX_READ_BYTES, evidence=evidence
        ) as connection:
            der = await self._first_certificate(connection, _server_name(host), evidence)
            endpoint = connection.endpoint
        fault = _fault_of(der, identifier, tls_alpn_digest(key_authorization))
        evidence.add("certificate", str(endpoint), bytes=len(der), fault=fault)
        if fault is not None:
            raise ValidationFailure("incorrectResponse", f"the certificate that {endpoint} showed {fault}")

    async def _first_certificate(self, connection: Connection, server_name: str, evidence: Evidence) -> bytes:
        endpoint = connection.endpoint
        evidence.wait_for(f"waiting for the TLS handshake of {endpoint}")
        try:
            tls = await connection.start_tls(self._context, server_name)
        except ssl.SSLError as fault:
            evidence.add("tls", str(endpoint), fault=tls_reason(fault))
            raise _handshake_failure(endpoint, fault) from fault
        selected = tls.selected_alpn_protocol()
        evidence.add("tls", str(endpoint), version=tls.version(), alpn=selected, sni=server_name)
        if selected != _ALPN:
            raise _not_selected(endpoint)
        der = tls.getpeercert(binary_form=True)
        if der is None:
            raise ValidationFailure("incorrectResponse", f"{endpoint} showed no certificate")
        return der


def _server_name(host: Host) -> str:
    """SNI: the name, or the reverse-mapping name of an address without a final dot (RFC 8738 6)."""
    return host if isinstance(host, str) else host.reverse_pointer


def _not_selected(endpoint: Endpoint) -> ValidationFailure:
    return ValidationFailure("incorrectResponse", f"{endpoint} did not select the ALPN protocol {_ALPN}")


def _handshake_failure(endpoint: Endpoint, fault: ssl.SSLError) -> ValidationFailure:
    """Alert 120 is the server's way to say that it does not know acme-tls/1 (RFC 7301 3.2), so that is what we say."""
    if "no application protocol" in tls_reason(fault):
        return _not_selected(endpoint)
    return tls_failure(endpoint, fault)


def _fault_of(der: bytes, identifier: Identifier, digest: bytes) -> str | None:
    """What is wrong with the certificate (TA3-TA5), in words that follow "the certificate that … showed"; else None."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return "has no subjectAltName"
    except x509.DuplicateExtension:
        return "has an extension twice"
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType):
        return "cannot be parsed"
    return (_fault_of_names(names, identifier) or _fault_of_extension(extensions, digest)
            or _fault_of_signature(certificate))


def _fault_of_names(names: list[x509.GeneralName], identifier: Identifier) -> str | None:
    if len(names) != 1:
        return f"has {len(names)} names in its subjectAltName, expected exactly one"
    name = names[0]
    if identifier.type == "ip":
        expected = ipaddress.ip_address(identifier.value)
        matches = isinstance(name, x509.IPAddress) and name.value == expected
    else:
        matches = isinstance(name, x509.DNSName) and _fold(name.value) == _fold(identifier.value)
    return None if matches else "has another name in its subjectAltName"


def _fold(name: str) -> str:
    """ASCII lower case alone: str.lower would fold characters of other scripts into these."""
    return "".join(chr(ord(letter) | 0x20) if "A" <= letter <= "Z" else letter for letter in name)


def _fault_of_extension(extensions: x509.Extensions, digest: bytes) -> str | None:
    """RFC 8737 3: critical, and an OCTET STRING of the 32 octets inside the OCTET STRING of every extension."""
    try:
        extension = extensions.get_extension_for_oid(_ACME_IDENTIFIER)
    except x509.ExtensionNotFound:
        return "has no acmeIdentifier extension (OID 1.3.6.1.5.5.7.1.31)"
    if not extension.critical:
        return "has an acmeIdentifier extension that is not critical"
    assert isinstance(extension.value, x509.UnrecognizedExtension)  # noqa: S101 - cryptography knows no such class
    value = extension.value.value
    if len(value) != 34 or value[:2] != b"\x04\x20":
        return "has an acmeIdentifier extension that does not hold an OCTET STRING of 32 bytes"
    return None if value[2:] == digest else "has an acmeIdentifier extension with a different value"


def _fault_of_signature(certificate: x509.Certificate) -> str | None:
    """TA3: self-signed; its dates and its purposes are not looked at."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return "is not self-signed"
    return None
