"""dns-persist-01: a TXT record that names CA and account, and stays (draft-ietf-acme-dns-persist, BR 3.2.2.4.22).

The records are given, and one of them has to let the account in; the others may be for other CAs and other accounts.
A record that names us and cannot be understood is a mistake that the subscriber is told of, unless another one fits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from acme_api.protocol.issue_value import IssueValue, issuer_part, parse_issue_value

LABEL: Final = "_validation-persist"
MAX_ISSUER_NAMES: Final = 10
_KNOWN_TAGS: Final = ("accounturi", "policy", "persistuntil")
# 1970 to 9999, so that every accepted number is a moment.
_UNIX_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_LAST_SECOND: Final = 253_402_300_799


def issuer_domain_names(identities: Sequence[str]) -> tuple[str, ...]:
    """The names that a challenge shows and that a record may have: ten at most, lower case, no dot at the end (DP1)."""
    return tuple(name.rstrip(".").lower() for name in identities[:MAX_ISSUER_NAMES])


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistRequest:
    """Who asks for what: names of the CA in lower case, the account's URL, the moment."""

    issuer_names: frozenset[str]
    account_url: str
    wildcard: bool
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistGrant:
    """The record that lets the account in: its place among those given, and until when it says so."""

    index: int
    until: datetime | None


class PersistRefused(Exception):
    """No record lets the account in. `code` is the ACME error type, `detail` the nearest miss."""

    def __init__(self, code: Literal["malformed", "unauthorized"], detail: str) -> None:
        super().__init__(detail)
        self.code: Literal["malformed", "unauthorized"] = code
        self.detail = detail


def require_persistent_grant(records: Sequence[bytes], request: PersistRequest) -> PersistGrant:
    """The record that lets the account have this name. Raises PersistRefused (rows DP2, DP3)."""
    refusals: list[PersistRefused] = []
    for index, record in enumerate(records):
        if issuer_part(record) not in request.issuer_names:
            continue
        try:
            return PersistGrant(index=index, until=_grant(record, request))
        except PersistRefused as refused:
            refusals.append(refused)
    if refusals:
        raise next((each for each in refusals if each.code == "malformed"), refusals[0])
    raise PersistRefused("unauthorized", f"none of the {len(records)} TXT records names this certificate authority"
                         if records else "there is no TXT record")


def _grant(record: bytes, request: PersistRequest) -> datetime | None:
    value = parse_issue_value(record)
    if value is None:
        raise PersistRefused("malformed", "the record that names us is not an issue-value (RFC 8659 4.2)")
    for tag in _KNOWN_TAGS:
        if len(value.values(tag)) > 1:
            raise PersistRefused("malformed", f"the record that names us has more than one {tag}")
    until = _until(value)
    accounts = value.values("accounturi")
    if not accounts or not accounts[0]:
        raise PersistRefused("malformed", "the record that names us has no accounturi")
    if accounts[0] != request.account_url:
        raise PersistRefused("unauthorized", "the record that names us has the accounturi of another account")
    if until is not None and request.now > until:
        raise PersistRefused("unauthorized", "the persistUntil of the record is over")
    if request.wildcard and [policy.lower() for policy in value.values("policy")] != ["wildcard"]:
        raise PersistRefused("unauthorized", "the record has no policy=wildcard, which a wildcard name needs")
    return until


def _until(value: IssueValue) -> datetime | None:
    moments = value.values("persistuntil")
    if not moments:
        return None
    if not _UNIX_SECONDS.fullmatch(moments[0]) or int(moments[0]) > _LAST_SECOND:
        raise PersistRefused("malformed", "the persistUntil of the record that names us is not a number of seconds "
                                          "since 1970")
    return datetime.fromtimestamp(int(moments[0]), UTC)
