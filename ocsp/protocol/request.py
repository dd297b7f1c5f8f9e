"""OCSP requests (RFC 6960 4.1): a strict parser that takes what clients send and keeps one CertID of it.

Clients differ: the hash's parameters are NULL or absent, there may be a nonce, a requestor's name, a signature. All of
that is walked and, but for the nonce, ignored; what would change the meaning (a critical extension that we do not know)
is malformed.
"""

import base64
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from ca.pki import der
from ocsp.protocol.response import HashName

MAX_REQUEST_BYTES: Final = 10_000
MAX_PATH_BYTES: Final = 1_000
_MAX_REQUESTS: Final = 100
_MAX_NONCE_BYTES: Final = 128

_EXPLICIT_0: Final = 0xA0
_EXPLICIT_1: Final = 0xA1
_EXPLICIT_2: Final = 0xA2
_NULL: Final = bytes.fromhex("0500")
NONCE: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.2")
_ACCEPTABLE_RESPONSES: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.4")
_KNOWN_EXTENSIONS: Final = frozenset({NONCE, _ACCEPTABLE_RESPONSES})
_HASHES: Final = {
    der.object_identifier("1.3.14.3.2.26"): HashName.SHA1,
    der.object_identifier("2.16.840.1.101.3.4.2.1"): HashName.SHA256,
}
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


class MalformedRequest(ValueError):
    """Not an OCSP request, or one that asks for something that would have to be understood."""


@dataclass(frozen=True, slots=True)
class CertId:
    """Which certificate is asked for. `hash_name` None: a hash that is not answered (unauthorized)."""

    hash_name: HashName | None
    name_hash: bytes
    key_hash: bytes
    serial: bytes


@dataclass(frozen=True, slots=True)
class OcspRequest:
    """The CertIDs of a request, in order; at least one. `nonce`: the value of that extension, as it came; it is echoed
    by responses that are made for this request (RFC 9654)."""

    cert_ids: tuple[CertId, ...]
    nonce: bytes | None = None


def parse_request(data: bytes) -> OcspRequest:
    """The request in `data`. Raises MalformedRequest."""
    if len(data) > MAX_REQUEST_BYTES:
        raise MalformedRequest("too long")
    try:
        return _parse(data)
    except der.DerError as fault:
        raise MalformedRequest(str(fault)) from fault


def _parse(data: bytes) -> OcspRequest:
    outer = der.children(data, der.read_only(data, der.SEQUENCE))
    if not 1 <= len(outer) <= 2 or outer[0].tag != der.SEQUENCE or (len(outer) == 2 and outer[1].tag != _EXPLICIT_0):
        raise MalformedRequest("an OCSPRequest has a TBSRequest and perhaps a signature")
    parts = der.children(data, outer[0])
    if parts and parts[0].tag == _EXPLICIT_0:
        if data[parts[0].content:parts[0].end] != b"\x02\x01\x00":
            raise MalformedRequest("the version is not 1")
        parts = parts[1:]
    if parts and parts[0].tag == _EXPLICIT_1:
        parts = parts[1:]
    if not parts or parts[0].tag != der.SEQUENCE or len(parts) > 2:
        raise MalformedRequest("a TBSRequest has a list of requests")
    nonce = None
    if len(parts) == 2:
        if parts[1].tag != _EXPLICIT_2:
            raise MalformedRequest("the extensions of a request are tagged [2]")
        nonce = _nonce(data, parts[1])
    requests = der.children(data, parts[0])
    if not 1 <= len(requests) <= _MAX_REQUESTS:
        raise MalformedRequest("no request, or too many")
    return OcspRequest(tuple(_cert_id(data, request) for request in requests), nonce)


