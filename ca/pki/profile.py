"""Certificate profiles: numbers and flags, and the words that the directory shows (spec/pki.md 1.3).

What every subscriber certificate has in common (serverAuth alone, DV policy, CRL URL, no CA) is in tbs.py. Which of
the profiles this CA offers is the operator's choice (`ca.profiles`).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from ca.pki.identifier import Identifier
from ca.pki.policy import DAY_S, HOUR_S
from ca.pki.refusal import Refusal, RefusalReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of subscriber certificate."""

    name: str
    description: str                   # meta.profiles of the directory
    length_s: int
    max_names: int
    common_name: bool                  # CN = the first name that fits into 64 characters
    subject_key_identifier: bool
    rsa_key_encipherment: bool         # for clients that still do RSA key transport
    ocsp: bool                         # says where OCSP is; without it, only a short-lived one may be (BR 7.1.2.7.7)
    ip_addresses: bool                 # iPAddress entries; an address changes hands too fast for a long life


CLASSIC: Final = Profile(
    name="classic",
    description="90 days, up to 100 names, with a common name, for old clients",
    length_s=90 * DAY_S,
    max_names=100,
    common_name=True,
    subject_key_identifier=True,
    rsa_key_encipherment=True,
    ocsp=True,
    ip_addresses=False,
)
TLSSERVER: Final = Profile(
    name="tlsserver",
    description="45 days, up to 25 names, the small certificate that the Baseline Requirements recommend",
    length_s=45 * DAY_S,
    max_names=25,
    common_name=False,
    subject_key_identifier=False,
    rsa_key_encipherment=False,
    ocsp=True,
    ip_addresses=False,
)
SHORTLIVED: Final = Profile(
    name="shortlived",
    description="160 hours, up to 25 names and IP addresses, no OCSP: it ends before a revocation would matter",
    length_s=160 * HOUR_S,
    max_names=25,
    common_name=False,
    subject_key_identifier=False,
    rsa_key_encipherment=False,
    ocsp=False,
    ip_addresses=True,
)
PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {profile.name: profile for profile in (CLASSIC, TLSSERVER, SHORTLIVED)})


def offered_profiles(names: Iterable[str]) -> Mapping[str, Profile]:
    """The profiles of these names, in this order. Raises ValueError for a name that is none."""
    wanted = list(names)
    unknown = [name for name in wanted if name not in PROFILES]
    if unknown or not wanted:
        raise ValueError(f"expected some of {', '.join(PROFILES)}, got {unknown or wanted!r}")
    return MappingProxyType({name: PROFILES[name] for name in wanted})


def longest_life(names: Iterable[str]) -> timedelta:
    """How long certificates of these profiles live at most."""
    return timedelta(seconds=max(profile.length_s for profile in offered_profiles(names).values()))


def require_profile(
    name: str, identifiers: Collection[Identifier], offered: Mapping[str, Profile] = PROFILES
) -> Profile:
    """The profile, when it is offered and the identifiers fit into it. Raises Refusal (rows PR2, PR4)."""
    profile = offered.get(name)
    if profile is None:
        raise Refusal(RefusalReason.INVALID_PROFILE, f"the certificate profile {name[:40]!a} is not offered; the "
                                                     "directory lists those that are")
    if not 0 < len(identifiers) <= profile.max_names:
        raise Refusal(RefusalReason.INVALID_PROFILE,
                      f"a certificate of profile {name} has 1 to {profile.max_names} names, not {len(identifiers)}")
    if not profile.ip_addresses and any(identifier.type == "ip" for identifier in identifiers):
        raise Refusal(RefusalReason.INVALID_PROFILE,
                      f"certificates of profile {name} hold names only, no IP addresses")
    return profile
