"""One request from beginning to end: the primary perspective's look, then the remote ones' (BR 3.2.2.9, row MP2).

Remote perspectives are asked only after the primary has confirmed. Where they may yet agree, everything begins anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from acme_api.protocol.problem import Problem
from acme_api.va.evidence import Evidence
from acme_api.va.failure import ValidationFailure
from acme_api.va.look import Kind, Looker
from acme_api.va.methods import Proof, Question
from acme_api.va.store import ClaimedRequest, Outcome
from ca.pki.corroboration import ALONE, Corroboration
from ca.pki.identifier import Identifier
from ca.pki.policy import BR_VERSION, longest_reuse_s, rules_of
from ca.process.ambient import Ambient

_CAA_SECTION: Final = "3.2.2.8"
Corroborate: TypeAlias = Callable[[Kind, Question, Evidence], Awaitable[Corroboration]]
"""Asks the remote perspectives; raises ValidationFailure when too few of them confirm."""


def describe(evidence: Evidence, kind: Kind, question: Question) -> None:
    """Says at the head of the evidence what it is the record of."""
    rules = (rules_of(question.identifier.type, question.method) if kind == "challenge"
             else f"BR {BR_VERSION} {_CAA_SECTION}")
    evidence.set_about(
        rules=rules, adn=question.identifier.value if question.wildcard or question.subdomains else None)


class Checker:
    """Finds out what is true about a claimed request. It stores nothing and knows no queue."""

    def __init__(
        self,
        *,
        looker: Looker,
        ambient: Ambient,
        account_url: Callable[[bytes], str],
        reuse: timedelta,
        persist: bool = False,
        subdomains: bool = False,
        corroborate: Corroborate | None = None,
    ) -> None:
        self._looker = looker
        self._ambient = ambient
        self._account_url = account_url
        self._reuse = reuse
        self._persist = persist
        self._subdomains = subdomains
        self._corroborate = corroborate

    async def check(self, request: ClaimedRequest) -> Outcome:
        """The outcome of one request; every failure that is the subscriber's to know is in it, none is raised."""
        evidence = Evidence(self._ambient.now)
        question = self._question(request)
        describe(evidence, request.kind, question)
        try:
            if question.subdomains and not self._subdomains:
                raise ValidationFailure("malformed", "authorizations for subdomains are not offered")
            proof, corroboration = await self._confirm(request.kind, question, evidence, once=request.ahead)
        except ValidationFailure as failure:
            return self._failed(request, evidence, failure)
        now = self._ambient.now()
        return Outcome(request=request, at=now, valid_until=self._valid_until(request.challenge_type, proof, now),
                       caa_checked_at=now, problem=None, evidence=evidence.to_json(), corroboration=corroboration)

    def give_up(self, request: ClaimedRequest) -> Outcome:
        """The outcome of a request that broke our own code again and again: an end, although not an answer."""
        failure = ValidationFailure("serverInternal", "the validation could not be carried out")
        return self._failed(request, Evidence(self._ambient.now), failure)

    async def _confirm(
        self, kind: Kind, question: Question, evidence: Evidence, *, once: bool
    ) -> tuple[Proof, Corroboration]:
        """What it is worth, and what confirms it beside this perspective. Raises ValidationFailure."""
        if self._corroborate is None:
            return await self._looker.look(kind, question, evidence, once=once), ALONE
        for number, delay_s in enumerate(() if once else self._looker.retry_delays_s, start=1):
            proof = await self._looker.look(kind, question, evidence)
            try:
                return proof, await self._corroborate(kind, question, evidence)
            except ValidationFailure as failure:
                evidence.add("not_corroborated", failure.type, attempt=number, detail=failure.detail)
                if not failure.transient:
                    raise
            await asyncio.sleep(delay_s)
        proof = await self._looker.look(kind, question, evidence, once=once)
        return proof, await self._corroborate(kind, question, evidence)

    def _failed(self, request: ClaimedRequest, evidence: Evidence, failure: ValidationFailure) -> Outcome:
        return Outcome(request=request, at=self._ambient.now(), valid_until=None, caa_checked_at=None,
                       problem=Problem(failure.type, failure.detail).to_json(), evidence=evidence.to_json())

    def _valid_until(self, method: str, proof: Proof, now: datetime) -> datetime:
        """The end of reuse: the operator's, that of the Baseline Requirements, the method's own (row RU1)."""
        until = now + min(self._reuse, timedelta(seconds=longest_reuse_s(method, now)))
        return until if proof.until is None else min(until, proof.until)

    def _question(self, request: ClaimedRequest) -> Question:
        """For CAA, about the name that the certificate is for (BR 3.2.2.8); nothing else of it is about subdomains."""
        identifier = Identifier(type=request.identifier_type, value=request.identifier_value)
        wildcard, subdomains = request.wildcard, request.subdomains and request.kind == "challenge"
        if request.caa_name:
            named = Identifier(type="dns", value=request.caa_name)
            identifier, wildcard = Identifier(type="dns", value=named.base), named.is_wildcard
        return Question(
            identifier=identifier, wildcard=wildcard, subdomains=subdomains, method=request.challenge_type,
            token=request.token, thumbprint=request.thumbprint, account_url=self._account_url(request.account_id),
            persist=self._persist or request.persist_allowed, now=self._ambient.now())