def _cert_id(data: bytes, request: der.Element) -> CertId:
    if request.tag != der.SEQUENCE:
        raise MalformedRequest("a Request is a SEQUENCE")
    parts = der.children(data, request)
    if not 1 <= len(parts) <= 2 or parts[0].tag != der.SEQUENCE:
        raise MalformedRequest("a Request has a CertID")
    if len(parts) == 2:
        if parts[1].tag != _EXPLICIT_0:
            raise MalformedRequest("the extensions of a single request are tagged [0]")
        _nonce(data, parts[1])
    fields = der.children(data, parts[0])
    if [field.tag for field in fields] != [der.SEQUENCE, der.OCTET_STRING, der.OCTET_STRING, der.INTEGER]:
        raise MalformedRequest("a CertID has algorithm, two hashes and a serial number")
    algorithm = der.children(data, fields[0])
    if not algorithm or algorithm[0].tag != der.OBJECT_IDENTIFIER or len(algorithm) > 2:
        raise MalformedRequest("an AlgorithmIdentifier starts with an OID")
    hash_name = _HASHES.get(der.whole(data, algorithm[0]))
    if hash_name is not None and len(algorithm) == 2 and der.whole(data, algorithm[1]) != _NULL:
        raise MalformedRequest("the parameters of a hash are NULL or absent")
    name_hash, key_hash, serial = (der.contents(data, field) for field in fields[1:])
    return CertId(hash_name, name_hash, key_hash, serial)


def _nonce(data: bytes, tagged: der.Element) -> bytes | None:
    """Of extensions, which are ignored unless they are critical, the value of the nonce, whose length RFC 9654 must
    know."""
    nonce = None
    wrapper = der.children(data, tagged)
    if len(wrapper) != 1 or wrapper[0].tag != der.SEQUENCE:
        raise MalformedRequest("extensions are one SEQUENCE")
    for extension in der.children(data, wrapper[0]):
        parts = der.children(data, extension)
        if len(parts) not in (2, 3) or parts[0].tag != der.OBJECT_IDENTIFIER or parts[-1].tag != der.OCTET_STRING:
            raise MalformedRequest("an extension has an OID, perhaps a criticality, and a value")
        oid = der.whole(data, parts[0])
        if len(parts) == 3:
            if parts[1].tag != der.BOOLEAN or parts[1].end - parts[1].content != 1:
                raise MalformedRequest("the criticality of an extension is a BOOLEAN")
            if data[parts[1].content] and oid not in _KNOWN_EXTENSIONS:
                raise MalformedRequest("an unknown extension is critical")
        if oid == NONCE:
            if nonce is not None:
                raise MalformedRequest("there are two nonces")
            nonce = der.contents(data, parts[-1])
            _require_nonce(nonce)
    return nonce


def _require_nonce(value: bytes) -> None:
    """An OCTET STRING of 1 to 128 octets (RFC 9654); some old clients leave the inner OCTET STRING out."""
    try:
        inner = der.read_only(value, der.OCTET_STRING)
        length = inner.end - inner.content
    except der.DerError:
        length = len(value)
    if not 1 <= length <= _MAX_NONCE_BYTES:
        raise MalformedRequest("a nonce has 1 to 128 octets")


def decode_path(raw: bytes) -> bytes | None:
    """The DER request in the raw path of a GET, query and mount point removed; None when there is none in it.

    Takes every form that clients are known to send: percent-escapes in either case, unescaped '+' and '/', a space for
    '+', leading slashes, base64url letters, missing padding, a slash at the end (which may be data, so it is tried so
    first). Escaped twice is not accepted.
    """
    if len(raw) > MAX_PATH_BYTES:
        return None
    text = unquote_to_bytes(raw).replace(b" ", b"+").lstrip(b"/").translate(_TO_STANDARD).rstrip(b"=")
    for candidate in ((text, text[:-1].rstrip(b"=")) if text.endswith(b"/") else (text,)):
        try:
            data = base64.b64decode(candidate + b"=" * (-len(candidate) % 4), validate=True)
        except ValueError:
            continue
        if _der_length(data) == len(data):
            return data
    return None


def _der_length(data: bytes) -> int:
    """The total length that the head of a SEQUENCE claims; -1 when there is none."""
    try:
        return der.read(data, tag=der.SEQUENCE).end
    except der.DerError:
        return -1
