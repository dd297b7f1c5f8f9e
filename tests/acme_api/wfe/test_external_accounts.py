"""External account binding at the server (rows AC11 to AC14, NM9, E42 to E44)."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.acme_api.wfe.running import BASE, OtherProcesses, RunningWfe, id_of
from tests.acme_client import JOSE_JSON, AcmeClient, Answer, HmacKey, SigningKey, b64, make_binding

_Start = Callable[..., Awaitable[RunningWfe]]
_URL = f"{BASE}/acme/new-account"


async def _credential(others: OtherProcesses, kid: str, *, single_use: bool = False,
                      expires_in: timedelta | None = None, names: tuple[str, ...] = ()) -> HmacKey:
    """As an operator makes one."""
    secret = os.urandom(64)
    await others.run(
        "ca_admin", ("INSERT INTO eab_credentials (kid, mac_key, created_at, created_by, comment, single_use,"
                     " expires_at, allowed_names) VALUES ($1, $2, now(), 'test', '', $3, $4, $5)", kid, secret,
                     single_use, None if expires_in is None else others.clock.now() + expires_in, list(names)))
    return HmacKey("HS256", secret)


async def _register(client: AcmeClient, binding: Any, **members: Any) -> Answer:
    return await client.register(externalAccountBinding=binding, **members)


def _binding(client: AcmeClient, key: HmacKey, kid: str, **changes: Any) -> dict[str, Any]:
    return make_binding(key, kid, _URL, client.key.jwk, **changes)


async def test_ac11_to_ac13_required(start: _Start, others: OtherProcesses) -> None:
    """Rows AC2, AC3, AC11, AC13, D3: said in the directory; without one no account is made; with one it is in the
    account object at each look, unchanged; a key that has an account needs none."""
    wfe = await start(external_account_required=True)
    key = await _credential(others, "kid-1")
    client = wfe.client()
    assert (await client.send("GET", "/directory")).json["meta"]["externalAccountRequired"] is True
    (await client.register()).require(403, "externalAccountRequired")
    (await client.post("/acme/new-account", {"onlyReturnExisting": True}, jwk=client.key.jwk)).require(
        400, "accountDoesNotExist")
    assert await others.count("accounts") == 0
    binding = _binding(client, key, "kid-1")
    created = (await _register(client, binding, contact=["mailto:a@x.example"])).require(201)
    assert created.json["externalAccountBinding"] == binding
    for answer in (await client.post(client.kid), await client.post(client.kid, {"contact": []}),
                   await client.register(), await client.register(externalAccountBinding="x"),
                   await client.post(client.kid, {"externalAccountBinding": {}})):
        assert answer.require(200).json["externalAccountBinding"] == binding
    (await client.order("a.example.com")).require(201)
    # An account from before the operator asked for bindings goes on.
    open_wfe = await start()
    old = await open_wfe.subscriber()
    assert (await open_wfe.client().send("GET", "/directory")).json["meta"]["externalAccountRequired"] is False
    moved = wfe.client(old.key)
    assert "externalAccountBinding" not in (await moved.register()).require(200).json
    (await moved.order("a.example.com")).require(201)


async def test_ac13_not_in_use(wfe: RunningWfe) -> None:
    """Row AC13: where no binding is asked for, one is not looked at and not reflected, whatever it is."""
    for binding in ("x", {"protected": "e30"}, _binding(wfe.client(), HmacKey("HS256", bytes(64)), "nobody")):
        created = (await _register(wfe.client(), binding)).require(201)
        assert "externalAccountBinding" not in created.json


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_ac12_algorithms_and_key_change(start: _Start, others: OtherProcesses, algorithm: str) -> None:
    """Row AC12: each HMAC algorithm; a multi-use credential makes one account after the other."""
    wfe = await start(external_account_required=True)
    secret = (await _credential(others, "kid-1")).secret
    for _ in range(3):
        client = wfe.client()
        (await _register(client, _binding(client, HmacKey(algorithm, secret), "kid-1"))).require(201)
    assert await others.value("SELECT count(*) FROM accounts WHERE eab_kid = 'kid-1' AND NOT eab_single_use") == 3


async def test_e42_e43_refused_bindings(start: _Start, others: OtherProcesses) -> None:
    """Rows AC12, E42, E43: other forms are malformed; unknown, revoked, expired and used credentials and wrong MACs get
    one answer; nothing is stored, and no secret is logged."""
    wfe = await start(external_account_required=True)
    key = await _credential(others, "kid-1")
    revoked = await _credential(others, "revoked")
    await others.run("ca_admin", ("UPDATE eab_credentials SET revoked_at = now() WHERE kid = 'revoked'",))
    expired = await _credential(others, "expired", expires_in=timedelta(seconds=-1))
    used = await _credential(others, "used", single_use=True)
    first = wfe.client()
    (await _register(first, _binding(first, used, "used"))).require(201)
    client = wfe.client()
    good = _binding(client, key, "kid-1")
    with capture_logs() as logs:
        malformed: list[Any] = [
            "x", [], {}, {**good, "header": {}}, _binding(client, key, "kid-1", protected={"alg": "none"}),
            _binding(client, key, "kid-1", protected={"nonce": "AAAA"}),
            make_binding(key, "kid-1", f"{BASE}/acme/new-order", client.key.jwk),
            make_binding(key, "kid-1", _URL, SigningKey.make().jwk)]
        for binding in malformed:
            (await _register(client, binding)).require(400, "malformed")
        details = set()
        for binding in (_binding(client, key, "nobody"), _binding(client, key, "' OR 1=1--"),
                        _binding(client, key, "x" * 5_000), _binding(client, key, "\0"),
                        _binding(client, revoked, "revoked"), _binding(client, expired, "expired"),
                        _binding(client, used, "used"), {**good, "signature": ""}, {**good, "signature": "AA"},
                        _binding(client, revoked, "kid-1")):
            details.add((await _register(client, binding)).require(403, "unauthorized").json["detail"])
    assert len(details) == 1
    assert await others.count("accounts") == 1
    for secret in (key.secret, used.secret):
        assert not any(text in str(logs) for text in (b64(secret), secret.hex(), repr(secret)))
    (await _register(client, good)).require(201)


async def test_e44_one_account_of_a_single_use_credential(start: _Start, others: OtherProcesses) -> None:
    """Rows AC14, E44: two keys at two servers in parallel: one 201, the other 403; the winner may ask again; what was
    captured from it does not fit another key."""
    one, two = await start(external_account_required=True), await start(external_account_required=True)
    key = await _credential(others, "kid-1", single_use=True)
    clients = [server.client() for server in (one, two, one, two)]
    bodies = [await client.signed("/acme/new-account", {
        "termsOfServiceAgreed": True, "externalAccountBinding": _binding(client, key, "kid-1")}) for client in clients]
    answers = await asyncio.gather(*[client.send("POST", "/acme/new-account", data=body, headers=JOSE_JSON)
                                     for client, body in zip(clients, bodies, strict=True)])
    assert sorted(answer.status for answer in answers) == [201, 403, 403, 403]
    winner = next(client for client, answer in zip(clients, answers, strict=True) if answer.status == 201)
    binding = _binding(winner, key, "kid-1")
    (await _register(winner, binding)).require(200)
    await others.run("ca_admin", ("UPDATE eab_credentials SET revoked_at = now()",))
    (await _register(winner, binding)).require(200)
    (await _register(one.client(), binding)).require(403, "unauthorized")
    fresh = await _credential(others, "kid-2")
    (await _register(one.client(), _binding(winner, fresh, "kid-2"))).require(400, "malformed")


async def test_e44_the_same_key_in_parallel(start: _Start, others: OtherProcesses) -> None:
    """Rows AC9, AC14: one key twenty times with its single-use credential: one 201, 19 200, one account."""
    one, two = await start(external_account_required=True), await start(external_account_required=True)
    key = await _credential(others, "kid-1", single_use=True)
    client = one.client()
    payload = {"termsOfServiceAgreed": True, "externalAccountBinding": _binding(client, key, "kid-1")}
    bodies = [await client.signed("/acme/new-account", payload) for _ in range(20)]
    at_two = two.client()
    answers = await asyncio.gather(*[(client if number % 2 else at_two).send(
        "POST", "/acme/new-account", data=body, headers=JOSE_JSON) for number, body in enumerate(bodies)])
    assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
    assert len({answer.location for answer in answers}) == 1
    assert await others.count("accounts") == 1


async def test_nm9_names_of_an_external_account(start: _Start, others: OtherProcesses) -> None:
    """Row NM9: an account orders what its credential lists, and each other name is a rejectedIdentifier subproblem."""
    wfe = await start(external_account_required=True)
    key = await _credential(others, "kid-1", names=("example.com", "8.8.8.0/24"))
    client = wfe.client()
    (await _register(client, _binding(client, key, "kid-1"))).require(201)
    (await client.order("a.example.com", "*.b.example.com", "example.com")).require(201)
    (await client.post("/acme/new-order", {"identifiers": [{"type": "ip", "value": "8.8.8.8"}]})).require(201)
    answer = (await client.order("a.example.com", "example.org", "notexample.com")).require(403, "rejectedIdentifier")
    assert [each["identifier"]["value"] for each in answer.json["subproblems"]] == ["example.org", "notexample.com"]
    assert await others.value("SELECT eab_kid FROM accounts WHERE id = $1", id_of(client.kid)) == "kid-1"
