"""One request from beginning to end: the challenge, then CAA, each tried up to three times (RFC 8555 8.2, row CH5).

Only what may pass is tried again: a name that does not resolve yet, a server that is not up yet. Wrong content fails at
once. Between two tries nothing is held: no connection, no starting place.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar

from acme_api.protocol.problem import Problem
from acme_api.va.evidence import Evidence
from acme_api.va.failure import FailureType, ValidationFailure
from acme_api.va.lanes import Lanes
from acme_api.va.methods import Methods, Proof, Question
from acme_api.va.store import ClaimedRequest, Outcome
from ca.pki.identifier import Identifier
from ca.pki.policy import longest_reuse_s
from ca.process.ambient import Ambient

TRY_TIMEOUT_S: Final = 10.0
RETRY_DELAYS_S: Final = (5.0, 10.0)
_Found = TypeVar("_Found")


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
        persist: bool = False,
        try_timeout_s: float = TRY_TIMEOUT_S,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
    ) -> None:
        self._methods = methods
        self._lanes = lanes
        self._ambient = ambient
        self._account_url = account_url
        self._reuse = reuse
        self._persist = persist
        self._try_timeout_s = try_timeout_s
        self._retry_delays_s = tuple(retry_delays_s)

    async def check(self, request: ClaimedRequest) -> Outcome:
        """The outcome of one request; every failure that is the subscriber's to know is in it, none is raised."""
        evidence = Evidence(self._ambient.now)
        question = self._question(request)
        proof = Proof()
        try:
            if request.kind == "challenge":
                proof = await self._tries(lambda: self._methods.validate(question, evidence), evidence)
            await self._tries(lambda: self._methods.require_caa_permission(question, evidence), evidence)
        except ValidationFailure as failure:
            return self._failed(request, evidence, failure)
        now = self._ambient.now()
        return Outcome(request=request, at=now, valid_until=self._valid_until(request.challenge_type, proof, now),
                       caa_checked_at=now, problem=None, evidence=evidence.to_json())

    def give_up(self, request: ClaimedRequest) -> Outcome:
        """The outcome of a request that broke our own code again and again: an end, although not an answer."""
        failure = ValidationFailure("serverInternal", "the validation could not be carried out")
        return self._failed(request, Evidence(self._ambient.now), failure)

    def _failed(self, request: ClaimedRequest, evidence: Evidence, failure: ValidationFailure) -> Outcome:
        return Outcome(request=request, at=self._ambient.now(), valid_until=None, caa_checked_at=None,
                       problem=Problem(failure.type, failure.detail).to_json(), evidence=evidence.to_json())

    def _valid_until(self, method: str, proof: Proof, now: datetime) -> datetime:
        """The end of reuse: the operator's, that of the Baseline Requirements, the method's own (row RU1)."""
        until = now + min(self._reuse, timedelta(seconds=longest_reuse_s(method, now)))
        return until if proof.until is None else min(until, proof.until)

    async def _tries(self, attempt: Callable[[], Awaitable[_Found]], evidence: Evidence) -> _Found:
        for number, delay_s in enumerate((*self._retry_delays_s, None), start=1):
            try:
                async with self._lanes.place():
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

    def _question(self, request: ClaimedRequest) -> Question:
        return Question(
            identifier=Identifier(type=request.identifier_type, value=request.identifier_value),
            wildcard=request.wildcard, method=request.challenge_type, token=request.token,
            thumbprint=request.thumbprint, account_url=self._account_url(request.account_id),
            persist=self._persist or request.persist_allowed, now=self._ambient.now())
