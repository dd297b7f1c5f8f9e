"""Makes CRLs: one for every shard at the start, again within seconds after a revocation, and on cadence.

BR 4.9.7: within 24 hours after a revocation and every 4 days; we make every shard anew after 6 hours, with a life of 9
days. Whoever of several CA processes takes a shard's lock makes its next CRL.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from structlog.typing import FilteringBoundLogger

from ca.issuing import revocation_store as store
from ca.issuing.prelint import Prelint
from ca.issuing.signer import IssuerSigner, Signers, sign
from ca.pki.crl import CrlEntry, crl_number, require_next, shard_url, tbs_crl
from ca.pki.tbs import assemble
from ca.process.ambient import Ambient
from ca.process.postgres import Connection, Pool
from hsm.thread import HsmThread

CADENCE: Final = timedelta(hours=6)
LIFE: Final = timedelta(days=9)
# A revocation that commits while a CRL is made may carry an earlier time. So a shard with a revocation shortly before
# its newest CRL is made once more, when every transaction of that time has ended.
_OVERLAP: Final = timedelta(seconds=30)
_SECOND: Final = timedelta(seconds=1)


class CrlPublisher:
    """The CRLs of all issuers."""

    def __init__(
        self,
        *,
        pool: Pool,
        thread: HsmThread,
        signers: Signers,
        prelint: Prelint,
        crl_base_url: str,
        ambient: Ambient,
        log: FilteringBoundLogger,
    ) -> None:
        self._pool = pool
        self._thread = thread
        self._signers = signers
        self._prelint = prelint
        self._base_url = crl_base_url
        self._ambient = ambient
        self._log = log
        self._changed: set[tuple[int, int]] = set()

    def mark_changed(self, issuer_id: int, serial: bytes) -> None:
        """A revocation's reason changed, which its time does not show; the cadence covers a restart before the CRL."""
        signer = self._signers.by_id.get(issuer_id)
        if signer is not None:
            self._changed.add((issuer_id, serial[-1] % signer.crl_shards))

    async def publish_due(self) -> bool:
        """Makes every CRL that is missing, dirty or old; False, because it leaves nothing to be done at once."""
        now = self._ambient.now()
        latest = await store.latest_crls(self._pool)
        changed, self._changed = self._changed, set()
        dirty = changed | await self._dirty(latest, now)
        for signer in self._signers.by_id.values():
            for shard in range(signer.crl_shards):
                known = latest.get((signer.id, shard))
                if known is None or known.this_update + CADENCE <= now or (signer.id, shard) in dirty:
                    await self._publish(signer, shard)
        return False

    async def _dirty(
        self, latest: dict[tuple[int, int], store.LatestCrl], now: datetime
    ) -> set[tuple[int, int]]:
        """Shards with a revocation that their newest CRL cannot have seen."""
        oldest = min((crl.this_update for crl in latest.values()), default=now) - _OVERLAP
        found = set()
        for issuer_id, last_byte, revoked_at in await store.revoked_since(self._pool, oldest):
            signer = self._signers.by_id.get(issuer_id)
            if signer is not None:
                shard = last_byte % signer.crl_shards
                known = latest.get((issuer_id, shard))
                if known is None or revoked_at > known.this_update or (
                        revoked_at > known.this_update - _OVERLAP and now - known.this_update > _OVERLAP):
                    found.add((issuer_id, shard))
        return found

    async def _publish(self, signer: IssuerSigner, shard: int) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            if not await store.lock_shard(connection, signer.id, shard):
                return
            await self._make(connection, signer, shard)

    async def _make(self, connection: Connection, signer: IssuerSigner, shard: int) -> None:
        previous = await store.latest_of_shard(connection, signer.id, shard)
        now = self._ambient.now()
        this_update = now.replace(microsecond=0)
        next_update = min(this_update + LIFE - _SECOND, signer.issuer.validity.not_after)
        number = crl_number(now)
        require_next(number, None if previous is None else previous.number)
        # An expired certificate stays until it has been in one CRL after its end (RFC 5280 3.3).
        entries = await store.crl_entries(connection, issuer_id=signer.id, shard=shard, shards=signer.crl_shards,
                                          expired_after=this_update if previous is None else previous.this_update)
        url = shard_url(self._base_url, signer.name, shard)
        tbs = tbs_crl(issuer=signer.issuer, url=url, number=number, this_update=this_update, next_update=next_update,
                      entries=_listed(entries))
        self._prelint.require_clean_crl(tbs, issuer=signer.issuer, url=url)
        self._log.info("signing CRL", audit=True, issuer=signer.name, shard=shard, number=number, entries=len(entries))
        signature = (await sign(self._thread, signer, [tbs]))[0]
        await store.insert_crl(connection, issuer_id=signer.id, shard=shard, number=number, this_update=now,
                               next_update=next_update, entries=len(entries), der=assemble(tbs, signature))


def _listed(entries: Sequence[store.RevokedEntry]) -> list[CrlEntry]:
    return [CrlEntry(serial=entry.serial, revoked_at=entry.revoked_at.replace(microsecond=0), reason=entry.reason)
            for entry in entries]
