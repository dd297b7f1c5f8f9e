"""What real clients read beyond the RFC, asked for as they ask (rows C: CB, SH, L, Z, K, M, W, U, DH, PO).

A journey is every answer of one certificate, from newAccount to the download; a test looks at it as the family does.
The programs themselves run in tests/acceptance where they can be installed.
"""

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.wfe.running import Clock, OtherProcesses, RunningWfe, completed, finalize, id_of, ready_order
from tests.acme_client import JOSE_JSON, AcmeClient, Answer, SigningKey, b64, make_csr, unb64

_Start = Callable[..., Awaitable[RunningWfe]]
# acme 5.9 raises "Status not recognized" for every other word (row CB3).
_CERTBOT_STATUSES = {"pending", "processing", "valid", "invalid", "revoked", "ready", "deactivated"}
_TIMES = ("expires", "validated", "notBefore", "notAfter")
_PROBLEM = {"type": "urn:ietf:params:acme:error:connection", "detail": "no answer", "status": 400}


@dataclass
class Recorder(AcmeClient):
    """A client that keeps every answer to a POST, with the URL that was called."""

    answers: list[tuple[str, Answer]] = field(default_factory=list)

    async def send(self, method: str, path: str, *, data: bytes | None = None,
                   headers: Mapping[str, str] | None = None) -> Answer:
        """As the client does."""
        answer = await super().send(method, path, data=data, headers=headers)
        if method == "POST":
            self.answers.append((self.url(path), answer))
        return answer

    def objects(self) -> list[tuple[str, Any]]:
        """The JSON objects of all answers but problems."""
        return [(url, answer.json) for url, answer in self.answers
                if answer.headers.get("Content-Type") == "application/json"]


@dataclass(frozen=True, kw_only=True)
class Journey:
    """The steps that tests look at one by one."""

    client: Recorder
    order: Answer
    authorizations: list[Answer]
    challenges: list[Answer]
    decided: list[Answer]
    done: Answer
    chain: Answer


async def _recorder(wfe: RunningWfe, alg: str = "ES256") -> Recorder:
    plain = wfe.client(SigningKey.make(alg))
    client = Recorder(http=plain.http, public_base=plain.public_base, base=plain.base, key=plain.key)
    (await client.register()).require(201)
    return client


async def _journey(wfe: RunningWfe, others: OtherProcesses, *names: str, alg: str = "ES256") -> Journey:
    client = await _recorder(wfe, alg)
    order = (await client.order(*names)).require(201)
    authorizations = [(await client.post(url)).require(200) for url in order.json["authorizations"]]
    challenges, decided = [], []
    for url, shown in zip(order.json["authorizations"], authorizations, strict=True):
        chosen = shown.json["challenges"][0]
        challenges.append((await client.post(chosen["url"], {})).require(200))
        await client.post(url)
        await others.validate(url, method=chosen["type"])
        decided.append((await client.post(url)).require(200))
    done = await completed(client, others, order, *names)
    chain = (await client.post(done.json["certificate"])).require(200)
    return Journey(client=client, order=order, authorizations=authorizations, challenges=challenges, decided=decided,
                   done=done, chain=chain)


