"""Certificate Transparency in the cycle: which certificates may begin, and steps 11 and 12, from SCTs to final intent.

The publisher's rows are not believed: each SCT is verified again, with the log keys of the CA's own list.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from acme_api.protocol.problem import problem_from_refusal, server_internal
from ca.issuing import ct_store, intent_store, queue_store
from ca.issuing.ct_store import NewFinal
from ca.issuing.intent import StoredIntent
from ca.pki.ct_log_list import LogList
from ca.pki.ct_policy import Precertificate, choose_scts, complies, verified_among
from ca.pki.issuer import Issuer
from ca.pki.lint import allowances, lint_certificate, require_clean
from ca.pki.object_id import to_text
from ca.pki.precertificate import require_correspondence, with_poison, with_sct_list, without_poison
from ca.pki.profile import PROFILES
from ca.pki.refusal import Refusal
from ca.pki.sct import sct_list_value
from ca.pki.serial import serial_hex
from ca.pki.validity import Validity
from ca.process.postgres import Connection

if TYPE_CHECKING:
    from ca.issuing.cycle import IssuingProcess

FIRST_WAIT_S: Final = 2.0          # the publisher wakes a request sooner
_LONGEST_WAIT_S: Final = 15.0
_LATE_TEXTS: Final = {
    "missing-scts":
        "the certificate could not be logged in Certificate Transparency logs in time: try again later",
    "issuer-disabled": "the issuer of the certificate was switched off before it was finished: order again",
}


class LogsUnavailable(Exception):
    """What is wanted of CT logs cannot be had at present; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transparency:
    """CT as it is configured. `log_list` raises ValueError or OSError when there is no list; `patience` is how long a
    request waits for logs before it is refused."""

    enabled: bool
    patience: timedelta
    log_list: Callable[[], LogList]

    def logs(self, now: datetime) -> LogList:
        """The list in force. Raises LogsUnavailable, also when browsers would not go by it any more."""
        try:
            logs = self.log_list()
            logs.require_fresh(now)
        except (OSError, ValueError) as fault:
            raise LogsUnavailable(str(fault)) from fault
        return logs

    def is_over(self, intent: StoredIntent, now: datetime) -> bool:
        """Whether an order has waited for its certificate for longer than the patience lasts."""
        return now - intent.created_at > self.patience

    def first_tbs(self, tbs: bytes, issuer: Issuer, period: Validity, now: datetime) -> bytes:
        """What is signed first for a TBS without poison: with CT the precertificate's, else itself. Raises
        LogsUnavailable when the list's logs could not make a certificate of it: no serial number is spent then."""
        if not self.enabled:
            return tbs
        wanted = _precertificate(tbs, issuer, period)
        candidates = self.logs(now).candidates(period.not_after)
        if not complies(candidates, needed=wanted.scts_needed, candidates=candidates):
            raise LogsUnavailable(f"the list's logs for certificates that end at {period.not_after:%Y-%m-%d} cannot "
                                  f"give {wanted.scts_needed} SCTs of two operators")
        return with_poison(tbs)


async def commit_finals(
    ca: "IssuingProcess", connection: Connection, waiting: Sequence[StoredIntent], now: datetime
) -> list[StoredIntent]:
    """Steps 11 and 12 for requests whose precertificate is signed: those whose final certificate is committed now.

    The others go on waiting, or are refused when their patience is over: their precertificate stays revocable.
    """
    scts = await ct_store.scts(connection, [intent.serial for intent in waiting])
    new, missing = [], []
    refusals = {}
    for intent in waiting:
        # 11. Verify the SCTs; the final TBS; lint it, with a signature that proves nothing; compare the precertificate.
        try:
            new.append(NewFinal(intent=intent, tbs=_final_tbs(ca, intent, scts.get(intent.serial, ()), now)))
        except Refusal as refusal:
            ca.audit.refused(request=to_text(intent.request_id), reason=refusal.reason.value, detail=refusal.detail)
            refusals[intent.request_id] = problem_from_refusal(refusal).to_json()
        except Exception as fault:
            missing.append(intent)
            _tell(ca, intent, fault)
            if ca.transparency.is_over(intent, now):
                refusals[intent.request_id] = _too_late(ca, intent, "missing-scts", str(fault))
        await asyncio.sleep(0)
    await ca.after_step(11)
    wait = [intent for intent in missing if intent.request_id not in refusals]
    if wait:
        await ct_store.park(connection, wait, worker=ca.worker, now=now, longest_s=_LONGEST_WAIT_S)
    wakes = await _refuse_all(ca, connection, refusals, now)
    if wait or wakes:
        await queue_store.notify(connection, [*wakes, ("ct_due", "")])
    if not new:
        return []
    # 12. COMMIT the intent of the final certificate: from now on it is finished, not made anew.
    ours = await ct_store.commit_finals(connection, new, worker=ca.worker, now=now)
    return [each.intent.with_final(each.tbs) for each in new if each.intent.serial in ours]


