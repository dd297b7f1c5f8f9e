"""Asking logs with care: each behind its breaker, every answer verified before it counts."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from ca.pki.ct_log_list import CtLog, LogList
from ca.pki.ct_policy import Precertificate, VerifiedSct, verify_sct
from ca.pki.sct import SctError, decode_sct, require_signature, signed_certificate
from ca.process.ambient import Ambient
from ca.publisher.breaker import Breaker
from ca.publisher.log_client import LogClient, LogFault, LogRefusal


@dataclass(slots=True, kw_only=True)
class Logs:
    """What fails is logged here and comes back as None: another log is asked then."""

    client: LogClient
    ambient: Ambient
    log: FilteringBoundLogger
    _breakers: dict[bytes, Breaker] = field(default_factory=dict, init=False)

    def admits(self, log: CtLog) -> bool:
        """Whether the log may be asked now."""
        return self._breaker(log).admits(_clock_s())

    async def precertificate_sct(
        self, log: CtLog, chain: Sequence[bytes], precertificate: Precertificate, logs: LogList
    ) -> VerifiedSct | None:
        """The log's SCT for a precertificate."""
        data = await self._submit(log, chain, precertificate=True)
        if data is None:
            return None
        try:
            verified = verify_sct(data, precertificate, logs, self.ambient.now())
            if verified.log.log_id != log.log_id:
                raise SctError(f"the SCT is of another log, {verified.log.description!a}")
        except SctError as fault:
            self._distrust(log, fault)
            return None
        return verified

    async def takes_final(self, log: CtLog, chain: Sequence[bytes]) -> bool:
        """Whether the log has taken a final certificate, the first of the chain."""
        data = await self._submit(log, chain, precertificate=False)
        if data is None:
            return False
        try:
            sct = decode_sct(data)
            if sct.log_id != log.log_id:
                raise SctError("the SCT is of another log")
            require_signature(sct, signed_certificate(sct, certificate=chain[0]), log.key)
        except SctError as fault:
            self._distrust(log, fault)
            return False
        return True

    async def _submit(self, log: CtLog, chain: Sequence[bytes], *, precertificate: bool) -> bytes | None:
        breaker = self._breaker(log)
        if not breaker.admits(_clock_s()):
            return None
        breaker.sent()
        try:
            data = await self.client.submit(log, chain, precertificate=precertificate)
        except LogFault as fault:
            breaker.failed(_clock_s(), retry_after_s=fault.retry_after_s)
            self.log.warning("a log does not answer as it should", log=log.description, error=str(fault),
                             retry_after_s=fault.retry_after_s)
            return None
        except LogRefusal as refusal:
            breaker.succeeded()
            self.log.error("a log refuses a chain", log=log.description, error=str(refusal))
            return None
        except BaseException:
            breaker.abandoned()
            raise
        breaker.succeeded()
        return data

    def _distrust(self, log: CtLog, fault: SctError) -> None:
        """A log whose answers are wrong is a failing log, and an operator should hear of it."""
        self.log.error("a log gave an SCT that cannot be used", log=log.description, error=str(fault))
        self._breaker(log).failed(_clock_s())

    def _breaker(self, log: CtLog) -> Breaker:
        return self._breakers.setdefault(log.log_id, Breaker())


def _clock_s() -> float:
    return asyncio.get_running_loop().time()
