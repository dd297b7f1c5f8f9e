"""Lives of accounts, orders, authorizations and challenges on a real front end and store, against `life_model.py`.

Rules are what clients, the VA, the CA, the pre-signer, operators and time do, in any order. The model says before each
request how it is answered, and after each rule what every object shows, to its owner and to the operator. It runs the
same examples each time.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ca.admin import account_store, order_store
from ca.admin.order_view import order_view
from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.status_edges import ACCOUNT_EDGES, AUTHORIZATION_EDGES, CHALLENGE_EDGES, ORDER_EDGES
from tests.acme_api.wfe.life_model import (
    AUTHORIZATION_LIFE_H,
    ORDER_LIFE_H,
    Account,
    Authorization,
    Challenge,
    Order,
)
from tests.acme_api.wfe.running import BASE, Clock, OtherProcesses, RunningWfe, id_of
from tests.acme_client import URN, Answer, SigningKey, b64, flatten, make_csr

T = TypeVar("T")
_PICK = st.integers(0, 59)
_LONGEST_H = 12
_MOST_ACCOUNTS, _MOST_ORDERS = 3, 5
_EXAMPLES, _STEPS = 8, 25
_PROBLEM = {"type": f"{URN}connection", "detail": "no answer", "status": 400}
_REFUSAL = {"type": f"{URN}caa", "detail": "CAA forbids it", "status": 403}
# The clock goes back at the start of each example, which no limit understands.
_NONE = RateSettings(burst=0, period_s=3_600)
_NO_LIMITS = LimitsSettings(accounts_per_address=_NONE, accounts_per_range=_NONE, orders_per_account=_NONE)
_EXAMPLE = itertools.count(1)
# Nobody sees a challenge jump over "processing" when every request is answered before the VA works.
_UNSEEN = {("pending", "valid"), ("pending", "invalid")}


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


class Lives(RuleBasedStateMachine):
    """The rules. Whatever a rule picks, it picks by number from what there is."""

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

    # --- the subscribers ------------------------------------------------------------------------------------------

    @initialize()
    def first_account(self) -> None:
        """One account from the start."""
        self.create_account()

    @precondition(lambda self: len(self.accounts) < _MOST_ACCOUNTS)
    @rule()
    def create_account(self) -> None:
        """newAccount, with a key that no account has."""
        client = self.ground.wfe.client()
        answer = self.ground.wait(client.register()).require(201)
        assert answer.json["status"] == "valid"
        self.accounts.append(Account(url=client.kid, status="valid", client=client))

    @precondition(lambda self: len(self.orders) < _MOST_ORDERS)
    @rule(number=_PICK, names=st.sampled_from([("a",), ("a", "b"), ("b",), ("b", "c")]))
    def new_order(self, number: int, names: tuple[str, ...]) -> None:
        """newOrder: valid authorizations are used again, and an order of such alone is ready at once."""
        account = self.pick(number, self.open_accounts)
        full = tuple(f"{name}.n{self.example}-{self.accounts.index(account)}.example.com" for name in names)
        reused = [account.reusable(name, self.now_h) for name in full]

        async def order() -> tuple[Answer, list[Answer]]:
            answer = (await account.client.order(*full)).require(201)
            return answer, [await account.client.post(url) for url in answer.json["authorizations"]]

        answer, shown = self.ground.wait(order())
        authorizations: list[Authorization] = []
        for name, known, url, one in zip(full, reused, answer.json["authorizations"], shown, strict=True):
            if known is None:
                document = one.require(200).json
                assert all(each.url != url for each in account.authorizations), "row OR15: a pending one is not shared"
                known = Authorization(
                    url=url, name=name, expires_h=self.now_h + AUTHORIZATION_LIFE_H, challenges={
                        each["type"]: Challenge(url=each["url"], type=each["type"])
                        for each in document["challenges"]})
                account.authorizations.append(known)
            assert known.url == url, "row OR15"
            authorizations.append(known)
        made = Order(url=answer.location, names=full, authorizations=authorizations,
                     finalize_url=answer.json["finalize"], expires_h=self.now_h + ORDER_LIFE_H)
        for authorization in authorizations:
            authorization.orders.append(made)
        made.follow()
        account.orders.append(made)
        assert answer.json["status"] == made.status

    @precondition(lambda self: self.authorizations)
    @rule(number=_PICK, kind=st.sampled_from(["http-01", "dns-01", "tls-alpn-01"]))
    def answer_challenge(self, number: int, kind: str) -> None:
        """The client says that a challenge is ready, whatever has become of the authorization."""
        pending = [each for each in self.authorizations if each[1].status == "pending"]
        account, authorization = self.pick(number, pending, self.authorizations)
        challenge = authorization.challenges[kind]
        answer = self.ground.wait(self.asked(account, challenge.url, {}, authorization.answer_to(challenge)))
        if answer.status == 200:
            assert answer.json["status"] == challenge.status

    @precondition(lambda self: self.authorizations)
    @rule(number=_PICK)
    def deactivate_authorization(self, number: int) -> None:
        """The client gives an authorization up."""
        account, authorization = self.pick(number, self.authorizations)
        answer = self.ground.wait(self.asked(
            account, authorization.url, {"status": "deactivated"}, authorization.deactivation()))
        if answer.status == 200:
            assert answer.json["status"] == "deactivated"

    @precondition(lambda self: self.owned())
    @rule(number=_PICK)
    def finalize(self, number: int) -> None:
        """The client finalizes, ready or not."""
        account, order = self.pick(number, self.owned("ready"), self.owned())
        csr = make_csr(*order.names, key=self.ground.certified_key)
        is_ready = order.status == "ready"
        answer = self.ground.wait(self.asked(
            account, order.finalize_url, {"csr": b64(csr)}, 200 if is_ready else 403, "orderNotReady"))
        if is_ready:
            order.move("processing")
            assert answer.json["status"] == "processing"

    @precondition(lambda self: self.owned("valid"))
    @rule(number=_PICK, by_owner=st.booleans())
    def revoke(self, number: int, by_owner: bool) -> None:
        """revokeCert by the subscriber or by somebody else: the order stays valid, its certificate can be read."""
        account, order = self.pick(number, self.owned("valid"))
        self.ground.wait(self._revoke(account, order, account if by_owner else self.pick(number, self.open_accounts)))

    async def _revoke(self, account: Account, order: Order, signer: Account) -> None:
        url = (await account.client.post(order.url)).require(200).json["certificate"]
        certificate = x509.load_pem_x509_certificates((await account.client.post(url)).require(200).body)[0]
        payload = {"certificate": b64(certificate.public_bytes(Encoding.DER)), "reason": 4}
        if signer is not account:
            await self.asked(signer, "/acme/revoke-cert", payload, 403, "unauthorized")
        elif order.revoked:
            await self.asked(signer, "/acme/revoke-cert", payload, 400, "alreadyRevoked")
        else:
            asking = asyncio.create_task(self.asked(signer, "/acme/revoke-cert", payload, 200))
            await self.ground.others.until("SELECT EXISTS (SELECT FROM revocation_requests)")
            await self.ground.others.revoke_all()
            await asking
            order.revoked = True
        (await account.client.post(url)).require(200)

    @rule(number=_PICK, is_taken=st.booleans())
    def change_key(self, number: int, is_taken: bool) -> None:
        """keyChange, to a new key or to that of any account: the old key is nobody's from then on."""
        account = self.pick(number, self.open_accounts)
        other = self.pick(number // 3, self.accounts)
        self.ground.wait(self._change_key(account, other if is_taken else None))

    async def _change_key(self, account: Account, other: Account | None) -> None:
        client, url = account.client, f"{BASE}/acme/key-change"
        old, new = client.key, SigningKey.make() if other is None else other.client.key
        inner = flatten(new, {"alg": new.alg, "jwk": new.jwk, "url": url}, {"account": client.kid, "oldKey": old.jwk})
        answer = await self.asked(account, url, inner, 200 if other is None else 409)
        assert answer.location == (account if other is None else other).url
        if other is None:
            (await client.post(client.kid)).require(400, "malformed")
            stranger = self.ground.wfe.client(old)
            (await stranger.post("/acme/new-account", {"onlyReturnExisting": True}, jwk=old.jwk)).require(
                400, "accountDoesNotExist")
            client.key = new

    @precondition(lambda self: len(self.open_accounts) > 1)
    @rule(number=_PICK, by_subscriber=st.booleans())
    def close_account(self, number: int, by_subscriber: bool) -> None:
        """The subscriber deactivates its account, or an operator revokes it; soonest one where something failed."""
        failed = [account for account, each in self.authorizations if each.status == "invalid"]
        self._close(self.pick(number, failed, self.open_accounts), by_subscriber=by_subscriber)

    def _close(self, account: Account, *, by_subscriber: bool) -> None:
        if by_subscriber:
            answer = self.ground.wait(self.asked(account, account.url, {"status": "deactivated"}, 200))
            assert answer.json["status"] == "deactivated"
        else:
            self.ground.wait(account_store.revoke_account(
                self.ground.operator, id_of(account.url), self.ground.clock.now()))
        account.close("deactivated" if by_subscriber else "revoked")

    @precondition(lambda self: len(self.open_accounts) > 1 and self.owned())
    @rule(number=_PICK)
    def trespass(self, number: int) -> None:
        """Row J12: to another account, each object is forbidden, to read and to change."""
        account, order = self.pick(number, self.owned())
        other = next(each for each in self.open_accounts if each is not account)
        authorization = order.authorizations[0]
        for url, payload in ((account.url, None), (order.url, None), (authorization.url, None),
                             (authorization.url, {"status": "deactivated"}),
                             (authorization.challenges["http-01"].url, {}), (order.finalize_url, {"csr": "AA"})):
            self.ground.wait(self.asked(other, url, payload, 403, "unauthorized"))

    # --- the others -----------------------------------------------------------------------------------------------

    @precondition(lambda self: any(each.responding for _, each in self.authorizations))
    @rule(number=_PICK, works=st.booleans(), life_h=st.sampled_from([3, 10]))
    def va_judges(self, number: int, works: bool, life_h: int) -> None:
        """The VA has seen what was to be seen."""
        self._judge(self.pick(number, [each for _, each in self.authorizations if each.responding]), works, life_h)

    def _judge(self, authorization: Authorization, works: bool, life_h: int) -> None:
        challenge = authorization.responding
        assert challenge is not None
        self.ground.wait(self.ground.others.validate(
            authorization.url, method=challenge.type, problem=None if works else _PROBLEM,
            life=timedelta(hours=life_h)))
        authorization.judge(works=works, now_h=self.now_h, life_h=life_h)

    @precondition(lambda self: self.owned("pending"))
    @rule(number=_PICK, works=st.sampled_from([True, True, False]), life_h=st.sampled_from([3, 10]))
    def prove_control(self, number: int, works: bool, life_h: int) -> None:
        """A client that knows what it does: every challenge that is open is answered, and the VA looks at once."""
        account, order = self.pick(number, self.owned("pending"))
        for authorization in order.authorizations:
            if authorization.status == "pending":
                challenge = authorization.responding or authorization.challenges["http-01"]
                self.ground.wait(self.asked(account, challenge.url, {}, authorization.answer_to(challenge)))
                self._judge(authorization, works, life_h)
        assert order.status == ("ready" if works else "invalid")

    @precondition(lambda self: any(order.status == "processing" for _, order in self.orders))
    @rule(number=_PICK, outcome=st.sampled_from(["signs", "publishes", "refuses"]))
    def ca_works(self, number: int, outcome: str) -> None:
        """The CA signs, and the pre-signer publishes at once or later: until then the order stays as it is. Or it
        refuses for good."""
        account, order = self.pick(number, [each for each in self.orders if each[1].status == "processing"])
        self.ground.wait(self._work(account, order, outcome))

    async def _work(self, account: Account, order: Order, outcome: str) -> None:
        order_id, others = id_of(order.url), self.ground.others
        if order.signed:
            await others.publish(order_id)
            order.move("valid")
        elif outcome == "refuses":
            await others.refuse(order_id, _REFUSAL)
            order.move("invalid")
        else:
            await others.issue(order_id, order.names, self.ground.certified_key.public_key(),
                               account_id=id_of(account.url), publish=outcome == "publishes")
            order.signed = True
            if outcome == "publishes":
                order.move("valid")

    @rule(hours=st.sampled_from([1, 2, 3, 6, 12]))
    def pass_time(self, hours: int) -> None:
        """Time passes; nonces of a day ago are no good any more."""
        self.ground.clock.shift += timedelta(hours=hours)
        self.now_h += hours
        for account in self.accounts:
            account.client.nonces.clear()
            account.pass_time(self.now_h)

    def teardown(self) -> None:
        """The end of every life: what is ready is finalized, the CA empties its queue, all that is left runs out or is
        closed."""
        for _ in self.owned("ready"):
            self.finalize(1)
        for number, (account, order) in enumerate(self.orders, self.example):
            while order.status == "processing":
                self.ground.wait(self._work(account, order, ("publishes", "refuses")[number % 2]))
        self.everything_is_as_foretold()
        if self.example % 2:
            self.pass_time(_LONGEST_H)
            self.everything_is_as_foretold()
        for account in self.open_accounts:
            self._close(account, by_subscriber=self.example % 4 < 2)
        self.everything_is_as_foretold()

    # --- what holds -----------------------------------------------------------------------------------------------

    @invariant()
    def everything_is_as_foretold(self) -> None:
        """Rows AC7, AC10, OR10, OR13, AZ2 to AZ4, CH1: owner and operator see what the model says."""
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


async def test_lives_on_the_real_store(start: Callable[..., Awaitable[RunningWfe]], others: OtherProcesses,
                                       clock: Clock) -> None:
    """RFC 8555 7.1.6, rows AC7, AC15 to AC17, OR10, OR13, OR15, AZ2 to AZ5, CH4, FI2, RV1, J12: whatever happens in
    whatever order, every status goes along an edge of the diagrams, final ones stay, and every answer is foretold."""
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
