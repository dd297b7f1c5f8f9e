"""Which limits hold for a request, and what a request that they refuse is told (spec rows P5, SF7).

Certificates are counted when an order is finalized, because until then nothing shows that the account controls the
names: else anybody could use up what a stranger's domain has. newOrder looks at the same buckets, so that a client
learns at once. An order that renews by ARI is exempt, and the same names again are exempt from the limit by domain.
"""

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from structlog.typing import FilteringBoundLogger

from acme_api.protocol.directory import limits_url
from acme_api.protocol.problem import Problem
from acme_api.protocol.rate_limit import (
    IpAddress,
    LimitName,
    Rate,
    Standing,
    Take,
    address_subject,
    domains_of,
    failures_wait,
    limited,
    name_set_subject,
    pause_wait,
    range_subject,
    spoken,
    take_of,
    wait_s,
)
from acme_api.wfe.limit_store import LimitStore, Override
from ca.pki.identifier import Identifier
from ca.pki.object_id import object_id, to_text
from ca.pki.serial import serial_number
from ca.process.client_address import IpNetwork
from ca.process.settings import Settings

LIMITS_CHANNEL: Final = "limits"
_REFRESH_S: Final = 60.0
_RETRY_S: Final = 1.0
_NETWORK_LIMITS: Final = (LimitName.ACCOUNTS_PER_ADDRESS, LimitName.ACCOUNTS_PER_RANGE, LimitName.NONCES_PER_ADDRESS,
                          LimitName.RENEWAL_INFO_PER_ADDRESS)
_BY_NAME: Final = frozenset({LimitName.CERTIFICATES_PER_DOMAIN, LimitName.CERTIFICATES_PER_NAME_SET,
                            LimitName.FAILURES_PER_NAME, LimitName.PAUSED_NAMES})
# A pair's history is looked at so far back; an older failure is no sign that the next attempt fails.
_HISTORY: Final = timedelta(days=90)
# A certificate that is renewed was issued within this time, whatever its profile.
_RENEWABLE: Final = timedelta(days=120)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPolicy:
    """The limits of the configuration: no entry, no limit."""

    rates: Mapping[LimitName, Rate]
    pause_after_failures: int
    help_url: str
    authorization_life: timedelta


def limit_policy(settings: Settings) -> LimitPolicy:
    """What the effective settings say."""
    return LimitPolicy(
        rates={LimitName(name): Rate(burst=rate.burst, period_s=rate.period_s)
               for name, rate in settings.limit_rates.items()},
        pause_after_failures=settings.effective_limits.pause_after_failures or 0,
        help_url=settings.limits.help_url or limits_url(settings.acme.base_url),
        authorization_life=timedelta(seconds=settings.acme.authorization_life_s))


