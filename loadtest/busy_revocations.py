"""From the commit of a revocation until the responder says so, while it serves and the pre-signer signs."""

import asyncio
import time
from collections.abc import Sequence

from cryptography.x509 import ocsp

from loadtest.database import Connection, connected
from loadtest.growth import SIGNED_EACH, Growth, sha1_requests
from loadtest.http_connection import HttpConnection, HttpFault, Origin
from loadtest.ocsp_load import OcspFault, Subject, ask, run_wrk, write_script
from loadtest.program import ProgramFault
from loadtest.session import Steps
from loadtest.synthetic import insert_certificates, make_serials, request_responses, revoke_made_up

_PATIENCE_S = 600.0
_LOAD_SECONDS = 600
_ASKED_BESIDE = 50_000


async def busy_revocations(growth: Growth, origin: Origin, steps: Steps, *, count: int, connections: int
                           ) -> list[float]:
    """Seconds of each, one after the other. Raises ProgramFault when one is not seen."""
    script = write_script(growth.session.peer_work(), "GET", sha1_requests(growth.sample[:_ASKED_BESIDE]))
    load = asyncio.create_task(run_wrk(script, origin, connections=connections, seconds=_LOAD_SECONDS))
    signing = asyncio.create_task(_keep_signing(growth))
    connection = HttpConnection(origin, None)
    try:
        async with connected(growth.chancery) as own:
            return await _one_by_one(growth, own, connection, growth.signed[-count:], steps)
    finally:
        for task in (load, signing):
            task.cancel()
        await asyncio.gather(load, signing, return_exceptions=True)
        connection.close()
        script.with_suffix(".txt").unlink(missing_ok=True)
        await _until_signed(growth)


async def _until_signed(growth: Growth) -> None:
    """What was queued here is no part of what is measured next."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while await growth.connection.fetchval("SELECT EXISTS (SELECT FROM ocsp_requests)"):
        if time.monotonic() > give_up_at:
            raise ProgramFault("the pre-signer does not come to the end of its queue")
        await asyncio.sleep(0.1)


async def _one_by_one(growth: Growth, own: Connection, connection: HttpConnection, subjects: Sequence[Subject],
                      steps: Steps) -> list[float]:
    seen_s: list[float] = []
    for subject, request in zip(subjects, sha1_requests(subjects), strict=True):
        await revoke_made_up(own, growth.issuer, subject.serial.to_bytes(18, "big"))
        committed = time.perf_counter()
        while True:
            try:
                response, _ = await ask(connection, subject, request, "GET")
            except (OcspFault, HttpFault) as fault:
                raise ProgramFault(f"a revoked certificate is not answered for: {fault}") from fault
            if response.certificate_status == ocsp.OCSPCertStatus.REVOKED:
                break
            if time.perf_counter() - committed > _PATIENCE_S:
                raise ProgramFault("a revocation is not seen")
            await asyncio.sleep(0.005)
        seen_s.append(time.perf_counter() - committed)
        steps.done()
    return seen_s


async def _keep_signing(growth: Growth) -> None:
    """New certificates without end, so that the pre-signer is never idle."""
    async with connected(growth.chancery) as own:
        while True:
            if await own.fetchval("SELECT count(*) FROM ocsp_requests") < SIGNED_EACH // 2:
                serials = make_serials(SIGNED_EACH, growth.session.report.started_at)
                await insert_certificates(own, growth.issuer, serials)
                await request_responses(own, growth.issuer, serials)
                growth.held += SIGNED_EACH
            await asyncio.sleep(0.2)
