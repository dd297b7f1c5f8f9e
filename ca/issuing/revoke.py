"""Carries out revocations (BR 4.9.1.1, RFC 8555 7.6). Nothing here signs: OCSP and CRLs follow from the rows.

Idempotent: what is revoked stays as it is, unless the reason becomes keyCompromise. A proof that a key is lost (the
certificate's key signed the request, a client sent us its private part, or an operator saw the proof) blocks the key in
the same transaction, so that it is never certified again; then every unexpired certificate with that key is revoked,
and every account that has it is closed (row RV6), in batches: the sweep. A certificate whose intent was being committed
when the key was blocked is found by a second sweep some time later.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from structlog.typing import FilteringBoundLogger

from acme_api.protocol.jws import jwk_of_public_key, thumbprint
from ca.issuing import block_store
from ca.issuing import revocation_store as store
from ca.issuing.audit import AuditTrail
from ca.issuing.block_store import BlockedKey, OperatorAct
from ca.issuing.queue_store import LEASE_S, notify
from ca.issuing.revocation_store import IssuedCertificate, RevocationRequest, StoredRevocation
from ca.pki.key_loss import NoProofError, NoRequestError, proven_loss
from ca.pki.object_id import to_text
from ca.pki.public_key import spki_of_tbs
from ca.pki.revocation import (
    KEY_COMPROMISE,
    Authority,
    Revocation,
    effective_reason,
    next_revocation,
    proves_key_compromise,
)
from ca.process.ambient import Ambient
from ca.process.postgres import Connection, Pool

BATCH: Final = 500
_SWEEP_BATCH: Final = 2_000
_MASS_BATCH: Final = 2_000
# Each certificate's key is parsed, to find its account.
_MASS_BATCH_OF_KEYS: Final = 250
# Longer than a request can be on its way between the check of its key and the commit of its intent.
_SWEEP_AGAIN: Final = timedelta(seconds=4 * LEASE_S)
# Acts that are requests to the CA; all others have happened, and are only to be recorded.
BLOCK_KEY: Final = "block key"
UNBLOCK_KEY: Final = "unblock key"


@dataclass(slots=True, kw_only=True)
class _Plan:
    """What a batch comes to, one entry for each serial number."""

    now: datetime
    known: dict[bytes, Revocation] = field(default_factory=dict)
    changes: dict[bytes, StoredRevocation] = field(default_factory=dict)
    certificates: dict[bytes, IssuedCertificate] = field(default_factory=dict)

    def apply(self, certificate: IssuedCertificate, reason: int, authority: Authority, evidence: Any) -> None:
        """Takes up what a request or a sweep changes for a certificate."""
        serial = certificate.serial
        change = next_revocation(self.known.get(serial), serial=serial, reason=reason, now=self.now)
        if change is None:
            return
        self.known[serial] = change
        self.certificates[serial] = certificate
        # Whose revocation it was stays; the evidence of an upgrade replaces that of the reason before.
        first = self.changes.get(serial)
        self.changes[serial] = StoredRevocation(revocation=change, evidence=evidence,
                                                authority=first.authority if first else authority)


async def revoke_requested(
    pool: Pool, ambient: Ambient, audit: AuditTrail, log: FilteringBoundLogger
) -> list[IssuedCertificate] | None:
    """Carries out a batch in one transaction: the certificates whose status changed, None when there was nothing to do.

    Also None while another process does it.
    """
    if not await store.is_asked(pool, now=ambient.now()):
        return None
    async with pool.acquire() as connection:
        async with connection.transaction():
            if not await store.lock_revocations(connection):
                return None
            # Whole seconds are what CRLs and OCSP responses can say.
            now = ambient.now()
            plan = _Plan(now=now.replace(microsecond=0))
            await _carry_out_acts(connection, audit, log, now)
            await _take_up_exposed(connection, audit, log, now)
            requests = await _take_up_requests(connection, plan, audit, log, now)
            await _sweep(connection, plan, audit, now)
            await _revoke_en_masse(connection, plan, audit, now)
            await _store(connection, plan)
            # Before the commit: what is rolled back is done, and recorded, once more.
            for change in plan.changes.values():
                audit.revoked(serial=change.revocation.serial.hex(), reason=change.revocation.reason,
                              version=change.revocation.version, authority=change.authority)
            await audit.flush()
        await notify(connection, [("ocsp_due", "changed"), *(("changed", request.id.hex()) for request in requests)])
    return list(plan.certificates.values())


async def _store(connection: Connection, plan: _Plan) -> None:
    if not plan.changes:
        return
    changes = list(plan.changes.values())
    await store.revoke(connection, changes)
    await store.ask_for_ocsp(connection, [(plan.certificates[change.revocation.serial], change.revocation.version)
                                          for change in changes], now=plan.now)


async def _carry_out_acts(
    connection: Connection, audit: AuditTrail, log: FilteringBoundLogger, now: datetime
) -> None:
    """Does what operators ask of the CA, and copies all that they did to the audit log."""
    acts = await block_store.open_acts(connection, BATCH)
    for act in acts:
        audit.operator_act(id=to_text(act.id), operator=act.operator, act=act.act, subject=act.subject,
                           acted_at=act.acted_at.isoformat(), detail=act.detail)
        if act.act == BLOCK_KEY:
            await _block(connection, audit, [_blocked_by_operator(act)], now)
        elif act.act == UNBLOCK_KEY and not await block_store.unblock(connection, bytes.fromhex(act.subject)):
            log.error("key not unblocked", spki_sha256=act.subject, why="it is not blocked, or its loss is proven")
    if acts:
        await block_store.record_acts(connection, [act.id for act in acts], now=now)


def _blocked_by_operator(act: OperatorAct) -> BlockedKey:
    spki = bytes.fromhex(act.detail.get("spki", ""))
    return BlockedKey(spki_sha256=bytes.fromhex(act.subject), authority="operator",
                      thumbprint=_thumbprint(spki),
                      evidence={"operator": act.operator, **{name: act.detail[name] for name in ("comment", "proof")
                                                             if act.detail.get(name)}})


async def _take_up_exposed(connection: Connection, audit: AuditTrail, log: FilteringBoundLogger, now: datetime) -> None:
    """Blocks keys whose private part a client has shown to the front end (row J17), by their own word alone."""
    exposed = await block_store.exposed(connection, BATCH)
    lost = []
    for spki_sha256, proof in exposed.items():
        try:
            loss = proven_loss(proof)
        except (NoRequestError, NoProofError) as fault:
            log.error("exposed key not blocked", spki_sha256=spki_sha256.hex(), why=str(fault))
            continue
        lost.append(BlockedKey(
            spki_sha256=hashlib.sha256(loss.spki).digest(), thumbprint=_thumbprint(loss.spki),
            authority="certificate_key", evidence={"comment": "its private part was sent in a JWK",
                                                   "proof": f"a certification request says: {loss.sentence}",
                                                   "request": proof.hex()}))
    await _block(connection, audit, lost, now)
    if exposed:
        await block_store.end_exposed(connection, list(exposed))


async def _take_up_requests(
    connection: Connection, plan: _Plan, audit: AuditTrail, log: FilteringBoundLogger, now: datetime
) -> list[RevocationRequest]:
    requests = await store.requests(connection, BATCH)
    if not requests:
        return []
    issued = await store.certificates(connection, [request.serial for request in requests])
    plan.known |= await store.revocations(connection, list(issued))
    burnt: dict[bytes, RevocationRequest] = {}
    for request in requests:
        certificate, reason = issued.get(request.serial), _reason(request)
        if certificate is None or reason < 0:
            log.error("revocation request dropped", serial=request.serial.hex(), reason=request.reason,
                      why="this serial number was never given out" if certificate is None else "reason not allowed")
            continue
        plan.apply(certificate, reason, request.authority, request.evidence)
        if proves_key_compromise(reason, request.authority):
            burnt.setdefault(certificate.spki_sha256, request)
    await _block(connection, audit, [
        BlockedKey(spki_sha256=spki_sha256, thumbprint=None, authority=request.authority, evidence=request.evidence)
        for spki_sha256, request in burnt.items()], now)
    await store.end_requests(connection, [request.id for request in requests])
    return requests


def _reason(request: RevocationRequest) -> int:
    """What the request comes to; -1 for a reason that the front end should not have let through."""
    try:
        return effective_reason(request.reason, request.authority)
    except ValueError:
        return -1


async def _block(connection: Connection, audit: AuditTrail, keys: Sequence[BlockedKey], now: datetime) -> None:
    """Blocks keys; the thumbprints that find their accounts come from certificates when nobody said them."""
    if not keys:
        return
    unknown = [key.spki_sha256 for key in keys if key.thumbprint is None]
    thumbprints = _thumbprints(await block_store.tbs_with_keys(connection, unknown)) if unknown else {}
    blocked = await block_store.block(connection, [
        BlockedKey(spki_sha256=key.spki_sha256, thumbprint=key.thumbprint or thumbprints.get(key.spki_sha256),
                   authority=key.authority, evidence=key.evidence) for key in keys], now=now)
    for key in keys:
        if key.spki_sha256 in blocked:
            audit.key_blocked(spki_sha256=key.spki_sha256.hex(), authority=key.authority)


def _thumbprints(tbs_by_key: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    found = {}
    for spki_sha256, tbs in tbs_by_key.items():
        with suppress(ValueError):      # no certificate that we made: whatever it is, the key is blocked
            found[spki_sha256] = thumbprint(jwk_of_public_key(spki_of_tbs(tbs)))
    return found


def _thumbprint(spki: bytes) -> bytes | None:
    """None when the key is not known, or of a kind that no account has."""
    try:
        return thumbprint(jwk_of_public_key(spki)) if spki else None
    except (ValueError, UnsupportedAlgorithm):
        return None


async def _sweep(connection: Connection, plan: _Plan, audit: AuditTrail, now: datetime) -> None:
    """Revokes certificates of blocked keys, and closes their accounts."""
    due = {sweep.spki_sha256: sweep for sweep in await block_store.sweeps(connection, BATCH, now=now)}
    if not due:
        return
    for account_id in await block_store.close_accounts(connection):
        audit.account_closed(account=to_text(account_id), why="its key is blocked")
    found = await block_store.with_keys(connection, list(due), _SWEEP_BATCH, now=now)
    plan.known |= await _unplanned(connection, plan, found)
    for certificate in found:
        sweep = due[certificate.spki_sha256]
        plan.apply(certificate, KEY_COMPROMISE, sweep.authority, sweep.evidence)
    if len(found) < _SWEEP_BATCH:
        await block_store.swept(connection, list(due), again=_SWEEP_AGAIN, now=now)


async def _revoke_en_masse(connection: Connection, plan: _Plan, audit: AuditTrail, now: datetime) -> None:
    """The next batch of the oldest mass revocation; a crash before the commit does it again from where it was."""
    mass = await store.mass_revocation(connection, now=now)
    if mass is None:
        return
    limit = _MASS_BATCH if mass.reason != KEY_COMPROMISE else _MASS_BATCH_OF_KEYS
    serials, certificates = await store.mass_certificates(connection, mass, limit, now=now)
    plan.known |= await _unplanned(connection, plan, certificates)
    evidence = {"incident": mass.incident}
    before = len(plan.changes)
    for certificate in certificates:
        plan.apply(certificate, mass.reason, "operator", evidence)
    if mass.reason == KEY_COMPROMISE:
        await _block(connection, audit, [
            BlockedKey(spki_sha256=spki_sha256, thumbprint=None, authority="operator", evidence=evidence)
            for spki_sha256 in {certificate.spki_sha256 for certificate in certificates}], now)
    await store.advance_mass(connection, mass, through=serials[-1] if serials else mass.through, examined=len(serials),
                             changed=len(plan.changes) - before, now=now, finished=len(serials) < limit)


async def _unplanned(
    connection: Connection, plan: _Plan, found: Iterable[IssuedCertificate]
) -> dict[bytes, Revocation]:
    """What is stored about certificates that this batch has not decided about yet."""
    serials = [certificate.serial for certificate in found if certificate.serial not in plan.known]
    return await store.revocations(connection, serials) if serials else {}
