"""Problem documents: every error that a client sees (RFC 8555 6.7, RFC 9457).

One exception class, raised wherever the client can act; its status comes from one table (row P4). Only types of the
IANA registry exist here (row P2). A Refusal of ca.pki (policy said no) becomes a Problem in `problem_from_refusal`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ca.pki.refusal import Refusal, RefusalReason

URN: Final = "urn:ietf:params:acme:error:"
STATUS_OF_TYPE: Final = {
    "accountDoesNotExist": 400,
    "alreadyReplaced": 409,
    "alreadyRevoked": 400,
    "badCSR": 400,
    "badNonce": 400,
    "badPublicKey": 400,
    "badRevocationReason": 400,
    "badSignatureAlgorithm": 400,
    "caa": 403,
    "compound": 400,
    "connection": 400,
    "dns": 400,
    "externalAccountRequired": 403,
    "incorrectResponse": 400,
    "invalidContact": 400,
    "invalidProfile": 400,
    "malformed": 400,
    "orderNotReady": 403,
    "rateLimited": 429,
    "rejectedIdentifier": 403,
    "serverInternal": 500,
    "tls": 400,
    "unauthorized": 403,
    "unsupportedContact": 400,
    "unsupportedIdentifier": 400,
    "userActionRequired": 403,
}
_TYPE_OF_REASON: Final = {
    RefusalReason.NOT_AUTHORIZED: "unauthorized",
    RefusalReason.NOT_CORROBORATED: "unauthorized",
    RefusalReason.PERSPECTIVES_AWAY: "serverInternal",
    RefusalReason.CAA_FORBIDS: "caa",
    RefusalReason.DNS_FAILED: "dns",
    RefusalReason.ACCOUNT_CLOSED: "unauthorized",
    RefusalReason.BAD_CSR: "badCSR",
    RefusalReason.BAD_PUBLIC_KEY: "badPublicKey",
    RefusalReason.REJECTED_IDENTIFIER: "rejectedIdentifier",
    RefusalReason.INVALID_PROFILE: "invalidProfile",
    RefusalReason.BAD_VALIDITY: "malformed",
    RefusalReason.BAD_REQUEST: "malformed",
    RefusalReason.LINT: "serverInternal",
}
_MAX_DETAIL_CHARS: Final = 1024
# A hundred subproblems with whatever a stranger wrote into the names stay below 64 KiB (row E63).
_MAX_SUBPROBLEM_CHARS: Final = 255
_MAX_ODD_CHARS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Subproblem:
    """One fault of several (RFC 8555 6.7.1). The identifier is what the client wrote."""

    type: str
    detail: str
    identifier_type: str
    identifier_value: str

    def to_json(self) -> dict[str, Any]:
        """The member of `subproblems`."""
        return {"type": URN + self.type, "detail": self.detail[:_MAX_SUBPROBLEM_CHARS],
                "identifier": {"type": _cut(self.identifier_type), "value": _cut(self.identifier_value)}}


class Problem(Exception):
    """The request cannot be served, and the client is told why. `status` is that of the type unless it is given."""

    def __init__(
        self,
        type: str,
        detail: str,
        *,
        status: int | None = None,
        subproblems: Sequence[Subproblem] = (),
        algorithms: Sequence[str] = (),
        location: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
        terms_of_service: str | None = None,
        instance: str | None = None,
        help_url: str | None = None,
    ) -> None:
        super().__init__(f"{type}: {detail}")
        self.type = type
        self.detail = detail
        self.status = STATUS_OF_TYPE[type] if status is None else status
        self.subproblems = tuple(subproblems)
        self.algorithms = tuple(algorithms)
        self.location = location
        self.retry_after_s = retry_after_s
        self.allow = allow
        self.terms_of_service = terms_of_service
        self.instance = instance
        self.help_url = help_url

    def to_json(self) -> dict[str, Any]:
        """The document; `status` is always there, because lego 4.9 retries badNonce only if it is (row P1)."""
        document: dict[str, Any] = {"type": URN + self.type, "detail": self.detail[:_MAX_DETAIL_CHARS],
                                    "status": self.status}
        if self.instance is not None:
            document["instance"] = self.instance
        if self.algorithms:
            document["algorithms"] = list(self.algorithms)
        if self.subproblems:
            document["subproblems"] = [subproblem.to_json() for subproblem in self.subproblems]
        return document


def malformed(detail: str, *, status: int | None = None) -> Problem:
    return Problem("malformed", detail, status=status)


def not_found(detail: str) -> Problem:
    """There is no such object: the registry has no type for it (row P2)."""
    return Problem("malformed", detail, status=404)


def unauthorized(detail: str) -> Problem:
    return Problem("unauthorized", detail)


def account_closed(detail: str) -> Problem:
    """RFC 8555 7.3.6: the one case in which unauthorized is 401."""
    return Problem("unauthorized", detail, status=401)


def account_does_not_exist(detail: str) -> Problem:
    return Problem("accountDoesNotExist", detail)


def bad_nonce(detail: str) -> Problem:
    """The detail opens with the words that acme.sh looks for before it tries again (row N4)."""
    return Problem("badNonce", f"JWS has an invalid anti-replay nonce: {detail}")


def bad_public_key(detail: str) -> Problem:
    return Problem("badPublicKey", detail)


def bad_csr(detail: str) -> Problem:
    return Problem("badCSR", detail)


def order_not_ready(detail: str) -> Problem:
    return Problem("orderNotReady", detail)


def server_internal(detail: str, *, retry_after_s: int | None = None) -> Problem:
    return Problem("serverInternal", detail, retry_after_s=retry_after_s)


def _cut(text: str) -> str:
    """What a client wrote, as far as an answer repeats it: characters that JSON escapes take six times the room."""
    return text[:_MAX_SUBPROBLEM_CHARS if text.isascii() and text.isprintable() else _MAX_ODD_CHARS]


def problem_from_refusal(refusal: Refusal) -> Problem:
    """The one table from a reason of policy to an ACME error."""
    return Problem(_TYPE_OF_REASON[refusal.reason], refusal.detail, subproblems=[
        Subproblem(type=_TYPE_OF_REASON[part.reason], detail=part.detail, identifier_type=part.identifier.type,
                   identifier_value=part.identifier.value) for part in refusal.subproblems])


def from_subproblems(detail: str, subproblems: Sequence[Subproblem]) -> Problem:
    """One problem of one or more faults: their common type, else rejectedIdentifier if one is that, else compound.

    (RFC 8555 6.7.1, row P3.) `detail` introduces several; a single fault speaks for itself.
    """
    types = {subproblem.type for subproblem in subproblems}
    mixed = "rejectedIdentifier" if "rejectedIdentifier" in types else "compound"
    kind = types.pop() if len(types) == 1 else mixed
    return Problem(kind, subproblems[0].detail if len(subproblems) == 1 else detail, subproblems=subproblems)
