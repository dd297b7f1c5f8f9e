"""newOrder and finalize at the server (rows OR, FI, PR, E53 to E78)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from acme_api.protocol.jws import verify_stored
from ca.pki.packed import unpack_request
from tests.acme_api.wfe.running import BASE, Clock, OtherProcesses, RunningWfe, finalize, id_of, issued, ready_order
from tests.acme_client import JOSE_JSON, SigningKey, b64, make_csr

_Start = Callable[..., Awaitable[RunningWfe]]
_CONNECTION = {"type": "urn:ietf:params:acme:error:connection", "detail": "no answer", "status": 400}


async def test_or1_or9_create(wfe: RunningWfe) -> None:
    """Rows OR1, OR7 to OR9, OR12, PR3, E67: 201 with everything; one authorization an identifier."""
    client = await wfe.subscriber()
    order = (await client.order("B.example.com", "*.b.example.com", "b.example.com", status="valid")).require(201)
    assert order.json["status"] == "pending"
    assert order.json["identifiers"] == [{"type": "dns", "value": "b.example.com"},
                                         {"type": "dns", "value": "*.b.example.com"}]
    assert order.json["profile"] == "classic"
    assert order.json["finalize"] == order.location + "/finalize"
    assert not {"error", "certificate", "notBefore"} & set(order.json)
    plain, wildcard = [(await client.post(url)).require(200).json for url in order.json["authorizations"]]
    assert plain["identifier"] == wildcard["identifier"] == {"type": "dns", "value": "b.example.com"}
    assert "wildcard" not in plain
    assert wildcard["wildcard"] is True
    assert [each["type"] for each in plain["challenges"]] == [
        "http-01", "dns-01", "tls-alpn-01", "dns-account-01"]
    assert [each["type"] for each in wildcard["challenges"]] == ["dns-01", "dns-account-01"]


@pytest.mark.parametrize(("payload", "status", "kind"), [
    ({}, 400, "malformed"), ({"identifiers": []}, 400, "malformed"), ({"identifiers": ["a.b"]}, 400, "malformed"),
    ({"identifiers": [{"type": "uri", "value": "x"}]}, 400, "unsupportedIdentifier"),
    ({"identifiers": [{"type": "dns", "value": "a_b.com"}]}, 400, "malformed"),
    ({"identifiers": [{"type": "dns", "value": "*.co.uk"}]}, 403, "rejectedIdentifier"),
    ({"identifiers": [{"type": "ip", "value": "127.0.0.1"}]}, 403, "rejectedIdentifier"),
    ({"identifiers": [{"type": "ip", "value": "8.8.8.8"}], "profile": "classic"}, 400, "invalidProfile"),
    ({"identifiers": [{"type": "ip", "value": "01.2.3.4"}]}, 400, "malformed"),
    ({"identifiers": [{"type": "dns", "value": "a.example.com"}], "profile": "nope"}, 400, "invalidProfile"),
    ({"identifiers": [{"type": "dns", "value": "a.example.com"}], "profile": 1}, 400, "malformed"),
    ({"identifiers": [{"type": "dns", "value": "a.example.com"}], "notAfter": "yesterday"}, 400, "malformed")])
async def test_e53_to_e65_refused_orders(wfe: RunningWfe, others: OtherProcesses, payload: Any, status: int,
                                         kind: str) -> None:
    """Rows OR2 to OR5, PR2, E53 to E65: the documented answer, and nothing is stored."""
    client = await wfe.subscriber()
    (await client.post("/acme/new-order", payload)).require(status, kind)
    assert await others.count("orders") == await others.count("authorizations") == 0


async def test_p3_subproblems(wfe: RunningWfe) -> None:
    """Row P3: two bad names of three are two subproblems with their identifiers."""
    client = await wfe.subscriber()
    answer = (await client.order("a.example.com", "*.co.uk", "co.uk")).require(403, "rejectedIdentifier")
    assert [each["identifier"] for each in answer.json["subproblems"]] == [
        {"type": "dns", "value": "*.co.uk"}, {"type": "dns", "value": "co.uk"}]


async def test_blocked_names(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Names that an operator has blocked: 403 rejectedIdentifier with a subproblem each, what is below them too."""
    await others.run("ca_admin", (
        "INSERT INTO blocked_names VALUES ('bank.example', true, now(), 'ada', ''),"
        " ('www.shop.example', false, now(), 'ada', '')",))
    client = await wfe.subscriber()
    for name in ("bank.example", "*.bank.example", "a.b.bank.example", "www.shop.example", "*.www.shop.example"):
        refused = (await client.order("a.example.com", name)).require(403, "rejectedIdentifier").json
        assert [each["identifier"]["value"] for each in refused["subproblems"]] == [name]
    assert await others.count("orders") == 0
    (await client.order("shop.example", "a.www.shop.example", "mybank.example")).require(201)


