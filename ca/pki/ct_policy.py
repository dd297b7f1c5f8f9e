"""Which SCTs make a certificate that every browser accepts, and in which order logs are asked (spec/pki.md 3.2, 3.4).

The union of the browsers' policies: two SCTs, three above 180 days; of distinct logs and at least two operators; one of
an RFC 6962 log when the list has one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from typing import Final

from ca.pki.ct_log_list import CtLog, LogList
from ca.pki.policy import CLOCK_TOLERANCE_S, SCTS_FOR_LONG, SCTS_FOR_SHORT, SHORT_FOR_SCTS_S
from ca.pki.sct import Sct, SctError, decode_sct, require_signature, signed_precertificate

MIN_OPERATORS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Precertificate:
    """What a log answers for: the TBS without poison, who issues it, and the two dates that policies look at."""

    tbs: bytes
    issuer_key_hash: bytes         # SHA-256 of the issuer's SPKI
    not_after: datetime
    length_s: int

    @property
    def scts_needed(self) -> int:
        """How many SCTs browsers ask for."""
        return SCTS_FOR_SHORT if self.length_s <= SHORT_FOR_SCTS_S else SCTS_FOR_LONG


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedSct:
    """An SCT whose signature, log and time are right, with its bytes as they are embedded."""

    sct: Sct
    data: bytes
    log: CtLog


def verify_sct(data: bytes, precertificate: Precertificate, logs: LogList, now: datetime) -> VerifiedSct:
    """The SCT, when a log of the list that takes this precertificate has signed it. Raises SctError."""
    sct = decode_sct(data)
    log = logs.logs.get(sct.log_id)
    if log is None:
        raise SctError(f"the SCT is of log {sct.log_id.hex()}, which takes no certificates or is not in the list")
    if not log.takes(precertificate.not_after):
        raise SctError(f"log {log.description!a} is not for certificates that end at "
                       f"{precertificate.not_after:%Y-%m-%d}")
    if sct.timestamp_ms > (now + timedelta(seconds=CLOCK_TOLERANCE_S)).timestamp() * 1000:
        raise SctError(f"the SCT of log {log.description!a} is of the future")
    require_signature(sct, signed_precertificate(sct, issuer_key_hash=precertificate.issuer_key_hash,
                                                 tbs=precertificate.tbs), log.key)
    return VerifiedSct(sct=sct, data=data, log=log)


def verified_among(
    scts: Sequence[bytes], precertificate: Precertificate, logs: LogList, now: datetime
) -> tuple[list[VerifiedSct], list[str]]:
    """Of stored SCTs, those that count by the list of now, in their order, and why the others do not."""
    good, faults = [], []
    for data in scts:
        try:
            good.append(verify_sct(data, precertificate, logs, now))
        except SctError as fault:
            faults.append(str(fault))
    return good, faults


def complies(logs: Sequence[CtLog], *, needed: int, candidates: Sequence[CtLog]) -> bool:
    """Whether SCTs of these logs are enough; `candidates` are all logs that could have been asked."""
    return (len({log.log_id for log in logs}) == len(logs) >= needed
            and len({log.operator for log in logs}) >= MIN_OPERATORS
            and (not all(log.tiled for log in logs) or all(log.tiled for log in candidates)))


def choose_scts(
    found: Sequence[VerifiedSct], *, needed: int, candidates: Sequence[CtLog]
) -> tuple[VerifiedSct, ...] | None:
    """The SCTs to embed, in the order given, which is that of arrival: the first set that complies, or None."""
    for arrived in range(needed, len(found) + 1):
        for chosen in combinations(found[:arrived], needed):
            if complies([each.log for each in chosen], needed=needed, candidates=candidates):
                return chosen
    return None


def submission_order(candidates: Sequence[CtLog], random16: bytes) -> tuple[CtLog, ...]:
    """The logs in random order, but a pair that complies by itself in front: of two operators, and one tiled and one
    RFC 6962 log where there are both."""
    shuffled = sorted(candidates, key=lambda log: hashlib.sha256(random16 + log.log_id).digest())
    pairs = [(first, second) for first, second in combinations(shuffled, 2)
             if complies((first, second), needed=2, candidates=candidates)]
    if not pairs:
        return tuple(shuffled)
    first, second = next((pair for pair in pairs if pair[0].tiled != pair[1].tiled), pairs[0])
    return (first, second, *(log for log in shuffled if log not in (first, second)))
