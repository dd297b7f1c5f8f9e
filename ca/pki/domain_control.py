"""The right to issue: every name is covered by a fresh validation of this account and a fresh CAA check (BR 4.2.1).

It is derived from what the validation authority alone can write, never from a status. What an authorization or an order
claims does not matter here, except that a subscriber may end an authorization.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from ca.pki.corroboration import ALONE, Corroboration, least_voices, rule_at, shortfall
from ca.pki.identifier import Identifier, authorizable_ancestors
from ca.pki.policy import CAA_CHECK_LIFE_S, longest_reuse_s
from ca.pki.refusal import IdentifierRefusal, Refusal, RefusalReason

# BR 3.2.2.4: methods that look at one server prove nothing about other names below it (row RU2).
_WILDCARD_METHODS: Final = frozenset({"dns-01", "dns-account-01", "dns-persist-01"})
_ADDRESS_METHODS: Final = frozenset({"http-01", "tls-alpn-01"})
_DNS_METHODS: Final = _ADDRESS_METHODS | _WILDCARD_METHODS
_BY_PERMISSION: Final = frozenset({"dns-persist-01"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """A validation that succeeded, as the validation authority stored it. `identifier` is without `*.`; `subdomains`:
    it was made for every name below it, too (RFC 9444)."""

    authorization_id: bytes
    account_id: bytes
    identifier: Identifier
    wildcard: bool
    method: str
    thumbprint: bytes                  # of the account key that the domain named in its answer
    validated_at: datetime
    valid_until: datetime
    caa_checked_at: datetime | None    # set when the CAA check of the validation permitted issuance
    corroboration: Corroboration = ALONE
    subdomains: bool = False

    def is_exactly(self, identifier: Identifier) -> bool:
        """Whether it is for this name and wildcardness themselves."""
        return (self.identifier == Identifier(type=identifier.type, value=identifier.base)
                and self.wildcard == identifier.is_wildcard)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaaCheck:
    """A later look at the CAA records. `name`: below the authorization's own, `*.` kept; "": its own. `refusal`: None
    when they permit issuance."""

    authorization_id: bytes
    name: str = ""
    checked_at: datetime
    refusal: RefusalReason | None
    detail: str = ""
    corroboration: Corroboration = ALONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known about one order's authorizations when the right to issue is derived."""

    account_id: bytes
    identifiers: Sequence[Identifier]
    validations: Collection[Validation]
    caa_checks: Collection[CaaCheck]
    deactivated: Collection[bytes]     # authorizations that the subscriber has ended
    ordered_at: datetime
    requested_at: datetime             # of the finalize request
    persist: bool = False              # the operator lets this account or profile use dns-persist-01
    subdomains: bool = False           # the operator lets a validation stand for the names below it (RFC 9444)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerspectivePolicy:
    """What the CA demands of the perspectives, whatever the validation authority is configured to (row MP1)."""

    public: bool = False
    least_corroborated: int = 0

    def least_voices(self, moment: datetime) -> int:
        """How many remote perspectives have at least to see what is seen at `moment`."""
        return least_voices(rule_at(moment, public=self.public, least_corroborated=self.least_corroborated))

    def shortfall(self, corroboration: Corroboration, made_at: datetime) -> str | None:
        """Why this is not enough for something seen at `made_at`; None when it is."""
        return shortfall(corroboration, rule_at(made_at, public=self.public,
                                                least_corroborated=self.least_corroborated))


