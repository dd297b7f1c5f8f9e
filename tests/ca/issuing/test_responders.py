"""Delegated OCSP responders at the CA: which keys it certifies, when it renews, what a killed one leaves behind."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.issuing.responders import ResponderCertifier
from ca.pki.lint import lint_responder
from ca.pki.ocsp_responder import Delegation
from hsm.errors import TokenLostError
from tests.ca.issuing.world import EC_ISSUER, RSA_ISSUER, World, spki_sha256

_DAY_S = 86_400.0


def certifier(world: World, *, delegation: Delegation | None = None) -> ResponderCertifier:
    """A CA process's part."""
    ca = world.process()
    return ResponderCertifier(pool=ca.pool, ambient=ca.ambient, delegation=delegation or Delegation(rule="all"),
                              authorities=ca.authorities, signer=ca.signer, audit=ca.audit, log=ca.log)


def csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """As the pre-signer makes it."""
    algorithm = hashes.SHA256() if key.key_size == 256 else hashes.SHA384()
    return (x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
            .public_bytes(Encoding.DER))


async def ask(world: World, label: str, *, issuer_id: int = EC_ISSUER, request: bytes | None = None) -> None:
    """A key of the pre-signer's."""
    signer = await world.database.connect("ocsp_signer")
    await signer.execute("INSERT INTO ocsp_responder_keys VALUES ($1, $2, $3, $4)", label, issuer_id,
                         request or csr(ec.generate_private_key(ec.SECP256R1())), world.now())
    await signer.close()


async def responders(world: World) -> list[Any]:
    """The rows, in the order of their ids."""
    return await world.owner.fetch("SELECT * FROM ocsp_responders ORDER BY id")


async def test_each_issuer_certifies_its_responder_and_renews_it_a_month_before_the_end(world: World) -> None:
    """Clean by lint, its serial number known and revocable like any other; nothing is made twice."""
    await ask(world, "one")
    await ask(world, "two", issuer_id=RSA_ISSUER)
    for day, count in ((0, 2), (1, 2), (59, 2), (61, 4), (100, 4), (121, 6)):
        world.clock_s = day * _DAY_S
        await world.owner.execute("SELECT create_partitions($1)", world.now())      # as upkeep does every hour
        await certifier(world).certify_due()
        rows = await responders(world)
        assert len(rows) == count, day
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {(row["key_label"], row["issuer_id"]) for row in rows} == {("one", EC_ISSUER), ("two", RSA_ISSUER)}
    for row in rows:
        certificate = x509.load_der_x509_certificate(row["certificate"])
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(world.issuers[row["issuer_id"]]))
        assert lint_responder(row["certificate"]) == []
        assert certificate.serial_number.to_bytes(18, "big") == row["serial"]
        assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (
            row["not_before"], row["not_after"])
        assert await world.owner.fetchval(
            "SELECT count(*) FROM certificates NATURAL JOIN certificate_signatures WHERE serial = $1 AND NOT has_ocsp",
            row["serial"]) == 1
    signing = [event for event in world.events if event["event"] == "signing"]
    assert {event["subject"] for event in signing} == {row["serial"].hex() for row in rows}


@pytest.mark.parametrize(("case", "why"), [
    ("not delegated", "signs its responses itself"), ("p384", "P-256"), ("not its own", "own key"),
    ("blocked", "blocked"), ("garbage", "parsing")])
async def test_what_is_not_a_responder_is_not_certified(world: World, case: str, why: str) -> None:
    """The CA's own configuration decides, a request has to prove its key, a lost key is not certified again."""
    key = ec.generate_private_key(ec.SECP384R1() if case == "p384" else ec.SECP256R1())
    request = csr(key)
    if case == "garbage":
        request = b"\x30\x03\x02\x01\x00"
    if case == "not its own":
        request = request[:-4] + bytes(4)
    if case == "blocked":
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        await world.owner.execute("INSERT INTO blocked_keys VALUES ($1, NULL, now(), 'operator', '{}', NULL)",
                                  spki_sha256(key))
    await ask(world, "one", request=request)
    await certifier(world, delegation=Delegation(rule="none" if case == "not delegated" else "all")).certify_due()
    assert await responders(world) == []
    refused = [event["why"] for event in world.events if event["event"] == "an OCSP responder is not certified"]
    assert len(refused) == 1
    assert why in refused[0]


async def test_keys_without_end_get_no_certificates_without_end(world: World) -> None:
    """Only the newest key of an issuer, and six living certificates at most."""
    for number in range(9):
        await ask(world, f"key {number}")
        await ask(world, f"newer {number}")
        await certifier(world).certify_due()
    assert [row["key_label"] for row in await responders(world)] == [f"newer {number}" for number in range(6)]


async def test_what_was_begun_is_finished_with_the_serial_number_that_it_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is lost between the intent and the signature; the next process signs the very same bytes."""
    await ask(world, "one")
    broken = certifier(world)

    async def lost(*_: object) -> list[bytes]:
        raise TokenLostError("gone")

    monkeypatch.setattr(broken._signer, "sign", lost)
    with pytest.raises(TokenLostError):
        await broken.certify_due()
    begun, = await responders(world)
    assert begun["certificate"] is None
    world.clock_s = timedelta(hours=1).total_seconds()
    await certifier(world).certify_due()
    finished, = await responders(world)
    tbs = await world.owner.fetchval("SELECT tbs FROM certificates WHERE serial = $1", begun["serial"])
    assert x509.load_der_x509_certificate(finished["certificate"]).tbs_certificate_bytes == tbs
