"""Which addresses may be dialled: the IANA special-purpose registries, and the addresses that lie inside others.

Python's `is_global` is not enough: it calls 64:ff9b::7f00:1, 2002:7f00:1:: and fec0::1 global. The table is the rule
(row SF2); for IPv6 everything outside 2000::/3 is refused unless a prefix allows it.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ca.pki.special_addresses import LOOPBACK, IpAddress, IpNetwork, lies_in

# Never dialled, whatever the configuration allows; loopback is judged apart.
_NEVER: Final = tuple((ipaddress.ip_network(prefix), kind) for prefix, kind in (
    ("0.0.0.0/8", "this network"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/128", "unspecified"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
))
# Dialled only where an allowed prefix covers them.
_SPECIAL: Final = tuple((ipaddress.ip_network(prefix), kind) for prefix, kind in (
    ("10.0.0.0/8", "private-use"),
    ("100.64.0.0/10", "shared address space"),
    ("172.16.0.0/12", "private-use"),
    ("192.0.0.0/24", "IETF protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "6to4 relay anycast"),
    ("192.168.0.0/16", "private-use"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("240.0.0.0/4", "reserved"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("64:ff9b::/96", "IPv4/IPv6 translation"),
    ("64:ff9b:1::/48", "IPv4/IPv6 translation"),
    ("100::/64", "discard-only"),
    ("100:0:0:1::/64", "dummy prefix"),
    ("2001::/23", "IETF protocol assignments"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "unique local"),
    ("fec0::/10", "site-local"),
))
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_V4_COMPATIBLE: Final = ipaddress.ip_network("::/96")
_DISCARD_PORT: Final = 9


class AddressRefused(Exception):
    """This address is not dialled; `reason` is the kind of address, in words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_own_address(address: IpAddress) -> bool:
    """Whether the address is one of this machine's: then the kernel would use it as the source, too.

    Connecting a datagram socket sends nothing; it only asks the routing table.
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), _DISCARD_PORT))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPolicy:
    """What may be dialled beyond the public Internet.

    `loopback`: loopback networks that the configuration opens (a machine's own other addresses are loopback by another
    name, so they are opened with it). `allowed`: special-purpose prefixes of an internal network. `refused`: addresses
    of the CA's own services on other machines.
    """

    loopback: tuple[IpNetwork, ...] = ()
    allowed: tuple[IpNetwork, ...] = ()
    refused: frozenset[IpAddress] = frozenset()
    is_own: Callable[[IpAddress], bool] = is_own_address

    def require_dialable(self, address: IpAddress) -> None:
        """Raises AddressRefused unless this very address, and every address inside it, may be dialled (SF2)."""
        kind = _kind(address, _NEVER)
        if kind is not None:
            raise AddressRefused(kind)
        if lies_in(address, LOOPBACK):
            if not lies_in(address, self.loopback):
                raise AddressRefused("loopback")
            return
        if address in self.refused:
            raise AddressRefused("an address of this certificate authority")
        if not self.loopback and self.is_own(address):
            raise AddressRefused("an address of this machine")
        for inner in _addresses_inside(address):
            self.require_dialable(inner)
        kind = _kind(address, _SPECIAL)
        if kind is None and address.version == 6 and address not in _GLOBAL_UNICAST:
            kind = "not global unicast"
        if kind is not None and not lies_in(address, self.allowed):
            raise AddressRefused(kind)


def _kind(address: IpAddress, table: Iterable[tuple[IpNetwork, str]]) -> str | None:
    return next((kind for network, kind in table if address.version == network.version and address in network), None)


def _addresses_inside(address: IpAddress) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses that this one carries: mapped or compatible (RFC 4291), 6to4, Teredo, NAT64."""
    if not isinstance(address, ipaddress.IPv6Address):
        return ()
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or address in _V4_COMPATIBLE:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(each for each in inner if each is not None)
