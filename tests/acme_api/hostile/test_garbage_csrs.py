"""Megabytes of garbage CSRs from accounts with ready orders: exact refusals, and nobody else feels them (row E73)."""

import asyncio
import os
import time
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ca.pki import der
from ca.pki.csr import MAX_CSR_OCTETS
from tests.acme_api.hostile.ground import require_clean, resident_bytes
from tests.acme_api.wfe.running import OtherProcesses, RunningWfe, finalize, id_of, issued, ready_order
from tests.acme_client import AcmeClient, Answer, b64, make_csr

_ATTACKERS = 3
_ROUNDS = 14
_GOOD_ORDERS = 5
_LEAST_BYTES = 10_000_000
_GROWTH_BYTES = 20_000_000
_NAME = "a.example.com"


def _nested() -> bytes:
    """SEQUENCE in SEQUENCE, as deep as the limit of a CSR lets it be."""
    deep = b"\x30\x00"
    while len(deep) < MAX_CSR_OCTETS - 4:
        deep = der.sequence(deep)
    return deep


def _huge_key() -> bytes:
    """A whole request with an RSA modulus of 64,000 bits; no signature is looked at before the key."""
    good = make_csr(_NAME)
    [info, algorithm, signature] = der.children(good, der.read_only(good, der.SEQUENCE))
    [version, subject, _, attributes] = der.children(good, info)
    rsa_key = rsa.generate_private_key(65_537, 2048).public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    rsa_algorithm = der.whole(rsa_key, der.children(rsa_key, der.read_only(rsa_key, der.SEQUENCE))[0])
    modulus = int.from_bytes(b"\xff" + os.urandom(7_998) + b"\xff", "big")
    spki = der.sequence(rsa_algorithm, der.tlv(der.BIT_STRING, b"\x00" + der.sequence(
        der.integer(modulus), der.integer(65_537))))
    return der.sequence(
        der.sequence(der.whole(good, version), der.whole(good, subject), spki, der.whole(good, attributes)),
        der.whole(good, algorithm), der.whole(good, signature))


def _crowd() -> bytes:
    """A subject with so many attributes that the request is nearly as long as it may be."""
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "x" * 8)] * 700)).sign(
            ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def _forged() -> bytes:
    """The dearest to look at: the names that were ordered, a good RSA-4096 key, and a signature by another."""
    return _FORGED_BY_ANOTHER[:-512] + os.urandom(512)


_FORGED_BY_ANOTHER = make_csr(_NAME, key=rsa.generate_private_key(65_537, 4096))
_CROWDED, _HUGE, _DEEP = _crowd(), _huge_key(), _nested()
_MANY_NAMES = make_csr(*(f"n{number:04}.garbage.example.com" for number in range(500)))
_GOOD = make_csr(_NAME)

# What is sent as the CSR, and the answer: (status, problem type, words of its detail).
_GARBAGE: dict[str, tuple[Callable[[], bytes], int, str, str]] = {
    "random": (lambda: os.urandom(12_000), 400, "badCSR", "not a PKCS#10 request in DER"),
    "random behind a true header": (lambda: b"\x30\x82\x3f\xfc" + os.urandom(16_380), 400, "badCSR",
                                    "not a PKCS#10 request in DER"),
    "an octet too long": (lambda: _GOOD + os.urandom(MAX_CSR_OCTETS + 1 - len(_GOOD)), 400, "badCSR",
                          "at most 16384 octets"),
    "twice too long": (lambda: os.urandom(2 * MAX_CSR_OCTETS), 400, "badCSR", "at most 16384 octets"),
    "deep": (lambda: _DEEP, 400, "badCSR", "not a PKCS#10 request in DER"),
    "a huge key": (lambda: _HUGE, 400, "badCSR", "the key of the CSR is not acceptable"),
    "a crowd": (lambda: _CROWDED, 400, "badCSR", "the CSR has no name"),
    "500 names": (lambda: _MANY_NAMES, 400, "badCSR", "the names of the CSR are not those of the order"),
    "forged": (_forged, 400, "badCSR", "the signature of the CSR is not by its key"),
    "more than a body": (lambda: os.urandom(40_000), 413, "malformed", ""),
}


async def _refused(client: AcmeClient, url: str, kind: str) -> int:
    """One garbage CSR, refused exactly so; the octets that were sent."""
    make, status, problem, said = _GARBAGE[kind]
    garbage = make()
    try:
        answer: Answer = (await client.post(url, {"csr": b64(garbage)})).require(status, problem)
        require_clean(answer)
        assert said in answer.json["detail"], answer.json
    except AssertionError as fault:
        raise AssertionError(f"{kind}: {fault}") from fault
    return len(garbage) * 16 // 9


async def test_e73_megabytes_of_garbage_harm_nobody(wfe: RunningWfe, others: OtherProcesses) -> None:
    """Rows E73, E75, FI3: ten megabytes from three accounts get the documented answers, their orders stay ready and
    nothing is queued; memory does not grow; another account's orders become certificates all the while, and the
    attackers' own with a good CSR afterwards."""
    attackers = [await wfe.subscriber() for _ in range(_ATTACKERS)]
    orders = [await ready_order(client, others, _NAME) for client in attackers]
    good = await wfe.subscriber()
    sent: list[int] = []
    done = 0
    for kind in _GARBAGE:
        await _refused(attackers[0], orders[0].json["finalize"], kind)
    memory = resident_bytes()

    async def attack(client: AcmeClient, order: Answer) -> None:
        rounds = 0
        while rounds < _ROUNDS or done < _GOOD_ORDERS:
            rounds += 1
            for kind in _GARBAGE:
                sent.append(await _refused(client, order.json["finalize"], kind))

    began_s = time.monotonic()
    attacks = [asyncio.create_task(attack(client, order)) for client, order in zip(attackers, orders, strict=True)]
    while not all(task.done() for task in attacks):
        answer, _ = await issued(good, others, f"n{done}.good.example.com")
        assert answer.json["status"] == "valid"
        done += 1
    await asyncio.gather(*attacks)
    took_s = time.monotonic() - began_s
    print(f"{sum(sent) / 1e6:.1f} MB of garbage refused in {took_s:.1f} s ({sum(sent) / took_s / 1e6:.1f} MB/s), "
          f"{done} certificates meanwhile")
    assert sum(sent) >= _LEAST_BYTES
    assert done >= _GOOD_ORDERS
    assert resident_bytes() - memory < _GROWTH_BYTES
    for client, order in zip(attackers, orders, strict=True):
        assert (await client.post(order.location)).json["status"] == "ready"
        assert await others.value("SELECT NOT EXISTS (SELECT FROM finalizations WHERE order_id = $1) AND NOT EXISTS"
                                  " (SELECT FROM issuance_requests WHERE id = $1)", id_of(order.location))
    for answer in await asyncio.gather(*[finalize(client, order, make_csr(_NAME))
                                         for client, order in zip(attackers, orders, strict=True)]):
        answer.require(200)
