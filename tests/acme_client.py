"""A small ACME client for tests, our own code on `cryptography` (never josepy): every field of a JWS is in reach.

`SigningKey` makes JWKs and JWS signatures, `flatten` puts a request together with any member changed, and `AcmeClient`
sends requests and keeps nonces. After each answer the client checks what holds for all of them (rows N3, T9, P1).
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

URN = "urn:ietf:params:acme:error:"
_CURVES: dict[str, tuple[str, ec.EllipticCurve, int, hashes.HashAlgorithm]] = {
    "ES256": ("P-256", ec.SECP256R1(), 32, hashes.SHA256()),
    "ES384": ("P-384", ec.SECP384R1(), 48, hashes.SHA384()),
    "ES512": ("P-521", ec.SECP521R1(), 66, hashes.SHA512()),
}
_ABSENT = object()
ABSENT: Any = _ABSENT
"""As the value of a member: leave it out."""
JOSE_JSON = {"Content-Type": "application/jose+json"}


def b64(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """The bytes of unpadded base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True)
class SigningKey:
    """A key pair with its JOSE algorithm."""

    alg: str
    private: Any

    @classmethod
    def make(cls, alg: str = "ES256") -> "SigningKey":
        """A new key of one of the five algorithms."""
        if alg == "RS256":
            return cls(alg, rsa.generate_private_key(65537, 2048))
        if alg == "EdDSA":
            return cls(alg, ed25519.Ed25519PrivateKey.generate())
        return cls(alg, ec.generate_private_key(_CURVES[alg][1]))

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key (RFC 7517)."""
        if self.alg == "RS256":
            numbers = self.private.public_key().public_numbers()
            return {"kty": "RSA", "n": b64(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")), "e": "AQAB"}
        if self.alg == "EdDSA":
            return {"kty": "OKP", "crv": "Ed25519", "x": b64(self.private.public_key().public_bytes_raw())}
        name, _, size, _ = _CURVES[self.alg]
        numbers = self.private.public_key().public_numbers()
        return {"kty": "EC", "crv": name, "x": b64(numbers.x.to_bytes(size, "big")),
                "y": b64(numbers.y.to_bytes(size, "big"))}

    @property
    def thumbprint(self) -> bytes:
        """RFC 7638."""
        return hashlib.sha256(self.jwk_text.encode()).digest()

    @property
    def jwk_text(self) -> str:
        """The thumbprint's input."""
        return json.dumps(self.jwk, sort_keys=True, separators=(",", ":"))

    def sign(self, data: bytes) -> bytes:
        """A JWS signature: raw R and S for ECDSA."""
        if self.alg == "RS256":
            return bytes(self.private.sign(data, padding.PKCS1v15(), hashes.SHA256()))
        if self.alg == "EdDSA":
            return bytes(self.private.sign(data))
        _, _, size, digest = _CURVES[self.alg]
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def encode_payload(payload: Any) -> bytes:
    """None is POST-as-GET, bytes go as they are, everything else becomes JSON."""
    if payload is None:
        return b""
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()


def flatten(
    key: "SigningKey | HmacKey", protected: Mapping[str, Any] | bytes, payload: Any, /, **members: Any
) -> dict[str, Any]:
    """A flattened JWS; `members` replace or (with ABSENT) drop members after signing."""
    header = protected if isinstance(protected, bytes) else json.dumps(
        {name: value for name, value in protected.items() if value is not ABSENT}).encode()
    parts = {"protected": b64(header), "payload": b64(encode_payload(payload))}
    signature = key.sign(f"{parts['protected']}.{parts['payload']}".encode())
    document = {**parts, "signature": b64(signature), **members}
    return {name: value for name, value in document.items() if value is not ABSENT}


@dataclass(frozen=True)
class HmacKey:
    """The key of an external account; `sign` is what `flatten` asks for."""

    alg: str
    secret: bytes

    def sign(self, data: bytes) -> bytes:
        """HMAC with SHA-256, SHA-384 or SHA-512."""
        return hmac.digest(self.secret, data, f"sha{self.alg[2:]}")


def make_binding(key: HmacKey, kid: Any, url: str, jwk: Any, /, *, protected: Mapping[str, Any] | None = None,
                 **members: Any) -> dict[str, Any]:
    """An externalAccountBinding; `protected` and `members` replace or (with ABSENT) drop what it is made of."""
    return flatten(key, {"alg": key.alg, "kid": kid, "url": url, **(protected or {})}, jwk, **members)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    links: list[tuple[str, str]]
    body: bytes
    nonces: list[str]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def type(self) -> str:
        """The problem's type without the URN."""
        return str(self.json["type"]).removeprefix(URN)

    @property
    def location(self) -> str:
        """The Location header."""
        return self.headers["Location"]

    def link(self, relation: str) -> list[str]:
        """Targets of links with that relation."""
        return [target for target, rel in self.links if rel == relation]

    def require(self, status: int, kind: str | None = None) -> "Answer":
        """This answer, when it has the status (and is a problem of that type)."""
        got = (self.status, self.type if self.status >= 400 else None)
        assert got == (status, kind), f"{got}: {self.body[:500]!r}"
        return self


