"""Signatures by keys that live in the session alone: they show that a token works, and how fast, and are nobody's.

No CA key signs anything that is not in the audit log, so the health of a token is tried with a key that is made for it
and gone with the session.
"""

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.util.ec import encode_named_curve_parameters

from hsm.errors import TokenFaultError
from hsm.generate import KeySpec
from hsm.key import ecdsa_signature_der
from hsm.public_key import public_key_of_object
from hsm.token import Token

_MESSAGE = b"Chancery: does this token sign?"
_DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
_PRIVATE = {Attribute.TOKEN: False, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.SIGN: True,
            Attribute.DERIVE: False}
_PUBLIC = {Attribute.TOKEN: False, Attribute.VERIFY: True}


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRate:
    """How fast one session signs with one kind of key."""

    spec: KeySpec
    signatures: int
    seconds: float

    @property
    def per_s(self) -> float:
        """Signatures a second."""
        return self.signatures / self.seconds if self.seconds else 0.0


def try_token(token: Token) -> float:
    """Makes a P-256 key (RSA-2048 where the module knows no curves), signs, verifies, forgets the key; the seconds of
    the signature.

    A lost session heals on the way. Raises TokenLostError, or TokenFaultError for a signature that does not verify.
    """
    def act(session: Any) -> float:
        data, mechanism = hashlib.sha256(_MESSAGE).digest(), Mechanism.ECDSA
        try:
            public, private = _key_pair(session, KeySpec.P_256)
        except pkcs11.MechanismInvalid:
            public, private = _key_pair(session, KeySpec.RSA_2048)
            data, mechanism = _DIGEST_INFO_SHA256 + data, Mechanism.RSA_PKCS
        try:
            begun_s = time.perf_counter()
            raw = private.sign(data, mechanism=mechanism)
            took_s = time.perf_counter() - begun_s
            _require_valid(public, raw)
        finally:
            _forget(public, private)
        return took_s

    return token.within(act)


def signing_rate(token: Token, spec: KeySpec, *, seconds_s: float) -> SigningRate | None:
    """Signs for so many seconds with a key of the session; None: the module makes no such keys. Raises HsmError."""
    def act(session: Any) -> SigningRate | None:
        try:
            public, private = _key_pair(session, spec)
        except pkcs11.MechanismInvalid:
            return None
        digest = hashlib.sha384 if spec is KeySpec.P_384 else hashlib.sha256
        data = digest(_MESSAGE).digest()
        mechanism, size = Mechanism.ECDSA, 2 * (spec.bits // 8)
        if spec.is_rsa:
            data, mechanism, size = _DIGEST_INFO_SHA256 + data, Mechanism.RSA_PKCS, spec.bits // 8
        try:
            count, begun_s = 0, time.perf_counter()
            while (took_s := time.perf_counter() - begun_s) < seconds_s or not count:
                private.sign(data, mechanism=mechanism, buffer_size=size)
                count += 1
        finally:
            _forget(public, private)
        return SigningRate(spec=spec, signatures=count, seconds=took_s or seconds_s)

    return token.within(act, heal=False)


def _key_pair(session: Any, spec: KeySpec) -> tuple[Any, Any]:
    named: dict[str, Any] = {"store": False, "capabilities": pkcs11.MechanismFlag(0),
                             "private_template": dict(_PRIVATE), "public_template": dict(_PUBLIC)}
    if spec.is_rsa:
        public, private = session.generate_keypair(KeyType.RSA, spec.bits, **named)
    else:
        parameters = session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(f"secp{spec.bits}r1")}, local=True)
        public, private = parameters.generate_keypair(**named)
    return public, private


def _require_valid(public: Any, raw: bytes) -> None:
    key = public_key_of_object(public)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(raw, _MESSAGE, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(ecdsa_signature_der(raw), _MESSAGE, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as fault:
        raise TokenFaultError("the token gave a signature that does not verify: take it out of service") from fault


def _forget(*items: Any) -> None:
    for item in items:
        item.destroy()
