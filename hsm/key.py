"""Private keys in a token as cryptography private keys, for its certificate and CRL builders, and a bulk path.

Hashing is done here and the token gets a digest (RSA: CKM_RSA_PKCS over a DigestInfo; EC: CKM_ECDSA, whose r||s becomes
DER): little to transfer, and the same for every module. The hash of an EC key follows its curve (BR 7.1.3.2.2). Only
PKCS#1 v1.5 is offered for RSA: PSS is legal for CAs and accepted by fewer clients.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NoReturn, Self

import pkcs11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric import utils as asymmetric
from cryptography.hazmat.primitives.serialization import Encoding, KeySerializationEncryption, PrivateFormat
from pkcs11 import Attribute, Mechanism

from hsm.errors import ExportRefusedError, KeyUnsuitableError
from hsm.public_key import PublicKey, public_key_of_object, spki
from hsm.token import Token

# DigestInfo up to the digest, DER (RFC 8017 9.2 note 1).
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_CURVE_HASH = {"secp256r1": "sha256", "secp384r1": "sha384"}
_RSA_HASH = "sha256"


class _HsmKey:
    """What both kinds of key share: where the key is, and a handle that is found again after a lost session."""

    _mechanism: Mechanism
    _hash_name: str

    def __init__(self, token: Token, label: str, public_key: PublicKey) -> None:
        self._token = token
        self._label = label
        self._spki = spki(public_key)
        self._generation = -1
        self._handle: Any = None
        self._signature_bytes = 0
        self._pin_each_time = False

    @property
    def label(self) -> str:
        """CKA_LABEL, the name of the key."""
        return self._label

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self._spki

    def sign_prepared(self, inputs: Sequence[bytes]) -> list[bytes]:
        """Raw signatures over what the mechanism takes. After a lost session it goes on where it stopped."""
        done: list[bytes] = []

        def act(session: Any) -> list[bytes]:
            handle = self._find(session)
            sign, mechanism, size, add = handle.sign, self._mechanism, self._signature_bytes, done.append
            if self._pin_each_time:
                for data in inputs[len(done):]:
                    add(sign(data, mechanism=mechanism, buffer_size=size, pin=self._token.read_pin()))
            else:
                for data in inputs[len(done):] if done else inputs:
                    add(sign(data, mechanism=mechanism, buffer_size=size))
            return done

        return self._token.within(act)

    def _find(self, session: Any) -> Any:
        """The object handle. After a reconnection it is looked up again, and must still be the same key."""
        if self._generation != self._token.generation:
            private, public = self._token.find_pair(session, self._label)
            if spki(public_key_of_object(public)) != self._spki:
                raise KeyUnsuitableError(f"key {self._label!r} is another key than before: its token was exchanged")
            self._handle = private
            self._pin_each_time = _flag(private, Attribute.ALWAYS_AUTHENTICATE)
            self._generation = self._token.generation
        return self._handle

    def private_bytes(
        self, encoding: Encoding, format: PrivateFormat, encryption_algorithm: KeySerializationEncryption
    ) -> NoReturn:
        """Refused."""
        raise ExportRefusedError(f"key {self._label!r} stays in its token")

    def private_numbers(self) -> NoReturn:
        """Refused."""
        raise ExportRefusedError(f"key {self._label!r} stays in its token")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise ExportRefusedError(f"key {self._label!r} stays in its token")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._label!r}>"


class HsmRsaKey(_HsmKey, rsa.RSAPrivateKey):
    """An RSA key in a token; signs with PKCS#1 v1.5."""

    _mechanism = Mechanism.RSA_PKCS
    _hash_name = _RSA_HASH

    def __init__(self, token: Token, label: str, public_key: rsa.RSAPublicKey) -> None:
        super().__init__(token, label, public_key)
        self._public_key = public_key
        self._signature_bytes = (public_key.key_size + 7) // 8

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public_key.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """The public half."""
        return self._public_key

    def decrypt(self, ciphertext: bytes, padding: object) -> NoReturn:
        """Refused: a CA key signs."""
        raise KeyUnsuitableError(f"key {self._label!r} signs, it does not decrypt")

    def sign(
        self,
        data: bytes | bytearray | memoryview,
        padding: object,
        algorithm: asymmetric.Prehashed | hashes.HashAlgorithm | asymmetric.NoDigestInfo,
    ) -> bytes:
        """One signature, as cryptography's builders ask for it. PKCS#1 v1.5 with SHA-256, SHA-384 or SHA-512 only."""
        if not isinstance(padding, _PKCS1v15):
            raise KeyUnsuitableError(f"key {self._label!r} signs with PKCS#1 v1.5 padding alone")
        name, digest = _digest(data, algorithm)
        if name not in _DIGEST_INFO:
            raise KeyUnsuitableError(f"key {self._label!r} does not sign {name} digests")
        return self.sign_prepared([_DIGEST_INFO[name] + digest])[0]


