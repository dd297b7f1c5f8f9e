"""An ACME order in single steps, with the library inside certbot: a test can do something between two."""

import base64
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol, TypeVar

import requests
from acme import challenges, client, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.json_util import field
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from tests.acceptance.demo_process import Demo

_Result = TypeVar("_Result")
_PATIENCE_S = 100.0


class ChallengeServer:
    """Answers http-01 for every token that was put in; a closed gate makes it hold its answers back."""

    def __init__(self, port: int) -> None:
        self.answers: dict[str, str] = {}
        self.asked = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.set()
                outer.gate.wait(60)
                body = outer.answers.get(self.path, "").encode()
                self.send_response(200 if body else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True


@contextmanager
def challenge_server(demo: Demo) -> Iterator[ChallengeServer]:
    """A server on the port where the demo validates http-01."""
    running = ChallengeServer(demo.http_01_port)
    thread = threading.Thread(target=running.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.gate.set()
        running.server.shutdown()
        running.server.server_close()
        thread.join()


class Server(Protocol):
    """An ACME server, and the file of the roots that its own certificate is verified by."""

    @property
    def directory_url(self) -> str: ...
    @property
    def roots(self) -> Path: ...


class _Below(messages.Identifier):
    """A name whose ancestor domain's control is shown instead."""

    ancestor: str = field("ancestorDomain")


class AcmeSession:
    """One account with an EC key. Every step is repeated while the server is away, as a patient client does.

    `adapter`: how https is spoken, where the server's name is not in this machine's DNS.
    """

    def __init__(self, server: Server, adapter: requests.adapters.HTTPAdapter | None = None) -> None:
        self._key = JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
        self._network = client.ClientNetwork(self._key, alg=ES256, verify_ssl=str(server.roots))  # type: ignore[arg-type]
        if adapter is not None:
            self._network.session.mount("https://", adapter)
        directory = messages.Directory.from_json(self._network.get(server.directory_url).json())
        self.client = client.ClientV2(directory, self._network)
        self.client.new_account(messages.NewRegistration.from_data(terms_of_service_agreed=True))

    @property
    def account_url(self) -> str:
        """Its kid."""
        account = self.client.net.account
        assert account is not None
        return str(account.uri)

    @property
    def thumbprint(self) -> str:
        """Of the account's key, base64url (RFC 7638)."""
        return base64.urlsafe_b64encode(self._key.thumbprint()).decode("ascii").rstrip("=")

    def order(self, *names: str, ancestor: str | None = None) -> messages.OrderResource:
        """A new order for names or addresses, with a P-256 request. `ancestor`: the domain above all of them whose
        control is shown instead (RFC 9444), which the library does not know."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False).sign(
                key, hashes.SHA256())
        pem = request.public_bytes(serialization.Encoding.PEM)
        if ancestor is None:
            return patiently(lambda: self.client.new_order(pem))
        wanted = messages.NewOrder(identifiers=[
            _Below(typ=messages.IDENTIFIER_FQDN, value=name, ancestor=ancestor) for name in names])
        answered = patiently(lambda: self.client._post(self.client.directory["newOrder"], wanted))
        return messages.OrderResource(body=messages.Order.from_json(answered.json()), csr_pem=pem,
                                      uri=answered.headers["Location"])

    def answer(self, order: messages.OrderResource, server: ChallengeServer) -> None:
        """Provisions http-01 and tells the server to look."""
        for authorization in order.authorizations:
            found = next(item for item in authorization.body.challenges if isinstance(item.chall, challenges.HTTP01))
            response, validation = found.response_and_validation(self._key)
            server.answers[found.chall.path] = validation
            patiently(partial(self.client.answer_challenge, found, response))

    def status(self, order: messages.OrderResource) -> str:
        """The order's status now."""
        answer = patiently(lambda: self.client._post_as_get(order.uri))
        return str(answer.json()["status"])

    def wait_for(self, order: messages.OrderResource, *statuses: str) -> str:
        """Polls until the order has one of the statuses."""
        give_up_at = time.monotonic() + _PATIENCE_S
        while (status := self.status(order)) not in statuses:
            assert time.monotonic() < give_up_at, f"the order stays {status}"
            time.sleep(0.1)
        return status

    def finalize(self, order: messages.OrderResource) -> str:
        """Asks for the certificate; returns the order's status in the answer."""
        csr = x509.load_pem_x509_csr(order.csr_pem)
        body = messages.CertificateRequest(csr=csr)
        answer = patiently(lambda: self.client._post(order.body.finalize, body))
        return str(answer.json()["status"])

    def download(self, order: messages.OrderResource) -> x509.Certificate:
        """The leaf of a valid order."""
        url = patiently(lambda: self.client._post_as_get(order.uri)).json()["certificate"]
        chain = patiently(lambda: self.client._post_as_get(url)).text
        return x509.load_pem_x509_certificate(chain.encode("ascii"))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def patiently(step: Callable[[], _Result]) -> _Result:
    """Repeats the step while nobody answers, or while the answer is a fault of the server (5xx)."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return step()
        except requests.exceptions.ConnectionError:
            if time.monotonic() > give_up_at:
                raise
        except messages.Error as problem:
            if problem.typ != "urn:ietf:params:acme:error:serverInternal" or time.monotonic() > give_up_at:
                raise
        time.sleep(0.1)


