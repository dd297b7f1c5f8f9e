"""renewalInfo and orders that replace a certificate, at the server (rows AR1 to AR10, E66, E102)."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.wfe.running import BASE, Clock, OtherProcesses, RunningWfe, completed, id_of, issued, ready_order
from tests.acme_client import Answer, b64

_Start = Callable[..., Awaitable[RunningWfe]]
_PATH = "/acme/renewal-info/"


def _certificate_id(chain: Answer) -> str:
    leaf = x509.load_pem_x509_certificates(chain.body)[0]
    key_id = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key_id is not None, "row AR10"
    return f"{b64(key_id)}.{b64(leaf.serial_number.to_bytes(18, 'big'))}"


def _der(chain: Answer) -> bytes:
    return x509.load_pem_x509_certificates(chain.body)[0].public_bytes(Encoding.DER)


def _window(answer: Answer) -> tuple[datetime, datetime]:
    start, end = (answer.json["suggestedWindow"][name] for name in ("start", "end"))
    assert all(re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z", text) for text in (start, end))
    return datetime.fromisoformat(start), datetime.fromisoformat(end)


async def test_ar1_to_ar5_a_window(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows AR1 to AR5, D1, T2: GET and HEAD without a nonce and without an account, cached for less than Retry-After;
    the query is ignored; POST is 405."""
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    leaf = x509.load_pem_x509_certificates(chain.body)[0]
    directory = (await client.send("GET", "/directory")).json
    assert directory["renewalInfo"] == f"{BASE}/acme/renewal-info"
    url = f"{directory['renewalInfo']}/{_certificate_id(chain)}"
    stranger = wfe.client()
    answer = (await stranger.send("GET", url, headers={"Origin": "https://x.example"})).require(200)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    start, end = _window(answer)
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert leaf.not_valid_before_utc + life * 2 / 3 - timedelta(seconds=2) < start < end < leaf.not_valid_after_utc
    kept = re.fullmatch(r"public, max-age=([0-9]+)", answer.headers["Cache-Control"])
    assert kept is not None
    assert 0 < int(kept[1]) <= int(answer.headers["Retry-After"])
    assert (await stranger.send("GET", url + "?x=1")).require(200).body == answer.body
    head = await stranger.send("HEAD", url)
    assert (head.status, head.body) == (200, b"")
    refused = (await client.post(url)).require(405, "malformed")
    assert refused.headers["Allow"] == "GET, HEAD, OPTIONS"
    for method in ("PUT", "DELETE"):
        assert (await stranger.send(method, url)).status == 405
    preflight = await stranger.send("OPTIONS", url, headers={"Origin": "https://x.example"})
    assert preflight.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(("text", "status"), [
    ("a", 400), ("a.b.c", 400), ("a==.b", 400), ("%2e%2e%2f", 400), ("A" * 4_000, 400), ("AA.AA", 404),
    ("", 404), ("AA/AA", 404), ("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE", 404),
    ("aYhba4dGQEHhs3uEe6CuLN4ByNQ.h2VDIQ", 404)])
async def test_e102_what_is_no_certificate_of_ours(wfe: RunningWfe, text: str, status: int) -> None:
    """Rows AR5, E102: malformed for what is no name, 404 for what is not known."""
    (await wfe.client().send("GET", _PATH + text)).require(status, "malformed")


