"""The issuance cycle. CYCLE.md tells why each step is where it is; `issue_batch` is the cycle, on one page.

A batch of claimed requests goes through each step together, so that under load the commits and the way to the HSM are
shared. The steps must not change places: each is durable before the next begins, and a process that dies between any
two leaves a request that is finished later with the serial number that it has, or begun anew when it has none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from acme_api.protocol.jws import jwk_of_public_key, thumbprint
from acme_api.protocol.problem import problem_from_refusal, server_internal
from ca.issuing import ct_store, evidence_store, intent_store, issuer_store, queue_store
from ca.issuing.audit import AuditTrail, SignedKind
from ca.issuing.authorities import Authority, choose
from ca.issuing.caa_waits import CaaWaits
from ca.issuing.evidence import Evidence, judge_order, load_evidence
from ca.issuing.evidence_store import Refused
from ca.issuing.grant import CaaIsStale, Grant
from ca.issuing.intent import NewIntent, StoredIntent
from ca.issuing.issuer_store import Switches
from ca.issuing.policy import IssuancePolicy
from ca.issuing.queue_store import ClaimedRequest
from ca.issuing.service import judge_service
from ca.issuing.signer import Signer
from ca.issuing.transparency import FIRST_WAIT_S, LogsUnavailable, Transparency, commit_finals, refuse_late
from ca.pki import weak_list
from ca.pki.blocked_name import lookup_names, require_unblocked
from ca.pki.crl import ca_issuers_url, shard_url
from ca.pki.lint import allowances, lint_certificate, require_clean
from ca.pki.object_id import object_id, to_text
from ca.pki.refusal import Refusal, RefusalReason
from ca.pki.serial import serial_hex, serial_number, shard
from ca.pki.tbs import StatusUrls, tbs_certificate
from ca.pki.validity import validity
from ca.process.ambient import Ambient
from ca.process.postgres import Connection, Pool

_SWITCHES_LIFE: Final = timedelta(seconds=1)
_CAA_WAIT_S: Final = 1.0
_BROKEN_WAIT_S: Final = 5.0
_DISABLED_WAIT_S: Final = 2.0
_LOGS_WAIT_S: Final = 5.0
# A request that breaks our own rules' code this often will break it for ever: the order ends, the log has the trace.
_MAX_BREAKS: Final = 5


async def _no_test_watches(_step: int) -> None:
    """In production nothing happens between two steps."""


@dataclass(slots=True, kw_only=True)
class IssuingProcess:
    """What the cycle works with. `after_step` is where tests stop the process between two steps."""

    pool: Pool
    ambient: Ambient
    policy: IssuancePolicy
    transparency: Transparency
    authorities: Mapping[int, Authority]
    signer: Signer
    audit: AuditTrail
    log: FilteringBoundLogger
    worker: str
    after_step: Callable[[int], Awaitable[None]] = field(default=_no_test_watches)
    caa_waits: CaaWaits = field(default_factory=CaaWaits, init=False)
    switches: Switches = field(default_factory=Switches, init=False)
    switches_read_at: datetime | None = field(default=None, init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What the rules say about a batch of requests that have no intent yet."""

    grants: Sequence[Grant] = ()
    stale: Sequence[CaaIsStale] = ()
    refusals: Mapping[bytes, dict[str, Any]] = field(default_factory=dict)
    broken: Sequence[bytes] = ()
    baseless: Sequence[bytes] = ()


