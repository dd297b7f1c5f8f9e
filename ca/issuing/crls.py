"""Publishes CRLs: one for every shard at the start, anew within seconds of a revocation, and all of them regularly.

BR 4.9.7 wants a CRL within 24 hours of a revocation and every 4 days; we make each shard's anew after 6 hours, with a
life of 9 days. Any CA process may make a CRL; a lock on the shard sees to it that only one does. An expired certificate
stays listed until it has been in one CRL made after its end (RFC 5280 3.3).

Twenty thousand entries are a third of a second's work without a database or a token: a thread does it, so that
certificates are issued meanwhile. One thread at a time: the linter remembers what it has seen and has no locks.
"""

import asyncio
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, ParamSpec, TypeVar

from structlog.typing import FilteringBoundLogger

from ca.issuing import revocation_store as store
from ca.issuing.audit import AuditTrail
from ca.issuing.authorities import Authority
from ca.issuing.policy import IssuancePolicy
from ca.issuing.queue_store import notify
from ca.issuing.revocation_store import IssuedCertificate
from ca.issuing.signer import Signer
from ca.pki.crl import (
    LIFE_S,
    REFRESH_S,
    CrlEntry,
    CrlError,
    crl_number,
    crl_serials,
    require_next,
    require_nothing_lost,
    revocation_times_s,
    shard_url,
    tbs_crl,
)
from ca.pki.issuer import Issuer
from ca.pki.lint import crl_allowances, lint_crl, require_clean
from ca.pki.refusal import Refusal
from ca.pki.serial import shard as shard_of
from ca.pki.tbs import assemble
from ca.process.ambient import Ambient
from ca.process.postgres import Connection, Pool
from ca.process.worker import wait_any

# After a revocation the shard waits this long for others that come with it; while very many are revoked, so long that
# CRLs take no more than a fifth of the process's time, and never longer than BR 4.9.7 leaves room for by far.
_DEBOUNCE_S: Final = 0.5
_REST: Final = 4
_LONGEST_DEBOUNCE_S: Final = 300.0
# A mass revocation changes every shard again and again: its CRLs are made when it has ended, or once in this time.
_MASS_DEBOUNCE_S: Final = 60.0
# How often revocations are looked for whose CRL another process should have made and did not, and how far back beyond
# the last look: longer than any transaction lasts or any clock is off.
_LOOK_EVERY_S: Final = 60
_LOOK_BACK_S: Final = 600
_RETRY_S: Final = 1.0

