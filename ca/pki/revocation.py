"""Which reasons a certificate may be revoked for, and what a request changes (RFC 5280 5.3.1, BR 4.9.1.1, 7.2.2)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

Authority = Literal["account", "authorizations", "certificate_key", "operator"]

UNSPECIFIED: Final = 0
KEY_COMPROMISE: Final = 1
AFFILIATION_CHANGED: Final = 3
SUPERSEDED: Final = 4
CESSATION_OF_OPERATION: Final = 5
PRIVILEGE_WITHDRAWN: Final = 9

ALLOWED_REASONS: Final = frozenset({UNSPECIFIED, KEY_COMPROMISE, AFFILIATION_CHANGED, SUPERSEDED,
                                    CESSATION_OF_OPERATION, PRIVILEGE_WITHDRAWN})
REASON_NAMES: Final = {
    UNSPECIFIED: "unspecified", KEY_COMPROMISE: "keyCompromise", AFFILIATION_CHANGED: "affiliationChanged",
    SUPERSEDED: "superseded", CESSATION_OF_OPERATION: "cessationOfOperation", PRIVILEGE_WITHDRAWN: "privilegeWithdrawn",
}
FIRST_VERSION: Final = 1
KEY_COMPROMISE_VERSION: Final = 2

# Who proves something with the request decides the reason, whatever was asked for (spec/pki.md 7).
_FORCED_REASONS: Final = {"authorizations": CESSATION_OF_OPERATION, "certificate_key": KEY_COMPROMISE}
# A certificate's key that signs its own revocation, or an operator who saw a proof: then the key itself is burnt.
PROVING_AUTHORITIES: Final = ("certificate_key", "operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What is known of a revoked certificate. `version` grows by one when the reason becomes keyCompromise."""

    serial: bytes
    revoked_at: datetime
    reason: int
    version: int


def effective_reason(reason: int, authority: Authority) -> int:
    """The reason that is recorded for a request by this authority. Raises ValueError for one that is not allowed."""
    reason = _FORCED_REASONS.get(authority, reason)
    if reason not in ALLOWED_REASONS:
        raise ValueError(f"reason {reason} is not one that a subscriber certificate may be revoked for")
    return reason


def next_revocation(known: Revocation | None, *, serial: bytes, reason: int, now: datetime) -> Revocation | None:
    """What a request changes: a first revocation, a reason that becomes keyCompromise, or nothing (None).

    The time of an upgraded revocation stays; a reason moves to keyCompromise and never away from it.
    """
    if known is None:
        return Revocation(serial=serial, revoked_at=now, reason=reason, version=FIRST_VERSION)
    if reason == KEY_COMPROMISE and known.reason != KEY_COMPROMISE:
        return Revocation(serial=serial, revoked_at=known.revoked_at, reason=KEY_COMPROMISE,
                          version=KEY_COMPROMISE_VERSION)
    return None


def proves_key_compromise(reason: int, authority: Authority) -> bool:
    """Whether every certificate with the same key has to be revoked, and the key never certified again."""
    return reason == KEY_COMPROMISE and authority in PROVING_AUTHORITIES
