"""The record of the CA: what is about to be signed, before the HSM is asked, what came of it, refusals, revocations,
blocks, and what operators did (BR 5.4.1, spec/pki.md 8.5).

With a file, records go into its chain and are on disk when `flush` returns; without one (in tests) into the log alone.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from structlog.typing import FilteringBoundLogger

from ca.process.audit_log import AuditLog

_Result = TypeVar("_Result")
_Run = Callable[[Callable[[], _Result]], Awaitable[_Result]]
SignedKind = Literal["precertificate", "certificate", "crl"]


@dataclass(slots=True, kw_only=True)
class AuditTrail:
    """Writes audit records of one process, in order."""

    log: FilteringBoundLogger
    file: AuditLog | None = None

    async def flush(self) -> None:
        """Returns when every record so far is on disk. Raises AuditLogError: then nothing may be signed."""
        if self.file is not None:
            await self.file.flush()

    async def flush_before(self, run: _Run[_Result], act: Callable[[], _Result]) -> _Result:
        """What `act` returns, called in the thread of `run` when every record so far is on disk. Raises AuditLogError:
        then it was not called."""
        return await (run(act) if self.file is None else self.file.flush_before(run, act))

    def signing(self, kind: SignedKind, *, key: str, tbs: bytes, subject: str) -> None:
        """Before each signature: the key, the SHA-256 of the very bytes, and what they are."""
        self._event("signing", kind=kind, key=key, tbs_sha256=hashlib.sha256(tbs).hexdigest(), subject=subject)

    def signed(self, kind: SignedKind, *, key: str, tbs: bytes, signature: bytes) -> None:
        """After each signature that verifies."""
        self._event("signed", kind=kind, key=key, tbs_sha256=hashlib.sha256(tbs).hexdigest(),
                    signature_sha256=hashlib.sha256(signature).hexdigest())

    def signature_rejected(self, kind: SignedKind, *, key: str, tbs: bytes) -> None:
        """The HSM gave something that is no signature over these bytes."""
        self._event("signature rejected", kind=kind, key=key, tbs_sha256=hashlib.sha256(tbs).hexdigest())

    def refused(self, *, request: str, reason: str, detail: str) -> None:
        """Policy said no, and why."""
        self._event("refused", request=request, reason=reason, detail=detail)

    def revoked(self, *, serial: str, reason: int, version: int, authority: str) -> None:
        """A revocation, or a reason that became keyCompromise."""
        self._event("revoked", serial=serial, reason=reason, version=version, authority=authority)

    def key_blocked(self, *, spki_sha256: str, authority: str) -> None:
        """A key that is never certified again."""
        self._event("key blocked", spki_sha256=spki_sha256, authority=authority)

    def account_closed(self, *, account: str, why: str) -> None:
        """An account that the CA has ended."""
        self._event("account closed", account=account, why=why)

    def operator_act(self, *, id: str, operator: str, act: str, subject: str, acted_at: str, detail: object) -> None:
        """What an operator did or asked for."""
        self._event("operator act", id=id, operator=operator, act=act, subject=subject, acted_at=acted_at,
                    detail=detail)

    def _event(self, event: str, **values: Any) -> None:
        if self.file is not None:
            self.file.append(event, **values)
        else:
            self.log.info(event, audit=True, **values)
