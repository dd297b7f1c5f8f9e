"""A second opinion on what becomes of accounts, orders, authorizations and challenges: statuses that events move.

The server stores facts with moments and derives statuses from them when it is asked. Here a status is stored, each
event moves it along one edge of the diagrams of RFC 8555 7.1.6 and carries on to what depends on it, and time is a
count of hours. Nothing is imported from what it is compared with.
"""

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

from tests.acme_api.status_edges import ACCOUNT_EDGES, AUTHORIZATION_EDGES, CHALLENGE_EDGES, ORDER_EDGES
from tests.acme_client import AcmeClient

# Shorter than that of an authorization, so that orders run out by themselves, too.
ORDER_LIFE_H = 5
AUTHORIZATION_LIFE_H = 6
REUSE_CAA_H = 7
REUSE_LEFT_H = 1
_JUDGEMENTS = itertools.count(1)


@dataclass(eq=False, kw_only=True)
class Walker:
    """Something with a status. `walked` are the edges that any of its kind has gone."""

    edges: ClassVar[set[tuple[str, str]]]
    walked: ClassVar[set[tuple[str, str]]]
    url: str
    status: str = "pending"

    def move(self, status: str) -> None:
        """Goes one edge of the diagram."""
        edge = (self.status, status)
        assert edge in self.edges, f"{self.url}: {edge}"
        self.walked.add(edge)
        self.status = status


@dataclass(eq=False, kw_only=True)
class Challenge(Walker):
    """One way to prove control of a name."""

    edges = CHALLENGE_EDGES
    walked: ClassVar[set[tuple[str, str]]] = set()
    type: str


@dataclass(eq=False, kw_only=True)
class Authorization(Walker):
    """Of one name. `decided` is the challenge that the VA has judged in time; that was at `judged_h`, the `judgement`th
    time that it judged anything."""

    edges = AUTHORIZATION_EDGES
    walked: ClassVar[set[tuple[str, str]]] = set()
    name: str
    challenges: dict[str, Challenge]
    expires_h: int
    orders: list["Order"] = field(default_factory=list)
    judged_h: int = 0
    judgement: int = 0
    decided: Challenge | None = None

    @property
    def responding(self) -> Challenge | None:
        """The challenge that the client has answered and the VA has not judged."""
        return next((each for each in self.challenges.values() if each.status == "processing"), None)

    @property
    def shown(self) -> list[Challenge]:
        """Of one that is decided, only what decided it (row AZ3)."""
        if self.decided is not None and self.status in ("valid", "invalid"):
            return [self.decided]
        return list(self.challenges.values())

    def answer_to(self, challenge: Challenge) -> int:
        """The HTTP status when the client says that a challenge is ready; a start moves it."""
        if self.status == "expired":
            return 404
        if self.status in ("invalid", "deactivated"):
            return 400
        if self.status == "pending":
            responding = self.responding
            if responding is None:
                challenge.move("processing")
            elif responding is not challenge:
                return 400
        return 200

    def judge(self, *, works: bool, now_h: int, life_h: int) -> None:
        """The VA's word about the challenge that is processing."""
        challenge = self.responding
        assert challenge is not None
        challenge.move("valid" if works else "invalid")
        self.decided, self.judged_h, self.judgement = challenge, now_h, next(_JUDGEMENTS)
        if works:
            self.expires_h = now_h + life_h
        self.end("valid" if works else "invalid")

    def deactivation(self) -> int:
        """The HTTP status when the client deactivates it, which moves it where that is possible."""
        if self.status == "expired":
            return 404
        if self.status == "invalid":
            return 400
        if self.status != "deactivated":
            self.end("deactivated")
        return 200

    def end(self, status: str) -> None:
        """Becomes what it is from now on, and its orders follow."""
        responding = self.responding
        if responding is not None:
            responding.move("pending")
        self.move(status)
        for order in self.orders:
            order.follow()


@dataclass(eq=False, kw_only=True)
class Order(Walker):
    """An order. `signed`: the CA has, but nothing is published yet; `revoked` by the subscriber."""

    edges = ORDER_EDGES
    walked: ClassVar[set[tuple[str, str]]] = set()
    names: tuple[str, ...]
    authorizations: list[Authorization]
    finalize_url: str
    expires_h: int
    signed: bool = False
    revoked: bool = False

    def follow(self) -> None:
        """What the authorizations have become."""
        statuses = {each.status for each in self.authorizations}
        if self.status in ("pending", "ready") and not statuses <= {"pending", "valid"}:
            self.move("invalid")
        elif self.status == "pending" and statuses == {"valid"}:
            self.move("ready")


@dataclass(eq=False, kw_only=True)
class Account(Walker):
    """A subscriber."""

    edges = ACCOUNT_EDGES
    walked: ClassVar[set[tuple[str, str]]] = set()
    client: AcmeClient
    orders: list[Order] = field(default_factory=list)
    authorizations: list[Authorization] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether it may do anything."""
        return self.status == "valid"

    def reusable(self, name: str, now_h: int) -> Authorization | None:
        """The authorization that a new order takes (row OR15): valid for a while, CAA looked at not long ago."""
        found = [each for each in self.authorizations
                 if each.name == name and each.status == "valid" and each.expires_h - now_h > REUSE_LEFT_H
                 and now_h - each.judged_h < REUSE_CAA_H]
        return max(found, key=lambda each: each.judgement, default=None)

    def close(self, status: str) -> None:
        """The subscriber deactivates it, or an operator revokes it: what is not finalized ends, for ever."""
        self.move(status)
        for authorization in self.authorizations:
            if authorization.status != "deactivated":
                authorization.end("deactivated")

    def pass_time(self, now_h: int) -> None:
        """What runs out by now."""
        if not self.is_open:
            return
        for authorization in self.authorizations:
            if authorization.status in ("pending", "valid") and now_h >= authorization.expires_h:
                authorization.end("expired")
        for order in self.orders:
            if order.status in ("pending", "ready") and now_h >= order.expires_h:
                order.move("invalid")
