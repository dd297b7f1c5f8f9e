"""The statuses against the diagrams of RFC 8555 7.1.6: every combination of facts, and random lives of an order."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from acme_api.protocol.authorization import (
    Authorization,
    AuthorizationFacts,
    AuthorizationStatus,
    Challenge,
    ChallengeStatus,
    Response,
    Validation,
    authorization_object,
    authorization_status,
    challenge_status,
    decide_response,
    decide_update,
)
from acme_api.protocol.order import (
    Order,
    OrderFacts,
    OrderStatus,
    order_error,
    order_object,
    order_status,
    require_ready,
)
from acme_api.protocol.problem import Problem
from ca.pki.identifier import Identifier
from tests.acme_api.status_edges import AUTHORIZATION_EDGES, CHALLENGE_EDGES, ORDER_EDGES, closure

_BASE = "https://ca.example"
_START = datetime(2026, 11, 24, tzinfo=UTC)
_DAY = timedelta(days=1)
_PROBLEM = {"type": "urn:ietf:params:acme:error:connection", "detail": "no answer", "status": 400}
_SERIAL = bytes(range(18))


def _all_authorization_facts() -> Iterator[AuthorizationFacts]:
    validations = [None] + [
        Validation(challenge_type="http-01", validated_at=_START + ended * _DAY,
                   valid_until=None if problem else _START + 3 * _DAY, problem=problem)
        for ended, problem in product((0.5, 1.5), (None, _PROBLEM))]
    for validation, deactivated, closed in product(validations, (None, _START), (False, True)):
        yield AuthorizationFacts(expires_at=_START + _DAY, deactivated_at=deactivated, validation=validation,
                                 account_closed=closed)


def _expected_authorization(facts: AuthorizationFacts, now: datetime) -> str:
    """The table, written a second time from the prose."""
    if facts.deactivated_at or facts.account_closed:
        return "deactivated"
    in_time = facts.validation is not None and facts.validation.validated_at < facts.expires_at
    if not in_time:
        return "pending" if now < facts.expires_at else "expired"
    assert facts.validation is not None
    if facts.validation.problem:
        return "invalid"
    return "valid" if facts.validation.valid_until and now < facts.validation.valid_until else "expired"


def test_az2_every_combination_of_authorization_facts() -> None:
    """Row AZ2: each combination has the one status of the table, at each moment."""
    for facts, day in product(_all_authorization_facts(), (0, 0.999, 1, 2, 3, 4)):
        now = _START + day * _DAY
        assert authorization_status(facts, now).value == _expected_authorization(facts, now)


def test_or10_every_combination_of_order_facts() -> None:
    """Row OR10: refusal, then certificate, then finalize request, then expiry, then authorizations."""
    authorizations = list(_all_authorization_facts())[::3]
    for first, second, finalized, refusal, published, closed, day in product(
            authorizations, authorizations, (False, True), (None, _PROBLEM), (False, True), (False, True), (0, 2, 8)):
        now = _START + day * _DAY
        facts = OrderFacts(expires_at=_START + 7 * _DAY, authorizations=(first, second), finalized=finalized,
                           refusal=refusal, published=published, account_closed=closed)
        statuses = {_expected_authorization(first, now), _expected_authorization(second, now)}
        expected = ("invalid" if refusal else "valid" if published else "processing" if finalized
                    else "invalid" if closed or day == 8 or statuses - {"pending", "valid"}
                    else "ready" if statuses == {"valid"} else "pending")
        assert order_status(facts, now).value == expected


class OrderLife(RuleBasedStateMachine):
    """Facts arrive as the processes may assert them; after each, every status has moved along an edge or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.now = _START
        self.seen: dict[str, str] = {}

    @initialize(names=st.integers(1, 3))
    def new_order(self, names: int) -> None:
        """newOrder."""
        self.authorizations = [Authorization(
            id=bytes([number]) * 22, account_id=bytes(22), identifier_type="dns", identifier_value=f"a{number}.example",
            wildcard=False, challenges=(Challenge(type="http-01", token="t"), Challenge(type="dns-01", token="u")),
            facts=AuthorizationFacts(expires_at=_START + 5 * _DAY)) for number in range(names)]
        self.order = Order(
            id=bytes(22), account_id=bytes(22), profile="classic",
            identifiers=tuple(Identifier(type="dns", value=each.identifier_value) for each in self.authorizations),
            authorization_ids=tuple(each.id for each in self.authorizations),
            facts=OrderFacts(expires_at=_START + 7 * _DAY, authorizations=()))
        self._refresh()

    def _refresh(self) -> None:
        self.order = replace(self.order, facts=replace(
            self.order.facts, authorizations=tuple(each.facts for each in self.authorizations)))

    def _change(self, number: int, **changes: Any) -> None:
        self.authorizations[number] = replace(self.authorizations[number], **changes)
        self._refresh()

    def _facts(self, number: int, **changes: Any) -> None:
        self._change(number, facts=replace(self.authorizations[number].facts, **changes))

    @rule(number=st.integers(0, 2), kind=st.sampled_from(["http-01", "dns-01"]))
    def answer_challenge(self, number: int, kind: str) -> None:
        """The client posts to a challenge; the request is stored only when `decide_response` says so."""
        number %= len(self.authorizations)
        try:
            decision = decide_response(self.authorizations[number], kind, self.now)
        except Problem:
            return
        if decision is Response.START:
            self._change(number, responding=kind)

    @rule(number=st.integers(0, 2), works=st.booleans())
    def validate(self, number: int, works: bool) -> None:
        """The VA ends a request that is stored, even when it is late; the request goes in the same transaction."""
        number %= len(self.authorizations)
        authorization = self.authorizations[number]
        if authorization.responding is None or authorization.facts.deactivated_at is not None:
            return
        self._change(number, responding=None, facts=replace(authorization.facts, validation=Validation(
            challenge_type=authorization.responding, validated_at=self.now,
            valid_until=self.now + 30 * _DAY if works else None, problem=None if works else _PROBLEM)))

    @rule(number=st.integers(0, 2))
    def deactivate(self, number: int) -> None:
        """The client deactivates an authorization, when `decide_update` lets it."""
        number %= len(self.authorizations)
        try:
            if decide_update(self.authorizations[number], {"status": "deactivated"}, self.now):
                self._facts(number, deactivated_at=self.now)
        except Problem:
            return

    @rule()
    def finalize(self) -> None:
        """The client finalizes, when `require_ready` lets it."""
        try:
            require_ready(self.order, self.now)
        except Problem as problem:
            assert problem.type == "orderNotReady"  # noqa: PT017 - whether it is raised depends on the life so far
            return
        self.order = replace(self.order, facts=replace(self.order.facts, finalized=True))

    @precondition(lambda self: self.order.facts.finalized and not self.order.facts.published)
    @rule()
    def refuse(self) -> None:
        """The CA says no."""
        self.order = replace(self.order, facts=replace(self.order.facts, refusal=_PROBLEM))

    @precondition(lambda self: self.order.facts.finalized and self.order.facts.refusal is None)
    @rule()
    def publish(self) -> None:
        """The CA has signed, and the pre-signer has published."""
        self.order = replace(self.order, serial=_SERIAL, facts=replace(self.order.facts, published=True))

    @rule(hours=st.integers(1, 200))
    def wait(self, hours: int) -> None:
        """Time passes."""
        self.now += timedelta(hours=hours)

    @invariant()
    def statuses_move_along_edges(self) -> None:
        """Rows OR10, AZ2: no other edge, and final states stick."""
        current = {"order": order_status(self.order.facts, self.now).value}
        for number, authorization in enumerate(self.authorizations):
            current[f"authorization {number}"] = authorization_status(authorization.facts, self.now).value
            for challenge in authorization.challenges:
                current[f"challenge {number} {challenge.type}"] = challenge_status(
                    authorization, challenge.type, self.now).value
        for name, status in current.items():
            edges = {"o": ORDER_EDGES, "a": AUTHORIZATION_EDGES, "c": CHALLENGE_EDGES}[name[0]]
            before = self.seen.get(name, "pending")
            assert (before, status) in closure(edges), f"{name}: {before} -> {status}"
        self.seen = current

    @invariant()
    def objects_are_consistent(self) -> None:
        """Rows OR13, AZ3, AZ4, CH1, CH7: error, certificate and challenges go with the status."""
        document = order_object(_BASE, self.order, self.now)
        assert ("error" in document) == (document["status"] == "invalid")
        assert ("certificate" in document) == (document["status"] == "valid")
        assert len(document["authorizations"]) == len(document["identifiers"])
        for authorization in self.authorizations:
            try:
                shown = authorization_object(_BASE, authorization, self.now)
            except Problem as problem:
                assert problem.status == 404  # noqa: PT017 - only an expired one is not shown
                continue
            challenges = {challenge["status"] for challenge in shown["challenges"]}
            assert ("invalid" in challenges) <= (shown["status"] in ("invalid", "deactivated"))
            assert ("valid" in challenges) <= (shown["status"] in ("valid", "deactivated"))
            if shown["status"] in ("valid", "invalid"):
                assert challenges == {shown["status"]}
            for challenge in shown["challenges"]:
                assert list(challenge)[:4] == ["type", "url", "status", "token"]
                assert ("error" in challenge) == (challenge["status"] == "invalid")
                assert ("validated" in challenge) == (challenge["status"] == "valid")
                assert "error" not in list(challenge)[:-1]


