"""Key identifiers by RFC 7093 method 1. (OCSP's issuerKeyHash is another value: SHA-1 of the same octets.)"""

import hashlib

from ca.pki import der


def key_identifier(spki_der: bytes) -> bytes:
    """Leftmost 160 bits of SHA-256 over the contents of the subjectPublicKey BIT STRING."""
    bits = der.children(spki_der, der.read_only(spki_der, der.SEQUENCE))[1]
    return hashlib.sha256(der.contents(spki_der, bits)[1:]).digest()[:20]
