"""Lints what is about to be signed, under a key that is thrown away (BR 4.3.1.2, spec 4).

The TBS does not contain the issuer's key, so the linted object and the real one share one byte string: what was linted
is what is signed. The throw-away keys live in this process's memory only and are of the issuer's kind and size.
"""

import hashlib
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.pki.issuer import Issuer
from ca.pki.lint import (
    allowances,
    crl_allowances,
    lint_certificate,
    lint_crl,
    require_clean,
    warm_up,
)
from ca.pki.profile import PROFILES
from ca.pki.tbs import assemble


class Prelint:
    """The linters with one throw-away key an issuer."""

    def __init__(self, *, public: bool) -> None:
        self._public = public
        self._keys: dict[bytes, Any] = {}
        warm_up()

    @staticmethod
    def digest(tbs: bytes) -> str:
        """What the audit log names the bytes by."""
        return hashlib.sha256(tbs).hexdigest()

    def require_clean_certificate(self, tbs: bytes, *, profile: str, issuer: Issuer) -> None:
        """Returns when the certificate may be signed. Raises Refusal with every finding that is not allowed."""
        findings = lint_certificate(assemble(tbs, self._throw_away(tbs, issuer)), issuer)
        require_clean(findings, allowances(PROFILES[profile], public=self._public), "the certificate")

    def require_clean_crl(self, tbs: bytes, *, issuer: Issuer, url: str) -> None:
        """Returns when the CRL may be signed. Raises Refusal."""
        findings = lint_crl(assemble(tbs, self._throw_away(tbs, issuer)), issuer, url)
        require_clean(findings, crl_allowances(public=self._public), "the CRL")

    def _throw_away(self, tbs: bytes, issuer: Issuer) -> bytes:
        key = self._keys.get(issuer.key_id)
        if key is None:
            if isinstance(issuer.public_key, rsa.RSAPublicKey):
                key = rsa.generate_private_key(65_537, issuer.public_key.key_size)
            else:
                key = ec.generate_private_key(issuer.public_key.curve)
            self._keys[issuer.key_id] = key
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(tbs, padding.PKCS1v15(), hashes.SHA256())
        digest = hashes.SHA256() if key.key_size == 256 else hashes.SHA384()
        signature: bytes = key.sign(tbs, ec.ECDSA(digest))
        return signature
