"""The ground on which hostile inputs are tried: a real front end and database, and what holds after every row.

After each row of the list E the tester has seen (a) the documented answer, without more than two seconds of processor
time, (b) no 5xx, HTML, stack trace or secret, in body or log, (c) exactly one Replay-Nonce on a POST, which works,
(d) nothing stored but nonces, (e) less than 20 MB of memory grown, (f) another client being served.
"""

import gc
import json
import re
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acme_api.wfe.running import OtherProcesses, RunningWfe, issued
from tests.acme_client import JOSE_JSON, AcmeClient, Answer

_MEMORY_BYTES = 20_000_000
_ANSWER_S = 2.0
# What an attacker must never be shown: our inside, and markup that a browser would run.
_INSIDE = re.compile(
    rb"Traceback|File \"|asyncpg|acme_api/|SELECT .{1,200} FROM |<html|<script|BEGIN [A-Z ]*PRIVATE KEY", re.I)
_TABLES = ("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
           " AND NOT relispartition AND relname <> 'spent_nonces' ORDER BY 1")


def resident_bytes() -> int:
    """The memory of this process, in which the front end runs."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


@dataclass
class WatchedClient(AcmeClient):
    """A client whose every answer is looked at, and whose nonces of POST answers are kept to be tried."""

    given: list[str] = field(default_factory=list)

    async def send(self, method: str, path: str, *, data: bytes | None = None,
                   headers: Mapping[str, str] | None = None) -> Answer:
        """One request; (a), (b) and (c) for its answer."""
        began_s = time.process_time()
        answer = await super().send(method, path, data=data, headers=headers)
        assert time.process_time() - began_s < _ANSWER_S, "row E (a)"
        require_clean(answer)
        if method == "POST":
            self.given += answer.nonces
        return answer


def require_clean(answer: Answer) -> None:
    """(b): no fault of the server, and nothing of its inside."""
    assert answer.status < 500, answer.body[:500]
    assert not _INSIDE.search(answer.body), answer.body[:500]
    if answer.body and answer.headers["Content-Type"] in ("application/json", "application/problem+json"):
        json.loads(answer.body)


@dataclass
class Ground:
    """One server with an attacker, who has an account, and a bystander, who only wants certificates."""

    wfe: RunningWfe
    others: OtherProcesses
    attacker: WatchedClient
    bystander: WatchedClient
    capsys: pytest.CaptureFixture[str]
    domain: str = "bystander.example"
    orders: int = 0
    log: str = ""

    @classmethod
    async def make(cls, wfe: RunningWfe, others: OtherProcesses, capsys: pytest.CaptureFixture[str],
                   domain: str = "bystander.example") -> "Ground":
        """Both with accounts."""
        return cls(wfe, others, await watched(wfe), await watched(wfe), capsys, domain)

    async def counts(self) -> dict[str, int]:
        """Rows of every table but that of spent nonces."""
        connection = await self.others.database.connect()
        try:
            names = [row[0] for row in await connection.fetch(_TABLES)]
            union = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in names)
            return {row[0]: row[1] for row in await connection.fetch(union)}
        finally:
            await connection.close()

    @asynccontextmanager
    async def row(self, name: str, *, stores: Collection[str] = ()) -> AsyncIterator[None]:
        """One row: what is inside is tried, then everything that holds after a row is looked at.

        `stores` are the tables that the row's good requests fill.
        """
        before, memory = await self.counts(), resident_bytes()
        try:
            yield
        except AssertionError as fault:
            raise AssertionError(f"row {name}: {fault}") from fault
        after = await self.counts()
        changed = {table for table in after if after[table] != before[table]}
        assert changed <= set(stores), f"row {name} (d): {changed}"
        grown = resident_bytes() - memory
        assert grown < _MEMORY_BYTES, f"row {name} (e): {grown} bytes"
        given, self.attacker.given = self.attacker.given[-1:], []
        for nonce in given:
            (await self.bystander.post(self.bystander.kid, nonce=nonce)).require(200)
        if given and given[0] in self.attacker.nonces:
            self.attacker.nonces.remove(given[0])
        self.orders += 1
        (await self.bystander.order(f"n{self.orders}.{self.domain}")).require(201)
        self.log += "".join(self.capsys.readouterr())
        assert "Traceback" not in self.log, f"row {name} (b): {self.log[-3000:]}"
        assert "[error" not in self.log, f"row {name} (b): {self.log[-3000:]}"

    async def refused(self, path: str, payload: Any, kind: str = "malformed", status: int = 400,
                      **changes: Any) -> Answer:
        """The attacker posts a signed payload, which is refused so."""
        try:
            return (await self.attacker.post(path, payload, **changes)).require(status, kind)
        except AssertionError as fault:
            raise AssertionError(f"{str(payload)[:200]} {str(changes)[:200]}: {fault}") from fault

    async def raw(self, path: str, body: bytes | dict[str, Any], kind: str = "malformed", status: int = 400) -> Answer:
        """The attacker posts these bytes, which are refused so."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            return (await self.attacker.send("POST", path, data=data, headers=JOSE_JSON)).require(status, kind)
        except AssertionError as fault:
            raise AssertionError(f"{data[:300]!r}: {fault}") from fault

    async def end(self) -> None:
        """(f) in full: the bystander gets a certificate."""
        done, _ = await issued(self.bystander, self.others, f"last.{self.domain}")
        assert done.json["status"] == "valid"


async def watched(wfe: RunningWfe, **members: Any) -> WatchedClient:
    """A subscriber with an account, every answer watched."""
    plain = wfe.client(**members)
    client = WatchedClient(http=plain.http, public_base=plain.public_base, base=plain.base, key=plain.key)
    (await client.register()).require(201)
    return client
