"""The only door to the clock and to entropy, so that tests can hold both."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambient:
    """What a process may ask of the world: the time (aware, UTC) and random bytes from the system's CSPRNG."""

    now: Callable[[], datetime]
    random_bytes: Callable[[int], bytes]


def _utc_now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - this is the door


def system_ambient() -> Ambient:
    """The real clock and the real CSPRNG."""
    return Ambient(now=_utc_now, random_bytes=os.urandom)  # noqa: TID251 - this is the door
