"""The CA as a process: it starts, works, stops; it refuses to start when in doubt; kill -9 loses nothing."""

import asyncio
import random
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import NameOID

from acme_api.va.store import Outcome, VaStore
from ca.pki.key_identifier import key_identifier
from ca.process.audit_reader import read_chain, summarize
from ca.process.postgres import create_pool
from tests.ca.issuing.running import CaProcess, ca_process, until, write_settings
from tests.ca.issuing.world import EC_ISSUER, RSA_ISSUER, SHARDS, World


async def test_a_whole_life(world: World, tmp_path: Path) -> None:
    """CRLs before it is ready; a notification wakes it; a revocation is in a CRL within seconds; SIGTERM ends it."""
    async with ca_process(write_settings(tmp_path, world)) as ca:
        assert await world.owner.fetchval("SELECT count(*) FROM crls") == 2 * SHARDS
        order = await world.ordered("www.example.com")
        await world.run("acme_wfe", "NOTIFY issuance")
        await until(world, "EXISTS (SELECT FROM certificate_signatures)")
        serial = await world.serial(order.id)
        await world.revocation_request(serial, 4)
        await world.run("acme_wfe", "NOTIFY revocation")
        await until(world, "EXISTS (SELECT FROM crls WHERE entries = 1)", timeout_s=10)
        assert await ca.stop() == 0
    trail = [record.event for record in read_chain(tmp_path / "audit" / "ca.0")]
    assert trail[-5:] == ["signed", "revoked", "signing", "signed", "closed"]
    summary, _ = summarize(tmp_path / "audit" / "ca.0")
    assert (summary.asked.total(), summary.signed.total()) == (2 * SHARDS + 2, 2 * SHARDS + 2)
    assert summary.without_intent == []
    assert await world.owner.fetchval("SELECT count(*) FROM audit_heads") >= 1
    await world.check()


async def test_ca9_a_look_at_caa_that_is_stored_wakes_the_ca(world: World, tmp_path: Path) -> None:
    """CA9: as the VA stores what it saw, the CA goes on with the request, which would otherwise wait for an hour."""
    subscriber = await world.subscriber()
    order = await world.order(subscriber, "www.example.com", validated=False)
    await world.validate(order.authorization_ids[0], subscriber, order.names[0],
                         caa_checked_at=world.now() - timedelta(hours=9))
    pool = await create_pool(world.database.settings, "acme_va", process="va")
    async with ca_process(write_settings(tmp_path, world)) as ca:
        await world.finalize(order)
        await world.run("acme_wfe", "NOTIFY issuance")
        await until(world, "EXISTS (SELECT FROM validation_requests)"
                    " AND EXISTS (SELECT FROM issuance_requests WHERE leased_until < now() + interval '5 seconds')")
        await world.owner.execute("UPDATE issuance_requests SET leased_until = now() + interval '1 hour'")
        va = VaStore(pool, leased_by="va")
        request, = await va.claim(1)
        assert await va.complete([Outcome(request=request, at=world.now(), valid_until=None, caa_checked_at=None,
                                          problem=None, evidence={})]) == 1
        await until(world, "EXISTS (SELECT FROM certificate_signatures)")
        assert await ca.stop() == 0
    pool.terminate()
    await world.issued(order.id)
    await world.check()


async def test_a_new_issuer_is_taken_up(world: World, tmp_path: Path) -> None:
    """Roll over without a restart: the process finds the new issuer's key and publishes its CRLs, and when it is put to
    work it certifies."""
    row = await world.owner.fetchrow("DELETE FROM issuers WHERE id = $1 RETURNING *", RSA_ISSUER)
    assert row is not None
    async with ca_process(write_settings(tmp_path, world)) as ca:
        assert await world.owner.fetchval("SELECT count(*) FROM crls") == SHARDS
        await world.run("ca_admin", "INSERT INTO issuers (id, name, key_type, certificate, crl_shards, active,"
                        " created_at) VALUES ($1, $2, 'rsa', $3, $4, false, now())", RSA_ISSUER, row["name"],
                        row["certificate"], SHARDS)
        await until(world, f"(SELECT count(*) = {2 * SHARDS} FROM crls)")
        await world.run("ca_admin", "UPDATE issuers SET active = true")
        order = await world.ordered("www.example.com", leaf=rsa.generate_private_key(65_537, 2048))
        await until(world, "EXISTS (SELECT FROM certificate_signatures) OR EXISTS (SELECT FROM refusals)")
        assert (await world.issued(order.id)).issuer == x509.load_der_x509_certificate(row["certificate"]).subject
        assert await ca.stop() == 0