class Limits:
    """The policy, the overrides that are in force, and the questions that handlers ask. Unless the limits
    `concern_names` there is nothing to ask about the names of an order."""

    def __init__(self, policy: LimitPolicy, store: LimitStore, log: FilteringBoundLogger) -> None:
        self.policy = policy
        self._store = store
        self._log = log
        self._overrides: Mapping[tuple[str, str], Override] = {}
        self._networks: Mapping[LimitName, Sequence[tuple[IpNetwork, Override]]] = {}
        self.concern_names = self._concern_names(())
        self._changed = asyncio.Event()

    # --- overrides ---

    async def refresh(self) -> None:
        """Reads the overrides. Raises what the database raises; the old ones hold then, until their end."""
        self._overrides = await self._store.overrides()
        networks: dict[LimitName, list[tuple[IpNetwork, Override]]] = {}
        for (limit, subject), override in self._overrides.items():
            if any(limit == each.value for each in _NETWORK_LIMITS):
                networks.setdefault(LimitName(limit), []).append((ipaddress.ip_network(subject), override))
        for found in networks.values():
            found.sort(key=lambda pair: -pair[0].prefixlen)
        self._networks = networks
        self.concern_names = self._concern_names(limit for limit, _ in self._overrides)

    def changed(self, _payload: str) -> None:
        """Called when somebody has changed an override, or may have."""
        self._changed.set()

    async def keep_fresh(self) -> None:
        """Reads the overrides when they change, and every minute, until it is cancelled."""
        pause_s = _REFRESH_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            self._changed.clear()
            pause_s = _REFRESH_S
            try:
                await self.refresh()
            except Exception as fault:
                self._log.warning("limit overrides were not read", fault=str(fault) or type(fault).__name__)
                pause_s = _RETRY_S

    def rate(self, limit: LimitName, subject: str, now: datetime) -> Rate | None:
        """The rate that holds for an account, a domain or a name set; None when there is no limit."""
        override = self._overrides.get((limit.value, subject))
        return self.policy.rates.get(limit) if override is None or override.until <= now else override.rate

    def rate_of_address(self, limit: LimitName, address: IpAddress | None, now: datetime) -> Rate | None:
        """The rate that holds for an address: of the smallest network with an override, else the policy's."""
        for network, override in self._networks.get(limit, ()):
            if override.until > now and address is not None and address in network:
                return override.rate
        return self.policy.rates.get(limit)

    def _concern_names(self, overridden: Iterable[str]) -> bool:
        """Whether any limit has to do with the names of an order."""
        return bool(self.policy.pause_after_failures or _BY_NAME & self.policy.rates.keys()
                    or {name.value for name in _BY_NAME} & set(overridden))

    # --- what requests take ---

    def takes_of_account(self, address: IpAddress | None, now: datetime) -> list[Take]:
        """What newAccount takes."""
        subjects = ((LimitName.ACCOUNTS_PER_ADDRESS, address_subject(address)),
                    (LimitName.ACCOUNTS_PER_RANGE, range_subject(address)))
        return [take_of(limit, subject, rate) for limit, subject in subjects
                if subject is not None and (rate := self.rate_of_address(limit, address, now)) is not None]

    def takes_of_order(self, account_id: bytes, new_authorizations: int, now: datetime, *, exempt: bool) -> list[Take]:
        """What newOrder takes. `exempt`: it renews by ARI (row AR10)."""
        subject = to_text(account_id)
        costs = {LimitName.ORDERS_PER_ACCOUNT: 0 if exempt else 1, LimitName.PENDING_PER_ACCOUNT: new_authorizations}
        return [take_of(limit, subject, rate, cost=cost) for limit, cost in costs.items()
                if cost and (rate := self.rate(limit, subject, now)) is not None]

    async def takes_of_certificate(
        self, identifiers: Sequence[Identifier], now: datetime, *, exempt: bool
    ) -> list[Take]:
        """What a certificate takes, having asked whether it is a renewal if that matters."""
        if exempt:
            return []
        set_subject = name_set_subject(identifiers)
        set_rate = self.rate(LimitName.CERTIFICATES_PER_NAME_SET, set_subject, now)
        takes = [] if set_rate is None else [take_of(LimitName.CERTIFICATES_PER_NAME_SET, set_subject, set_rate)]
        by_domain = [take_of(LimitName.CERTIFICATES_PER_DOMAIN, domain, rate) for domain in domains_of(identifiers)
                     if (rate := self.rate(LimitName.CERTIFICATES_PER_DOMAIN, domain, now)) is not None]
        since = serial_number(now - _RENEWABLE, bytes(16))
        if by_domain and not await self._store.is_renewal(identifiers, since_serial=since):
            takes += by_domain
        return takes

    # --- refusals ---

    async def refusal(self, takes: Sequence[Take], now: datetime) -> Problem | None:
        """What a request is told that these buckets have no room for, by the one that it has to wait for longest;
        None when there is room."""
        full_at = await self._store.buckets(takes)
        waits = [(wait_s(full_at[key].timestamp() if key in full_at else 0.0, now.timestamp(), take.weight_s,
                         take.rate.period_s), number)
                 for number, take in enumerate(takes) for key in ((take.limit, take.subject),)]
        wait, number = max(waits)
        return self._refusal(takes[number], wait) if wait > 0 else None

    async def after_refusal(self, takes: Sequence[Take], now: datetime) -> Problem:
        """What a request is told whose statement found no room; another one may have made room meanwhile."""
        return await self.refusal(takes, now) or self._refusal(takes[0], 1.0)

    async def after_refused_order(self, takes: Sequence[Take], account_id: bytes, now: datetime) -> Problem | None:
        """As `after_refusal`; None when the order may be tried again, because most of what the account began is
        pending no more."""
        pending = next((take for take in takes if take.limit is LimitName.PENDING_PER_ACCOUNT), None)
        if pending is not None:
            expiries = await self._store.recount_pending(
                pending, account_id, made_after=object_id(now - self.policy.authorization_life, bytes(16)), now=now)
            wanted = round(pending.weight_s / pending.rate.interval_s)
            over = len(expiries) + wanted - pending.rate.burst
            if over > 0:
                wait = (expiries[over - 1] - now if over <= len(expiries)
                        else timedelta(seconds=pending.rate.period_s))
                return limited(LimitName.PENDING_PER_ACCOUNT, f"this account has {len(expiries)} pending "
                               f"authorizations, and {pending.rate.burst} are allowed; answer or deactivate some", wait,
                               self.policy.help_url)
        return await self.refusal(takes, now)

    async def require_certificate_room(
        self, identifiers: Sequence[Identifier], now: datetime, *, exempt: bool
    ) -> list[Take]:
        """What finalize has to take. Raises rateLimited when there is no room for it now; takes nothing."""
        takes = await self.takes_of_certificate(identifiers, now, exempt=exempt)
        if takes:
            refusal = await self.refusal(takes, now)
            if refusal is not None:
                raise refusal
        return takes

    async def require_promising(
        self, account_id: bytes, identifiers: Sequence[Identifier], now: datetime, *, with_running: bool = False
    ) -> None:
        """Raises rateLimited when a name has failed too often for this account of late, or is paused for it.
        `with_running`: or when it would have, if all that is running failed."""
        account = to_text(account_id)
        rate = self.rate(LimitName.FAILURES_PER_NAME, account, now)
        pause_after = self._pause_after(account, now)
        if rate is None and not pause_after:
            return
        span = max(_HISTORY if pause_after else timedelta(0), timedelta(seconds=rate.period_s if rate else 0))
        standings = await self._store.standings(
            account_id, identifiers, with_running=with_running, newest=max(pause_after, rate.burst if rate else 0),
            made_after=object_id(now - span - self.policy.authorization_life, bytes(16)))
        if not standings:
            return
        paused = [(wait, standing) for standing in standings
                  if pause_after and (wait := pause_wait(standing, pause_after, now)) is not None]
        if paused:
            raise self._paused(paused, account, pause_after)
        failing = [(wait, standing.identifier.value) for standing in standings
                   if rate is not None and (wait := failures_wait(standing, rate, now)) is not None]
        if rate is not None and failing:
            wait, name = max(failing)
            raise limited(
                LimitName.FAILURES_PER_NAME, f"validations of {name} for this account may fail {rate.burst} times "
                f"within {spoken(rate.period_s)}, and did; mend what their errors say", wait, self.policy.help_url)

    def _pause_after(self, account: str, now: datetime) -> int:
        override = self._overrides.get((LimitName.PAUSED_NAMES.value, account))
        if override is None or override.until <= now:
            return self.policy.pause_after_failures
        return 0 if override.rate is None else override.rate.burst

    def _paused(self, paused: Sequence[tuple[timedelta, Standing]], account: str, after: int) -> Problem:
        wait, standing = max(paused, key=lambda pair: pair[0])
        others = f" (and {len(paused) - 1} other names)" if len(paused) > 1 else ""
        return limited(
            LimitName.PAUSED_NAMES, f"{standing.identifier.value}{others} is paused for account {account}, because its "
            f"last {after} validations failed and none succeeded. Mend the cause: one attempt a day is let through, "
            "and the first that succeeds ends the pause; or ask the operator to end it", wait, self.policy.help_url)

    def _refusal(self, take: Take, wait: float) -> Problem:
        what = _WHAT[take.limit]
        rate = f"{take.rate.burst} in {spoken(take.rate.period_s)}"
        subject = "" if take.limit in _OF_ACCOUNT else f" {take.subject}"
        return limited(take.limit, f"too many {what}{subject}: {rate}", wait, self.policy.help_url)


