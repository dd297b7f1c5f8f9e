"""Rate limits as arithmetic: GCRA buckets, failed validations, pauses (spec rows P5, SF7).

A bucket is one moment: when it will be full again (GCRA's theoretical arrival time). A request of cost c moves it c
intervals into the future, from now at least, and passes when it then lies at most a period ahead. So a bucket admits
`burst` at once and `burst` in each period ever after, in one comparison and one value, which ages by itself.
"""

import hashlib
import ipaddress
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from acme_api.protocol.problem import Problem
from ca.pki.identifier import Identifier, registered_domain

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
# A subscriber's IPv6 network is one address for us: who has a /64 has all of it.
_IPV6_ADDRESS_BITS: Final = 64
_IPV6_RANGE_BITS: Final = 48
_LONGEST_VALIDATION: Final = timedelta(seconds=10)
PROBE_INTERVAL: Final = timedelta(days=1)


class LimitName(Enum):
    """The limits, as operators and problem documents name them."""

    ACCOUNTS_PER_ADDRESS = "accounts-per-address"
    ACCOUNTS_PER_RANGE = "accounts-per-range"
    ORDERS_PER_ACCOUNT = "orders-per-account"
    PENDING_PER_ACCOUNT = "pending-authorizations-per-account"
    CERTIFICATES_PER_DOMAIN = "certificates-per-domain"
    CERTIFICATES_PER_NAME_SET = "certificates-per-name-set"
    FAILURES_PER_NAME = "failed-validations-per-name"
    PAUSED_NAMES = "paused-names"
    NONCES_PER_ADDRESS = "nonces-per-address"
    RENEWAL_INFO_PER_ADDRESS = "renewal-info-per-address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`burst` at once, and as many again in each period."""

    burst: int
    period_s: int

    @property
    def interval_s(self) -> float:
        """How long one request weighs."""
        return self.period_s / self.burst


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """What a request takes from one bucket; `weight_s` is cost times interval."""

    limit: LimitName
    subject: str
    weight_s: float
    rate: Rate


def take_of(limit: LimitName, subject: str, rate: Rate, *, cost: int = 1) -> Take:
    return Take(limit=limit, subject=subject, weight_s=cost * rate.interval_s, rate=rate)


def full_again_s(full_at_s: float, now_s: float, weight_s: float) -> float:
    """When the bucket is full again after a request. Seconds of any one clock."""
    return max(full_at_s, now_s) + weight_s


def wait_s(full_at_s: float, now_s: float, weight_s: float, period_s: float) -> float:
    """How long until the request passes; 0 or less when it passes now. More than a period's worth never passes."""
    # In this order a full bucket admits all of its burst, whatever the last digits of a clock are.
    return max(full_at_s - now_s, 0.0) + (weight_s - period_s)


def address_subject(address: IpAddress | None) -> str:
    """The address that accounts are counted by: an IPv4 address, or an IPv6 /64. All whose address is not known are
    one."""
    if address is None:
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((address, _IPV6_ADDRESS_BITS), strict=False))


def range_subject(address: IpAddress | None) -> str | None:
    """The IPv6 /48 of an address; IPv4 addresses are too scarce to be counted by range."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    return str(ipaddress.IPv6Network((address, _IPV6_RANGE_BITS), strict=False))


def domains_of(identifiers: Iterable[Identifier]) -> tuple[str, ...]:
    """The registered domains that a certificate counts for, each once; an address counts for itself."""
    return tuple(dict.fromkeys(
        address_subject(ipaddress.ip_address(each.value)) if each.type == "ip" else registered_domain(each.base)
        for each in identifiers))


def name_set_subject(identifiers: Iterable[Identifier]) -> str:
    """The exact set of names of a certificate, in any order: a hash, because a hundred names are long."""
    names = "\n".join(sorted(f"{each.type}:{each.value}" for each in set(identifiers)))
    return hashlib.sha256(names.encode("ascii")).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A validation that ended."""

    at: datetime
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How validations of one identifier went for one account: newest first, back to some moment.

    `forgiven_at`: an operator let the pair go on; what failed until then counts no more. `running`: how many have begun
    and not ended.
    """

    identifier: Identifier
    attempts: Sequence[Attempt]
    running: int = 0
    forgiven_at: datetime | None = None

    @property
    def failures(self) -> list[datetime]:
        """Those since the last success, newest first."""
        found = []
        for attempt in self.attempts:
            if not attempt.failed or (self.forgiven_at is not None and attempt.at <= self.forgiven_at):
                break
            found.append(attempt.at)
        return found


def failures_wait(standing: Standing, rate: Rate, now: datetime) -> timedelta | None:
    """How long a pair has to wait that failed `burst` times within the period; None when it may go on.

    The facts are all there, so this is exact: the request passes when the oldest of the last `burst` has left the
    period. A success wipes out what failed before it. What is running may fail yet, so it counts until it has ended.
    """
    recent = [at for at in standing.failures if at > now - timedelta(seconds=rate.period_s)]
    if len(recent) < rate.burst:
        return _LONGEST_VALIDATION if len(recent) + standing.running >= rate.burst else None
    return recent[rate.burst - 1] + timedelta(seconds=rate.period_s) - now


def pause_wait(standing: Standing, after_failures: int, now: datetime) -> timedelta | None:
    """How long a hopeless pair has to wait; None when it is not one.

    So many failures with never a success between them: from then on one attempt a day, so that a subscriber who has
    mended the cause comes back without asking anybody.
    """
    failures = standing.failures
    if len(failures) < after_failures or now >= failures[0] + PROBE_INTERVAL:
        return None
    return failures[0] + PROBE_INTERVAL - now


def limited(limit: LimitName, detail: str, wait: timedelta | float, help_url: str) -> Problem:
    """429 with the seconds after which the identical request passes (row P5)."""
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
    whole_s = max(1, math.ceil(seconds))
    return Problem("rateLimited", f"{limit.value}: {detail}; try again in {spoken(whole_s)}, see {help_url}",
                   retry_after_s=whole_s, help_url=help_url)


def spoken(seconds: int) -> str:
    """A length of time for people, never shorter than it is."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{math.ceil(seconds / size)} {unit}"
    return "1 second" if seconds == 1 else f"{seconds} seconds"