async def issue_batch(ca: IssuingProcess, limit: int) -> int:
    """Takes up to `limit` requests through the cycle; returns how many there were. Faults of the database and of the
    HSM are raised: the requests stay in the queue, and what has been committed is gone on with."""
    async with ca.pool.acquire() as connection:
        # 1. Claim requests and load what is stored about them. What an earlier run began goes on where it stood.
        claimed = await queue_store.claim(connection, worker=ca.worker, limit=limit)
        if not claimed:
            return 0
        ca.caa_waits.forget(request.id for request in claimed)
        now = ca.ambient.now()
        switches = await _switches(ca, connection, now)
        begun = await _not_disabled(ca, connection, switches, now, [
            request.intent for request in claimed if request.intent is not None])
        fresh = [request for request in claimed if request.intent is None]
        evidence = await load_evidence(connection, fresh)
        await ca.after_step(1)
        # 2. Derive the right to issue again, from what the front end cannot have made.
        verdicts = await _judge(ca, connection, fresh, evidence, now)
        await ca.after_step(2)
        # 3. Serial number and TBSCertificate, with CT the precertificate's; lint it; its signature proves nothing.
        drafts, unfit, unready = await _draft(ca, verdicts.grants, switches, now)
        await _settle(ca, connection, verdicts, unfit | _out_of_patience(ca, fresh, unready, now), unready, now)
        await ca.after_step(3)
        # 4. COMMIT the intent: from now on the serial number counts as issued, can be revoked and has OCSP coverage.
        if drafts:
            ours = await intent_store.commit_intents(connection, drafts, worker=ca.worker, now=now)
            begun += [draft.stored(now) for draft in drafts if draft.request_id in ours]
        await ca.after_step(4)
        # 5. Say what is going to be signed. 6. The HSM signs the very bytes that were linted. 7. It has to verify.
        unsigned = [intent for intent in begun if not intent.signed and not intent.logged]
        signed = await _sign(ca, unsigned, steps=(5, 7))
        # 8. With CT: COMMIT the precertificates; the publisher takes them to the logs (9) and stores the SCTs (10).
        precertificates = [pair for pair in signed if pair[0].next_kind == "precertificate"]
        if precertificates:
            await ct_store.commit_precertificates(connection, precertificates, worker=ca.worker, now=ca.ambient.now(),
                                                  wait_s=FIRST_WAIT_S)
            await ca.after_step(8)
            await queue_store.notify(connection, [("ocsp_due", "new"), ("ct_due", "")])
        # 11. The final TBS with its SCTs, linted and compared. 12. COMMIT its intent and say it. 13. Sign, verify.
        finals = [intent for intent in begun if intent.final_tbs is not None and not intent.signed]
        waiting = [intent for intent in begun if intent.waits_for_scts]
        if waiting:
            finals += await commit_finals(ca, connection, waiting, now)
        signed_finals = await _sign(ca, finals, steps=(12, 13))
        # 14. COMMIT the signatures, end the requests, tell who waits. 15. The same queues final certificates for logs.
        whole = [pair for pair in signed if pair[0].next_kind == "certificate"] + signed_finals
        ended = [intent.request_id for intent in begun if intent.signed] + [intent.request_id for intent, _ in whole]
        if ended:
            await intent_store.commit_signatures(connection, whole, ended, now=ca.ambient.now())
            await ca.after_step(14)
            await queue_store.notify(connection, [
                ("ocsp_due", "new"), *(("changed", request_id.hex()) for request_id in ended),
                *([("ct_due", "")] if signed_finals else [])])
    return len(claimed)


async def _sign(
    ca: IssuingProcess, intents: Sequence[StoredIntent], *, steps: tuple[int, int]
) -> list[tuple[StoredIntent, bytes]]:
    """The HSM's signatures over committed bytes, each announced before and verified after. Raises KeyError for an
    issuer whose key this process has not got."""
    signed: list[tuple[StoredIntent, bytes]] = []
    groups: dict[tuple[int, SignedKind], list[StoredIntent]] = {}
    for intent in intents:
        groups.setdefault((intent.issuer_id, intent.next_kind), []).append(intent)
    for (issuer_id, kind), group in sorted(groups.items(), key=lambda item: item[0]):
        authority = ca.authorities[issuer_id]
        for intent in group:
            ca.audit.signing(kind, key=authority.name, tbs=intent.next_tbs, subject=serial_hex(intent.serial))
        await ca.after_step(steps[0])
        signatures = await ca.signer.sign(authority, kind, [intent.next_tbs for intent in group])
        signed += zip(group, signatures, strict=True)
    if intents:
        await ca.after_step(steps[1])
    return signed


