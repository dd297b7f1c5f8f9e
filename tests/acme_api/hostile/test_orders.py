"""Rows E53 to E81: new orders, objects of others, finalize, authorizations and challenges."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from ca.pki.weak_list import digests
from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.hostile.ground import Ground, watched
from tests.acme_api.wfe.running import BASE, OtherProcesses, RunningWfe, finalize, id_of, ready_order
from tests.acme_client import JOSE_JSON, URN, Answer, b64, make_csr
from tests.ca.pki.roca import roca_key

_Start = Callable[..., Awaitable[RunningWfe]]
_NEW = "/acme/new-order"
_ORDERED = ("orders", "authorizations", "rate_limits")
_DNS = {"type": "dns", "value": "a.example.com"}


async def _names(ground: Ground, kind: str, status: int, *names: str, type_: str = "dns") -> None:
    for name in names:
        await ground.refused(_NEW, {"identifiers": [{"type": type_, "value": name}]}, kind, status)


async def test_e53_to_e59_identifiers(ground: Ground) -> None:
    """Rows E53 to E59: shapes, types, spellings, addresses as names, wildcards, other alphabets, A-labels."""
    async with ground.row("E53"):
        values: list[Any] = [
            [], None, {}, "a.b", ["a.b"], [None], [{}], [{"type": "dns", "value": 5}], [{"type": "dns", "value": None}],
            [{"type": "dns", "value": {}}], [{"type": 5, "value": "a.example"}], [{"value": "a.example"}],
            [{"type": "dns", "value": f"n{number}.example"} for number in range(101)]]
        await ground.refused(_NEW, {})
        for value in values:
            await ground.refused(_NEW, {"identifiers": value})
    async with ground.row("E54"):
        for kind in ("DNS", "", "uri", "email", "TNAuthList", "bundleEID", "__proto__"):
            await ground.refused(_NEW, {"identifiers": [{"type": kind, "value": "a.example"}]}, "unsupportedIdentifier")
    async with ground.row("E55"):
        await _names(ground, "malformed", 400, "", ".", "a..example.com", ".a.com", "a.com.",
                     ".".join(["a" * 60] * 4) + ".example.com", "a" * 64 + ".com", "-a.com", "a-.com", "a_b.com",
                     "a b.com", "a.com\n", "a\0.com", "http://a.com", "a.com:80", "a.com/x", "u@a.com", "%61.com")
    async with ground.row("E56"):
        await _names(ground, "malformed", 400, "localhost", "com", "1.2.3.4", "::1", "2130706433", "0x7f.1", "a.123",
                     "127.1")
    async with ground.row("E57", stores=_ORDERED):
        await _names(ground, "malformed", 400, "*", "*.", "*.com", "*.*.a.com", "a.*.com", "f*.a.com", "*a.a.com",
                     "**.a.com")
        await _names(ground, "rejectedIdentifier", 403, "*.co.uk", "co.uk", "foo.ck")
        (await ground.attacker.order("www.ck")).require(201)
    async with ground.row("E58"):
        await _names(ground, "malformed", 400, "bücher.com", "аpple.com", "ｅ.com", "\u212a.com", "\u0130.com",
                     "\u017f.com", "a\u200db.com", "a\u200fb.com", "a\u3002com")
    async with ground.row("E59", stores=_ORDERED):
        decomposed = "e\u0301".encode("punycode").decode("ascii")
        await _names(ground, "malformed", 400, "xn--.com", "xn--a.com", "xn--99999999.com", "xn--abc-.com",
                     "xn--ls8h.com",                     f"xn--{decomposed}.com")
        await _names(ground, "rejectedIdentifier", 403, "ab--c.com")
        shown = (await ground.attacker.order("XN--BCHER-KVA.com")).require(201).json
        assert shown["identifiers"] == [{"type": "dns", "value": "xn--bcher-kva.com"}]


async def test_e60_e61_public_policy(start: _Start, others: OtherProcesses, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows E60, E61: special-use names and addresses are refused in public; loopback and link-local everywhere."""
    public = await start(policy="public", ca_internal_suffixes=[])
    ground = await Ground.make(public, others, capsys, "bystander.com")
    addresses = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "::1", "fe80::1", "64:ff9b::7f00:1",
                 "2002:7f00:1::")
    async with ground.row("E60"):
        await _names(ground, "rejectedIdentifier", 403, "a.internal", "a.local", "a.test", "1.0.0.127.in-addr.arpa",
                     "x.ip6.arpa", "a" * 56 + ".onion")
    async with ground.row("E61"):
        await _names(ground, "rejectedIdentifier", 403, *addresses, type_="ip")
    await ground.end()
    private = await Ground.make(await start(), others, capsys)
    async with private.row("E61"):
        await _names(private, "rejectedIdentifier", 403, "127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1",
                     type_="ip")


