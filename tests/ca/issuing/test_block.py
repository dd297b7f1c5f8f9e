"""Blocked keys and names in the CA: who blocks, what follows, and that the CA refuses whatever the front end says."""

import hashlib
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acme_api.protocol.jws import jwk_of_public_key, thumbprint
from ca.issuing.cycle import issue_batch
from ca.issuing.revoke import BLOCK_KEY, UNBLOCK_KEY, revoke_requested
from ca.pki.key_loss import SENTENCES
from ca.pki.weak_list import digests
from tests.acme_client import make_csr
from tests.ca.issuing.world import Leaf, World, spki_sha256


async def _issue(world: World, key: Leaf, name: str) -> bytes:
    order = await world.ordered(name, leaf=key)
    await issue_batch(world.process(), 8)
    return await world.serial(order.id)


async def _work(world: World) -> int:
    """Everything that waits; how many certificates changed."""
    changed = 0
    ca = world.process()
    while (batch := await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log)) is not None:
        changed += len(batch)
    return changed


async def _act(world: World, act: str, subject: str, **detail: Any) -> None:
    await world.run("ca_admin", "INSERT INTO operator_acts (id, acted_at, operator, act, subject, detail)"
                    " VALUES ($1, now(), 'ada', $2, $3, $4)", world.new_id(), act, subject, detail)


def _spki(key: Leaf) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def _blocked(world: World) -> dict[bytes, str]:
    return {row["spki_sha256"]: row["authority"] for row in await world.owner.fetch("SELECT * FROM blocked_keys")}


async def test_a_proof_blocks_the_key_at_once(world: World) -> None:
    """RV6: in the transaction that revokes, with the thumbprint that finds its account; the next order is refused."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = await _issue(world, key, "a.example.com")
    await world.revocation_request(serial, 0, "certificate_key")
    ca = world.process()
    assert await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log)
    row = await world.owner.fetchrow("SELECT * FROM blocked_keys")
    assert row is not None
    assert (row["spki_sha256"], row["authority"]) == (spki_sha256(key), "certificate_key")
    assert row["thumbprint"] == thumbprint(jwk_of_public_key(_spki(key)))
    again = await world.ordered("b.example.com", leaf=key)
    await issue_batch(world.process(), 8)
    problem = await world.refusal(again.id)
    assert problem is not None
    assert problem["type"].endswith(":badPublicKey")
    assert [event["spki_sha256"] for event in world.events if event["event"] == "key blocked"] == [
        spki_sha256(key).hex()]


async def test_no_proof_no_block(world: World) -> None:
    """An account that says keyCompromise about its own certificate proves nothing about the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = await _issue(world, key, "a.example.com")
    await world.revocation_request(serial, 1, "account")
    await _work(world)
    assert await _blocked(world) == {}
    again = await world.ordered("b.example.com", leaf=key)
    await issue_batch(world.process(), 8)
    await world.issued(again.id)


async def test_an_operator_blocks_a_key(world: World) -> None:
    """All of its unexpired certificates are revoked for keyCompromise, also those revoked for another reason before."""
    key = rsa.generate_private_key(65_537, 2048)
    serials = [await _issue(world, key, f"n{number}.example.com") for number in range(3)]
    other = await _issue(world, ec.generate_private_key(ec.SECP256R1()), "other.example.com")
    await world.revocation_request(serials[0], 4)
    await _work(world)
    await _act(world, BLOCK_KEY, spki_sha256(key).hex(), spki="", comment="seen in a repository")
    assert await _work(world) == 3
    rows = {row["serial"]: row for row in await world.owner.fetch("SELECT * FROM revocations")}
    assert {serial: row["reason"] for serial, row in rows.items()} == dict.fromkeys(serials, 1)
    assert rows[serials[1]]["authority"] == "operator"
    assert rows[serials[1]]["evidence"]["comment"] == "seen in a repository"
    assert other not in rows
    assert await world.owner.fetchval("SELECT count(*) FROM operator_acts WHERE recorded_at IS NULL") == 0
    assert [(event["act"], event["operator"]) for event in world.events if event["event"] == "operator act"] == [
        (BLOCK_KEY, "ada")]


async def test_the_account_of_a_blocked_key_is_closed(world: World) -> None:
    """And no other; it finalizes nothing any more."""
    subscriber, neighbour = await world.subscriber(), await world.subscriber()
    waiting = await world.ordered("a.example.com", subscriber=subscriber)
    spki = subscriber.key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    await _act(world, BLOCK_KEY, hashlib.sha256(spki).hexdigest(), spki=spki.hex(), proof="the private key was shown")
    await _work(world)
    closed = {row["id"]: row["revoked_at"] for row in await world.owner.fetch("SELECT id, revoked_at FROM accounts")}
    assert closed[subscriber.id] is not None
    assert closed[neighbour.id] is None
    await issue_batch(world.process(), 8)
    problem = await world.refusal(waiting.id)
    assert problem is not None
    assert problem["type"].endswith(":unauthorized")


