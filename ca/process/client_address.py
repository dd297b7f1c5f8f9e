"""Whose address a request comes from: the connection's, or what a listed proxy says of it (row E7).

Only one source is believed, the one that the configuration names, and only from addresses that it lists: a header that
the proxy does not set itself is the client's own word. A chain of proxies is followed from its right end, where the
nearest proxy wrote, for as long as the writer is one that is trusted. None of this ever makes a URL.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
# The last element of RFC 7239's list; commas in quoted strings do not end one. Read from the right, so that what a
# client wrote on the left, an open quote for one, does not matter.
_LAST_ELEMENT: Final = re.compile(r'(?:^|,)([^,"]*(?:"(?:[^"\\]|\\.)*"[^,"]*)*)$')
_FOR: Final = re.compile(r'(?:^|;)\s*for\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))\s*(?=;|$)', re.IGNORECASE)
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_MAX_HOPS: Final = 32


def parse_networks(texts: Sequence[str]) -> tuple[IpNetwork, ...]:
    """The networks and addresses of a configuration. Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def is_trusted(address: IpAddress, trusted: Sequence[IpNetwork]) -> bool:
    """Whether an address is a listed proxy's."""
    return any(address in network for network in trusted)


def parse_address(text: str) -> IpAddress | None:
    """An address as proxies write it, with or without brackets and port; None for names, secrets and nonsense."""
    match = _WITH_PORT.fullmatch(text.strip())
    bare = text.strip() if match is None else match[1] or match[2]
    if "%" in bare:
        return None
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def behind_proxies(
    peer: IpAddress, forwarded: Sequence[str], trusted: Sequence[IpNetwork], *, rfc_7239: bool
) -> IpAddress:
    """The client's address by the lines of Forwarded (`rfc_7239`) or X-Forwarded-For; `peer` is the connection's.

    The first address from the right that is no trusted proxy's is the client. Where a trusted proxy wrote something
    that is no address, it is itself the nearest that is known.
    """
    rest = ",".join(forwarded)
    address = peer
    for _ in range(_MAX_HOPS):
        if not rest.strip() or not is_trusted(address, trusted):
            return address
        rest, said = _split_forwarded(rest) if rfc_7239 else _split_plain(rest)
        if said is None:
            return address
        address = said
    return address


def _split_plain(rest: str) -> tuple[str, IpAddress | None]:
    left, _, last = rest.rpartition(",")
    return left, parse_address(last)


def _split_forwarded(rest: str) -> tuple[str, IpAddress | None]:
    element = _LAST_ELEMENT.search(rest)
    if element is None:
        return "", None
    said = _FOR.findall(element[1])
    if len(said) != 1:
        return "", None
    return rest[:element.start()], parse_address(re.sub(r"\\(.)", r"\1", said[0][0]) or said[0][1])
