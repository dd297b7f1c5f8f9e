"""Issuers and their keys: what is about to be signed is linted first, what was signed is verified before it is used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.issuing.store import StoredIssuer
from ca.pki.issuer import Issuer, PublicKey, read_issuer
from ca.pki.key_identifier import key_identifier
from ca.process.lifecycle import StartupError
from hsm.errors import HsmError
from hsm.key import HsmPrivateKey, private_key, sign_many
from hsm.thread import HsmThread


class SignatureFault(Exception):
    """The token gave a signature that does not verify. Nothing is stored; an operator has to look at the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSigner:
    """An issuer whose key this process can use."""

    id: int
    name: str
    active: bool
    crl_shards: int
    issuer: Issuer
    key: HsmPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """Every issuer of this CA, by id."""

    by_id: Mapping[int, IssuerSigner]

    def for_key(self, key_type: str) -> IssuerSigner:
        """The active issuer with the same kind of key as the subscriber: RSA from RSA, EC from EC; the newest one.

        Raises LookupError when there is none.
        """
        fitting = [signer for signer in self.by_id.values() if signer.active and signer.issuer.key_type == key_type]
        if not fitting:
            raise LookupError(f"no active issuer with an {key_type.upper()} key")
        return max(fitting, key=lambda signer: signer.id)


async def open_signers(thread: HsmThread, stored: Sequence[StoredIssuer]) -> Signers:
    """Finds each issuer's key in the token. Raises StartupError.

    Refuses a token that holds a root's key: the key that signed an issuer belongs into an offline token (spec 8.4).
    """
    if not stored:
        raise StartupError("the database names no issuer: hold the ceremony first (`chancery ceremony run`)")
    issuers = {item.id: read_issuer(item.certificate) for item in stored}
    await _require_no_root(thread, list(issuers.values()))
    found = {}
    for item in stored:
        issuer = issuers[item.id]
        try:
            key = await thread.run(private_key, thread.token, item.name, expected_spki=issuer.spki_der)
        except HsmError as fault:
            raise StartupError(str(fault)) from fault
        found[item.id] = IssuerSigner(id=item.id, name=item.name, active=item.active, crl_shards=item.crl_shards,
                                      issuer=issuer, key=key)
    return Signers(by_id=found)


async def _require_no_root(thread: HsmThread, issuers: Sequence[Issuer]) -> None:
    spkis = await thread.run(thread.token.public_key_spkis)
    roots = {issuer.authority_key_id for issuer in issuers}
    for spki in spkis:
        if key_identifier(spki) in roots:
            raise StartupError("the online token holds the key of a root: move it into a token of its own, which no "
                               "online process can open")


async def sign(thread: HsmThread, signer: IssuerSigner, messages: Sequence[bytes]) -> list[bytes]:
    """Signatures over the messages, each verified with the issuer's public key. Raises SignatureFault, HsmError."""
    signatures = await thread.run(sign_many, signer.key, messages)
    for message, signature in zip(messages, signatures, strict=True):
        _require_signature(signer.issuer.public_key, signature, message)
    return signatures


def _require_signature(key: PublicKey, signature: bytes, message: bytes) -> None:
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256() if key.key_size == 256 else hashes.SHA384()))
    except InvalidSignature as fault:
        raise SignatureFault("the token's signature does not verify with the issuer's public key") from fault
