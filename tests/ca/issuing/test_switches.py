"""Which issuer certifies, and what the operator switches off. Real PostgreSQL, real SoftHSM."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.issuing.authorities import choose
from ca.issuing.cycle import issue_batch
from ca.issuing.issuer_store import Switches
from ca.pki.issuer import read_issuer
from ca.pki.refusal import Refusal
from ca.pki.validity import Validity
from tests.acme_client import URN
from tests.ca.issuing.world import EC_ISSUER, RSA_ISSUER, SHARDS, World, spki_sha256


@pytest.mark.parametrize("profile", ["classic", "tlsserver"])
@pytest.mark.parametrize(("leaf", "issuer_id"), [
    (ec.generate_private_key(ec.SECP256R1()), EC_ISSUER), (ec.generate_private_key(ec.SECP384R1()), EC_ISSUER),
    (rsa.generate_private_key(65_537, 2048), RSA_ISSUER)], ids=["p256", "p384", "rsa"])
async def test_the_issuer_follows_the_key(
    world: World, leaf: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, issuer_id: int, profile: str
) -> None:
    """RSA signs RSA, EC signs EC; the key in the certificate is the CSR's."""
    order = await world.ordered("www.example.com", leaf=leaf, profile=profile)
    await issue_batch(world.process(), 8)
    certificate = await world.issued(order.id)
    assert certificate.public_key() == leaf.public_key()
    assert await world.owner.fetchval("SELECT issuer_id FROM certificates") == issuer_id
    assert await world.owner.fetchval("SELECT spki_sha256 FROM certificates") == spki_sha256(leaf)


async def test_issuers_are_switched_off_by_the_operator(world: World) -> None:
    """`issuers.active` counts within a second: no restart is needed to stop an issuer."""
    ca = world.process()
    first = await world.ordered("a.example.com")
    await issue_batch(ca, 8)
    await world.issued(first.id)
    await world.run("ca_admin", "UPDATE issuers SET active = false WHERE id = $1", EC_ISSUER)
    world.clock_s = 1
    second = await world.ordered("b.example.com")
    await issue_batch(ca, 8)
    problem = await world.refusal(second.id) or {}
    assert problem["type"] == URN + "badPublicKey"
    assert "no active issuer for EC keys" in problem["detail"]


async def test_kill_switches(world: World) -> None:
    """Within a second: a disabled issuer certifies nothing, also not what was begun, and finishes that when it is
    enabled; a disabled profile is refused, others are not."""
    ca = world.process()

    async def stop(number: int) -> None:
        if number == 4:
            raise InterruptedError

    begun = await world.ordered("a.example.com")
    ca.after_step = stop
    with pytest.raises(InterruptedError):
        await issue_batch(ca, 8)
    serial = await world.serial(begun.id)
    await world.run("ca_admin", "UPDATE issuers SET disabled_at = now() WHERE id = $1", EC_ISSUER)
    await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    world.clock_s = 1
    ca = world.process()
    fresh = await world.ordered("b.example.com")
    await issue_batch(ca, 8)
    assert await world.certificate(begun.id) is None
    assert "no active issuer" in (await world.refusal(fresh.id) or {})["detail"]
    rsa_order = await world.ordered("c.example.com", leaf=rsa.generate_private_key(65_537, 2048))
    await issue_batch(ca, 8)
    await world.issued(rsa_order.id)
    await world.run("ca_admin", "UPDATE issuers SET disabled_at = NULL")
    await world.run("ca_admin", "INSERT INTO disabled_profiles VALUES ('tlsserver', now(), 'ada', '')")
    await world.owner.execute("UPDATE issuance_requests SET leased_until = '-infinity'")
    world.clock_s = 2
    of_profile, other = await world.ordered("d.example.com"), await world.ordered("e.example.com", profile="classic")
    await issue_batch(ca, 8)
    assert (await world.issued(begun.id)).serial_number == int.from_bytes(serial, "big")
    assert (await world.refusal(of_profile.id) or {})["type"] == URN + "invalidProfile"
    await world.issued(other.id)
    await world.check()


