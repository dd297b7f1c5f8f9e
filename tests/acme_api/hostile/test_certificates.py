"""Rows E97 to E102: downloads, revocation and renewal information."""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.hostile.ground import Ground
from tests.acme_api.wfe.running import Clock, OtherProcesses, RunningWfe, issued, ready_order
from tests.acme_client import JOSE_JSON, Answer, SigningKey, b64

_PATH = "/acme/revoke-cert"


def _leaf(chain: Answer) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain.body)[0]


async def test_e97_e98_downloads_and_no_certificates(ground: Ground) -> None:
    """Rows E97, E98: whatever is asked for is PEM or DER or nobody's; what is not ours is never revoked."""
    client, others = ground.attacker, ground.others
    order, chain = await issued(client, others, "a.example.com")
    url, leaf = order.json["certificate"], _leaf(chain)
    der = leaf.public_bytes(Encoding.DER)
    other_order = await ready_order(client, others, "later.example.com")
    async with ground.row("E97"):
        for accept in ("text/html", "*/*;q=0", "application/pkix-cert", "", "x" * 5_000):
            body = await client.signed(url)
            answer = (await client.send("POST", url, data=body, headers=JOSE_JSON | {"Accept": accept})).require(200)
            assert answer.headers["Content-Type"] in ("application/pem-certificate-chain", "application/pkix-cert")
        await ground.refused(url.rsplit("/", 1)[0] + "/" + other_order.location.rpartition("/")[2], None, status=404)
        await ground.refused(url + "/99", None, status=404)
    async with ground.row("E98"):
        spellings: list[Any] = [None, 1, "", [], "-----BEGIN CERTIFICATE-----", b64(der) + "=", b64(os.urandom(200)),
                                b64(der + b"\0"), b64(der[:-1])]
        for spelling in spellings:
            await ground.refused(_PATH, {"certificate": spelling})
        await ground.refused(_PATH, {})
        forger = ec.generate_private_key(ec.SECP256R1())
        builder = (x509.CertificateBuilder().subject_name(leaf.subject).serial_number(leaf.serial_number)
                   .public_key(leaf.public_key()).not_valid_before(leaf.not_valid_before_utc)
                   .not_valid_after(leaf.not_valid_after_utc))
        stranger = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Other CA")])
        for issuer in (leaf.issuer, stranger):
            forged = builder.issuer_name(issuer).sign(forger, hashes.SHA256()).public_bytes(Encoding.DER)
            await ground.refused(_PATH, {"certificate": b64(forged)}, status=404)
        own_issuer = (await others.make_issuer()).public_bytes(Encoding.DER)
        await ground.refused(_PATH, {"certificate": b64(own_issuer)}, status=404)
    assert await others.count("revocation_requests") == await others.count("revocations") == 0


