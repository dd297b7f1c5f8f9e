"""Whose address a request comes from: only the named source counts, and only from listed proxies (row E7)."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.process.client_address import behind_proxies, parse_address, parse_networks

_TRUSTED = parse_networks(["10.0.0.0/8", "2001:db8:ffff::/48"])


def _client(*lines: str, rfc_7239: bool = False, peer: str = "10.0.0.1") -> str:
    return str(behind_proxies(ipaddress.ip_address(peer), lines, _TRUSTED, rfc_7239=rfc_7239))


@pytest.mark.parametrize(("lines", "client"), [
    (["192.0.2.7"], "192.0.2.7"),
    (["192.0.2.7:4711"], "192.0.2.7"),
    (["198.51.100.9, 192.0.2.7"], "192.0.2.7"),
    (["198.51.100.9", "192.0.2.7"], "192.0.2.7"),
    (["198.51.100.9, 192.0.2.7, 10.0.0.9"], "192.0.2.7"),
    (["2001:db8::1"], "2001:db8::1"),
    (["[2001:db8::1]:443"], "2001:db8::1"),
    (["::ffff:192.0.2.7"], "192.0.2.7"),
    (["198.51.100.9, evil"], "10.0.0.1"),
    (["evil, 192.0.2.7"], "192.0.2.7"),
    (["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
    (["fe80::1%eth0"], "10.0.0.1"),
    ([""], "10.0.0.1"),
    ([], "10.0.0.1"),
    ([", ,"], "10.0.0.1"),
])
def test_x_forwarded_for(lines: list[str], client: str) -> None:
    """The first from the right that is no proxy of ours; what a client put further left never counts."""
    assert _client(*lines) == client


@pytest.mark.parametrize(("lines", "client"), [
    (["for=192.0.2.7"], "192.0.2.7"),
    (["For=\"[2001:db8::1]:4711\";proto=https;by=10.0.0.1"], "2001:db8::1"),
    (["proto=http; for=192.0.2.7"], "192.0.2.7"),
    (["for=198.51.100.9, for=192.0.2.7"], "192.0.2.7"),
    (["for=198.51.100.9", "for=192.0.2.7, for=10.1.1.1"], "192.0.2.7"),
    (['for="198.51.100.9, for=192.0.2.7'], "192.0.2.7"),
    (['for=198.51.100.9;host="a,b;for=1.1.1.1", for=192.0.2.7'], "192.0.2.7"),
    (['for="1.1.1.1\\", for=2.2.2.2";for=192.0.2.7'], "10.0.0.1"),
    (["for=192.0.2.7;for=198.51.100.9"], "10.0.0.1"),
    (["for=_hidden"], "10.0.0.1"),
    (["for=unknown"], "10.0.0.1"),
    (["by=192.0.2.7"], "10.0.0.1"),
    (["192.0.2.7"], "10.0.0.1"),
    (["xfor=192.0.2.7"], "10.0.0.1"),
])
def test_forwarded(lines: list[str], client: str) -> None:
    """RFC 7239 from the right: quotes and commas that a client wrote on the left change nothing."""
    assert _client(*lines, rfc_7239=True) == client


@given(st.text(max_size=60).filter(lambda text: "\n" not in text), st.booleans())
def test_nothing_on_the_left_counts(written: str, rfc_7239: bool) -> None:
    """Spoofing: whatever a client sends, what the proxy appends decides; and from a stranger no header counts."""
    appended = "for=192.0.2.7" if rfc_7239 else "192.0.2.7"
    assert _client(f"{written},{appended}", rfc_7239=rfc_7239) == "192.0.2.7"
    assert _client(written, appended, rfc_7239=rfc_7239) == "192.0.2.7"
    assert _client(written, appended, rfc_7239=rfc_7239, peer="198.51.100.1") == "198.51.100.1"


@given(st.ip_addresses())
def test_addresses_round_trip(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """With brackets and port or bare, an address is read as it was written; an IPv4 address in IPv6 is the IPv4 one."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    written = [str(address), f"[{address}]:1" if address.version == 6 else f"{address}:1"]
    assert {parse_address(text) for text in written} == {mapped or address}
