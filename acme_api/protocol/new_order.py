"""newOrder: from the payload of a stranger to identifiers, profile and dates that may be ordered (RFC 8555 7.4).

Every name is looked at before the answer, so that one answer names all that is wrong (row P3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from re import ASCII
from re import compile as compile_pattern
from typing import Any, Final

from acme_api.protocol.order import OrderRequest
from acme_api.protocol.problem import Problem, Subproblem, from_subproblems, malformed, problem_from_refusal
from acme_api.protocol.renewal_info import parse_replaces
from ca.pki.identifier import (
    Identifier,
    IdentifierError,
    NamePolicy,
    authorizable_ancestors,
    parse_identifier,
    require_ancestor,
    require_permitted,
)
from ca.pki.name_scope import require_in_scope
from ca.pki.policy import BACKDATE_S
from ca.pki.profile import PROFILES, Profile, require_profile
from ca.pki.refusal import Refusal
from ca.pki.validity import Validity, require_period

MAX_IDENTIFIERS: Final = 100
_RFC_3339: Final = compile_pattern(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})", ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPolicy:
    """Which names may be ordered, in which profiles, and the profile of an order that asks for none. `subdomains`: an
    authorization may stand for the names below it (RFC 9444)."""

    names: NamePolicy
    default_profile: str
    profiles: Mapping[str, Profile] = field(default_factory=lambda: PROFILES)
    subdomains: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """What newAuthz asks for, parsed, permitted and normalised."""

    identifier: Identifier
    subdomains: bool


def parse_new_order(
    payload: Mapping[str, Any], policy: OrderPolicy, now: datetime, *, scope: Sequence[str] = ()
) -> OrderRequest:
    """What the payload asks for. Raises Problem; unknown members are ignored (row E67).

    `scope` narrows the names to those of the subscriber's external account (row NM9).
    """
    ancestors = _identifiers(payload, policy, scope)
    identifiers = tuple(ancestors)
    profile = _profile(payload, policy, identifiers)
    not_before, not_after = _moment(payload, "notBefore"), _moment(payload, "notAfter")
    _require_period(profile, not_before, not_after, now)
    replaces = parse_replaces(payload["replaces"]) if "replaces" in payload else None
    return OrderRequest(identifiers=identifiers, profile=profile.name, not_before=not_before, not_after=not_after,
                        replaces=replaces, ancestors={
                            name: ancestor for name, ancestor in ancestors.items() if ancestor is not None})


def parse_new_authorization(
    payload: Mapping[str, Any], policy: OrderPolicy, *, scope: Sequence[str] = ()
) -> AuthorizationRequest:
    """What newAuthz asks for (RFC 8555 7.4.1, row OR17). Raises Problem; a wildcard needs an order.

    An authorization for subdomains that is asked for and cannot be had becomes an ordinary one (RFC 9444 4.2).
    """
    element = payload.get("identifier")
    kind, value = _pair(element)
    wanted = element.get("subdomainAuthAllowed", False) if isinstance(element, dict) and policy.subdomains else False
    if not isinstance(wanted, bool):
        raise malformed("subdomainAuthAllowed is neither true nor false")
    try:
        identifier = parse_identifier(kind, value)
        if identifier.is_wildcard:
            raise malformed("a wildcard is authorized by an order alone (RFC 8555 7.4.1)")
        require_permitted(identifier, policy.names)
        require_in_scope(identifier, scope)
    except IdentifierError as fault:
        raise Problem(fault.code, fault.detail) from fault
    below = Identifier(type=identifier.type, value=f"*.{identifier.value}")
    return AuthorizationRequest(identifier=identifier,
                                subdomains=wanted and identifier.value in authorizable_ancestors(below))


def _identifiers(
    payload: Mapping[str, Any], policy: OrderPolicy, scope: Sequence[str]
) -> dict[Identifier, Identifier | None]:
    """Normalised, each once, in the order in which they were first named (rows OR2 to OR4, OR7), with the ancestor
    domain that the client can show control of instead (row SU1)."""
    wanted = payload.get("identifiers")
    if not isinstance(wanted, list) or not wanted:
        raise malformed("identifiers is not a non-empty array")
    if len(wanted) > MAX_IDENTIFIERS:
        raise malformed(f"an order has at most {MAX_IDENTIFIERS} identifiers, not {len(wanted)}")
    pairs = [(*_pair(element), _ancestor(element) if policy.subdomains else None) for element in wanted]
    found: dict[Identifier, Identifier | None] = {}
    faults: dict[tuple[str, str], Subproblem] = {}
    for kind, value, named in pairs:
        try:
            identifier = parse_identifier(kind, value)
            require_permitted(identifier, policy.names)
            require_in_scope(identifier, scope)
            ancestor = None
            if named is not None:
                ancestor = Identifier(type="dns", value=require_ancestor(named, identifier))
                require_permitted(ancestor, policy.names)
                require_in_scope(ancestor, scope)
            if found.get(identifier) is None:
                found[identifier] = ancestor
        except IdentifierError as fault:
            faults[kind, value] = Subproblem(type=fault.code, detail=fault.detail, identifier_type=kind,
                                             identifier_value=value)
    if faults:
        raise from_subproblems(f"{len(faults)} identifiers cannot be ordered", list(faults.values()))
    return found


def _ancestor(element: dict[str, Any]) -> str | None:
    """The member ancestorDomain (RFC 9444 4.3), if there is one."""
    ancestor = element.get("ancestorDomain")
    if ancestor is not None and not isinstance(ancestor, str):
        raise malformed("ancestorDomain is not a string")
    return ancestor


def _pair(element: Any) -> tuple[str, str]:
    if not isinstance(element, dict) or not isinstance(element.get("type"), str) or not isinstance(
            element.get("value"), str):
        raise malformed('an identifier is not {"type": string, "value": string}')
    return element["type"], element["value"]


def _profile(payload: Mapping[str, Any], policy: OrderPolicy, identifiers: tuple[Identifier, ...]) -> Profile:
    """Rows PR1 to PR3: the profile asked for, or the default; it has to fit the identifiers.

    Most clients that order an address do not ask for a profile: they get the first one that has addresses.
    """
    name = payload.get("profile", "")
    if not isinstance(name, str):
        raise malformed("profile is not a string")
    try:
        return require_profile(name or _default(policy, identifiers), identifiers, policy.profiles)
    except Refusal as fault:
        raise problem_from_refusal(fault) from fault


def _default(policy: OrderPolicy, identifiers: tuple[Identifier, ...]) -> str:
    default = policy.profiles.get(policy.default_profile)
    if default is not None and not default.ip_addresses and any(each.type == "ip" for each in identifiers):
        return next((name for name, profile in policy.profiles.items() if profile.ip_addresses), default.name)
    return policy.default_profile


def _moment(payload: Mapping[str, Any], name: str) -> datetime | None:
    """A time of RFC 3339 with a zone, in UTC; a whole second, because a certificate has no smaller unit (row OR5)."""
    if name not in payload:
        return None
    text = payload[name]
    match = _RFC_3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise malformed(f"{name} is not a time of RFC 3339 with a zone")
    if match[3] and match[3].strip(".0"):
        raise malformed(f"{name} has a fraction of a second, which no certificate can hold")
    zone = "+00:00" if match[4] in "Zz" else match[4]
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise malformed(f"{name} is not a time that exists") from None


def _require_period(profile: Profile, not_before: datetime | None, not_after: datetime | None, now: datetime) -> None:
    """Raises malformed for dates that could not be honoured exactly, judged as if the certificate were signed now."""
    if not_before is None and not_after is None:
        return
    begin = not_before or (now - timedelta(seconds=BACKDATE_S)).replace(microsecond=0)
    try:
        end = not_after or begin + timedelta(seconds=profile.length_s - 1)
        require_period(Validity(not_before=begin, not_after=end), now, longest_s=profile.length_s)
    except OverflowError:
        raise malformed("notBefore is too late") from None
    except Refusal as fault:
        raise problem_from_refusal(fault) from fault
