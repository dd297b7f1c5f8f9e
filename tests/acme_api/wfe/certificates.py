"""TLS certificates for servers under test, made on the spot."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from acme_api.wfe.tls import TlsFiles, write_pair


def self_signed_pair(directory: Path, *names: str) -> TlsFiles:
    """A new key and a certificate of its own, put in place in `directory`."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(x509.random_serial_number())
        .public_key(key.public_key()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256()))
    files = TlsFiles(certificate=directory / "certificate.pem", key=directory / "key.pem")
    write_pair(files, certificate_pem=certificate.public_bytes(Encoding.PEM),
               key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files