async def test_e99_to_e101_revocation(ground: Ground, clock: Clock) -> None:
    """Rows E99 to E101: what is not theirs is never revoked, reasons, and one of ten at once."""
    client, others = ground.attacker, ground.others
    key = SigningKey.make()
    _, chain = await issued(client, others, "a.example.com", key=key.private)
    der = _leaf(chain).public_bytes(Encoding.DER)
    serial = await others.value("SELECT serial FROM certificates")
    _, foreign_chain = await issued(ground.bystander, others, "own.bystander.example", "*.d.bystander.example")
    foreign = _leaf(foreign_chain).public_bytes(Encoding.DER)
    async with ground.row("E99", stores=("orders", "authorizations", "rate_limits", "validations")):
        await ground.refused(_PATH, {"certificate": b64(foreign)}, "unauthorized", 403)
        await ready_order(client, others, "own.bystander.example")
        await ready_order(client, others, "d.bystander.example")
        await ground.refused(_PATH, {"certificate": b64(foreign)}, "unauthorized", 403)
        for wrong in (SigningKey.make(), client.key):
            by_key = ground.wfe.client(wrong)
            (await by_key.post(_PATH, {"certificate": b64(der)}, jwk=wrong.jwk)).require(403, "unauthorized")
        owner = await others.database.connect()
        begins = await owner.fetchval("UPDATE certificates SET not_after = $1 WHERE serial = $2 RETURNING not_before",
                                    clock.now() - timedelta(seconds=1), serial)
        await ground.refused(_PATH, {"certificate": b64(der)}, "unauthorized", 403)
        await owner.execute("UPDATE certificates SET not_after = $1 WHERE serial = $2", begins + timedelta(days=90),
                            serial)
        await owner.close()
    async with ground.row("E100"):
        for number in (2, 6, 7, 8, 10, -1, 11, 256, 10**20):
            await ground.refused(_PATH, {"certificate": b64(der), "reason": number}, "badRevocationReason")
        shapes: list[Any] = ["1", 1.0, 1.5, True, None, [], {}]
        for shape in shapes:
            await ground.refused(_PATH, {"certificate": b64(der), "reason": shape})
    assert await others.count("revocation_requests") == await others.count("revocations") == 0
    async with ground.row("E101", stores=("revocations", "revocation_requests", "blocked_keys")):
        bodies = [await client.signed(_PATH, {"certificate": b64(der), "reason": 0}) for _ in range(10)]
        carrying = asyncio.create_task(_carry_out(ground))
        answers = await asyncio.gather(*[client.send("POST", _PATH, data=body, headers=JOSE_JSON) for body in bodies])
        assert sorted(answer.status for answer in answers) == [200] + [400] * 9
        assert {answer.type for answer in answers if answer.status == 400} == {"alreadyRevoked"}
        await ground.refused(_PATH, {"certificate": b64(der)}, "alreadyRevoked")
        by_key = ground.wfe.client(key)
        (await by_key.post(_PATH, {"certificate": b64(der), "reason": 1}, jwk=key.jwk)).require(200)
        carrying.cancel()


async def test_e102_renewal_information(ground: Ground) -> None:
    """Row E102: whatever is no certificate's identifier is malformed."""
    async with ground.row("E102"):
        for name, statuses in (("a", {400}), ("a.b.c", {400}), (".", {400, 404}), ("a==.b", {400}), ("", {404}),
                               ("%2e%2e%2f", {400, 404}), ("A" * 5_000, {400, 404}), ("%C3%9C", {400}),
                               (f"{b64(bytes(20))}.{b64(bytes([10]) * 18)}", {404})):
            answer = await ground.attacker.send("GET", "/acme/renewal-info/" + name)
            assert answer.status in statuses, name
            assert answer.type == "malformed"


async def test_e102_a_flood(start: Callable[..., Awaitable[RunningWfe]], others: OtherProcesses,
                            capsys: pytest.CaptureFixture[str]) -> None:
    """Row E102: of ten thousand requests by one address as many are answered as the limit has room for, the others are
    told when to come back, and nothing is stored for any of them."""
    room = 500
    ground = await Ground.make(await start(limits=LimitsSettings(
        renewal_info_per_address=RateSettings(burst=room, period_s=36_000))), others, capsys)
    path = f"/acme/renewal-info/{b64(bytes(20))}.{b64(bytes([10]) * 18)}"
    counts = Counter[int]()
    for _ in range(4):      # each row has its own two seconds
        async with ground.row("E102"):
            for _ in range(50):
                answers = await asyncio.gather(*[ground.attacker.send("GET", path) for _ in range(50)])
                counts.update(answer.status for answer in answers)
                for answer in answers:
                    if answer.status == 429:
                        assert answer.type == "rateLimited"
                        assert int(answer.headers["Retry-After"]) >= 1
    # One place is free again every 72 seconds.
    assert counts.total() == 10_000
    assert room <= counts[404] <= room + 10
    assert set(counts) == {404, 429}
    await ground.end()


async def _carry_out(ground: Ground) -> None:
    """The CA, again and again."""
    while True:
        await asyncio.sleep(0.05)
        await ground.others.revoke_all()
