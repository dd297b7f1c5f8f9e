"""The issuance cycle. CYCLE.md explains why the steps stand in this order; nobody reorders them.

A batch of claimed requests goes through each step together, so that under load they share two commits and one trip to
the token's thread, and a single request waits for nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from structlog.typing import FilteringBoundLogger

from acme_api.protocol.problem import Problem, problem_from_refusal
from ca.issuing import store
from ca.issuing.evidence import CaaIsStale, ProvenOrder, require_right
from ca.issuing.prelint import Prelint
from ca.issuing.service import SERVICE_PROFILE, require_service
from ca.issuing.signer import IssuerSigner, Signers, sign
from ca.issuing.store import ClaimedRequest, NewIntent, StoredIntent
from ca.pki.crl import ca_issuers_url, shard_url
from ca.pki.identifier import NamePolicy
from ca.pki.profile import require_profile
from ca.pki.refusal import Refusal
from ca.pki.serial import serial_number, shard
from ca.pki.tbs import StatusUrls, tbs_certificate
from ca.pki.validity import validity
from ca.process.ambient import Ambient
from ca.process.postgres import Pool
from ca.process.settings import Settings
from ca.process.worker import is_dead, worker_name
from hsm.thread import HsmThread

_LEASE: Final = timedelta(seconds=30)
_BATCH: Final = 32
_CAA_PAUSE: Final = timedelta(seconds=1)
# After this a request that cannot be finished for want of a CAA answer is refused instead of waiting on.
_CAA_PATIENCE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A request whose right to a certificate is proven."""

    request: ClaimedRequest
    account_id: bytes | None
    profile: str
    proven: ProvenOrder
    not_before: datetime | None = None
    not_after: datetime | None = None


