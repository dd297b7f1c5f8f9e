"""Published lists of weak keys: the forms that they name keys in (BR 6.1.1.3 (5), spec/pki.md 2).

`openssl-blacklist`: Debian's, the last 10 octets of SHA-1 over the line `Modulus=<HEX>` that openssl prints; for RSA.
`spki-sha256`: SHA-256 over the SubjectPublicKeyInfo. `modulus-sha256`: SHA-256 over the modulus, big-endian, without
zeros in front. A digest is kept behind an octet that says which form it is.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

# Form -> (first octet of its digests, octets of a digest).
FORMS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {"openssl-blacklist": (1, 10), "spki-sha256": (2, 32), "modulus-sha256": (3, 32)})
_HEX: Final = re.compile(r"[0-9a-fA-F]+")


class WeakListError(ValueError):
    """The list is not in the form that was said."""


def digests(spki_der: bytes) -> list[bytes]:
    """All that a key may be listed by. `spki_der` is a key that was accepted."""
    found = [_kept("spki-sha256", hashlib.sha256(spki_der).digest())]
    key = load_der_public_key(spki_der)
    if isinstance(key, rsa.RSAPublicKey):
        modulus = key.public_numbers().n
        line = f"Modulus={modulus:X}\n".encode("ascii")
        found.append(_kept("openssl-blacklist", hashlib.sha1(line, usedforsecurity=False).digest()[-10:]))
        found.append(_kept("modulus-sha256", hashlib.sha256(modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")
                                                            ).digest()))
    return found


def parse_list(text: str, form: str) -> Iterator[bytes]:
    """The digests of a list, as they are kept: one a line in hexadecimal; what is behind the first blank is left out,
    and so are empty lines and comments. Raises WeakListError with the line."""
    octets = FORMS[form][1]
    for number, line in enumerate(text.splitlines(), 1):
        word = line.split("#", 1)[0].split()
        if not word:
            continue
        if len(word[0]) != 2 * octets or not _HEX.fullmatch(word[0]):
            raise WeakListError(f"line {number}: expected {2 * octets} hexadecimal digits ({form}), got "
                                f"{word[0][:70]!r}")
        yield _kept(form, bytes.fromhex(word[0]))


def _kept(form: str, digest: bytes) -> bytes:
    return bytes((FORMS[form][0],)) + digest