async def _judge(
    ca: IssuingProcess, connection: Connection, requests: Sequence[ClaimedRequest], evidence: Evidence, now: datetime
) -> Verdicts:
    """Step 2 for each request; one that breaks our own code does not hold up the others."""
    grants: list[Grant] = []
    stale: list[CaaIsStale] = []
    refusals: dict[bytes, dict[str, Any]] = {}
    broken: list[bytes] = []
    baseless: list[bytes] = []
    for request in requests:
        try:
            verdict = _judge_one(ca, request, evidence, now)
        except Refusal as refusal:
            refusals[request.id] = _refuse(ca, request.id, refusal)
        except Exception:
            ca.log.exception("request breaks the rules' code", request=to_text(request.id), attempts=request.attempts)
            if request.attempts >= _MAX_BREAKS:
                refusals[request.id] = server_internal("the certificate could not be made").to_json()
            else:
                broken.append(request.id)
        else:
            if isinstance(verdict, Grant):
                grants.append(verdict)
            elif isinstance(verdict, CaaIsStale):
                stale.append(verdict)
            else:
                ca.log.error("a request in the queue has nothing behind it", request=to_text(request.id))
                baseless.append(request.id)
    kept = []
    refused = await _refused(ca, connection, grants)
    for grant in grants:
        try:
            if grant.key.sha256 in refused.keys:
                raise Refusal(RefusalReason.BAD_PUBLIC_KEY,
                              "this key is compromised, blocked, weak, an account's, or a CA's: use a new one")
            require_unblocked(grant.identifiers, refused.names)
            kept.append(grant)
        except Refusal as refusal:
            refusals[grant.request_id] = _refuse(ca, grant.request_id, refusal)
    return Verdicts(grants=kept, stale=stale, refusals=refusals, broken=broken, baseless=baseless)


def _judge_one(
    ca: IssuingProcess, request: ClaimedRequest, evidence: Evidence, now: datetime
) -> Grant | CaaIsStale | None:
    """None: nothing that a subscriber or a service asked for stands behind the entry of the queue."""
    if request.order is not None:
        return judge_order(request.order, evidence, ca.policy, now)
    return None if request.service_csr is None else judge_service(request.id, request.service_csr, ca.policy)


async def _refused(ca: IssuingProcess, connection: Connection, grants: Sequence[Grant]) -> Refused:
    """What must not be certified of what the grants are for, our own keys among it."""
    if not grants:
        return Refused(keys=frozenset(), names={})
    found = await evidence_store.refused(
        connection, [(grant.key.sha256, thumbprint(jwk_of_public_key(grant.key.spki_der))) for grant in grants],
        listed=[(grant.key.sha256, digest) for grant in grants for digest in weak_list.digests(grant.key.spki_der)],
        names=lookup_names(identifier for grant in grants for identifier in grant.identifiers))
    own = {authority.issuer.spki_der for authority in ca.authorities.values()}
    return replace(found, keys=found.keys | {grant.key.sha256 for grant in grants if grant.key.spki_der in own})


async def _switches(ca: IssuingProcess, connection: Connection, now: datetime) -> Switches:
    """Which issuers and profiles are switched on; what the operator changes counts within a second."""
    if ca.switches_read_at is None or not timedelta() <= now - ca.switches_read_at < _SWITCHES_LIFE:
        ca.switches = await issuer_store.switches(connection)
        ca.switches_read_at = now
    return ca.switches


async def _not_disabled(
    ca: IssuingProcess, connection: Connection, switches: Switches, now: datetime, begun: Sequence[StoredIntent]
) -> list[StoredIntent]:
    """What an earlier run began, without that of disabled issuers: it is finished when they are enabled again, unless
    it is a precertificate alone and they stay so for longer than it would wait for logs."""
    held = [intent for intent in begun if intent.issuer_id in switches.disabled]
    late = [intent for intent in held if intent.waits_for_scts and ca.transparency.is_over(intent, now)]
    if late:
        await refuse_late(ca, connection, late, now, why="its issuer is disabled")
    later = [intent.request_id for intent in held if intent not in late]
    if later:
        await queue_store.defer(connection, later, worker=ca.worker, after_s=_DISABLED_WAIT_S)
    return [intent for intent in begun if intent.issuer_id not in switches.disabled]


async def _draft(
    ca: IssuingProcess, grants: Sequence[Grant], switches: Switches, now: datetime
) -> tuple[list[NewIntent], dict[bytes, dict[str, Any]], dict[bytes, str]]:
    """Step 3 for each grant: what is to be committed, the refusals of what may not be, and why some have to wait."""
    drafts = []
    refusals = {}
    unready = {}
    for grant in grants:
        try:
            if grant.profile.name in switches.disabled_profiles:
                raise Refusal(RefusalReason.INVALID_PROFILE,
                              f"certificates of profile {grant.profile.name} are not issued at present")
            until = grant.not_after or now + timedelta(seconds=grant.profile.length_s)
            drafts.append(_draft_one(ca, grant, choose(ca.authorities, switches, grant.key.kind, until=until), now))
        except Refusal as refusal:
            refusals[grant.request_id] = _refuse(ca, grant.request_id, refusal)
        except LogsUnavailable as fault:
            unready[grant.request_id] = str(fault)
        # Linting takes milliseconds: revocations and the lease's clock go on in between.
        await asyncio.sleep(0)
    return drafts, refusals, unready