ShardKey = tuple[int, int]
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class CrlPublisher:
    """The CRLs of all issuers of this process."""

    def __init__(
        self,
        *,
        pool: Pool,
        ambient: Ambient,
        policy: IssuancePolicy,
        authorities: Mapping[int, Authority],
        signer: Signer,
        audit: AuditTrail,
        log: FilteringBoundLogger,
    ) -> None:
        self._pool = pool
        self._ambient = ambient
        self._policy = policy
        self._authorities = authorities
        self._signer = signer
        self._audit = audit
        self._log = log
        self._dirty: set[ShardKey] = set()
        # When the newest CRL of a shard was made, and the times of its entries in ascending order.
        self._listed: dict[ShardKey, tuple[datetime, array[int]]] = {}
        self._looked_at: datetime | None = None
        self._took_s = 0.0
        self._thread = asyncio.Lock()
        self.wake = asyncio.Event()
        self.more_to_come = False       # a mass revocation goes on

    def mark(self, certificates: Iterable[IssuedCertificate]) -> None:
        """Says that the status of these certificates has changed, so that their shards need a new CRL."""
        for certificate in certificates:
            authority = self._authorities.get(certificate.issuer_id)
            if authority is not None:
                self._dirty.add((authority.id, shard_of(certificate.serial, authority.crl_shards)))
        if self._dirty:
            self.wake.set()

    def is_marked(self) -> bool:
        """Whether a status has changed since the last CRLs."""
        return bool(self._dirty)

    @property
    def debounce_s(self) -> float:
        """How long to wait for more changes before the next CRLs."""
        return min(max(_DEBOUNCE_S, _REST * self._took_s), _LONGEST_DEBOUNCE_S)

    async def settle(self, stop: asyncio.Event) -> None:
        """Returns when changed shards should get their CRLs, or at `stop`."""
        clock = asyncio.get_running_loop()
        begun_s = clock.time()
        if not self.more_to_come:
            await wait_any(stop, timeout_s=self.debounce_s)
        while (self.more_to_come and not stop.is_set()
               and clock.time() - begun_s < max(_MASS_DEBOUNCE_S, self.debounce_s)):
            await wait_any(stop, timeout_s=_DEBOUNCE_S)

    async def publish_missing(self) -> None:
        """Makes the first CRL of every shard that has none: a certificate never names a CRL that does not exist."""
        made = await store.latest_crls(self._pool, self._shards())
        await self._publish_all({key for key in self._shards() if key not in made})

    async def publish_due(self) -> bool:
        """Makes every CRL that is missing, changed or six hours old. Always False: what is left waits for `wake`."""
        clock = asyncio.get_running_loop()
        begun_s = clock.time()
        dirty, self._dirty = self._dirty, set()
        left = dirty
        try:
            left = dirty & await self._publish_all(await self._due(dirty, self._ambient.now()))
        finally:
            self._dirty |= left
            self._took_s = clock.time() - begun_s
        if left:
            # Another process has the lock of a shard, and may have read it before our revocation was committed.
            asyncio.get_running_loop().call_later(_RETRY_S, self.wake.set)
        return False

    async def _publish_all(self, due: set[ShardKey]) -> set[ShardKey]:
        """Makes CRLs; returns the shards without one, because another process has them or because it was refused."""
        left = set()
        for key in sorted(due):
            try:
                if not await self._publish(key):
                    left.add(key)
            except (CrlError, Refusal):
                # One shard's trouble: the others get theirs, and an operator sees the age of this one.
                self._log.exception("CRL refused", issuer=self._authorities[key[0]].name, shard=key[1])
                left.add(key)
        return left

    def _shards(self) -> list[ShardKey]:
        return [(authority.id, shard) for authority in self._authorities.values()
                for shard in range(authority.crl_shards)]

    async def _due(self, dirty: set[ShardKey], now: datetime) -> set[ShardKey]:
        made = await store.latest_crls(self._pool, self._shards())
        oldest = now - timedelta(seconds=REFRESH_S)
        due = dirty | {key for key in self._shards() if key not in made or made[key] <= oldest}
        if self._looked_at is None or now - self._looked_at >= timedelta(seconds=_LOOK_EVERY_S):
            since = (self._looked_at or min(made.values(), default=now)) - timedelta(seconds=_LOOK_BACK_S)
            since = since.replace(microsecond=0)
            for key, revoked in (await self._revoked_since(since)).items():
                # A CRL lists nothing but what was revoked: when it lists as many, it lists them all. One that has left
                # it because its certificate has expired costs a CRL too many.
                if key not in due and revoked > await self._listed_since(key, made[key], since):
                    due.add(key)
            self._looked_at = now
        return due

    async def _revoked_since(self, since: datetime) -> Counter[ShardKey]:
        found: Counter[ShardKey] = Counter()
        for issuer_id, last_byte, revoked in await store.revoked_since(self._pool, since):
            authority = self._authorities.get(issuer_id)
            if authority is not None:
                found[issuer_id, last_byte % authority.crl_shards] += revoked
        return found

    async def _listed_since(self, key: ShardKey, made_at: datetime, since: datetime) -> int:
        """How many entries of the newest CRL of a shard are of this time or later; it is read once for each CRL."""
        listed = self._listed.get(key)
        if listed is None or listed[0] != made_at:
            async with self._pool.acquire() as connection:
                latest = await store.latest_crl(connection, *key)
            listed = ((latest.this_update, array("q", await self._off_loop(revocation_times_s, latest.der)))
                      if latest is not None else (made_at, array("q")))
            self._listed[key] = listed
        return len(listed[1]) - bisect_left(listed[1], int(since.timestamp()))

    async def _publish(self, key: ShardKey) -> bool:
        """Makes the next CRL of a shard; False when another process is doing so."""
        authority, shard = self._authorities[key[0]], key[1]
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                if not await store.lock_shard(connection, *key):
                    return False
                previous = await store.latest_crl(connection, *key)
                now = self._ambient.now()
                number = crl_number(now)
                require_next(number, None if previous is None else previous.number)
                entries = await self._entries(connection, authority, shard, previous, now)
                crl, next_update = await self._sign(authority, shard, number, now, entries)
                await store.insert_crl(connection, issuer_id=authority.id, shard=shard, number=number,
                                       this_update=now, next_update=next_update, entries=len(entries), der=crl)
            self._listed[key] = (now, array("q", sorted(int(entry.revoked_at.timestamp()) for entry in entries)))
            await notify(connection, [("crl", "")])
        return True

    async def _entries(
        self, connection: Connection, authority: Authority, shard: int, previous: store.LatestCrl | None, now: datetime
    ) -> list[CrlEntry]:
        """What the CRL lists. Raises CrlError when an entry of the last one would vanish before its time."""
        not_expired_at = now if previous is None else previous.this_update
        entries = await store.crl_entries(connection, issuer_id=authority.id, shard=shard,
                                          shards=authority.crl_shards, not_expired_at=not_expired_at)
        if previous is not None:
            gone = await self._off_loop(_gone, previous.der, entries)
            if gone:
                require_nothing_lost(gone, entries, await store.expired_among(connection, list(gone), not_expired_at))
        return entries

    async def _sign(
        self, authority: Authority, shard: int, number: int, now: datetime, entries: list[CrlEntry]
    ) -> tuple[bytes, datetime]:
        """The CRL and its nextUpdate, linted before and verified after the signature. Raises Refusal, HsmError."""
        this_update = now.replace(microsecond=0)
        next_update = min(this_update + timedelta(seconds=LIFE_S - 1), authority.issuer.validity.not_after)
        url = shard_url(self._policy.crl_base_url, authority.name, shard)
        tbs = await self._off_loop(self._linted_tbs, authority.issuer, url, number, this_update, next_update, entries)
        self._audit.signing("crl", key=authority.name, tbs=tbs, subject=f"{url} number {number}")
        signature = (await self._signer.sign(authority, "crl", [tbs]))[0]
        return assemble(tbs, signature), next_update

    def _linted_tbs(
        self, issuer: Issuer, url: str, number: int, this_update: datetime, next_update: datetime,
        entries: Sequence[CrlEntry],
    ) -> bytes:
        """What is signed, after the linter has seen a copy whose signature proves nothing. Raises Refusal."""
        tbs = tbs_crl(issuer=issuer, url=url, number=number, this_update=this_update, next_update=next_update,
                      entries=entries)
        require_clean(lint_crl(self._signer.whole_for_lint(tbs, issuer), issuer, url),
                      crl_allowances(public=self._policy.names.public), "the CRL")
        return tbs

    async def _off_loop(self, work: Callable[_Arguments, _Result], *arguments: _Arguments.args,
                        **named: _Arguments.kwargs) -> _Result:
        """The result of a function that computes and does nothing else, from a thread; raises what it raises."""
        async with self._thread:
            return await asyncio.to_thread(work, *arguments, **named)


def _gone(previous_der: bytes, entries: Iterable[CrlEntry]) -> set[bytes]:
    """The serial numbers of the previous CRL that are not among the entries."""
    return crl_serials(previous_der) - {entry.serial for entry in entries}