async def refuse_late(
    ca: "IssuingProcess", connection: Connection, late: Sequence[StoredIntent], now: datetime, *, why: str
) -> None:
    """Ends orders whose precertificate is signed and whose certificate cannot be: it stays in CRL and OCSP, and no
    certificate can follow. The subscriber orders again, instead of waiting for nobody knows how long."""
    refusals = {intent.request_id: _too_late(ca, intent, "issuer-disabled", why) for intent in late}
    wakes = await _refuse_all(ca, connection, refusals, now)
    if wakes:
        await queue_store.notify(connection, wakes)


async def _refuse_all(
    ca: "IssuingProcess", connection: Connection, refusals: Mapping[bytes, dict[str, Any]], now: datetime
) -> list[tuple[str, str]]:
    """Stores refusals of requests that are still ours; returns who is to be told."""
    return [("changed", request_id.hex()) for request_id, problem in refusals.items()
            if await intent_store.commit_refusal(connection, request_id, problem, worker=ca.worker, now=now)]


def _too_late(ca: "IssuingProcess", intent: StoredIntent, reason: str, detail: str) -> dict[str, Any]:
    """The problem document of an order whose patience is over, after the audit record of it."""
    ca.audit.refused(request=to_text(intent.request_id), reason=reason, detail=detail)
    return server_internal(_LATE_TEXTS[reason]).to_json()


def _final_tbs(ca: "IssuingProcess", intent: StoredIntent, scts: Sequence[bytes], now: datetime) -> bytes:
    """The certificate with its SCTs. Raises LogsUnavailable, or Refusal for what lint finds."""
    authority = ca.authorities[intent.issuer_id]
    tbs = without_poison(intent.tbs)
    period = Validity(not_before=intent.not_before, not_after=intent.not_after)
    wanted = _precertificate(tbs, authority.issuer, period)
    logs = ca.transparency.logs(now)
    found, faults = verified_among(scts, wanted, logs, now)
    for fault in faults:
        ca.log.error("a stored SCT is not used", serial=serial_hex(intent.serial), error=fault)
    chosen = choose_scts(found, needed=wanted.scts_needed, candidates=logs.candidates(intent.not_after))
    if chosen is None:
        raise LogsUnavailable(f"{len(found)} SCTs that count are not yet the {wanted.scts_needed} that browsers want")
    final = with_sct_list(tbs, sct_list_value([each.data for each in chosen]))
    findings = lint_certificate(ca.signer.whole_for_lint(final, authority.issuer), authority.issuer)
    require_clean(findings, allowances(PROFILES[intent.profile], public=ca.policy.names.public), "the certificate")
    require_correspondence(intent.tbs, final)
    return final


def _precertificate(tbs: bytes, issuer: Issuer, period: Validity) -> Precertificate:
    return Precertificate(tbs=tbs, issuer_key_hash=hashlib.sha256(issuer.spki_der).digest(),
                          not_after=period.not_after, length_s=period.length_s)


def _tell(ca: "IssuingProcess", intent: StoredIntent, fault: Exception) -> None:
    """Waiting for logs is no fault of ours; anything else has a trace in the log, and the request waits as well."""
    serial = serial_hex(intent.serial)
    if isinstance(fault, LogsUnavailable):
        ca.log.info("a precertificate waits for logs", serial=serial, why=str(fault))
    else:
        ca.log.error("a final certificate cannot be made", serial=serial, exc_info=fault)
