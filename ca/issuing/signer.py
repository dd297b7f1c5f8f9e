"""Signatures: first one that proves nothing, for the linter, then the HSM's over the very same bytes.

The issuer's key does not occur in a TBS, so the linted object and the real one share one byte string (spec/pki.md 3.3).
What the linter sees behind it is a static value, as BR 4.3.1.2 permits: of the form and size of the issuer's
signatures, made once for each kind of issuer key, over bytes that are no certificate, by a key that nobody keeps. No
linter looks whether a signature holds: it would need the issuer's key.
"""

from collections.abc import Sequence
from functools import partial

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.issuing.audit import AuditTrail, SignedKind
from ca.issuing.authorities import Authority
from ca.issuing.breaker import TokenBreaker
from ca.pki.issuer import Issuer, PublicKey
from ca.pki.tbs import assemble
from hsm.errors import TokenLostError
from hsm.key import sign_many
from hsm.thread import HsmThread

_PADDING = padding.PKCS1v15()
_NO_TBS = b"nothing is certified here"


class SignatureFault(Exception):
    """The HSM gave a signature that does not verify. A fault of the module, never a refusal; nothing is stored."""


class Signer:
    """All that signs in this process, through the one thread of the HSM."""

    def __init__(self, thread: HsmThread, audit: AuditTrail, breaker: TokenBreaker | None = None) -> None:
        self._thread = thread
        self._breaker = breaker
        self._audit = audit
        self._for_lint: dict[tuple[str, int], bytes] = {}

    def prepare(self, issuer: Issuer) -> None:
        """Makes what stands for a signature of an issuer's kind of key; an RSA key takes its time, so not at the first
        certificate."""
        self._signature_for_lint(issuer)

    def whole_for_lint(self, tbs: bytes, issuer: Issuer) -> bytes:
        """Certificate or CRL over `tbs` with a signature that proves nothing."""
        return assemble(tbs, self._signature_for_lint(issuer))

    async def sign(self, authority: Authority, kind: SignedKind, messages: Sequence[bytes]) -> list[bytes]:
        """Signatures over the messages, each verified with the issuer's public key before it goes anywhere.

        What the caller has recorded about them is on disk before the HSM is asked. Raises SignatureFault, an HsmError
        when the token does not answer, AuditLogError; all of them are asked for again later.
        """
        if self._breaker is not None:
            self._breaker.require_closed()
        try:
            signatures = await self._audit.flush_before(self._thread.run, partial(sign_many, authority.key, messages))
        except TokenLostError as fault:
            if self._breaker is not None:
                self._breaker.trip(fault)
            raise
        for message, signature in zip(messages, signatures, strict=True):
            try:
                _verify(authority.issuer.public_key, signature, message)
            except InvalidSignature as fault:
                self._audit.signature_rejected(kind, key=authority.name, tbs=message)
                raise SignatureFault(f"key {authority.name!r} gave a signature that does not verify: is the HSM broken?"
                                     ) from fault
            self._audit.signed(kind, key=authority.name, tbs=message, signature=signature)
        return signatures

    def _signature_for_lint(self, issuer: Issuer) -> bytes:
        public = issuer.public_key
        kind = (issuer.key_type, public.key_size)
        if kind not in self._for_lint:
            self._for_lint[kind] = (
                rsa.generate_private_key(65_537, public.key_size).sign(_NO_TBS, _PADDING, hashes.SHA256())
                if isinstance(public, rsa.RSAPublicKey)
                else ec.generate_private_key(public.curve).sign(_NO_TBS, ec.ECDSA(_hash_of(public.curve))))
        return self._for_lint[kind]


def _verify(key: PublicKey, signature: bytes, message: bytes) -> None:
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, message, _PADDING, hashes.SHA256())
    else:
        key.verify(signature, message, ec.ECDSA(_hash_of(key.curve)))


def _hash_of(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    """BR 7.1.3.2.2: the hash follows the curve."""
    return hashes.SHA256() if curve.key_size == 256 else hashes.SHA384()
