"""One request from beginning to end: the challenge, then CAA, each tried up to three times (RFC 8555 8.2, row CH5).

Only what may pass is tried again: a name that does not resolve yet, a server that is not up yet. Wrong content fails at
once. Between two tries nothing is held: no connection, no starting place.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final

from acme_api.protocol.problem import Problem
from acme_api.va.evidence import Evidence
from acme_api.va.failure import FailureType, ValidationFailure
from acme_api.va.lanes import Lanes
from acme_api.va.methods import Methods, Question
from acme_api.va.store import ClaimedRequest, Outcome
from ca.pki.identifier import Identifier
from ca.process.ambient import Ambient

TRY_TIMEOUT_S: Final = 10.0
RETRY_DELAYS_S: Final = (5.0, 10.0)


class Checker:
    """Finds out what is true about a claimed request. It stores nothing and knows no queue."""

    def __init__(
        self,
        *,
        methods: Methods,
        lanes: Lanes,
        ambient: Ambient,
        account_url: Callable[[bytes], str],
        reuse: timedelta,
        try_timeout_s: float = TRY_TIMEOUT_S,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
    ) -> None:
        self._methods = methods
        self._lanes = lanes
        self._ambient = ambient
        self._account_url = account_url
        self._reuse = reuse
        self._try_timeout_s = try_timeout_s
        self._retry_delays_s = tuple(retry_delays_s)

    async def check(self, request: ClaimedRequest) -> Outcome:
        """The outcome of one request; every failure that is the subscriber's to know is in it, none is raised."""
        evidence = Evidence(self._ambient.now)
        question = self._question(request)
        try:
            if request.kind == "challenge":
                await self._tries(lambda: self._methods.validate(question, evidence), evidence)
            await self._tries(lambda: self._methods.require_caa_permission(question, evidence), evidence)
        except ValidationFailure as failure:
            return self._outcome(request, evidence, failure)
        return self._outcome(request, evidence, None)

    def give_up(self, request: ClaimedRequest) -> Outcome:
        """The outcome of a request that broke our own code again and again: an end, although not an answer."""
        failure = ValidationFailure("serverInternal", "the validation could not be carried out")
        return self._outcome(request, Evidence(self._ambient.now), failure)

    def _outcome(self, request: ClaimedRequest, evidence: Evidence, failure: ValidationFailure | None) -> Outcome:
        now = self._ambient.now()
        return Outcome(request=request, at=now, valid_until=None if failure else now + self._reuse,
                       caa_checked_at=None if failure else now, problem=_problem_of(failure) if failure else None,
                       evidence=evidence.to_json())

    async def _tries(self, attempt: Callable[[], Awaitable[None]], evidence: Evidence) -> None:
        for number, delay_s in enumerate((*self._retry_delays_s, None), start=1):
            try:
                async with self._lanes.place():
                    await self._one_try(attempt, evidence)
                return
            except ValidationFailure as failure:
                evidence.add("failed", failure.type, attempt=number, detail=failure.detail)
                if delay_s is None or not failure.transient:
                    raise
            await asyncio.sleep(delay_s)

    async def _one_try(self, attempt: Callable[[], Awaitable[None]], evidence: Evidence) -> None:
        try:
            async with asyncio.timeout(self._try_timeout_s):
                await attempt()
        except TimeoutError as fault:
            detail = f"timed out after {self._try_timeout_s:g} seconds while {evidence.phase}"
            kind: FailureType = "dns" if evidence.waits_for_dns else "connection"
            raise ValidationFailure(kind, detail, transient=True) from fault

    def _question(self, request: ClaimedRequest) -> Question:
        return Question(
            identifier=Identifier(type=request.identifier_type, value=request.identifier_value),
            wildcard=request.wildcard, method=request.challenge_type, token=request.token,
            thumbprint=request.thumbprint, account_url=self._account_url(request.account_id))


def _problem_of(failure: ValidationFailure) -> dict[str, Any]:
    return Problem(failure.type, failure.detail).to_json()
