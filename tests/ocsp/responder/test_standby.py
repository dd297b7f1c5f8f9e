"""A responder that reads a streaming replica: a real standby, made by pg_basebackup, of a primary of its own."""

import asyncio
import urllib.request
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from ocsp.protocol.response import CertStatus
from tests.ca.pki.authority import authority
from tests.ocsp.processes import add_issuer, port_of, publish, running, times_now, until, write_config
from tests.ocsp.responder.test_process import LATER_S, status_of
from tests.ocsp.signing import serial_of, signed
from tests.standby import pair

OWN = authority(ec.generate_private_key(ec.SECP256R1()))


def lag_s(port: int) -> float:
    """What the responder says of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("chancery_ocsp_responder_lag_seconds"))


async def test_a_responder_follows_a_standby_and_outlives_the_primary(tmp_path: Path) -> None:
    """Caught up, new responses and revocations seen through the replica; without the primary it goes on serving, says
    how far behind it is, and goes on when the primary is back."""
    times = times_now()
    async with pair(tmp_path) as servers:
        await add_issuer(servers.database, OWN)
        await publish(servers.database, [signed(OWN, serial_of(number), times=times, not_after_s=LATER_S)
                                         for number in range(50)], times)
        config = write_config(tmp_path, servers.database.settings, ocsp=f'database_url = "{servers.standby_url}"')
        port = port_of(config)
        with running("ocsp", config) as process:
            await process.ready()
            assert "read from a standby" in process.log.read_text()
            await until(lambda: status_of(port, OWN, serial_of(49)) is ocsp.OCSPCertStatus.GOOD, patience_s=30)
            revoked = signed(OWN, serial_of(7), CertStatus(revoked_at_s=times.this_update_s, reason=1), version=1,
                             times=times, not_after_s=LATER_S)
            await publish(servers.database, [revoked], times)
            await until(lambda: status_of(port, OWN, serial_of(7)) is ocsp.OCSPCertStatus.REVOKED, patience_s=30)
            await until(lambda: lag_s(port) < 5, patience_s=30)
            await asyncio.to_thread(servers.primary.stop)
            await until(lambda: lag_s(port) > 3, patience_s=60)
            assert status_of(port, OWN, serial_of(7)) is ocsp.OCSPCertStatus.REVOKED
            assert status_of(port, OWN, serial_of(8)) is ocsp.OCSPCertStatus.GOOD
            await servers.start_primary()
            late = signed(OWN, serial_of(99), times=times, not_after_s=LATER_S)
            await publish(servers.database, [late], times)
            await until(lambda: status_of(port, OWN, serial_of(99)) is ocsp.OCSPCertStatus.GOOD, patience_s=60)
            await until(lambda: lag_s(port) < 5, patience_s=60)
