"""SU1 at the server: authorizations for domains above the ordered names (RFC 9444)."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.wfe.running import OtherProcesses, RunningWfe, finalize, id_of, issued
from tests.acme_client import AcmeClient, Answer, HmacKey, b64, make_binding, make_csr

_Start = Callable[..., Awaitable[RunningWfe]]
_DNS = ["dns-01", "dns-account-01"]


@pytest.fixture
async def on(start: _Start) -> RunningWfe:
    """A server with the setting, and with newAuthz."""
    return await start(pre_authorization=True, va_subdomains=True)


def _identifier(value: str, ancestor: Any = None) -> dict[str, Any]:
    return {"type": "dns", "value": value} | ({} if ancestor is None else {"ancestorDomain": ancestor})


async def _order(client: AcmeClient, *identifiers: Any) -> Answer:
    return await client.post("/acme/new-order", {"identifiers": [
        _identifier(each) if isinstance(each, str) else _identifier(*each) for each in identifiers]})


async def _authorize(client: AcmeClient, others: OtherProcesses, name: str = "example.com") -> Answer:
    """A valid authorization for a domain and all below it, made in advance."""
    made = (await client.post("/acme/new-authz", {
        "identifier": {"type": "dns", "value": name, "subdomainAuthAllowed": True}})).require(201)
    await others.validate(made.location, method="dns-01")
    return made


async def test_su1_one_authorization_for_the_names_below(on: RunningWfe, others: OtherProcesses) -> None:
    """Rows SU1, OR8: the directory says it; the authorization is for the ancestor, once for all names that have it and
    for the ancestor itself, by the DNS alone; other names keep their own; the names are shown as ordered."""
    client = await on.subscriber()
    assert (await client.send("GET", "/directory")).json["meta"]["subdomainAuthAllowed"] is True
    order = (await _order(client, "example.com", ("a.b.example.com", "Example.com"), ("*.c.example.com", "example.com"),
                          "d.example.com", ("x.b.example.com", "b.example.com"))).require(201)
    assert [each["value"] for each in order.json["identifiers"]] == [
        "example.com", "a.b.example.com", "*.c.example.com", "d.example.com", "x.b.example.com"]
    assert all(set(each) == {"type", "value"} for each in order.json["identifiers"])
    shown = [(await client.post(url)).require(200).json for url in order.json["authorizations"]]
    assert [(each["identifier"]["value"], each.get("subdomainAuthAllowed"), "wildcard" in each) for each in shown] == [
        ("example.com", True, False), ("d.example.com", None, False), ("b.example.com", True, False)]
    assert [[each["type"] for each in one["challenges"]] for one in shown] == [
        _DNS, ["http-01", "dns-01", "tls-alpn-01", "dns-account-01"], _DNS]
    for url in order.json["authorizations"]:
        await others.validate(url, method="dns-01")
    assert (await client.post(order.location)).json["status"] == "ready"


@pytest.mark.parametrize(("value", "ancestor", "kind"), [
    ("a.example.com", "example.org", "malformed"), ("a.example.com", "a.example.com", "malformed"),
    ("a.example.com", "b.a.example.com", "malformed"), ("a.example.com", "ample.com", "malformed"),
    ("a.example.com", "*.example.com", "malformed"), ("a.example.com", "", "malformed"),
    ("a.example.com", "example.com.", "malformed"), ("a.example.com", 1, "malformed"),
    ("a.example.com", {}, "malformed"), ("a.example.com", "com", "rejectedIdentifier"),
    ("a.example.co.uk", "co.uk", "rejectedIdentifier"), ("a.b.github.io", "github.io", "rejectedIdentifier")])
async def test_su1_what_is_no_ancestor(
    on: RunningWfe, others: OtherProcesses, value: str, ancestor: Any, kind: str
) -> None:
    """Row SU1: not a shorter suffix of whole labels is malformed, a public suffix of either section rejected; the
    answer names the identifier; nothing is stored."""
    client = await on.subscriber()
    refused = (await _order(client, "fine.example.com", (value, ancestor))).require(
        400 if kind == "malformed" else 403, kind)
    if isinstance(ancestor, str):
        assert [each["identifier"]["value"] for each in refused.json["subproblems"]] == [value]
    address = {"identifiers": [{"type": "ip", "value": "8.8.8.8", "ancestorDomain": "example.com"}]}
    (await client.post("/acme/new-order", address)).require(400, "malformed")
    assert await others.count("authorizations") == await others.count("orders") == 0


async def test_su1_authorized_in_advance(on: RunningWfe, others: OtherProcesses) -> None:
    """Rows SU1, OR15, RU2: newAuthz with subdomainAuthAllowed; when it is valid, the account's orders for names and
    wildcards below are ready at once, with or without ancestorDomain; other accounts' are not, nor those for names that
    are not below; an ordinary authorization, or one that ended, stands for nothing below it."""
    client, stranger = await on.subscriber(), await on.subscriber()
    plain = (await client.post("/acme/new-authz", {"identifier": _identifier("example.com")})).require(201)
    await others.validate(plain.location, method="dns-01")
    assert (await _order(client, ("a.example.com", "example.com"))).json["status"] == "pending"
    made = await _authorize(client, others)
    assert made.json["subdomainAuthAllowed"] is True
    assert [each["type"] for each in made.json["challenges"]] == _DNS
    for wanted in (["a.b.example.com"], ["*.c.example.com", "*.example.com"], [("x.example.com", "example.com")],
                   [("y.b.example.com", "b.example.com")]):
        order = (await _order(client, *wanted)).require(201)
        assert (order.json["status"], order.json["authorizations"]) == ("ready", [made.location])
    assert (await _order(stranger, "a.b.example.com")).json["status"] == "pending"
    mixed = (await _order(client, "a.example.com", "a.example.org")).require(201)
    assert mixed.json["authorizations"][0] == made.location
    assert mixed.json["status"] == "pending"
    (await client.post(made.location, {"status": "deactivated"})).require(200)
    assert (await _order(client, "a.b.example.com")).json["status"] == "pending"


async def test_su1_a_closer_authorization_is_preferred(on: RunningWfe, others: OtherProcesses) -> None:
    """Rows SU1, OR15: a valid authorization for the name itself is used first; one of less than seven hours alone."""
    client = await on.subscriber()
    above = await _authorize(client, others)
    exact = (await client.post("/acme/new-authz", {"identifier": _identifier("a.example.com")})).require(201)
    await others.validate(exact.location, caa_age=timedelta(hours=6))
    assert (await _order(client, "a.example.com")).json["authorizations"] == [exact.location]
    assert (await _order(client, "b.example.com")).json["authorizations"] == [above.location]
    others.clock.shift = timedelta(hours=7, minutes=1)
    assert (await _order(client, "b.example.com")).json["status"] == "pending"


@pytest.mark.parametrize(("wanted", "status"), [
    ({"subdomainAuthAllowed": "yes"}, 400), ({"subdomainAuthAllowed": None}, 400),
    ({"subdomainAuthAllowed": False}, 201),
    ({"value": "github.io", "subdomainAuthAllowed": True}, 201),
    ({"type": "ip", "value": "8.8.8.8", "subdomainAuthAllowed": True}, 201)], ids=str)
async def test_su1_ordinary_where_it_cannot_be_had(on: RunningWfe, wanted: dict[str, Any], status: int) -> None:
    """Row SU1: for an address or a public suffix newAuthz makes an ordinary authorization (RFC 9444 4.2)."""
    client = await on.subscriber()
    made = await client.post("/acme/new-authz", {"identifier": _identifier("example.com") | wanted})
    made.require(status, "malformed" if status == 400 else None)
    assert "subdomainAuthAllowed" not in made.json


async def test_su1_finalize_asks_for_caa_of_the_names(on: RunningWfe, others: OtherProcesses) -> None:
    """Rows SU1, CA9: one request for each real name, none for what was looked at since the order was made; the same
    order is finalized once, whatever its number of identifiers for one authorization."""
    client = await on.subscriber()
    made = await _authorize(client, others)
    names = ("a.b.example.com", "*.c.example.com", "d.example.com")
    order = (await _order(client, *names)).require(201)
    await others.run("acme_va", (
        "INSERT INTO caa_checks (authorization_id, caa_name, checked_at, evidence)"
        " VALUES ($1, 'd.example.com', $2, '{}')",
        id_of(made.location), others.clock.now() + timedelta(seconds=1)))
    others.clock.shift = timedelta(seconds=2)
    assert (await finalize(client, order, make_csr(*names))).require(200).json["status"] == "processing"
    asked = await others.value("SELECT jsonb_agg(jsonb_build_array(kind, challenge_type, caa_name) ORDER BY caa_name)"
                               " FROM validation_requests")
    assert asked == [["caa", "dns-01", "*.c.example.com"], ["caa", "dns-01", "a.b.example.com"]]
    again = (await _order(client, "a.b.example.com")).require(201)
    assert (await finalize(client, again, make_csr("a.b.example.com"))).require(200).json["status"] == "processing"
    assert await others.count("validation_requests") == 2


async def _revoke(client: AcmeClient, certificate: bytes) -> Answer:
    return await client.post("/acme/revoke-cert", {"certificate": b64(certificate)})


async def test_su1_rv2_it_gives_the_right_to_revoke(
    on: RunningWfe, wfe: RunningWfe, others: OtherProcesses
) -> None:
    """Rows SU1, RV2: who controls the domain above may revoke what is below, where such authorizations are offered; one
    that is ordinary, or for a name beside, gives no such right."""
    owner, holder = await on.subscriber(), await on.subscriber()
    certificates: Sequence[bytes] = [
        _leaf((await issued(owner, others, *names))[1]) for names in (
            ("a.example.com", "*.b.example.com"), ("a.example.com", "a.example.org"))]
    plain = (await holder.post("/acme/new-authz", {"identifier": _identifier("example.com")})).require(201)
    await others.validate(plain.location, method="dns-01")
    (await _revoke(holder, certificates[0])).require(403, "unauthorized")
    await _authorize(holder, others)
    (await _revoke(holder, certificates[1])).require(403, "unauthorized")
    off = wfe.client(holder.key)
    (await off.register()).require(200)
    (await _revoke(off, certificates[0])).require(403, "unauthorized")
    (await _revoke(holder, certificates[0])).require(200)


def _leaf(chain: Answer) -> bytes:
    return x509.load_pem_x509_certificates(chain.body)[0].public_bytes(Encoding.DER)


async def test_su1_scope_and_failures_count_for_the_ancestor(start: _Start, others: OtherProcesses) -> None:
    """Rows SU1, NM9: the ancestor has to be among the names of an external account; failures are the ancestor's, which
    is what was validated."""
    wfe = await start(va_subdomains=True, external_account_required=True,
                      limits=LimitsSettings(failed_validations_per_name=RateSettings(burst=1, period_s=3600)))
    key = HmacKey("HS256", bytes(64))
    await others.run("ca_admin", (
        "INSERT INTO eab_credentials (kid, mac_key, created_at, created_by, comment, single_use, allowed_names)"
        " VALUES ('k', $1, now(), '', '', true, '{b.example.com}')", key.secret))
    client = wfe.client()
    (await client.register(externalAccountBinding=make_binding(
        key, "k", client.url("/acme/new-account"), client.key.jwk))).require(201)
    (await _order(client, ("a.b.example.com", "example.com"))).require(403, "rejectedIdentifier")
    order = (await _order(client, ("a.b.example.com", "b.example.com"))).require(201)
    await others.validate(order.json["authorizations"][0], method="dns-01", problem={
        "type": "urn:ietf:params:acme:error:dns", "detail": "no"})
    (await _order(client, ("c.b.example.com", "b.example.com"))).require(429, "rateLimited")
    (await _order(client, "c.b.example.com")).require(201)
