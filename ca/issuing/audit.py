"""The record of signing: what is about to be signed, before the HSM is asked, and what came of it (spec/pki.md 8.5).

Events go into the structured log. Each carries a number and the digest of the one before, so a line that is taken out
or changed later shows; a process begins a chain of its own.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from structlog.typing import FilteringBoundLogger

SignedKind = Literal["precertificate", "certificate", "crl"]


@dataclass(slots=True, kw_only=True)
class AuditTrail:
    """Writes audit events of one process, in order."""

    log: FilteringBoundLogger
    _number: int = field(default=0, init=False)
    _previous: str = field(default="", init=False)

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
                    detail=msgspec.json.encode(detail, order="sorted").decode())

    def _event(self, event: str, **values: str | int) -> None:
        self._number += 1
        entry: dict[str, str | int] = {"number": self._number, "previous": self._previous, **values}
        self._previous = digest(event, entry)
        self.log.info(event, audit=True, **entry)


def digest(event: str, entry: dict[str, str | int]) -> str:
    """What the next event's `previous` has to be: SHA-256 over the event's own fields as canonical JSON."""
    return hashlib.sha256(msgspec.json.encode({"event": event, **entry}, order="sorted")).hexdigest()