async def test_a_key_that_was_sent_to_us(world: World) -> None:
    """Row J17: a private key in a JWK closes its account and revokes its certificates, by its own word and no other:
    what the front end queues without a proof blocks nothing, and nothing stays queued."""
    subscriber, victim = await world.subscriber(), await world.subscriber()
    key = ec.generate_private_key(ec.SECP256R1())
    serial = await _issue(world, key, "a.example.com")
    spki = subscriber.key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    proofs = [_proof(subscriber.key.private), _proof(key)]
    lies = {b"r" * 32: b"no request", b"w" * 32: make_csr("a.example.com"), b"v" * 32: proofs[0][:-1] + b"\0"}
    for sha256, proof in [*((hashlib.sha256(proof).digest(), proof) for proof in proofs), *lies.items()]:
        await world.run("acme_wfe", "INSERT INTO exposed_keys VALUES ($1, $2, now())", sha256, proof)
    assert await _work(world) == 1
    assert await _blocked(world) == dict.fromkeys((hashlib.sha256(spki).digest(), spki_sha256(key)), "certificate_key")
    row = await world.owner.fetchrow("SELECT serial, reason FROM revocations")
    assert row is not None
    assert tuple(row) == (serial, 1)
    closed = {row["id"]: row["revoked_at"] for row in await world.owner.fetch("SELECT id, revoked_at FROM accounts")}
    assert closed[subscriber.id] is not None
    assert closed[victim.id] is None
    assert await world.owner.fetchval("SELECT count(*) FROM exposed_keys") == 0


def _proof(key: Leaf) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SENTENCES[0])])
    return x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256()).public_bytes(
        Encoding.DER)


async def test_what_was_on_its_way_is_found_later(world: World) -> None:
    """A certificate whose intent was committed while the key was being blocked is revoked by the second sweep."""
    key = ec.generate_private_key(ec.SECP256R1())
    first = await _issue(world, key, "a.example.com")
    late = await world.ordered("b.example.com", leaf=key)
    ca = world.process()

    async def block_meanwhile(number: int) -> None:
        if number == 2:
            await world.revocation_request(first, 1, "operator")
            assert await _work(world) == 1

    ca.after_step = block_meanwhile
    await issue_batch(ca, 8)
    serial = await world.serial(late.id)
    assert await _work(world) == 0, "the sweep has been, and comes again later"
    world.clock_s = 121
    assert await _work(world) == 1
    assert await world.owner.fetchval("SELECT reason FROM revocations WHERE serial = $1", serial) == 1
    assert await world.owner.fetchval("SELECT count(*) FROM blocked_keys WHERE sweep_at IS NOT NULL") == 0
    world.clock_s = 500
    assert await _work(world) == 0


async def test_many_certificates_of_one_key(world: World) -> None:
    """The sweep goes on batch by batch; the queue is looked at in between."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = await _issue(world, key, "a.example.com")
    await world.owner.execute("""
        INSERT INTO certificates (serial, request_id, account_id, issuer_id, profile, not_before, not_after,
            spki_sha256, tbs, created_at)
        SELECT substr(serial, 1, 2) || substr(sha256(n::text::bytea), 1, 16), request_id, account_id, issuer_id,
            profile, not_before, not_after, spki_sha256, tbs, created_at
        FROM certificates, generate_series(1, 4500) AS n WHERE serial = $1""", serial)
    await _act(world, BLOCK_KEY, spki_sha256(key).hex(), spki="")
    ca = world.process()
    sizes = []
    while (batch := await revoke_requested(ca.pool, ca.ambient, ca.audit, ca.log)) is not None:
        sizes.append(len(batch))
    assert (sum(sizes), max(sizes)) == (4501, 2000)


async def test_unblocked_by_an_operator(world: World) -> None:
    """An operator's word can be taken back; a proof cannot, whoever gave it, nor can one that came later."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
    word, shown, proven, later = (spki_sha256(key).hex() for key in keys)
    await _act(world, BLOCK_KEY, word, spki="")
    await _act(world, BLOCK_KEY, shown, spki="", proof="the private key was shown")
    serial = await _issue(world, keys[2], "a.example.com")
    await world.revocation_request(serial, 0, "certificate_key")
    second = await _issue(world, keys[3], "b.example.com")
    await _act(world, BLOCK_KEY, later, spki="")
    await _work(world)
    await world.revocation_request(second, 0, "certificate_key")
    await _work(world)
    for subject in (word, shown, proven, later):
        await _act(world, UNBLOCK_KEY, subject)
    await _work(world)
    assert {digest.hex() for digest in await _blocked(world)} == {shown, proven, later}
    order = await world.ordered("c.example.com", leaf=keys[0])
    await issue_batch(world.process(), 8)
    await world.issued(order.id)
    assert len([event for event in world.events if event["event"] == "key not unblocked"]) == 3


async def test_listed_weak_keys_are_not_certified(world: World) -> None:
    """BR 6.1.1.3: a key of a published list, by whatever form it is listed."""
    keys = [rsa.generate_private_key(65_537, 2048) for _ in range(3)]
    for key, listed in zip(keys, [digests(_spki(key)) for key in keys], strict=True):
        await world.run("ca_admin", "INSERT INTO weak_keys VALUES ($1, 'list')", listed[keys.index(key)])
    orders = [await world.ordered(f"n{number}.example.com", leaf=key) for number, key in enumerate(keys)]
    good = await world.ordered("good.example.com")
    await issue_batch(world.process(), 8)
    for order in orders:
        assert (await world.refusal(order.id) or {})["type"].endswith(":badPublicKey")
    await world.issued(good.id)


async def test_blocked_names_are_refused_by_the_ca(world: World) -> None:
    """E77: whatever the front end let through, before the name was blocked too; the others of the batch are issued; an
    act is recorded once."""
    ready = await world.ordered("m.bank.example")
    await world.run("ca_admin", "INSERT INTO blocked_names VALUES ('bank.example', true, now(), 'ada', '')")
    await _act(world, "block name", "bank.example", and_below=True)
    refused, good = await world.ordered("www.bank.example"), await world.ordered("www.example.com")
    await issue_batch(world.process(), 8)
    for order in (ready, refused):
        problem = await world.refusal(order.id)
        assert problem is not None
        assert problem["type"].endswith(":rejectedIdentifier")
    await world.issued(good.id)
    await _work(world)
    assert await _work(world) == 0
    assert [event["subject"] for event in world.events if event["event"] == "operator act"] == ["bank.example"]