_OF_ACCOUNT: Final = (LimitName.ORDERS_PER_ACCOUNT, LimitName.PENDING_PER_ACCOUNT, LimitName.CERTIFICATES_PER_NAME_SET)
_WHAT: Final = {
    LimitName.ACCOUNTS_PER_ADDRESS: "new accounts from",
    LimitName.ACCOUNTS_PER_RANGE: "new accounts from",
    LimitName.ORDERS_PER_ACCOUNT: "new orders of this account",
    LimitName.PENDING_PER_ACCOUNT: "pending authorizations of this account",
    LimitName.CERTIFICATES_PER_DOMAIN: "certificates for names of",
    LimitName.CERTIFICATES_PER_NAME_SET: "certificates for exactly these names",
}


def limits_page(policy: LimitPolicy) -> bytes:
    """What the help link of a refusal leads to: the limits of this server, for people."""
    lines = ["Rate limits of this certificate authority", ""]
    lines += [f"{name.value}: {rate.burst} in {spoken(rate.period_s)}" for name, rate in policy.rates.items()]
    if policy.pause_after_failures:
        lines.append(f"{LimitName.PAUSED_NAMES.value}: after {policy.pause_after_failures} failed validations of a "
                     "name without a success between them, one attempt a day")
    lines += [
        "", "A limit refills evenly: after a burst of n in a period, one more passes each period / n.",
        "Certificates for the same names as before do not count for certificates-per-domain; an order that renews by",
        "ACME Renewal Information (RFC 9773) counts for no limit by order or certificate.",
        "A refusal is 429 rateLimited: its Retry-After is the number of seconds after which the same request passes.",
        "The operator can make an exception for an account, a domain or a network.", ""]
    return "\n".join(lines).encode("ascii")
