"""One certificate from newAccount to download, as a client sees it (RFC 8555 7)."""

import re

from cryptography import x509

from tests.acme_api.wfe.running import BASE, OtherProcesses, RunningWfe, finalize, id_of, issued, ready_order
from tests.acme_client import make_csr

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


async def test_a_certificate_from_beginning_to_end(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows OR1, OR12, FI8, CE1, CE2, CE4: each step's status, headers and body."""
    client = wfe.client()
    account = (await client.register(contact=["mailto:a@x.example"])).require(201)
    assert account.json["status"] == "valid"
    order, certificate = await issued(client, others, "a.example.com", "*.a.example.com")
    assert order.headers["Location"].startswith(f"{BASE}/acme/order/")
    assert _TIME.fullmatch(order.json["expires"])
    assert certificate.headers["Content-Type"] == "application/pem-certificate-chain"
    assert certificate.link("up") == []
    chain = x509.load_pem_x509_certificates(certificate.body)
    assert len(chain) == 2
    chain[0].verify_directly_issued_by(chain[1])
    assert re.fullmatch(rb"(-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=]{1,64}\n)+-----END CERTIFICATE-----\n)+",
                        certificate.body)


async def test_a_slow_ca_leaves_the_order_processing(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows FI8, OR13, OR14: processing with Retry-After after two seconds; valid once the response is published."""
    client = await wfe.subscriber()
    order = await ready_order(client, others, "a.example.com")
    answer = (await finalize(client, order, make_csr("a.example.com"))).require(200)
    assert answer.json["status"] == "processing"
    assert answer.headers["Retry-After"] == "1"
    assert answer.location == order.location
    assert not {"error", "certificate"} & set(answer.json)
    polled = (await client.post(order.location)).require(200)
    assert (polled.json["status"], polled.headers["Retry-After"]) == ("processing", "1")
    assert polled.json["authorizations"] == order.json["authorizations"]
    order_id = id_of(order.location)
    key = x509.load_der_x509_csr(make_csr("a.example.com")).public_key()
    await others.issue(order_id, ["a.example.com"], key, account_id=id_of(client.kid), publish=False)
    assert (await client.post(order.location)).json["status"] == "processing"
    await others.publish(order_id)
    done = (await client.post(order.location)).require(200)
    assert done.json["status"] == "valid"
    assert "Retry-After" not in done.headers
