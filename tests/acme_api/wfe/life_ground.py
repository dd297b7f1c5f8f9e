"""What stands under lives on a real front end and store: the server, what there is, and what holds after every rule."""

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import asyncpg
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis.stateful import RuleBasedStateMachine, invariant

from ca.admin import account_store, order_store
from ca.admin.order_view import order_view
from tests.acme_api.wfe.life_model import Account, Authorization, Order
from tests.acme_api.wfe.running import Clock, OtherProcesses, RunningWfe, id_of
from tests.acme_client import Answer

T = TypeVar("T")
_EXAMPLE = itertools.count(1)


class Ground:
    """The server with what the rules need of it. `wait` is called by the machine's thread."""

    def __init__(self, wfe: RunningWfe, others: OtherProcesses, clock: Clock,
                 operator: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.wfe, self.others, self.clock, self.operator = wfe, others, clock, operator
        self.loop = asyncio.get_running_loop()
        self.certified_key = ec.generate_private_key(ec.SECP256R1())

    def wait(self, doing: Coroutine[Any, Any, T]) -> T:
        """The result of what has to be done in the server's loop."""
        return asyncio.run_coroutine_threadsafe(doing, self.loop).result(300)


class Watched(RuleBasedStateMachine):
    """What there is, and what holds after every rule; the rules themselves are in `life_rules.py`."""

    ground: ClassVar[Ground]

    def __init__(self) -> None:
        super().__init__()
        self.ground.clock.shift = timedelta(0)
        self.now_h = 0
        self.example = next(_EXAMPLE)
        self.accounts: list[Account] = []

    # --- what there is --------------------------------------------------------------------------------------------

    @property
    def open_accounts(self) -> list[Account]:
        """Those that may do something."""
        return [each for each in self.accounts if each.is_open]

    @property
    def orders(self) -> list[tuple[Account, Order]]:
        """With their owners, closed ones too."""
        return [(account, order) for account in self.accounts for order in account.orders]

    @property
    def authorizations(self) -> list[tuple[Account, Authorization]]:
        """With their owners, if they are open."""
        return [(account, each) for account in self.open_accounts for each in account.authorizations]

    def owned(self, *statuses: str) -> list[tuple[Account, Order]]:
        """Orders of open accounts, of all or of these statuses."""
        return [(account, order) for account, order in self.orders
                if account.is_open and (not statuses or order.status in statuses)]

    @staticmethod
    def pick(number: int, wanted: Sequence[T], others: Sequence[T] = ()) -> T:
        """One of `wanted` in three of four cases, where there is one and the other, else one of `others`."""
        chosen = wanted if wanted and (number % 4 or not others) else others
        return chosen[number // 4 % len(chosen)]

    async def asked(self, account: Account, url: str, payload: Any, status: int, kind: str = "malformed") -> Answer:
        """A request with the answer that is foretold."""
        return (await account.client.post(url, payload)).require(status, kind if status >= 400 else None)

    # --- what holds -----------------------------------------------------------------------------------------------

    @invariant()
    def everything_is_as_foretold(self) -> None:
        """Rows AC7, AC10, OR6, OR10, OR13, AZ2 to AZ4, CH1: owner and operator see what the model says."""
        self.ground.wait(self._look())

    async def _look(self) -> None:
        for account in self.accounts:
            if account.is_open:
                await self._look_as(account)
            else:
                (await account.client.post(account.url)).require(401, "unauthorized")
                (await account.client.post("/acme/new-account", {}, jwk=account.client.key.jwk)).require(
                    401, "unauthorized")
                for order in account.orders:
                    (await account.client.post(order.url)).require(401, "unauthorized")
                    await self._look_as_operator(account, order)

    async def _look_as(self, account: Account) -> None:
        shown = (await account.client.post(account.url)).require(200).json
        assert shown["status"] == "valid"
        listed = (await account.client.post(shown["orders"])).require(200).json["orders"]
        assert listed == [each.url for each in reversed(account.orders) if each.status != "invalid"]
        for order in account.orders:
            document = (await account.client.post(order.url)).require(200).json
            assert document["status"] == order.status, f"{order.url}: {document}"
            assert [each["value"] for each in document["identifiers"]] == list(order.names), "row OR6"
            assert document["authorizations"] == [each.url for each in order.authorizations], "row OR6"
            assert ("certificate" in document) == (order.status == "valid")
            assert ("error" in document) == (order.status == "invalid")
            await self._look_as_operator(account, order)
        for authorization in account.authorizations:
            answer = await account.client.post(authorization.url)
            if authorization.status == "expired":
                answer.require(404, "malformed")
                continue
            document = answer.require(200).json
            assert document["status"] == authorization.status, f"{authorization.url}: {document}"
            assert {each["url"]: each["status"] for each in document["challenges"]} == {
                each.url: each.status for each in authorization.shown}

    async def _look_as_operator(self, account: Account, order: Order) -> None:
        connection = self.ground.operator
        found = await order_store.order(connection, id_of(order.url))
        owner = await account_store.account(connection, id_of(account.url))
        assert found is not None
        assert owner is not None
        seen = order_view(found, owner, tuple(await order_store.authorizations(connection, found.authorization_ids)),
                          self.ground.clock.now())
        assert seen.status == order.status
        assert list(seen.authorization_statuses) == [each.status for each in order.authorizations]
