"""SCTs in certificates, verified with no code of the CA's, by the logs of a list or by those of `ct_log.py`."""

import base64
import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key


class LogFacts(Protocol):
    """What is known of a log whose SCTs are verified."""

    @property
    def name(self) -> str: ...
    @property
    def log_id(self) -> bytes: ...
    @property
    def spki(self) -> bytes: ...
    @property
    def tiled(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedLog:
    """A log as a list has it."""

    name: str
    operator: str
    log_id: bytes
    spki: bytes
    tiled: bool


def listed_logs(log_list: Path) -> list[ListedLog]:
    """Every log of a list of version 3."""
    return [ListedLog(name=log["description"], operator=operator["name"], log_id=base64.b64decode(log["log_id"]),
                      spki=base64.b64decode(log["key"]), tiled=kind == "tiled_logs")
            for operator in json.loads(log_list.read_bytes())["operators"]
            for kind in ("logs", "tiled_logs") for log in operator[kind]]


def verify_embedded(certificate: x509.Certificate, issuer: x509.Certificate, logs: Iterable[LogFacts]) -> list[str]:
    """The names of the logs whose SCTs are in the certificate, each signature verified, with no code of the CA's."""
    found = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    tbs = certificate.tbs_precertificate_bytes     # cryptography takes the SCT list out by itself
    names = []
    for sct in found:
        log = next(log for log in logs if log.log_id == sct.log_id)
        milliseconds = round(sct.timestamp.timestamp() * 1000)
        message = (struct.pack(">BBQH", 0, 0, milliseconds, 1) + hashlib.sha256(spki).digest()
                   + struct.pack(">I", len(tbs))[1:] + tbs + struct.pack(">H", len(sct.extension_bytes))
                   + sct.extension_bytes)
        key = load_der_public_key(log.spki)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(sct.signature, message, ec.ECDSA(hashes.SHA256()))
        if log.tiled:
            assert sct.extension_bytes[:3] == b"\x00\x00\x05", "the leaf index is kept as the log gave it"
        names.append(log.name)
    return names