async def test_e62_to_e68_orders(ground: Ground) -> None:
    """Rows E62 to E67: addresses' spellings, crowds of names, dates, profiles, predecessors, what is not asked for."""
    client = ground.attacker
    async with ground.row("E62"):
        await _names(ground, "malformed", 400, "01.2.3.4", "1.2.3", "1.2.3.4\n", "١.2.3.4", "[::1]", "::1%eth0",
                     "2001:DB8::1", "::ffff:1.2.3.4", "1.2.3.0/24", "a.com", type_="ip")
    async with ground.row("E63", stores=_ORDERED):
        spelled = ["".join(letter.upper() if number >> place & 1 else letter for place, letter in enumerate("abcdefg"))
                   + ".example.com" for number in range(100)]
        shown = (await client.order(*spelled)).require(201).json
        assert shown["identifiers"] == [{"type": "dns", "value": "abcdefg.example.com"}]
        crowd = [f"n{number}.example.com" for number in range(40)] + [f"a_{number}.com" for number in range(60)]
        answer = (await client.order(*crowd)).require(400, "malformed")
        assert len(answer.json["subproblems"]) == 60
        assert len(answer.body) <= 65_536
    async with ground.row("E64"):
        dates: list[Any] = ["yesterday", "2027-01-01T00:00:00", "2027-02-30T00:00:00Z", "10000-01-01T00:00:00Z",
                            "2020-01-01T00:00:00Z", 5, {}, "2126-01-01T00:00:00Z", ""]
        for date in dates:
            await ground.refused(_NEW, {"identifiers": [_DNS], "notAfter": date})
        day = timedelta(days=1)
        now = ground.others.clock.now().replace(microsecond=0)
        await ground.refused(_NEW, {"identifiers": [_DNS], "notBefore": (now + 2 * day).isoformat(),
                                    "notAfter": (now + day).isoformat()})
    async with ground.row("E65"):
        for profile in ("nope", "../x", "A" * 10_240, "__class__"):
            await ground.refused(_NEW, {"identifiers": [_DNS], "profile": profile}, "invalidProfile")
        no_profiles: list[Any] = [1, {}, ["classic"]]
        for no_profile in no_profiles:
            await ground.refused(_NEW, {"identifiers": [_DNS], "profile": no_profile})
    async with ground.row("E66"):
        predecessors: list[Any] = [1, None, {}, "a", "a.b.c", "QQ==.QQ==", ".", "é.é", "A" * 9_000]
        for replaces in predecessors:
            await ground.refused(_NEW, {"identifiers": [_DNS], "replaces": replaces})
    async with ground.row("E67", stores=_ORDERED):
        members: dict[str, Any] = {"status": "valid", "authorizations": [], "certificate": "https://evil/c",
                                   "finalize": "https://evil/f"}
        made = (await client.order("a.example.com", **members)).require(201).json
        assert made["status"] == "pending"
        assert len(made["authorizations"]) == 1
        assert "evil" not in json.dumps(made)