OrderLife.TestCase.settings = settings(max_examples=120, stateful_step_count=25)
test_an_orders_life: Any = OrderLife.TestCase


def _pending(**changes: Any) -> Authorization:
    return replace(Authorization(
        id=bytes(22), account_id=bytes(22), identifier_type="dns", identifier_value="a.example", wildcard=True,
        challenges=(Challenge(type="dns-01", token="u"), Challenge(type="http-01", token="t")),
        facts=AuthorizationFacts(expires_at=_START + _DAY)), **changes)


def test_az1_or9_the_object_of_a_wildcard() -> None:
    """Rows AZ1, OR9, OR12: base name, wildcard true, expires without fraction."""
    shown = authorization_object(_BASE, _pending(), _START)
    assert shown["identifier"] == {"type": "dns", "value": "a.example"}
    assert shown["wildcard"] is True
    assert shown["expires"] == "2026-11-25T00:00:00Z"
    assert "wildcard" not in authorization_object(_BASE, _pending(wildcard=False), _START)


def test_ch4_answers_to_challenges() -> None:
    """Rows CH4, E81: what a second answer leads to in each state."""
    assert decide_response(_pending(), "dns-01", _START) is Response.START
    assert decide_response(_pending(responding="dns-01"), "dns-01", _START) is Response.UNCHANGED
    with pytest.raises(Problem) as other:
        decide_response(_pending(responding="dns-01"), "http-01", _START)
    assert (other.value.type, other.value.status) == ("malformed", 400)
    done = Validation(challenge_type="dns-01", validated_at=_START, valid_until=_START + _DAY, problem=None)
    failed = replace(done, valid_until=None, problem=_PROBLEM)
    valid = _pending(facts=AuthorizationFacts(expires_at=_START + _DAY, validation=done))
    assert decide_response(valid, "http-01", _START) is Response.UNCHANGED
    for facts, status in ((AuthorizationFacts(expires_at=_START + _DAY, validation=failed), 400),
                          (AuthorizationFacts(expires_at=_START + _DAY, deactivated_at=_START), 400),
                          (AuthorizationFacts(expires_at=_START), 404)):
        with pytest.raises(Problem) as caught:
            decide_response(_pending(facts=facts), "dns-01", _START)
        assert (caught.value.type, caught.value.status) == ("malformed", status)


