"""newAuthz at the server (rows D2, OR17, PA1)."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ca.process.limit_settings import LimitsSettings
from tests.acme_api.wfe.running import OtherProcesses, RunningWfe
from tests.acme_client import HmacKey, make_binding

_Start = Callable[..., Awaitable[RunningWfe]]
_PATH = "/acme/new-authz"


def _wanted(value: Any, kind: str = "dns", **members: Any) -> dict[str, Any]:
    return {"identifier": {"type": kind, "value": value}, **members}


async def test_d2_only_where_it_works(wfe: RunningWfe, start: _Start) -> None:
    """Row D2: off by default, neither listed nor there; listed where it works."""
    client = await wfe.subscriber()
    assert "newAuthz" not in (await client.send("GET", "/directory")).json
    (await client.post(_PATH, _wanted("a.example.com"))).require(404, "malformed")
    (await client.send("GET", _PATH)).require(404, "malformed")
    on = await start(pre_authorization=True)
    listed = (await on.client().send("GET", "/directory")).json["newAuthz"]
    assert listed.endswith(_PATH)
    assert (await on.client().send("GET", _PATH)).require(405, "malformed").headers["Allow"] == "POST, OPTIONS"


async def test_or17_authorized_before_the_order(start: _Start, others: OtherProcesses) -> None:
    """Rows OR15, OR17, PA1, X2: 201, Location, a pending authorization like any other; once it is valid, an order for
    the name is ready at once, and one for another account is not."""
    wfe = await start(pre_authorization=True)
    client, stranger = await wfe.subscriber(), await wfe.subscriber()
    made = (await client.post(_PATH, _wanted("A.example.com", extra="x"))).require(201)
    assert made.json["identifier"] == {"type": "dns", "value": "a.example.com"}
    assert made.json["status"] == "pending"
    assert "wildcard" not in made.json
    assert [each["type"] for each in made.json["challenges"]][:3] == ["http-01", "dns-01", "tls-alpn-01"]
    assert (await client.post(made.location)).require(200).json == made.json
    (await stranger.post(made.location)).require(403, "unauthorized")
    assert (await client.order("a.example.com")).require(201).json["authorizations"] != [made.location]
    challenge = made.json["challenges"][0]
    assert (await client.post(challenge["url"], {})).require(200).link("up") == [made.location]
    await others.validate(made.location)
    order = (await client.order("a.example.com", "b.example.com")).require(201)
    assert order.json["authorizations"][0] == made.location
    assert (await client.order("a.example.com")).require(201).json["status"] == "ready"
    assert (await stranger.order("a.example.com")).require(201).json["status"] == "pending"
    address = (await client.post(_PATH, _wanted("8.8.8.8", "ip"))).require(201)
    assert [each["type"] for each in address.json["challenges"]] == ["http-01", "tls-alpn-01"]
    assert (await client.post(address.location, {"status": "deactivated"})).require(200).json["status"] == "deactivated"


@pytest.mark.parametrize(("payload", "status", "kind"), [
    ({}, 400, "malformed"), ({"identifier": None}, 400, "malformed"), ({"identifier": []}, 400, "malformed"),
    ({"identifier": {"type": "dns"}}, 400, "malformed"), (_wanted(1), 400, "malformed"),
    (_wanted("*.a.example.com"), 400, "malformed"), (_wanted("a_b.example.com"), 400, "malformed"),
    (_wanted("x", "uri"), 400, "unsupportedIdentifier"), (_wanted("co.uk"), 403, "rejectedIdentifier"),
    (_wanted("10.0.0.1", "ip"), 403, "rejectedIdentifier"),
    (_wanted("blocked.example.com"), 403, "rejectedIdentifier")])
async def test_or17_refused(start: _Start, others: OtherProcesses, payload: Any, status: int, kind: str) -> None:
    """Row OR17: a wildcard is malformed, what the CA is unwilling to certify is rejected; nothing is stored."""
    wfe = await start(pre_authorization=True)
    await others.run("ca_admin", ("INSERT INTO blocked_names VALUES ('blocked.example.com', false, now(), '', '')",))
    client = await wfe.subscriber()
    (await client.post(_PATH, payload)).require(status, kind)
    (await client.post(_PATH)).require(400, "malformed")
    assert await others.count("authorizations") == 0


async def test_or17_limits_and_scope(start: _Start, others: OtherProcesses) -> None:
    """Rows NM9, E68, OR17: what newAuthz makes counts as pending, and the names of an external account hold for it."""
    wfe = await start(pre_authorization=True, external_account_required=True,
                      limits=LimitsSettings(pending_authorizations_per_account=2))
    key = HmacKey("HS256", bytes(64))
    await others.run("ca_admin", (
        "INSERT INTO eab_credentials (kid, mac_key, created_at, created_by, comment, single_use, allowed_names)"
        " VALUES ('k', $1, now(), '', '', true, '{example.com}')", key.secret))
    client = wfe.client()
    (await client.register(externalAccountBinding=make_binding(
        key, "k", client.url("/acme/new-account"), client.key.jwk))).require(201)
    (await client.post(_PATH, _wanted("example.org"))).require(403, "rejectedIdentifier")
    for name in ("a.example.com", "b.example.com"):
        (await client.post(_PATH, _wanted(name))).require(201)
    refused = (await client.post(_PATH, _wanted("c.example.com"))).require(429, "rateLimited")
    assert refused.json["detail"].startswith("pending-authorizations-per-account")
    assert await others.count("authorizations") == 2


async def test_su1_subdomain_authorizations_are_not_offered(start: _Start) -> None:
    """Row SU1: by default RFC 9444 is not offered, and its members are ignored: each name is authorized by itself,
    nothing says subdomainAuthAllowed, so that a client sees that an ancestor would not do."""
    wfe = await start(pre_authorization=True)
    client = await wfe.subscriber()
    assert "subdomainAuthAllowed" not in (await client.send("GET", "/directory")).json["meta"]
    made = (await client.post(_PATH, {"identifier": {
        "type": "dns", "value": "example.com", "subdomainAuthAllowed": True}})).require(201)
    assert made.json["identifier"] == {"type": "dns", "value": "example.com"}
    assert "subdomainAuthAllowed" not in made.json
    order = (await client.post("/acme/new-order", {"identifiers": [
        {"type": "dns", "value": "a.b.example.com", "ancestorDomain": "example.com"}]})).require(201)
    assert order.json["identifiers"] == [{"type": "dns", "value": "a.b.example.com"}]
    shown = (await client.post(order.json["authorizations"][0])).require(200)
    assert shown.json["identifier"]["value"] == "a.b.example.com"
