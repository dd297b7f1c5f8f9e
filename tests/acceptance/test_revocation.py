"""What operators and proofs do to a running CA, process by process: a lost key, a mass revocation, a kill switch, and
that all of it is in the audit logs (spec/pki.md A.5, scenarios 2 and 4)."""

import json
import time
from pathlib import Path
from typing import cast

import pytest
from acme import client, messages
from acme import errors as acme_errors
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from tests.acceptance.acme_session import AcmeSession, ChallengeServer, challenge_server, patiently
from tests.acceptance.demo_process import Demo
from tests.acceptance.openssl import crl_of, ocsp_status, wait_until_revoked

_ISSUER = "Chancery Demo E1"


def _request(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False).sign(key, hashes.SHA256()).public_bytes(
            Encoding.PEM)


def _ready(session: AcmeSession, server: ChallengeServer, name: str, key: ec.EllipticCurvePrivateKey
           ) -> messages.OrderResource:
    order: messages.OrderResource = patiently(lambda: session.client.new_order(_request(name, key)))
    session.answer(order, server)
    assert session.wait_for(order, "ready", "invalid") == "ready"
    return order


def _issue(session: AcmeSession, server: ChallengeServer, name: str, key: ec.EllipticCurvePrivateKey, place: Path
           ) -> tuple[x509.Certificate, Path]:
    order = _ready(session, server, name, key)
    session.finalize(order)
    assert session.wait_for(order, "valid", "invalid") == "valid"
    certificate = session.download(order)
    leaf = place / f"{name}.pem"
    leaf.write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate, leaf


@pytest.fixture
def issuer_file(demo: Demo) -> Path:
    """The issuing certificate of EC keys."""
    return demo.data_dir / "issuers" / "chancery-demo-e1.pem"


def test_a_lost_key(demo: Demo, tmp_path: Path, issuer_file: Path) -> None:
    """RV6: one certificate is revoked by its own key; its sibling is revoked too, the key is refused for orders and
    accounts, and an account that has a lost key is closed."""
    session = AcmeSession(demo)
    lost, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    with challenge_server(demo) as server:
        first, leaf = _issue(session, server, "first.lost.localhost", lost, tmp_path)
        _, sibling = _issue(session, server, "second.lost.localhost", lost, tmp_path)
        _, untouched = _issue(session, server, "third.lost.localhost", other, tmp_path)
        key = JWKEC(key=lost)
        by_key = client.ClientV2(session.client.directory, client.ClientNetwork(
            key, alg=ES256, verify_ssl=str(demo.roots)))  # type: ignore[arg-type]
        by_key.revoke(first, 0)
        for each in (leaf, sibling):
            wait_until_revoked(demo, leaf=each, issuer=issuer_file)
        assert ocsp_status(demo, leaf=untouched, issuer=issuer_file) == "good"
        again = _ready(session, server, "fourth.lost.localhost", lost)
        with pytest.raises(messages.Error) as refused:
            session.client._post(again.body.finalize, messages.CertificateRequest(
                csr=x509.load_pem_x509_csr(again.csr_pem)))
        assert refused.value.code == "badCSR"
        with pytest.raises((messages.Error, acme_errors.Error)) as refused_account:
            by_key.new_account(messages.NewRegistration.from_data(terms_of_service_agreed=True))
        assert "badPublicKey" in str(refused_account.value)
    private = tmp_path / "account.pem"
    account_key = cast("ec.EllipticCurvePrivateKey", session._key.key._wrapped)
    private.write_bytes(account_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    told = json.loads(demo.run("key", "block", "--key-file", str(private), "--yes", "--output", "json"))
    assert told["account"]["url"] == session.account_url
    assert json.loads(demo.run("account", "show", session.account_url, "--output", "json"))["state"] == "revoked"
    assert len(json.loads(demo.run("key", "list", "--output", "json"))["keys"]) >= 2


def test_many_at_once_and_what_the_world_reads(demo: Demo, tmp_path: Path, issuer_file: Path) -> None:
    """Foretold, ordered, done when the command returns; in the CRL that the certificate names; every CRL reads back;
    the audit logs verify."""
    session = AcmeSession(demo)
    with challenge_server(demo) as server:
        leaves = [_issue(session, server, f"n{number}.mass.localhost", ec.generate_private_key(ec.SECP256R1()),
                         tmp_path) for number in range(3)]
    query = ("revoke", "--query", "name=mass.localhost", "--reason", "superseded", "--output", "json")
    assert '"to_revoke": 3' in demo.run(*query, exit_code=4)
    done = json.loads(demo.run(*query, "--incident", "acceptance", "--yes"))
    assert (done["revoked"], done["ocsp_waiting"]) == (3, 0)
    for certificate, leaf in leaves:
        wait_until_revoked(demo, leaf=leaf, issuer=issuer_file)
        give_up_at = time.monotonic() + 60
        while crl_of(leaf).get_revoked_certificate_by_serial_number(certificate.serial_number) is None:
            assert time.monotonic() < give_up_at, "the CRL does not list it"
            time.sleep(0.2)
    demo.run("incident", "close", "acceptance", "--yes")
    assert json.loads(demo.run("crl", "check", "--output", "json"))["faults"] == []
    verified = json.loads(demo.run("audit", "verify", "--output", "json"))
    assert verified["faults"] == []
    assert {signature["kind"] for chain in verified["chains"] for signature in chain["signatures"]} >= {
        "certificate", "crl", "ocsp"}


def test_the_kill_switch(demo: Demo, tmp_path: Path) -> None:
    """A disabled issuer certifies nothing a second later, and goes on when it is enabled."""
    session = AcmeSession(demo)
    with challenge_server(demo) as server:
        refused = _ready(session, server, "off.switch.localhost", ec.generate_private_key(ec.SECP256R1()))
        demo.run("issuer", "disable", _ISSUER, "--yes")
        try:
            time.sleep(1.1)
            session.finalize(refused)
            assert session.wait_for(refused, "valid", "invalid") == "invalid"
        finally:
            demo.run("issuer", "enable", _ISSUER, "--yes")
        time.sleep(1.1)
        _issue(session, server, "on.switch.localhost", ec.generate_private_key(ec.SECP256R1()), tmp_path)
