"""Certificates and revocation at the server (rows CE, RV, E97 to E101)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.pki.precertificate import with_poison
from ca.pki.tbs import assemble
from tests.acme_api.wfe.running import Clock, OtherProcesses, RunningWfe, id_of, issued, ready_order
from tests.acme_client import JOSE_JSON, AcmeClient, Answer, SigningKey, b64

_Start = Callable[..., Awaitable[RunningWfe]]
_PATH = "/acme/revoke-cert"


def _leaf(chain: Answer) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain.body)[0]


def _der(chain: Answer) -> bytes:
    return _leaf(chain).public_bytes(Encoding.DER)


async def _revoke(client: AcmeClient, others: OtherProcesses, der: bytes, *, key: SigningKey | None = None,
                  **members: Any) -> Answer:
    """revokeCert while the CA does its work beside it."""
    signer = AcmeClient(http=client.http, public_base=client.public_base, base=client.base, key=key) if key else client
    revoking = asyncio.create_task(signer.post(_PATH, {"certificate": b64(der), **members}))
    while not revoking.done():
        await others.revoke_all()
        await asyncio.sleep(0.02)
    return await revoking


async def _reason(others: OtherProcesses, der: bytes) -> int | None:
    serial = x509.load_der_x509_certificate(der).serial_number.to_bytes(18, "big")
    reason = await others.value("SELECT reason FROM revocations WHERE serial = $1", serial)
    return None if reason is None else int(reason)


async def test_ce3_alternate_chains(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows CE1 to CE4, E97: each variant links the others and not itself; the same leaf first; index 99 is 404."""
    others.chains = 3
    client = await wfe.subscriber()
    order, first = await issued(client, others, "a.example.com")
    url = order.json["certificate"]
    variants = [url, f"{url}/1", f"{url}/2"]
    for number, variant in enumerate(variants):
        answer = (await client.post(variant)).require(200)
        assert answer.link("alternate") == [other for other in variants if other != variant]
        assert answer.link("up") == []
        chain = x509.load_pem_x509_certificates(answer.body)
        assert (len(chain), chain[0]) == (number + 2, _leaf(first))
    (await client.post(f"{url}/99")).require(404, "malformed")
    for accept in ("text/html", "*/*;q=0", "application/pem-certificate-chain, application/pkix-cert",
                   "application/pkix-cert;q=0", "application/pkix-cert;q=x", "application/pkix-cert;q=nan", ",;,"):
        body = await client.signed(url)
        answer = (await client.send("POST", url, data=body, headers=JOSE_JSON | {"Accept": accept})).require(200)
        assert answer.headers["Content-Type"] == "application/pem-certificate-chain"


async def test_ce3_another_chain_comes_first(wfe: RunningWfe, others: OtherProcesses) -> None:
    """What an operator prefers for a profile is the default variant; all others follow, each once, in their order."""
    others.chains = 3
    client = await wfe.subscriber()
    order, _ = await issued(client, others, "a.example.com")
    url = order.json["certificate"]

    async def lengths() -> list[int]:
        return [len(x509.load_pem_x509_certificates((await client.post(f"{url}{end}")).require(200).body))
                for end in ("", "/1", "/2")]

    assert await lengths() == [2, 3, 4]
    await others.run("ca_admin", ("INSERT INTO chain_preferences SELECT id, 'classic', 2 FROM issuers",))
    assert await lengths() == [4, 2, 3]
    await others.run("ca_admin", ("UPDATE chain_preferences SET position = 1",))
    assert await lengths() == [3, 2, 4]
    await others.run("ca_admin", ("UPDATE chain_preferences SET profile = 'tlsserver'",))
    assert await lengths() == [2, 3, 4]
    (await client.post(f"{url}/3")).require(404, "malformed")


