"""The section [limits] of the configuration, and what holds when it says nothing: the limits of the two policies."""

from collections.abc import Callable

import msgspec


class RateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`burst` at once, and as many again in each period; a burst of 0 is no limit."""

    burst: int
    period_s: int


class LimitsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rate limits. What is not named here is as the policy says (`chancery limit list` shows what holds).

    `help_url` is where a refusal sends people; empty: a page of ours that lists the limits.
    """

    accounts_per_address: RateSettings | None = None
    accounts_per_range: RateSettings | None = None
    orders_per_account: RateSettings | None = None
    pending_authorizations_per_account: int | None = None
    certificates_per_domain: RateSettings | None = None
    certificates_per_name_set: RateSettings | None = None
    failed_validations_per_name: RateSettings | None = None
    pause_after_failures: int | None = None
    nonces_per_address: RateSettings | None = None
    renewal_info_per_address: RateSettings | None = None
    help_url: str = ""


_HOUR_S = 3_600
_WEEK_S = 604_800
# Public: those of the largest ACME CA, near enough. Internal: only what keeps one broken client from filling the
# database; names of one organisation share a domain, so limits by name would hit everybody.
_LIMITS_OF_POLICY: dict[str, LimitsSettings] = {
    "public": LimitsSettings(
        accounts_per_address=RateSettings(burst=10, period_s=3 * _HOUR_S),
        accounts_per_range=RateSettings(burst=500, period_s=3 * _HOUR_S),
        orders_per_account=RateSettings(burst=300, period_s=3 * _HOUR_S),
        pending_authorizations_per_account=300,
        certificates_per_domain=RateSettings(burst=50, period_s=_WEEK_S),
        certificates_per_name_set=RateSettings(burst=5, period_s=_WEEK_S),
        failed_validations_per_name=RateSettings(burst=5, period_s=_HOUR_S),
        pause_after_failures=1_000,
        nonces_per_address=RateSettings(burst=1_000, period_s=20),
        renewal_info_per_address=RateSettings(burst=1_000, period_s=60)),
    "internal": LimitsSettings(
        accounts_per_address=RateSettings(burst=10_000, period_s=3 * _HOUR_S),
        accounts_per_range=RateSettings(burst=50_000, period_s=3 * _HOUR_S),
        orders_per_account=RateSettings(burst=500_000, period_s=3 * _HOUR_S),
        pending_authorizations_per_account=0,
        certificates_per_domain=RateSettings(burst=0, period_s=_WEEK_S),
        certificates_per_name_set=RateSettings(burst=0, period_s=_WEEK_S),
        failed_validations_per_name=RateSettings(burst=0, period_s=_HOUR_S),
        pause_after_failures=0,
        nonces_per_address=RateSettings(burst=20_000, period_s=20),
        renewal_info_per_address=RateSettings(burst=20_000, period_s=20)),
}


def effective_limits(limits: LimitsSettings, policy: str) -> LimitsSettings:
    """Every limit: as the file says, else as the policy does."""
    of_policy = _LIMITS_OF_POLICY[policy]
    return LimitsSettings(**{
        name: value if (value := getattr(limits, name)) is not None else getattr(of_policy, name)
        for name in LimitsSettings.__struct_fields__})


def limit_rates(limits: LimitsSettings, *, pending_life_s: int) -> dict[str, RateSettings]:
    """The rate of every effective limit that is on, by its name (`orders-per-account`); pauses have none. A pending
    authorization weighs for as long as it may live."""
    rates = {name: getattr(limits, name) for name in LimitsSettings.__struct_fields__}
    rates["pending_authorizations_per_account"] = RateSettings(
        burst=limits.pending_authorizations_per_account or 0, period_s=pending_life_s)
    return {name.replace("_", "-"): rate for name, rate in rates.items()
            if isinstance(rate, RateSettings) and rate.burst > 0}


def require_sensible_limits(limits: LimitsSettings, require: Callable[[bool, str, str], None]) -> None:
    """Calls `require` with what has to hold, the key, and the form that is expected."""
    for name in LimitsSettings.__struct_fields__:
        rate = getattr(limits, name)
        if isinstance(rate, RateSettings):
            require(rate.burst >= 0 and rate.period_s >= 1, f"limits.{name}",
                    f"expected a burst of at least 0 in a period_s of at least 1, got {rate.burst} in {rate.period_s}")
        elif isinstance(rate, int):
            require(rate >= 0, f"limits.{name}", f"expected a number of at least 0, got {rate}")
    require(not limits.help_url or limits.help_url.startswith("https://"), "limits.help_url",
            f"expected an https:// URL, got {limits.help_url!r}")
