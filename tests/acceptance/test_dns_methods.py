"""Whole orders by what other people's clients do not know yet: dns-account-01, dns-persist-01, ancestor domains."""

import base64
import hashlib
from functools import partial
from typing import Any

import pytest
from acme import messages
from cryptography import x509

from tests.acceptance.acme_session import AcmeSession, patiently
from tests.acceptance.demo_process import Demo
from tests.fixtures_dns import DnsProgram


def challenge_of(session: AcmeSession, order: messages.OrderResource, kind: str) -> dict[str, Any]:
    """The challenge of that type of the order's one authorization, as it is on the wire."""
    shown = patiently(lambda: session.client._post_as_get(order.body.authorizations[0]))
    return dict(next(each for each in shown.json()["challenges"] if each["type"] == kind))


def answer(session: AcmeSession, challenge: dict[str, Any]) -> None:
    """Tells the server to look."""
    patiently(partial(session.client._post, challenge["url"], messages.ChallengeBody.from_json({
        "type": "http-01", "url": challenge["url"], "token": base64.urlsafe_b64encode(bytes(32)).decode().rstrip("="),
        "status": "pending"})))


def certificate_names(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize("name", ["account.dns.example", "*.account-wild.dns.example"])
def test_da1_an_order_by_dns_account(demo: Demo, acceptance_dns: DnsProgram, name: str) -> None:
    """DA1: offered to everybody, validated at the account's own label, believed by the CA; explained to operators."""
    session = AcmeSession(demo)
    order = session.order(name)
    challenge = challenge_of(session, order, "dns-account-01")
    url = session.account_url
    label = base64.b32encode(hashlib.sha256(url.encode()).digest()[:10]).decode().lower()
    authorization = f"{challenge['token']}.{session.thumbprint}"
    value = base64.urlsafe_b64encode(hashlib.sha256(authorization.encode()).digest()).decode().rstrip("=")
    owner = f"_{label}._acme-challenge.{name.removeprefix('*.')}"
    acceptance_dns.post("set", name=owner, type="TXT", values=[value])
    answer(session, challenge)
    session.wait_for(order, "ready")
    session.finalize(order)
    session.wait_for(order, "valid")
    assert certificate_names(session.download(order)) == [name]
    assert owner in demo.run("order", "explain", order.uri)
    record = demo.run("validation", "show", name)
    assert owner in record
    assert "BR 2.2.8 3.2.2.4.21" in record


@pytest.mark.parametrize("name", ["persist.dns.example", "*.persist-wild.dns.example"])
def test_dp1_an_order_by_dns_persist(demo: Demo, acceptance_dns: DnsProgram, name: str) -> None:
    """DP1 to DP4, X1: after the operator's word for this account; one record serves again, and a name whose record is
    there when it is ordered needs no answer; taken back, it is over."""
    session = AcmeSession(demo)
    account = session.account_url
    order = session.order(name)
    offered = patiently(lambda: session.client._post_as_get(order.body.authorizations[0])).json()["challenges"]
    assert "dns-persist-01" not in [each["type"] for each in offered]

    demo.run("account", "allow", account, "dns-persist-01")
    order = session.order(name)
    challenge = challenge_of(session, order, "dns-persist-01")
    record = f"{challenge['issuer-domain-names'][0]}; accounturi={challenge['accounturi']}; policy=wildcard"
    acceptance_dns.post("set", name=f"_validation-persist.{name.removeprefix('*.')}", type="TXT", values=[record])
    answer(session, challenge)
    session.wait_for(order, "ready")
    again, late = session.order(name), session.order(name)
    for each in (order, again):
        session.wait_for(each, "ready")
        session.finalize(each)
        session.wait_for(each, "valid")
        assert certificate_names(session.download(each)) == [name]
    ahead = f"ahead.{name.removeprefix('*.')}"
    acceptance_dns.post("set", name=f"_validation-persist.{ahead}", type="TXT", values=[record])
    order = session.order(ahead)
    session.wait_for(order, "ready")
    session.finalize(order)
    session.wait_for(order, "valid")

    demo.run("account", "forbid", account, "dns-persist-01")
    session.finalize(late)
    assert session.wait_for(late, "valid", "invalid") == "invalid"
    assert "dns-persist-01" not in [
        each["type"] for each in patiently(
            lambda: session.client._post_as_get(session.order(name).body.authorizations[0])).json()["challenges"]]


def test_su1_names_below_one_domain(demo: Demo, acceptance_dns: DnsProgram) -> None:
    """SU1, CA9: one record at the ancestor and one authorization for a name and a wildcard below it; the next order is
    ready at once; CAA is looked at for each real name, and what one forbids is not issued; explained to operators."""
    session = AcmeSession(demo)
    ancestor, names = "above.dns.example", ["*.c.above.dns.example", "a.b.above.dns.example"]
    assert patiently(lambda: session.client.net.get(demo.directory_url)).json()["meta"]["subdomainAuthAllowed"] is True
    order = session.order(*names, ancestor=ancestor)
    assert len(order.body.authorizations) == 1
    shown = patiently(lambda: session.client._post_as_get(order.body.authorizations[0])).json()
    assert (shown["identifier"]["value"], shown["subdomainAuthAllowed"]) == (ancestor, True)
    challenge = challenge_of(session, order, "dns-01")
    authorization = f"{challenge['token']}.{session.thumbprint}"
    value = base64.urlsafe_b64encode(hashlib.sha256(authorization.encode()).digest()).decode().rstrip("=")
    acceptance_dns.post("set", name=f"_acme-challenge.{ancestor}", type="TXT", values=[value])
    answer(session, challenge)
    session.wait_for(order, "ready")
    acceptance_dns.post("set", name=f"_acme-challenge.{ancestor}", type="TXT", values=[])
    session.finalize(order)
    session.wait_for(order, "valid")
    assert sorted(certificate_names(session.download(order))) == names
    told = demo.run("order", "explain", order.uri)
    assert "for the names below it too" in told
    for name in names:
        assert f"\n{name}\n  -  CAA looked at again" in told, told

    again = session.order("x.above.dns.example")
    session.wait_for(again, "ready")
    session.finalize(again)
    session.wait_for(again, "valid")
    acceptance_dns.post("set", name="y.above.dns.example", type="CAA", values=['0 issue ";"'])
    forbidden = session.order("y.above.dns.example")
    session.wait_for(forbidden, "ready")
    session.finalize(forbidden)
    assert session.wait_for(forbidden, "valid", "invalid") == "invalid"
    assert "y.above.dns.example forbid" in str(patiently(
        lambda: session.client._post_as_get(forbidden.uri)).json()["error"])
    demo.run("audit", "check")
