"""How people write what they mean: an id or its URL, a serial number in any usual form, a key, a reason.

Every function raises CommandError with the form that was expected; nothing here asks the database.
"""

import base64
import binascii
import hashlib
import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import idna
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from ca.admin.context import CommandError, ExitCode
from ca.pki import object_id

_SERIAL_BYTES = 18
_SHORTEST_PREFIX = 8
_SHA256_BYTES = 32
_HEX = re.compile(r"[0-9a-f]+")
_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialRange:
    """The serial numbers that what was typed may mean: one, or all with a prefix."""

    text: str
    first: bytes
    last: bytes


def parse_id(text: str, *, of: str) -> object_id.ObjectId:
    """The id in a bare id or in a URL of this server; `of` names what is expected ('order', 'account')."""
    ids = [found for part in text.strip().split("/") if (found := object_id.from_text(part)) is not None]
    if len(ids) != 1:
        raise CommandError(f"{text!r} is not {_article(of)} id: expected its URL, or the 30 characters at its end",
                           ExitCode.USAGE)
    return ids[0]


def parse_serial(text: str) -> SerialRange:
    """36 hexadecimal digits (colons, spaces, upper case, a leading 0x are fine), decimal, a certificate URL, or a
    prefix of at least 8 digits."""
    if "/" in text:
        # .../acme/cert/<serial>/<order id>: of all parts the serial number alone is 36 hexadecimal digits.
        text = next((part for part in text.split("/") if len(part) == 2 * _SERIAL_BYTES and _HEX.fullmatch(part)), text)
    digits = re.sub(r"[:\s]", "", text).lower().removeprefix("0x")
    if len(digits) > 2 * _SERIAL_BYTES and digits.isascii() and digits.isdecimal():
        number = int(digits)
        if number.bit_length() <= 8 * _SERIAL_BYTES:
            serial = number.to_bytes(_SERIAL_BYTES, "big")
            return SerialRange(text=text, first=serial, last=serial)
    # Some programs cut the leading zero of a number.
    digits = "0" + digits if len(digits) == 2 * _SERIAL_BYTES - 1 else digits
    if not _HEX.fullmatch(digits) or not _SHORTEST_PREFIX <= len(digits) <= 2 * _SERIAL_BYTES:
        raise CommandError(f"{text!r} is not a serial number: expected 36 hexadecimal digits, at least the first "
                           f"{_SHORTEST_PREFIX} of them, the decimal number, or a certificate URL", ExitCode.USAGE)
    return SerialRange(text=text, first=bytes.fromhex(digits.ljust(2 * _SERIAL_BYTES, "0")),
                       last=bytes.fromhex(digits.ljust(2 * _SERIAL_BYTES, "f")))


def parse_key(text: str) -> bytes:
    """SHA-256 of a SubjectPublicKeyInfo: its hexadecimal or base64 form, or of the key in a PEM or DER file."""
    digits = text.replace(":", "").lower()
    if len(digits) == 2 * _SHA256_BYTES and _HEX.fullmatch(digits):
        return bytes.fromhex(digits)
    try:
        value = base64.b64decode(text.removeprefix("sha256/") + "=", validate=False)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) == _SHA256_BYTES and len(text.removeprefix("sha256/")) in (43, 44):
        return value
    path = Path(text)
    if path.is_file():
        return hashlib.sha256(_spki_of_file(path)).digest()
    raise CommandError(f"{text!r} is not a key: expected the SHA-256 of its SubjectPublicKeyInfo in hexadecimal or "
                       "base64, or a file with a certificate, a certification request or a public key", ExitCode.USAGE)


def key_of_file(text: str) -> bytes | None:
    """The SubjectPublicKeyInfo in a file that `parse_key` would read; None when the text is a hash."""
    path = Path(text)
    return _spki_of_file(path) if path.is_file() else None


def _spki_of_file(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise CommandError(f"{path} cannot be read: {fault.strerror}") from fault
    for load in (x509.load_pem_x509_certificate, x509.load_pem_x509_csr, x509.load_der_x509_certificate,
                 x509.load_der_x509_csr):
        try:
            return load(data).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except ValueError:
            continue
    for load_key in (load_pem_public_key, load_der_public_key):
        try:
            return load_key(data).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except ValueError:
            continue
    raise CommandError(f"{path} holds no certificate, certification request or public key", ExitCode.USAGE)


def parse_name(text: str) -> str:
    """A DNS name or an IP address as it stands in certificates: lower case, A-labels, no dot at its end."""
    name = text.strip().rstrip(".").lower()
    with suppress(ValueError):
        return str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    try:
        name = ".".join(label if label.isascii() else idna.encode(label, uts46=True).decode("ascii")
                        for label in name.split("."))
    except idna.IDNAError as fault:
        raise CommandError(f"{text!r} is not a name: {fault}", ExitCode.USAGE) from fault
    if not name or not _NAME.fullmatch(name):
        raise CommandError(f"{text!r} is not a name: expected a DNS name or an IP address", ExitCode.USAGE)
    return name


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