def _out_of_patience(
    ca: IssuingProcess, requests: Sequence[ClaimedRequest], unready: Mapping[bytes, str], now: datetime
) -> dict[bytes, dict[str, Any]]:
    """The refusals of requests for which there have been no CT logs for too long."""
    late = {request.id: unready[request.id] for request in requests
            if request.id in unready and now - request.requested_at > ca.transparency.patience}
    for request_id, why in unready.items():
        ca.log.error("a request waits for CT logs", request=to_text(request_id), why=why)
    for request_id, why in late.items():
        ca.audit.refused(request=to_text(request_id), reason="no-ct-logs", detail=why)
    return {request_id: server_internal("there are no Certificate Transparency logs for the certificate at present"
                                        ).to_json() for request_id in late}


def _draft_one(ca: IssuingProcess, grant: Grant, authority: Authority, now: datetime) -> NewIntent:
    """What is signed first, without its signature, linted. Raises Refusal and LogsUnavailable."""
    serial = serial_number(now, ca.ambient.random_bytes(16))
    period = validity(now, length_s=grant.profile.length_s, issuer=authority.issuer.validity,
                      requested_not_before=grant.not_before, requested_not_after=grant.not_after)
    urls = StatusUrls(
        ocsp=ca.policy.ocsp_url,
        ca_issuers=ca_issuers_url(ca.policy.aia_base_url, authority.name),
        crl=shard_url(ca.policy.crl_base_url, authority.name, shard(serial, authority.crl_shards)))
    tbs = tbs_certificate(profile=grant.profile, issuer=authority.issuer, serial=serial, validity=period,
                          identifiers=grant.identifiers, key=grant.key, urls=urls)
    tbs = ca.transparency.first_tbs(tbs, authority.issuer, period, now)
    findings = lint_certificate(ca.signer.whole_for_lint(tbs, authority.issuer), authority.issuer)
    require_clean(findings, allowances(grant.profile, public=ca.policy.names.public), "the certificate")
    return NewIntent(
        request_id=grant.request_id, account_id=grant.account_id, serial=serial, issuer_id=authority.id,
        profile=grant.profile.name, not_before=period.not_before, not_after=period.not_after,
        spki_sha256=grant.key.sha256, names=tuple(identifier.value for identifier in grant.identifiers), tbs=tbs,
        has_ocsp=grant.profile.ocsp)


async def _settle(
    ca: IssuingProcess,
    connection: Connection,
    verdicts: Verdicts,
    unfit: Mapping[bytes, dict[str, Any]],
    unready: Mapping[bytes, str],
    now: datetime,
) -> None:
    """Ends the requests that are refused or baseless, and leaves those for later that cannot be decided yet."""
    refused = [request_id for request_id, problem in {**verdicts.refusals, **unfit}.items()
               if await intent_store.commit_refusal(connection, request_id, problem, worker=ca.worker, now=now)]
    wakes = [("changed", request_id.hex()) for request_id in refused]
    if verdicts.stale:
        for stale in verdicts.stale:
            ca.caa_waits.wait(stale)
        wanted = {each for stale in verdicts.stale for each in stale.wanted}
        await evidence_store.ask_for_caa_checks(
            connection, [(object_id(now, ca.ambient.random_bytes(16)), each) for each in wanted])
        await queue_store.defer(connection, [each.request_id for each in verdicts.stale], worker=ca.worker,
                          after_s=_CAA_WAIT_S)
        wakes.append(("validation", ""))
    if verdicts.broken:
        await queue_store.defer(connection, verdicts.broken, worker=ca.worker, after_s=_BROKEN_WAIT_S)
    later = [request_id for request_id in unready if request_id not in unfit]
    if later:
        await queue_store.defer(connection, later, worker=ca.worker, after_s=_LOGS_WAIT_S)
    if verdicts.baseless:
        await queue_store.drop(connection, verdicts.baseless, worker=ca.worker)
    if wakes:
        await queue_store.notify(connection, wakes)


def _refuse(ca: IssuingProcess, request_id: bytes, refusal: Refusal) -> dict[str, Any]:
    """The problem document of a refusal, after the audit record of it."""
    ca.audit.refused(request=to_text(request_id), reason=refusal.reason.value, detail=refusal.detail)
    return problem_from_refusal(refusal).to_json()
