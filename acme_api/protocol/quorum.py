"""Whether enough remote perspectives saw what the primary one saw (BR 3.2.2.9; rows MP1, MP2).

A perspective that says something else and one that says nothing are two things: the former is an answer, the latter an
outage of ours. Neither corroborates. A validation that fails because of what was answered is the subscriber's to know;
one that could have passed had all answered is serverInternal, and asked again. An outage never helps to pass.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from ca.pki.corroboration import Corroboration, CorroborationRule, allowed_dissent, shortfall

# To whom it happens elsewhere, wrong content is somebody else's answer for the name: "unauthorized" (rows MP2, E96).
_SECONDARY_TYPE: Final = {"incorrectResponse": "unauthorized"}
_PREFIX: Final = "secondary validation"


class Verdict(Enum):
    """What one remote perspective says of the primary's finding."""

    CORROBORATES = "corroborates"
    DIFFERS = "differs"                # it looked, and found something else
    ABSENT = "absent"                  # not reached, too late, or it answered against the protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of asking one remote perspective. `failure_type`, `detail` and `transient` are of one that differs."""

    perspective: str
    rir: str
    verdict: Verdict
    failure_type: str = ""
    detail: str = ""
    transient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumFailure:
    """Why the quorum was not reached; `transient` when it may be reached in some seconds."""

    failure_type: str
    detail: str
    transient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome: how far it is corroborated, and None or why that is not enough."""

    corroboration: Corroboration
    failure: QuorumFailure | None


def decide(reports: Sequence[Report], rule: CorroborationRule) -> Decision:
    """The decision on the reports of every remote perspective, one each."""
    corroboration = _count(reports)
    missing = shortfall(corroboration, rule)
    if missing is None:
        return Decision(corroboration=corroboration, failure=None)
    if corroboration.asked < rule.least_asked:
        return Decision(corroboration=corroboration, failure=QuorumFailure(
            failure_type="serverInternal", transient=True, detail=f"{_PREFIX}: too few perspectives are in service"))
    if _could_pass(reports, rule):
        return Decision(corroboration=corroboration, failure=QuorumFailure(
            failure_type="serverInternal", transient=True,
            detail=f"{_PREFIX}: too few perspectives could be asked; the validation may be tried again"))
    return Decision(corroboration=corroboration, failure=_disagreement(reports, rule))


def is_settled(reports: Sequence[Report], outstanding: Sequence[tuple[str, str]], rule: CorroborationRule) -> bool:
    """Whether it is known to pass, or known to fail, whatever the outstanding ones (name, RIR) say."""
    absent = [Report(perspective=name, rir=rir, verdict=Verdict.ABSENT) for name, rir in outstanding]
    everybody = [*reports, *absent]
    return shortfall(_count(everybody), rule) is None or not _could_pass(everybody, rule)


def _could_pass(reports: Sequence[Report], rule: CorroborationRule) -> bool:
    """Whether it would pass had those that were not heard corroborated."""
    return shortfall(_count([replace(report, verdict=Verdict.CORROBORATES) if report.verdict is Verdict.ABSENT
                             else report for report in reports]), rule) is None


def _count(reports: Sequence[Report]) -> Corroboration:
    agreeing = [report for report in reports if report.verdict is Verdict.CORROBORATES]
    return Corroboration(asked=len(reports), corroborated=len(agreeing), rirs=len({each.rir for each in agreeing}))


def _disagreement(reports: Sequence[Report], rule: CorroborationRule) -> QuorumFailure:
    """The failure of the type that most of the differing perspectives saw, with one of their details."""
    differing = [report for report in reports if report.verdict is Verdict.DIFFERS]
    if not differing:
        # Only a rule that no set of these perspectives can satisfy leads here: the configuration is at fault.
        return QuorumFailure(failure_type="serverInternal", transient=True,
                             detail=f"{_PREFIX}: the perspectives in service cannot corroborate")
    counted = Counter(report.failure_type for report in differing)
    most = max(counted, key=lambda failure_type: counted[failure_type])
    shown = next(report for report in differing if report.failure_type == most)
    # It is asked again only where that could suffice: wrong content at too many places is final.
    hopeful = [replace(report, verdict=Verdict.ABSENT) if report.transient else report for report in reports]
    return QuorumFailure(
        failure_type=_SECONDARY_TYPE.get(most, most), transient=_could_pass(hopeful, rule),
        detail=f"{_PREFIX}: {len(differing)} of {len(reports)} remote perspectives did not see the same, where "
               f"{allowed_dissent(len(reports))} may: {shown.detail}")
