"""Whole ACME orders through five remote perspectives while routes to the subscriber, or to the name server of a zone
that is not signed, are hijacked: MP1, MP2, DN3, E96."""

import json
from typing import Any

import pytest
from acme import messages

from tests.acceptance.internet import ATTACKER, NAMES, SUBSCRIBER, UNSIGNED_SERVER, Client, Internet
from tests.acceptance.openssl import names_of

_URN = "urn:ietf:params:acme:error:"


@pytest.fixture(scope="module")
def client(internet: Internet) -> Client:
    """One account for all of them, whose client runs on the CA's host; the web servers are elsewhere."""
    return Client(internet.ca, internet.demo)


def _explained(internet: Internet, order: messages.OrderResource) -> dict[str, Any]:
    """The validation of the order's one authorization, as the operator sees it."""
    document = json.loads(internet.demo.run("order", "explain", order.uri.rpartition("/")[2], "--output", "json"))
    seen: dict[str, Any] = document["authorizations"][0]["validation"]
    return seen


def _verdicts(validation: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["verdict"] for each in validation["evidence"]["perspectives"]}


def test_everybody_agrees(internet: Internet, client: Client) -> None:
    """MP1: five perspectives with resolvers of their own see the same site, by DNSSEC; a certificate follows."""
    order = client.order("all.subscriber.lab", internet.true_site)
    assert names_of(client.issue(order)) == ["all.subscriber.lab"]
    validation = _explained(internet, order)
    assert _verdicts(validation) == dict.fromkeys(NAMES, "corroborates")
    for each in validation["evidence"]["perspectives"]:
        assert any(fact.get("addresses") == "all.subscriber.lab" and fact.get("dnssec") for fact in each["facts"])
    assert internet.false_site.asked == []


def test_an_operators_look_from_everywhere(internet: Internet) -> None:
    """`validation test` asks all five, without an order: CAA permits, the true site is reached everywhere but where the
    route is hijacked, and the words say what each saw."""
    with internet.hijacked(2), internet.ca.entered():
        document = json.loads(internet.demo.run("validation", "test", "look.subscriber.lab", "--output", "json"))
    assert {each["name"]: each["verdict"] for each in document["caa"]["seen"]["perspectives"]} == dict.fromkeys(
        NAMES, "corroborates")
    challenge = document["challenge"]
    assert (challenge["ok"], challenge["reached"], challenge["type"]) == (False, True, "incorrectResponse")
    seen = {each["name"]: each for each in challenge["seen"]["perspectives"]}
    assert list(seen) == list(NAMES)
    for each in seen.values():
        assert each["verdict"] == "differs"
        assert any(fact.get("connected") == f"{SUBSCRIBER} port 80" for fact in each["facts"])
    assert internet.false_site.asked != []
    internet.false_site.asked.clear()


def test_e96_one_hijacked_perspective_of_five(internet: Internet, client: Client) -> None:
    """E96: the certificate is issued, and the evidence shows who saw another server at the very same address."""
    with internet.hijacked(2):
        order = client.order("one.subscriber.lab", internet.true_site)
    assert names_of(client.issue(order)) == ["one.subscriber.lab"]
    validation = _explained(internet, order)
    assert _verdicts(validation) == dict.fromkeys(NAMES, "corroborates") | {NAMES[2]: "differs"}
    odd = validation["evidence"]["perspectives"][2]
    assert any(fact.get("connected") == f"{SUBSCRIBER} port 80" for fact in odd["facts"])
    assert internet.false_site.asked != []


def test_e96_two_hijacked_perspectives_of_five(internet: Internet, client: Client) -> None:
    """E96, MP2: the order fails as unauthorized, and says that it is the secondary validation."""
    with internet.hijacked(1, 4):
        order = client.order("two.subscriber.lab", internet.true_site)
    assert client.status(order) == "invalid"
    problem = _explained(internet, order)["problem"]
    assert (problem["type"], problem["status"]) == (f"{_URN}unauthorized", 403)
    assert problem["detail"].startswith("secondary validation: 2 of 5 remote perspectives did not see the same")


def test_mp2_a_hijacked_primary_is_not_enough(internet: Internet, client: Client) -> None:
    """MP2: an attacker who owns the CA's own route answers the challenge there; the others see the true site: no."""
    with internet.hijacked(-1):
        order = client.order("primary.subscriber.lab", internet.false_site)
    assert client.status(order) == "invalid"
    validation = _explained(internet, order)
    assert _verdicts(validation) == dict.fromkeys(NAMES, "differs")
    assert validation["problem"]["type"] == f"{_URN}unauthorized"


