"""Orders of IP addresses (RFC 8738)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.acme_api.wfe.running import OtherProcesses, RunningWfe, finalize, id_of
from tests.acme_client import b64, make_csr

_Start = Callable[..., Awaitable[RunningWfe]]


async def test_ip1_to_ip4_an_order_of_addresses(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows IP1, IP4, CH10: ip identifiers, http-01 and tls-alpn-01 alone, no CAA at finalize, an iPAddress in the CSR
    or an address in its CN; the certificate is there without any OCSP response."""
    client = await wfe.subscriber()
    values = ("8.8.8.8", "2606:4700::1111")
    order = (await client.post("/acme/new-order", {
        "identifiers": [{"type": "ip", "value": value} for value in values]})).require(201)
    assert order.json["profile"] == "shortlived"
    for url, value in zip(order.json["authorizations"], values, strict=True):
        shown = (await client.post(url)).require(200).json
        assert shown["identifier"] == {"type": "ip", "value": value}
        assert [each["type"] for each in shown["challenges"]] == ["http-01", "tls-alpn-01"]
        await others.validate(url, method="tls-alpn-01", caa_age=timedelta(hours=20))
    for csr in (make_csr("8.8.8.8"), make_csr("a.example.com"), make_csr(*values, "8.8.4.4")):
        (await finalize(client, order, csr)).require(400, "badCSR")
    key = ec.generate_private_key(ec.SECP256R1())
    finalizing = asyncio.create_task(finalize(client, order, make_csr(values[1], common_name=values[0], key=key)))
    order_id = id_of(order.location)
    await others.until("SELECT EXISTS (SELECT FROM issuance_requests WHERE id = $1)", order_id)
    assert await others.count("validation_requests") == 0, "CAA is for names (RFC 8738 7)"
    await others.issue(order_id, values, key.public_key(), account_id=id_of(client.kid), days=6, publish=False,
                       has_ocsp=False)
    done = (await finalizing).require(200)
    assert done.json["status"] == "valid"
    leaf = x509.load_pem_x509_certificates((await client.post(done.json["certificate"])).require(200).body)[0]
    (await client.post("/acme/revoke-cert", {
        "certificate": b64(leaf.public_bytes(Encoding.DER)), "reason": 4})).require(200)


@pytest.mark.parametrize("value", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "::1", "fe80::1",
                                   "64:ff9b::7f00:1", "2002:7f00:1::"])
async def test_e61_addresses_that_are_nobodys(wfe: RunningWfe, value: str) -> None:
    """Rows IP5, E61: private ones unless listed, loopback and link-local ones never, wrapped or not."""
    client = await wfe.subscriber()
    (await client.post("/acme/new-order", {"identifiers": [{"type": "ip", "value": value}]})).require(
        403, "rejectedIdentifier")


@pytest.mark.parametrize("value", ["01.2.3.4", "1.2.3", "1.2.3.4\n", "\u0661.2.3.4", "[::1]", "::1%eth0", "2001:DB8::1",
                                   "::ffff:1.2.3.4", "1.2.3.0/24", "a.com", "0x7f.1", ""])
async def test_e62_what_is_no_address(wfe: RunningWfe, value: str) -> None:
    """Rows IP1, E62: one spelling of an address, and no other."""
    client = await wfe.subscriber()
    (await client.post("/acme/new-order", {"identifiers": [{"type": "ip", "value": value}]})).require(
        400, "malformed")


async def test_ip5_listed_prefixes(start: _Start) -> None:
    """Row IP5: what an internal CA lists; a prefix over loopback or link-local addresses does not reach them."""
    wfe = await start(va_allowed_prefixes=["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16"])
    client = await wfe.subscriber()
    for value, status in (("10.0.0.1", 201), ("10.1.2.3", 201), ("192.168.0.1", 403), ("127.0.0.1", 403),
                          ("169.254.169.254", 403)):
        answer = await client.post("/acme/new-order", {"identifiers": [{"type": "ip", "value": value}]})
        assert answer.status == status, value
