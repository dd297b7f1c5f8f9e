"""Limits in memory: exact for each address, bounded for all of them together (row E9)."""

import ipaddress

from acme_api.protocol.rate_limit import LimitName, Rate
from acme_api.wfe.flood import Flood

_RATE = Rate(burst=10, period_s=10)
_NONCES = LimitName.NONCES_PER_ADDRESS


def test_e9_memory_is_bounded() -> None:
    """Row E9: 100,000 addresses leave no more buckets than are allowed, and the busiest address keeps its own."""
    flood = Flood(most_buckets=1_000)
    busy = ipaddress.ip_address("192.0.2.1")
    refused = 0
    for number in range(100_000):
        flood.wait_s(_NONCES, ipaddress.ip_address(0x0A000000 + number), _RATE, 1e6)
        if number % 10 == 0:
            refused += flood.wait_s(_NONCES, busy, _RATE, 1e6) > 0
    assert len(flood) == 1_000
    assert refused == 10_000 - 10


def test_e9_one_address_and_its_neighbours() -> None:
    """A burst, then one a second; a /64 is one address; each limit counts for itself; the wait is what it says."""
    flood = Flood()
    first, second, other = (ipaddress.ip_address(text) for text in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"))
    assert [flood.wait_s(_NONCES, first, _RATE, 0.0) for _ in range(10)] == [0.0] * 10
    assert 0.99 < flood.wait_s(_NONCES, second, _RATE, 0.0) <= 1.0
    assert flood.wait_s(_NONCES, other, _RATE, 0.0) == 0.0
    assert flood.wait_s(LimitName.RENEWAL_INFO_PER_ADDRESS, first, _RATE, 0.0) == 0.0
    assert flood.wait_s(_NONCES, None, _RATE, 0.0) == 0.0
    assert flood.wait_s(_NONCES, second, _RATE, 1.01) == 0.0
    assert flood.wait_s(_NONCES, second, _RATE, 1.01) > 0
