"""TLS between the primary perspective and the remote ones: 1.3, both ends show a certificate, both are pinned.

Nobody vouches for anybody: each end has a file with the very certificates that the other may show (two while one is
being replaced), and no certificate authority, ours or another, can make one that passes.
"""

import ssl
from pathlib import Path
from typing import Final

from cryptography import x509

from ca.process.lifecycle import StartupError

_NO_CA: Final = "expected the other end's own certificate, not one of a certificate authority"


def server_context(*, certificate: Path, key: Path, clients: Path) -> ssl.SSLContext:
    """Of a remote perspective: nobody gets past the handshake who does not hold a key of `clients`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return _set_up(context, certificate=certificate, key=key, peers=clients)


def client_context(*, certificate: Path, key: Path, server: Path) -> ssl.SSLContext:
    """Of the primary perspective, for one remote perspective; its name does not matter, its certificate does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _set_up(context, certificate=certificate, key=key, peers=server)


def _set_up(context: ssl.SSLContext, *, certificate: Path, key: Path, peers: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # A pinned certificate is a trust anchor although somebody else issued it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as fault:
        raise StartupError(f"{certificate}, {key}: expected a certificate and its key, PEM: {_why(fault)}") from fault
    _require_end_entities(peers)
    context.load_verify_locations(cafile=peers)
    return context


def _require_end_entities(path: Path) -> None:
    """Raises StartupError unless the file holds certificates and none of them could issue others."""
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise StartupError(f"{path}: expected certificates, PEM: {fault}") from fault
    for certificate in certificates:
        try:
            is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_ca = certificate.version is x509.Version.v1
        if is_ca:
            raise StartupError(f"{path}: {certificate.subject.rfc4514_string()}: {_NO_CA}")


def _why(fault: OSError) -> str:
    return fault.strerror or str(fault)