@dataclass
class AcmeClient:
    """One subscriber. `base` is where the server listens; `public_base` is what its URLs start with."""

    http: aiohttp.ClientSession
    public_base: str
    base: str
    key: SigningKey = field(default_factory=SigningKey.make)
    kid: str = ""
    nonces: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        """The URL that goes into the protected header."""
        return path if path.startswith("http") else self.public_base + path

    async def send(self, method: str, path: str, *, data: bytes | None = None,
                   headers: Mapping[str, str] | None = None) -> Answer:
        """One HTTP request; nothing is signed. Keeps the nonce of the answer."""
        where = self.base + path.removeprefix(self.public_base)
        async with self.http.request(method, where, data=data, headers=headers, allow_redirects=False) as response:
            body = await response.read()
            links = [_split_link(value) for value in response.headers.getall("Link", [])]
            answer = Answer(status=response.status, headers=response.headers, links=links, body=body,
                            nonces=response.headers.getall("Replay-Nonce", []))
        if method in ("POST", "HEAD"):
            self.nonces.extend(answer.nonces)
        _check(method, path.removeprefix(self.public_base), answer, self.public_base)
        return answer

    async def nonce(self) -> str:
        """A fresh nonce."""
        if not self.nonces:
            await self.send("HEAD", "/acme/new-nonce")
        return self.nonces.pop()

    async def protected(self, path: str, **changes: Any) -> dict[str, Any]:
        """A protected header with a fresh nonce: by kid once there is an account. ABSENT drops a member."""
        header: dict[str, Any] = {"alg": self.key.alg, "url": self.url(path)}
        if "nonce" not in changes:
            header["nonce"] = await self.nonce()
        header |= {"kid": self.kid} if self.kid and "jwk" not in changes else {"jwk": self.key.jwk}
        return {name: value for name, value in (header | changes).items() if value is not ABSENT}

    async def signed(self, path: str, payload: Any = None, **changes: Any) -> bytes:
        """A signed body; `changes` are made to the protected header before signing."""
        return json.dumps(flatten(self.key, await self.protected(path, **changes), payload)).encode()

    async def post(self, path: str, payload: Any = None, **changes: Any) -> Answer:
        """A signed request. `payload` None is POST-as-GET."""
        return await self.send("POST", path, data=await self.signed(path, payload, **changes), headers=JOSE_JSON)

    async def register(self, **members: Any) -> Answer:
        """newAccount; from then on requests are by kid."""
        answer = await self.post("/acme/new-account", {"termsOfServiceAgreed": True, **members}, jwk=self.key.jwk)
        if answer.status in (200, 201):
            self.kid = answer.location
        return answer

    async def order(self, *names: str, **members: Any) -> Answer:
        """newOrder for dns names."""
        return await self.post("/acme/new-order", {
            "identifiers": [{"type": "dns", "value": name} for name in names], **members})


def make_csr(*names: str, key: Any = None, common_name: str | None = None) -> bytes:
    """A DER certification request for names and addresses."""
    # Clients write names of more than 64 characters into it.
    subject = [] if common_name is None else [
        x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name, _validate=False)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), False)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def general_name(value: str) -> x509.GeneralName:
    """An address when the text is one, else a name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(value))
    except ValueError:
        return x509.DNSName(value)


def _split_link(value: str) -> tuple[str, str]:
    match = re.fullmatch(r'<([^>]+)>;rel="([a-z-]+)"', value)
    assert match, f"one link a line, rel first and quoted (row T9): {value}"
    return match[1], match[2]


def _check(method: str, path: str, answer: Answer, public_base: str) -> None:
    """What holds for every answer: nonces, index link, form and language of problem documents (N3, P1, P3, T9, T14)."""
    readable = method in ("GET", "HEAD")
    if readable and ((path.partition("?")[0] == "/directory" and answer.status == 200)
                     or path.startswith("/acme/renewal-info/")):
        assert not answer.nonces, "rows N10, AR5"
    elif method == "POST" or answer.status >= 400:
        assert len(answer.nonces) == 1, f"row N3: {method} {path} {answer.status}"
    if not (path.partition("?")[0] == "/directory" and answer.status < 400):
        assert answer.link("index") == [f"{public_base}/directory"], f"row T9: {method} {path}"
    if answer.status >= 400 and method != "HEAD":
        assert answer.headers["Content-Type"] == "application/problem+json", "row P1"
        assert answer.headers["Content-Language"] == "en", "row T14"
        document = answer.json
        assert document["status"] == answer.status
        assert document["type"].startswith(URN)
        assert document["detail"]
        assert "identifier" not in document, "row P3"