class IssuanceCycle:
    """One CA process: its issuers, its token, its role in the database."""

    def __init__(
        self,
        *,
        pool: Pool,
        thread: HsmThread,
        signers: Signers,
        prelint: Prelint,
        settings: Settings,
        policy: NamePolicy,
        ambient: Ambient,
        log: FilteringBoundLogger,
    ) -> None:
        self._pool = pool
        self._thread = thread
        self._signers = signers
        self._prelint = prelint
        self._settings = settings
        self._policy = policy
        self._ambient = ambient
        self._log = log
        self._worker = worker_name()

    async def free_dead_leases(self) -> None:
        """Takes back at once what a killed process of this host held."""
        holders = await store.lease_holders(self._pool, now=self._ambient.now())
        dead = [worker for worker in holders if is_dead(worker)]
        if dead:
            await store.free_leases(self._pool, dead)

    async def issue_claimed(self) -> bool:
        """One batch through the whole cycle; returns whether there was any."""
        # 1. Claim, and see what an earlier run has left.
        requests = await store.claim(self._pool, worker=self._worker, now=self._ambient.now(), lease=_LEASE,
                                     limit=_BATCH)
        if not requests:
            return False
        left = await store.intents(self._pool, [request.id for request in requests])
        signed = [intent.request_id for intent in left.values() if intent.signed]
        if signed:
            async with self._pool.acquire() as connection:
                await store.end_requests(connection, signed)
        # 2. Derive the right to issue anew. A refusal is final; what has to wait for CAA goes back to the queue.
        wanted = await self._derive([request for request in requests if request.id not in left])
        # 3. Serial number and TBSCertificate, linted under a throw-away key.
        intents = [intent for item in wanted if (intent := await self._prepare(item)) is not None]
        # 4. Commit the intent: from here on the serial number counts as given out (OCSP and CRL cover it).
        if intents:
            async with self._pool.acquire() as connection:
                ours = await store.commit_intents(connection, intents, now=self._ambient.now())
        else:
            ours = set()
        unsigned = [StoredIntent(request_id=item.request_id, serial=item.serial, issuer_id=item.issuer_id, tbs=item.tbs,
                                 signed=False) for item in intents if item.request_id in ours]
        unsigned += [intent for intent in left.values() if not intent.signed]
        # 5 to 8 for each issuer.
        for issuer_id in {intent.issuer_id for intent in unsigned}:
            await self._sign(self._signers.by_id[issuer_id], [item for item in unsigned if item.issuer_id == issuer_id])
        return True

    async def _sign(self, signer: IssuerSigner, intents: Sequence[StoredIntent]) -> None:
        # 5. Audit what is about to be signed.
        for intent in intents:
            self._log.info("signing certificate", audit=True, serial=intent.serial.hex(), issuer=signer.name,
                           tbs_sha256=self._prelint.digest(intent.tbs))
        # 6. The HSM signs exactly the committed bytes. 7. Each signature is verified before anything else happens.
        signatures = await sign(self._thread, signer, [intent.tbs for intent in intents])
        # [Certificate Transparency: the signed object would be a precertificate, and its submission stands here.]
        # 8. Commit the certificates and end the requests.
        async with self._pool.acquire() as connection:
            await store.commit_signatures(
                connection, [(intent.request_id, intent.serial, signature)
                             for intent, signature in zip(intents, signatures, strict=True)], now=self._ambient.now())
        for intent in intents:
            self._log.info("signed certificate", audit=True, serial=intent.serial.hex(), issuer=signer.name)

    async def _derive(self, requests: Sequence[ClaimedRequest]) -> list[_Wanted]:
        by_kind = {kind: [request for request in requests if request.kind == kind] for kind in ("order", "service")}
        return [*await self._derive_orders(by_kind["order"]), *await self._derive_services(by_kind["service"])]

    async def _derive_orders(self, requests: Sequence[ClaimedRequest]) -> list[_Wanted]:
        if not requests:
            return []
        orders = await store.orders(self._pool, [request.id for request in requests])
        validations = await store.validations(
            self._pool, [key for order in orders.values() for key in order.authorization_ids])
        changes = await store.key_changes(self._pool, sorted({order.account_id for order in orders.values()}))
        wanted, waiting = [], []
        for request in requests:
            order = orders.get(request.id)
            if order is None:
                self._log.error("a request in the queue has no finalized order", order=request.id.hex())
                continue
            now = self._ambient.now()
            try:
                proven = require_right(order, validations, changes.get(order.account_id, ()), now=now,
                                       base_url=self._settings.acme.base_url, policy=self._policy)
            except Refusal as refusal:
                await self._refuse(request, problem_from_refusal(refusal))
            except CaaIsStale:
                if now - request.requested_at > _CAA_PATIENCE:
                    await self._refuse(request, Problem("serverInternal", "the CAA records could not be looked at in "
                                                                          "time; order again"))
                else:
                    waiting.append(request.id)
            else:
                wanted.append(_Wanted(request=request, account_id=order.account_id, profile=order.profile,
                                      proven=proven, not_before=order.not_before, not_after=order.not_after))
        if waiting:
            await store.defer(self._pool, waiting, until=self._ambient.now() + _CAA_PAUSE, worker=self._worker)
        return wanted

    async def _derive_services(self, requests: Sequence[ClaimedRequest]) -> list[_Wanted]:
        if not requests:
            return []
        csrs = await store.service_csrs(self._pool, [request.id for request in requests])
        wanted = []
        for request in requests:
            try:
                proven = require_service(csrs[request.id], self._settings.ca.service_names)
            except Refusal as refusal:
                await self._refuse(request, problem_from_refusal(refusal))
            else:
                wanted.append(_Wanted(request=request, account_id=None, profile=SERVICE_PROFILE, proven=proven))
        return wanted

    async def _prepare(self, item: _Wanted) -> NewIntent | None:
        """Step 3 for one request; None when it was refused, or when there is no issuer and it stays in the queue."""
        key = item.proven.csr.key
        try:
            signer = self._signers.for_key(key.kind)
        except LookupError as fault:
            self._log.error("cannot issue", reason=str(fault), request=item.request.id.hex())
            return None
        now = self._ambient.now()
        serial = serial_number(now, self._ambient.random_bytes(16))
        ca = self._settings.ca
        try:
            profile = require_profile(item.profile, item.proven.identifiers)
            period = validity(now, length_s=profile.length_s, issuer=signer.issuer.validity,
                              requested_not_before=item.not_before, requested_not_after=item.not_after)
            tbs = tbs_certificate(
                profile=profile, issuer=signer.issuer, serial=serial, validity=period,
                identifiers=item.proven.identifiers, key=key,
                urls=StatusUrls(ocsp=ca.ocsp_url, ca_issuers=ca_issuers_url(ca.aia_base_url, signer.name),
                                crl=shard_url(ca.crl_base_url, signer.name, shard(serial, signer.crl_shards))))
            self._prelint.require_clean_certificate(tbs, profile=profile.name, issuer=signer.issuer)
        except Refusal as refusal:
            await self._refuse(item.request, problem_from_refusal(refusal))
            return None
        return NewIntent(
            request_id=item.request.id, account_id=item.account_id, serial=serial, issuer_id=signer.id,
            profile=profile.name, not_before=period.not_before, not_after=period.not_after, spki_sha256=key.sha256,
            names=tuple(identifier.value for identifier in item.proven.identifiers), tbs=tbs)

    async def _refuse(self, request: ClaimedRequest, problem: Problem) -> None:
        self._log.info("refused", audit=True, request=request.id.hex(), type=problem.type, detail=problem.detail)
        async with self._pool.acquire() as connection:
            await store.commit_refusal(connection, request.id, problem.to_json(), now=self._ambient.now())
