"""Carries out revocation requests (BR 4.9.1.1, RFC 8555 7.6). Nothing here signs: OCSP and CRLs follow from the rows.

Idempotent: what is revoked stays as it is, unless the reason becomes keyCompromise. A proof that a key is lost (the
certificate's key signed the request, or an operator saw the proof) revokes every unexpired certificate with that key
(row RV6), and the key is never certified again, because the cycle looks for it among the revocations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from structlog.typing import FilteringBoundLogger

from ca.issuing import revocation_store as store
from ca.issuing.audit import AuditTrail
from ca.issuing.revocation_store import IssuedCertificate, RevocationRequest, StoredRevocation
from ca.issuing.store import notify
from ca.pki.revocation import (
    KEY_COMPROMISE,
    Revocation,
    effective_reason,
    next_revocation,
    proves_key_compromise,
)
from ca.process.ambient import Ambient
from ca.process.postgres import Pool

BATCH: Final = 500


@dataclass(slots=True, kw_only=True)
class _Plan:
    """What a batch of requests comes to, one entry for each serial number."""

    known: dict[bytes, Revocation]
    changes: dict[bytes, StoredRevocation] = field(default_factory=dict)
    certificates: dict[bytes, IssuedCertificate] = field(default_factory=dict)

    def apply(self, request: RevocationRequest, certificate: IssuedCertificate, reason: int, now: datetime) -> None:
        """Takes up what a request changes for a certificate."""
        serial = certificate.serial
        change = next_revocation(self.known.get(serial), serial=serial, reason=reason, now=now)
        if change is None:
            return
        self.known[serial] = change
        self.certificates[serial] = certificate
        # Whose revocation it was stays; the evidence of an upgrade replaces that of the reason before.
        first = self.changes.get(serial)
        self.changes[serial] = StoredRevocation(revocation=change, evidence=request.evidence,
                                                authority=first.authority if first else request.authority)


async def revoke_requested(
    pool: Pool, ambient: Ambient, audit: AuditTrail, log: FilteringBoundLogger
) -> list[IssuedCertificate] | None:
    """Carries out a batch of requests in one transaction: the certificates whose status changed, None for no request.

    Also None while another process does it.
    """
    if not await store.is_asked(pool):
        return None
    async with pool.acquire() as connection:
        async with connection.transaction():
            if not await store.lock_revocations(connection):
                return None
            requests = await store.requests(connection, BATCH)
            if not requests:
                return None
            # Whole seconds are what CRLs and OCSP responses can say.
            now = ambient.now().replace(microsecond=0)
            issued = await store.certificates(connection, [request.serial for request in requests])
            burnt = _burnt_keys(requests, issued)
            siblings = await store.with_keys(connection, list(burnt), now=now) if burnt else {}
            plan = _Plan(known=await store.revocations(connection, [*issued, *siblings]))
            for request in requests:
                _take_up(plan, request, issued, siblings, now, log)
            if plan.changes:
                changes = list(plan.changes.values())
                await store.revoke(connection, changes)
                await store.ask_for_ocsp(connection, [(plan.certificates[change.revocation.serial],
                                                       change.revocation.version) for change in changes], now=now)
            await store.end_requests(connection, [request.id for request in requests])
        for change in plan.changes.values():
            audit.revoked(serial=change.revocation.serial.hex(), reason=change.revocation.reason,
                          version=change.revocation.version, authority=change.authority)
        await notify(connection, [("ocsp_due", ""), *(("changed", request.id.hex()) for request in requests)])
    return list(plan.certificates.values())


def _burnt_keys(requests: Sequence[RevocationRequest], issued: Mapping[bytes, IssuedCertificate]) -> set[bytes]:
    return {issued[request.serial].spki_sha256 for request in requests if request.serial in issued
            and proves_key_compromise(_reason(request), request.authority)}


def _reason(request: RevocationRequest) -> int:
    """What the request comes to; -1 for a reason that the front end should not have let through."""
    try:
        return effective_reason(request.reason, request.authority)
    except ValueError:
        return -1


def _take_up(
    plan: _Plan,
    request: RevocationRequest,
    issued: Mapping[bytes, IssuedCertificate],
    siblings: Mapping[bytes, IssuedCertificate],
    now: datetime,
    log: FilteringBoundLogger,
) -> None:
    certificate, reason = issued.get(request.serial), _reason(request)
    if certificate is None or reason < 0:
        log.error("revocation request dropped", serial=request.serial.hex(), reason=request.reason,
                  why="this serial number was never given out" if certificate is None else "reason not allowed")
        return
    plan.apply(request, certificate, reason, now)
    if proves_key_compromise(reason, request.authority):
        for sibling in siblings.values():
            if sibling.spki_sha256 == certificate.spki_sha256:
                plan.apply(request, sibling, KEY_COMPROMISE, now)
