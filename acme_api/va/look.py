"""One perspective's look at one question: the challenge, then CAA, each tried up to three times (RFC 8555 8.2, CH5).

Only what may pass is tried again: a name that does not resolve yet, a server that is not up yet. Wrong content fails at
once. Between two tries nothing is held: no connection, no starting place. The primary perspective and the remote ones
look with the same code; remote ones do not try again, because the primary begins anew (row MP2).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, TypeAlias, TypeVar

from acme_api.va.evidence import Evidence
from acme_api.va.failure import FailureType, ValidationFailure
from acme_api.va.lanes import Lanes
from acme_api.va.methods import Methods, Proof, Question

Kind: TypeAlias = Literal["challenge", "caa"]

TRY_TIMEOUT_S: Final = 10.0
RETRY_DELAYS_S: Final = (5.0, 10.0)
_Found = TypeVar("_Found")


class Looker:
    """Looks from here."""

    def __init__(
        self,
        *,
        methods: Methods,
        lanes: Lanes,
        try_timeout_s: float = TRY_TIMEOUT_S,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
    ) -> None:
        self._methods = methods
        self._lanes = lanes
        self._try_timeout_s = try_timeout_s
        self.retry_delays_s = tuple(retry_delays_s)

    async def look(self, kind: Kind, question: Question, evidence: Evidence, *, once: bool = False) -> Proof:
        """Returns when the challenge (for kind "challenge") and CAA are as they must be; raises ValidationFailure.
        `once`: what is not there now is not waited for."""
        proof, delays_s = Proof(), () if once else self.retry_delays_s
        if kind == "challenge":
            proof = await self._tries(lambda: self._methods.validate(question, evidence), evidence, delays_s)
        await self._tries(lambda: self._methods.require_caa_permission(question, evidence), evidence, delays_s)
        return proof

    async def _tries(self, attempt: Callable[[], Awaitable[_Found]], evidence: Evidence,
                     delays_s: Sequence[float]) -> _Found:
        for number, delay_s in enumerate((*delays_s, None), start=1):
            try:
                async with self._lanes.place(again=number > 1):
                    return await self._one_try(attempt, evidence)
            except ValidationFailure as failure:
                evidence.add("failed", failure.type, attempt=number, detail=failure.detail)
                if delay_s is None or not failure.transient:
                    raise
            await asyncio.sleep(delay_s)
        raise AssertionError("the last try returns or raises")

    async def _one_try(self, attempt: Callable[[], Awaitable[_Found]], evidence: Evidence) -> _Found:
        try:
            async with asyncio.timeout(self._try_timeout_s):
                return await attempt()
        except TimeoutError as fault:
            detail = f"timed out after {self._try_timeout_s:g} seconds while {evidence.phase}"
            kind: FailureType = "dns" if evidence.waits_for_dns else "connection"
            raise ValidationFailure(kind, detail, transient=True) from fault
