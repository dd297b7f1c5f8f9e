"""The numbers of the Baseline Requirements that change with time: effective date -> limit (BR 6.3.2, 4.2.1).

One table, so that a test can move the clock across each date.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

DAY_S: Final = 86_400
HOUR_S: Final = 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for certificates signed from `signed_from` on."""

    signed_from: datetime
    longest_validity_s: int            # MUST NOT exceed, both ends included
    recommended_validity_s: int        # SHOULD NOT exceed
    longest_validation_reuse_s: int    # of a domain or address validation
    longest_short_life_s: int          # of a short-lived certificate, which needs no OCSP (BR 1.6.1)


_SCHEDULE: Final = (
    Limits(signed_from=datetime(2020, 9, 1, tzinfo=UTC), longest_validity_s=398 * DAY_S,
           recommended_validity_s=397 * DAY_S, longest_validation_reuse_s=398 * DAY_S,
           longest_short_life_s=10 * DAY_S),
    Limits(signed_from=datetime(2026, 3, 15, tzinfo=UTC), longest_validity_s=200 * DAY_S,
           recommended_validity_s=199 * DAY_S, longest_validation_reuse_s=200 * DAY_S,
           longest_short_life_s=7 * DAY_S),
    Limits(signed_from=datetime(2027, 3, 15, tzinfo=UTC), longest_validity_s=100 * DAY_S,
           recommended_validity_s=99 * DAY_S, longest_validation_reuse_s=100 * DAY_S,
           longest_short_life_s=7 * DAY_S),
    Limits(signed_from=datetime(2029, 3, 15, tzinfo=UTC), longest_validity_s=47 * DAY_S,
           recommended_validity_s=46 * DAY_S, longest_validation_reuse_s=10 * DAY_S,
           longest_short_life_s=7 * DAY_S),
)

# BR 4.2.1 and 3.2.2.4.22: a persistent record is looked at again after ten days at the latest, and after its time to
# live when that is shorter, but not before eight hours.
PERSIST_REUSE_S: Final = 10 * DAY_S
PERSIST_TTL_FLOOR_S: Final = 8 * HOUR_S
# BR 3.2.2.8: a CAA check holds for eight hours (or the record's TTL, which is never longer at our resolver's cache).
CAA_CHECK_LIFE_S: Final = 8 * HOUR_S
# BR 7.1.2.7: notBefore lies within 48 hours of signing; ours is an hour back, for clients whose clocks are slow.
NOT_BEFORE_TOLERANCE_S: Final = 48 * HOUR_S
BACKDATE_S: Final = HOUR_S
# Chrome's and Apple's CT policies: SCTs by the length of the certificate.
SHORT_FOR_SCTS_S: Final = 180 * DAY_S
SCTS_FOR_SHORT: Final = 2
SCTS_FOR_LONG: Final = 3
# Browsers stop going by a list of logs that is older; an operator hears of it long before.
LOG_LIST_LIFE_S: Final = 70 * DAY_S
LOG_LIST_WARNING_S: Final = 30 * DAY_S
# How far a log's clock may be ahead of ours.
CLOCK_TOLERANCE_S: Final = 60


# The Baseline Requirements that this program follows, and the section of each method for names and for addresses.
BR_VERSION: Final = "2.2.8"
_SECTIONS: Final = {
    ("dns", "http-01"): "3.2.2.4.19", ("dns", "dns-01"): "3.2.2.4.7", ("dns", "tls-alpn-01"): "3.2.2.4.20",
    ("dns", "dns-account-01"): "3.2.2.4.21", ("dns", "dns-persist-01"): "3.2.2.4.22",
    ("ip", "http-01"): "3.2.2.5.6", ("ip", "tls-alpn-01"): "3.2.2.5.7",
}


def rules_of(identifier_type: str, method: str) -> str:
    """The rule that a validation by this method follows, as its record says it; "" for what no rule knows."""
    section = _SECTIONS.get((identifier_type, method))
    return "" if section is None else f"BR {BR_VERSION} {section}"


def longest_reuse_s(method: str, moment: datetime) -> int:
    """How old a validation by this method may be for something signed at `moment` (row RU1)."""
    longest_s = limits_at(moment).longest_validation_reuse_s
    return min(longest_s, PERSIST_REUSE_S) if method == "dns-persist-01" else longest_s


def schedule() -> tuple[Limits, ...]:
    """Every period with its limits, the oldest first."""
    return _SCHEDULE


def limits_at(moment: datetime) -> Limits:
    """The limits for what is signed at `moment`. Raises ValueError before the first of them."""
    for limits in reversed(_SCHEDULE):
        if moment >= limits.signed_from:
            return limits
    raise ValueError(f"no limits are known for {moment}: is the clock right?")