async def test_a_token_that_goes_and_comes_back(world: World, tmp_path: Path) -> None:
    """Mid-run: nothing is lost and nothing is claimed while it is away; back again, the work goes on by itself."""
    conf = world.softhsm.conf.read_text("utf-8")
    place = re.search(r"directories.tokendir *= *(\S+)", conf)
    assert place is not None
    tokens = tmp_path / "tokens"
    shutil.copytree(place[1], tokens)
    (tmp_path / "softhsm2.conf").write_text(conf.replace(place[1], str(tokens)))
    async with ca_process(write_settings(tmp_path, world, conf=str(tmp_path / "softhsm2.conf"))) as ca:
        shutil.move(tokens, tmp_path / "away")
        tokens.mkdir()
        order = await world.ordered("www.example.com")
        await world.run("acme_wfe", "NOTIFY issuance")
        async with asyncio.timeout(60):
            while not any(event["event"] == "the token is away" for event in ca.events):  # noqa: ASYNC110 - a log
                await asyncio.sleep(0.1)
        later = await world.ordered("later.example.com")
        assert await world.certificate(order.id) is None
        tokens.rmdir()
        shutil.move(tmp_path / "away", tokens)
        await until(world, "(SELECT count(*) = 2 FROM certificate_signatures)", timeout_s=60)
        await world.issued(order.id)
        await world.issued(later.id)
        assert any(event["event"] == "the token is back" for event in ca.events)
        assert await ca.stop() == 0
    await world.check()


async def test_without_notifications(world: World, tmp_path: Path) -> None:
    """NOTIFY only wakes: the poll finds what was missed."""
    async with ca_process(write_settings(tmp_path, world)):
        await world.ordered("www.example.com")
        await until(world, "EXISTS (SELECT FROM certificate_signatures)", timeout_s=10)


async def test_kill_at_any_time(world: World, tmp_path: Path) -> None:
    """Two processes killed again and again under load: every order ends with one certificate, no serial twice."""
    settings = write_settings(tmp_path, world)
    orders = [await world.ordered(f"n{number}.example.com") for number in range(60)]
    left = "NOT EXISTS (SELECT FROM issuance_requests)"

    async def life(patience_s: float) -> None:
        async with ca_process(settings) as ca:
            await asyncio.sleep(patience_s)
            await ca.kill()

    kills = 0
    while not await world.owner.fetchval(f"SELECT {left}") and kills < 12:
        await asyncio.gather(life(random.uniform(0.01, 0.25)), life(random.uniform(0.01, 0.25)))
        await world.check()
        kills += 2
    async with ca_process(settings):
        await until(world, left, timeout_s=60)
    serials = {(await world.issued(order.id)).serial_number for order in orders}
    assert len(serials) == 60
    assert await world.owner.fetchval("SELECT count(*) FROM certificates") == 60
    assert kills >= 2
    await world.check()


async def _refuses_to_start(settings: Path, *words: str) -> CaProcess:
    async with ca_process(settings, wait=False) as ca:
        assert await asyncio.wait_for(ca.process.wait(), 30) == 1
    lines = [line for line in ca.lines if not line.startswith("{")]
    assert len(lines) == 1, ca.lines
    assert lines[0].startswith("chancery ca: ")
    for word in words:
        assert word in lines[0]
    return ca


async def test_no_issuer(world: World, tmp_path: Path) -> None:
    """An empty database says what to do."""
    await world.owner.execute("DELETE FROM issuers")
    await _refuses_to_start(write_settings(tmp_path, world), "ceremony")


