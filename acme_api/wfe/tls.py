"""The server's TLS: a context that takes a new certificate without a restart, and the files that it comes from.

The private key is made here and never leaves the machine; the certificate is our own CA's (service_certificate.py) or
whatever an operator puts into the files, which are looked at every minute.
"""

import ipaddress
import os
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from ca.process.lifecycle import StartupError

_RENEW_AT: Final = 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where certificate (with its chain) and private key are."""

    certificate: Path
    key: Path


def new_context() -> ssl.SSLContext:
    """TLS 1.2 and later, HTTP/1.1 by ALPN; without a certificate yet (RFC 8555 6.1, row T1)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def load(context: ssl.SSLContext, files: TlsFiles) -> None:
    """New connections use what is in the files. Raises OSError or ssl.SSLError; then the old certificate stays."""
    # A fresh context first: a pair that does not fit would leave the live one without a usable certificate.
    new_context().load_cert_chain(files.certificate, files.key)
    context.load_cert_chain(files.certificate, files.key)


def read_certificate(files: TlsFiles) -> x509.Certificate | None:
    """The certificate in the file when it is one and goes with the key, else None."""
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        new_context().load_cert_chain(files.certificate, files.key)
    except (OSError, ValueError):
        return None
    return certificate


def is_due(certificate: x509.Certificate | None, now: datetime, names: list[str]) -> bool:
    """Whether a certificate has to be had: there is none, two thirds of its life are over, or the names differ."""
    if certificate is None or names_of(certificate) != set(names):
        return True
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begin + (end - begin) * _RENEW_AT


def is_usable(certificate: x509.Certificate | None, now: datetime) -> bool:
    """Whether clients would take it at this moment."""
    return (certificate is not None
            and certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc - timedelta(seconds=1))


def names_of(certificate: x509.Certificate) -> set[str]:
    """The names of the certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*names.get_values_for_type(x509.DNSName),
            *(str(each) for each in names.get_values_for_type(x509.IPAddress))}


def make_key() -> bytes:
    """A new P-256 key, PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_csr(key_pem: bytes, names: list[str]) -> bytes:
    """A certification request for names and IP addresses, DER."""
    key = load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StartupError("the TLS key is not an EC key")
    names_extension = x509.SubjectAlternativeName([_general_name(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.add_extension(names_extension, critical=True).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def write_pair(files: TlsFiles, *, certificate_pem: bytes, key_pem: bytes) -> None:
    """Puts both files in place, the key first, each as a whole and on disk. The key is readable by its owner alone."""
    for path, content, mode in ((files.key, key_pem, 0o600), (files.certificate, certificate_pem, 0o644)):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
