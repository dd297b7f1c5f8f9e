"""Policy said no. A refusal is final and is told to the subscriber; a fault (database, HSM) is never one.

It knows neither HTTP nor ACME: acme_api/protocol/problem.py has the one table from reason to problem type.
"""

from dataclasses import dataclass
from enum import Enum

from ca.pki.identifier import Identifier


class RefusalReason(Enum):
    """Why. The value is stored with the refusal and shown to operators."""

    NOT_AUTHORIZED = "not-authorized"             # no fresh validation proves that the account controls a name
    NOT_CORROBORATED = "not-corroborated"         # too few perspectives saw it (BR 3.2.2.9)
    PERSPECTIVES_AWAY = "perspectives-away"       # too few of them could be asked: our fault
    CAA_FORBIDS = "caa-forbids"                   # RFC 8659
    DNS_FAILED = "dns-failed"                     # the CAA lookup failed, and we fail closed (BR 3.2.2.8)
    ACCOUNT_CLOSED = "account-closed"             # deactivated by the subscriber or revoked by an operator
    BAD_CSR = "bad-csr"
    BAD_PUBLIC_KEY = "bad-public-key"
    REJECTED_IDENTIFIER = "rejected-identifier"   # the name policy
    INVALID_PROFILE = "invalid-profile"           # withdrawn, or it does not fit the names or the key
    BAD_VALIDITY = "bad-validity"                 # the dates asked for, or the issuer's own end
    BAD_REQUEST = "bad-request"                   # the stored request is not what a subscriber may have signed
    LINT = "lint"                                 # the certificate would break a rule: our fault, but a final no


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifierRefusal:
    """The part of a refusal that is about one identifier (RFC 8555 6.7.1)."""

    identifier: Identifier
    reason: RefusalReason
    detail: str


class Refusal(Exception):
    """Raised by a rule that says no; `subproblems` name the identifiers concerned, when there are such."""

    def __init__(self, reason: RefusalReason, detail: str, subproblems: tuple[IdentifierRefusal, ...] = ()) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.subproblems = subproblems