async def test_a_missing_key(world: World, tmp_path: Path) -> None:
    """An issuer whose key is not in the token."""
    await world.owner.execute("UPDATE issuers SET name = 'Elsewhere E7' WHERE id = $1", EC_ISSUER)
    await _refuses_to_start(write_settings(tmp_path, world), "Elsewhere E7", "no private key")


async def test_another_key(world: World, tmp_path: Path) -> None:
    """A token that holds another key under the issuer's name."""
    await world.owner.execute("UPDATE issuers SET certificate = $1 WHERE id = $2",
                              _certificate_for(ec.generate_private_key(ec.SECP256R1()).public_key(), None), EC_ISSUER)
    await _refuses_to_start(write_settings(tmp_path, world), world.softhsm.ec_label, "not the key of its certificate")


async def test_an_expired_issuer_is_left_out(world: World, tmp_path: Path) -> None:
    """Its key may have been destroyed: nothing is signed with it any more."""
    await world.owner.execute(
        "INSERT INTO issuers VALUES (9, 'Old E0', 'ec', $1, 4, false, now())",
        _certificate_for(ec.generate_private_key(ec.SECP256R1()).public_key(), None, days=-1))
    async with ca_process(write_settings(tmp_path, world)) as ca:
        assert await ca.stop() == 0
    assert await world.owner.fetchval("SELECT count(*) FROM crls") == 2 * SHARDS


@pytest.mark.parametrize("method", ["rfc7093", "sha1"])
async def test_a_roots_key_in_the_token(world: World, tmp_path: Path, method: str) -> None:
    """An issuer that was signed by another key of this token: that key is a root's, and must not be in reach."""
    listings = await world.thread.run(world.thread.token.list_keys)
    root_spki = next(listing.spki for listing in listings if listing.label == world.softhsm.rsa_label) or b""
    own_spki = next(listing.spki for listing in listings if listing.label == world.softhsm.ec_label) or b""
    key_id = key_identifier(root_spki) if method == "rfc7093" else x509.SubjectKeyIdentifier.from_public_key(
        load_der_public_key(root_spki)).digest  # type: ignore[arg-type]
    await world.owner.execute("DELETE FROM issuers WHERE id <> $1", EC_ISSUER)
    await world.owner.execute("UPDATE issuers SET certificate = $1",
                              _certificate_for(load_der_public_key(own_spki), key_id))
    await _refuses_to_start(write_settings(tmp_path, world), "the key of a root", world.softhsm.rsa_label)


async def test_a_self_signed_issuer(world: World, tmp_path: Path) -> None:
    """A root cannot be an issuer of leaves."""
    listings = await world.thread.run(world.thread.token.list_keys)
    own_spki = next(listing.spki for listing in listings if listing.label == world.softhsm.ec_label) or b""
    await world.owner.execute("UPDATE issuers SET certificate = $1 WHERE id = $2", _certificate_for(
        load_der_public_key(own_spki), key_identifier(own_spki)), EC_ISSUER)
    await _refuses_to_start(write_settings(tmp_path, world), "the key of a root")


async def test_a_wrong_pin(world: World, tmp_path: Path) -> None:
    """Said in one line, without the PIN, and tried once."""
    pin_file = tmp_path / "pin"
    pin_file.write_text("not the pin")
    pin_file.chmod(0o600)
    ca = await _refuses_to_start(write_settings(tmp_path, world, pin_file=str(pin_file)), "refuses the PIN")
    assert "not the pin" not in "\n".join(ca.lines)


def _certificate_for(public_key: object, signer_key_id: bytes | None, days: int = 900) -> bytes:
    """An issuing certificate for a public key, by a key that is forgotten; its AKI says whose key that is."""
    signer = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Odd")])
    return (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public_key)  # type: ignore[arg-type]
            .serial_number(1).not_valid_before(now - timedelta(days=30)).not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier(key_identifier(public_key.public_bytes(  # type: ignore[attr-defined]
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo))), False)
            .add_extension(x509.AuthorityKeyIdentifier(signer_key_id or bytes(20), None, None), False)
            .sign(signer, hashes.SHA256()).public_bytes(Encoding.DER))
