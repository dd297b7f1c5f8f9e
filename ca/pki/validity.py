"""notBefore and notAfter of a certificate: whole seconds, the last one included (RFC 5280 4.1.2.5, BR 6.3.2)."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from ca.pki.policy import BACKDATE_S, NOT_BEFORE_TOLERANCE_S, limits_at
from ca.pki.refusal import Refusal, RefusalReason

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """The period in which a certificate is valid, both ends included."""

    not_before: datetime
    not_after: datetime

    @property
    def length_s(self) -> int:
        """Seconds, as the BR count them: notAfter - notBefore + 1."""
        return round((self.not_after - self.not_before + _SECOND).total_seconds())


def validity(
    now: datetime,
    *,
    length_s: int,
    issuer: Validity,
    requested_not_before: datetime | None = None,
    requested_not_after: datetime | None = None,
) -> Validity:
    """The period of a certificate that is signed at `now` and may be valid for `length_s` seconds at most.

    A length above what the BR recommend at `now` is cut to that. What the subscriber asked for (RFC 8555 7.1.3) stands
    exactly so, or is refused. Raises Refusal; also when the issuer's own certificate ends before.
    """
    length_s = min(length_s, limits_at(now).recommended_validity_s)
    not_before = requested_not_before or max((now - timedelta(seconds=BACKDATE_S)).replace(microsecond=0),
                                             issuer.not_before)
    not_after = requested_not_after or not_before + timedelta(seconds=length_s - 1)
    period = Validity(not_before=not_before, not_after=not_after)
    require_period(period, now, longest_s=length_s)
    if not_before < issuer.not_before or not_after > issuer.not_after:
        raise Refusal(RefusalReason.BAD_VALIDITY,
                      f"a certificate until {not_after:%Y-%m-%dT%H:%M:%SZ} would outlive its issuer, whose certificate "
                      f"is valid from {issuer.not_before:%Y-%m-%dT%H:%M:%SZ} to {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}")
    return period


def require_period(period: Validity, now: datetime, *, longest_s: int) -> None:
    """Returns when a period may be signed at `now`. Raises Refusal: order of the ends, length, distance from now."""
    if period.not_before.microsecond or period.not_after.microsecond:
        raise _refusal("notBefore and notAfter must be whole seconds")
    if period.not_after <= period.not_before or period.not_after < now:
        raise _refusal("notAfter must lie in the future, after notBefore")
    if abs(period.not_before - now) > timedelta(seconds=NOT_BEFORE_TOLERANCE_S):
        raise _refusal("notBefore must lie within 48 hours of now")
    longest_s = min(longest_s, limits_at(now).longest_validity_s)
    if period.length_s > longest_s:
        raise _refusal(f"the certificate would be valid for {period.length_s} seconds; it may be for {longest_s}")


def _refusal(detail: str) -> Refusal:
    return Refusal(RefusalReason.BAD_VALIDITY, detail)
