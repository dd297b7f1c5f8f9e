"""Certifies the delegated OCSP responders, and renews them a month before they end (spec/pki.md 1.4, BR 7.1.2.8).

The pre-signer may ask for a certificate; whether there is one is decided by the CA's own configuration, and only the
newest key of an issuer gets it. As in the cycle the intent is committed before the token is asked, and what an earlier
run began is finished.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from structlog.typing import FilteringBoundLogger

from acme_api.protocol.jws import jwk_of_public_key, thumbprint
from ca.issuing import responder_store
from ca.issuing.audit import AuditTrail
from ca.issuing.authorities import Authority
from ca.issuing.evidence_store import refused
from ca.issuing.queue_store import notify
from ca.issuing.responder_store import NewResponder, ResponderKey
from ca.issuing.signer import Signer
from ca.pki.lint import lint_responder, require_clean
from ca.pki.object_id import object_id
from ca.pki.ocsp_responder import (
    PROFILE_NAME,
    RENEWED_BEFORE_END,
    Delegation,
    require_responder_key,
    responder_validity,
    tbs_responder,
)
from ca.pki.public_key import spki_sha256
from ca.pki.refusal import Refusal, RefusalReason
from ca.pki.serial import serial_hex, serial_number
from ca.pki.tbs import assemble
from ca.process.ambient import Ambient
from ca.process.postgres import Connection, Pool

# One that signs, its successor, and a key that was changed in a hurry or two.
_MOST_LIVING: Final = 6


class ResponderCertifier:
    """The delegated responders of the issuers of this process."""

    def __init__(
        self,
        *,
        pool: Pool,
        ambient: Ambient,
        delegation: Delegation,
        authorities: Mapping[int, Authority],
        signer: Signer,
        audit: AuditTrail,
        log: FilteringBoundLogger,
    ) -> None:
        self._pool = pool
        self._ambient = ambient
        self._delegation = delegation
        self._authorities = authorities
        self._signer = signer
        self._audit = audit
        self._log = log
        self.wake = asyncio.Event()

    async def certify_due(self) -> bool:
        """Certifies every key that needs it. Always False: nothing is left that a moment later could do."""
        now = self._ambient.now()
        async with self._pool.acquire() as connection, connection.transaction():
            await responder_store.lock(connection)
            for key in await responder_store.keys(connection, now=now):
                authority = self._authorities.get(key.issuer_id)
                if authority is not None and _needs_certificate(key, authority, now):
                    await self._draft(connection, key, authority, now)
        await self._finish(now)
        return False

    async def _draft(self, connection: Connection, key: ResponderKey, authority: Authority, now: datetime) -> None:
        try:
            new = await self._judge(connection, key, authority, now)
        except (Refusal, ValueError) as refusal:
            # It stays as it is: an operator sees the age of the issuer's responses, and why.
            self._log.error("an OCSP responder is not certified", issuer=authority.name, key=key.label,
                            why=str(refusal))
            return
        await responder_store.insert(connection, new, now=now)

    async def _judge(
        self, connection: Connection, key: ResponderKey, authority: Authority, now: datetime
    ) -> NewResponder:
        """The certificate without its signature, linted. Raises Refusal or ValueError."""
        if not self._delegation.holds_for(authority.issuer, authority.name):
            raise Refusal(RefusalReason.BAD_PUBLIC_KEY, "this issuer signs its responses itself, says [ocsp]")
        if key.living >= _MOST_LIVING:
            raise Refusal(RefusalReason.BAD_PUBLIC_KEY, f"the issuer has {key.living} living responders already")
        spki = require_responder_key(key.csr)
        refused_keys = (await refused(connection, [(spki_sha256(spki), thumbprint(jwk_of_public_key(spki)))])).keys
        if refused_keys or any(spki == other.issuer.spki_der for other in self._authorities.values()):
            raise Refusal(RefusalReason.BAD_PUBLIC_KEY, "the key is compromised, blocked, an account's, or a CA's")
        serial = serial_number(now, self._ambient.random_bytes(16))
        period = responder_validity(now, authority.issuer)
        tbs = tbs_responder(issuer=authority.issuer, spki_der=spki, serial=serial, validity=period)
        require_clean(lint_responder(self._signer.whole_for_lint(tbs, authority.issuer)), {}, "the certificate")
        return NewResponder(
            issuer_id=authority.id, key_label=key.label, serial=serial, not_before=period.not_before,
            not_after=period.not_after, tbs=tbs, profile=PROFILE_NAME, spki_sha256=spki_sha256(spki),
            request_id=object_id(now, self._ambient.random_bytes(16)))

    async def _finish(self, now: datetime) -> None:
        """Signs every intent that has no signature, with the issuer's own key."""
        made = False
        for intent in await responder_store.unsigned(self._pool, now=now):
            authority = self._authorities.get(intent.issuer_id)
            if authority is None:
                continue
            self._audit.signing("certificate", key=authority.name, tbs=intent.tbs, subject=serial_hex(intent.serial))
            signature = (await self._signer.sign(authority, "certificate", [intent.tbs]))[0]
            await responder_store.signed(self._pool, intent.serial, certificate=assemble(intent.tbs, signature),
                                         signature=signature, now=now)
            made = True
        if made:
            async with self._pool.acquire() as connection:
                await notify(connection, [("ocsp_responder", "")])


def _needs_certificate(key: ResponderKey, authority: Authority, now: datetime) -> bool:
    """Whether it has none, or one that ends within a month and before its issuer does."""
    until = key.certified_until
    return until is None or (until - now < RENEWED_BEFORE_END and until < authority.issuer.validity.not_after)
