"""New key pairs in a token, with every attribute said explicitly and read back.

python-pkcs11's own templates let EC keys derive and be modified, so nothing is left to defaults. A key whose attributes
read back otherwise (it was ever outside, may leave, may do more than sign) is destroyed and never used (BR 6.1.1.1,
6.2.6: generated in the module, never in plain text outside of it).
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

from hsm.errors import HsmError, KeyGenerationError
from hsm.key import HsmPrivateKey, HsmRsaKey, private_key, sign_many
from hsm.token import Token

_RSA_EXPONENT = 65_537
_PROOF = b"Chancery: a new key pair signs once, to show that its halves belong together."
_NOT_KNOWN = (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, pkcs11.FunctionFailed)
_TEMPLATE_REFUSED = (
    pkcs11.TemplateInconsistent, pkcs11.TemplateIncomplete, pkcs11.AttributeTypeInvalid, pkcs11.AttributeValueInvalid,
    pkcs11.AttributeReadOnly,
)


class KeySpec(Enum):
    """The keys that a CA of ours may have (spec of the profiles: RSA 2048..4096, P-256, P-384)."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    P_256 = "p-256"
    P_384 = "p-384"

    @property
    def is_rsa(self) -> bool:
        """RSA, else EC."""
        return self.value.startswith("rsa")

    @property
    def bits(self) -> int:
        """Of the modulus or of the curve."""
        return int(self.value.rpartition("-")[2])


PRIVATE_TEMPLATE: Mapping[Attribute, Any] = {
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.SIGN: True,
    Attribute.SIGN_RECOVER: False,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
    Attribute.MODIFIABLE: False,
    Attribute.COPYABLE: False,
}
# Not every module knows these. One that refuses a template is asked again without the one or the other, because what is
# not asked for is what the module likes: they are read back where they can be.
_OPTIONAL = (Attribute.COPYABLE, Attribute.SIGN_RECOVER)
_LEFT_OUT: Sequence[Collection[Attribute]] = ((), _OPTIONAL[:1], _OPTIONAL[1:], _OPTIONAL)
_PUBLIC_TEMPLATE: Mapping[Attribute, Any] = {
    Attribute.TOKEN: True,
    Attribute.PRIVATE: False,
    Attribute.VERIFY: True,
    Attribute.ENCRYPT: False,
    Attribute.WRAP: False,
    Attribute.MODIFIABLE: False,
}
# What the module says about the key's history; nobody can set these.
_HISTORY: Mapping[Attribute, Any] = {
    Attribute.ALWAYS_SENSITIVE: True,
    Attribute.NEVER_EXTRACTABLE: True,
    Attribute.LOCAL: True,
}


def generate_key(
    token: Token,
    *,
    label: str,
    key_id: bytes,
    spec: KeySpec,
    private_template: Mapping[Attribute, Any] = PRIVATE_TEMPLATE,
) -> HsmPrivateKey:
    """A new key pair, checked. `key_id` (CKA_ID of both halves) is the caller's randomness; the label must be free.

    Raises KeyGenerationError when the label is taken, the token cannot, or the key is not what a CA key must be; then
    both halves have been destroyed.
    """
    if any(key.label == label for key in token.list_keys()):
        raise KeyGenerationError(f"the token has a key labelled {label!r} already: a key is made once; choose another "
                                 "label, or destroy the old key if it was never used")
    public, private = token.within(
        lambda session: _generate(session, label, key_id, spec, dict(private_template)), heal=False)
    try:
        faults = [*_faults(private, {**PRIVATE_TEMPLATE, **_HISTORY}), *_faults(public, _PUBLIC_TEMPLATE),
                  *_identity_faults(public, private, label, key_id)]
        if faults:
            raise KeyGenerationError(f"the token made key {label!r} otherwise than asked ({'; '.join(faults)}): it was "
                                     "destroyed; use a token that keeps to the attributes")
        key = private_key(token, label)
        _require_spec(key, spec)
        _require_pair(key)
    except (HsmError, pkcs11.PKCS11Error) as fault:
        _destroy(public, private)
        if isinstance(fault, KeyGenerationError):
            raise
        raise KeyGenerationError(f"key {label!r} failed its checks and was destroyed: {fault}") from fault
    return key