async def test_e68_loops_over_limits(start: _Start, others: OtherProcesses, capsys: pytest.CaptureFixture[str]) -> None:
    """Row E68: 429 rateLimited with Retry-After and a help link, and nothing is stored any more."""
    wfe = await start(limits=LimitsSettings(orders_per_account=RateSettings(burst=5, period_s=3_600)))
    ground = await Ground.make(wfe, others, capsys)
    for number in range(5):
        (await ground.attacker.order(f"n{number}.example.com")).require(201)
    async with ground.row("E68"):
        for number in range(5, 15):
            refused = (await ground.attacker.order(f"n{number}.example.com")).require(429, "rateLimited")
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.link("help")
    await ground.end()


async def test_e69_to_e71_objects(ground: Ground) -> None:
    """Rows E69 to E71: what is nobody's is 404, what is another's 403 whatever its state; a body is malformed."""
    client, owner = ground.attacker, ground.bystander
    pending = (await owner.order("pending.bystander.example")).require(201)
    ready = await ready_order(owner, ground.others, "ready.bystander.example")
    own = (await client.order("own.example.com")).require(201)
    authorization = own.json["authorizations"][0]
    challenge = (await client.post(authorization)).json["challenges"][0]["url"]
    async with ground.row("E69"):
        nobody, number = "A" * 30, own.location.rpartition("/")[2]
        before = number[:-1] + chr(ord(number[-1]) - 1)
        for path in (*[f"/acme/{kind}/{nobody}" for kind in ("order", "authz", "account", "order")],
                     f"/acme/order/{before}", f"/acme/authz/{number}", f"/acme/order/{id_of(authorization).hex()}",
                     f"/acme/challenge/{number}/http-01", f"/acme/challenge/{nobody}/http-01",
                     challenge.rpartition("/")[0] + "/nope-01", f"/acme/cert/{'ab' * 18}/{number}",
                     "/acme/order/" + "A" * 5_000):
            await ground.refused(path, None, status=404)
        await ground.refused(f"/acme/order/{nobody}/finalize", {"csr": b64(b"x")}, status=404)
    async with ground.row("E70"):
        bodies = set()
        for order in (pending, ready):
            foreign = order.json["authorizations"][0]
            places = [order.location, foreign, f"{foreign.replace('/authz/', '/challenge/')}/http-01"]
            for path in places:
                bodies.add((await ground.refused(path, None, "unauthorized", 403)).body)
            bodies.add((await ground.refused(order.json["finalize"], {"csr": b64(b"x")}, "unauthorized", 403)).body)
            await ground.refused(foreign, {"status": "deactivated"}, "unauthorized", 403)
            await ground.refused(places[2], {}, "unauthorized", 403)
        assert all(b"bystander.example" not in body for body in bodies)
    async with ground.row("E71"):
        for payload in ({}, {"status": "valid"}, b"[]", b" "):
            await ground.refused(own.location, payload)


def _csr(*names: x509.GeneralName, key: Any = None, common_name: str | None = None, extensions: Any = (),
         digest: Any = None) -> bytes:
    """A request with any names and extensions."""
    subject = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), digest or hashes.SHA256()).public_bytes(
        Encoding.DER)


async def _ready(ground: Ground) -> tuple[Answer, Callable[..., Awaitable[None]]]:
    """A ready order, and what tries CSRs on it: each is badCSR, and the order stays ready."""
    order = await ready_order(ground.attacker, ground.others, "a.example.com")

    async def bad(*csrs: bytes) -> None:
        for csr in csrs:
            await ground.refused(order.json["finalize"], {"csr": b64(csr)}, "badCSR")
        assert (await ground.attacker.post(order.location)).json["status"] == "ready"

    return order, bad


