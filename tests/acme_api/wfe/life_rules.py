"""Lives of accounts, orders, authorizations and challenges: what clients, the VA, the CA, the pre-signer, operators and
time do, in any order. The model says before each request how it is answered."""

import asyncio
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from ca.admin import account_store
from tests.acme_api.wfe.life_ground import Watched
from tests.acme_api.wfe.life_model import (
    AUTHORIZATION_LIFE_H,
    ORDER_LIFE_H,
    Account,
    Authorization,
    Challenge,
    Order,
)
from tests.acme_api.wfe.running import BASE, id_of
from tests.acme_client import URN, Answer, SigningKey, b64, flatten, make_csr

_PICK = st.integers(0, 59)
_LONGEST_H = 12
_MOST_ACCOUNTS, _MOST_ORDERS = 3, 5
_PROBLEM = {"type": f"{URN}connection", "detail": "no answer", "status": 400}
_REFUSAL = {"type": f"{URN}caa", "detail": "CAA forbids it", "status": 403}


class Lives(Watched):
    """The rules. Whatever a rule picks, it picks by number from what there is."""

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