@pytest.mark.parametrize("payload", [{}, {"status": "valid"}, {"status": "pending"}, {"status": "expired"},
                                     {"status": 5}])
def test_az5_other_updates_are_malformed(payload: dict[str, Any]) -> None:
    """Rows AZ5, E79."""
    with pytest.raises(Problem) as caught:
        decide_update(_pending(), payload, _START)
    assert caught.value.type == "malformed"


def test_az5_deactivation() -> None:
    """Row AZ5: pending and valid are deactivated, a repetition changes nothing, final states stay."""
    wanted = {"status": "deactivated"}
    assert decide_update(_pending(), wanted, _START)
    gone = AuthorizationFacts(expires_at=_START, deactivated_at=_START)
    assert not decide_update(_pending(facts=gone), wanted, _START)
    failed = Validation(challenge_type="dns-01", validated_at=_START, valid_until=None, problem=_PROBLEM)
    with pytest.raises(Problem):
        decide_update(_pending(facts=AuthorizationFacts(expires_at=_START + _DAY, validation=failed)), wanted, _START)


def test_challenges_of_a_status_each() -> None:
    """Row AZ3: the other challenges of a decided authorization are not shown, and processing is one challenge's."""
    responding = _pending(responding="dns-01")
    assert challenge_status(responding, "dns-01", _START) is ChallengeStatus.PROCESSING
    assert challenge_status(responding, "http-01", _START) is ChallengeStatus.PENDING
    assert authorization_status(responding.facts, _START) is AuthorizationStatus.PENDING


def _order(*facts: AuthorizationFacts, **changes: Any) -> Order:
    return Order(id=bytes(22), account_id=bytes(22), profile="classic",
                 identifiers=tuple(Identifier(type="dns", value=f"a{n}.example") for n in range(len(facts))),
                 authorization_ids=tuple(bytes([n]) * 22 for n in range(len(facts))),
                 facts=OrderFacts(expires_at=_START + _DAY, authorizations=facts, **changes))


def test_or13_or16_errors_of_invalid_orders() -> None:
    """Rows OR13, OR16, FI9: the CA's words, the failed validation's type, "expired" for one that ran out."""
    good = AuthorizationFacts(expires_at=_START + 9 * _DAY)
    failed = replace(good, validation=Validation(challenge_type="http-01", validated_at=_START, valid_until=None,
                                                 problem=_PROBLEM))
    deactivated = replace(good, deactivated_at=_START)
    assert order_error(_order(good), _START) is None
    assert order_error(_order(good, refusal={"type": "x"}, finalized=True), _START) == {"type": "x"}
    expired = order_error(_order(good), _START + _DAY)
    assert expired is not None
    assert expired["type"].endswith(":malformed")
    assert "expired" in expired["detail"]
    one = order_error(_order(good, failed), _START)
    assert one is not None
    assert (one["type"], one["subproblems"][0]["identifier"]["value"]) == (_PROBLEM["type"], "a1.example")
    both = order_error(_order(failed, deactivated), _START)
    assert both is not None
    assert both["type"].endswith(":compound")
    assert order_status(_order(good, refusal={"type": "x"}).facts, _START) is OrderStatus.INVALID