async def test_ar5_another_issuer(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row AR5: a serial number of ours under another key identifier, and one that is only intended, are 404."""
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    serial = _certificate_id(chain).partition(".")[2]
    (await client.send("GET", f"{_PATH}{b64(bytes(20))}.{serial}")).require(404, "malformed")
    owner = await others.database.connect()
    await owner.execute("DELETE FROM certificate_signatures")
    await owner.close()
    (await client.send("GET", _PATH + _certificate_id(chain))).require(404, "malformed")


async def test_ar6_what_has_to_be_replaced_now(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Row AR6: a request to revoke, a revocation, a blocked key and an open incident put the window into the past; the
    incident explains itself, and after its end all is as before."""
    client = await wfe.subscriber()
    asked, revoked, blocked, affected = [
        (await issued(client, others, f"{name}.example.com"))[1] for name in ("a", "b", "c", "d")]
    urls = [_PATH + _certificate_id(each) for each in (asked, revoked, blocked, affected)]
    before = [(await client.send("GET", url)).require(200).json for url in urls]
    serials = [x509.load_der_x509_certificate(_der(each)).serial_number.to_bytes(18, "big")
               for each in (asked, revoked, blocked, affected)]
    await others.run("ca_admin", (
        "INSERT INTO revocation_requests VALUES ($1, $2, 4, 'operator', '{}', now())", bytes(22), serials[0]))
    await others.run("ca_issuer", (
        "INSERT INTO revocations VALUES ($1, now(), 4, 1, 'operator', '{}')", serials[1]),
        ("INSERT INTO blocked_keys (spki_sha256, blocked_at, authority, evidence)"
         " SELECT spki_sha256, now(), 'operator', '{}' FROM certificates WHERE serial = $1", serials[2]))
    await others.run("ca_admin", (
        "INSERT INTO incidents (name, opened_at, operator, comment, explanation_url, query)"
        " VALUES ('i', now(), '', '', 'https://ca.example/i', '')",),
        ("INSERT INTO incident_serials VALUES ('i', $1)", serials[3]))
    for url in urls:
        answer = (await client.send("GET", url)).require(200)
        assert _window(answer)[1] < clock.now()
        assert answer.json.get("explanationURL") == ("https://ca.example/i" if url is urls[3] else None)
    await others.run("ca_admin", ("UPDATE incidents SET closed_at = now()",))
    assert (await client.send("GET", urls[3])).json == before[3]


async def test_ar7_ar8_replaced_when_the_order_is_valid(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows AR7, AR8, E66, CB4, SH5, Z3: `replaces` is shown at each look; a second order is accepted until the first is
    valid, whatever became of others before; then it is 409 alreadyReplaced, and an order without `replaces` works."""
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com", "b.example.com")
    wanted = _certificate_id(chain)
    failed = (await client.order("a.example.com", "x.example.com", replaces=wanted)).require(201)
    await others.validate(failed.json["authorizations"][1], problem={"type": "x", "detail": "y", "status": 400})
    assert (await client.post(failed.location)).json["status"] == "invalid"
    first = (await client.order("a.example.com", replaces=wanted)).require(201)
    second = (await client.order("b.example.com", "a.example.com", replaces=wanted)).require(201)
    for order in (first, second):
        assert order.json["replaces"] == wanted
        assert order.json["status"] == "ready"
        assert (await client.post(order.location)).json["replaces"] == wanted
    done = await completed(client, others, first, "a.example.com")
    assert (done.json["status"], done.json["replaces"]) == ("valid", wanted)
    refused = (await client.order("a.example.com", replaces=wanted)).require(409, "alreadyReplaced")
    assert "ARI 'replaces'" in refused.json["detail"]
    assert "Location" not in refused.headers
    # The other order was made in time: it keeps its right to a certificate.
    assert (await completed(client, others, second, "b.example.com", "a.example.com")).json["status"] == "valid"
    (await client.order("a.example.com", replaces=wanted)).require(409, "alreadyReplaced")
    (await client.order("a.example.com")).require(201)
    # What replaced it can be replaced in turn.
    renewed = (await client.post(done.json["certificate"])).require(200)
    (await client.order("a.example.com", replaces=_certificate_id(renewed))).require(201)


@pytest.mark.parametrize("replaces", [1, None, [], {}, "a", "a.b.c", "AA==.AA", ""])
async def test_e66_other_values(wfe: RunningWfe, others: OtherProcesses, replaces: Any) -> None:
    """Rows AR7, E66: malformed, and nothing is stored."""
    client = await wfe.subscriber()
    (await client.order("a.example.com", replaces=replaces)).require(400, "malformed")
    assert await others.count("orders") == 0


async def test_ar9_whose_certificate(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows AR9, E66: another account's is 403, one without a common name is malformed; what another CA issued is shown
    and means nothing, however often it is named."""
    client, stranger = await wfe.subscriber(), await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    wanted = _certificate_id(chain)
    refused = (await stranger.order("a.example.com", replaces=wanted)).require(403, "unauthorized")
    assert "ARI 'replaces'" in refused.json["detail"]
    refused = (await client.order("b.example.com", replaces=wanted)).require(400, "malformed")
    assert "ARI 'replaces'" in refused.json["detail"]
    for foreign in ("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE", "aYhba4dGQEHhs3uEe6CuLN4ByNQ.h2VDIQ",
                    f"{b64(bytes(20))}.{wanted.partition('.')[2]}"):
        for _ in range(2):
            order = (await client.order("a.example.com", replaces=foreign)).require(201)
            assert order.json["replaces"] == foreign
            await completed(client, others, await ready_order(client, others, "a.example.com"), "a.example.com")


async def test_ar9_only_own(start: _Start, others: OtherProcesses) -> None:
    """Row AR9, the strict mode: what this CA has not issued, or not under that issuer, is malformed; its own is not."""
    wfe = await start(only_own_replaced=True)
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    wanted = _certificate_id(chain)
    for foreign in ("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE", f"{b64(bytes(20))}.{wanted.partition('.')[2]}"):
        refused = (await client.order("a.example.com", replaces=foreign)).require(400, "malformed")
        assert "ARI 'replaces'" in refused.json["detail"]
    (await client.order("a.example.com", replaces=wanted)).require(201)


async def test_ar10_an_order_that_renews_in_time(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Row AR10: only an order inside the window of a certificate of ours is marked as a renewal, which limits skip."""
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    wanted = _certificate_id(chain)
    early = (await client.order("a.example.com", replaces=wanted)).require(201)
    foreign = (await client.order("a.example.com", replaces="aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")).require(201)
    serial = x509.load_der_x509_certificate(_der(chain)).serial_number.to_bytes(18, "big")
    await others.run("ca_admin", (
        "INSERT INTO revocation_requests VALUES ($1, $2, 4, 'operator', '{}', now())", bytes(22), serial))
    due = (await client.order("a.example.com", replaces=wanted)).require(201)
    assert [await others.value("SELECT renews FROM orders WHERE id = $1", id_of(order.location))
            for order in (early, foreign, due)] == [False, False, True]


async def test_ar10_a_renewal_passes_the_limits(start: _Start, others: OtherProcesses) -> None:
    """Row AR10: when orders and certificates are used up, an order that renews in its window passes newOrder and
    finalize, and one that only names a certificate that is not due does not."""
    one = RateSettings(burst=1, period_s=604_800)
    wfe = await start(limits=LimitsSettings(orders_per_account=one, certificates_per_name_set=one))
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    wanted = _certificate_id(chain)
    for members in ({}, {"replaces": wanted}, {"replaces": "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"}):
        (await client.order("a.example.com", **members)).require(429, "rateLimited")
    serial = x509.load_der_x509_certificate(_der(chain)).serial_number.to_bytes(18, "big")
    await others.run("ca_admin", (
        "INSERT INTO revocation_requests VALUES ($1, $2, 4, 'operator', '{}', now())", bytes(22), serial))
    order = (await client.order("a.example.com", replaces=wanted)).require(201)
    assert (await completed(client, others, order, "a.example.com")).json["status"] == "valid"


async def test_e102_too_many_requests(start: _Start) -> None:
    """Rows AR5, E102: an address that asks too often is told when to come back; the rest of the server goes on."""
    wfe = await start(limits=LimitsSettings(renewal_info_per_address=RateSettings(burst=5, period_s=3_600)))
    client = wfe.client()
    answers = [await client.send("GET", f"{_PATH}AA.AA") for _ in range(7)]
    assert [answer.status for answer in answers] == [404] * 5 + [429] * 2
    assert answers[-1].type == "rateLimited"
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert answers[-1].link("help") == [f"{BASE}/acme/limits"]
    (await client.register()).require(201)