PRIMARY_ALONE: Final = PerspectivePolicy()
"""Nothing is demanded: an internal CA with one perspective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleCaa:
    """CAA records that have to be looked at again. `name` as in CaaCheck."""

    authorization_id: bytes
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainControl:
    """What the right to issue rests on: a validation for each name. Not yet a right while `stale_caa` is not empty."""

    validations: tuple[Validation, ...]
    stale_caa: tuple[StaleCaa, ...]    # what has to be looked at first


def require_domain_control(
    evidence: Evidence, now: datetime, perspectives: PerspectivePolicy = PRIMARY_ALONE
) -> DomainControl:
    """The validations that cover the names at `now`. Raises Refusal with a subproblem for each name that none covers,
    and when a CAA check made for this request forbids."""
    covering = []
    refused = []
    for identifier in evidence.identifiers:
        usable = _usable(identifier, evidence, now)
        trusted = [each for each in usable if perspectives.shortfall(each.corroboration, each.validated_at) is None]
        if trusted:
            covering.append(_newest(trusted))
        elif usable:
            newest = _newest(usable)
            refused.append(IdentifierRefusal(
                identifier=identifier, reason=RefusalReason.NOT_CORROBORATED,
                detail=f"the validation of {identifier.value} "
                f"{perspectives.shortfall(newest.corroboration, newest.validated_at)}"))
        else:
            refused.append(IdentifierRefusal(
                identifier=identifier, reason=RefusalReason.NOT_AUTHORIZED,
                detail=f"no valid authorization of this account covers {identifier.value}: order it again"))
    _raise(refused, "some names are not covered by a valid authorization of this account")
    stale = []
    for identifier, validation in zip(evidence.identifiers, covering, strict=True):
        if identifier.type == "ip":
            continue                   # RFC 8738 7: CAA is for names
        name = "" if validation.is_exactly(identifier) else identifier.value
        verdict = _caa_verdict(validation, name, evidence, now, perspectives)
        if verdict is None:
            stale.append(StaleCaa(authorization_id=validation.authorization_id, name=name))
        elif verdict.refusal is not None:
            refused.append(IdentifierRefusal(identifier=identifier, reason=verdict.refusal, detail=verdict.detail))
    _raise(refused, "the CAA records of some names do not permit issuance")
    return DomainControl(validations=tuple(covering), stale_caa=tuple(stale))


def _usable(identifier: Identifier, evidence: Evidence, now: datetime) -> list[Validation]:
    """The validations of this account, for exactly this name and wildcardness or for all that is below another, that
    may still be used (RU1)."""
    methods = (_ADDRESS_METHODS if identifier.type == "ip"
               else _WILDCARD_METHODS if identifier.is_wildcard else _DNS_METHODS)
    if not evidence.persist:
        methods -= _BY_PERMISSION
    return [
        validation for validation in evidence.validations
        if validation.account_id == evidence.account_id
        and (validation.is_exactly(identifier) or (evidence.subdomains and _is_below(identifier, validation)))
        and validation.method in methods
        and validation.validated_at > now - timedelta(seconds=longest_reuse_s(validation.method, now))
        and validation.valid_until > now
        and validation.authorization_id not in evidence.deactivated
    ]


def _is_below(identifier: Identifier, validation: Validation) -> bool:
    """Whether a validation stands for a name below it (row SU1). What one server showed does not (BR 3.2.2.4.19 and
    3.2.2.4.20), and nobody speaks for all that is below a public suffix, whatever was stored."""
    return (validation.subdomains and not validation.wildcard and validation.identifier.type == "dns"
            and validation.method in _WILDCARD_METHODS
            and validation.identifier.value in authorizable_ancestors(identifier))


def _newest(validations: Iterable[Validation]) -> Validation:
    return max(validations, key=lambda validation: validation.validated_at)


def _caa_verdict(
    validation: Validation, name: str, evidence: Evidence, now: datetime, perspectives: PerspectivePolicy
) -> CaaCheck | None:
    """The newest check of that name that is not older than eight hours nor than the order, or None when CAA has to be
    looked at again (row CA9): an order that reuses an authorization looks for itself.

    A check that forbade counts only when it was made for this request: the subscriber may have changed the records
    since, and asks again. One that too few perspectives made counts as forbidding: to ask for it again and again would
    not make it better.
    """
    checks = [check for check in evidence.caa_checks
              if check.authorization_id == validation.authorization_id and check.name == name]
    if not name and validation.caa_checked_at is not None:
        checks.append(CaaCheck(authorization_id=validation.authorization_id, checked_at=validation.caa_checked_at,
                               refusal=None, corroboration=validation.corroboration))
    newest = max(checks, key=lambda check: check.checked_at, default=None)
    if newest is None or now - newest.checked_at > timedelta(seconds=CAA_CHECK_LIFE_S):
        return None
    # A finalize request never comes before its order: where it says so, the clock was set back between the two, and a
    # look that is not older than the request is not older than the order either.
    if newest.checked_at < min(evidence.ordered_at, evidence.requested_at):
        return None
    if newest.refusal is not None and newest.checked_at < evidence.requested_at:
        return None
    missing = perspectives.shortfall(newest.corroboration, newest.checked_at)
    if newest.refusal is None and missing is not None:
        if newest.checked_at < evidence.requested_at:
            return None
        return replace(newest, refusal=RefusalReason.NOT_CORROBORATED,
                       detail=f"the look at the CAA records of {name or validation.identifier.value} {missing}")
    return newest


def _raise(refused: Iterable[IdentifierRefusal], detail: str) -> None:
    """One Refusal of all of them: a single one speaks for itself, and a common reason is the whole's."""
    parts = tuple(refused)
    if not parts:
        return
    reasons = {part.reason for part in parts}
    reason = RefusalReason.CAA_FORBIDS if RefusalReason.CAA_FORBIDS in reasons else parts[0].reason
    raise Refusal(reason, parts[0].detail if len(parts) == 1 else detail, parts)
