"""Promises of the quorum of remote perspectives: rows MP1, MP2, E96."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from acme_api.protocol.quorum import Report, Verdict, decide, is_settled
from ca.pki.corroboration import CorroborationRule, rule_at

RIRS = ("RIPE NCC", "ARIN", "APNIC", "LACNIC", "AFRINIC")
PUBLIC = rule_at(datetime(2026, 11, 25, tzinfo=UTC), public=True)
INTERNAL = rule_at(datetime(2026, 11, 25, tzinfo=UTC), public=False)
YES, NO, AWAY = Verdict.CORROBORATES, Verdict.DIFFERS, Verdict.ABSENT


def _reports(*verdicts: Verdict, rirs: tuple[str, ...] = RIRS, transient: bool = False,
             failure_type: str = "incorrectResponse") -> list[Report]:
    return [Report(perspective=f"p{number}", rir=rirs[number % len(rirs)], verdict=verdict,
                   failure_type=failure_type if verdict is NO else "", detail="why" if verdict is NO else "",
                   transient=transient and verdict is NO) for number, verdict in enumerate(verdicts)]


def test_e96_one_of_five_may_differ_or_be_away() -> None:
    """E96: four of five are enough, whatever the fifth says or does not say, and the count is what happened."""
    for verdict in (NO, AWAY):
        decision = decide(_reports(YES, YES, verdict, YES, YES), PUBLIC)
        assert decision.failure is None
        assert (decision.corroboration.asked, decision.corroboration.corroborated, decision.corroboration.rirs) == (
            5, 4, 4)


def test_e96_two_of_five_that_differ_are_unauthorized() -> None:
    """E96, MP2: the subscriber is told that it is the secondary validation, and what was seen; it is final."""
    failure = decide(_reports(NO, YES, YES, NO, YES), PUBLIC).failure
    assert failure is not None
    assert (failure.failure_type, failure.transient) == ("unauthorized", False)
    assert failure.detail == ("secondary validation: 2 of 5 remote perspectives did not see the same, where 1 may: why")


def test_mp2_the_type_is_what_most_of_them_saw() -> None:
    """MP2: connection, dns, tls and caa stay what they are; the most frequent one is told, with its own detail."""
    reports = _reports(NO, NO, NO, YES, YES, failure_type="connection")
    reports[0] = Report(perspective="p0", rir="ARIN", verdict=NO, failure_type="caa", detail="forbidden")
    failure = decide(reports, PUBLIC).failure
    assert failure is not None
    assert failure.failure_type == "connection"
    assert failure.detail.endswith(": why")


def test_mp2_an_outage_is_ours_and_never_a_pass() -> None:
    """MP2, E96: all away, or one differs and one is away: serverInternal, to be tried again."""
    for verdicts in ((AWAY,) * 5, (YES, YES, YES, AWAY, AWAY), (NO, YES, YES, YES, AWAY)):
        failure = decide(_reports(*verdicts), PUBLIC).failure
        assert failure is not None
        assert (failure.failure_type, failure.transient) == ("serverInternal", True)


def test_mp1_two_regions_are_needed() -> None:
    """MP1: enough voices of one RIR's region: the answer of who differs elsewhere decides, or his outage."""
    rirs = ("ARIN", "ARIN", "ARIN", "ARIN", "APNIC")
    failure = decide(_reports(YES, YES, YES, YES, NO, rirs=rirs), PUBLIC).failure
    assert failure is not None
    assert failure.failure_type == "unauthorized"
    failure = decide(_reports(YES, YES, YES, YES, AWAY, rirs=rirs), PUBLIC).failure
    assert failure is not None
    assert failure.failure_type == "serverInternal"
    failure = decide(_reports(YES, YES, YES, YES, rirs=("ARIN",)), PUBLIC).failure
    assert failure is not None
    assert failure.failure_type == "serverInternal"


def test_mp1_too_few_in_service() -> None:
    """MP1: a rule that came into force while the process runs fails validations, it does not pass them."""
    failure = decide(_reports(YES, YES, YES), PUBLIC).failure
    assert failure is not None
    assert failure.failure_type == "serverInternal"
    assert decide(_reports(YES, YES, YES), INTERNAL).failure is None
    assert decide([], INTERNAL).failure is None


def test_ch5_what_may_pass_is_tried_again() -> None:
    """CH5: two that time out are asked again, and so is one of each kind; two with wrong content are not."""
    assert decide(_reports(NO, NO, YES, YES, YES, transient=True), PUBLIC).failure.transient  # type: ignore[union-attr]
    mixed = _reports(NO, NO, YES, YES, YES, transient=True)
    mixed[0] = _reports(NO)[0]
    assert decide(mixed, PUBLIC).failure.transient  # type: ignore[union-attr]
    assert not decide(_reports(NO, NO, YES, YES, AWAY), PUBLIC).failure.transient  # type: ignore[union-attr]


_VERDICTS = st.sampled_from(list(Verdict))
_RULES = st.sampled_from([PUBLIC, INTERNAL, rule_at(datetime(2026, 12, 15, tzinfo=UTC), public=True),
                          rule_at(datetime(2026, 11, 25, tzinfo=UTC), public=False, least_corroborated=2)])


@st.composite
def _any_reports(draw: st.DrawFn) -> list[Report]:
    return [Report(perspective=f"p{number}", rir=draw(st.sampled_from(RIRS[:3])), verdict=draw(_VERDICTS),
                   failure_type=draw(st.sampled_from(["incorrectResponse", "connection", "caa"])), detail="d",
                   transient=draw(st.booleans())) for number in range(draw(st.integers(0, 9)))]


@given(reports=_any_reports(), rule=_RULES)
def test_a_pass_is_exactly_the_table(reports: list[Report], rule: CorroborationRule) -> None:
    """MP1 by another count: enough asked, no more dissent than allowed, enough voices, two regions; never by outage."""
    agreeing = [each for each in reports if each.verdict is YES]
    dissent = len(reports) - len(agreeing)
    allowed = 0 if len(reports) < 2 else 1 if len(reports) <= 5 else 2
    passes = (len(reports) >= rule.least_asked and dissent <= allowed and len(agreeing) >= rule.least_corroborated
              and len({each.rir for each in agreeing}) >= rule.least_rirs)
    decision = decide(reports, rule)
    assert (decision.failure is None) == passes
    assert decision.corroboration.corroborated == len(agreeing)
    if decision.failure is not None and not any(each.verdict is NO for each in reports):
        assert decision.failure.failure_type == "serverInternal"


@given(reports=_any_reports(), rule=_RULES, heard=st.integers(0, 9), data=st.data())
def test_what_is_settled_stays(reports: list[Report], rule: CorroborationRule, heard: int, data: st.DataObject) -> None:
    """Whatever the outstanding perspectives say, a settled pass is a pass and a settled failure a failure."""
    known, outstanding = reports[:heard], reports[heard:]
    if not is_settled(known, [(each.perspective, each.rir) for each in outstanding], rule):
        return
    absent = [Report(perspective=each.perspective, rir=each.rir, verdict=AWAY) for each in outstanding]
    passes = decide([*known, *absent], rule).failure is None
    other = [Report(perspective=each.perspective, rir=each.rir, verdict=data.draw(_VERDICTS),
                    failure_type="connection", detail="d") for each in outstanding]
    assert (decide([*known, *other], rule).failure is None) == passes
