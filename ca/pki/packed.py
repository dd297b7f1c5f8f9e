"""Small documents as few bytes, for columns that every certificate has one of: evidence, signed requests.

PostgreSQL compresses nothing under two kilobytes, and these have some hundred bytes, of which most are always the same:
names of members, URLs, the form of a CSR. So they are deflated with a dictionary of what is usually in them. Random
octets in base64url, which would take a third more room than they are worth, are put back to octets first.

What is packed is read for years, so a dictionary is never changed: another one gets another first octet.
"""

import base64
import binascii
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

MAX_BYTES: Final = 1 << 20
"""What is inflated is never longer, whoever packed it."""
_PLAIN: Final = b"\0"
_DEFLATED: Final = b"\1"
_WINDOW_BITS: Final = -12
_MEMORY_LEVEL: Final = 5
_LENGTHS: Final = re.compile(rb"([0-9]{1,10}),([0-9]{1,10}),([0-9]{1,10}):")
# At most 255 octets, so that one octet says how many.
_RUN: Final = re.compile(rb"[A-Za-z0-9_-]{20,340}")
_MARK: Final = b"\0"

# Facts as acme_api/va writes them, the most frequent last, where a reference to them is shortest.
_EVIDENCE_SAMPLE: Final = (
    b'"refused":"","addresses":[""],"reason":"","not_connected":"","failed":[""],"aliases":[""],"dnssec":true,'
    b'"not_corroborated":"","redirect":"https://","location":"","left_out":1,"adn":"","perspectives":[{"name":"","rir":'
    b'"RIPE NCC","verdict":"differs","verdict":"absent","verdict":"corroborates","type":"urn:ietf:params:acme:error:",'
    b'"detail":"","ms":100,"facts":[{"ms":30,"txt":"_acme-challenge.","got":["","ttl_s":300},{"ms":40,"caa":"","records":'
    b'["0 issue \\"letsencrypt.org\\"","0 issuewild \\""]}]}],{"ms":3,"certificate":"","connected":" port 443"},'
    b'{"rules":"BR 2.2.8 3.2.2.4.7","rules":"BR 2.2.8 3.2.2.4.20","rules":"BR 2.2.8 3.2.2.4.19","began_at":"2026-11-2'
    b'T12:00:00.100+00:00","facts":[{"ms":0,"addresses":"www.example.com","got":["2001:db8::1","::1","127.0.0.1"]},'
    b'{"ms":2,"connected":"2001:db8::1 port 80"},{"ms":3,"response":"127.0.0.1 port 80","status":200,"bytes":87},'
    b'{"ms":4,"caa":"no records up to the top-level domain"}]}')
# A finalize request: the key, the protected header, the CSR; RSA before P-256, which is what most have.
_REQUEST_SAMPLE: Final = (
    b'{"csr":"MIICWTCCAUECAQAwFDESMBAGA1UEAwwJYS5leGFtcGxlMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA"'
    b'oA8wDQYJKoZIhvcNAQELBQADggEBA{"e":"AQAB","kty":"RSA","n":""}{"crv":"Ed25519","kty":"OKP","x":""}'
    b'{"crv":"P-384","kty":"EC","x":"","y":""}{"alg":"EdDSA","alg":"ES384","alg":"RS256","kid":"https://'
    b'{"crv":"P-256","kty":"EC","x":"\x00 ","y":"\x00 "}{"alg":"ES256","kid":"https://localhost/acme/account/\x00\x16'
    b'","nonce":"\x00 ","url":"https:///acme/order/\x00\x16/finalize"}{"csr":"\x00'
    + bytes.fromhex("3082010c3081b20201003059301306072a8648ce3d020106082a8648ce3d03010703420004"
                    "a04e304c06092a864886f70d01090e313f303d303b0603551d110101ff04313"
                    "02f822d0a300a06082a8648ce3d040302034800304502210002207500"))


