"""An answer without the AD bit is believed only where the zone is unsigned (BR 3.2.2.4, 3.2.2.8; row DN3).

The resolver validates, so a bogus answer never arrives here. What this finds is a resolver that does not validate, or
that a configuration taught to overlook a zone: the walk goes from the top-level domain down to the name and looks for
the place where the chain of DS records ends. Where the parent's records prove that there is none, the zone below is
unsigned, and so may its answers be. A name whose chain never ends is in a signed zone, and its answer had to be
authenticated.

Opt-out spans (RFC 5155 6) prove nothing about one name, and resolvers set no AD bit there (9.2); so "no DS, not
authenticated" ends the walk only where the resolver authenticates the signed zone above (its SOA record), and only
below a top-level domain whose own DS record, or the absence of it, was authenticated. A resolver that does not validate
fails at the latter, one that overlooks a zone at the former.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from acme_api.va.failure import FailureType, ValidationFailure


@dataclass(frozen=True, slots=True)
class Found:
    """Whether there are records of a type at a name, and whether the resolver authenticated the answer."""

    present: bool
    authenticated: bool


ZoneType: TypeAlias = Literal["DS", "NS", "SOA"]
Ask: TypeAlias = Callable[[str, ZoneType], Awaitable[Found]]
"""One question to the resolver; raises ValidationFailure when it fails."""


async def require_unsigned(names: Sequence[str], ask: Ask) -> None:
    """Returns when one of the names (an alias chain) is in an unsigned zone: then no answer about the chain can be
    authenticated. Raises ValidationFailure: dns when all of them are in signed zones (the resolver overlooks one, or
    does not know its algorithm), serverInternal when the resolver does not validate at all."""
    for name in names:
        if await _is_unsigned(name, ask):
            return
    raise ValidationFailure(
        "dns", f"{names[0]} is in a signed zone, and the DNS resolver did not authenticate its answer (DNSSEC)",
        transient=True)


async def _is_unsigned(name: str, ask: Ask) -> bool:
    labels = name.rstrip(".").split(".")
    signed = "."
    for depth in range(1, len(labels) + 1):
        zone = ".".join(labels[-depth:])
        ds = await ask(zone, "DS")
        if ds.present or depth == 1:
            if not ds.authenticated:
                # At the top it authenticates nothing at all; further down it overlooks the zone above.
                raise _not_authenticated("serverInternal" if depth == 1 else "dns", f"the DS record of {zone}")
            signed = zone if ds.present else signed
        elif not ds.authenticated:
            if not (await ask(signed, "SOA")).authenticated:
                raise _not_authenticated("dns", f"the signed zone {signed}")
            return True
        # Proven to have no DS record: an unsigned zone begins here, if a zone begins here at all.
        if not ds.present and (await ask(zone, "NS")).present:
            return True
    return False


def _not_authenticated(failure_type: FailureType, what: str) -> ValidationFailure:
    return ValidationFailure(failure_type, f"the DNS resolver did not authenticate {what} (DNSSEC)", transient=True)