async def test_certbot(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows CB1 to CB3, CB7 to CB9: the up link and the very url of each challenge, a nonce that survives being decoded
    and encoded, known words, tokens of 16 bytes and more, a chain of at least two, times without fractions."""
    journey = await _journey(wfe, others, "a.example.com", "*.a.example.com")
    for challenge, authorization in zip(journey.challenges, journey.order.json["authorizations"], strict=True):
        assert challenge.link("up") == [authorization]
        assert challenge.json["url"] == challenge.location
        assert len(unb64(challenge.json["token"])) >= 16
    for _, answer in journey.client.answers:
        (nonce,) = answer.nonces
        assert base64.urlsafe_b64encode(unb64(nonce)).rstrip(b"=").decode() == nonce
    for _, shown in journey.client.objects():
        for each in (shown, *shown.get("challenges", ())):
            assert each["status"] in _CERTBOT_STATUSES
            for name in _TIMES:
                if name in each:
                    datetime.strptime(each[name], "%Y-%m-%dT%H:%M:%SZ")     # noqa: DTZ007 - as certbot reads it
    chain = x509.load_pem_x509_certificates(journey.chain.body)
    assert 2 <= len(chain) <= 5
    assert chain[-1].issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)


async def test_certbot_finds_its_account(wfe: RunningWfe) -> None:
    """Row CB5: update, unregister and renew begin with newAccount onlyReturnExisting, and read the Location."""
    client = await _recorder(wfe)
    found = await client.post("/acme/new-account", {"onlyReturnExisting": True}, jwk=client.key.jwk)
    assert found.require(200).location == client.kid
    (await client.post(found.location, {"status": "deactivated"})).require(200)


@pytest.mark.parametrize("method", ["http-01", "dns-01"])
async def test_failures_explain_themselves(wfe: RunningWfe, others: OtherProcesses, method: str) -> None:
    """Rows CB6, L5, SH2: an invalid authorization has a challenge with an error of type and detail, else certbot goes
    on to finalize; an invalid order has an error, which lego reads without a look whether it is there; what lego then
    deactivates is answered."""
    client = await _recorder(wfe)
    order = (await client.order("a.example.com", "b.example.com")).require(201)
    first, second = order.json["authorizations"]
    await others.validate(first, method=method, problem=_PROBLEM)
    shown = (await client.post(first)).require(200)
    assert shown.json["status"] == "invalid"
    assert [each["error"]["detail"] for each in shown.json["challenges"]] == ["no answer"]
    failed = (await client.post(order.location)).require(200)
    assert (failed.json["status"], failed.json["error"]["type"]) == ("invalid", _PROBLEM["type"])
    assert failed.json["error"]["detail"]
    (await client.post(first, {"status": "deactivated"})).require(400, "malformed")
    assert (await client.post(second, {"status": "deactivated"})).require(200).json["status"] == "deactivated"


async def test_acme_sh(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows SH2 to SH4: the text of answers, read with grep: no `"status":"invalid"` nor `"valid"` in an authorization
    that is neither, a challenge is what stands before the first `}`, one value, no empty error, plain slashes; after
    finalize a known word and the order's Location; revokeCert has no body; newAccount has a Location."""
    journey = await _journey(wfe, others, "a.example.com")
    pending, decided = journey.authorizations[0].body.decode(), journey.decided[0].body.decode()
    for text in (pending, journey.challenges[0].body.decode()):
        assert '"status":"invalid"' not in text
        assert '"status":"valid"' not in text
    assert '"status":"valid"' in decided
    for text in (pending, decided):
        assert text.count('"value"') == 1
        assert '"error"' not in text
        found = re.search(r'\{[^{}]*"type":"http-01"[^}]*', text)
        assert found is not None
        assert all(name in found[0] for name in ('"token":"', '"url":"https://', '"status":"'))
    for _, answer in journey.client.answers:
        assert b"\\/" not in answer.body
    assert journey.done.json["status"] in {"valid", "processing"}
    assert journey.done.location == journey.order.location
    assert b'"finalize":"https://' in journey.order.body
    assert b'"certificate":"https://' in journey.done.body
    leaf = x509.load_pem_x509_certificates(journey.chain.body)[0].public_bytes(Encoding.DER)
    revoked = await journey.client.post("/acme/revoke-cert", {"certificate": b64(leaf)})
    assert (revoked.status, revoked.body) == (200, b"")
    for expected in (201, 200):
        client = wfe.client(journey.client.key) if expected == 200 else wfe.client()
        assert (await client.register()).require(expected).location


async def test_lego(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows L1 to L4: problems say their status in the body, no more authorizations than identifiers, links with quoted
    rel, whole seconds in Retry-After, the identifiers as they were asked for, https alone."""
    names = ("a.example.com", "*.a.example.com", "b.example.com")
    journey = await _journey(wfe, others, *names)
    spent = await journey.client.signed("/acme/new-order", {"identifiers": []})
    for kind in ("malformed", "badNonce"):
        refused = await journey.client.send("POST", "/acme/new-order", data=spent, headers=JOSE_JSON)
        refused.require(400, kind)
        assert (refused.json["status"], type(refused.json["status"])) == (400, int)
    assert len(journey.order.json["authorizations"]) <= len(journey.order.json["identifiers"])
    assert [each["value"] for each in journey.order.json["identifiers"]] == list(names)
    for challenge in journey.challenges:
        assert re.fullmatch(r"[1-9][0-9]?", challenge.headers["Retry-After"])
    for _, shown in journey.client.objects():
        for url in re.findall(r'"(https?://[^"]*|//[^"]*)"', json.dumps(shown)):
            assert urlsplit(url).scheme == "https"


async def test_lego_with_a_long_first_name(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows L5, FI7: the CSR has a first name of more than 64 characters as its common name; the order goes on."""
    client = await _recorder(wfe)
    name = f"{'a' * 60}.{'b' * 20}.example.com"
    order = await ready_order(client, others, name)
    answer = (await finalize(client, order, make_csr(common_name=name[:64]))).require(400, "badCSR")
    assert "names" in answer.json["detail"]
    assert (await client.post(order.location)).json["status"] == "ready"
    (await finalize(client, order, make_csr(name, common_name=name))).require(200)


async def test_acmez(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows Z1, Z2, Z4: media types to the letter, whole seconds, nonces that are used much later in any order, the
    names of the order in number and spelling as in the CSR."""
    journey = await _journey(wfe, others, "a.example.com", "b.example.com")
    for _, answer in journey.client.answers:
        if answer.body:
            assert answer.headers["Content-Type"] in ("application/json", "application/pem-certificate-chain")
        if "Retry-After" in answer.headers:
            assert re.fullmatch(r"[1-9][0-9]{0,2}", answer.headers["Retry-After"])
            with pytest.raises(ValueError, match="date"):
                parsedate_to_datetime(answer.headers["Retry-After"])
    refused = (await journey.client.post("/acme/new-order", {})).require(400, "malformed")
    assert refused.headers["Content-Type"] == "application/problem+json"
    kept = journey.client.nonces
    assert len(kept) >= 1
    (await journey.client.post(journey.client.kid, nonce=kept.pop(0))).require(200)
    leaf = x509.load_pem_x509_certificates(journey.chain.body)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert sorted(names) == sorted(each["value"] for each in journey.order.json["identifiers"])


async def test_cert_manager(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows K1 to K3: newOrder is 201; finalize has a Location and never the word ready; no time is an empty text; a
    second finalize is 403, and the order read again says where it is; a GET of the directory carries no nonce."""
    journey = await _journey(wfe, others, "a.example.com")
    assert journey.order.status == 201
    assert journey.done.location == journey.order.location
    assert journey.done.json["status"] in {"processing", "valid"}
    for _, shown in journey.client.objects():
        assert '""' not in json.dumps(shown)
    key = ec.generate_private_key(ec.SECP256R1())
    (await finalize(journey.client, journey.order, make_csr("a.example.com", key=key))).require(403, "orderNotReady")
    assert (await journey.client.post(journey.order.location)).require(200).json["status"] == "valid"
    assert (await journey.client.send("GET", "/directory")).nonces == []


async def test_mod_md(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows M1, M2, PO1: each run looks at its account by POST to its URL; one that was closed is 401, one that is not
    there is 400: then it makes a new one. The chain has two certificates and no up link; finalize has a Location."""
    journey = await _journey(wfe, others, "a.example.com")
    assert (await journey.client.post(journey.client.kid)).require(200).json["status"] == "valid"
    assert journey.done.location == journey.order.location
    assert journey.chain.body.count(b"-----BEGIN CERTIFICATE-----") >= 2
    assert journey.chain.link("up") == []
    other = wfe.client(journey.client.key)
    other.kid = journey.client.kid[:-1] + ("A" if journey.client.kid[-1] != "A" else "Q")
    (await other.post(other.kid)).require(400, "accountDoesNotExist")
    (await journey.client.post(journey.client.kid, {"status": "deactivated"})).require(200)
    (await journey.client.post(journey.client.kid)).require(401, "unauthorized")


async def test_win_acme(start: _Start) -> None:
    """Rows W1, W2: an order that is ready at once is 201 all the same; a limit is 429 with its type, which stops the
    client; an overload is 503 with Retry-After, which lets it come again."""
    wfe = await start(limits=LimitsSettings(orders_per_account=RateSettings(burst=1, period_s=3_600)))
    client = await wfe.subscriber()
    (await client.order("a.example.com")).require(201)
    refused = (await client.order("a.example.com")).require(429, "rateLimited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 3_600
    busy = await start(max_in_flight=0)
    overloaded = await busy.client().send("POST", "/acme/new-order", data=b"{}", headers=JOSE_JSON)
    overloaded.require(503, "rateLimited")
    assert 1 <= int(overloaded.headers["Retry-After"]) <= 600


async def test_uacme(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows U1, U2: newNonce by GET is 204; a new order is pending or ready; every challenge before the chosen one has
    status, url, type and token; polling by POST-as-GET; no `error` in any 200 of an order that goes well."""
    client = await _recorder(wfe)
    assert (await client.send("GET", "/acme/new-nonce")).status == 204
    journey = await _journey(wfe, others, "a.example.com")
    assert journey.order.json["status"] in {"pending", "ready"}
    for shown in journey.authorizations:
        for challenge in shown.json["challenges"]:
            assert {"status", "url", "type", "token"} <= challenge.keys()
    assert journey.done.json["status"] in {"processing", "valid"}
    assert not any("error" in shown for _, shown in journey.client.objects())


async def test_dehydrated(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row DH1: an RS256 key and no other; a HEAD of newNonce before each request; no second try after a badNonce, so
    there is none; finalize at once when an authorization is seen valid."""
    client = await _recorder(wfe, "RS256")

    async def post(path: str, payload: Any = None) -> Answer:
        client.nonces.clear()
        head = await client.send("HEAD", "/acme/new-nonce")
        assert (head.status, len(head.nonces)) == (200, 1)
        return await client.post(path, payload)

    for number in range(3):
        name = f"n{number}.example.com"
        order = (await post("/acme/new-order", {"identifiers": [{"type": "dns", "value": name}]})).require(201)
        url = order.json["authorizations"][0]
        challenge = (await post(url)).require(200).json["challenges"][0]
        (await post(challenge["url"], {})).require(200)
        await others.validate(url)
        assert (await post(url)).require(200).json["status"] == "valid"
        answer = (await post(order.json["finalize"], {"csr": b64(make_csr(name))})).require(200)
        assert answer.json["status"] in {"processing", "valid"}
        await others.until("SELECT EXISTS (SELECT FROM issuance_requests WHERE id = $1)", id_of(order.location))


async def test_posh_acme(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Row PO1: `expires` in every state of orders and authorizations, POST-as-GET of the account, a new order each
    time, a status in each challenge, JSON for what is not there."""
    journey = await _journey(wfe, others, "a.example.com")
    for url, shown in journey.client.objects():
        if "/order/" in url or "/authz/" in url or url.endswith("/new-order"):
            assert shown["expires"]
        for challenge in shown.get("challenges", ()):
            assert challenge["status"]
    (await journey.client.post(journey.client.kid)).require(200)
    again = [(await journey.client.order("a.example.com")).require(201) for _ in range(2)]
    assert len({journey.order.location, *(order.location for order in again)}) == 3
    for order in again:
        assert order.json["expires"] > f"{clock.now() + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    missing = (await journey.client.send("GET", "/acme/nothing")).require(404, "malformed")
    assert missing.headers["Content-Type"] == "application/problem+json"


async def test_every_object_says_where_it_is(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row X2: Location on newAccount, the account, newOrder, the order, finalize and the challenge, each of them the
    URL of the object that the answer shows."""
    journey = await _journey(wfe, others, "a.example.com")
    client, order = journey.client, journey.order.location
    (await client.post(client.kid)).require(200)
    (await client.post(order)).require(200)
    seen = set()
    for url, answer in client.answers:
        place = {f"{client.public_base}/acme/new-account": client.kid, client.kid: client.kid,
                 f"{client.public_base}/acme/new-order": order, order: order, journey.order.json["finalize"]: order}
        place |= {shown.json["url"]: shown.json["url"] for shown in journey.challenges}
        if url in place:
            assert answer.location == place[url]
            seen.add(url)
    assert len(seen) == 6


@pytest.mark.parametrize(("kind", "value"), [
    ("permanent-identifier", "D64-ABC"), ("hardware-module", "x"), ("TNAuthList", "F83n2a...avn27DN3"),
    ("bundleEID", "dtn://a/"), ("email", "a@x.example"), ("NfInstanceId", "x")])
async def test_identifiers_of_other_extensions(wfe: RunningWfe, kind: str, value: str) -> None:
    """Rows DV1 to DV3, TK1, DT1, E54: identifier types that this CA does not know are 400 unsupportedIdentifier with a
    subproblem, beside names that it knows, too."""
    client = await _recorder(wfe)
    answer = (await client.post("/acme/new-order", {"identifiers": [
        {"type": kind, "value": value}, {"type": "dns", "value": "a.example.com"}]})).require(
            400, "unsupportedIdentifier")
    assert [each["identifier"] for each in answer.json["subproblems"]] == [{"type": kind, "value": value}]


async def test_orders_of_other_extensions(wfe: RunningWfe) -> None:
    """Rows ON1, ST1: an onion name is rejectedIdentifier, for whoever accepts any suffix, too; an order that asks to be
    renewed by the server (RFC 8739) is an ordinary one, which does not show it."""
    client = await _recorder(wfe)
    onion = "p53lf57qovyuvwsc6xnrppyply3vtqm7l6pcobkmyqsiofyeznfu5uqd.onion"
    (await client.order(onion)).require(403, "rejectedIdentifier")
    order = (await client.order("a.example.com", **{"auto-renewal": {"end-date": "2027-01-01T00:00:00Z",
                                                                     "lifetime": 86_400}})).require(201)
    assert "auto-renewal" not in order.json