async def test_ce5_one_certificate_in_der(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows CE4, CE5, E97: application/pkix-cert gets the leaf in DER with a link to its issuer, and so on to the end of
    the chain, for each variant; a stranger gets none of it."""
    others.chains = 2
    client, stranger = await wfe.subscriber(), await wfe.subscriber()
    order, first = await issued(client, others, "a.example.com")
    url = order.json["certificate"]
    for variant, length in ((url, 2), (f"{url}/1", 3)):
        found = []
        next_url = [variant]
        while next_url:
            body = await client.signed(next_url[0])
            answer = (await client.send("POST", next_url[0], data=body, headers=JOSE_JSON | {
                "Accept": "application/pkix-cert, application/pem-certificate-chain;q=0.5, */*;q=0.1"})).require(200)
            assert answer.headers["Content-Type"] == "application/pkix-cert"
            assert answer.link("alternate") == []
            found.append(x509.load_der_x509_certificate(answer.body))
            next_url = answer.link("up")
        assert len(found) == length
        assert found[0] == _leaf(first)
        found[0].verify_directly_issued_by(found[1])
    (await client.post(f"{url}/up/1")).require(200)
    (await client.post(f"{url}/up/2")).require(404, "malformed")
    (await client.post(f"{url}/2/up/1")).require(404, "malformed")
    (await stranger.post(f"{url}/up/1")).require(403, "unauthorized")


async def test_ce6_served_later_and_to_the_owner_alone(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Rows CE6, E71, E97: expired and revoked ones are still served; a body, another order, nothing yet: refused."""
    client = await wfe.subscriber()
    order, chain = await issued(client, others, "a.example.com")
    url = order.json["certificate"]
    (await _revoke(client, others, _der(chain))).require(200)
    assert (await client.post(url)).require(200).body == chain.body
    (await client.post(url, {})).require(400, "malformed")
    other = await ready_order(client, others, "b.example.com")
    serial, other_id = url.rsplit("/", 2)[1], other.location.rpartition("/")[2]
    (await client.post(f"/acme/cert/{serial}/{other_id}")).require(404, "malformed")
    await others.issue(id_of(other.location), ["b.example.com"], ec.generate_private_key(ec.SECP256R1()).public_key(),
                       account_id=id_of(client.kid), publish=False)
    unpublished = await others.value("SELECT encode(serial, 'hex') FROM ocsp_requests")
    (await client.post(f"/acme/cert/{unpublished}/{other_id}")).require(404, "malformed")


@pytest.mark.parametrize(("asked", "recorded"), [(None, 0), (0, 0), (4, 4), (1, 1)])
async def test_rv1_by_the_account(wfe: RunningWfe, others: OtherProcesses, asked: int | None, recorded: int) -> None:
    """Rows RV1, RV2, RV4: 200 with an empty body and a nonce; the reason stands; the request is kept as evidence."""
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    members: dict[str, Any] = {} if asked is None else {"reason": asked}
    answer = (await _revoke(client, others, _der(chain), **members)).require(200)
    assert answer.body == b""
    assert await _reason(others, _der(chain)) == recorded
    evidence = await others.value("SELECT evidence FROM revocations")
    assert evidence["account"] == client.kid
    assert set(evidence["jws"]) == {"protected", "payload", "signature"}
    (await _revoke(client, others, _der(chain))).require(400, "alreadyRevoked")


async def test_rv2_by_authorizations_for_all_names(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows RV2, E99: another account needs a valid authorization for every name, the wildcard's own included."""
    owner, holder = await wfe.subscriber(), await wfe.subscriber()
    names = ("d.example.com", "*.d.example.com")
    _, chain = await issued(owner, others, *names)
    (await _revoke(holder, others, _der(chain))).require(403, "unauthorized")
    await ready_order(holder, others, names[0])
    (await _revoke(holder, others, _der(chain))).require(403, "unauthorized")
    wildcard = await ready_order(holder, others, names[1])
    url = wildcard.json["authorizations"][0]
    (await _revoke(holder, others, _der(chain), reason=1)).require(200)
    assert await _reason(others, _der(chain)) == 5
    _, second = await issued(owner, others, "d.example.com", "*.d.example.com")
    (await holder.post(url, {"status": "deactivated"})).require(200)
    (await _revoke(holder, others, _der(second))).require(403, "unauthorized")


async def test_rv2_rv3_by_the_certificates_key(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows RV2, RV3, E101: keyCompromise without an account, also after another reason; again is alreadyRevoked."""
    client = await wfe.subscriber()
    key = SigningKey.make()
    _, chain = await issued(client, others, "a.example.com", key=key.private)
    (await _revoke(client, others, _der(chain), key=SigningKey.make())).require(403, "unauthorized")
    (await _revoke(client, others, _der(chain), key=client.key)).require(403, "unauthorized")
    (await _revoke(client, others, _der(chain), reason=0)).require(200)
    (await _revoke(client, others, _der(chain), key=key, reason=0)).require(200)
    assert await _reason(others, _der(chain)) == 1
    (await _revoke(client, others, _der(chain), key=key)).require(400, "alreadyRevoked")
    (await _revoke(client, others, _der(chain))).require(400, "alreadyRevoked")
    fresh = SigningKey.make("RS256")
    _, chain = await issued(client, others, "b.example.com", key=fresh.private)
    (await _revoke(client, others, _der(chain), key=fresh)).require(200)
    assert await _reason(others, _der(chain)) == 1
    claimed = SigningKey.make()
    _, chain = await issued(client, others, "c.example.com", key=claimed.private)
    (await _revoke(client, others, _der(chain), reason=1)).require(200)
    (await _revoke(client, others, _der(chain), key=claimed)).require(200)
    (await _revoke(client, others, _der(chain), key=claimed)).require(400, "alreadyRevoked")


async def test_a_precertificate_is_revoked(wfe: RunningWfe, others: OtherProcesses) -> None:
    """What a CT log shows can be revoked by its DER, by account and by key, when no certificate followed (BR 4.9.9); a
    forged one with its serial number is not known."""
    client = await wfe.subscriber()
    key = SigningKey.make()
    for name, signer, expected in (("a.example.com", None, 4), ("b.example.com", key, 1)):
        _, chain = await issued(client, others, name, key=key.private)
        poisoned = with_poison(_leaf(chain).tbs_certificate_bytes)
        signature = others.issuer_key.sign(poisoned, ec.ECDSA(hashes.SHA256()))
        serial = _leaf(chain).serial_number.to_bytes(18, "big")
        await others.value("WITH gone AS (DELETE FROM certificate_signatures WHERE serial = $1), kept AS (INSERT INTO"
                           " precertificate_signatures VALUES ($1, now(), $2)) UPDATE certificates SET tbs = $3"
                           " WHERE serial = $1 RETURNING 1", serial, signature, poisoned)
        forged = others.issuer_key.sign(poisoned, ec.ECDSA(hashes.SHA256()))
        (await _revoke(client, others, assemble(poisoned, forged))).require(404, "malformed")
        (await _revoke(client, others, _der(chain))).require(404, "malformed")
        (await _revoke(client, others, assemble(poisoned, signature), key=signer, reason=4 if signer is None else 1)
         ).require(200)
        assert await _reason(others, _der(chain)) == expected


async def test_e101_ten_parallel_revocations(start: _Start, others: OtherProcesses) -> None:
    """Row E101: one 200, the others alreadyRevoked, at two servers."""
    one, two = await start(), await start()
    client = await one.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    at_two = two.client(client.key, kid=client.kid)
    working = asyncio.create_task(_carry_out(others))
    answers = await asyncio.gather(*[(client if number % 2 else at_two).post(_PATH, {"certificate": b64(_der(chain))})
                                     for number in range(10)])
    working.cancel()
    assert sorted(answer.status for answer in answers) == [200] + [400] * 9
    assert {answer.type for answer in answers if answer.status == 400} == {"alreadyRevoked"}


async def _carry_out(others: OtherProcesses) -> None:
    while True:
        await asyncio.sleep(0.05)
        await others.revoke_all()


async def test_rv1_a_ca_that_is_away(wfe: RunningWfe, others: OtherProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row RV1: after the wait the request is stored for good, which is what 200 says; again: alreadyRevoked."""
    monkeypatch.setattr("acme_api.wfe.revocations._WAIT_S", 0.1)
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    payload = {"certificate": b64(_der(chain))}
    (await client.post(_PATH, payload)).require(200)
    assert await others.count("revocation_requests") == 1
    (await client.post(_PATH, payload)).require(400, "alreadyRevoked")
    await others.revoke_all()
    assert await _reason(others, _der(chain)) == 0


async def test_rv5_e98_what_is_not_one_of_ours(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows RV5, E98: not a certificate is malformed; forged, foreign and the issuer's own are 404, and ours stays."""
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    der = _der(chain)
    for spelling in (None, 1, "", "-----BEGIN CERTIFICATE-----", b64(b"x"), b64(der + b"\0"), b64(der) + "=",
                     b64(der[:-1])):
        (await client.post(_PATH, {"certificate": spelling})).require(400, "malformed")
    leaf = _leaf(chain)
    forged = (x509.CertificateBuilder().subject_name(leaf.subject).issuer_name(leaf.issuer)
              .serial_number(leaf.serial_number).public_key(leaf.public_key())
              .not_valid_before(leaf.not_valid_before_utc).not_valid_after(leaf.not_valid_after_utc)
              .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER))
    issuer = (await others.make_issuer()).public_bytes(Encoding.DER)
    for certificate in (forged, issuer):
        (await _revoke(client, others, certificate)).require(404, "malformed")
    assert await _reason(others, der) is None


@pytest.mark.parametrize(("reason", "kind"), [
    (2, "badRevocationReason"), (6, "badRevocationReason"), (-1, "badRevocationReason"),
    (10**20, "badRevocationReason"), ("1", "malformed"), (1.0, "malformed"), (True, "malformed"), (None, "malformed")])
async def test_e100_reasons(wfe: RunningWfe, others: OtherProcesses, reason: Any, kind: str) -> None:
    """Rows RV4, E100."""
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    (await client.post(_PATH, {"certificate": b64(_der(chain)), "reason": reason})).require(400, kind)
    assert await others.count("revocation_requests") == 0


async def test_e99_expired_certificates(wfe: RunningWfe, others: OtherProcesses, clock: Clock) -> None:
    """Rows RV5, E99: 403."""
    client = await wfe.subscriber()
    _, chain = await issued(client, others, "a.example.com")
    connection = await others.database.connect()
    await connection.execute("UPDATE certificates SET not_after = $1", clock.now() - timedelta(seconds=1))
    await connection.close()
    (await client.post(_PATH, {"certificate": b64(_der(chain))})).require(403, "unauthorized")
