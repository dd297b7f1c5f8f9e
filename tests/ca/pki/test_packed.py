"""Packed documents: every octet comes back, nothing else is taken, and what was packed once stays readable."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.pki.packed import (
    MAX_BYTES,
    PackedError,
    StoredRequest,
    pack_evidence,
    pack_request,
    unpack_evidence,
    unpack_request,
)
from tests.acme_client import SigningKey, b64, flatten, unb64

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.text() | st.text("AZaz09-_", min_size=18, max_size=400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12)
_EVIDENCE = {"rules": "BR 2.2.8 3.2.2.4.19", "began_at": "2026-11-25T22:55:28.161+00:00", "facts": [
    {"ms": 0, "addresses": "www.example.org", "got": ["2001:db8::7", "192.0.2.7"]},
    {"ms": 31, "connected": "2001:db8::7 port 80"},
    {"ms": 62, "response": "2001:db8::7 port 80", "status": 200, "bytes": 87},
    {"ms": 70, "caa": "no records up to the top-level domain"}]}
# Of the first version that packed: these must be readable as long as there are databases.
_PACKED_EVIDENCE = (
    "01ab26230c4d438c8cac4c4dad8c2cf40ccd0c490f44600ac21688a0e836b434027ad80818f5f0e03336c4157ee618e16766"
    "841280d894120a42730392c31000")
_PACKED_REQUEST = (
    "01333432d331b4b0d4313237b722181e0c8c4ccc2cac6cec1c9c5cdc3cbc7cfc028242c222a262e2129252d232b272f2f0f0"
    "5250545256515553d7d0d4d2d6d1d5d33730343236313533b7b0b4b2b6b1b5b327149ec9897aa91589b90539a9e8018add09"
    "28c1ece0e8e4ece2eae6eee1e9e5ede3ebe71f1018141c121a161e1119151d131b178f110de8b64122a4025b7c9c20140484"
    "7c4ec871098949c929a969e9199959d939b979f9058545c525a565e5159555d535b575f50d8d4dcd2dad6ded1d9d5ddd3dbd"
    "7dfd13264e9a3c65eab4e93366ce9a3d67eebcf90b162e5abc64e9b2e52b56ae5abd66edbaf51b366edabc65ebb6ed3b76ee"
    "dabd67efbefd070e1e3a7ce4e8b1e34ab50c0e949a0500")
_REQUEST = StoredRequest(
    jwk='{"crv":"P-256","kty":"EC","x":"' + b64(bytes(range(32))) + '","y":"' + b64(bytes(range(32, 64))) + '"}',
    protected=b'{"alg":"ES256","kid":"https://ca.example/acme/account/' + b64(bytes(range(22))).encode()
    + b'","nonce":"' + b64(bytes(range(64, 96))).encode() + b'","url":"https://ca.example/acme/order/x/finalize"}',
    payload=b'{"csr":"' + b64(bytes(range(200))).encode() + b'"}', signature=bytes(range(128, 192)))


@given(st.dictionaries(st.text(max_size=8), _JSON, max_size=5))
def test_evidence_comes_back(document: dict[str, Any]) -> None:
    """BR 5.4.1: whatever was seen is read as it was written."""
    assert unpack_evidence(pack_evidence(document)) == document


@given(st.text(st.characters(codec="utf-8")), st.binary(), st.binary(), st.binary())
def test_requests_come_back(jwk: str, protected: bytes, payload: bytes, signature: bytes) -> None:
    """FI8: every octet that was signed comes back, whatever the parts are, or the signature would mean nothing."""
    request = StoredRequest(jwk, protected, payload, signature)
    assert unpack_request(pack_request(request)) == request


@given(st.text("AZaz09-_", min_size=1, max_size=900), st.text("AZaz09-_=\0", max_size=40))
def test_what_looks_like_base64url_comes_back(long: str, other: str) -> None:
    """FI8: runs of its alphabet of any length, also those that encode nothing or not in the one canonical spelling."""
    request = StoredRequest(other, long.encode(), f"{other}{long}".encode(), b"")
    assert unpack_request(pack_request(request)) == request


def test_the_usual_ones_are_small() -> None:
    """Design 6: a P-256 finalize request takes two thirds of its parts at most, evidence of an http-01 validation a
    third of its JSON."""
    key = SigningKey.make("ES256")
    document = flatten(key, json.loads(_REQUEST.protected), json.loads(_REQUEST.payload))
    request = StoredRequest(key.jwk_text, *(unb64(document[name]) for name in ("protected", "payload", "signature")))
    assert len(pack_request(request)) < sum(map(len, request)) * 2 / 3
    assert len(pack_evidence(_EVIDENCE)) < len(json.dumps(_EVIDENCE)) / 3


def test_what_was_packed_once_stays_readable() -> None:
    """What the first version stored is read for ever: a dictionary that is in use never changes."""
    assert unpack_evidence(bytes.fromhex(_PACKED_EVIDENCE)) == _EVIDENCE
    assert unpack_request(bytes.fromhex(_PACKED_REQUEST)) == _REQUEST


@given(st.binary(max_size=80))
def test_anything_else_is_refused(data: bytes) -> None:
    """Octets of any kind are an answer or PackedError, never another fault: a captured front end may write them."""
    for unpack in (unpack_evidence, unpack_request):
        for packed in (data, b"\0" + data, b"\1" + data):
            try:
                unpack(packed)
            except PackedError:
                continue


@given(st.data())
def test_damage_is_refused_or_shows(data: st.DataObject) -> None:
    """A packed request that is cut off anywhere, or followed by anything, is refused."""
    packed = bytes.fromhex(_PACKED_REQUEST)
    with pytest.raises(PackedError):
        unpack_request(packed[:data.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(PackedError):
        unpack_request(packed + data.draw(st.binary(min_size=1, max_size=9)))


def test_a_bomb_is_refused() -> None:
    """What would unpack to more than a mebibyte is refused before it is; what is too large to pack stays as it is."""
    huge = StoredRequest("", b"", b"a" * 50 * MAX_BYTES, b"")
    packed = pack_request(huge)
    assert packed[:1] == b"\0"
    assert unpack_request(packed) == huge
    bomb = pack_request(StoredRequest("", b"", b" " * (MAX_BYTES - 100), b""))
    assert len(bomb) < 2_000
    assert len(unpack_request(bomb).payload) == MAX_BYTES - 100
    with pytest.raises(PackedError):
        unpack_request(_bomb())


def _bomb() -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return b"\1" + compressor.compress(b" " * 100 * MAX_BYTES) + compressor.flush()
