"""Promises of the address filter: rows SF2, SF3, E61, E82."""

import ipaddress
import socket

import pytest

from acme_api.va.address import AddressPolicy, AddressRefused, is_own_address
from ca.pki.special_addresses import LOOPBACK, NEVER, SPECIAL, IpNetwork

PUBLIC = AddressPolicy(is_own=lambda _address: False)


def require(policy: AddressPolicy, address: str) -> None:
    policy.require_dialable(ipaddress.ip_address(address))


REFUSED = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::2", "::127.0.0.1", "::ffff:8.8.8.8", "::ffff:10.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b::7f00:1",
    "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "100:0:0:1::1", "2001::1", "2001:1ff::1", "2001:db8::1",
    "2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd12::1", "fe80::1", "fec0::1",
    "ff02::1", "4000::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_sf2_special_purpose_addresses_are_refused(address: str) -> None:
    """SF2, E61: no address of the IANA special-purpose registries is dialled, in whatever form it is wrapped."""
    with pytest.raises(AddressRefused):
        require(PUBLIC, address)


@pytest.mark.parametrize("address", ["8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
                                     "172.15.1.1", "172.32.0.0", "192.167.1.1", "223.255.255.255", "2600::1",
                                     "2a00:1450::1",
                                     "2001:200::1", "2001:4860::8888"])
def test_public_addresses_are_dialled(address: str) -> None:
    """SF2: what is next to a special-purpose range is the public Internet."""
    require(PUBLIC, address)


@pytest.mark.parametrize(("prefix", "address"), [("10.0.0.0/8", "10.1.2.3"), ("192.168.7.0/24", "192.168.7.9"),
                                                 ("fd00::/8", "fd12::1"), ("198.18.0.0/15", "198.18.0.1")])
def test_an_internal_network_opens_its_own_prefixes(prefix: str, address: str) -> None:
    """SF2 (relaxable rows): an allowed prefix is dialled, its neighbours are not."""
    policy = AddressPolicy(allowed=(ipaddress.ip_network(prefix),), is_own=lambda _address: False)
    require(policy, address)
    with pytest.raises(AddressRefused):
        require(policy, "172.16.0.1")


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::",
                                     "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
                                     "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:7f00:1::1", "::169.254.169.254"])
def test_sf2_some_addresses_no_configuration_opens(address: str) -> None:
    """SF2: loopback, link-local, multicast, unspecified stay closed although everything is allowed, unwrapped too."""
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    with pytest.raises(AddressRefused):
        require(AddressPolicy(allowed=everything, is_own=lambda _address: False), address)


def test_sf2_inner_addresses_are_judged_by_the_same_configuration() -> None:
    """SF2: an allowed translation prefix does not carry an inner address that is not allowed itself."""
    policy = AddressPolicy(allowed=(ipaddress.ip_network("64:ff9b::/96"),), is_own=lambda _address: False)
    require(policy, "64:ff9b::8.8.8.8")
    with pytest.raises(AddressRefused, match="private-use"):
        require(policy, "64:ff9b::10.0.0.1")


def test_loopback_opens_by_its_own_setting_alone() -> None:
    """The loopback setting opens loopback, nothing else, and no other spelling of it."""
    policy = AddressPolicy(loopback=LOOPBACK)
    require(policy, "127.0.0.1")
    require(policy, "::1")
    for address in ("169.254.169.254", "::ffff:127.0.0.1", "10.0.0.1"):
        with pytest.raises(AddressRefused):
            require(policy, address)


def test_sf2_addresses_of_the_ca_itself_are_refused() -> None:
    """SF2: addresses of our services and of this machine are refused although their prefix is allowed."""
    allowed = (ipaddress.ip_network("10.0.0.0/8"),)
    service = ipaddress.ip_address("10.0.0.7")
    with pytest.raises(AddressRefused, match="certificate authority"):
        AddressPolicy(allowed=allowed, refused=frozenset({service}), is_own=lambda _: False).require_dialable(service)
    with pytest.raises(AddressRefused, match="this machine"):
        AddressPolicy(allowed=allowed, is_own=lambda _: True).require_dialable(service)


def test_own_addresses_are_recognised_without_a_packet() -> None:
    """The addresses of this machine's interfaces are its own; one that is surely elsewhere is not."""
    assert is_own_address(ipaddress.ip_address("127.0.0.1"))
    assert is_own_address(ipaddress.ip_address("::1"))
    assert not is_own_address(ipaddress.ip_address("192.0.2.1"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return
        assert is_own_address(ipaddress.ip_address(probe.getsockname()[0]))


@pytest.mark.parametrize("network", [*LOOPBACK, *NEVER, *SPECIAL], ids=str)
def test_every_address_that_is_not_certified_is_not_dialled(network: IpNetwork) -> None:
    """SF3: the filter of dialling and the rule for address identifiers agree on every special-purpose network."""
    for address in (network[0], network[-1]):
        with pytest.raises(AddressRefused):
            PUBLIC.require_dialable(address)
