"""Authorizations: the status that follows from facts, and what an authorization looks like (RFC 8555 7.1.4, 7.5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from acme_api.protocol import directory
from acme_api.protocol.problem import Problem, malformed, not_found
from acme_api.protocol.timestamp import rfc3339


class AuthorizationStatus(StrEnum):
    """RFC 8555 7.1.6."""

    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ChallengeStatus(StrEnum):
    """RFC 8555 7.1.6."""

    PENDING = "pending"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


class Response(StrEnum):
    """What a client's answer to a challenge leads to."""

    START = "start"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What the VA saw. `problem` None: it succeeded, and holds until `valid_until`."""

    challenge_type: str
    validated_at: datetime
    valid_until: datetime | None
    problem: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationFacts:
    """Everything that a status depends on. `account_closed`: the subscriber or an operator has closed the account."""

    expires_at: datetime
    deactivated_at: datetime | None = None
    validation: Validation | None = None
    account_closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One offered challenge. `token` None: the type has none."""

    type: str
    token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """An authorization with its facts. `responding` is the challenge that the VA works on or will work on;
    `subdomains`: it stands for all names below it, too (RFC 9444). `token_seed`: what the tokens follow from."""

    id: bytes
    account_id: bytes
    identifier_type: str
    identifier_value: str
    wildcard: bool
    challenges: tuple[Challenge, ...]
    facts: AuthorizationFacts
    responding: str | None = None
    subdomains: bool = False
    token_seed: bytes = b""


def authorization_status(facts: AuthorizationFacts, now: datetime) -> AuthorizationStatus:
    """The status at `now`. Final states stick: no later fact and no later time leads out of one.

    A validation that ended after the authorization had run out comes too late, because somebody may have seen it
    expired already.
    """
    validation = facts.validation
    if facts.deactivated_at is not None or facts.account_closed:
        return AuthorizationStatus.DEACTIVATED
    if validation is None or validation.validated_at >= facts.expires_at:
        return AuthorizationStatus.PENDING if now < facts.expires_at else AuthorizationStatus.EXPIRED
    if validation.problem is not None or validation.valid_until is None:
        return AuthorizationStatus.INVALID
    return AuthorizationStatus.VALID if now < validation.valid_until else AuthorizationStatus.EXPIRED


def challenge_status(authorization: Authorization, challenge_type: str, now: datetime) -> ChallengeStatus:
    """The status of one challenge. Only the decided one of an authorization is ever valid or invalid (row AZ3)."""
    validation = authorization.facts.validation
    if validation is not None and validation.challenge_type == challenge_type:
        return ChallengeStatus.VALID if validation.problem is None else ChallengeStatus.INVALID
    processing = (authorization.responding == challenge_type and validation is None
                  and authorization_status(authorization.facts, now) is AuthorizationStatus.PENDING)
    return ChallengeStatus.PROCESSING if processing else ChallengeStatus.PENDING


def require_shown(authorization: Authorization, now: datetime) -> AuthorizationStatus:
    """The status, unless it is `expired`: that word breaks certbot, so an expired one is gone (row AZ4)."""
    status = authorization_status(authorization.facts, now)
    if status is AuthorizationStatus.EXPIRED:
        raise not_found("the authorization has expired")
    return status


def require_challenge(authorization: Authorization, challenge_type: str) -> Challenge:
    """The challenge of that type. Raises Problem when the authorization offers none."""
    for challenge in authorization.challenges:
        if challenge.type == challenge_type:
            return challenge
    raise not_found("the authorization has no such challenge")


def decide_response(authorization: Authorization, challenge_type: str, now: datetime) -> Response:
    """What to do when the client answers a challenge (RFC 8555 7.5.1, row CH4). Raises Problem when it may not."""
    status = require_shown(authorization, now)
    match status:
        case AuthorizationStatus.VALID:
            return Response.UNCHANGED
        case AuthorizationStatus.PENDING:
            if authorization.responding is None:
                return Response.START
            if authorization.responding == challenge_type:
                return Response.UNCHANGED
            raise malformed(f"the {authorization.responding} challenge of this authorization is being processed")
        case (AuthorizationStatus.INVALID | AuthorizationStatus.DEACTIVATED | AuthorizationStatus.EXPIRED
              | AuthorizationStatus.REVOKED):
            raise malformed(f"the authorization is {status}")
        case _:
            assert_never(status)


def decide_update(authorization: Authorization, payload: Mapping[str, Any], now: datetime) -> bool:
    """Whether the authorization is to be deactivated now; False when it already is (RFC 8555 7.5.2, row AZ5)."""
    if payload.get("status") != "deactivated":
        raise malformed('the only change of an authorization is {"status": "deactivated"}')
    status = require_shown(authorization, now)
    if status is AuthorizationStatus.DEACTIVATED:
        return False
    if status in (AuthorizationStatus.PENDING, AuthorizationStatus.VALID):
        return True
    raise malformed(f"the authorization is {status} and stays so")


def authorization_object(
    base: str, authorization: Authorization, now: datetime, *, issuer_names: Sequence[str] = ()
) -> dict[str, Any]:
    """RFC 8555 7.1.4, RFC 9444 4.1. Raises Problem when it has expired. `issuer_names`: ours, for dns-persist-01."""
    status = require_shown(authorization, now)
    validation = authorization.facts.validation
    decided = validation is not None and status in (AuthorizationStatus.VALID, AuthorizationStatus.INVALID)
    expires_at = authorization.facts.expires_at
    if decided and validation is not None and validation.valid_until is not None:
        expires_at = validation.valid_until
    document: dict[str, Any] = {
        "identifier": {"type": authorization.identifier_type, "value": authorization.identifier_value},
        "status": status.value,
        "expires": rfc3339(expires_at),
    }
    if authorization.wildcard:
        document["wildcard"] = True
    if authorization.subdomains:
        document["subdomainAuthAllowed"] = True
    document["challenges"] = [
        challenge_object(base, authorization, challenge, now, issuer_names=issuer_names)
        for challenge in authorization.challenges
        if not decided or (validation is not None and challenge.type == validation.challenge_type)]
    return document


def challenge_object(
    base: str, authorization: Authorization, challenge: Challenge, now: datetime, *, issuer_names: Sequence[str] = ()
) -> dict[str, Any]:
    """RFC 8555 7.1.5. Flat, in this order, the error last: acme.sh reads it with a regular expression (row CH1).

    dns-persist-01 has no token: it says which record is looked for (row DP1).
    """
    status = challenge_status(authorization, challenge.type, now)
    document: dict[str, Any] = {
        "type": challenge.type,
        "url": directory.challenge_url(base, authorization.id, challenge.type),
        "status": status.value,
    }
    if challenge.token is not None:
        document["token"] = challenge.token
    else:
        document["accounturi"] = directory.account_url(base, authorization.account_id)
        document["issuer-domain-names"] = list(issuer_names)
    validation = authorization.facts.validation
    if validation is not None and status is ChallengeStatus.VALID:
        document["validated"] = rfc3339(validation.validated_at)
    if validation is not None and status is ChallengeStatus.INVALID:
        document["error"] = dict(validation.problem or Problem("serverInternal", "the validation failed").to_json())
    return document