class PackedError(Exception):
    """These bytes are nothing that was packed here."""


class StoredRequest(NamedTuple):
    """A signed request in its parts: the key (canonical JWK), and the decoded members of the flattened JWS."""

    jwk: str
    protected: bytes
    payload: bytes
    signature: bytes


def pack_evidence(document: Mapping[str, Any]) -> bytes:
    """What was seen at a validation, as it is stored."""
    return _pack(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), _EVIDENCE_SAMPLE)


def unpack_evidence(packed: bytes) -> Any:
    """What was seen at a validation. Raises PackedError."""
    try:
        return json.loads(_unpack(packed, _EVIDENCE_SAMPLE))
    except ValueError as fault:
        raise PackedError("not JSON") from fault


def pack_request(request: StoredRequest) -> bytes:
    """A subscriber's signed request, as it is stored: every octet comes back."""
    jwk = request.jwk.encode()
    lengths = f"{len(jwk)},{len(request.protected)},{len(request.payload)}:".encode("ascii")
    signature = base64.urlsafe_b64encode(request.signature).rstrip(b"=")
    return _pack(lengths + jwk + request.protected + request.payload + signature, _REQUEST_SAMPLE)


def unpack_request(packed: bytes) -> StoredRequest:
    """A subscriber's signed request. Raises PackedError."""
    data = _unpack(packed, _REQUEST_SAMPLE)
    lengths = _LENGTHS.match(data)
    if lengths is None:
        raise PackedError("the lengths of the parts are missing")
    parts, start = [], lengths.end()
    for length in map(int, lengths.groups()):
        parts.append(data[start:start + length])
        start += length
    if start > len(data):
        raise PackedError("shorter than its parts")
    try:
        return StoredRequest(jwk=parts[0].decode(), protected=parts[1], payload=parts[2],
                             signature=_decode(data[start:]))
    except ValueError as fault:
        raise PackedError("a part is not what it should be") from fault


def _pack(data: bytes, dictionary: bytes) -> bytes:
    if _MARK not in data and len(data) <= MAX_BYTES:
        compressor = zlib.compressobj(9, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zdict=dictionary)
        packed = compressor.compress(_RUN.sub(_squeezed, data)) + compressor.flush()
        if len(packed) < len(data):
            return _DEFLATED + packed
    return _PLAIN + data


def _unpack(packed: bytes, dictionary: bytes) -> bytes:
    form, content = packed[:1], packed[1:]
    if form == _PLAIN:
        return content
    if form != _DEFLATED:
        raise PackedError("packed in a form that is not known here")
    inflater = zlib.decompressobj(_WINDOW_BITS, dictionary)
    try:
        squeezed = inflater.decompress(content, MAX_BYTES)
    except zlib.error as fault:
        raise PackedError("damaged") from fault
    if not inflater.eof or inflater.unused_data:
        raise PackedError("cut off, too long, or followed by something")
    pieces, start = [], 0
    while (mark := squeezed.find(_MARK, start)) >= 0:
        length = squeezed[mark + 1] if mark + 1 < len(squeezed) else 0
        octets = squeezed[mark + 2:mark + 2 + length]
        if not length or len(octets) < length:
            raise PackedError("a run of octets is cut off")
        pieces += [squeezed[start:mark], base64.urlsafe_b64encode(octets).rstrip(b"=")]
        start = mark + 2 + length
    return b"".join([*pieces, squeezed[start:]])


def _squeezed(run: re.Match[bytes]) -> bytes:
    """The octets of what may be base64url, when nothing is lost by it."""
    text = run[0]
    try:
        octets = _decode(text)
    except ValueError:
        return text
    return _MARK + bytes([len(octets)]) + octets if base64.urlsafe_b64encode(octets).rstrip(b"=") == text else text


def _decode(text: bytes) -> bytes:
    """Raises ValueError."""
    try:
        return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error as fault:
        raise ValueError("not base64url") from fault