async def test_a_profile_that_is_switched_off(wfe: RunningWfe, others: OtherProcesses) -> None:
    """The kill switch: 400 invalidProfile for orders of this profile, the default one too; others go on."""
    await others.run("ca_admin", ("INSERT INTO disabled_profiles VALUES ('classic', now(), 'ada', '')",))
    client = await wfe.subscriber()
    (await client.order("a.example.com")).require(400, "invalidProfile")
    (await client.order("a.example.com", profile="classic")).require(400, "invalidProfile")
    (await client.order("a.example.com", profile="tlsserver")).require(201)
    await others.run("ca_admin", ("DELETE FROM disabled_profiles",))
    (await client.order("a.example.com")).require(201)


async def test_rv6_a_blocked_key_is_not_certified(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row RV6: finalize with its CSR is 400 badCSR, and the order stays ready for another key."""
    client, key = await wfe.subscriber(), ec.generate_private_key(ec.SECP256R1())
    await others.block_key(key)
    order = await ready_order(client, others, "a.example.com")
    (await finalize(client, order, make_csr("a.example.com", key=key))).require(400, "badCSR")
    assert (await client.post(order.location)).json["status"] == "ready"


async def test_or5_dates_are_stored_exactly(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Row OR5: what is accepted is shown at each look, and is what the CA finds."""
    client = await wfe.subscriber()
    end = (clock.now() + timedelta(days=10)).replace(microsecond=0)
    order = (await client.order("a.example.com", notAfter=end.isoformat())).require(201)
    assert (await client.post(order.location)).json["notAfter"] == f"{end:%Y-%m-%dT%H:%M:%SZ}"
    assert await others.value("SELECT not_after FROM orders") == end


async def test_or15_valid_authorizations_are_reused(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Row OR15: same account, name and wildcardness, CAA looked at within seven hours; else a new pending one."""
    client, stranger = await wfe.subscriber(), await wfe.subscriber()
    first = await ready_order(client, others, "a.example.com")
    again = (await client.order("a.example.com", "b.example.com")).require(201)
    assert again.json["status"] == "pending"
    assert again.json["authorizations"][0] == first.json["authorizations"][0]
    assert (await client.order("A.example.com")).require(201).json["status"] == "ready"
    for other, name in ((client, "*.a.example.com"), (stranger, "a.example.com"), (client, "x.a.example.com")):
        order = (await other.order(name)).require(201)
        assert order.json["status"] == "pending"
        assert order.json["authorizations"] != first.json["authorizations"]
    assert (await client.order("b.example.com")).json["authorizations"] != again.json["authorizations"][1:]
    clock.shift = timedelta(hours=7, minutes=1)
    assert (await client.order("a.example.com")).require(201).json["status"] == "pending"


async def test_or15_what_is_not_reused(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row OR15: deactivated, failed, nearly run out, or with an old look at CAA: a new one."""
    client = await wfe.subscriber()
    for number, options in enumerate(({"problem": _CONNECTION}, {"life": timedelta(minutes=30)},
                                      {"caa_age": timedelta(hours=8)}, {})):
        name = f"a{number}.example.com"
        url = (await client.order(name)).require(201).json["authorizations"][0]
        await others.validate(url, **options)  # type: ignore[arg-type]
        if not options:
            (await client.post(url, {"status": "deactivated"})).require(200)
        order = (await client.order(name)).require(201)
        assert (order.json["status"], order.json["authorizations"] == [url]) == ("pending", False)


async def test_mp1_what_too_few_perspectives_saw_is_not_reused(start: _Start, others: OtherProcesses) -> None:
    """Row OR15, MP1: a validation of before more perspectives were demanded is not offered again, because the CA would
    refuse it again and again; one that enough of them saw is."""
    wfe = await start(ca_least_corroborated=3)
    client = await wfe.subscriber()
    for corroborated, status in ((2, "pending"), (3, "ready")):
        name = f"a{corroborated}.example.com"
        url = (await client.order(name)).require(201).json["authorizations"][0]
        await others.validate(url, corroborated=corroborated)
        assert (await client.order(name)).require(201).json["status"] == status


async def test_or10_or13_statuses_as_facts_arrive(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows OR10, OR13, AZ2: pending, then ready with the last validation, invalid with an error after a failed one."""
    client = await wfe.subscriber()
    order = (await client.order("a.example.com", "b.example.com")).require(201)
    first, second = order.json["authorizations"]
    await others.validate(first)
    assert (await client.post(order.location)).json["status"] == "pending"
    await others.validate(second)
    ready = (await client.post(order.location)).json
    assert (ready["status"], "error" in ready, "certificate" in ready) == ("ready", False, False)
    failed = (await client.order("c.example.com", "d.example.com")).require(201)
    await others.validate(failed.json["authorizations"][0], problem=_CONNECTION)
    invalid = (await client.post(failed.location)).json
    assert (invalid["status"], invalid["error"]["type"]) == ("invalid", _CONNECTION["type"])
    assert invalid["error"]["subproblems"][0]["identifier"]["value"] == "c.example.com"


async def test_or16_expiry(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Rows OR16, AZ4: past its end an order is invalid with "expired", its authorization gone, finalize 403."""
    client = await wfe.subscriber()
    order = (await client.order("a.example.com")).require(201)
    clock.shift = timedelta(days=7, seconds=1)
    client.nonces.clear()
    found = (await client.post(order.location)).require(200).json
    assert found["status"] == "invalid"
    assert "expired" in found["error"]["detail"]
    (await client.post(order.json["authorizations"][0])).require(404, "malformed")
    (await finalize(client, order, make_csr("a.example.com"))).require(403, "orderNotReady")
    assert await others.count("finalizations") == 0


async def test_fi2_only_ready_orders(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows FI2, E72, E77: 403 orderNotReady in pending, invalid, processing and valid."""
    client = await wfe.subscriber()
    csr = make_csr("a.example.com")
    order = (await client.order("a.example.com")).require(201)
    (await finalize(client, order, csr)).require(403, "orderNotReady")
    await others.validate(order.json["authorizations"][0])
    (await client.post(order.json["authorizations"][0], {"status": "deactivated"})).require(200)
    (await finalize(client, order, csr)).require(403, "orderNotReady")
    done, _ = await issued(client, others, "a.example.com")
    (await finalize(client, done, csr)).require(403, "orderNotReady")


@pytest.mark.parametrize("csr", [None, 1, "", "-----BEGIN CERTIFICATE REQUEST-----", "QQ==", "Q Q", [], {}])
async def test_fi1_e73_csrs_of_another_spelling(wfe: RunningWfe, others: OtherProcesses, csr: Any) -> None:
    """Rows FI1, E73: malformed."""
    client = await wfe.subscriber()
    order = await ready_order(client, others, "a.example.com")
    (await client.post(order.json["finalize"], {"csr": csr})).require(400, "malformed")
    (await client.post(order.json["finalize"], {})).require(400, "malformed")


async def test_fi3_e74_to_e76_refused_csrs_leave_the_order_ready(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows FI1, FI3 to FI6, E73 to E76: badCSR; afterwards the right CSR works."""
    client = await wfe.subscriber()
    order = await ready_order(client, others, "a.example.com", "b.example.com")
    names = ("a.example.com", "b.example.com")
    good = make_csr(*names)
    ca = (x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
          .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
          .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
          .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER))
    bad = [b"\x30\x00", b"x" * 100, good + b"\0", good[:-1], make_csr(*names, "c.example.com"), make_csr(names[0]),
           make_csr("*.a.example.com", names[1]), make_csr(*names, common_name="c.example.com"), make_csr(), ca,
           make_csr(*names, key=ec.generate_private_key(ec.SECP224R1())),
           make_csr(*names, key=rsa.generate_private_key(65537, 1024)),  # noqa: S505 - on purpose
           good[:-4] + b"\0\0\0\0"]
    for csr in bad:
        (await finalize(client, order, csr)).require(400, "badCSR")
    assert (await client.post(order.location)).json["status"] == "ready"
    assert await others.count("finalizations") == 0
    assert (await finalize(client, order, good)).require(200).json["status"] == "processing"


async def test_fi5_e75_an_accounts_key_is_no_certificates_key(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows FI5, E75: the subscriber's own account key and anybody else's are badCSR."""
    client, other = await wfe.subscriber(), await wfe.subscriber(SigningKey.make("RS256"))
    order = await ready_order(client, others, "a.example.com")
    for key in (client.key.private, other.key.private):
        (await finalize(client, order, make_csr("a.example.com", key=key))).require(400, "badCSR")


async def test_fi10_e72_twenty_parallel_finalizations(start: _Start, others: OtherProcesses) -> None:
    """Rows FI10, E72: one 200, the others 403; one finalize request is stored, the subscriber's own signed one."""
    one, two = await start(finalize_wait_ms=200), await start(finalize_wait_ms=200)
    client = await one.subscriber()
    order = await ready_order(client, others, "a.example.com")
    path = order.json["finalize"]
    bodies = [await client.signed(path, {"csr": b64(make_csr("a.example.com"))}) for _ in range(20)]
    at_two = two.client()
    answers = await asyncio.gather(*[(client if number % 2 else at_two).send(
        "POST", path, data=body, headers=JOSE_JSON) for number, body in enumerate(bodies)])
    assert sorted(answer.status for answer in answers) == [200] + [403] * 19
    assert {answer.type for answer in answers if answer.status == 403} == {"orderNotReady"}
    assert await others.count("finalizations") == await others.count("issuance_requests") == 1
    connection = await others.database.connect()
    row = await connection.fetchrow("SELECT * FROM finalizations")
    await connection.close()
    assert row is not None
    request = unpack_request(row["request"])
    stored = verify_stored(request.protected, request.payload, request.signature, request.jwk)
    assert (stored.url, stored.kid) == (path, client.kid)


async def test_fi8_the_answer_waits_for_the_certificate(start: _Start, others: OtherProcesses) -> None:
    """Row FI8: valid at once when the CA and the pre-signer are quick, long before the wait is over."""
    client = await (await start(finalize_wait_ms=60_000)).subscriber()
    loop = asyncio.get_running_loop()
    started = loop.time()
    done, _ = await issued(client, others, "a.example.com")
    assert done.json["certificate"].startswith(f"{BASE}/acme/cert/")
    assert loop.time() - started < 50


async def test_fi9_a_refusal_by_the_ca(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows FI9, OR13: the order is invalid at once, with the CA's own words."""
    client = await wfe.subscriber()
    order = await ready_order(client, others, "a.example.com")
    finalizing = asyncio.create_task(finalize(client, order, make_csr("a.example.com")))
    order_id = id_of(order.location)
    await others.until("SELECT EXISTS (SELECT FROM issuance_requests WHERE id = $1)", order_id)
    problem = {"type": "urn:ietf:params:acme:error:caa", "detail": "issue \";\"", "status": 403}
    await others.refuse(order_id, problem)
    answer = (await finalizing).require(200)
    assert (answer.json["status"], answer.json["error"]) == ("invalid", problem)
    assert "certificate" not in answer.json


async def test_ca9_an_old_look_at_caa_is_renewed(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Row CA9: finalize asks the VA to look again where the last look is older than seven and a half hours."""
    client = await wfe.subscriber()
    order = (await client.order("a.example.com", "*.a.example.com")).require(201)
    first, second = order.json["authorizations"]
    await others.validate(first, caa_age=timedelta(hours=7, minutes=40))
    await others.validate(second, method="dns-01")
    (await finalize(client, order, make_csr("a.example.com", "*.a.example.com"))).require(200)
    connection = await others.database.connect()
    rows = await connection.fetch("SELECT * FROM validation_requests")
    await connection.close()
    assert [(row["kind"], row["authorization_id"], row["challenge_type"]) for row in rows] == [
        ("caa", id_of(first), "http-01")]


async def test_ca9_an_order_that_reuses_an_authorization_looks_for_itself(
    wfe: RunningWfe, others: OtherProcesses
) -> None:
    """Row CA9: a look at CAA that was made for an earlier order, however young, is renewed when this one is finalized;
    none is needed for a new authorization."""
    client = await wfe.subscriber()
    first = await ready_order(client, others, "a.example.com")
    (await finalize(client, first, make_csr("a.example.com"))).require(200)
    assert await others.count("validation_requests") == 0
    again = (await client.order("a.example.com")).require(201)
    assert (again.json["status"], again.json["authorizations"]) == ("ready", first.json["authorizations"])
    (await finalize(client, again, make_csr("a.example.com"))).require(200)
    assert await others.value("SELECT kind FROM validation_requests") == "caa"


async def test_finalize_racing_a_deactivation(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Row OR10: whichever is first, the order never leaves invalid again."""
    client = await wfe.subscriber()
    for number in range(5):
        order = await ready_order(client, others, f"r{number}.example.com")
        url = order.json["authorizations"][0]
        finalizing, deactivated = await asyncio.gather(
            finalize(client, order, make_csr(f"r{number}.example.com")), client.post(url, {"status": "deactivated"}))
        assert deactivated.status == 200
        stored = await others.value("SELECT count(*) FROM finalizations WHERE order_id = $1", id_of(order.location))
        assert (finalizing.status, stored) in ((200, 1), (403, 0))
        status = (await client.post(order.location)).json["status"]
        assert status == ("processing" if stored else "invalid")


async def test_or11_ready_is_ready_everywhere(start: _Start, others: OtherProcesses) -> None:
    """Row OR11: whoever has seen the authorization valid can finalize at any server at once."""
    one, two = await start(finalize_wait_ms=10), await start(finalize_wait_ms=10)
    client = await one.subscriber()
    at_two = two.client(client.key, kid=client.kid)
    for number in range(5):
        name = f"a{number}.example.com"
        order = (await client.order(name)).require(201)
        url = order.json["authorizations"][0]
        validating = asyncio.create_task(others.validate(url))
        while (await client.post(url)).json["status"] != "valid":  # noqa: ASYNC110 - a client can only poll
            await asyncio.sleep(0.005)
        (await finalize(at_two, order, make_csr(name))).require(200)
        await validating


async def test_a_large_order(wfe: RunningWfe, others: OtherProcesses) -> None:
    """A hundred names: one order, a hundred authorizations in the order of the names, a valid certificate."""
    client = await wfe.subscriber()
    names = [f"n{number:03}.example.com" for number in range(100)]
    order = (await client.order(*names)).require(201)
    shown = await asyncio.gather(*[client.post(url) for url in order.json["authorizations"]])
    assert [answer.json["identifier"]["value"] for answer in shown] == names
    done, _ = await issued(client, others, *names)
    assert len(done.json["authorizations"]) == 100


async def test_public_policy(start: _Start) -> None:
    """Rows NM8, E60, E61: special-use names and reserved addresses are rejected for the public Internet."""
    wfe = await start(policy="public", ca_internal_suffixes=[])
    client = await wfe.subscriber()
    for name in ("a.internal", "a.local", "a.test", "a.onion", "x.example"):
        (await client.order(name)).require(403, "rejectedIdentifier")
    for value in ("127.0.0.1", "169.254.169.254", "10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"):
        (await client.post("/acme/new-order", {"identifiers": [{"type": "ip", "value": value}]})).require(
            403, "rejectedIdentifier")
    (await client.order("www.ck")).require(201)


async def test_pr1_pr4_profiles_that_are_offered(start: _Start, others: OtherProcesses) -> None:
    """Rows PR1, PR4: the directory lists what the operator offers; an order whose profile is withdrawn later is
    invalidProfile at finalize, and stays ready."""
    wfe = await start()
    profiles = (await wfe.client().send("GET", "/directory")).json["meta"]["profiles"]
    assert list(profiles) == ["classic", "tlsserver", "shortlived"]
    assert all(text and isinstance(text, str) for text in profiles.values())
    client = await wfe.subscriber()
    order = (await client.order("a.example.com", profile="shortlived")).require(201)
    await others.validate(order.json["authorizations"][0])
    later = await start(ca_profiles=["tlsserver", "classic"])
    profiles = (await later.client().send("GET", "/directory")).json["meta"]["profiles"]
    assert list(profiles) == ["tlsserver", "classic"]
    same = later.client(client.key)
    same.kid = client.kid
    (await finalize(same, order, make_csr("a.example.com"))).require(400, "invalidProfile")
    assert (await same.post(order.location)).json["status"] == "ready"
    (await same.order("a.example.com", profile="shortlived")).require(400, "invalidProfile")