async def test_e72_e73_finalize(ground: Ground) -> None:
    """Rows E72, E73: orders that are not ready, twenty requests at once, spellings and bytes that are no CSR."""
    client, others = ground.attacker, ground.others
    order, bad = await _ready(ground)
    good = make_csr("a.example.com")
    certificate = (await others.make_issuer()).public_bytes(Encoding.DER)
    async with ground.row("E72", stores=(*_ORDERED, "finalizations", "issuance_requests", "validations")):
        waiting = (await client.order("pending.example.com")).require(201)
        early = {"csr": b64(make_csr("pending.example.com"))}
        await ground.refused(waiting.json["finalize"], early, "orderNotReady", 403)
        many = await ready_order(client, others, "many.example.com")
        path = many.json["finalize"]
        bodies = [await client.signed(path, {"csr": b64(make_csr("many.example.com"))}) for _ in range(20)]
        answers = await asyncio.gather(*[
            client.send("POST", path, data=body, headers=JOSE_JSON) for body in bodies])
        assert sorted(answer.status for answer in answers) == [200] + [403] * 19
        assert {answer.type for answer in answers if answer.status == 403} == {"orderNotReady"}
    async with ground.row("E73"):
        spellings: list[Any] = [None, 1, "", "-----BEGIN CERTIFICATE REQUEST-----", b64(good) + "==", [], {}]
        for spelling in spellings:
            await ground.refused(order.json["finalize"], {"csr": spelling})
        await ground.refused(order.json["finalize"], {})
        deep = b"\x30\x00"
        for _ in range(10_000):
            length = len(deep)
            deep = (b"\x30" + (bytes([length]) if length < 128 else b"\x83" + length.to_bytes(3, "big"))) + deep
        crowd = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "x")] * 1_500)).sign(
                ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
        await bad(b"x" * 100, certificate, b"\x30\x80" + good[4:] + b"\0\0", deep[:30_000], good + b"\0", crowd,
                  good.replace(b"\x02\x01\x00", b"\x02\x01\x01", 1))


async def test_e74_to_e76_csrs(ground: Ground) -> None:
    """Rows E74 to E76: names, keys and extensions of CSRs; a CSR with nothing but the right common name is good."""
    client, others = ground.attacker, ground.others
    name = x509.DNSName("a.example.com")
    order, bad = await _ready(ground)
    good = make_csr("a.example.com")
    async with ground.row("E74"):
        await bad(
            _csr(name, x509.DNSName("b.example.com")), _csr(), _csr(x509.DNSName("b.example.com")),
            _csr(name, common_name="b.example.com"), _csr(x509.DNSName("*.a.example.com")),
            _csr(x509.DNSName("a.example.com\0.evil.com")), _csr(x509.DNSName("a.example.com.")),
            _csr(name, x509.DNSName("1.2.3.4")), _csr(name, x509.RFC822Name("a@example.com")),
            _csr(name, x509.UniformResourceIdentifier("https://a.example.com")),
            _csr(name, x509.OtherName(ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")),
            _csr(name).replace(b"a.example.com", b"\xc3\xa4example.com"))
    async with ground.row("E75", stores=("blocked_keys", "weak_keys")):
        keys = [rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP224R1()),  # noqa: S505 - on purpose
                roca_key(), dsa.generate_private_key(2048), client.key.private, ground.bystander.key.private]
        await bad(*[_csr(name, key=key) for key in keys])
        other = _csr(name)
        await bad(good[:-8] + other[-8:])
        unhashed = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(
            x509.SubjectAlternativeName([name]), False).sign(ed448.Ed448PrivateKey.generate(), None)
        await bad(unhashed.public_bytes(Encoding.DER))
        lost, listed = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
        await others.block_key(lost)
        spki = listed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        await others.run("ca_admin", ("INSERT INTO weak_keys VALUES ($1, 'list')", digests(spki)[0]))
        for key in (lost, listed):
            await ground.refused(order.json["finalize"], {"csr": b64(_csr(name, key=key))}, "badCSR")
        assert (await client.post(order.location)).json["status"] == "ready"
    async with ground.row("E76"):
        await bad(*[_csr(name, extensions=[extension]) for extension in (
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (x509.NameConstraints([x509.DNSName("example.com")], None), True),
            (x509.CertificatePolicies([x509.PolicyInformation(ObjectIdentifier("2.5.29.32.0"), None)]), False))])
    only_common_name = _csr(common_name="a.example.com")
    (await finalize(client, order, only_common_name)).require(200)


async def test_e77_changes_of_mind(ground: Ground) -> None:
    """Row E77: what changes after `ready` is seen at finalize, or is the CA's word."""
    client, others = ground.attacker, ground.others
    async with ground.row("E77", stores=(*_ORDERED, "validations", "accounts", "blocked_names", "finalizations",
                                         "issuance_requests", "refusals")):
        gone = await ready_order(client, others, "gone.example.com")
        (await client.post(gone.json["authorizations"][0], {"status": "deactivated"})).require(200)
        await ground.refused(gone.json["finalize"], {"csr": b64(make_csr("gone.example.com"))}, "orderNotReady", 403)
        leaving = await watched(ground.wfe)
        left = await ready_order(leaving, others, "left.example.com")
        (await leaving.post(leaving.kid, {"status": "deactivated"})).require(200)
        (await finalize(leaving, left, make_csr("left.example.com"))).require(401, "unauthorized")
        # What changes its mind after `ready` is seen by the CA (tests/ca/issuing); its word is what the order says.
        for kind, status in (("caa", 403), ("rejectedIdentifier", 400)):
            flipped = await ready_order(client, others, f"{kind.lower()}.example.com")
            if kind == "rejectedIdentifier":
                await others.run("ca_admin", (
                    "INSERT INTO blocked_names VALUES ('rejectedidentifier.example.com', false, now(), '', '')",))
            csr = make_csr(f"{kind.lower()}.example.com")
            assert (await finalize(client, flipped, csr)).require(200).json["status"] == "processing"
            await others.refuse(id_of(flipped.location), {"type": URN + kind, "detail": "no", "status": status})
            shown = (await client.post(flipped.location)).require(200).json
            assert (shown["status"], shown["error"]["type"]) == ("invalid", URN + kind)
            await ground.refused(flipped.json["finalize"], {"csr": b64(csr)}, "orderNotReady", 403)


async def test_e79_to_e81_authorizations_and_challenges(ground: Ground) -> None:
    """Rows E79 to E81: other updates, other answers, a hundred at once, two methods, and what is over."""
    client, others = ground.attacker, ground.others
    order = (await client.order("a.example.com", "b.example.com", "c.example.com")).require(201)
    first, second, third = order.json["authorizations"]
    challenges = {each["type"]: each["url"] for each in (await client.post(first)).json["challenges"]}
    async with ground.row("E79", stores=("validation_requests",)):
        updates: list[Any] = [{"status": "valid"}, {"status": "pending"}, {"status": "expired"}, {}, b"[]", b"null"]
        for update in updates:
            await ground.refused(first, update)
        racing = {each["type"]: each["url"] for each in (await client.post(second)).json["challenges"]}
        (await client.post(racing["http-01"], {})).require(200)
        (await client.post(second, {"status": "deactivated"})).require(200)
        assert (await client.post(second)).json["status"] == "deactivated"
    async with ground.row("E80"):
        for answer in (b"[]", b'"x"', b"null", b"1"):
            await ground.refused(challenges["http-01"], answer)
    async with ground.row("E81", stores=("validation_requests", "validations")):
        liar = {"status": "valid", "keyAuthorization": "x", "token": "y", "type": "dns-01"}
        shown = (await client.post(challenges["http-01"], liar)).require(200).json
        assert (shown["type"], shown["status"]) == ("http-01", "processing")
        bodies = [await client.signed(challenges["http-01"], {}) for _ in range(100)]
        answers = await asyncio.gather(*[
            client.send("POST", challenges["http-01"], data=body, headers=JOSE_JSON) for body in bodies])
        assert {answer.status for answer in answers} == {200}
        queued = "SELECT count(*) FROM validation_requests WHERE authorization_id = $1"
        assert await others.value(queued, id_of(first)) == 1
        await ground.refused(challenges["dns-01"], {})
        await ground.refused(racing["http-01"], {})
        failure = {"type": "urn:ietf:params:acme:error:connection", "detail": "x", "status": 400}
        await others.validate(third, problem=failure)
        await ground.refused(f"{third.replace('/authz/', '/challenge/')}/http-01", {})
        assert f"{BASE}/acme/authz/" in third
