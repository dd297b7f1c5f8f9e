"""The issuers of this CA with their keys in the HSM: found at start, checked, and refused when anything is odd."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ca.issuing.issuer_store import StoredIssuer, Switches
from ca.pki import der
from ca.pki.issuer import Issuer, read_issuer
from ca.pki.key_identifier import key_identifier
from ca.pki.refusal import Refusal, RefusalReason
from ca.process.lifecycle import StartupError
from hsm.errors import HsmError
from hsm.key import HsmPrivateKey, private_key
from hsm.token import Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An issuer whose key is in our token."""

    id: int
    name: str
    issuer: Issuer
    crl_shards: int
    key: HsmPrivateKey


def open_authorities(token: Token, stored: Sequence[StoredIssuer], now: datetime) -> dict[int, Authority]:
    """Every issuer whose certificate has not expired, by id; runs in the token's thread.

    Raises StartupError when there is none, when a key is missing or is not the certificate's, and when the token holds
    the key of a root: who signs online must not reach it (spec/pki.md 8.4).
    """
    live = [(row, issuer) for row, issuer in ((row, _read(row)) for row in stored)
            if issuer.validity.not_after > now]
    if not live:
        raise StartupError("there is no issuer with a valid certificate: make one in a ceremony "
                           "(`chancery ceremony`; `chancery demo` does it by itself)")
    try:
        _require_no_root_key(token, [issuer for _, issuer in live])
        return {row.id: Authority(
            id=row.id, name=row.name, issuer=issuer, crl_shards=row.crl_shards,
            key=private_key(token, row.name, expected_spki=issuer.spki_der)) for row, issuer in live}
    except HsmError as fault:
        raise StartupError(str(fault)) from fault


def lives(row: StoredIssuer, now: datetime) -> bool:
    """Whether the issuer's certificate has not ended. Raises StartupError when it cannot be read."""
    return _read(row).validity.not_after > now


def choose(
    authorities: Mapping[int, Authority], switches: Switches, kind: Literal["rsa", "ec"], *, until: datetime
) -> Authority:
    """The issuer for a leaf key of this kind and a certificate that ends at `until`: the newest that works and lives
    longer, else the newest that works, which ends too soon. Raises Refusal when there is none."""
    fitting = [authority for authority in authorities.values() if authority.issuer.key_type == kind
               and authority.id in switches.active and authority.id not in switches.disabled]
    if not fitting:
        raise Refusal(RefusalReason.BAD_PUBLIC_KEY, f"this CA has no active issuer for {kind.upper()} keys at present")
    return max(fitting, key=lambda authority: (authority.issuer.validity.not_after >= until, authority.id))


def _read(row: StoredIssuer) -> Issuer:
    try:
        return read_issuer(row.certificate)
    except ValueError as fault:
        raise StartupError(f"the certificate of issuer {row.name!r} cannot be used: {fault}") from fault


def _require_no_root_key(token: Token, issuers: Sequence[Issuer]) -> None:
    """A key that an issuer's certificate names as its signer's is a root's; so is a self-signed issuer's."""
    signers = {issuer.authority_key_id for issuer in issuers}
    roots = {issuer.spki_der for issuer in issuers if issuer.authority_key_id in (None, issuer.key_id)}
    for listing in token.list_keys():
        if listing.spki is not None and signers & _key_identifiers(listing.spki):
            roots.add(listing.spki)
    token.require_without(roots)


def _key_identifiers(spki_der: bytes) -> set[bytes]:
    """By RFC 7093, as our ceremonies make them, and by RFC 5280 4.2.1.2 (1), as older CAs have them."""
    bits = der.children(spki_der, der.read_only(spki_der, der.SEQUENCE))[1]
    return {key_identifier(spki_der), hashlib.sha1(der.contents(spki_der, bits)[1:], usedforsecurity=False).digest()}
