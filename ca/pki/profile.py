"""Certificate profiles: numbers and flags, and the words that the directory shows (spec/pki.md 1.3).

What every subscriber certificate has in common (serverAuth alone, DV policy, CRL and OCSP URLs, no CA) is in tbs.py.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ca.pki.identifier import Identifier
from ca.pki.policy import DAY_S
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


CLASSIC: Final = Profile(
    name="classic",
    description="90 days, up to 100 names, with a common name, for old clients",
    length_s=90 * DAY_S,
    max_names=100,
    common_name=True,
    subject_key_identifier=True,
    rsa_key_encipherment=True,
)
TLSSERVER: Final = Profile(
    name="tlsserver",
    description="45 days, up to 25 names, the small certificate that the Baseline Requirements recommend",
    length_s=45 * DAY_S,
    max_names=25,
    common_name=False,
    subject_key_identifier=False,
    rsa_key_encipherment=False,
)
PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({profile.name: profile for profile in (CLASSIC, TLSSERVER)})


def require_profile(name: str, identifiers: Collection[Identifier]) -> Profile:
    """The profile, when there is one of this name and the identifiers fit into it. Raises Refusal (row PR2)."""
    profile = PROFILES.get(name)
    if profile is None:
        raise Refusal(RefusalReason.INVALID_PROFILE, f"there is no certificate profile {name[:40]!a}; the directory "
                                                     "lists those that there are")
    if not 0 < len(identifiers) <= profile.max_names:
        raise Refusal(RefusalReason.INVALID_PROFILE,
                      f"a certificate of profile {name} has 1 to {profile.max_names} names, not {len(identifiers)}")
    return profile
