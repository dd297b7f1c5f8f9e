"""An ACME client (RFC 8555) that does whole orders and times them. Its JOSE is its own: ES256 over flattened JSON."""

import asyncio
import base64
import hashlib
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from loadtest.challenge_server import ChallengeServer
from loadtest.http_connection import HttpConnection, HttpResponse, Origin, loopback_origin
from loadtest.poll import PollPolicy

_JOSE_TYPE = "application/jose+json"
_REQUEST_TIMEOUT_S = 30.0
_NONCE_TRIES = 3
_COORDINATE_BYTES = 32
_COMPACT = json.JSONEncoder(separators=(",", ":"))
_ES256 = ec.ECDSA(hashes.SHA256())
_FINAL_STATUSES = ("valid", "invalid", "deactivated", "expired", "revoked")


class AcmeFault(Exception):
    """The server refused, or did what RFC 8555 does not allow. The text is short enough to be counted by."""


def base64url(data: bytes) -> str:
    """RFC 7515 2: without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def compact_json(value: object) -> bytes:
    """JSON without spaces."""
    return _COMPACT.encode(value).encode("ascii")


class AccountKey:
    """A P-256 key that signs requests (RFC 7518 3.4)."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        numbers = key.public_key().public_numbers()
        x, y = (base64url(value.to_bytes(_COORDINATE_BYTES, "big")) for value in (numbers.x, numbers.y))
        self.jwk = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        self.thumbprint = base64url(hashlib.sha256(compact_json(self.jwk)).digest())  # RFC 7638 3, members sorted

    def sign(self, protected: Mapping[str, Any], payload: bytes) -> bytes:
        """The flattened JWS of a request (RFC 8555 6.2); empty `payload` is POST-as-GET."""
        protected64 = base64url(compact_json({"alg": "ES256", **protected}))
        payload64 = base64url(payload)
        der = self._key.sign(f"{protected64}.{payload64}".encode("ascii"), _ES256)
        r, s = decode_dss_signature(der)
        signature = base64url(r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big"))
        return compact_json({"protected": protected64, "payload": payload64, "signature": signature})


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedOrder:
    """A name, and a CSR for it made before the clock runs."""

    name: str
    csr: bytes


def prepare_order(name: str) -> PreparedOrder:
    """A fresh P-256 key and its CSR; the key itself is thrown away."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (x509.CertificateSigningRequestBuilder()
           .subject_name(x509.Name([]))
           .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
           .sign(key, hashes.SHA256()))
    return PreparedOrder(name=name, csr=csr.public_bytes(serialization.Encoding.DER))


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedOrder:
    """A certificate chain as downloaded, and how long it took."""

    chain_pem: bytes
    order_s: float          # from newOrder to the downloaded chain
    validation_s: float     # from the answer to the challenge to a valid authorization
    finalize_s: float       # from finalize to the downloaded chain
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmeServer:
    """The directory of a server, and how to reach it."""

    origin: Origin
    tls: ssl.SSLContext | None
    directory: dict[str, Any]

    @classmethod
    async def discover(cls, directory_url: str, tls: ssl.SSLContext | None) -> "AcmeServer":
        """Reads the directory. Raises AcmeFault, HttpFault, OSError."""
        origin = loopback_origin(directory_url)
        connection = HttpConnection(origin, tls)
        try:
            response = await connection.request("GET", urlsplit(directory_url).path, None, content_type="",
                                                timeout_s=_REQUEST_TIMEOUT_S)
        finally:
            connection.close()
        if response.status != 200:
            raise AcmeFault(f"directory: HTTP {response.status}")
        return cls(origin=origin, tls=tls, directory=json.loads(response.body))

    def path(self, url: str) -> str:
        """The path of a URL on this very server: one connection reaches all of it."""
        start = f"{self.origin.scheme}://{self.origin.authority}"
        if not url.startswith(f"{start}/"):
            raise AcmeFault("a URL leads to another server")
        return url[len(start):]


class AcmeAccount:
    """One account on one connection; does one thing after another, as a client does."""

    def __init__(self, server: AcmeServer, challenges: ChallengeServer, polling: PollPolicy) -> None:
        self._server = server
        self._challenges = challenges
        self._polling = polling
        self._key = AccountKey(ec.generate_private_key(ec.SECP256R1()))
        self._connection = HttpConnection(server.origin, server.tls)
        self._nonce: str | None = None
        self._kid: str | None = None
        self.requests = 0
        self.bad_nonces = 0

    async def register(self) -> None:
        """newAccount (RFC 8555 7.3)."""
        response = await self._post(self._server.directory["newAccount"], {"termsOfServiceAgreed": True}, expect=201)
        self._kid = _location(response)

    async def order(self, prepared: PreparedOrder) -> IssuedOrder:
        """newOrder, http-01, finalize, download. Raises AcmeFault, HttpFault, OSError or TimeoutError."""
        requests_before = self.requests
        started = time.perf_counter()
        response = await self._post(self._server.directory["newOrder"],
                                    {"identifiers": [{"type": "dns", "value": prepared.name}]}, expect=201)
        order_url, order = _location(response), json.loads(response.body)
        answered = time.perf_counter()
        for authorization_url in order["authorizations"]:
            await self._authorize(authorization_url)
        finalizing = time.perf_counter()
        response = await self._post(order["finalize"], {"csr": base64url(prepared.csr)}, expect=200)
        order = json.loads(response.body)
        if order["status"] not in _FINAL_STATUSES:
            order = await self._poll(order_url, "order")
        if order["status"] != "valid":
            raise AcmeFault(f"order {order['status']}: {_problem(order.get('error'))}")
        chain = await self._post(order["certificate"], None, expect=200)
        now = time.perf_counter()
        return IssuedOrder(chain_pem=chain.body, order_s=now - started, validation_s=finalizing - answered,
                           finalize_s=now - finalizing, requests=self.requests - requests_before)

    async def revoke(self, certificate_der: bytes, reason: int) -> None:
        """revokeCert (RFC 8555 7.6)."""
        await self._post(self._server.directory["revokeCert"],
                         {"certificate": base64url(certificate_der), "reason": reason}, expect=200)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    async def _authorize(self, url: str) -> None:
        authorization = json.loads((await self._post(url, None, expect=200)).body)
        if authorization["status"] == "valid":
            return
        challenge = next((one for one in authorization["challenges"] if one["type"] == "http-01"), None)
        if challenge is None:
            raise AcmeFault("authorization without http-01")
        token = challenge["token"]
        self._challenges.publish(token, f"{token}.{self._key.thumbprint}")
        try:
            await self._post(challenge["url"], {}, expect=200)
            authorization = await self._poll(url, "authorization")
        finally:
            self._challenges.withdraw(token)
        if authorization["status"] != "valid":
            errors = [one.get("error") for one in authorization["challenges"] if one.get("error")]
            raise AcmeFault(f"authorization {authorization['status']}: {_problem(errors[0] if errors else None)}")

    async def _poll(self, url: str, what: str) -> dict[str, Any]:
        """POST-as-GET until a status is final. Retry-After is for clients in no hurry; this one measures."""
        for delay_s in self._polling.delays_s():
            await asyncio.sleep(delay_s)
            found: dict[str, Any] = json.loads((await self._post(url, None, expect=200)).body)
            if found["status"] in _FINAL_STATUSES:
                return found
        raise AcmeFault(f"{what} not final after {self._polling.patience_s:.0f} s")

    async def _post(self, url: str, payload: object, *, expect: int) -> HttpResponse:
        """A signed request; a badNonce answer is tried again with the fresh nonce (RFC 8555 6.5)."""
        content = b"" if payload is None else compact_json(payload)
        for _ in range(_NONCE_TRIES):
            identity = {"kid": self._kid} if self._kid is not None else {"jwk": self._key.jwk}
            protected = {**identity, "nonce": await self._take_nonce(), "url": url}
            self.requests += 1
            response = await self._connection.request("POST", self._server.path(url),
                                                      self._key.sign(protected, content), content_type=_JOSE_TYPE,
                                                      timeout_s=_REQUEST_TIMEOUT_S)
            self._nonce = response.headers.get("replay-nonce")
            if response.status == expect:
                return response
            problem = _body_problem(response)
            if not problem.startswith("badNonce"):
                break
            self.bad_nonces += 1
        raise AcmeFault(f"HTTP {response.status} {problem}")

    async def _take_nonce(self) -> str:
        nonce, self._nonce = self._nonce, None
        if nonce is not None:
            return nonce
        response = await self._connection.request("GET", self._server.path(self._server.directory["newNonce"]), None,
                                                  content_type="", timeout_s=_REQUEST_TIMEOUT_S)
        if "replay-nonce" not in response.headers:
            raise AcmeFault(f"newNonce: HTTP {response.status} without a nonce")
        return response.headers["replay-nonce"]


def _location(response: HttpResponse) -> str:
    if "location" not in response.headers:
        raise AcmeFault("201 without Location")
    return response.headers["location"]


def _body_problem(response: HttpResponse) -> str:
    try:
        return _problem(json.loads(response.body))
    except ValueError:
        return "without a problem document"


def _problem(problem: Any) -> str:
    if not isinstance(problem, dict):
        return "without a problem document"
    kind = str(problem.get("type", "")).rpartition(":")[2]
    return f"{kind}: {str(problem.get('detail', ''))[:160]}"
