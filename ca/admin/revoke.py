"""An operator's revocation: may it be, ask the CA for it, and wait until the world is told.

The role ca_admin cannot revoke: it inserts a request, the CA carries it out, the pre-signer signs the new response.
Each step is a row that is seen to come or go.
"""

import asyncio
import getpass
import os
import socket
from dataclasses import dataclass
from datetime import datetime

from ca.admin import block_store, certificate_store
from ca.admin.context import CommandError, ExitCode
from ca.admin.output import moment
from ca.admin.records import Certificate
from ca.pki.object_id import object_id
from ca.pki.revocation import REASON_NAMES, Revocation, next_revocation
from ca.pki.serial import serial_hex
from ca.process.ambient import Ambient
from ca.process.postgres import Connection

_FIRST_LOOK_S = 0.05
_LONGEST_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationOutcome:
    """How far it came while we waited."""

    revoked: bool
    ocsp_published: bool
    waited_s: float


def require_revocable(certificate: Certificate, reason: int, now: datetime) -> None:
    """Raises CommandError when a revocation would change nothing: expired, or revoked already.

    The rule what a request changes is the CA's own; here it only saves a useless request.
    """
    if certificate.not_after < now:
        raise CommandError(f"the certificate has expired at {moment(certificate.not_after)}: nobody accepts it",
                           ExitCode.REFUSED)
    found = certificate.revocation
    if found is None:
        return
    known = Revocation(serial=certificate.serial, revoked_at=found.revoked_at, reason=found.reason,
                       version=found.version)
    if next_revocation(known, serial=certificate.serial, reason=reason, now=now) is None:
        raise CommandError(f"the certificate is revoked since {moment(found.revoked_at)} for "
                           f"{REASON_NAMES[found.reason]}: that can only become keyCompromise, once", ExitCode.REFUSED)


def operator_name() -> str:
    """Who sits at the keyboard, as well as this machine knows: 'ada@host', behind sudo too."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


async def revoke_and_wait(
    connection: Connection, certificate: Certificate, *, reason: int, comment: str, operator: str, ambient: Ambient,
    wait_s: float,
) -> RevocationOutcome:
    """Asks the CA; waits at most `wait_s` until the revocation is stored and no responder waits for its response."""
    now = ambient.now()
    request_id = object_id(now, ambient.random_bytes(16))
    async with connection.transaction():
        await certificate_store.request_revocation(
            connection, request_id=request_id, serial=certificate.serial, reason=reason,
            evidence={"operator": operator, "comment": comment}, now=now)
        await block_store.act(connection, ambient, operator=operator, act="revoke certificate",
                              subject=serial_hex(certificate.serial),
                              detail={"reason": REASON_NAMES[reason], "comment": comment})
    clock = asyncio.get_running_loop()
    began_s = clock.time()
    pause_s = _FIRST_LOOK_S
    while True:
        is_queued, in_force, ocsp_waits = await certificate_store.revocation_progress(
            connection, request_id, certificate.serial)
        waited_s = clock.time() - began_s
        revoked = not is_queued and in_force is not None
        if not is_queued and in_force is None:
            raise CommandError("the CA has refused the revocation: its log says why", ExitCode.REFUSED)
        if (revoked and not ocsp_waits) or waited_s >= wait_s:
            return RevocationOutcome(revoked=revoked, ocsp_published=revoked and not ocsp_waits, waited_s=waited_s)
        await asyncio.sleep(min(pause_s, max(0.0, wait_s - waited_s)))
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
