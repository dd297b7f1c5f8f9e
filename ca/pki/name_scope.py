"""The names that one subscriber may order at all: a list of names, each with all that is below it, and of prefixes.

An operator gives it to an external account (row NM9); it narrows what the CA certifies and never widens it. An empty
list is no limit.
"""

import ipaddress
from collections.abc import Sequence

from ca.pki.identifier import Identifier, IdentifierError, parse_identifier


def parse_scope(text: str) -> str:
    """The one spelling of an entry: a name, or an address prefix. Raises ValueError that says what is wrong."""
    if "/" in text or ":" in text:
        return str(ipaddress.ip_network(text))
    try:
        return parse_identifier("ip", text).value + "/32"
    except IdentifierError:
        pass
    try:
        identifier = parse_identifier("dns", text, single_label=True)
    except IdentifierError as fault:
        raise ValueError(fault.detail) from fault
    if identifier.is_wildcard:
        raise ValueError(f"{text}: write {identifier.base}, which stands for all names below it too")
    return identifier.value


def require_in_scope(identifier: Identifier, scope: Sequence[str]) -> None:
    """Returns when an entry covers the identifier, or there is none. Raises IdentifierError (rejectedIdentifier)."""
    if not scope or any(_covers(entry, identifier) for entry in scope):
        return
    raise IdentifierError("rejectedIdentifier", f"{identifier.value} is not among the names that the external "
                                                "account of this account may have")


def _covers(entry: str, identifier: Identifier) -> bool:
    if "/" in entry:
        return identifier.type == "ip" and ipaddress.ip_address(identifier.value) in ipaddress.ip_network(entry)
    return identifier.type == "dns" and (identifier.base == entry or identifier.base.endswith(f".{entry}"))