class HsmEcKey(_HsmKey, ec.EllipticCurvePrivateKey):
    """A P-256 or P-384 key in a token; signs with ECDSA over the curve's own hash."""

    _mechanism = Mechanism.ECDSA

    def __init__(self, token: Token, label: str, public_key: ec.EllipticCurvePublicKey) -> None:
        super().__init__(token, label, public_key)
        self._public_key = public_key
        self._hash_name = _CURVE_HASH[public_key.curve.name]
        self._signature_bytes = 2 * ((public_key.curve.key_size + 7) // 8)

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256 or P-384."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve."""
        return self._public_key.curve.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public_key

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Refused: a CA key signs."""
        raise KeyUnsuitableError(f"key {self._label!r} signs, it does not agree on keys")

    def sign(
        self, data: bytes | bytearray | memoryview, signature_algorithm: ec.EllipticCurveSignatureAlgorithm
    ) -> bytes:
        """One signature, as cryptography's builders ask for it; DER."""
        if not isinstance(signature_algorithm, ec.ECDSA):
            raise KeyUnsuitableError(f"key {self._label!r} signs with ECDSA alone")
        name, digest = _digest(data, signature_algorithm.algorithm)
        if name != self._hash_name:
            raise KeyUnsuitableError(f"key {self._label!r} signs {self._hash_name} digests, not {name} (BR 7.1.3.2.2)")
        return ecdsa_signature_der(self.sign_prepared([digest])[0])


HsmPrivateKey = HsmRsaKey | HsmEcKey
_PKCS1v15 = padding.PKCS1v15


def private_key(token: Token, label: str, *, expected_spki: bytes | None = None) -> HsmPrivateKey:
    """The key pair with the label. Raises KeyNotFoundError unless there is exactly one, and KeyUnsuitableError when its
    public key is not the expected one (a certificate's) or of an algorithm that we do not sign with."""

    def act(session: Any) -> HsmPrivateKey:
        private, public = token.find_pair(session, label)
        shown = public_key_of_object(public)
        if expected_spki is not None and spki(shown) != expected_spki:
            raise KeyUnsuitableError(f"key {label!r} in the token is not the key of its certificate: the token or the "
                                     "certificate belongs to another CA")
        if not _flag(private, Attribute.SIGN):
            raise KeyUnsuitableError(f"key {label!r} may not sign (CKA_SIGN is false)")
        if isinstance(shown, rsa.RSAPublicKey):
            return HsmRsaKey(token, label, shown)
        return HsmEcKey(token, label, shown)

    return token.within(act)


def sign_many(key: HsmPrivateKey, messages: Sequence[bytes]) -> list[bytes]:
    """Signatures over the messages, in order: sha256WithRSAEncryption, or ecdsa-with-SHA256 / -SHA384 by the curve.

    As fast as a bare loop over the module. The caller verifies: all of them, or in bulk a sample of each batch.
    """
    if isinstance(key, HsmRsaKey):
        prefix = _DIGEST_INFO[_RSA_HASH]
        return key.sign_prepared([prefix + hashlib.sha256(message).digest() for message in messages])
    hash_of: Callable[[bytes], Any] = hashlib.sha256 if key.key_size == 256 else hashlib.sha384
    return ecdsa_signatures_der(key.sign_prepared([hash_of(message).digest() for message in messages]))


def ecdsa_signatures_der(raw: Sequence[bytes]) -> list[bytes]:
    """`ecdsa_signature_der` of each: in bulk, half of its time, because nearly all are of one of four forms."""
    half = max(1, len(raw[0]) // 2) if raw else 1
    size, frames = 2 * half, _der_frames(half)
    made: list[bytes] = []
    for signature in raw:
        frame = frames[signature[0]][signature[half]] if len(signature) == size else None
        made.append(ecdsa_signature_der(signature) if frame is None else
                    frame[0] + signature[:half] + frame[1] + signature[half:])
    return made


@cache
def _der_frames(half: int) -> list[list[tuple[bytes, bytes] | None]]:
    """By the first octets of r and s, what DER has before r and before s, which are so many octets each; None where one
    begins with a zero and may be shorter."""
    def frame(r_padding: int, s_padding: int) -> tuple[bytes, bytes]:
        before_r = bytes((0x30, 2 * half + 4 + r_padding + s_padding, 0x02, half + r_padding)) + bytes(r_padding)
        return before_r, bytes((0x02, half + s_padding)) + bytes(s_padding)

    rows: list[list[tuple[bytes, bytes] | None]] = [
        [None, *[frame(padding, 0)] * 127, *[frame(padding, 1)] * 128] for padding in (0, 1)]
    return [[None] * 256, *[rows[0]] * 127, *[rows[1]] * 128]


def ecdsa_signature_der(raw: bytes) -> bytes:
    """Ecdsa-Sig-Value (RFC 5480): r||s of the token as two minimal, positive INTEGERs."""
    half = len(raw) // 2
    r, s = raw[:half].lstrip(b"\0"), raw[half:].lstrip(b"\0")
    if not (r and s) or len(raw) != 2 * half:
        raise KeyUnsuitableError("the token gave an ECDSA signature that is not two positive numbers")
    if r[0] & 0x80:
        r = b"\0" + r
    if s[0] & 0x80:
        s = b"\0" + s
    return b"\x30%c\x02%c%b\x02%c%b" % (len(r) + len(s) + 4, len(r), r, len(s), s)


def _digest(data: bytes | bytearray | memoryview, algorithm: object) -> tuple[str, bytes]:
    """Name and value of the digest that is signed; `data` itself when it was hashed before."""
    if isinstance(algorithm, asymmetric.Prehashed):
        name = algorithm._algorithm.name
        if len(data) != algorithm.digest_size:
            raise KeyUnsuitableError(f"a {name} digest has {algorithm.digest_size} bytes, not {len(data)}")
        return name, bytes(data)
    if not isinstance(algorithm, hashes.HashAlgorithm):
        raise KeyUnsuitableError(f"{algorithm!r} is not a hash algorithm")
    if algorithm.name not in _DIGEST_INFO:
        raise KeyUnsuitableError(f"{algorithm.name} is not a hash that we sign with")
    return algorithm.name, hashlib.new(algorithm.name, data).digest()


def _flag(item: Any, attribute: Attribute) -> bool:
    """A boolean attribute; some tokens do not know it, which means false."""
    try:
        return bool(item[attribute])
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive):
        return False
