"""Carries out revocation requests. Nothing here signs: the CRL and OCSP signers follow from what is stored."""

from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from ca.issuing import revocation_store as store
from ca.pki.revocation import FIRST_VERSION
from ca.process.ambient import Ambient
from ca.process.postgres import Pool

_BATCH = 500


async def revoke_requested(
    pool: Pool, ambient: Ambient, log: FilteringBoundLogger, *, on_changed: Callable[[int, bytes], None]
) -> bool:
    """Takes a batch of requests and revokes in one transaction; returns whether there were any.

    `on_changed(issuer id, serial)` is called for a revocation whose reason became keyCompromise.

    Idempotent: a serial number that is revoked already stays as it is, unless the new reason is keyCompromise. A serial
    number that was never given out is dropped with a log line, since nothing is bound to it.
    """
    async with pool.acquire() as connection, connection.transaction():
        requests = await store.take_requests(connection, _BATCH)
        if not requests:
            return False
        known = await store.certificates(connection, [request.serial for request in requests])
        ocsp: list[tuple[bytes, int, int, bytes]] = []
        now = ambient.now()
        for request in requests:
            if request.serial not in known:
                log.error("revocation of a serial number that was never given out", serial=request.serial.hex())
                continue
            version = await store.revoke(connection, request, now=now)
            log.info("revoked" if version else "revoked before", audit=True, serial=request.serial.hex(),
                     reason=request.reason, authority=request.authority, version=version)
            if version is not None:
                issuer_id, request_id = known[request.serial]
                ocsp.append((request.serial, version, issuer_id, request_id))
                if version > FIRST_VERSION:
                    on_changed(issuer_id, request.serial)
        await store.announce(connection, [request.id for request in requests], ocsp, now=now)
    return True