def test_which_issuer_certifies() -> None:
    """The newest that works; one that ends before the certificate would only when there is no other."""
    now = datetime(2026, 11, 24, tzinfo=UTC)

    def authority(number: int, days: int, kind: str = "ec") -> Any:
        return SimpleNamespace(id=number, issuer=SimpleNamespace(
            key_type=kind, validity=Validity(not_before=now, not_after=now + timedelta(days=days))))

    issuers = {1: authority(1, 400), 2: authority(2, 50), 3: authority(3, 1000, "rsa"), 4: authority(4, 1000)}
    until = now + timedelta(days=90)

    def chosen(*active: int, disabled: frozenset[int] = frozenset()) -> int:
        return choose(issuers, Switches(active=frozenset(active), disabled=disabled), "ec", until=until).id

    assert chosen(1, 2, 3, 4) == 4
    assert chosen(1, 2, 3) == 1
    assert chosen(2) == 2
    assert chosen(1, 4, disabled=frozenset({4})) == 1
    with pytest.raises(Refusal, match="no active issuer for EC keys"):
        chosen(3)
    with pytest.raises(Refusal):
        chosen(4, disabled=frozenset({4}))


async def test_an_issuer_that_ends_too_soon(world: World) -> None:
    """Nothing is signed past the issuer's own notAfter."""
    order = await world.ordered("www.example.com")
    # Most of the issuer's three years later; the order's evidence is renewed to that day.
    world.clock_s = 1060 * 86_400.0
    await world.owner.execute("UPDATE validations SET validated_at = $1, valid_until = $2, caa_checked_at = $1",
                              world.now(), world.now() + timedelta(days=30))
    await issue_batch(world.process(), 8)
    problem = await world.refusal(order.id) or {}
    assert "outlive its issuer" in problem["detail"]


def _reissued(certificate: x509.Certificate, common_name: str, ends: datetime) -> bytes:
    """The same CA with another name and end, signed by some root."""
    builder = (x509.CertificateBuilder().subject_name(x509.Name([*list(certificate.subject)[:-1], x509.NameAttribute(
        NameOID.COMMON_NAME, common_name)])).issuer_name(certificate.issuer).serial_number(77)
        .public_key(certificate.public_key()).not_valid_before(certificate.not_valid_before_utc).not_valid_after(ends))
    for each in certificate.extensions:
        builder = builder.add_extension(each.value, each.critical)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


async def test_the_successor_of_an_issuer_that_ends_too_soon(world: World) -> None:
    """An issuer with 30 days left certifies what ends before it and refuses the rest; its successor, as soon as it is
    active, takes over all new orders, and what the old one certified stays what it is."""
    certificate, successor = x509.load_der_x509_certificate(world.issuers[EC_ISSUER]), 3
    end = world.now().replace(microsecond=0) + timedelta(days=30)
    world.issuers |= {EC_ISSUER: _reissued(certificate, "Old", end),
                      successor: _reissued(certificate, "Successor", certificate.not_valid_after_utc)}
    await world.run(
        "ca_admin", "INSERT INTO issuers (id, name, key_type, certificate, crl_shards, active, created_at)"
        " VALUES ($1, 'Successor', 'ec', $2, $3, false, now())", successor, world.issuers[successor], SHARDS)
    for number, name in ((EC_ISSUER, "Old"), (successor, "Successor")):
        world.authorities[number] = replace(world.authorities[EC_ISSUER], id=number, name=name,
                                            issuer=read_issuer(world.issuers[number]))
    ca = world.process()
    late, short = await world.ordered("late.example.com"), await world.ordered("short.example.com",
                                                                               profile="shortlived")
    await issue_batch(ca, 8)
    problem = await world.refusal(late.id) or {}
    assert "outlive its issuer" in problem["detail"]
    assert (await world.issued(short.id)).issuer.rfc4514_string().startswith("CN=Old,")
    await world.run("ca_admin", "UPDATE issuers SET active = true WHERE id = $1", successor)
    world.clock_s = 1
    orders = [await world.ordered("after.example.com"), await world.ordered("x.example.com", profile="shortlived")]
    await issue_batch(ca, 8)
    for order in orders:
        assert (await world.issued(order.id)).issuer.rfc4514_string().startswith("CN=Successor,")
    assert (await world.issued(orders[0].id)).not_valid_after_utc > end
    assert (await world.issued(short.id)).issuer.rfc4514_string().startswith("CN=Old,")
