"""Lives of accounts, orders, authorizations and challenges on a real front end and store, against `life_model.py`.

The rules are in `life_rules.py`; after each rule every object shows what the model says, to its owner and to the
operator (`life_ground.py`). The same examples are run each time.
"""

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.status_edges import ACCOUNT_EDGES, AUTHORIZATION_EDGES, CHALLENGE_EDGES, ORDER_EDGES
from tests.acme_api.wfe.life_ground import Ground
from tests.acme_api.wfe.life_model import (
    AUTHORIZATION_LIFE_H,
    ORDER_LIFE_H,
    Account,
    Authorization,
    Challenge,
    Order,
)
from tests.acme_api.wfe.life_rules import Lives
from tests.acme_api.wfe.running import Clock, OtherProcesses, RunningWfe

_EXAMPLES, _STEPS = 8, 25
# The clock goes back at the start of each example, which no limit understands.
_NONE = RateSettings(burst=0, period_s=3_600)
_NO_LIMITS = LimitsSettings(accounts_per_address=_NONE, accounts_per_range=_NONE, orders_per_account=_NONE)
# Nobody sees a challenge jump over "processing" when every request is answered before the VA works.
_UNSEEN = {("pending", "valid"), ("pending", "invalid")}


async def test_lives_on_the_real_store(start: Callable[..., Awaitable[RunningWfe]], others: OtherProcesses,
                                       clock: Clock) -> None:
    """RFC 8555 7.1.6, rows AC7, AC15 to AC17, OR6, OR10, OR13, OR15, AZ2 to AZ5, CH4, FI2, RV1, J12: whatever happens
    in whatever order, every status goes along an edge of the diagrams, final ones stay, and every answer is
    foretold."""
    wfe = await start(limits=_NO_LIMITS, order_life_s=ORDER_LIFE_H * 3_600, finalize_wait_ms=0,
                      authorization_life_s=AUTHORIZATION_LIFE_H * 3_600)
    operator = await others.database.connect("ca_admin")
    try:
        here = type("LivesHere", (Lives,), {"ground": Ground(wfe, others, clock, operator)})
        await asyncio.to_thread(_along_every_edge, here())
        walked = {kind.__name__: kind.walked for kind in (Account, Order, Authorization, Challenge)}
        assert walked == {"Account": ACCOUNT_EDGES, "Order": ORDER_EDGES, "Authorization": AUTHORIZATION_EDGES,
                          "Challenge": CHALLENGE_EDGES - _UNSEEN}
        await asyncio.to_thread(
            run_state_machine_as_test, here,
            settings=settings(max_examples=_EXAMPLES, stateful_step_count=_STEPS, derandomize=True, database=None,
                              deadline=None, suppress_health_check=list(HealthCheck)))
    finally:
        await operator.close()


def _along_every_edge(life: Lives) -> None:
    """One life that goes along each edge, so that none depends on what the examples happen to be."""
    life.first_account()
    life.create_account()
    life.create_account()
    first, second, third = (4 * number + 1 for number in range(3))
    for step, *arguments in (
            # A certificate, revoked twice; then a refusal.
            (life.new_order, first, ("a",)), (life.prove_control, 1, True, 3), (life.finalize, 1), (life.finalize, 1),
            (life.ca_works, 1, "signs"), (life.ca_works, 1, "publishes"), (life.revoke, 1, True),
            (life.revoke, 1, True), (life.new_order, first, ("b",)), (life.prove_control, 1, True, 10),
            (life.finalize, 1), (life.ca_works, 1, "refuses"),
            # Ready at once, and given up: the second authorization of all.
            (life.new_order, first, ("b",)), (life.deactivate_authorization, second), (life.finalize, 1),
            # Given up while the VA works; failed; never answered.
            (life.new_order, second, ("a",)), (life.answer_challenge, 1, "dns-01"),
            (life.deactivate_authorization, third), (life.new_order, second, ("b",)),
            (life.prove_control, 1, False, 3),
            # Ready until the order runs out; its authorization lives on, and the next order is ready at once.
            (life.new_order, third, ("a",)), (life.prove_control, 1, True, 10), (life.new_order, second, ("a",)),
            (life.pass_time, 6), (life.new_order, third, ("a",)), (life.finalize, 1),
            # Valid still, but CAA was looked at too long ago; then one that is too near its end.
            (life.pass_time, 1), (life.new_order, third, ("a",)), (life.prove_control, 1, True, 3), (life.pass_time, 2),
            (life.new_order, third, ("a",)),
            # The second account, where something failed, and then another one are closed.
            (life.trespass, 1), (life.change_key, first, False), (life.change_key, first, True),
            (life.close_account, 1, True), (life.close_account, 1, False)):
        step(*arguments)
        life.everything_is_as_foretold()
    life.teardown()
