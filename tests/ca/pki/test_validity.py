"""Validity periods across the dates at which the Baseline Requirements shorten them, and profiles."""

from datetime import UTC, datetime, timedelta

import pytest

from ca.pki.identifier import Identifier
from ca.pki.policy import DAY_S, limits_at
from ca.pki.profile import PROFILES, require_profile
from ca.pki.refusal import Refusal, RefusalReason
from ca.pki.validity import Validity, require_period, validity

ISSUER = Validity(not_before=datetime(2026, 1, 1, tzinfo=UTC), not_after=datetime(2035, 1, 1, tzinfo=UTC))
FIRST_2027 = datetime(2027, 3, 15, tzinfo=UTC)
FIRST_2029 = datetime(2029, 3, 15, tzinfo=UTC)
NOW = datetime(2026, 11, 24, 12, 30, 15, 123456, tzinfo=UTC)


def _period(now: datetime, length_s: int) -> Validity:
    now = now.replace(microsecond=0)
    return Validity(not_before=now, not_after=now + timedelta(seconds=length_s - 1))


@pytest.mark.parametrize(("moment", "days", "reuse_days"), [
    (FIRST_2027 - timedelta(microseconds=1), 200, 200), (FIRST_2027, 100, 100),
    (FIRST_2029 - timedelta(microseconds=1), 100, 100), (FIRST_2029, 47, 10),
    (datetime(2026, 3, 14, 23, 59, 59, tzinfo=UTC), 398, 398), (datetime(2026, 3, 15, tzinfo=UTC), 200, 200),
])
def test_limits_change_at_midnight(moment: datetime, days: int, reuse_days: int) -> None:
    """Exactly the limit is accepted, a second more is refused, from the very second of the effective date."""
    limits = limits_at(moment)
    assert (limits.longest_validity_s, limits.longest_validation_reuse_s) == (days * DAY_S, reuse_days * DAY_S)
    require_period(_period(moment, days * DAY_S), moment, longest_s=10_000 * DAY_S)
    with pytest.raises(Refusal) as refused:
        require_period(_period(moment, days * DAY_S + 1), moment, longest_s=10_000 * DAY_S)
    assert refused.value.reason is RefusalReason.BAD_VALIDITY


def test_no_limits_are_known_for_the_past() -> None:
    """A clock before the schedule is a fault, not a free hand."""
    with pytest.raises(ValueError, match="clock"):
        limits_at(datetime(2020, 8, 31, tzinfo=UTC))


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("now", [NOW, FIRST_2027, FIRST_2029])
def test_profiles_keep_to_the_recommended_length(profile: str, now: datetime) -> None:
    """An hour back, whole seconds, the profile's length or, when that has become too long, the recommended one."""
    period = validity(now, length_s=PROFILES[profile].length_s, issuer=ISSUER)
    assert period.not_before == now.replace(microsecond=0) - timedelta(hours=1)
    assert period.length_s == min(PROFILES[profile].length_s, limits_at(now).recommended_validity_s)


def test_not_before_the_issuer_itself() -> None:
    """A certificate of a CA that is minutes old is not backdated beyond it."""
    young = Validity(not_before=NOW.replace(microsecond=0) - timedelta(minutes=5), not_after=ISSUER.not_after)
    period = validity(NOW, length_s=90 * DAY_S, issuer=young)
    assert period.not_before == young.not_before
    assert period.length_s == 90 * DAY_S


def test_never_past_the_issuer() -> None:
    """The last second of the issuer is the last possible one."""
    short = Validity(not_before=ISSUER.not_before,
                     not_after=NOW.replace(microsecond=0) - timedelta(hours=1) + timedelta(seconds=45 * DAY_S - 1))
    assert validity(NOW, length_s=45 * DAY_S, issuer=short).not_after == short.not_after
    with pytest.raises(Refusal, match="outlive its issuer"):
        validity(NOW, length_s=45 * DAY_S + 1, issuer=short)


def test_requested_dates_stand_exactly_or_are_refused() -> None:
    """OR5: both ends, one of them, and each way in which they cannot be honoured."""
    start = NOW.replace(microsecond=0) + timedelta(hours=2)
    end = start + timedelta(days=10)
    both = validity(NOW, length_s=90 * DAY_S, issuer=ISSUER, requested_not_before=start, requested_not_after=end)
    assert (both.not_before, both.not_after) == (start, end)
    only_start = validity(NOW, length_s=90 * DAY_S, issuer=ISSUER, requested_not_before=start)
    assert (only_start.not_before, only_start.length_s) == (start, 90 * DAY_S)
    assert validity(NOW, length_s=90 * DAY_S, issuer=ISSUER, requested_not_after=end).not_after == end
    for not_before, not_after in (
        (start, start), (start, start - timedelta(days=1)), (start, start + timedelta(days=90)),
        (NOW.replace(microsecond=0) + timedelta(hours=49), None),
        (NOW.replace(microsecond=0) - timedelta(hours=49), None),
        (None, NOW.replace(microsecond=0) - timedelta(seconds=1)), (NOW, None),
    ):
        with pytest.raises(Refusal) as refused:
            validity(NOW, length_s=90 * DAY_S, issuer=ISSUER, requested_not_before=not_before,
                     requested_not_after=not_after)
        assert refused.value.reason is RefusalReason.BAD_VALIDITY


def _names(count: int) -> list[Identifier]:
    return [Identifier(type="dns", value=f"n{number}.example") for number in range(count)]


def test_profiles_by_name() -> None:
    """PR2: known names, and as many identifiers as fit."""
    assert require_profile("classic", _names(100)).length_s == 7_776_000
    assert require_profile("tlsserver", _names(25)).length_s == 1080 * 3600
    assert require_profile("shortlived", _names(25)).length_s == 160 * 3600
    for name, count in (("classic", 101), ("tlsserver", 26), ("shortlived", 26), ("nope", 1), ("", 1),
                        ("classic", 0), ("../x" * 100, 1)):
        with pytest.raises(Refusal) as refused:
            require_profile(name, _names(count))
        assert refused.value.reason is RefusalReason.INVALID_PROFILE
        assert len(refused.value.detail) < 200
