"""The right to issue: every name is covered by a fresh validation of this account and a fresh CAA check (BR 4.2.1).

It is derived from what the validation authority alone can write, never from a status. What an authorization or an order
claims does not matter here, except that a subscriber may end an authorization.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ca.pki.identifier import Identifier
from ca.pki.policy import CAA_CHECK_LIFE_S, longest_reuse_s
from ca.pki.refusal import IdentifierRefusal, Refusal, RefusalReason

# BR 3.2.2.4: methods that look at one server prove nothing about other names below it (row RU2).
_WILDCARD_METHODS: Final = frozenset({"dns-01", "dns-account-01", "dns-persist-01"})
_ADDRESS_METHODS: Final = frozenset({"http-01", "tls-alpn-01"})
_DNS_METHODS: Final = _ADDRESS_METHODS | _WILDCARD_METHODS
_BY_PERMISSION: Final = frozenset({"dns-persist-01"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """A validation that succeeded, as the validation authority stored it. `identifier` is without `*.`."""

    authorization_id: bytes
    account_id: bytes
    identifier: Identifier
    wildcard: bool
    method: str
    thumbprint: bytes                  # of the account key that the domain named in its answer
    validated_at: datetime
    valid_until: datetime
    caa_checked_at: datetime | None    # set when the CAA check of the validation permitted issuance


@dataclass(frozen=True, slots=True, kw_only=True)
class CaaCheck:
    """A later look at the CAA records. `refusal`: None when they permit issuance."""

    authorization_id: bytes
    checked_at: datetime
    refusal: RefusalReason | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known about one order's authorizations when the right to issue is derived."""

    account_id: bytes
    identifiers: Sequence[Identifier]
    validations: Collection[Validation]
    caa_checks: Collection[CaaCheck]
    deactivated: Collection[bytes]     # authorizations that the subscriber has ended
    requested_at: datetime             # of the finalize request
    persist: bool = False              # the operator lets this account or profile use dns-persist-01


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainControl:
    """What the right to issue rests on: a validation for each name. Not yet a right while `stale_caa` is not empty."""

    validations: tuple[Validation, ...]
    stale_caa: tuple[Validation, ...]  # whose CAA records have to be looked at again first


def require_domain_control(evidence: Evidence, now: datetime) -> DomainControl:
    """The validations that cover the names at `now`. Raises Refusal with a subproblem for each name that none covers,
    and when a CAA check made for this request forbids."""
    covering = []
    refused = []
    for identifier in evidence.identifiers:
        validation = _covering(identifier, evidence, now)
        if validation is None:
            refused.append(IdentifierRefusal(
                identifier=identifier, reason=RefusalReason.NOT_AUTHORIZED,
                detail=f"no valid authorization of this account covers {identifier.value}: order it again"))
        else:
            covering.append(validation)
    _raise(refused, "some names are not covered by a valid authorization of this account")
    stale = []
    for identifier, validation in zip(evidence.identifiers, covering, strict=True):
        if identifier.type == "ip":
            continue                   # RFC 8738 7: CAA is for names
        verdict = _caa_verdict(validation, evidence, now)
        if verdict is None:
            stale.append(validation)
        elif verdict.refusal is not None:
            refused.append(IdentifierRefusal(identifier=identifier, reason=verdict.refusal, detail=verdict.detail))
    _raise(refused, "the CAA records of some names do not permit issuance")
    return DomainControl(validations=tuple(covering), stale_caa=tuple(stale))


def _covering(identifier: Identifier, evidence: Evidence, now: datetime) -> Validation | None:
    """The newest validation of this account, for exactly this name and wildcardness, that may still be used (RU1)."""
    methods = (_ADDRESS_METHODS if identifier.type == "ip"
               else _WILDCARD_METHODS if identifier.is_wildcard else _DNS_METHODS)
    if not evidence.persist:
        methods -= _BY_PERMISSION
    usable = [
        validation for validation in evidence.validations
        if validation.account_id == evidence.account_id
        and validation.identifier == Identifier(type=identifier.type, value=identifier.base)
        and validation.wildcard == identifier.is_wildcard
        and validation.method in methods
        and validation.validated_at > now - timedelta(seconds=longest_reuse_s(validation.method, now))
        and validation.valid_until > now
        and validation.authorization_id not in evidence.deactivated
    ]
    return max(usable, key=lambda validation: validation.validated_at, default=None)


def _caa_verdict(validation: Validation, evidence: Evidence, now: datetime) -> CaaCheck | None:
    """The newest check that is not older than eight hours, or None when CAA has to be looked at again (row CA9).

    A check that forbade counts only when it was made for this request: the subscriber may have changed the records
    since, and asks again.
    """
    checks = [check for check in evidence.caa_checks if check.authorization_id == validation.authorization_id]
    if validation.caa_checked_at is not None:
        checks.append(CaaCheck(authorization_id=validation.authorization_id, checked_at=validation.caa_checked_at,
                               refusal=None))
    newest = max(checks, key=lambda check: check.checked_at, default=None)
    if newest is None or now - newest.checked_at > timedelta(seconds=CAA_CHECK_LIFE_S):
        return None
    if newest.refusal is not None and newest.checked_at < evidence.requested_at:
        return None
    return newest


def _raise(refused: Iterable[IdentifierRefusal], detail: str) -> None:
    """One Refusal of all of them: a single one speaks for itself, and a common reason is the whole's."""
    parts = tuple(refused)
    if not parts:
        return
    reasons = {part.reason for part in parts}
    reason = RefusalReason.CAA_FORBIDS if RefusalReason.CAA_FORBIDS in reasons else parts[0].reason
    raise Refusal(reason, parts[0].detail if len(parts) == 1 else detail, parts)
