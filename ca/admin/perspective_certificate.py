"""The certificates of the primary perspective and of remote ones: self-signed, pinned by the other end as they are."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE_DAYS: Final = 1_825
_SERIAL_BYTES: Final = 16


def make_certificate(
    name: str, *, certificate: Path, key: Path, client: bool, now: datetime, serial: bytes
) -> None:
    """Makes a P-256 key (mode 0600) and its certificate, for five years. Raises OSError; nothing is overwritten."""
    made = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    signed = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(made.public_key())
        .serial_number(int.from_bytes(serial[:_SERIAL_BYTES], "big") | 1)
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=LIFE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(made, hashes.SHA256()))
    _write(key, made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                   serialization.NoEncryption()), 0o600)
    _write(certificate, signed.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
