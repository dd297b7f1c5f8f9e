"""A publicly trusted CA as a whole: five perspectives, DNSSEC, CAA, CT, public lint; and all that it refuses."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from acme import messages
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.pki.corroboration import rule_at
from ca.pki.issuer import read_issuer
from ca.pki.lint import allowances, lint_certificate, require_clean
from ca.pki.profile import CLASSIC
from tests.acceptance.certbot_program import CERTBOT
from tests.acceptance.demo_process import CHANCERY
from tests.acceptance.internet import NAMES, SHOP, Client, Internet
from tests.acceptance.openssl import names_of, verify
from tests.acceptance.public_ca import AtAddress, PublicCa, edited, run_public_ca
from tests.ct_embedded import listed_logs, verify_embedded

_URN = "urn:ietf:params:acme:error:"
_PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def public(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublicCa]:
    """The CA; what it has done at the end must satisfy the global checker."""
    with run_public_ca(internet, tmp_path_factory.mktemp("public")) as running:
        yield running


@pytest.fixture(scope="module")
def client(public: PublicCa) -> Client:
    """A subscriber, somewhere in the Internet."""
    return Client(public.internet.net, public, AtAddress())


def _validation(public: PublicCa, order: messages.OrderResource) -> dict[str, Any]:
    document = json.loads(public.run("order", "explain", order.uri.rpartition("/")[2], "--output", "json"))
    seen: dict[str, Any] = document["authorizations"][0]["validation"]
    return seen


def _ocsp(public: PublicCa, leaf: Path, certificate: x509.Certificate) -> str:
    """What the responder that the certificate names says, at its URL."""
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    url = next(each.access_location.value for each in access
               if each.access_method == x509.oid.AuthorityInformationAccessOID.OCSP)
    assert url == "http://ocsp.example.com"
    return public.anywhere("openssl", "ocsp", "-CAfile", str(public.ca_roots), "-issuer", str(public.issuer),
                           "-cert", str(leaf), "-url", url)


def _crl_verdict(public: PublicCa, leaf: Path) -> str:
    """What openssl says when it fetches the CRL that the certificate names."""
    return public.anywhere("openssl", "verify", "-x509_strict", "-crl_download", "-crl_check", "-CAfile",
                           str(public.ca_roots), "-untrusted", str(public.issuer), str(leaf))


def _until(said: str, ask: Callable[[], str]) -> None:
    give_up_at = time.monotonic() + _PATIENCE_S
    while said not in (text := ask()):
        assert time.monotonic() < give_up_at, text
        time.sleep(0.3)


def test_a_certificate_from_order_to_revocation(public: PublicCa, client: Client, tmp_path: Path) -> None:
    """MP1, CT, BR 4.9: validated by everybody, logged with two operators, clean by lint and openssl, good, revoked."""
    order = client.order("www.subscriber.com", public.internet.true_site)
    certificate = client.issue(order)
    assert names_of(certificate) == ["www.subscriber.com"]
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(certificate.public_bytes(Encoding.PEM))

    evidence = _validation(public, order)["evidence"]
    assert {each["name"]: each["verdict"] for each in evidence["perspectives"]} == dict.fromkeys(NAMES, "corroborates")
    for each in (evidence, *evidence["perspectives"]):
        assert any(fact.get("addresses") == "www.subscriber.com" and fact.get("dnssec") for fact in each["facts"])

    issuer = x509.load_pem_x509_certificate(public.issuer.read_bytes())
    logs = listed_logs(public.data_dir / "log_list.json")
    logged = verify_embedded(certificate, issuer, logs)
    assert len(logged) >= 2
    assert len({log.operator for log in logs if log.name in logged}) >= 2
    findings = lint_certificate(certificate.public_bytes(Encoding.DER), read_issuer(issuer.public_bytes(Encoding.DER)))
    require_clean(findings, allowances(CLASSIC, public=True), "the certificate")
    verify(leaf, trusted=public.ca_roots, untrusted=public.issuer)

    _until(f"{leaf}: good", lambda: _ocsp(public, leaf, certificate))
    assert _crl_verdict(public, leaf) == f"{leaf}: OK\n"
    client.revoke(certificate)
    _until(f"{leaf}: revoked", lambda: _ocsp(public, leaf, certificate))
    _until("certificate revoked", lambda: _crl_verdict(public, leaf))


def test_certbot_without_special_settings(public: PublicCa, tmp_path: Path) -> None:
    """A subscriber's certbot at the CA's public name and the standard ports: the chain verifies, the CRL is there."""
    place = str(tmp_path)
    said = public.anywhere(
        "env", f"REQUESTS_CA_BUNDLE={public.roots}", str(CERTBOT), "certonly", "--standalone",
        "--http-01-address", SHOP, "-d", "shop.subscriber.com", "--server", public.directory_url, "--agree-tos", "-n",
        "--register-unsafely-without-email", "--config-dir", place, "--work-dir", place, "--logs-dir", place)
    assert "Successfully received certificate" in said, said
    live = tmp_path / "live" / "shop.subscriber.com"
    verify(live / "cert.pem", trusted=public.ca_roots, untrusted=live / "chain.pem")
    assert _crl_verdict(public, live / "cert.pem") == f"{live / 'cert.pem'}: OK\n"


@pytest.mark.parametrize(("name", "detail"), [
    ("www.corp.internal", "www.corp.internal is a special-use name (.internal)"),
    ("www.subscriber.lab", "www.subscriber.lab does not end in a public suffix of the ICANN section"),
    ("10.201.1.1", "10.201.1.1 is not an address that this CA issues for"),
    ("co.uk", "co.uk: co.uk is a public suffix, not one subscriber's name"),
    ("*.co.uk", "wildcard *.co.uk: co.uk is a public suffix, not one subscriber's name"),
])
def test_names_that_a_public_ca_never_certifies(client: Client, name: str, detail: str) -> None:
    """NM6, NM8, IP5: special-use, internal and public-suffix names and private addresses are refused at the order."""
    problem = client.refusal(name)
    assert (problem.typ, problem.detail) == (f"{_URN}rejectedIdentifier", detail)


def test_a_domain_that_permits_another_ca_only(public: PublicCa, client: Client) -> None:
    """RFC 8659, BR 3.2.2.8: the challenge is found, and the order fails for CAA; nothing is signed."""
    order = client.order("www.customer.com", public.internet.true_site)
    assert client.status(order) == "invalid"
    problem = _validation(public, order)["problem"]
    assert (problem["type"], problem["status"]) == (f"{_URN}caa", 403)
    assert problem["detail"] == (
        "the CAA records for www.customer.com forbid issuance: issue names other.example.net, not us")


def test_limits_of_the_public_preset(public: PublicCa) -> None:
    """The eleventh account of an address within three hours is refused; other addresses go on."""
    host = public.internet.perspectives[1]
    for _ in range(10):
        Client(host, public, AtAddress())
    with pytest.raises(messages.Error) as caught:
        Client(host, public, AtAddress())
    assert caught.value.typ == f"{_URN}rateLimited"
    assert "too many new accounts from 10.201.2.1: 10 in 3 hours" in str(caught.value.detail)


def test_a_start_without_what_the_policy_needs(public: PublicCa) -> None:
    """MP1, CT: too few perspectives, no log list: one clear line that names the setting and what to do."""
    few = edited(public.config, r'(?s)\[\[perspectives\.remotes\]\]\nname = "sin1".*')
    assert public.refused_start("va", few) == (
        "chancery va: perspectives.remotes: every validation was made with 2 remote perspectives, where "
        f'{rule_at(datetime.now(UTC), public=True).least_asked} are needed (BR 3.2.2.9): '
        'add perspectives (deploy/PERSPECTIVES.md), or set policy = "internal"')
    without = edited(public.config, r'log_list = .*')
    assert public.refused_start("publisher", without) == (
        f"chancery publisher: {without}: ct.log_list: expected the path of a list of CT logs, because Certificate "
        "Transparency is on (ct.enabled)")
    lost = edited(public.config, r"log_list\.json", "lost.json")
    assert public.refused_start("publisher", lost) == (
        f"chancery publisher: ct.log_list: {lost.with_name('lost.json')}: No such file or directory")


def test_all_is_well(public: PublicCa) -> None:
    """After all of this: status ok, CRLs as published at their public URLs, the database holds together."""
    found = public.status()
    assert found["reasons"] == []
    checked = public.anywhere(str(CHANCERY), "crl", "check", "--config", str(public.config))
    assert checked == "8 CRLs read, 0 of them not as they should be\n"
    assert public.run("audit", "check").endswith("ok\n")
    assert public.run("ceremony", "record", str(public.ceremony / "out")) == "ok: it was all there\n"