def destroy_key(token: Token, *, label: str, key_id: bytes) -> int:
    """Destroys both halves of a key that was made in vain; the number of objects destroyed."""

    def act(session: Any) -> int:
        items = [item for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY) for item in list(
            session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label, Attribute.ID: key_id}))]
        for item in items:
            item.destroy()
        return len(items)

    return token.within(act, heal=False)


def _generate(
    session: Any, label: str, key_id: bytes, spec: KeySpec, private_template: dict[Attribute, Any]
) -> tuple[Any, Any]:
    for left_out in _LEFT_OUT[:-1]:
        with suppress(*_TEMPLATE_REFUSED):
            return _generate_once(session, label, key_id, spec, _without(private_template, left_out))
    return _generate_once(session, label, key_id, spec, _without(private_template, _LEFT_OUT[-1]))


def _without(template: Mapping[Attribute, Any], left_out: Collection[Attribute]) -> dict[Attribute, Any]:
    return {name: value for name, value in template.items() if name not in left_out}


def _generate_once(
    session: Any, label: str, key_id: bytes, spec: KeySpec, private_template: dict[Attribute, Any]
) -> tuple[Any, Any]:
    """(public, private). `capabilities` stays empty: each capability is in the templates."""
    named: dict[str, Any] = {
        "id": key_id, "label": label, "store": True, "capabilities": pkcs11.MechanismFlag(0),
        "private_template": private_template, "public_template": dict(_PUBLIC_TEMPLATE),
    }
    if spec.is_rsa:
        public, private = session.generate_keypair(KeyType.RSA, spec.bits, **named)
    else:
        parameters = session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(f"secp{spec.bits}r1")}, local=True)
        public, private = parameters.generate_keypair(**named)
    return public, private


def _faults(item: Any, wanted: Mapping[Attribute, Any]) -> list[str]:
    """'CKA_EXTRACTABLE is True' for each attribute that is not as wanted."""
    faults = []
    for attribute, value in wanted.items():
        try:
            found = item[attribute]
        except _NOT_KNOWN:
            if attribute in _OPTIONAL or not value:
                continue        # A capability that the token does not know is one that the key does not have.
            found = "unknown"
        if found != value:
            faults.append(f"CKA_{attribute.name} is {found}")
    return faults


def _identity_faults(public: Any, private: Any, label: str, key_id: bytes) -> list[str]:
    """Both halves carry the same label and id."""
    return [f"CKA_{attribute.name} of the {half} half is {item[attribute]!r}"
            for half, item in (("public", public), ("private", private))
            for attribute, value in ((Attribute.LABEL, label), (Attribute.ID, key_id)) if item[attribute] != value]


def _require_spec(key: HsmPrivateKey, spec: KeySpec) -> None:
    public = key.public_key()
    right = isinstance(key, HsmRsaKey) == spec.is_rsa and key.key_size == spec.bits
    if isinstance(public, rsa.RSAPublicKey) and public.public_numbers().e != _RSA_EXPONENT:
        right = False       # BR 6.1.6
    if not right:
        raise KeyGenerationError(f"key {key.label!r} is not {spec.value}: it was destroyed")


def _require_pair(key: HsmPrivateKey) -> None:
    """One signature by the private half is verified with the public one."""
    signature = sign_many(key, [_PROOF])[0]
    public = key.public_key()
    try:
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, _PROOF, padding.PKCS1v15(), hashes.SHA256())
        else:
            public.verify(signature, _PROOF, ec.ECDSA(hashes.SHA256() if key.key_size == 256 else hashes.SHA384()))
    except InvalidSignature as fault:
        raise KeyGenerationError(f"the halves of key {key.label!r} do not belong together: destroyed") from fault


def _destroy(*items: Any) -> None:
    for item in items:
        try:
            item.destroy()
        except pkcs11.PKCS11Error as fault:
            raise KeyGenerationError("a key with wrong attributes could not be destroyed: destroy it by hand, or "
                                     "initialise the token again") from fault
