"""Addresses that no certificate is issued for without being asked to: the IANA special-purpose registries.

Python's `is_global` is not enough: it calls 64:ff9b::7f00:1, 2002:7f00:1:: and fec0::1 global (BR 7.1.4.2.1: "reserved
IP address"; row IP5).
"""

import ipaddress
from typing import Final, TypeAlias

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: Final[tuple[IpNetwork, ...]] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

# No prefix that an operator lists reaches these (row SF2, "never relaxable").
NEVER: Final[tuple[IpNetwork, ...]] = tuple(ipaddress.ip_network(prefix) for prefix in (
    "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/128", "fe80::/10", "ff00::/8",
    "::ffff:0:0/96", "64:ff9b::/96", "2002::/16",
))
SPECIAL: Final[tuple[IpNetwork, ...]] = tuple(ipaddress.ip_network(prefix) for prefix in (
    "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
    "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
    "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16",
    "fc00::/7", "fec0::/10",
))
_GLOBAL_UNICAST_6: Final = ipaddress.ip_network("2000::/3")


def lies_in(address: IpAddress, networks: tuple[IpNetwork, ...]) -> bool:
    """Whether one of the networks of the same IP version contains the address."""
    return any(address.version == network.version and address in network for network in networks)


def is_special(address: IpAddress) -> bool:
    """Whether the address is not one of the public Internet's (outside 2000::/3, no IPv6 address is)."""
    if lies_in(address, LOOPBACK) or lies_in(address, NEVER) or lies_in(address, SPECIAL):
        return True
    return address.version == 6 and address not in _GLOBAL_UNICAST_6
