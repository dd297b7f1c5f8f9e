"""CAA: which records decide, and whether they let us issue (RFC 8659, RFC 8657, BR 3.2.2.8).

Everything that cannot be understood fails closed: a property whose value does not parse matches nobody (never
everybody), an unknown critical property refuses, and a name too deep to climb refuses. Answers are given; who asked
them, when, and what a failed lookup means is the validation authority's business.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from acme_api.protocol.issue_value import IssueValue, parse_issue_value

MAX_RECORDS: Final = 100
MAX_LABELS: Final = 10

_KNOWN_TAGS: Final = frozenset({"issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"})
# RFC 8659 4.1.1 defines bit 0, written 128; the value 1 is what a reader of the older numbering means by it.
_CRITICAL_BITS: Final = 0x81

_METHOD_LABELS = re.compile(r"[0-9A-Za-z-]+(?:,[0-9A-Za-z-]+)*", re.ASCII)
_ACCOUNT_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x3a\x3c-\x7e]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaaRecord:
    """One CAA resource record as it came from the DNS."""

    flags: int
    tag: str
    value: bytes

    def __str__(self) -> str:
        value = "".join(chr(octet) if 0x20 <= octet < 0x7F and octet != 0x22 else f"\\{octet:03d}"
                        for octet in self.value)
        return f'{self.flags} {_shown(self.tag)} "{value}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class CaaRequest:
    """What is about to be issued, and by whom: the facts that a CAA record may restrict."""

    wildcard: bool
    method: str
    account_url: str
    identities: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaaPermission:
    """Why issuance is permitted: the property that names us, or None when no record restricts this kind of name."""

    matched: CaaRecord | None


class CaaForbids(Exception):
    """The relevant record set does not let us issue; `detail` says which property, and why it does not match."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


def names_to_climb(name: str) -> tuple[str, ...]:
    """The names whose CAA sets are asked, closest first: the name, then each parent, the root left out (RFC 8659 3).

    The climb goes by the name itself, never by the target of an alias met on the way. Raises CaaForbids for a name
    of more than ten labels, because a parent left out could be the one that forbids.
    """
    labels = name.removeprefix("*.").split(".")
    if len(labels) > MAX_LABELS:
        raise CaaForbids(f"{name} has more than {MAX_LABELS} labels, so its CAA records cannot all be asked")
    return tuple(".".join(labels[start:]) for start in range(len(labels)))


def require_permission(records: Sequence[CaaRecord], request: CaaRequest) -> CaaPermission:
    """Returns why the relevant record set permits `request`, or raises CaaForbids.

    `records` is the first non-empty set of the climb, or empty when there is none: then everybody may issue.
    """
    for record in records:
        if record.flags & _CRITICAL_BITS and record.tag.lower() not in _KNOWN_TAGS:
            raise CaaForbids(f"the critical property {_shown(record.tag)} is not understood (RFC 8659 4.1)")
    restricting = _restricting(records, wildcard=request.wildcard)
    if not restricting:
        return CaaPermission(matched=None)
    reasons = []
    for record in restricting:
        reason = _mismatch(record, request)
        if reason is None:
            return CaaPermission(matched=record)
        reasons.append(f"{record.tag.lower()} {reason}")
    raise CaaForbids("; ".join(dict.fromkeys(reasons))[:500])


def _restricting(records: Sequence[CaaRecord], *, wildcard: bool) -> list[CaaRecord]:
    """RFC 8659 4.3: for a wildcard issuewild replaces issue where it is present; otherwise it is ignored."""
    issue = [record for record in records if record.tag.lower() == "issue"]
    if not wildcard:
        return issue
    return [record for record in records if record.tag.lower() == "issuewild"] or issue


def _mismatch(record: CaaRecord, request: CaaRequest) -> str | None:
    """Why this property does not name us for this request; None when it does."""
    value = parse_issue_value(record.value)
    if value is None:
        return "has a value that does not parse (RFC 8659 4.2)"
    if not value.issuer:
        return "names no issuer"
    if value.issuer.lower() not in {identity.lower() for identity in request.identities}:
        return f"names {_shown(value.issuer)}, not us"
    return _account_mismatch(value, request.account_url) or _method_mismatch(value, request.method)


def _account_mismatch(value: IssueValue, account_url: str) -> str | None:
    """RFC 8657 3: the one accounturi is compared octet for octet."""
    uris = value.values("accounturi")
    if not uris:
        return None
    if len(uris) > 1:
        return "has more than one accounturi"
    if _ACCOUNT_URI.fullmatch(uris[0]) is None:
        return "has an accounturi that is not a URI"
    return None if uris[0] == account_url else "has the accounturi of another account"


def _method_mismatch(value: IssueValue, method: str) -> str | None:
    """RFC 8657 4: the one validationmethods lists the method that was used."""
    lists = value.values("validationmethods")
    if not lists:
        return None
    if len(lists) > 1:
        return "has more than one validationmethods"
    if _METHOD_LABELS.fullmatch(lists[0]) is None:
        return "has a validationmethods that does not parse (RFC 8657 4)"
    return None if method in lists[0].split(",") else f"does not list {method} in validationmethods"


def _shown(text: str) -> str:
    """DNS content in a message: printable, at most one name long."""
    return "".join(character if 0x20 < ord(character) < 0x7F else "?" for character in text[:253])
