"""Why a name could not be looked up, in a subscriber's words: extended DNS errors (RFC 8914), response codes.

The resolver's own text beside a code names servers and caches and is never repeated.
"""

from collections.abc import Sequence
from typing import Final

# RFC 8914 4 and the registry; those that are about a resolver's own state say nothing to a subscriber.
_WORDS: Final = {
    1: "DNSSEC: the zone is signed with an algorithm that is not supported",
    2: "DNSSEC: the DS record has a digest type that is not supported",
    5: "DNSSEC: whether the zone is signed could not be found out",
    6: "DNSSEC: the signatures do not fit the records (bogus)",
    7: "DNSSEC: a signature has expired",
    8: "DNSSEC: a signature is not valid yet",
    9: "DNSSEC: no DNSKEY of the zone fits the DS record in its parent zone",
    10: "DNSSEC: the signatures (RRSIG) are missing, although the parent zone has a DS record",
    11: "DNSSEC: no DNSKEY of the zone is marked as a zone key",
    12: "DNSSEC: the proof that a record does not exist (NSEC or NSEC3) is missing or wrong",
    20: "a name server of the zone does not know the zone (lame delegation)",
    22: "no name server of the zone can be reached, or none gives a usable answer",
    23: "a network error on the way to the zone's name servers",
    24: "a name server of the zone sent invalid data",
    25: "DNSSEC: a signature is invalid",
    27: "DNSSEC: the zone uses more NSEC3 iterations than are supported",
}
# The most telling first: a bogus answer is often accompanied by the reason of it.
_GENERAL: Final = (6, 22, 5)
_OF_RCODE: Final = {
    "SERVFAIL": "an unreachable name server or a broken DNSSEC chain",
    "REFUSED": "the zone's name servers, or the resolver, refuse to answer",
}


def why(rcode: str, codes: Sequence[int]) -> str:
    """What follows "answered with": the response code, and what is known about it."""
    told = sorted((code for code in codes if code in _WORDS), key=lambda code: code in _GENERAL)
    if told:
        return f"{rcode} ({_WORDS[told[0]]})"
    return f"{rcode} ({_OF_RCODE[rcode]})" if rcode in _OF_RCODE else rcode