def _reached(seen: dict[str, Any]) -> tuple[list[str], str]:
    """What one perspective was told by the DNS, and where it connected."""
    told = next(fact["got"] for fact in seen["facts"] if "addresses" in fact)
    return told, next(fact["connected"] for fact in seen["facts"] if "connected" in fact)


def test_e96_a_forged_dns_answer_at_the_primary(internet: Internet, client: Client) -> None:
    """E96, MP2, DN3: the zone is not signed, and the CA's own resolver is told the attacker's address, where the
    challenge is answered well. The five others are told the true one: the order fails, and the evidence says who was
    told what and connected where."""
    with internet.hijacked(-1, address=UNSIGNED_SERVER):
        order = client.order("primary.unsigned.lab", internet.attackers_site)
    assert client.status(order) == "invalid"
    validation = _explained(internet, order)
    assert validation["problem"]["type"] == f"{_URN}unauthorized"
    assert validation["problem"]["detail"].startswith("secondary validation: 5 of 5 remote perspectives")
    assert _reached(validation["evidence"]) == ([ATTACKER], f"{ATTACKER} port 80")
    assert _verdicts(validation) == dict.fromkeys(NAMES, "differs")
    for each in validation["evidence"]["perspectives"]:
        assert _reached(each) == ([SUBSCRIBER], f"{SUBSCRIBER} port 80")
    assert not any("dnssec" in fact for fact in validation["evidence"]["facts"] if "addresses" in fact)


def test_e96_a_forged_dns_answer_at_one_perspective_of_five(internet: Internet, client: Client) -> None:
    """E96, MP1: one perspective is told another address: four that agree are enough for the certificate, and the
    evidence names the one and what it was told."""
    with internet.hijacked(3, address=UNSIGNED_SERVER):
        order = client.order("one.unsigned.lab", internet.true_site)
    assert names_of(client.issue(order)) == ["one.unsigned.lab"]
    validation = _explained(internet, order)
    assert _verdicts(validation) == dict.fromkeys(NAMES, "corroborates") | {NAMES[3]: "differs"}
    seen = [_reached(each) for each in validation["evidence"]["perspectives"]]
    assert seen[3] == ([ATTACKER], f"{ATTACKER} port 80")
    assert [*seen[:3], *seen[4:]] == [([SUBSCRIBER], f"{SUBSCRIBER} port 80")] * 4


def test_e96_a_forged_dns_answer_at_two_perspectives_of_five(internet: Internet, client: Client) -> None:
    """E96, MP2: two that are told another address are too many: the order fails as the secondary validation."""
    with internet.hijacked(0, 2, address=UNSIGNED_SERVER):
        order = client.order("two.unsigned.lab", internet.true_site)
    assert client.status(order) == "invalid"
    validation = _explained(internet, order)
    assert validation["problem"]["detail"].startswith("secondary validation: 2 of 5 remote perspectives")
    told = {each["name"]: _reached(each)[0] for each in validation["evidence"]["perspectives"]}
    assert told == {name: [ATTACKER if name in (NAMES[0], NAMES[2]) else SUBSCRIBER] for name in NAMES}


def test_e96_a_wrong_certificate_is_an_outage(internet: Internet, client: Client) -> None:
    """E96: a host with another certificate than the pinned one is away; the other four are enough."""
    internet.stop(1)
    internet.demo.run("perspective", "enroll", "impostor", "--address", "10.201.2.1:8550", "--rir", "ARIN",
                      "--distance-group", "x", "--bundle", str(internet.directory / "impostor"))
    internet.start(1, bundle="impostor")
    status = internet.await_fault(1, "certificate is not the pinned one")
    order = client.order("impostor.subscriber.lab", internet.true_site)
    assert names_of(client.issue(order)) == ["impostor.subscriber.lab"]
    validation = _explained(internet, order)
    assert _verdicts(validation) == dict.fromkeys(NAMES, "corroborates") | {NAMES[1]: "absent"}
    assert int(str(status["failures"])) >= 1
    assert status["retry_at"] is not None
    internet.stop(1)
    internet.start(1)


def test_e96_everybody_is_away(internet: Internet, client: Client) -> None:
    """E96: serverInternal after three tries, never a pass; when they are back orders pass again."""
    internet.await_status(away=0)
    internet.stop(*range(5))
    order = client.order("away.subscriber.lab", internet.true_site)
    assert client.status(order) == "invalid"
    validation = _explained(internet, order)
    assert validation["problem"]["type"] == f"{_URN}serverInternal"
    assert sum("not_corroborated" in fact for fact in validation["evidence"]["facts"]) == 2
    assert "challenge" not in _verdicts(validation).values()
    for position in range(5):
        internet.start(position)
    internet.await_status(away=0)
    assert names_of(client.issue(client.order("back.subscriber.lab", internet.true_site))) == ["back.subscriber.lab"]
