"""Brings a server's snapshot to what the database shows."""

from itertools import islice

import structlog

from ca.distribution import store
from ca.distribution.server import Distribution
from ca.distribution.snapshot import next_snapshot
from ca.process.postgres import Pool
from ca.process.settings import CaSettings

_CRLS_AT_A_TIME = 16    # one may be a megabyte, and a mass revocation renews all shards


async def refresh(pool: Pool, distribution: Distribution, settings: CaSettings) -> None:
    """Loads the CRLs that are newer than those served, and every certificate. What fails leaves all as it was."""
    async with pool.acquire() as connection:
        issuers = await store.issuers(connection)
        ceremony_files = await store.ceremony_files(connection)
        held = distribution.snapshot
        newer = iter(held.newer(await store.latest_crl_keys(connection)))
        loaded = 0
        while True:
            keys = list(islice(newer, _CRLS_AT_A_TIME))
            crls = await store.crls(connection, keys) if keys else []
            loaded += len(crls)
            held = next_snapshot(held, issuers=issuers, ceremony_files=ceremony_files, crls=crls,
                                 aia_base_url=settings.aia_base_url, crl_base_url=settings.crl_base_url)
            distribution.snapshot = held
            if not keys:
                break
    if loaded:
        structlog.get_logger().info("published", crls=loaded, files=len(distribution.snapshot.files))
