"""What is fixed of a certificate before its signature: made in step 3 of the cycle, stored in step 4 and, with
Certificate Transparency, once more in step 12.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from ca.issuing.audit import SignedKind
from ca.pki.precertificate import is_precertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIntent:
    """A certificate whose bytes are fixed and committed; `signed` when its signature is stored too.

    With Certificate Transparency `tbs` is the precertificate's, `logged` says that its signature is stored and that
    logs are asked, and `final_tbs` is the certificate's own once it is committed.
    """

    request_id: bytes
    serial: bytes
    issuer_id: int
    profile: str
    not_before: datetime
    not_after: datetime
    tbs: bytes
    created_at: datetime
    logged: bool = False
    final_tbs: bytes | None = None
    signed: bool = False

    @property
    def next_kind(self) -> SignedKind:
        """What its next signature makes of it."""
        return "precertificate" if self.final_tbs is None and is_precertificate(self.tbs) else "certificate"

    @property
    def next_tbs(self) -> bytes:
        """What its next signature is over."""
        return self.tbs if self.final_tbs is None else self.final_tbs

    @property
    def waits_for_scts(self) -> bool:
        """Whether its precertificate is signed and stored, and nothing of the certificate itself is fixed yet."""
        return self.logged and self.final_tbs is None

    def with_final(self, tbs: bytes) -> "StoredIntent":
        """The same after its final certificate was committed."""
        return replace(self, final_tbs=tbs)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIntent:
    """What is committed before the HSM is asked."""

    request_id: bytes
    account_id: bytes | None
    serial: bytes
    issuer_id: int
    profile: str
    not_before: datetime
    not_after: datetime
    spki_sha256: bytes
    names: tuple[str, ...]
    tbs: bytes
    has_ocsp: bool

    def stored(self, now: datetime) -> StoredIntent:
        """What is stored of it at `now`."""
        return StoredIntent(request_id=self.request_id, serial=self.serial, issuer_id=self.issuer_id,
                            profile=self.profile, not_before=self.not_before, not_after=self.not_after, tbs=self.tbs,
                            created_at=now)
