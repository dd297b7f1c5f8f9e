"""The load generator's ACME client: its JOSE is right, and it takes whole orders to the end."""

import asyncio
import base64
import json
import math
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from josepy.jwk import JWKEC
from josepy.jws import JWS

from loadtest.acme_round import Target, closed_round, open_accounts, paced_round, prepare_orders
from loadtest.challenge_server import ChallengeServer
from loadtest.driver_acme import AccountKey, AcmeAccount, AcmeServer, prepare_order
from loadtest.http_connection import loopback_origin
from loadtest.peers import Pebble, tls_trusting
from loadtest.poll import PollPolicy
from loadtest.process_cpu import tree_cpu_s
from tests.ports import free_port


def _decoded(text: str) -> bytes:
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_requests_are_signed_with_es256() -> None:
    """The signature is raw R and S over `protected.payload` (RFC 7518 3.4), and the protected header is whole."""
    key = ec.generate_private_key(ec.SECP256R1())
    protected = {"kid": "https://localhost/acme/account/1", "nonce": "abc", "url": "https://localhost/acme/new-order"}
    jws = json.loads(AccountKey(key).sign(protected, b'{"a":1}'))
    assert set(jws) == {"protected", "payload", "signature"}
    assert json.loads(_decoded(jws["protected"])) == {"alg": "ES256", **protected}
    assert _decoded(jws["payload"]) == b'{"a":1}'
    raw = _decoded(jws["signature"])
    assert len(raw) == 64
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    signed = f"{jws['protected']}.{jws['payload']}".encode()
    key.public_key().verify(der, signed, ec.ECDSA(hashes.SHA256()))


def test_another_implementation_accepts_the_signature() -> None:
    """josepy verifies an embedded-key request as a CA would."""
    key = AccountKey(ec.generate_private_key(ec.SECP256R1()))
    jws = JWS.json_loads(key.sign({"jwk": key.jwk, "nonce": "abc", "url": "https://localhost/x"}, b"").decode())
    assert jws.verify()


def test_thumbprint_is_that_of_rfc_7638() -> None:
    """josepy computes the same thumbprint, for coordinates with leading zeros too."""
    for scalar in range(1, 600):
        private = ec.derive_private_key(scalar, ec.SECP256R1())
        mine = AccountKey(private)
        theirs = JWKEC(key=private.public_key()).thumbprint(hash_function=hashes.SHA256)
        assert _decoded(mine.thumbprint) == theirs


def test_prepared_orders_have_a_valid_csr_for_their_name() -> None:
    """The CSR is signed by its own fresh key and asks for the one name."""
    first, second = (prepare_order(name) for name in ("a.load.localhost", "b.load.localhost"))
    csr = x509.load_der_x509_csr(first.csr)
    assert csr.is_signature_valid
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.load.localhost"]
    assert csr.public_key() != x509.load_der_x509_csr(second.csr).public_key()


def test_polling_grows_and_gives_up() -> None:
    """Delays double up to the ceiling, and their sum stays within the patience."""
    delays = list(PollPolicy(first_s=0.01, longest_s=0.04, patience_s=0.2).delays_s())
    assert delays[:4] == [0.01, 0.02, 0.04, 0.04]
    assert sum(delays) <= 0.2 < sum(delays) + 0.04


async def test_whole_orders_at_pebble(tmp_path: Path) -> None:
    """Two accounts take eight orders to certificates that name what was asked for; at a given rate four more.

    Two at once, because Pebble can deadlock when many orders overlap.
    """
    assert Pebble.missing() is None, f"{Pebble.missing()} is not installed"
    challenges, port = ChallengeServer(), free_port()
    await challenges.start(port)
    peer = await Pebble.start(tmp_path, port)
    try:
        target = Target(name="Pebble", directory_url=peer.directory_url, tls=tls_trusting(peer.roots),
                        cpu_s=lambda: tree_cpu_s([peer.server.pid]))
        accounts = await open_accounts(target, 2, challenges, PollPolicy())
        orders = prepare_orders(8)
        names = {order.name for order in orders}
        found = await closed_round(target, accounts, orders, seconds_s=15.0, keep=8)
        paced = await paced_round(target, accounts, prepare_orders(4), per_s=10.0, seconds_s=0.4)
        for account in accounts:
            account.close()
    finally:
        peer.stop()
        await challenges.stop()
    assert not found.faults
    assert len(found.orders_s) == len(found.certificates) == 8
    issued = [x509.load_pem_x509_certificates(chain)[0] for chain in found.certificates]
    assert {name for one in issued for name in one.extensions.get_extension_for_class(
        x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)} == names
    assert challenges.served >= 12  # Pebble looks several times
    assert 0 < min(found.finalizations_s) < max(found.orders_s) <= found.elapsed_s
    assert found.orders_per_s == pytest.approx(8 / found.elapsed_s)
    assert found.cpu_s["pebble"] > 0
    assert len(paced.orders_s) == 4
    assert paced.elapsed_s > 0.3


async def test_a_silent_server_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and never answers is a stall, reported as one, not a load test that hangs."""
    monkeypatch.setattr("loadtest.acme_round._STALL_S", 1.0)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    account = AcmeAccount(AcmeServer(origin=loopback_origin(url), tls=None, directory={
        "newNonce": f"{url}nonce", "newOrder": f"{url}order"}), ChallengeServer(), PollPolicy())
    target = Target(name="silent", directory_url=url, tls=None, cpu_s=dict)
    found = await closed_round(target, [account], prepare_orders(1), seconds_s=0.2)
    server.close()
    assert found.stalled
    assert math.isnan(found.orders_per_s)
