"""Accounts: what newAccount and an update may say, and what an account looks like (RFC 8555 7.1.2, 7.3)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from acme_api.protocol import directory
from acme_api.protocol.problem import Problem, account_closed, malformed
from ca.pki.identifier import IdentifierError, parse_identifier

MAX_CONTACTS: Final = 10
_MAX_CONTACT_CHARS: Final = 320
_MAX_LOCAL_CHARS: Final = 64
_SHOWN_CHARS: Final = 100
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)
# dot-atom of RFC 5322 3.2.3 without what a URI would have to escape or gives a meaning (RFC 6068 2).
_ATOM: Final = r"[A-Za-z0-9!$&'*+=^_`{|}~-]+"
_LOCAL_PART: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*", re.ASCII)
_NOT_IN_AN_ADDRESS: Final = frozenset("?#,%")


class AccountStatus(StrEnum):
    """RFC 8555 7.1.6."""

    VALID = "valid"
    DEACTIVATED = "deactivated"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A subscriber, as the database knows it. `jwk` is canonical. `dns_persist_allowed`: by an operator (row X1).
    `eab_kid` and `eab` are of its external account."""

    id: bytes
    thumbprint: bytes
    jwk: str
    contacts: tuple[str, ...]
    terms_agreed_at: datetime | None
    deactivated_at: datetime | None
    revoked_at: datetime | None
    dns_persist_allowed: bool = False
    eab_kid: str | None = None
    eab: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsRule:
    """The terms at `url` have to be agreed to since `agreed_since`; `instructions` is a page that says how."""

    url: str
    agreed_since: datetime
    instructions: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUpdate:
    """What an update changes. `contacts` None: they stay."""

    contacts: tuple[str, ...] | None
    deactivate: bool


def account_status(account: Account) -> AccountStatus:
    """The status that follows from the facts; there is no way back to valid (rows AC7, AC8)."""
    if account.revoked_at is not None:
        return AccountStatus.REVOKED
    return AccountStatus.VALID if account.deactivated_at is None else AccountStatus.DEACTIVATED


def require_open(account: Account) -> None:
    """Raises Problem (401) when the account may do nothing any more (RFC 8555 7.3.6, row J13)."""
    status = account_status(account)
    if status is not AccountStatus.VALID:
        raise account_closed(f"the account is {status}")


def only_return_existing(payload: Mapping[str, Any]) -> bool:
    """Whether no account may be made (RFC 8555 7.3.1)."""
    value = payload.get("onlyReturnExisting", False)
    if not isinstance(value, bool):
        raise malformed("onlyReturnExisting is not a boolean")
    return value


def require_terms(payload: Mapping[str, Any], terms_of_service: str) -> bool:
    """Whether the subscriber agreed. Raises Problem when there are terms and they are not agreed to (row AC4)."""
    value = payload.get("termsOfServiceAgreed", False)
    if value is True or (value is False and not terms_of_service):
        return bool(value)
    detail = ("termsOfServiceAgreed is not a boolean" if not isinstance(value, bool)
              else f"the terms of service at {terms_of_service} must be agreed to (termsOfServiceAgreed: true)")
    raise Problem("malformed", detail, terms_of_service=terms_of_service or None)


def require_current_terms(account: Account, rule: TermsRule | None) -> None:
    """Raises userActionRequired when the terms have changed since the account agreed (RFC 8555 7.3.3, row P7)."""
    if rule is None or (account.terms_agreed_at is not None and account.terms_agreed_at >= rule.agreed_since):
        return
    raise Problem("userActionRequired", f"the terms of service have changed: read {rule.url}; {rule.instructions} says "
                                        "how to agree to them", terms_of_service=rule.url, instance=rule.instructions)


def require_contacts(payload: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The contacts, None when the member is absent. Raises Problem for what is no mail address (row AC5)."""
    if "contact" not in payload:
        return None
    contacts = payload["contact"]
    if not isinstance(contacts, list) or not all(isinstance(contact, str) for contact in contacts):
        raise malformed("contact is not an array of strings")
    if len(contacts) > MAX_CONTACTS:
        raise malformed(f"there are more than {MAX_CONTACTS} contacts")
    for contact in contacts:
        _require_mail_address(contact)
    return tuple(contacts)


def parse_update(payload: Mapping[str, Any]) -> AccountUpdate:
    """What an update asks for; members that a client may not set are ignored (RFC 8555 7.3.2, row AC6)."""
    if payload.get("status") == AccountStatus.DEACTIVATED.value:
        return AccountUpdate(contacts=None, deactivate=True)
    return AccountUpdate(contacts=require_contacts(payload), deactivate=False)


def account_object(base: str, account: Account) -> dict[str, Any]:
    """RFC 8555 7.1.2. What is not set is left out."""
    document: dict[str, Any] = {"status": account_status(account).value}
    if account.contacts:
        document["contact"] = list(account.contacts)
    if account.terms_agreed_at is not None:
        document["termsOfServiceAgreed"] = True
    if account.eab is not None:
        document["externalAccountBinding"] = dict(account.eab)
    document["orders"] = directory.orders_url(base, account.id)
    return document


def _require_mail_address(contact: str) -> None:
    scheme = _SCHEME.match(contact)
    if scheme is None or scheme[0].lower() != "mailto:":
        raise Problem("unsupportedContact", f"{_shown(contact)}: contacts are mailto: URLs here")
    address = contact[scheme.end():]
    local, separator, domain = address.rpartition("@")
    if len(contact) > _MAX_CONTACT_CHARS or not _NOT_IN_AN_ADDRESS.isdisjoint(address):
        raise _invalid(contact, "a mailto: URL holds one address, without headers and escapes")
    if not separator or len(local) > _MAX_LOCAL_CHARS or not _LOCAL_PART.fullmatch(local):
        raise _invalid(contact, "what stands after mailto: is not one plain mail address")
    try:
        identifier = parse_identifier("dns", domain)
    except IdentifierError as fault:
        raise _invalid(contact, f"the domain of the address: {fault.detail}") from fault
    if identifier.is_wildcard:
        raise _invalid(contact, "the domain of the address is a wildcard")


def _invalid(contact: str, why: str) -> Problem:
    return Problem("invalidContact", f"{_shown(contact)}: {why}")


def _shown(contact: str) -> str:
    """The contact as it may be repeated: printable ASCII, cut."""
    return ascii(contact if len(contact) <= _SHOWN_CHARS else contact[:_SHOWN_CHARS] + "...")
