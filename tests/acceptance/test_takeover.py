"""The machine of the primary database is lost, and its standby is promoted: `deploy/RUNBOOK.md`, step by step."""

import os
import signal
import ssl
import time
import urllib.request
from pathlib import Path

import aiohttp
from acme import messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.acceptance.acme_session import AcmeSession, ChallengeServer, challenge_server
from tests.acceptance.demo_process import Demo, run_demo
from tests.acceptance.openssl import crl_of, ocsp_status, wait_until_revoked
from tests.acme_client import JOSE_JSON, AcmeClient
from tests.fixtures_dns import DnsProgram
from tests.standby import Pair, pair

_PATIENCE_S = 90.0


def _issue(session: AcmeSession, web: ChallengeServer, name: str, place: Path) -> Path:
    """Orders a name and returns the file of its certificate."""
    order = session.order(name)
    session.answer(order, web)
    assert session.wait_for(order, "ready", "invalid") == "ready"
    session.finalize(order)
    assert session.wait_for(order, "valid", "invalid") == "valid"
    leaf = place / f"{time.monotonic_ns()}.pem"
    leaf.write_bytes(session.download(order).public_bytes(Encoding.PEM))
    return leaf


def _serial(leaf: Path) -> int:
    return x509.load_pem_x509_certificate(leaf.read_bytes()).serial_number


def _crl_number(leaf: Path) -> int:
    return crl_of(leaf).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def _signed_at(demo: Demo, leaf: Path, issuer: Path) -> float:
    """When the response that the responder has for a certificate was signed."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        x509.load_pem_x509_certificate(leaf.read_bytes()), x509.load_pem_x509_certificate(issuer.read_bytes()),
        hashes.SHA1())  # noqa: S303 - what clients send
    asked = urllib.request.Request(demo.ocsp_url, builder.build().public_bytes(Encoding.DER),
                                   {"Content-Type": "application/ocsp-request"})
    with urllib.request.urlopen(asked, timeout=10) as reply:
        return ocsp.load_der_ocsp_response(reply.read()).produced_at_utc.timestamp()


async def test_a_promoted_standby_goes_on_where_the_primary_was(tmp_path: Path, acceptance_dns: DnsProgram) -> None:
    """With a synchronous standby nothing that a client was told is lost: no process is restarted, an order in the
    middle is finished, names are ordered and renewed, no serial number comes twice, what was revoked stays so, OCSP and
    CRLs go on from where they were, a responder's store included; database and audit logs agree to the end. Row N4: a
    nonce whose spending the standby has not seen stays dead, at servers that start afterwards, too."""
    async with pair(tmp_path) as servers:
        await servers.wait_for_the_standby()
        environment = {"CHANCERY_DATABASE__URL": servers.both_url,
                       "CHANCERY_DATABASE__SECRETS_DIR": str(servers.primary.secrets_dir)}
        with run_demo(tmp_path / "chancery", resolver=acceptance_dns.address, environment=environment) as demo, \
                challenge_server(demo) as web:
            await _take_over(demo, web, servers, tmp_path)


async def _take_over(demo: Demo, web: ChallengeServer, servers: Pair, place: Path) -> None:
    issuer = demo.data_dir / "issuers" / "chancery-demo-e1.pem"
    session = AcmeSession(demo)
    kept, lost = (_issue(session, web, f"{name}.standby.example", place) for name in ("kept", "lost"))
    demo.run("cert", "revoke", f"{_serial(lost):036x}", "--reason", "superseded", "--yes")
    wait_until_revoked(demo, leaf=lost, issuer=issuer)
    halfway = session.order("halfway.standby.example")
    session.answer(halfway, web)
    session.wait_for(halfway, "ready")
    crl_number, signed_at, pids = _crl_number(kept), _signed_at(demo, kept, issuer), demo.child_pids()
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=demo.roots), force_close=True)
    base = demo.directory_url.removesuffix("/directory")
    http = aiohttp.ClientSession(connector=connector)
    client = AcmeClient(http=http, public_base=base, base=base)
    (await client.register()).require(201)
    replayed = await client.signed(client.kid)
    (await client.send("POST", client.kid, data=replayed, headers=JOSE_JSON)).require(200)

    await servers.kill_primary()
    assert ocsp_status(demo, leaf=kept, issuer=issuer) == "good"
    assert ocsp_status(demo, leaf=lost, issuer=issuer) == "revoked"
    await servers.promote()
    _until_it_goes_on(session, halfway)

    session.finalize(halfway)
    assert session.wait_for(halfway, "valid", "invalid") == "valid"
    renewed = _issue(session, web, "kept.standby.example", place)
    new = _issue(AcmeSession(demo), web, "new.standby.example", place)
    serials = {_serial(leaf) for leaf in (kept, lost, renewed, new)} | {session.download(halfway).serial_number}
    assert len(serials) == 5
    assert ocsp_status(demo, leaf=new, issuer=issuer) == "good"
    assert ocsp_status(demo, leaf=lost, issuer=issuer) == "revoked"
    assert _signed_at(demo, new, issuer) >= signed_at
    demo.run("cert", "revoke", f"{_serial(kept):036x}", "--reason", "superseded", "--yes")
    wait_until_revoked(demo, leaf=kept, issuer=issuer)
    give_up_at = time.monotonic() + _PATIENCE_S
    while crl_of(kept).get_revoked_certificate_by_serial_number(_serial(kept)) is None:
        assert time.monotonic() < give_up_at, "the CRL does not have what was revoked after the promotion"
        time.sleep(0.2)
    assert _crl_number(kept) > crl_number
    assert demo.child_pids() == pids

    owner = await servers.promoted.connect()
    await owner.execute("DELETE FROM spent_nonces")     # As if the standby had been further behind.
    await owner.close()
    for pid in pids["wfe"]:
        os.kill(pid, signal.SIGKILL)
    _until_it_goes_on(session, halfway)
    (await client.send("POST", client.kid, data=replayed, headers=JOSE_JSON)).require(400, "badNonce")
    await http.close()
    demo.run("audit", "verify")


def _until_it_goes_on(session: AcmeSession, order: messages.OrderResource) -> None:
    """Waits until a request is answered: a second's nonces are refused when the database is another one."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            session.status(order)
            return
        except messages.Error as problem:
            if problem.typ != "urn:ietf:params:acme:error:badNonce" or time.monotonic() > give_up_at:
                raise
            time.sleep(0.2)
